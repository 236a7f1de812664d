"""Pixels a second of every network: ``python -m experiments.throughput``.

Each trains and estimates on the GPU, if there is one, in float32 as PyTorch comes, then ``channels_last`` as train.py
has it, under bf16 autocast, and compiled. Beside each figure stands its share of what the machine could do at best,
which is measured along with it. What has been measured is kept, so that an interrupted table goes on.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments.cli import UserError, command, near, require_known
from experiments.networks import learning

if TYPE_CHECKING:
    from experiments.roofline import Ceilings, Work

log = logging.getLogger(__name__)
STEPS = ("training", "estimating")
BINDS = {"matrix": "M", "copy": "C"}


class Mode(NamedTuple):
    """How a network is stored and run."""

    last: bool  # channels_last
    half: bool  # bf16 autocast
    compiled: bool

    @property
    def precision(self) -> str:
        return "bf16" if self.half else "float32"


MODES = {
    "float32": Mode(last=False, half=False, compiled=False),
    "channels_last": Mode(last=True, half=False, compiled=False),
    "bf16": Mode(last=True, half=True, compiled=False),
    "compiled": Mode(last=True, half=False, compiled=True),
    "bf16_compiled": Mode(last=True, half=True, compiled=True),
}


def device() -> str:
    """Where all is measured."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def measure(model: Mapping[str, Any], mode: Mode, cfg: DictConfig) -> dict[str, Any]:
    """``training`` and ``estimating``: seconds of a step; or what went wrong.

    Args:
        model: its configuration.
        mode: see there.
        cfg: of the command.
    """
    import torch
    from hydra.utils import instantiate

    from denoisers.layers import channels_last
    from experiments.roofline import seconds_of

    network = instantiate(dict(model)).to(device())
    if mode.last:
        network = channels_last(network)
    if mode.compiled:
        network.compile(backend=cfg.backend)
    clean = torch.rand(cfg.batch_size, cfg.channels, cfg.patch_size, cfg.patch_size, device=device())
    noisy, level = clean + 0.1 * torch.randn_like(clean), torch.full((len(clean), 1, 1, 1), 0.1, device=device())
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def estimate() -> torch.Tensor:
        with torch.autocast(device(), torch.bfloat16, enabled=mode.half):
            return network(noisy, level)

    def train() -> None:
        optimizer.zero_grad()
        (estimate().float() - clean).square().mean().backward()
        optimizer.step()

    try:
        found: dict[str, Any] = {"training": seconds_of(train, cfg.seconds)}
        with torch.inference_mode():
            network.eval()
            found["estimating"] = seconds_of(estimate, cfg.seconds)
    except Exception as error:  # of a compiler or of memory: the other modes still count
        found = {"failed": f"{type(error).__name__}: " + str(error).split("\n")[0]}
    torch._dynamo.reset()
    return found


def rated(seconds: Mapping[str, Any], work: Mapping[str, "Work"], ceiling: "Ceilings", mode: Mode, pixels: int) -> Any:
    """Of each step: 10⁶ ``pixels`` a second, their ``share`` of the roofline, if known, and what ``binds`` there."""
    from experiments.roofline import least

    if "failed" in seconds:
        return seconds
    found: dict[str, Any] = {step: {"pixels": pixels / 1e6 / seconds[step]} for step in STEPS}
    for step, asked in work.items():
        best = least(asked, ceiling, 2 if mode.half else 4)
        found[step] |= {"share": best.seconds / seconds[step], "binds": best.bound}
    return found


@command("throughput")
def main(cfg: DictConfig) -> None:
    for key in ("batch_size", "patch_size"):
        if not isinstance(cfg[key], int) or cfg[key] < 1:
            raise UserError(f"{key}={cfg[key]}: must be a whole number from 1")
    require_known(cfg.modes or [], [*MODES], "modes")

    from hydra.utils import instantiate

    from datamodules.files import write_text
    from experiments import provenance
    from experiments.roofline import Ceilings, ceilings, work_of
    from experiments.sources import load_json

    run_dir, everything = near(HydraConfig.get().runtime.output_dir), {}
    shape = (cfg.batch_size, cfg.channels, cfg.patch_size, cfg.patch_size)
    wanted = list(cfg.modes or MODES)
    best: dict[str, Ceilings] = {}
    for name, model in learning(cfg.models, cfg.channels).items():
        kept = Path(run_dir) / f"{name}.json"
        asked = {"model": model, **{key: cfg[key] for key in ("batch_size", "patch_size", "backend")}}
        found = load_json(kept)
        if any(found.get(key) != value for key, value in asked.items()) or "ceilings" not in found:
            found = asked | {"modes": {}, "ceilings": {}, "hardware": provenance.hardware()}
        if missing := [mode for mode in wanted if mode not in found["modes"]]:
            log.info(f"measuring {name}")
            pixels = cfg.batch_size * cfg.patch_size**2
            try:
                work = work_of(instantiate(dict(model)), shape)
            except Exception as error:  # of a network that looks at its values
                log.info(f"{name}: what it computes cannot be counted, so that no share is told ({error})")
                work = {}
            for key in missing:
                mode = MODES[key]
                if mode.precision not in best:
                    best[mode.precision] = ceilings(device(), mode.half, cfg.seconds)
                ceiling = best[mode.precision]
                found["modes"][key] = rated(measure(model, mode, cfg), work, ceiling, mode, pixels)
                found["ceilings"][mode.precision] = ceiling._asdict()
                write_text(kept, json.dumps(found, indent=2))
        everything[name] = found
    table_of(everything, provenance.hardware()).show()


def cells(modes: Mapping[str, Mapping[str, Any]], step: str) -> list[str]:
    """What a table says of a step: of each mode, pixels a second, the share, and what binds."""

    def cell(mode: Mapping[str, Any]) -> str:
        if "failed" in mode:
            return "failed"
        share = f" {mode[step]['share']:.0%}{BINDS[mode[step]['binds']]}" if "share" in mode[step] else ""
        return f"{mode[step]['pixels']:.3g}{share}"

    return [cell(modes[name]) if name in modes else "–" for name in MODES]


def table_of(found: Mapping[str, Mapping[str, Any]], where: str) -> Any:
    """Two rows for each network."""
    from experiments.tables import Table

    body = [
        [name if step == STEPS[0] else "", step, *cells(facts["modes"], step)]
        for name, facts in found.items()
        for step in STEPS
    ]
    facts = next(iter(found.values()))
    limits = "; ".join(
        f"{precision} {ceiling['flops'] / 1e9:,.0f} GFLOP/s (M), {ceiling['bytes'] / 1e9:,.0f} GB/s (C)"
        for precision, ceiling in facts.get("ceilings", {}).items()
    )
    size = f"{facts['batch_size']} crops {facts['patch_size']}×{facts['patch_size']}"
    note = (
        f"{size}. Share: of the most that matrix products or convolutions (M), or copying memory (C), whichever binds, "
        f"would allow: {limits}. {where}."
    )
    return Table("10⁶ pixels a second, and share of the roofline", ["network", "step", *MODES], body, note)


if __name__ == "__main__":
    main()
