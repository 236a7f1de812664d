"""What a second process gains, and what eight GPUs would: ``python -m experiments.scaling``.

Two processes on CPUs measure the training's own steps in turn: one alone, both side by side without a word between
them, and both as one run (DDP, gloo), with one thread each. Two that share caches and memory are slower than one even
without DDP: DDP's own cost is what it takes beyond them. The same run measures the bytes and the time of an all-reduce,
from which a model predicts DDP's step, which it is held against, and those of several GPUs, which nobody has measured.
"""

import contextlib
import logging
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from omegaconf import DictConfig, OmegaConf

from experiments.cli import CONF, UserError, command
from experiments.interconnect import Link, gpu_table, link_of, step_of
from experiments.networks import learning

log = logging.getLogger(__name__)
RANKS = 2
WARM_UP = 3  # steps that are not counted
REPEATS = 30  # all-reduces, of which the median counts
NETWORK = Path("/proc/net/dev")


# --- what is measured -------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """How it is trained: by how many processes, of how many threads each, as one run or not, with what batch each."""

    processes: int
    threads: int
    ddp: bool
    batch: int


def cases(batch: int) -> dict[str, Case]:
    """Title → case. All have as many threads at work as there are ranks, but the first."""
    return {
        "one process": Case(1, 1, False, batch),
        "one process, two threads": Case(1, RANKS, False, batch),
        "two side by side": Case(RANKS, 1, False, batch),
        "two, DDP, the same batch each": Case(RANKS, 1, True, batch),
        "two, DDP, the batch shared out": Case(RANKS, 1, True, batch // RANKS),
    }


def join(rank: int, meeting: str) -> None:
    """What each of the two processes does first."""
    import os
    import signal

    import lightning  # noqa: F401  before its loggers are hushed
    import torch.distributed

    import train
    from datamodules.workers import end_with_parent

    end_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    train.hush()
    os.environ["LOCAL_RANK"] = str(rank)  # Lightning then starts no others
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=RANKS)


def measured(case: Case, overrides: Sequence[str], steps: int) -> dict[str, Any]:
    """In one of the processes, what a training does.

    Returns:
        ``seconds`` of a step (median); ``backward``, their share of backward passes; ``wire``, bytes a step that went
        through the machine's loopback, None where nobody tells; ``precision``; with DDP ``buckets`` and ``buffers``,
        the bytes of each bucket of gradients, and of what is broadcast.
    """
    import torch
    from hydra.core.hydra_config import HydraConfig
    from hydra.utils import instantiate

    import train
    from experiments.pace import SILENT

    torch.set_num_threads(case.threads)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("train", [*overrides, f"data.batch_size={case.batch}"], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    OmegaConf.set_struct(cfg, False)
    cfg.pop("hydra")
    if case.ddp:
        cfg.trainer.strategy, cfg.trainer.devices = "ddp", RANKS
    datamodule, module, _ = train.build(cfg)
    watch = watching(case.processes > 1)
    length = {"max_steps": WARM_UP + steps + 1, "max_epochs": -1, "limit_val_batches": 0}
    instantiate(cfg.trainer, **SILENT, **length, callbacks=[watch]).fit(module, datamodule)
    return watch.found | {"precision": cfg.trainer.precision}


def watching(together: bool) -> Any:
    """A callback whose ``found`` is what :func:`measured` says; ``together``: the two begin to count at once."""
    import lightning as L
    import torch

    class Watch(L.Callback):
        found: dict[str, Any]

        def on_train_start(self, *unused: Any) -> None:
            self.begun: list[float] = []
            self.backward: list[float] = []

        def on_train_batch_start(self, trainer: L.Trainer, *unused: Any) -> None:
            if trainer.global_step == WARM_UP:
                if together:
                    torch.distributed.barrier()
                self.wire = loopback()
            if trainer.global_step >= WARM_UP:
                self.begun.append(time.perf_counter())

        def on_before_backward(self, *unused: Any) -> None:
            self._since = time.perf_counter()

        def on_after_backward(self, *unused: Any) -> None:
            self.backward.append(time.perf_counter() - self._since)

        def on_train_end(self, trainer: L.Trainer, *unused: Any) -> None:
            times = [after - before for before, after in pairwise(self.begun)]
            seconds, now = statistics.median(times), loopback()
            self.found = {
                "seconds": seconds,
                "backward": statistics.median(self.backward[WARM_UP:]) / seconds,
                "wire": None if now is None or self.wire is None else (now - self.wire) / len(self.begun),
            }
            network: Any = trainer.strategy.model
            if isinstance(network, torch.nn.parallel.DistributedDataParallel):
                told = network._get_ddp_logging_data()
                sizes = told.get("rebuilt_bucket_sizes") or told["bucket_sizes"]
                buffers = sum(b.nbytes for b in network.buffers()) if told["broadcast_buffers"] else 0
                self.found |= {"buckets": [int(size) for size in sizes.split(", ")], "buffers": buffers}

    return Watch()


def loopback() -> int | None:
    """Bytes that this machine has sent to itself so far; None where the system does not tell."""
    if not NETWORK.is_file():
        return None
    lines = [line.split() for line in NETWORK.read_text().splitlines()]
    return next((int(words[1]) for words in lines if words[0] == "lo:"), None)


def reduced(size: int) -> float:
    """In both processes: the median seconds of an all-reduce of so many bytes alone."""
    import torch

    tensor, times = torch.zeros(max(1, size // 4)), []
    for _ in range(WARM_UP + REPEATS):
        torch.distributed.barrier()
        started = time.perf_counter()
        torch.distributed.all_reduce(tensor)
        times.append(time.perf_counter() - started)
    return statistics.median(times[WARM_UP:])


def measure(cfg: DictConfig) -> tuple[dict[str, dict[str, Any]], Link, float]:
    """What each case gave, the link between the two processes, and the seconds of an all-reduce of all gradients."""
    overrides = [f"model={cfg.network}", f"channels={cfg.channels}", f"data.patch_size={cfg.patch_size}"]
    overrides += ["data.crops_per_image=100000", "trainer=cpu", *cfg.training]
    found: dict[str, list[dict[str, Any]]] = {}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        spawned = multiprocessing.get_context("spawn")
        pools = [
            stack.enter_context(ProcessPoolExecutor(1, spawned, join, (rank, f"{folder}/meeting")))
            for rank in range(RANKS)
        ]

        def all_of(function: Any, *arguments: Any, processes: int = RANKS) -> list[Any]:
            futures = [pool.submit(function, *arguments) for pool in pools[:processes]]
            for future in as_completed(futures):  # one that fails leaves the other waiting for it
                future.result()
            return [future.result() for future in futures]

        try:
            least = max(all_of(reduced, 0))
            for number in range(cfg.rounds):
                for title, case in cases(cfg.batch_size).items():
                    log.info(f"round {number + 1} of {cfg.rounds}: {title}")
                    found.setdefault(title, []).extend(
                        all_of(measured, case, overrides, cfg.steps, processes=case.processes)
                    )
            size = sum(found["two, DDP, the same batch each"][0]["buckets"])
            whole = max(all_of(reduced, size))
        except BaseException:
            for process in multiprocessing.active_children():
                process.kill()
            raise
    medians = {
        title: of[0] | {key: statistics.median(one[key] for one in of) for key in ("seconds", "backward")}
        for title, of in found.items()
    }
    return medians, link_of(least, whole, size), whole


# --- what is said -----------------------------------------------------------------------------------------------------


def require_sense(cfg: DictConfig) -> dict[str, Any]:
    """The network's configuration.

    Raises:
        UserError: it has nothing to learn, or a number makes no sense.
    """
    for key, least in {"batch_size": RANKS, "patch_size": 1, "steps": 1, "rounds": 1}.items():
        if cfg[key] < least:
            raise UserError(f"{key}={cfg[key]}: must be a whole number from {least}")
    if cfg.batch_size % RANKS:
        raise UserError(f"batch_size={cfg.batch_size}: must be even, for it is also shared out between two processes")
    above_0 = ["gpu.tflops", *(f"gpu.links.{name}.gb_s" for name in cfg.gpu.links)]
    for key in [*above_0, *(["gpu.step_ms"] if cfg.gpu.step_ms is not None else [])]:
        value = OmegaConf.select(cfg, key)
        if not isinstance(value, (int, float)) or value <= 0:
            raise UserError(f"{key}={value}: must be a number above 0")
    hydra.compose("train", list(cfg.training))  # names mistakes in it
    return learning([cfg.network], cfg.channels)[cfg.network]


@command("scaling")
def main(cfg: DictConfig) -> None:
    model = require_sense(cfg)

    from experiments import provenance
    from experiments.tables import Table

    found, link, whole = measure(cfg)
    one, apart, weak = (found[title] for title in ("one process", "two side by side", "two, DDP, the same batch each"))
    body = []
    for title, case in cases(cfg.batch_size).items():
        seconds, at_work = found[title]["seconds"], case.processes * case.threads
        gain = case.processes * case.batch / cfg.batch_size * one["seconds"] / seconds
        pixels = case.processes * case.batch * cfg.patch_size**2 / seconds / 1e3
        figures = [f"{seconds * 1e3:.1f}", f"{pixels:.1f}", f"{gain:.2f}×", f"{gain / at_work:.0%}"]
        body.append([title, str(case.batch), *figures])
    size = f"{cfg.patch_size}×{cfg.patch_size} crops, {one['precision']}"
    note = f"{size}; medians of {cfg.rounds} × {cfg.steps} steps, by turns. {provenance.hardware()}."
    columns = ["by", "crops each", "ms a step", "kpx/s", "gain", "efficiency"]
    Table(f"{cfg.network} by one process and by two, of one thread each", columns, body, note).show()

    buckets, buffers = weak["buckets"], weak["buffers"]
    wire = "" if weak["wire"] is None else f"; through the loopback went {weak['wire'] / 1e6:.3f} MB a step, both ways"
    log.info(f"DDP's own cost: {weak['seconds'] / apart['seconds'] - 1:+.1%} over two side by side")
    log.info(
        f"bytes a step: gradients {sum(buckets):,} in buckets of {' and '.join(f'{b:,}' for b in buckets)}, "
        f"buffers {buffers:,}{wire}"
    )
    log.info(
        f"gradients' all-reduce alone: {whole * 1e3:.2f} ms; {link.gb_s:.2f} GB/s and {link.hop_us:.0f} µs a message"
    )
    foretold = step_of(apart["seconds"], one["backward"], buckets, buffers, RANKS, link)
    log.info(
        f"the model says {foretold * 1e3:.1f} ms a step, measured {weak['seconds'] * 1e3:.1f}: "
        f"predicted / measured {foretold / weak['seconds']:.3f}"
    )
    gpu_table(cfg, model, one["backward"], buckets, buffers).show()


if __name__ == "__main__":
    main()
