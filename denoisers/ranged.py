"""Networks that see pictures in another range than [0, 1], such as [-1, 1]."""

from collections.abc import Sequence

from torch import Tensor, nn

from denoisers.clips import reach_of


class Ranged(nn.Module):
    """A network inside which pictures lie in [low, high]; outside they lie in [0, 1], and so does the estimate.

    Args:
        network: ``network(noisy, level) -> estimate``, all in [low, high]; the level is scaled likewise.
        low, high: of the range.
    """

    def __init__(self, network: nn.Module, *, low: float, high: float) -> None:
        super().__init__()
        self.network, self.low, self.scale = network, low, high - low
        self.whole, self.reach = getattr(network, "whole", False), reach_of(network)

    def forward(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        estimate = self.network(noisy * self.scale + self.low, None if level is None else level * self.scale)
        return (estimate - self.low) / self.scale


def ranged(network: nn.Module, value_range: Sequence[float]) -> nn.Module:
    """A network as it is for the range [0, 1]; for any other, inside a :class:`Ranged`.

    Raises:
        ValueError: not two numbers, the first one below the second.
    """
    ends = [*value_range] if isinstance(value_range, Sequence) else []
    if len(ends) != 2 or not all(isinstance(end, int | float) for end in ends) or not ends[0] < ends[1]:
        raise ValueError(f"value_range={value_range}: two numbers, the first below the second, such as [0,1] or [-1,1]")
    return network if ends == [0, 1] else Ranged(network, low=float(ends[0]), high=float(ends[1]))
