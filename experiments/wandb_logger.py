"""Weights & Biases as one more view of a run, that never stands in its way."""

import logging
import netrc
import os
import queue
import shlex
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from experiments.cli import near

log = logging.getLogger(__name__)
PATIENCE = 1.5  # seconds that a question may wait for its answer
START = 4  # seconds that the start of a run may take


class Wandb(WandbLogger):
    """Lightning's, with a run that ends in time and is spared what W&B raises: the first error is the last call."""

    lost = False

    def spared(self, call: Callable[[], None]) -> None:
        """Makes a call, unless an earlier one has failed; W&B is the only one that an error of its own ends."""
        try:
            if not self.lost:
                call()
        except Exception as error:
            if not self.lost:
                log.warning(f"W&B: {first_line(error)}; the run goes on without it")
            self.lost = True

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        self.spared(lambda: super(Wandb, self).log_hyperparams(params))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.spared(lambda: super(Wandb, self).log_metrics(metrics, step))

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int | None = None, **more: Any) -> None:
        self.spared(lambda: super(Wandb, self).log_image(key, images, step, **more))

    @rank_zero_only
    def log_table(self, key: str, *table: Any, **more: Any) -> None:
        # the one call that asks the server and waits for what it says
        self.spared(lambda: within(PATIENCE, lambda: super(Wandb, self).log_table(key, *table, **more)))

    @rank_zero_only
    def summarise(self, results: Mapping[str, Mapping[str, Any]]) -> None:
        """Writes means of test sets into the run's summary, as ``test/SET/COLUMN``."""
        flat = {f"test/{name}/{column}": value for name, mean in results.items() for column, value in mean.items()}
        self.spared(lambda: self.experiment.summary.update(flat))

    @rank_zero_only
    def finish(self) -> None:
        """Ends W&B's run, or the next one of this process would write into it; says what has not been sent in time."""
        import wandb

        folder = Path(self.experiment.settings.sync_dir)
        complete = not self.lost
        for end in (self.experiment.finish, lambda: within(PATIENCE, wandb.teardown)):  # which would wait at exit
            try:
                end()
            except Exception:  # a TimeoutError, or whatever else is wrong with W&B
                complete = False
        if not (complete or self._offline):
            folder = folder.rename(folder.with_name(f"offline-{folder.name}"))  # wandb sync passes over others
            log.warning(f"W&B: not all was sent; send it later with: wandb sync {shlex.quote(str(near(folder)))}")


def wandb_logger(*, save_dir: str, finish_timeout: float = 3, **options: Any) -> Wandb:
    """A W&B logger: online where a key and the network are there, offline by itself otherwise; it never asks or waits.

    A folder that holds a W&B run already goes on with that one.

    Args:
        save_dir: the run's folder.
        finish_timeout: seconds that sending may go on after the end of the run.
        options: Lightning's and ``wandb.init``'s own: project, name, group, tags, …
    """
    os.environ.setdefault("WANDB_SILENT", "true")  # its messages stay in its own log files
    os.environ["WANDB_ERROR_REPORTING"] = "false"  # or it waits, at exit, for a server that does not answer
    before = sorted(Path(save_dir).glob("wandb/*run-*-*"))
    options = {"id": before[-1].name.rpartition("-")[2]} | options if before else options
    reason = why_offline()
    if reason is None:
        import wandb

        settings = wandb.Settings(init_timeout=START, finish_timeout=finish_timeout, finish_timeout_raises=True)
        logger = Wandb(save_dir=save_dir, settings=settings, **options)
        try:
            _ = logger.experiment  # starts it
            return logger
        except Exception as error:  # whatever is wrong with W&B, the run goes on
            reason = first_line(error)
    where = os.path.join(save_dir, "wandb", "offline-run-*")
    rank_zero_only(log.info)(f"W&B: offline ({reason}); send it later with: wandb sync {where}")
    return Wandb(save_dir=save_dir, offline=True, mode="offline", **options)


def sync(folder: Path) -> str | None:
    """The command that sends the offline runs of a sweep, or None if there are none."""
    some = any(folder.glob("*/wandb/offline-run-*"))
    return f"wandb sync {shlex.quote(str(near(folder)))}/*/wandb/offline-run-*" if some else None


def within(seconds: float, call: Callable[[], None]) -> None:
    """Makes a call in a thread of its own, which is left to itself after some time.

    Raises:
        TimeoutError: it was.
    """
    ended: queue.Queue[Exception | None] = queue.Queue()

    def work() -> None:
        try:
            call()
            ended.put(None)
        except Exception as error:
            ended.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        error = ended.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer in {seconds} s") from None
    if error is not None:
        raise error


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its kind."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def why_offline() -> str | None:
    """Why W&B cannot be used online (a mode is set, no key, no network), or None if it looks as if it can."""
    if (mode := os.environ.get("WANDB_MODE", "online")) != "online":
        return f"WANDB_MODE={mode}"
    import wandb

    url = urlparse(os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url)
    host = url.hostname or ""
    if not os.environ.get("WANDB_API_KEY") and not has_netrc_key(host):
        return "no API key: set WANDB_API_KEY or run wandb login"
    try:
        port = url.port or (443 if url.scheme == "https" else 80)
        socket.create_connection((host, port), timeout=PATIENCE).close()
    except OSError as error:
        return f"{host} cannot be reached: {error}"
    return None


def has_netrc_key(host: str) -> bool:
    """Whether ``wandb login`` has left a key for the host."""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
