"""Trained networks from files: checkpoints of ours, and published ones, recognised by their keys and shapes.

Published files may be PyTorch's (read with ``weights_only=True``) or ``.safetensors``. Known are, plain or merged:

- DnCNN, FDnCNN, IRCNN and FFDNet as numbered stacks under any prefix: KAIR's ``model.N``, SaoYan's ``module.dncnn.N``,
  the FFDNet of the IPOL article; KAIR's file of 25 IRCNNs, one for each noise level;
- ADNet (``conv1_1.0`` … ``conv3``);
- DRUNet, NAFNet, Restormer, SwinIR and SCUNet, whose published names ours bear;

each also below the wrappers of the BasicSR family and others (``params_ema``, ``params``, ``state_dict``, …) and below
prefixes that all keys share (``module.``, …). A stack of seven convolutions without batch norm is taken to be IRCNN.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from denoisers import checkpoint
from denoisers.architectures import ARCHITECTURES, IPOL, Architecture
from denoisers.checkpoint import CheckpointError
from denoisers.exported import Exported, OnnxNetwork, OpenVinoNetwork, TorchProgram
from denoisers.folding import folded

State = dict[str, Tensor]
Rival = tuple[Architecture, State]  # an architecture that a file may be of, and its keys and shapes

RUNTIMES: dict[str, type[Exported]] = {".onnx": OnnxNetwork, ".xml": OpenVinoNetwork, ".pt2": TorchProgram}
TRUST = "DENOISERS_TRUST_PT2"
WRAPPERS = ("params_ema", "params", "state_dict", "model_state_dict", "ema", "model", "network", "net", "net_g")
# what a network knows of itself: it may be absent from a file, and a file may hold it in vain
DERIVED = ("num_batches_tracked", "relative_position_index", "attn_mask", "total_ops", "total_params")
KAIR_EPS = 1e-4  # of batch norm in KAIR; PyTorch's, and the others', is 1e-5


class Opened(NamedTuple):
    """A trained network in evaluation mode.

    Attributes:
        network: ``network(noisy, level) -> estimate``.
        channels: 1 or 3, that it takes.
        name: of its architecture.
        said: what the file was found to be, in one sentence.
        record: what our training recorded; None for published weights.
        spec: ``_target_`` and arguments of the network's class; None for a graph that a runtime computes.
    """

    network: nn.Module
    channels: int
    name: str
    said: str
    record: Mapping[str, Any] | None
    spec: Mapping[str, Any] | None


def open_network(path: str | Path, trusted: bool | None = None) -> Opened:
    """The network of a run's folder, a checkpoint of ours, an exported file or a file of published weights.

    Args:
        path: of any of them.
        trusted: whether a file of torch.export may be read, which can run any code; None: if the environment has
            ``DENOISERS_TRUST_PT2=1``.

    Raises:
        CheckpointError: no such file, a damaged, unsafe or unknown one, or weights that do not fit.
    """
    path = checkpoint.find(path)
    if path.suffix in RUNTIMES:
        return open_exported(path, os.environ.get(TRUST) == "1" if trusted is None else trusted)
    content = checkpoint.load_file(path)
    if not checkpoint.is_ours(content):
        return recognise(content, path)
    record = content["record"]
    config = record["config"]
    said = f"{path} is of this project: {checkpoint.describe(record)}"
    name = str(config["model"].get("_target_")).rpartition(".")[2].lower()
    network = checkpoint.network_of(content)
    return Opened(network, config["channels"], name, said, trained_here(record), config["model"])


def open_exported(path: Path, trusted: bool) -> Opened:
    """The network of a file that a runtime computes.

    Raises:
        CheckpointError: it is damaged or another project's, its runtime is missing, or it may not be read.
    """
    if path.suffix == ".pt2" and not trusted:
        raise CheckpointError(
            f"{path} is refused: to read a file of torch.export can run any code; if you know where it comes from, set "
            f"{TRUST}=1, or use the same network's .onnx or .safetensors"
        )
    network = RUNTIMES[path.suffix](path).eval()
    facts = network.facts
    said = f"{path} is {network.kind}: {facts.network} of {facts.channels} channel(s)"
    return Opened(network, facts.channels, facts.network, said, trained_here(facts.record), None)


def trained_here(record: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """A record, if a training of ours wrote it: exported published weights have one that names their network alone."""
    return record if record and "axes" in record.get("config", {}) else None


# --- from a file's content to tensors under our keys


def recognise(content: Any, path: Path) -> Opened:
    """The network that published weights are of.

    Raises:
        CheckpointError: none that is known; the message names the nearest and the first keys that differ.
    """
    theirs, prefix, notes = unwrapped(content, path)
    state, more = under_our_keys(theirs, prefix)
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    rivals: list[Rival] = []
    for architecture in ARCHITECTURES:
        if (arguments := architecture.read_off(shapes, prefix)) is None:
            continue
        spec = {"_target_": architecture.target, **arguments}
        try:
            network = checkpoint.build(spec)
        except CheckpointError:  # sizes that it refuses
            continue
        expected = network.state_dict()
        fitting = completed(state, expected)
        if {key: tensor.shape for key, tensor in fitting.items()} == {k: t.shape for k, t in expected.items()}:
            network.load_state_dict(fitting)
            described = checkpoint.describe({"config": {"model": spec}})
            count = sum(p.numel() for p in network.parameters())
            said = "; ".join([f"{path} holds published weights: {described}, {count:,} parameters", *notes, *more])
            return Opened(network.eval(), arguments["channels"], architecture.name, said, None, spec)
        rivals.append((architecture, expected))
    raise unknown(path, state, prefix, rivals)


def completed(state: State, expected: Mapping[str, Tensor]) -> State:
    """The state with what the network knows of itself, and without what it does not know of that kind."""

    def derived(key: str) -> bool:
        return key.rpartition(".")[2] in DERIVED

    own = {key: tensor for key, tensor in expected.items() if derived(key)}
    return own | {key: tensor for key, tensor in state.items() if key in expected or not derived(key)}


def unknown(path: Path, state: State, prefix: str, rivals: list[Rival]) -> CheckpointError:
    """What is said of a file that is none of the known architectures."""
    if not rivals:
        with torch.device("meta"):  # shapes alone
            rivals = [(one, checkpoint.build({"_target_": one.target}).state_dict()) for one in ARCHITECTURES]

    def likeness(rival: Rival) -> float:
        expected = rival[1]
        shared = [key for key in state if key in expected]
        return (len(shared) + sum(state[k].shape == expected[k].shape for k in shared)) / len({*state, *expected})

    architecture, expected = max(rivals, key=likeness)
    names = ", ".join(dict.fromkeys(one.name for one in ARCHITECTURES))
    message = f"{path} holds neither a checkpoint of this project nor published weights that are known ({names})"
    if not likeness((architecture, expected)):
        return CheckpointError(f"{message}; its first keys are {', '.join(list(state)[:3])}")
    title = architecture.target.rpartition(".")[2]
    below = f", below {prefix}" if prefix else ""
    try:
        checkpoint.require_same(completed(state, expected), expected, "the file", title)
    except CheckpointError as error:
        differences = str(error).partition("\n")[2]
        return CheckpointError(
            f"{message}; nearest is {title}, and the first keys that differ{below} are\n{differences}"
        )
    return CheckpointError(message)


def unwrapped(content: Any, path: Path) -> tuple[State, str, list[str]]:
    """The tensors of a file by their keys without the prefix that all share; that prefix; what is worth saying.

    Raises:
        CheckpointError: there are no tensors with names.
    """
    notes = []
    while isinstance(content, Mapping) and (inner := [w for w in WRAPPERS if isinstance(content.get(w), Mapping)]):
        content = content[inner[0]]
        notes.append(f"below {inner[0]!r}")
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds no state dict of tensors, but {type(content).__name__}")
    if content and all(isinstance(part, Mapping) for part in content.values()):  # several networks
        content = {f"{name}.{key}": value for name, part in content.items() for key, value in part.items()}
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise CheckpointError(f"{path} holds no state dict of tensors: its keys are {', '.join(map(str, content))}")
    prefix = ""
    while len(heads := {key.partition(".")[0] for key in state}) == 1 and all("." in key for key in state):
        [head] = heads
        if head.isdigit():
            break
        prefix = f"{prefix}.{head}" if prefix else head
        state = {key.partition(".")[2]: tensor for key, tensor in state.items()}
    return state, prefix, notes + ([f"keys begin with {prefix}"] if prefix else [])


def under_our_keys(state: State, prefix: str) -> tuple[State, list[str]]:
    """Numbered stacks become ``body.N``, several of them ``networks.I.body.N``, ADNet's layers its own."""
    notes: list[str] = []
    if layers := layers_of(state):
        return stacked(layers, prefix, notes), notes
    bank: dict[int, State] = {}
    for key, tensor in state.items():
        if match := re.fullmatch(r"(\d+)\.model\.(.+)", key):
            bank.setdefault(int(match[1]), {})[match[2]] = tensor
    if bank and sum(map(len, bank.values())) == len(state):
        ours: State = {}
        for place, number in enumerate(sorted(bank)):
            body = stacked(layers_of(bank[number]) or [], prefix, notes)
            ours |= {f"networks.{place}.{key}": tensor for key, tensor in body.items()}
        return ours, list(dict.fromkeys(notes))
    if "conv1_1.0.weight" in state:
        return {adnet_key(key): tensor for key, tensor in state.items()}, notes
    numbered = all(key.partition(".")[0].isdigit() for key in state)  # a stack, but with layers that are not known
    return {f"body.{key}": tensor for key, tensor in state.items()} if numbered else state, notes


def adnet_key(key: str) -> str:
    """``conv1_2.1.bias`` → ``body.4.bias``; ``conv3.bias`` → ``attention.bias``."""
    if match := re.fullmatch(r"conv1_(\d+)\.(?:(\d+)\.)?(\w+)", key):
        return f"body.{3 * (int(match[1]) - 1) + int(match[2] or 0)}.{match[3]}"
    return re.sub(r"^conv3\.", "attention.", key)


class Layer(NamedTuple):
    """A convolution of a stack, and the batch norm after it."""

    conv: State
    norm: State | None


def layers_of(state: State) -> list[Layer] | None:
    """The layers of a numbered stack ``N.weight``, ``N.bias``, …; None if it is none."""
    groups: dict[int, State] = {}
    for key, tensor in state.items():
        if (match := re.fullmatch(r"(\d+)\.(\w+)", key)) is None:
            return None
        groups.setdefault(int(match[1]), {})[match[2]] = tensor
    layers: list[Layer] = []
    for _, group in sorted(groups.items()):
        if "weight" in group and group["weight"].ndim == 4:
            layers.append(Layer(group, None))
        elif "running_var" in group and layers and layers[-1].norm is None:
            layers[-1] = Layer(layers[-1].conv, group)
        else:
            return None
    return layers


def stacked(layers: list[Layer], prefix: str, notes: list[str]) -> State:
    """Layers under our keys: ``body.N`` for convolution, batch norm if there is one, activation, and so on.

    Convolutions without bias get one of zeros. The IPOL article's FFDNet has a noise map for each channel before the
    sub-images, which becomes one behind them. Its batch norm is merged, and so is KAIR's, which has another ε.
    """
    ipol = prefix.endswith(IPOL)
    merge = ipol or (prefix.endswith("model") and any(norm and "bias" in conv for conv, norm in layers))
    ours: State = {}
    number = 0
    for place, (conv, norm) in enumerate(layers):
        weight = conv["weight"]
        if ipol and place == 0:
            maps = weight.shape[1] - layers[-1].conv["weight"].shape[0]
            weight = torch.cat([weight[:, maps:], weight[:, :maps].sum(1, keepdim=True)], dim=1)
            notes.append("the noise map moved behind the sub-images")
        bias = conv.get("bias")
        if norm and merge:
            eps = 1e-5 if ipol else KAIR_EPS
            mean, var, gain, shift = (norm[key] for key in ("running_mean", "running_var", "weight", "bias"))
            weight, bias = folded(weight, bias, mean, var, gain, shift, eps)
            notes.append("batch norm merged")
        if bias is None:
            bias = torch.zeros(len(weight))
            notes.append("convolutions without bias")
        ours |= {f"body.{number}.weight": weight, f"body.{number}.bias": bias}
        number += 1
        if norm and not merge:
            ours |= {f"body.{number}.{key}": tensor for key, tensor in norm.items()}
            number += 1
        number += 1  # the activation
    notes[:] = list(dict.fromkeys(notes))
    return ours
