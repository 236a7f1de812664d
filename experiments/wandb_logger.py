"""Weights & Biases as one more view of a run, that never stands in its way."""

import logging
import os
import socket
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

log = logging.getLogger(__name__)
DEFAULT_URL = "https://api.wandb.ai"


def wandb_logger(*, save_dir: str, **options: Any) -> WandbLogger:
    """A W&B logger: online where a key and the network are there, offline by itself otherwise; it never asks or waits.

    Args:
        save_dir: the run's folder.
        options: Lightning's and ``wandb.init``'s own: project, name, group, tags, …
    """
    reason = why_offline()
    if reason:
        where = os.path.join(save_dir, "wandb", "offline-run-*")
        rank_zero_only(log.info)(f"W&B: offline ({reason}); send it later with: wandb sync {where}")
    # no prompt for a key; no copy of the code; messages stay in the log files
    os.environ.setdefault("WANDB_SILENT", "true")
    return WandbLogger(save_dir=save_dir, offline=bool(reason), **options)


def why_offline() -> str | None:
    """Why W&B cannot be reached, or None if it can."""
    import wandb

    if (mode := os.environ.get("WANDB_MODE", "online")) != "online":
        return f"WANDB_MODE={mode}"
    if not wandb.api.api_key:
        return "no API key: set WANDB_API_KEY or run wandb login"
    url = urlparse(os.environ.get("WANDB_BASE_URL", DEFAULT_URL))
    try:
        port = url.port or (443 if url.scheme == "https" else 80)
        socket.create_connection((url.hostname or "", port), timeout=3).close()
    except OSError as error:
        return f"{url.hostname} cannot be reached: {error}"
    return None
