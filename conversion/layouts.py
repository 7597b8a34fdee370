"""How a family stores a parameter where it is not as here: undone when it is read, and made when it is written.

Values are moved as bits, never computed with, and stay in their file until they are asked for. A tensor that does not
have the layout is left as it is, so that its shape is told as a fault.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from conversion.tensors import Tensor


@dataclasses.dataclass(frozen=True)
class Layout:
    """A way to store a parameter.

    Attributes:
        undone: from the stored tensor to ours. made: from ours to the stored one; None: this family is not written.
        lost: what of the stored tensor ours has no place for; '' for nothing.
    """

    undone: Callable[[Tensor], Tensor]
    made: Callable[[Tensor], Tensor] | None = None
    lost: str = ""


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.transposed() if len(tensor.shape) == 2 else tensor


def _without_first_row(tensor: Tensor) -> Tensor:
    if len(tensor.shape) != 2 or tensor.shape[0] < 2:
        return tensor
    return Tensor(tensor.dtype, (tensor.shape[0] - 1, tensor.shape[1]), lambda: tensor.read()[1:])


def _with_zeros_before(tensor: Tensor) -> Tensor:
    def read() -> np.ndarray:
        values = np.zeros(shape, tensor.dtype)
        values[1:] = tensor.read()
        return values

    shape = (tensor.shape[0] + 1, *tensor.shape[1:])
    return Tensor(tensor.dtype, shape, read)


def _merged(first: int, kernel: bool) -> Callable[[Tensor], Tensor]:
    """Merge the dimensions `first` and `first` + 1, heads and their size, into one; a kernel is (in, out) then."""

    def undone(tensor: Tensor) -> Tensor:
        if len(tensor.shape) != 2 + kernel:
            return tensor
        merged = math.prod(tensor.shape[first : first + 2])
        flat = tensor.reshaped((*tensor.shape[:first], merged, *tensor.shape[first + 2 :]))
        return flat.transposed() if kernel else flat

    return undone


TRANSPOSED = Layout(_transposed, _transposed)  # (in, out)
ROW_FOR_PADDING = Layout(_without_first_row, _with_zeros_before, "its first row, which only padding uses")
KERNEL_TO_HEADS = Layout(_merged(1, kernel=True))  # (in, heads, size)
KERNEL_FROM_HEADS = Layout(_merged(0, kernel=True))  # (heads, size, out)
BIAS_OF_HEADS = Layout(_merged(0, kernel=False))  # (heads, size)
