"""A sweep at work: its ledger, its engine, what people see of it, and what is said at its end."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig

from experiments.cli import near
from experiments.console import StdoutHandler
from experiments.sweeps.board import Board
from experiments.sweeps.cells import parted, with_params
from experiments.sweeps.ledger import Cell, Ledger, opened
from experiments.sweeps.pool import Engine, Pool
from experiments.sweeps.work import LOG

log = logging.getLogger(__name__)


@contextmanager
def at_work(config: DictConfig, engine: Callable[[Path], Engine], cells: list[Cell]) -> Iterator[Pool]:
    """The pool of a sweep, whose jobs run as its engine has it.

    Args:
        config: of the sweep.
        engine: makes the engine of a sweep's folder.
        cells: those that are known; others may be added to the list, and to the ledger.

    Raises:
        UserError: the folder cannot be used, see :func:`experiments.sweeps.ledger.opened`.
        SystemExit: at the end, 3 if a cell has failed.
    """
    folder = Path(config.hydra.sweep.dir)
    axes, _ = parted(with_params(config.hydra.overrides.task, config.hydra.sweeper.params))
    where = engine(folder)
    try:
        with heard(), opened(folder, program(), axes) as ledger:
            ledger.add(cells)
            left = [cell for cell in cells if ledger.state(cell) != "done"]
            known = f"{len(cells)} cells, {len(cells) - len(left)} done before, " if cells else ""
            log.info(f"sweep       {near(folder)}: {known}{where.size} at a time")
            pool = Pool(ledger, where)
            with Board(ledger, cells, pool.running) as board:
                pool.watchers.append(board.refresh)
                yield pool
            conclude(ledger, cells)
    finally:
        where.close()


def conclude(ledger: Ledger, cells: list[Cell]) -> None:
    """Says what has become of the cells; exits with 3 if some have failed."""
    from experiments import wandb_logger

    failed = [cell for cell in cells if ledger.state(cell) not in ("done", "pruned")]
    for cell in failed:
        entry = ledger.entries[cell.fingerprint]
        log.info(f"failed      {entry.number}: {cell.title}\n              {entry.reason}")
        log.info(f"              {near(ledger.folder_of(cell) / LOG)}")
    states = [ledger.state(cell) for cell in cells]
    pruned = f", {states.count('pruned')} were ended early" if "pruned" in states else ""
    log.info(f"{states.count('done')} of {len(cells)} cells are done{pruned}; compare them with:")
    log.info(f"  python -m experiments.compare {near(ledger.folder)}")
    if sending := wandb_logger.sync(ledger.folder):
        log.info(f"send its runs to W&B with:\n  {sending}")
    if failed:
        log.info("the same command runs those that failed again, and no other")
        raise SystemExit(3)


def program() -> list[str]:
    """The command that this process runs: a script, or a module."""
    main = sys.modules["__main__"]
    if spec := getattr(main, "__spec__", None):
        return ["-m", spec.name]
    return [str(Path(sys.argv[0]).resolve())]


@contextmanager
def heard() -> Iterator[None]:
    """What this project logs is printed, once: Hydra has handlers of its own for a sweep."""
    logger, handler = logging.getLogger("experiments"), StdoutHandler()
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
