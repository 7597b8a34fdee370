"""Tiles: the rows of a parameter that one worker updates, and whose squares are one summand of a norm.

They follow from the shapes alone. So a norm is the same sum of the same summands, however many workers share them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

VALUES = 2**20  # of a tile, at most, unless a single row has more; a kernel of `native/optimizer.h` counts likewise


def tile_rows(shape: tuple[int, ...]) -> int:
    """How many rows, along the first axis, a tile of a tensor of this shape has; the last one may have fewer."""
    return max(1, VALUES // math.prod(shape[1:]))


def bounds(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """The first row of each tile, and the one after its last."""
    size = tile_rows(shape)
    return [(begin, min(begin + size, shape[0])) for begin in range(0, shape[0], size)]


@dataclasses.dataclass(frozen=True)
class Tile:
    """Rows of a parameter.

    Attributes:
        parameter: its name. begin, end: of the rows. shape: of the rows.
    """

    parameter: str
    begin: int
    end: int
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """Of the rows."""
        return f"{self.parameter}[{self.begin}:{self.end}]"

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


def tiles(shapes: Mapping[str, tuple[int, ...]]) -> list[Tile]:
    """Those of parameters, one after the other."""
    return [
        Tile(name, begin, end, (end - begin, *shape[1:]))
        for name, shape in shapes.items()
        for begin, end in bounds(shape)
    ]
