"""Structured pruning: channels are removed, and a narrower network of the same class holds what is left.

Which tensors share their channels is found by DepGraph (Fang, Ma, Song, Mi and Wang, "DepGraph: Towards Any Structural
Pruning", CVPR 2023), the package torch-pruning. How many each layer keeps, the narrower network says.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from denoisers import checkpoint
from denoisers.checkpoint import CheckpointError
from denoisers.exported import needed

WIDTH = "num_features"  # the argument that says how wide a network is
CRITERIA = ("taylor", "l1")  # by which channels are kept
LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)  # whose outputs are counted
TOLERANCE = 1e-4

Pair = tuple[Tensor, Tensor, Tensor]  # noisy and clean images [B, C, H, W] in [0, 1], level [B, 1, 1, 1]


class PruningError(CheckpointError):
    """A network whose channels cannot be removed so that its class still describes it."""


def narrower(spec: Mapping[str, Any], keep: float) -> dict[str, Any]:
    """The configuration of the same network with that share of its width.

    Raises:
        PruningError: its class has no one number for its width.
    """
    width = spec.get(WIDTH)
    if not isinstance(width, int):
        name = str(spec.get("_target_")).rpartition(".")[2]
        raise PruningError(f"{name} cannot be pruned: its configuration has no {WIDTH} that says how wide it is")
    return {**spec, WIDTH: max(1, round(keep * width))}


def pruned(network: nn.Module, spec: Mapping[str, Any], pairs: Sequence[Pair], criterion: str = "taylor") -> nn.Module:
    """A narrower network, in evaluation mode, that holds the channels of ``network`` which count most.

    In each group of layers that make, keep and take the same channels those with the highest score stay, a mean over
    these layers: ``l1``, the absolute weights (Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017);
    ``taylor``, |weight · gradient| of the squared error of the pairs (Molchanov et al., "Importance Estimation for
    Neural Network Pruning", CVPR 2019). The estimate is exactly that of ``network`` with the other channels' outputs at
    zero; nothing is learnt yet.

    Args:
        network: with parameters of its own; stays as it is.
        spec: class and arguments of the narrower one, see :func:`narrower`.
        pairs: what ``taylor`` looks at, one gradient for each; the first one also shows how layers hang together.
        criterion: ``taylor`` or ``l1``.

    Raises:
        PruningError: its channels cannot be removed so; the message gives the reason.
        CheckpointError: torch-pruning is missing.
    """
    pruning = needed("torch_pruning", "channels are to be pruned", extra="prune")
    name = type(network).__name__
    wide, narrow = copy.deepcopy(network).eval().requires_grad_(True), checkpoint.build(spec).eval()
    score = {"l1": pruning.importance.GroupMagnitudeImportance, "taylor": pruning.importance.GroupTaylorImportance}[
        criterion
    ](**({"p": 1} if criterion == "l1" else {}))
    noisy, _, level = pairs[0]
    example = (noisy[:1], level[:1])
    try:
        graph = pruning.DependencyGraph().build_dependency(wide, example_inputs=example)
        if criterion == "taylor":
            for noisy, clean, level in pairs:
                (wide(noisy, level) - clean).square().sum().backward()
        remove(graph, wide, narrow, score)
        narrow.load_state_dict(wide.state_dict())
        with torch.no_grad():
            apart = (narrow(*example) - wide(*example)).abs().max().item()
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise PruningError(
            f"{name} cannot be pruned to {WIDTH}={spec[WIDTH]}: what is left does not fit its class ({reason[0]})"
        ) from error
    if not apart <= TOLERANCE:
        raise PruningError(f"{name} cannot be pruned: its class computes something else with fewer channels")
    return narrow


def remove(graph: Any, wide: nn.Module, narrow: nn.Module, score: Any) -> None:
    """Takes from each layer of ``wide`` the channels with the lowest scores, until it has as many as in ``narrow``."""
    names = {module: name for name, module in wide.named_modules()}
    for group in graph.get_all_groups(root_module_types=list(LAYERS)):
        layer, prune = group[0].dep.target.module, group[0].dep.handler
        have, left = width(layer), width(narrow.get_submodule(names[layer]))
        if have == left:
            continue
        lowest = score(group).argsort(stable=True)[: have - left].tolist()
        part = graph.get_pruning_group(layer, prune, idxs=lowest)
        if not graph.check_pruning_group(part):
            raise ValueError(f"nothing would be left beside {names[layer]}")
        part.prune()


def width(layer: nn.Module) -> int:
    """How many channels a layer puts out."""
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels  # type: ignore[return-value]
