"""Trained networks → files for other runtimes: ONNX, OpenVINO, torch.export, safetensors.

The first three hold a graph of any batch, height and width (and number of frames), batch norm folded; the last one the
weights as they were trained, with the name and arguments of their network.
"""

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.fx.experimental._config as symbolic
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from denoisers.checkpoint import METADATA, PREFIX, CheckpointError
from denoisers.clips import reach_of
from denoisers.exported import Facts, needed
from denoisers.folding import fold_batch_norm
from denoisers.layers import LevelError

EXAMPLE = (2, 3, 45, 37)  # batch, frames, height and width from which a graph is traced: multiples of nothing
TRIED = ((1, 1, 1, 41), (2, 4, 43, 1), (1, 2, 31, 53), (3, 5, 64, 48), (1, 7, 97, 33))  # with which it is compared
LEVELS = (10 / 255, 50 / 255)
TOLERANCE = 1e-4  # of an estimate in [0, 1]


class ExportError(CheckpointError):
    """A network that a format cannot hold, or a file that does not compute what its network does."""


def takes_level(network: Callable[..., Tensor], channels: int) -> bool:
    """Whether it has to be told how strong the noise is."""
    try:
        with torch.no_grad():
            network(torch.zeros(1, channels, 8, 8))
    except LevelError:
        return True
    return False


class Blind(nn.Module):
    """A network with one input."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, noisy: Tensor) -> Tensor:
        return self.network(noisy)


class Told(Blind):
    """A network with two inputs, which sees any level as a map."""

    def forward(self, noisy: Tensor, level: Tensor) -> Tensor:  # type: ignore[override]
        return self.network(noisy, level.expand(*noisy.shape[:-3], 1, *noisy.shape[-2:]))


class Exporter:
    """Writes a network into files.

    Args:
        network: in evaluation mode, on the CPU; stays as it is.
        facts: that the files will say of it.
    """

    def __init__(self, network: nn.Module, facts: Facts) -> None:
        self.network, self.facts = network, facts
        self.axes = ["batch", "frames"] if reach_of(network) else ["batch"]

    def program(self, map_of_level: bool) -> ExportedProgram:
        """The network's graph, batch norm folded, of any size.

        Args:
            map_of_level: whether its level is a map, or one number for each image.

        Raises:
            ExportError: what it does depends on the values it is given, or PyTorch cannot trace it.
        """
        batch, frames, *size = EXAMPLE
        lead = [batch, frames][: len(self.axes)]
        anywhere = dict.fromkeys([*range(len(lead)), len(lead) + 1, len(lead) + 2], Dim.DYNAMIC)
        inputs, shapes = [torch.rand(*lead, self.facts.channels, *size)], {"noisy": anywhere}
        if self.facts.level:
            inputs.append(torch.rand(*lead, 1, *(size if map_of_level else (1, 1))))
            shapes["level"] = anywhere if map_of_level else dict.fromkeys(range(len(lead)), Dim.DYNAMIC)
        wrapped = (Told if self.facts.level else Blind)(fold_batch_norm(self.network)).requires_grad_(False)
        try:
            with torch.no_grad(), symbolic.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
                # so that sizes of one are no special case
                return torch.export.export(wrapped, tuple(inputs), dynamic_shapes=shapes)
        except Exception as error:
            raise ExportError(
                f"{self.facts.network} cannot be exported, but for to=safetensors: torch.export makes no graph of it "
                f"({type(error).__name__}: {str(error).strip().splitlines()[0]})"
            ) from error

    @cached_property
    def graph(self) -> Any:
        """The ONNX program."""
        for package in ("onnx", "onnxscript"):
            needed(package, "an ONNX file is to be written")
        import onnx_ir

        for talker in ("torch.onnx", "onnxscript", "onnx_ir"):  # of each step, and of torchvision, which they miss
            logging.getLogger(talker).setLevel(logging.ERROR)
        traced = self.program(map_of_level=False)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of PyTorch about itself
                program = torch.onnx.export(traced, dynamo=True, verbose=False)
        except torch.onnx.errors.OnnxExporterError as error:
            raise ExportError(f"{self.facts.network} cannot be exported to ONNX: {error.__cause__ or error}") from error
        assert program is not None
        model = program.model
        [estimate], (noisy, *level) = model.graph.outputs, model.graph.inputs
        estimate.name = "estimate"
        estimate.shape = noisy.shape = onnx_ir.Shape([*self.axes, self.facts.channels, "height", "width"])
        for each in level:  # the graph begins with its expansion, which takes maps as well
            each.shape = onnx_ir.Shape([*self.axes, 1, "level_height", "level_width"])
        model.metadata_props[METADATA] = self.facts.to_json()
        return program

    def onnx(self, path: Path) -> None:
        """Writes an ONNX file, of the opset that PyTorch chooses."""
        self.graph.save(str(path))

    def openvino(self, path: Path) -> None:
        """Writes an OpenVINO file ``.xml``, and its weights beside it, ``.bin``; in float32."""
        openvino = needed("openvino", "an OpenVINO file is to be written")
        with tempfile.TemporaryDirectory() as folder:
            self.onnx(Path(folder) / "network.onnx")
            model = openvino.Core().read_model(f"{folder}/network.onnx")
            model.set_rt_info(self.facts.to_json(), [METADATA])
            openvino.save_model(model, str(path), compress_to_fp16=False)

    def torch_export(self, path: Path) -> None:
        """Writes what ``torch.export.load`` reads."""
        torch.export.save(self.program(map_of_level=True), path, extra_files={f"{METADATA}.json": self.facts.to_json()})

    def safetensors(self, path: Path) -> None:
        """Writes the weights as they are."""
        if not self.facts.record:
            raise ExportError(f"{self.facts.network} has no configuration from which it could be built again")
        state = {f"{PREFIX}{key}": tensor.contiguous() for key, tensor in self.network.state_dict().items()}
        path.write_bytes(safetensors.torch.save(state, {METADATA: self.facts.to_json()}))


FORMATS: dict[str, tuple[str, Callable[[Exporter, Path], None]]] = {  # name → suffix, what writes it
    "onnx": (".onnx", Exporter.onnx),
    "openvino": (".xml", Exporter.openvino),
    "torch_export": (".pt2", Exporter.torch_export),
    "safetensors": (".safetensors", Exporter.safetensors),
}


def to_onnx(network: nn.Module, path: Path, facts: Facts) -> None:
    """Writes one ONNX file, see :class:`Exporter`."""
    Exporter(network, facts).onnx(path)


@torch.no_grad()
def differences(network: nn.Module, other: nn.Module, facts: Facts) -> Iterator[tuple[str, float]]:
    """What was tried, and the largest difference of both networks' estimates; of five sizes, and two levels if told."""
    generator = torch.Generator().manual_seed(0)
    for batch, frames, height, width in TRIED:
        lead = (batch, frames) if facts.reach else (batch,)
        noisy = torch.rand(*lead, facts.channels, height, width, generator=generator)
        size = " × ".join(map(str, noisy.shape))
        for level in LEVELS if facts.level else (None,):
            told = () if level is None else (torch.full((*lead, 1, 1, 1), level),)
            apart = (network(noisy, *told) - other(noisy, *told)).abs().max().item()
            yield size + (f" at σ = {level * 255:.0f}" if level else ""), apart


def require_parity(network: nn.Module, other: nn.Module, facts: Facts, path: Path) -> float:
    """The largest difference.

    Raises:
        ExportError: it is above 1e-4, or no number.
    """
    found = list(differences(network, other, facts))
    if bad := [f"  {what}: {apart:.2g}" for what, apart in found if not apart <= TOLERANCE]:
        raise ExportError(
            f"{path} would not compute what {facts.network} does, and is not written: estimates differ by more than "
            f"{TOLERANCE:g} in [0, 1]\n" + "\n".join(bad)
        )
    return max(apart for _, apart in found)
