"""Checkpoints: read without running anything they hold, and turned back into their network.

A checkpoint is what ``torch.save`` writes of plain containers and tensors: ``state_dict`` (the network's keys under
``network.``) and ``record``, whose ``config`` holds the resolved configuration of the run.
"""

import hashlib
import importlib
import inspect
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from denoisers.ranged import ranged

PREFIX = "network."
METADATA = "denoisers"  # the key below which exported files say what they are, as JSON


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, not ours, unsafe, or of another architecture."""


def find(path: str | Path) -> Path:
    """A checkpoint file as it is; for a run's folder its best checkpoint, or else its last.

    Raises:
        CheckpointError: there is no such file, or none in the folder.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.exists():
        raise CheckpointError(f"no checkpoint at {path}: give a run's folder or a file of weights")
    for name in ("best", "last"):
        if (candidate := path / "checkpoints" / f"{name}.ckpt").is_file():
            return candidate
    raise CheckpointError(f"no checkpoint in {path}: looked for checkpoints/best.ckpt and checkpoints/last.ckpt in it")


def checksum_file(path: Path) -> Path:
    """Where the SHA-256 of a checkpoint is written, in the format of ``sha256sum``."""
    return path.with_name(f"{path.name}.sha256")


def recorded_checksums(path: Path) -> list[str]:
    """The checksums that a checkpoint may have: two while a new one takes its place, none where none is kept."""
    try:
        return [line.split()[0] for line in checksum_file(path).read_text().splitlines()]
    except FileNotFoundError:
        return []


def checksum(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_file(path: Path) -> Any:
    """What a file of weights or a checkpoint holds, on the CPU; only tensors and plain containers are accepted.

    Raises:
        CheckpointError: it is damaged, does not match the checksum beside it, or would run code when read.
    """
    if (checksums := recorded_checksums(path)) and checksum(path) not in checksums:
        raise CheckpointError(f"{path} is damaged: it does not match {checksum_file(path).name} beside it")
    try:
        if path.suffix == ".safetensors":
            return load_safetensors(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is refused: it is damaged, or reading it needs more than tensors and plain containers, which "
            "could run any code; save it again as a state dict of tensors"
        ) from error
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint, it is damaged or something else: {error}"
        ) from error


def load_safetensors(path: Path) -> Any:
    """The tensors of a file; of one that was exported from here, what its checkpoint held."""
    with safetensors.safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get(METADATA)
    tensors = safetensors.torch.load_file(path)
    return tensors if text is None else {"state_dict": tensors, "record": json.loads(text)["record"]}


def is_ours(content: Any) -> bool:
    """Whether what a file holds is a checkpoint of this project."""
    try:
        config, tensors = content["record"]["config"], content["state_dict"].values()
        return {"model", "channels"} <= set(config) and all(isinstance(tensor, Tensor) for tensor in tensors)
    except (KeyError, TypeError, AttributeError, IndexError):
        return False


def read(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint file or a run's folder, see :func:`load_file`.

    Raises:
        CheckpointError: see :func:`find` and :func:`load_file`; or it is not one of ours.
    """
    path = find(path)
    if not is_ours(content := load_file(path)):
        raise CheckpointError(
            f"{path} is not a checkpoint of this project: those have a state_dict of tensors, and record.config with "
            "model and channels"
        )
    return content


def build(spec: Mapping[str, Any]) -> nn.Module:
    """The network that a configuration names: ``_target_``, a class under ``denoisers.``, and its arguments.

    Only subclasses of ``nn.Module`` defined under ``denoisers.`` are built, so that a file cannot name code to run.

    Raises:
        CheckpointError: any other target, or arguments that the class refuses.
    """
    arguments = {key: value for key, value in spec.items() if key != "_target_"}
    target = str(spec.get("_target_"))
    module_name, _, name = target.rpartition(".")
    refusal = CheckpointError(
        f"the checkpoint names {target!r} as its network: only networks under denoisers. are built"
    )
    if not module_name.startswith("denoisers."):
        raise refusal
    try:
        network_class = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(f"the checkpoint's network {target!r} is not in this version of the project") from error
    if not (
        inspect.isclass(network_class)
        and issubclass(network_class, nn.Module)
        and network_class.__module__.startswith("denoisers.")
    ):
        raise refusal
    try:
        return network_class(**arguments)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint's network {target} refuses its arguments: {error}") from error


def network_of(checkpoint: Mapping[str, Any]) -> nn.Module:
    """The trained network of a checkpoint that :func:`read` returned, in evaluation mode.

    Raises:
        CheckpointError: see :func:`build`; or the weights do not fit the network that the file describes.
    """
    config = checkpoint["record"]["config"]
    try:
        network = ranged(build(config["model"]), config.get("value_range", [0, 1]))
    except ValueError as error:
        raise CheckpointError(f"the checkpoint's {error}") from error
    weights = {k.removeprefix(PREFIX): v for k, v in checkpoint["state_dict"].items() if k.startswith(PREFIX)}
    require_same(weights, network.state_dict(), "the weights", "the network it describes")
    network.load_state_dict(weights)
    return network.eval()


def require_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], have: str, want: str) -> None:
    """Raises CheckpointError, naming the first keys that differ, unless keys and shapes agree."""
    differences = []
    for key in [*expected, *(k for k in found if k not in expected)]:
        shapes = [str(tuple(d[key].shape)) if key in d else "absent" for d in (found, expected)]
        if shapes[0] != shapes[1]:
            differences.append(f"  {key}: {shapes[0]} in {have}, {shapes[1]} in {want}")
    if differences:
        more = f"\n  … and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise CheckpointError(f"{have} do not fit {want}:\n" + "\n".join(differences[:5]) + more)


def describe(record: Mapping[str, Any]) -> str:
    """A network in one line, as its configuration names it."""
    spec = dict(record.get("config", {}).get("model", {}))
    name = str(spec.pop("_target_", "an unknown network")).rpartition(".")[2]
    return f"{name}({', '.join(f'{key}={value}' for key, value in spec.items())})"


def architecture_difference(
    checkpoint: Mapping[str, Any], record: Mapping[str, Any], expected: Mapping[str, Tensor]
) -> None:
    """Raises CheckpointError unless the checkpoint fits ``expected``, the state dict of ``record``'s network."""
    here, there = describe(record), describe(checkpoint.get("record", {}))
    require_same(checkpoint["state_dict"], expected, f"the checkpoint's weights of {there}", f"this run's {here}")
