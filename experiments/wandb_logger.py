"""Weights & Biases as one more view of a run, that never stands in its way."""

import logging
import netrc
import os
import socket
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

log = logging.getLogger(__name__)
PATIENCE = 15  # seconds that a start may take


def wandb_logger(*, save_dir: str, **options: Any) -> WandbLogger:
    """A W&B logger: online where a key and the network are there, offline by itself otherwise; it never asks or waits.

    Args:
        save_dir: the run's folder.
        options: Lightning's and ``wandb.init``'s own: project, name, group, tags, …
    """
    os.environ.setdefault("WANDB_SILENT", "true")  # its messages stay in its own log files
    reason = why_offline()
    if reason is None:
        import wandb

        logger = WandbLogger(save_dir=save_dir, settings=wandb.Settings(init_timeout=PATIENCE), **options)
        try:
            _ = logger.experiment  # starts it
            return logger
        except Exception as error:  # whatever is wrong with W&B, the run goes on
            reason = str(error).splitlines()[0]
    where = os.path.join(save_dir, "wandb", "offline-run-*")
    rank_zero_only(log.info)(f"W&B: offline ({reason}); send it later with: wandb sync {where}")
    return WandbLogger(save_dir=save_dir, offline=True, mode="offline", **options)


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
        socket.create_connection((host, port), timeout=3).close()
    except OSError as error:
        return f"{host} cannot be reached: {error}"
    return None


def has_netrc_key(host: str) -> bool:
    """Whether ``wandb login`` has left a key for the host."""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
