"""What each noise costs: ``python -m experiments.bench_noise`` (part of ``make bench``).

A batch of 64 RGB crops 128×128 is corrupted by each choice of the noise axis and, by turns, because a machine's speed
drifts, by ``x + σ · randn_like(x)``.
"""

import time
from collections.abc import Callable
from statistics import median

import torch
from omegaconf import DictConfig
from torch import Tensor

from experiments import provenance
from experiments.cli import command
from experiments.noises import choices
from experiments.tables import Table

SHAPE = (64, 3, 128, 128)
ROUNDS = 7  # of which the median counts; the first of all warms up


def seconds(function: Callable[[Tensor], object], clean: Tensor) -> float:
    """Of one call."""
    started = time.perf_counter()
    function(clean)
    if clean.is_cuda:
        torch.cuda.synchronize(clean.device)
    return time.perf_counter() - started


def white(clean: Tensor) -> Tensor:
    """What every cost is compared with."""
    return clean + 25 / 255 * torch.randn_like(clean)


@command("noises")
def main(cfg: DictConfig) -> None:
    clean = torch.rand(SHAPE, device="cuda" if torch.cuda.is_available() else "cpu")
    body = []
    for name, noise in choices(cfg.noises).items():
        pairs = [(seconds(noise.corrupt, clean), seconds(white, clean)) for _ in range(ROUNDS + 1)][1:]
        cost, plain = (median(times) * 1e3 for times in zip(*pairs, strict=True))
        body.append([name, f"{cost:.1f}", f"{plain:.1f}", f"{median(a / b for a, b in pairs):.2f}"])
    batch = "×".join(map(str, SHAPE))
    note = f"A batch {batch}, with its level. {provenance.hardware()}; commit {provenance.commit()}."
    Table("What noise costs", ["noise", "ms", "ms of x + σ·randn_like(x)", "ratio"], body, note).show()


if __name__ == "__main__":
    main()
