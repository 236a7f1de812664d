"""Fine-tuning: a network starts from trained weights, and parts of it may stay as they are."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from denoisers.checkpoint import CheckpointError, require_same

NAMED = 5  # keys in one message


def start_from(network: nn.Module, weights: Mapping[str, Tensor], *, strict: bool, source: str) -> str:
    """Gives a network trained weights; returns what was taken, in one line or, not all of it, in several.

    Args:
        network: whose weights are replaced.
        weights: key → tensor, by the keys of the network.
        strict: refuses keys or shapes that differ; otherwise those that agree are taken.
        source: what the weights are of, as messages name it.

    Raises:
        CheckpointError: keys or shapes differ, or none agree; the message names the first.
    """
    own = network.state_dict()
    taken = {key: tensor for key, tensor in weights.items() if key in own and own[key].shape == tensor.shape}
    if strict or not taken:
        remedy = "\n  init_strict=false takes those that agree" if taken else "\n  and nothing agrees"
        try:
            require_same(weights, own, "its weights", "this run's network")
        except CheckpointError as error:
            raise CheckpointError(f"init_from={source}: {error}{remedy}") from error
    network.load_state_dict(taken, strict=False)
    lines = [f"{len(taken)} of {len(own)} tensors are from {source}"]
    for found, what in (
        ([key for key in own if key not in taken], "begin as in a new network"),
        ([key for key in weights if key not in taken], "of the file are not taken"),
    ):
        if found:
            more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
            lines.append(f"  {len(found)} {what}: {', '.join(found[:NAMED])}{more}")
    return "\n".join(lines)


def freeze(network: nn.Module, patterns: str | Sequence[str]) -> list[str]:
    """Parameters whose names match get no gradient, hence no optimiser; returns their names.

    Args:
        network: whose parameters they are.
        patterns: of names such as ``body.0.weight``, with ``*``, ``?`` and ``[…]`` as in file names.

    Raises:
        ValueError: a pattern matches nothing, or nothing is left to train.
    """
    listed = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(listed, Sequence) or not all(isinstance(pattern, str) for pattern in listed):
        raise ValueError(f"freeze={patterns}: must be a pattern of parameter names, or a list of them")
    parameters = dict(network.named_parameters())
    frozen: set[str] = set()
    for pattern in listed:
        if not (matching := {name for name in parameters if fnmatchcase(name, pattern)}):
            some = ", ".join(list(parameters)[:NAMED])
            raise ValueError(f"freeze={pattern}: matches none of the network's {len(parameters)} parameters: {some}, …")
        frozen |= matching
    for name in frozen:
        parameters[name].requires_grad_(False)
    if frozen and not any(parameter.requires_grad for parameter in parameters.values()):
        raise ValueError(f"freeze={patterns}: matches all of the network's parameters; leave something to train")
    hold_statistics(network)
    return [name for name in parameters if name in frozen]


def hold_statistics(network: nn.Module) -> None:
    """Batch norms whose parameters are all frozen keep their statistics, and normalise by them, while training too.

    (Lightning's ``BaseFinetuning`` keeps the statistics but normalises by those of the batch: it would train another
    network than it tests.)
    """
    for norm in network.modules():
        parameters = list(norm.parameters()) if isinstance(norm, _BatchNorm) else []
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            norm.eval()
