"""Checkpoints and pictures for the tests of experiments.denoise, and what it leaves of them."""

import json

import numpy as np
import torch
from PIL import Image

IDENTITY = {"_target_": "denoisers.networks.identity.Identity"}


def saved(path, model, channels=1, network=None):
    """A checkpoint of ours."""
    state = {f"network.{key}": value for key, value in network.state_dict().items()} if network else {}
    torch.save({"state_dict": state, "record": {"config": {"model": model, "channels": channels}}}, path)
    return path


def noise(path, size=(20, 13), mode="RGB", seed=0):
    """A picture file of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)
    return np.asarray(Image.open(path))


def contents(folder):
    """Name → bytes of the files below a folder that are to be seen."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files if path.name != "report.json"}


def report(folder):
    return json.loads((folder / "report.json").read_text())
