"""Noises made of noises: one after the other, or one of several."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.noise.base import Noise, Params


class Composite(Noise):
    """What is made of named noises; its parameters are theirs, as ``NAME.PARAMETER``.

    Args:
        parts: name → noise, in order.
    """

    def __init__(self, parts: Mapping[str, Noise]) -> None:
        super().__init__()
        if not parts:
            raise ValueError(f"{type(self).__name__} needs at least one noise")
        self.properties = frozenset.intersection(*(noise.properties for noise in parts.values())) - {
            "stein",
            "gaussian",
        }
        self.parts: Mapping[str, Noise] = nn.ModuleDict(parts)  # type: ignore[assignment]

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> Params:
        return {
            f"{name}.{key}": value
            for name, noise in self.parts.items()
            for key, value in noise.generate_parameters(batch_shape).items()
        }

    @staticmethod
    def of(name: str, params: Params) -> Params:
        """The parameters of one of them."""
        return {key.removeprefix(f"{name}."): value for key, value in params.items() if key.startswith(f"{name}.")}


class ChainNoise(Composite):
    """One after the other; what each puts out is what the next one gets. The level is measured over all.

    Args:
        steps: name → noise, in order; a step that is null is left out.
    """

    def __init__(self, *, steps: Mapping[str, Noise | None]) -> None:
        super().__init__({name: noise for name, noise in steps.items() if noise is not None})

    def apply_transform(
        self, input: Tensor, params: Params, flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        for name, noise in self.parts.items():
            input = noise.apply_transform(input, self.of(name, params), flags)
        return input


class MixedNoise(Composite):
    """Each sample meets one of several noises, drawn by their weights.

    Args:
        choices: name → noise; one that is null is left out.
        weights: name → how often it is drawn, relative to the others; 1 where nothing is said.
    """

    def __init__(self, *, choices: Mapping[str, Noise | None], weights: Mapping[str, float] | None = None) -> None:
        super().__init__({name: noise for name, noise in choices.items() if noise is not None})
        weights = weights or {}
        if unknown := sorted(set(weights) - set(choices)):
            raise ValueError(f"weights: {', '.join(unknown)}: no such noise among {', '.join(choices)}")
        self.weights = torch.tensor([float(weights.get(name, 1)) for name in self.parts])
        if self.weights.min() < 0 or self.weights.sum() == 0:
            raise ValueError(f"weights={dict(weights)}: must not be negative, nor all of them 0")

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> Params:
        choice = torch.multinomial(self.weights, batch_shape[0], replacement=True)
        return super().generate_parameters(batch_shape) | {"choice": choice}

    def apply_transform(
        self, input: Tensor, params: Params, flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        noisy = torch.empty_like(input)
        for name, chosen in self.drawn(params):
            part = {key: value[chosen] for key, value in self.of(name, params).items()}
            noisy[chosen] = self.parts[name].apply_transform(input[chosen], part, flags)
        return noisy

    def drawn(self, params: Params) -> list[tuple[str, Tensor]]:
        """The noises that were drawn, each with the numbers of its samples."""
        found = ((name, (params["choice"] == number).nonzero()[:, 0]) for number, name in enumerate(self.parts))
        return [(name, chosen) for name, chosen in found if len(chosen)]
