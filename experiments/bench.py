"""What the framework costs beside the network: ``python -m experiments.bench`` (``make bench``).

One process trains as ``train.py`` does, every callback and logger on, and in between runs two bare PyTorch loops on
copies of the same network: float32 as PyTorch comes, and what train.py uses (``channels_last``, its precision). They
take turns, because a machine's speed drifts; the bare loops get their pairs for nothing.
"""

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch
from hydra.utils import instantiate
from lightning.pytorch.profilers import SimpleProfiler
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import train
from experiments import provenance
from experiments.cli import command

WARM_UP, ROUNDS, STEPS = 5, 8, 8  # rounds of so many steps of each loop
SETTING = [  # what the best-known trainers use on DnCNN, and no validation in between
    "model=dncnn",
    "channels=1",
    "data.patch_size=40",
    "data.batch_size=64",
    "data.crops_per_image=100000",
    f"trainer.max_steps={WARM_UP + ROUNDS * STEPS + 1}",
    "run_dir=runs/bench/${now:%Y-%m-%d_%H-%M-%S}",
]
WAIT = "[_TrainingEpochLoop].train_dataloader_next"


class TakingTurns(L.Callback):
    """Times the training's own steps, from the start of one to the start of the next, and the bare loops in between.

    Args:
        loops: name → one step.
    """

    def __init__(self, loops: dict[str, Callable[[], None]]) -> None:
        self.loops = loops
        self.seconds: dict[str, list[float]] = {name: [] for name in ("train.py", *loops)}
        self._since = 0.0

    def on_train_batch_start(self, trainer: L.Trainer, *unused: Any) -> None:
        step = trainer.global_step - WARM_UP
        if step > 0:
            self.seconds["train.py"].append(time.perf_counter() - self._since)
        if step >= 0 and step % STEPS == 0:
            for name, loop in self.loops.items():
                for _ in range(2 if step == 0 else STEPS):
                    started = time.perf_counter()
                    loop()
                    if step > 0:
                        self.seconds[name].append(time.perf_counter() - started)
        self._since = time.perf_counter()


def bare(cfg: DictConfig, network: nn.Module, noisy: Tensor, clean: Tensor, half: bool) -> Callable[[], None]:
    """One step of a loop with nothing but the network, the loss, the recipe's clipping and the optimiser."""
    loss, clip = instantiate(cfg.loss), cfg.trainer.gradient_clip_val
    optimizer = instantiate(cfg.optimizer)(network.parameters())

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(noisy.device.type, torch.bfloat16, enabled=half):
            estimate = network(noisy)
        loss(estimate.float(), clean).backward()
        if clip:
            nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimizer.step()
        if noisy.is_cuda:
            torch.cuda.synchronize()

    return step


def setting(typed: Sequence[str]) -> list[str]:
    """The setting above, with what is typed."""
    return [*(part for part in SETTING if not any(t.split("=")[0] == part.split("=")[0] for t in typed)), *typed]


@command("train", setting)
def main(cfg: DictConfig) -> None:
    train.hush()
    L.seed_everything(cfg.seed, verbose=False)
    profiler = SimpleProfiler(dirpath=cfg.run_dir, filename="profile")
    datamodule, module, trainer = train.build(cfg)
    trainer.profiler = profiler
    device = trainer.strategy.root_device
    shape: tuple[int, ...] = (datamodule.batch_size, datamodule.channels, datamodule.patch_size, datamodule.patch_size)
    clean = torch.rand(shape, device=device)
    noisy = clean + 0.1 * torch.randn_like(clean)
    plain = copy.deepcopy(module.network).to(device, memory_format=torch.contiguous_format)
    same = copy.deepcopy(module.network).to(device, memory_format=torch.channels_last)
    precision = cfg.trainer.precision
    ours = f"bare, channels_last, {precision}"
    half = precision == "bf16-mixed"
    loops = {"bare, float32": bare(cfg, plain, noisy, clean, False), ours: bare(cfg, same, noisy, clean, half)}
    turns = TakingTurns(loops)
    trainer.callbacks.append(turns)
    trainer.fit(module, datamodule)

    median = {name: statistics.median(seconds) for name, seconds in turns.seconds.items()}
    step = median["train.py"]
    waits = profiler.recorded_durations[WAIT][WARM_UP:]
    noise = next(
        times for name, times in profiler.recorded_durations.items() if name.endswith("on_after_batch_transfer")
    )
    table = Table(title=f"{cfg.axes.model}, {shape[0]} crops {shape[2]}×{shape[3]}, {provenance.hardware()}")
    for column in ("loop", "ms per step", "kpx/s", "against float32"):
        table.add_column(column, justify="left" if column == "loop" else "right", no_wrap=True)
    pixels = shape[0] * shape[2] * shape[3]
    for name in (*loops, "train.py"):
        ratio = median["bare, float32"] / median[name]
        table.add_row(name, f"{median[name] * 1e3:.1f}", f"{pixels / median[name] / 1e3:.0f}", f"{ratio:.2f}×")
    console = Console()
    console.print(table)
    shares = {
        f"the framework's share over {ours}": step / median[ours] - 1,
        "waiting for data": statistics.median(waits) / step,
        f"noise ({cfg.axes.noise})": statistics.median(noise[WARM_UP:]) / step,
    }
    for name, share in shares.items():
        console.print(f"{name}: {share:.1%} of a step" if "framework" not in name else f"{name}: {share:.1%}")
    console.print(f"medians of {ROUNDS * STEPS} steps each, taking turns every {STEPS}")


if __name__ == "__main__":
    main()
