"""``resume=RUN_DIR`` is the same command again, in the same folder, from the checkpoint that lies there."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from experiments.cli import UserError, flat
from experiments.signals import signals

log = logging.getLogger(__name__)
NEWEST = "last"
BUDGETS = ("trainer.max_steps", "trainer.max_epochs")
OF_THE_CALL = ("run_dir", "resume", "resume_force", "slice")  # not of the run
# what says where and how a run works, and nothing of what it finds
HARMLESS = (
    "data_root",
    "logger",
    "callbacks.last",
    "callbacks.progress",
    "callbacks.card",
    "callbacks.strips",
    "data.num_workers",
    "datamodule.num_workers",
    "data.cache",
    "data.cache_dir",
    "datamodule.cache",
    "datamodule.cache_dir",
    "data.on_device",
    "datamodule.on_device",
    "trainer.accelerator",
    "trainer.enable_progress_bar",
    "trainer.log_every_n_steps",
    "trainer.max_time",
)


def again(arguments: Sequence[str]) -> list[str]:
    """The command line of a run that is resumed: what was typed at its start, and what is typed now.

    Without ``resume=`` among them the arguments come back as they are.

    Raises:
        UserError: there is no such run, or several commands at once are asked for.
    """
    asked = [argument for argument in arguments if argument.startswith("resume=")]
    if not asked or asked[-1] in ("resume=", "resume=null"):
        return list(arguments)
    if "-m" in arguments or "--multirun" in arguments:
        raise UserError("resume= continues one run: leave out -m")
    run_dir = locate(asked[-1].removeprefix("resume=").strip("'\""))
    options = [argument for argument in arguments if argument.startswith("-")]
    typed = [argument for argument in arguments if argument not in options]
    if elsewhere := [a for a in typed if a.startswith("run_dir=") and Path(a[8:].strip("'\"")).resolve() != run_dir]:
        raise UserError(f"{elsewhere[-1]}: a run is resumed in its own folder, {run_dir}; leave run_dir out")
    overrides, now = started_with(run_dir), {key_of(argument): argument for argument in typed}
    if any(key in now for key in BUDGETS):  # the one that is typed now counts alone
        overrides = {key: override for key, override in overrides.items() if key not in BUDGETS}
    overrides |= now
    overrides |= {"resume": f"resume={quoted(run_dir)}", "run_dir": f"run_dir={quoted(run_dir)}"}
    return [*options, *overrides.values()]


def in_slices(cfg: DictConfig, run_dir: Path) -> None:
    """With ``slice=9min`` a run ends after that time as by a signal, with 142, and goes on where its folder holds one.

    Raises:
        UserError: it is no time.
    """
    if cfg.slice is None:
        return
    from experiments.budget import parse

    asked = parse(cfg.slice, "slice")
    if asked.devices is not None:
        raise UserError(f"slice={cfg.slice}: give a time alone, such as 9min")
    signals.after(asked.seconds)
    if (run_dir / "config.yaml").is_file():
        cfg.resume = str(run_dir)


def locate(name: str) -> Path:
    """The folder of a run; ``last`` is the one below runs/ that was written to last.

    Raises:
        UserError: there is none.
    """
    if name == NEWEST:
        runs = sorted(Path("runs").rglob("config.yaml"), key=lambda path: path.parent.stat().st_mtime)
        if not runs:
            raise UserError(f"resume={NEWEST}: there is no run below {Path('runs').absolute()}")
        return runs[-1].parent.resolve()
    if not (Path(name) / "config.yaml").is_file():
        raise UserError(
            f"resume={name}: no run there (a run's folder holds a config.yaml); resume={NEWEST} is the newest"
        )
    return Path(name).resolve()


def started_with(run_dir: Path) -> dict[str, str]:
    """Key → override, as a run's command line had them when it was started or last resumed."""
    path = run_dir / "overrides.yaml"
    overrides = [str(override) for override in OmegaConf.load(path)] if path.is_file() else []
    return {key_of(override): override for override in overrides if key_of(override) not in OF_THE_CALL}


def key_of(override: str) -> str:
    """``+trainer.max_steps=3`` → ``trainer.max_steps``."""
    return override.split("=")[0].lstrip("+~")


def configuration(cfg: DictConfig, run_dir: Path) -> tuple[DictConfig, list[str]]:
    """The configuration that a run was started with, changed by what is typed now and was not then.

    Args:
        cfg: composed from both.
        run_dir: the run's folder, which may have been moved.

    Returns:
        the configuration, and a line for each difference that changes what the run finds.
    """
    saved: Any = OmegaConf.load(run_dir / "config.yaml")
    written_as = saved.run_dir
    for key, value in leaves(saved).items():
        if isinstance(value, str) and f"{value}/".startswith(f"{written_as}/"):
            OmegaConf.update(saved, key, f"{cfg.run_dir}{value.removeprefix(written_as)}")
    started = [*started_with(run_dir).values(), f"run_dir={quoted(Path(cfg.run_dir))}"]
    before, now = leaves(hydra.compose("train", started)), leaves(cfg)
    changed = [
        key
        for key in {**before, **now}
        if key not in OF_THE_CALL and (before.get(key) != now.get(key) or (key in before) != (key in now))
    ]
    for key in changed:
        if key in now:
            OmegaConf.update(saved, key, now[key], force_add=True)
        else:
            remove(saved, key)
    lines = [
        f"  {key}: {before.get(key, 'absent')} → {now.get(key, 'absent')}"
        for key in changed
        if not any(f"{key}.".startswith(f"{harmless}.") for harmless in HARMLESS)
    ]
    return saved, lines


def remove(cfg: DictConfig, key: str) -> None:
    """Takes a key out, and what is empty without it."""
    parent, _, leaf = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    if node is not None:
        node.pop(leaf, None)
        if parent and not node:
            remove(cfg, parent)


def leaves(cfg: Any) -> dict[str, Any]:
    """Dotted key → value of everything that is not a dictionary itself."""
    everything = flat(OmegaConf.to_container(cfg, resolve=True))
    return {key: value for key, value in everything.items() if not isinstance(value, dict)}


def quoted(path: Path | str) -> str:
    """A path as Hydra takes any."""
    return "'" + str(path).replace("'", "\\'") + "'"


def quoting(*keys: str) -> Callable[[Sequence[str]], list[str]]:
    """For a command's paths, which people type as they are: ``input=a (1).png`` → ``input='a (1).png'``."""

    def arguments(typed: Sequence[str]) -> list[str]:
        found = []
        for one in typed:
            key, _, value = one.partition("=")
            bare = key in keys and value not in ("", "null") and value[0] not in "'\""
            found.append(f"{key}={quoted(value)}" if bare else one)
        return found

    return arguments


def newest(run_dir: Path) -> Path | None:
    """The newest whole checkpoint of a run: its last or, with a warning, the one before; None if it has none yet.

    Raises:
        CheckpointError: all of them are damaged.
    """
    from denoisers.checkpoint import CheckpointError, read

    damaged = []
    for name in ("last", "previous", "best"):
        if (path := run_dir / "checkpoints" / f"{name}.ckpt").is_file():
            try:
                step = read(path)["global_step"]
            except CheckpointError as error:
                damaged.append(str(error))
                continue
            if damaged:
                log.warning("\n".join([*damaged, f"going on from {path} instead, step {step}"]))
            return path
    if damaged:
        raise CheckpointError("no checkpoint is whole:\n" + "\n".join(damaged))
    return None
