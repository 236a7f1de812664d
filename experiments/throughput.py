"""Pixels a second of every network: ``python -m experiments.throughput``.

Each trains and estimates on the GPU, if there is one, in float32 and under bf16 autocast, eager and compiled,
``channels_last`` as train.py has it. What has been measured is kept, so that an interrupted table goes on.
"""

import json
import logging
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments.cli import UserError, command, near
from experiments.networks import learning

log = logging.getLogger(__name__)
MODES = {
    "float32": (False, False),
    "bf16": (True, False),
    "float32, compiled": (False, True),
    "bf16, compiled": (True, True),
}
WARM_UP = 3  # steps that are not measured


def measure(model: Mapping[str, Any], half: bool, compiled: bool, cfg: DictConfig) -> dict[str, float | str]:
    """``training`` and ``estimating``: 10⁶ pixels a second; or what went wrong.

    Args:
        model: its configuration.
        half: whether under bf16 autocast.
        compiled: by ``cfg.backend``.
        cfg: of the command.
    """
    import torch
    from hydra.utils import instantiate

    from denoisers.layers import channels_last

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = channels_last(instantiate(dict(model)).to(device))
    if compiled:
        network.compile(backend=cfg.backend)
    clean = torch.rand(cfg.batch_size, cfg.channels, cfg.patch_size, cfg.patch_size, device=device)
    noisy, level = clean + 0.1 * torch.randn_like(clean), torch.full((len(clean), 1, 1, 1), 0.1, device=device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def estimate() -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=half):
            return network(noisy, level)

    def train() -> None:
        optimizer.zero_grad()
        (estimate().float() - clean).square().mean().backward()
        optimizer.step()

    pixels = clean.numel() / cfg.channels / 1e6
    try:
        found: dict[str, float | str] = {"training": pixels / seconds_of(train, cfg.seconds)}
        with torch.inference_mode():
            network.eval()
            found["estimating"] = pixels / seconds_of(estimate, cfg.seconds)
    except Exception as error:  # of a compiler or of memory: the other modes still count
        found = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    torch._dynamo.reset()
    return found


def seconds_of(step: Callable[[], Any], at_least: float) -> float:
    """The median time of a step, over that time and three steps at least."""
    import torch

    times: list[float] = []
    while len(times) < WARM_UP + 3 or sum(times[WARM_UP:]) < at_least:
        started = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[WARM_UP:])


@command("throughput")
def main(cfg: DictConfig) -> None:
    for key in ("batch_size", "patch_size"):
        if not isinstance(cfg[key], int) or cfg[key] < 1:
            raise UserError(f"{key}={cfg[key]}: must be a whole number from 1")

    from datamodules.files import write_text
    from experiments import provenance
    from experiments.sources import load_json

    run_dir, body = near(HydraConfig.get().runtime.output_dir), []
    for name, model in learning(cfg.models, cfg.channels).items():
        kept = Path(run_dir) / f"{name}.json"
        asked = {"model": model, **{key: cfg[key] for key in ("batch_size", "patch_size", "backend")}}
        found = load_json(kept)
        if any(found.get(key) != value for key, value in asked.items()):
            log.info(f"measuring {name}")
            modes = {mode: measure(model, *switches, cfg) for mode, switches in MODES.items()}
            found = asked | {"modes": modes, "hardware": provenance.hardware()}
            write_text(kept, json.dumps(found, indent=2))
        body.append([name, *cells(found["modes"])])
    table_of(body, f"{cfg.batch_size} crops {cfg.patch_size}×{cfg.patch_size}; {provenance.hardware()}.").show()


def cells(modes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a table says of a network: of each mode, pixels a second of training and of estimating."""
    return [
        "failed"
        if "failed" in modes[mode]
        else " / ".join(f"{modes[mode][what]:.3g}" for what in ("training", "estimating"))
        for mode in MODES
    ]


def table_of(body: list[list[str]], note: str) -> Any:
    """A row for each network."""
    from experiments.tables import Table

    return Table("10⁶ pixels a second, training / estimating", ["network", *MODES], body, note)


if __name__ == "__main__":
    main()
