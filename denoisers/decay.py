"""AdamW and SGD whose weight decay may leave out biases and norms."""

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW


def decaying(parameters: Iterable[nn.Parameter], decay_norms_and_biases: bool) -> list[dict[str, Any]]:
    """Parameter groups: all together; or those of two dimensions and more, then the others, which do not decay.

    Biases, the gains of norms and single numbers have one dimension or none (He et al., "Bag of tricks for image
    classification with convolutional neural networks", CVPR 2019, section 3.1). An empty group is left out.
    """
    parameters = list(parameters)
    if decay_norms_and_biases:
        return [{"params": parameters}]
    weights, others = ([p for p in parameters if (p.ndim > 1) == side] for side in (True, False))
    groups: list[dict[str, Any]] = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def adamw(
    parameters: Iterable[nn.Parameter],
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    amsgrad: bool = False,
    foreach: bool | None = None,
    fused: bool | None = None,
    decay_norms_and_biases: bool = True,
) -> AdamW:
    """:class:`torch.optim.AdamW` (Loshchilov and Hutter, ICLR 2019) of :func:`decaying`.

    Raises:
        ValueError: values that AdamW refuses.
    """
    groups = decaying(parameters, decay_norms_and_biases)
    return AdamW(groups, lr, (betas[0], betas[1]), eps, weight_decay, amsgrad, foreach=foreach, fused=fused)


def sgd(
    parameters: Iterable[nn.Parameter],
    *,
    lr: float,
    weight_decay: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    foreach: bool | None = None,
    fused: bool | None = None,
    decay_norms_and_biases: bool = True,
) -> SGD:
    """:class:`torch.optim.SGD` of :func:`decaying`.

    Raises:
        ValueError: values that SGD refuses.
    """
    groups = decaying(parameters, decay_norms_and_biases)
    return SGD(groups, lr, momentum, dampening, weight_decay, nesterov, foreach=foreach, fused=fused)
