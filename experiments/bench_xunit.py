"""What xUnits cost beside the same built of PyTorch's modules: ``python -m experiments.bench_xunit`` (``make bench``).

Both have the same weights and take turns, because a machine's speed drifts; channels last, on a GPU if there is one.
Training is a step forward and back in training mode; estimating is without gradients, batch norm folded as
experiments.denoise has it; memory is what is kept for the gradients.
"""

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from denoisers.activations import GATES, SPATIAL, GaussianGate
from denoisers.folding import fold_batch_norm
from experiments import provenance
from experiments.cli import command, require_known
from experiments.tables import Table


class Stock(nn.Module):
    """x · mask(x), as it is written first."""

    def __init__(self, activation: str, features: int, kernel_size: int, gate: str) -> None:
        super().__init__()
        front: dict[str, list[nn.Module]] = {
            "xunit": [nn.BatchNorm2d(features), nn.ReLU()],
            "xunit_s": [],
            "xunit_d": [nn.Conv2d(features, features, 1), nn.BatchNorm2d(features), nn.ReLU()],
        }
        conv = nn.Conv2d(features, features, kernel_size, padding=kernel_size // 2, groups=features)
        last = GaussianGate() if gate == "gaussian" else nn.Sigmoid()
        self.mask = nn.Sequential(*front[activation], conv, nn.BatchNorm2d(features), last)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask(x)


def milliseconds(step: Callable[[], object]) -> float:
    """Of one call."""
    started = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - started) * 1e3


def kept(unit: nn.Module, estimate: Callable[[nn.Module], Tensor]) -> float:
    """Megabytes that an estimate keeps for its gradients, parameters left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in unit.parameters()}
    found: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        alive = estimate(unit)
    del alive
    return sum(found.values()) / 1e6


def row(cfg: DictConfig, activation: Any, half: bool) -> list[str]:
    """What a unit costs in float32, or under bf16 autocast from a convolution that put out bfloat16."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    stock = Stock(activation, cfg.features, cfg.kernel_size, cfg.gate).to(device)
    ours = SPATIAL[activation](cfg.features, cfg.kernel_size, cfg.gate).to(device)
    ours.load_state_dict(stock.state_dict())
    shape = (cfg.batch_size, cfg.features, cfg.patch_size, cfg.patch_size)
    x = torch.randn(shape, device=device).to(torch.bfloat16 if half else torch.float32)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()

    def estimate(unit: nn.Module) -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=half):
            return unit(x)

    def train(unit: nn.Module) -> None:
        estimate(unit).float().square().mean().backward()

    def by_turns(step: Callable[[nn.Module], object], *units: nn.Module) -> list[float]:
        times = [[milliseconds(partial(step, unit)) for unit in units] for _ in range(cfg.rounds + 1)]
        return [median(each) for each in zip(*times[1:], strict=True)]

    measured = [by_turns(train, stock, ours)]
    memory = [kept(unit, estimate) for unit in (stock, ours)]
    stock, folded = stock.eval(), fold_batch_norm(ours)
    with torch.inference_mode():
        apart = (estimate(stock).float() - estimate(folded).float()).abs().max().item()
        measured += [by_turns(estimate, stock, folded), memory]
    line = [activation, "bf16" if half else "float32"]
    for theirs, mine in measured:
        line += [f"{theirs:.1f}", f"{mine:.1f}", f"{theirs / mine:.2f}×"]
    return [*line, f"{apart:.0e}"]


@command("bench_xunit")
def main(cfg: DictConfig) -> None:
    require_known(cfg.activations, [*SPATIAL], "activations")
    require_known([cfg.gate], [*GATES], "gate")
    body = [row(cfg, activation, half) for activation in cfg.activations for half in (False, True)]
    columns = [f"{what} {unit}" for what in ("training", "estimating", "kept") for unit in ("stock", "ours", "ratio")]
    note = (
        f"{cfg.batch_size} crops {cfg.patch_size}×{cfg.patch_size}, {cfg.features} channels, {cfg.kernel_size}×"
        f"{cfg.kernel_size}, gate {cfg.gate}; ms, kept: MB; apart: estimates at most. {provenance.hardware()}; commit "
        f"{provenance.commit()}."
    )
    Table("xUnits beside PyTorch's own modules", ["unit", "precision", *columns, "apart"], body, note).show()


if __name__ == "__main__":
    main()
