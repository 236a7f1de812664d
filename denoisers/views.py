"""The eight flips and rotations of a picture."""

from typing import NamedTuple

from torch import Tensor


class View(NamedTuple):
    """One of them: rows and columns are turned round, then exchanged."""

    rows: bool = False
    columns: bool = False
    exchanged: bool = False

    def of(self, picture: Tensor) -> Tensor:
        """[..., H, W] → the same seen so, [..., H, W] or [..., W, H]."""
        turned = self.turned(picture)
        return turned.transpose(-2, -1) if self.exchanged else turned

    def undo(self, picture: Tensor) -> Tensor:
        """The inverse of :meth:`of`."""
        return self.turned(picture.transpose(-2, -1) if self.exchanged else picture)

    def turned(self, picture: Tensor) -> Tensor:
        dims = [dim for dim, turned in ((-2, self.rows), (-1, self.columns)) if turned]
        return picture.flip(dims) if dims else picture


UPRIGHT = (View(),)
EIGHT = tuple(View(bool(n & 1), bool(n & 2), bool(n & 4)) for n in range(8))
