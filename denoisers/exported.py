"""Exported networks: files of ONNX Runtime, OpenVINO and torch.export, with the face that our networks have.

Each file says of itself, as JSON under the key ``denoisers`` of its metadata, what :class:`Facts` holds.
"""

import importlib
import json
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from denoisers.checkpoint import METADATA, CheckpointError
from denoisers.layers import require_level
from denoisers.receptive import ALIGNMENT


@dataclass(frozen=True)
class Facts:
    """What a file says of its network, whose input and estimate lie in [0, 1] whatever it was trained in.

    Attributes:
        network: the architecture's name.
        channels: of the images, 1 or 3.
        level: whether it takes the noise's standard deviation on the [0, 1] scale as a second input.
        reach: of networks of clips [B, T, C, H, W], the frames and pixels that an estimate reaches; None: of images.
        receptive_field: the side of the square around an estimated pixel that it depends on; None: the whole image.
        whole_image: whether parts of an image are estimated otherwise than the image.
        alignment: at whose multiples parts have to begin, see :class:`denoisers.receptive.Sight`; older files do not
            say it.
        bytes_per_pixel: memory that the network takes in PyTorch for each pixel of an image; None: not known.
        record: what is known of the training: a configuration with the network, its noise and its value range.
        versions: of the packages that wrote the file.
        commit: of the code that wrote the file.
    """

    network: str
    channels: int
    level: bool
    reach: tuple[int, int] | None = None
    receptive_field: int | None = None
    whole_image: bool = True
    alignment: int = ALIGNMENT
    bytes_per_pixel: float | None = None
    record: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str = "unknown"

    def to_json(self) -> str:
        """The facts as a file holds them, with a word on its inputs for people."""
        frames = ", T" if self.reach else ""
        inputs = {"noisy": f"[B{frames}, {self.channels}, H, W], float32, in [0, 1]"}
        if self.level:
            inputs["level"] = f"the noise's standard deviation on the [0, 1] scale: [B{frames}, 1, H, W] or, but in "
            inputs["level"] += f"files of torch.export, [B{frames}, 1, 1, 1]"
        return json.dumps({"format": 1, "inputs": inputs, "output": "like noisy, unclamped"} | asdict(self))

    @classmethod
    def read(cls, text: str | None, path: Path, kind: str) -> "Facts":
        """What :meth:`to_json` wrote.

        Raises:
            CheckpointError: there is nothing of that kind.
        """
        if text is None:
            raise CheckpointError(
                f"{path} is {kind}, but not of this project: python -m experiments.export writes into its files how "
                f"they are to be used (metadata {METADATA!r}), and it has none of that"
            )
        try:
            found = json.loads(text)
            facts = cls(**{each.name: found[each.name] for each in fields(cls) if each.name in found})
            sizes = (facts.channels, facts.alignment, facts.receptive_field or 0, *(facts.reach or ()))
            if not all(isinstance(size, int) for size in sizes) or not isinstance(facts.level, bool):
                raise ValueError("sizes that are no numbers")
            return facts
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is damaged: its metadata {METADATA!r} cannot be read ({error!r})") from error


class Exported(nn.Module, ABC):
    """A network without parameters of its own that a runtime computes, on the CPU unless the runtime has better.

    It opens again where it is sent to another process, and when the number of PyTorch's threads, which it takes for
    its own, has changed.

    Args:
        path: of the file.

    Raises:
        CheckpointError: it is damaged, another project's, or its runtime is not installed.
    """

    kind = ""
    memory = 1.0  # times that PyTorch takes

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.threads = path, torch.get_num_threads()
        try:
            self.program, text = self.open()
        except (CheckpointError, MemoryError):
            raise
        except Exception as error:
            reason = str(error).strip().splitlines()[:1]
            raise CheckpointError(
                f"{path} cannot be read as {self.kind}, it is damaged or something else: {' '.join(reason)}"
            ) from error
        self.facts = Facts.read(text, path, self.kind)
        self.receptive_field, self.whole_image = self.facts.receptive_field, self.facts.whole_image
        self.alignment = self.facts.alignment
        self.bytes_per_pixel = self.facts.bytes_per_pixel and self.memory * self.facts.bytes_per_pixel
        self.reach = tuple(self.facts.reach) if self.facts.reach else None

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        return type(self), (self.path,)

    @abstractmethod
    def open(self) -> tuple[Any, str | None]:
        """What runs the file, and its metadata."""

    @abstractmethod
    def run(self, inputs: list[Tensor]) -> Tensor:
        """float32 tensors, ``noisy`` and perhaps ``level`` → the estimate."""

    def runtime(self, package: str) -> Any:
        """The package that runs such files, or a CheckpointError that names the extra."""
        return needed(package, f"{self.path} is {self.kind}")

    @torch.no_grad()
    def forward(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        """[B, C, H, W] or, where it sees time, [B, T, C, H, W], in [0, 1] → the clean estimate, same shape, unclamped.

        Args:
            level: where it is to be told: [B, 1, 1, 1] or a map [B, 1, H, W], of clips with T; else it is ignored.

        Raises:
            LevelError: it is to be told the level, and is not; MemoryError: the runtime says that there is not enough.
        """
        if self.threads != torch.get_num_threads():
            self.threads = torch.get_num_threads()
            self.program, _ = self.open()
        clip = self.reach is not None and noisy.ndim == 4  # images are clips of one frame
        inputs = [noisy]
        if self.facts.level:
            told = require_level(level, self.facts.network)
            inputs.append(told.expand(*noisy.shape[:-3], 1, *told.shape[-2:]))
        given = [(each[:, None] if clip else each).float().cpu().contiguous() for each in inputs]
        try:
            return self.run(given).to(noisy).view_as(noisy)
        except Exception as error:
            if "alloc" in str(error):  # as runtimes say it; those who ask for tiles need to know
                raise MemoryError(f"{self.path}: {error}") from error
            raise


def needed(package: str, why: str, extra: str = "export") -> Any:
    """A package that is no core dependency.

    Raises:
        CheckpointError: it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise CheckpointError(f"{why}: that needs {package}, pip install -e '.[{extra}]'") from error


class OnnxNetwork(Exported):
    """A network in ONNX Runtime, on the GPU where ``onnxruntime-gpu`` and CUDA are there."""

    kind = "an ONNX file"
    memory = 2.0  # its arena grows by doubling: DnCNN took 0.7 GB for 832² pixels; 0.3 without it, and 5 % longer

    def open(self) -> tuple[Any, str | None]:
        runtime = self.runtime("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 4  # what is wrong is raised
        known = runtime.get_available_providers()
        gpu = ["CUDAExecutionProvider"] if torch.cuda.is_available() and "CUDAExecutionProvider" in known else []
        session = runtime.InferenceSession(str(self.path), options, providers=[*gpu, "CPUExecutionProvider"])
        return session, session.get_modelmeta().custom_metadata_map.get(METADATA)

    def run(self, inputs: list[Tensor]) -> Tensor:
        names = ("noisy", "level")[: len(inputs)]
        fed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return torch.from_numpy(self.program.run(None, fed)[0])


class OpenVinoNetwork(Exported):
    """A network in OpenVINO on the CPU, in float32 (which OpenVINO leaves for bfloat16 where a CPU has it)."""

    kind = "an OpenVINO file (.xml with its .bin beside it)"

    def open(self) -> tuple[Any, str | None]:
        core = self.runtime("openvino").Core()
        model = core.read_model(str(self.path))
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": self.threads, "NUM_STREAMS": 1}
        text = model.get_rt_info([METADATA]).astype(str) if model.has_rt_info([METADATA]) else None
        return core.compile_model(model, "CPU", options), text

    def run(self, inputs: list[Tensor]) -> Tensor:
        return torch.from_numpy(self.program([tensor.numpy() for tensor in inputs])[0])


class TorchProgram(Exported):
    """A network in PyTorch, from a file that ``torch.export`` wrote.

    Reading such a file can run any code that it names, as reading a pickle can: open none that you do not trust.
    """

    kind = "a file of torch.export"

    def open(self) -> tuple[Any, str | None]:
        if (text := archived(self.path)) is None:
            return None, None
        # the guards are those of the example's kernels and layouts (no batch of one, say): the parity check covers them
        module = torch.export.load(self.path).module(check_guards=False)
        return lambda *inputs: module(*inputs), text  # as a part of this module, it would not go into evaluation mode

    def run(self, inputs: list[Tensor]) -> Tensor:
        noisy, *level = inputs
        return self.program(noisy, *(each.expand(*each.shape[:-2], *noisy.shape[-2:]) for each in level))


def archived(path: Path) -> str | None:
    """The metadata of a file of torch.export, read without running what it holds; None where it is not ours."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(f"/extra/{METADATA}.json")]
        return archive.read(names[0]).decode() if names else None
