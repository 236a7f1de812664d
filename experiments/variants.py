"""Makes the variants of a network that experiments.compress compares, each once, each a file."""

import itertools
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from experiments.cli import UserError

if TYPE_CHECKING:
    from denoisers.weights import Opened

log = logging.getLogger(__name__)
BASES = ("", "pruned", "distilled")
SUFFIXES = {
    "float32": ".safetensors",
    "bf16": ".safetensors",
    "folded": ".safetensors",
    "onnx": ".onnx",
    "openvino": ".xml",
    "int8_onnx": ".onnx",
    "int8_openvino": ".xml",
}


def parts(variant: str) -> tuple[str, str]:
    """``pruned-int8_onnx`` → which network, and its form; either may be left out."""
    base, dash, form = variant.partition("-")
    if dash:
        return base, form
    return (base, "float32") if base in BASES else ("", base)


class Workshop:
    """Makes the variants of a network, each once.

    Args:
        cfg: conf/compress.yaml.
        folder: where they lie.
    """

    def __init__(self, cfg: DictConfig, folder: Path) -> None:
        self.cfg, self.folder = cfg, folder
        self.opened: dict[str, Opened] = {}  # base → the network
        self.pairs: list[dict[str, Any]] | None = None

    def path(self, variant: str) -> Path:
        """Where a variant lies."""
        return self.folder / f"{variant}{SUFFIXES[parts(variant)[1]]}"

    def make(self, variant: str) -> Path:
        """Its file, made if it is not there; what it took is said.

        Raises:
            ExportError, PruningError: there is no such form of this network; the message gives the reason.
            CheckpointError: a package is missing; the message names the extra.
            UserError: what is made for it from training images or a student cannot be.
        """
        path, started = self.path(variant), time.monotonic()
        if path.exists():
            log.info(f"made already: {path}")
            return path
        base, form = parts(variant)
        write: dict[str, Callable[[str, Path], None]] = {
            "float32": self.weights,
            "bf16": self.bf16,
            "folded": self.folded,
            "int8_onnx": self.int8,
            "int8_openvino": self.int8,
        }
        from datamodules.files import replacing_together

        with replacing_together(path) as temporary:
            write.get(form, self.exported)(base, temporary)
        log.info(f"made        {path} in {time.monotonic() - started:.0f} s")
        return path

    def network(self, base: str) -> "Opened":
        """The network itself, the pruned one or the student."""
        from denoisers.weights import open_network

        if base not in self.opened:
            source = {"": self.cfg.checkpoint, "distilled": self.cfg.student}.get(base)
            opened = open_network(source or self.pruned())
            if opened.spec is None:
                raise UserError(f"{source} is an exported file already: give what it was exported from")
            if base and opened.channels != self.network("").channels:
                raise UserError(f"student={source} takes {opened.channels} channels, its teacher another number")
            self.opened[base] = opened
        return self.opened[base]

    def exporter(self, base: str, form: Any = None) -> Any:
        """What writes a network, or a form of it, into files."""
        from denoisers.exporting import Exporter
        from experiments.export import facts_of

        opened = self.network(base)
        if form is not None:
            target = f"{form.__module__}.{form.__qualname__}"
            spec = {"_target_": target, "model": dict(opened.spec or {})}
            opened = opened._replace(network=form.of(opened.network, opened.spec), spec=spec)
        facts = facts_of(opened)
        if opened.record:  # whose configuration names the network as it was trained
            facts.record["config"]["model"] = dict(opened.spec or {})  # type: ignore[index]
        return Exporter(opened.network, facts)

    def weights(self, base: str, path: Path) -> None:
        self.exporter(base).safetensors(path)

    def bf16(self, base: str, path: Path) -> None:
        from denoisers.forms import Bfloat16

        self.exporter(base, Bfloat16).safetensors(path)

    def folded(self, base: str, path: Path) -> None:
        from denoisers.forms import Folded

        self.exporter(base, Folded).safetensors(path)

    def exported(self, base: str, path: Path) -> None:
        """ONNX or OpenVINO in float32, by the suffix."""
        exporter = self.exporter(base)
        (exporter.onnx if path.suffix == ".onnx" else exporter.openvino)(path)

    def int8(self, base: str, path: Path) -> None:
        """The same in int8."""
        from denoisers.quantizing import int8_onnx, int8_openvino

        exact = path.parent / "float32" / path.name
        exact.parent.mkdir()
        try:
            self.exported(base, exact)
            told = self.exporter(base).facts.level
            samples = [
                {key: pair[key].numpy() for key in (("noisy", "level") if told else ("noisy",))}
                for pair in self.examples()
            ]
            (int8_onnx if path.suffix == ".onnx" else int8_openvino)(exact, path, samples)
        finally:
            shutil.rmtree(exact.parent)

    def pruned(self) -> Path:
        """The run that has fine-tuned the pruned network."""
        from denoisers.pruning import PruningError, narrower
        from denoisers.ranged import Ranged
        from experiments import plan
        from experiments.resume import quoted

        whole = self.network("")
        assert whole.spec is not None
        if isinstance(whole.network, Ranged):
            raise PruningError("only networks of the value range [0, 1] are pruned so far")
        start, run = self.folder / "pruned" / "start.safetensors", self.folder / "pruned" / "run"
        spec = narrower(whole.spec, self.cfg.keep)
        self.remove_channels(whole, spec, start)
        at = [f"init_from={quoted(start)}", f"data_root={quoted(Path(self.cfg.data_root))}"]
        plan.done(plan.TRAIN, run, [*self.cfg.training, *self.cfg.finetune, *model_overrides(spec), *at])
        return run

    def remove_channels(self, whole: "Opened", spec: Mapping[str, Any], start: Path) -> None:
        """Writes what is left of a network, to be fine-tuned, unless it is there."""
        from datamodules.files import replacing
        from denoisers.exporting import Exporter
        from denoisers.pruning import pruned
        from experiments.export import facts_of

        if not start.exists():
            pairs = [(pair["noisy"], pair["clean"], pair["level"]) for pair in self.examples()]
            left = whole._replace(
                network=pruned(whole.network, spec, pairs, self.cfg.criterion), spec=spec, record=None
            )
            with replacing(start) as temporary:
                Exporter(left.network, facts_of(left)).safetensors(temporary)

    def examples(self) -> list[dict[str, Any]]:
        """Noisy crops of training images: ``noisy``, ``clean`` and ``level``."""
        if self.pairs is None:
            self.pairs = noisy_crops(self.cfg, self.network("").channels)
        return self.pairs


def noisy_crops(cfg: DictConfig, channels: int) -> list[dict[str, Any]]:
    """Training batches of one crop each, as train.py makes them."""
    import hydra
    import torch
    from hydra.utils import instantiate

    from datamodules.noise.base import rms
    from experiments.resume import quoted

    size = [f"data.patch_size={cfg.calibration.patch_size}", "data.batch_size=1", "data.num_workers=0"]
    asked = [*cfg.training, *size, f"channels={channels}", f"data_root={quoted(Path(cfg.data_root))}"]
    datamodule = instantiate(hydra.compose("train", asked).datamodule)
    datamodule.setup("fit")
    found = []
    for index, batch in enumerate(itertools.islice(datamodule.train_dataloader(), cfg.calibration.crops)):
        pair = batch if "noisy" in batch else batch | datamodule.corrupt_training(batch["clean"], index)
        if "clean" not in pair:
            raise UserError(f"training={list(cfg.training)}: these images have no clean ones beside them")
        pair = {"level": rms((pair["noisy"] - pair["clean"]).square())} | pair
        found.append({key: pair[key].to(torch.float32).contiguous() for key in ("noisy", "clean", "level")})
    return found


def model_overrides(spec: Mapping[str, Any]) -> list[str]:
    """What is typed to train a network of that configuration.

    Raises:
        PruningError: no choice of the model axis is of its class.
    """
    import hydra

    from denoisers.pruning import PruningError
    from experiments.networks import learning

    arguments = {key: value for key, value in spec.items() if key not in ("_target_", "channels")}
    channels = spec.get("channels", 1)
    for name, model in learning(None, channels).items():
        if model["_target_"] == spec["_target_"]:
            known = hydra.compose("train", [f"model={name}"]).model
            typed = [
                f"{'' if key in known else '+'}model.{key}={json.dumps(value)}" for key, value in arguments.items()
            ]
            return [f"model={name}", f"channels={channels}", *typed]
    raise PruningError(f"no choice of model= is a {spec['_target_']}, so that it could not be fine-tuned")
