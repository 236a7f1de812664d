"""Losses: what they are worth, and that going down them leads to the clean image."""

import pytest
import torch
from torch import nn

from denoisers.losses import SSIM
from denoisers.metrics import ssim


@pytest.fixture
def clean():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 1, 24, 24, generator=generator)


def test_the_ssim_loss_of_estimates_in_range_is_one_minus_ssim(clean):
    estimate = (clean + 0.2 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    assert SSIM()(estimate, clean).item() == pytest.approx(1 - ssim(estimate, clean).mean().item(), abs=1e-6)
    assert SSIM()(1 - clean, clean).item() == pytest.approx(1 - ssim(1 - clean, clean).mean().item(), abs=1e-6)


def test_the_negative_of_the_image_is_the_worst_estimate(clean):
    assert ssim(-clean, clean).mean() > 0.95  # the index itself
    assert SSIM()(-clean, clean) > 1.95


def test_the_ssim_loss_leads_from_the_negative_to_the_image(clean):
    gain = nn.Parameter(torch.tensor(-0.3))
    optimizer = torch.optim.Adam([gain], lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        SSIM()(gain * clean, clean).backward()
        optimizer.step()
    assert gain.item() == pytest.approx(1, abs=0.05)
