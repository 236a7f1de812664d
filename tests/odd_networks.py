"""Networks that misbehave, named on the command line as ``model._target_=odd_networks.…``."""

import os
import random
import signal
import time

import numpy as np
import torch

from denoisers.networks.dncnn import DnCNN


class Dropout(DnCNN):
    """A network that draws from the global generators, all three of them."""

    def forward(self, noisy, level=None):
        scale = 1 + 0.01 * (random.random() + np.random.rand()) if self.training else 1  # noqa: NPY002
        return scale * torch.nn.functional.dropout(super().forward(noisy, level), 0.1, self.training)


class Endless(DnCNN):
    """A network whose sixth step takes forever."""

    steps = 0

    def forward(self, noisy, level=None):
        self.steps += self.training
        while self.steps == 6:
            time.sleep(0.01)
        return super().forward(noisy, level)


class BadGradient(DnCNN):
    """A network that passes an infinite gradient back in its third step."""

    steps = 0

    def forward(self, noisy, level=None):
        self.steps += self.training
        estimate = super().forward(noisy, level)
        if self.steps == 3:
            estimate.register_hook(lambda gradient: gradient * float("inf"))
        return estimate


class BadLoss(BadGradient):
    """A network whose third estimate is not a number."""

    def forward(self, noisy, level=None):
        estimate = super().forward(noisy, level)
        return estimate * float("nan") if self.steps == 3 else estimate


class Dying(torch.nn.Module):
    """A method whose process is killed in the middle of an image, as for want of memory."""

    def forward(self, noisy, level=None):
        if noisy.shape[-1] != 32:  # the first small one only warms up
            os.kill(os.getpid(), signal.SIGKILL)
        return noisy
