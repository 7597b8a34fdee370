"""A tensor of a checkpoint file: what it is at once, its values when they are asked for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import ml_dtypes
import numpy as np

# By the names that numpy and the frameworks give them; bfloat16 is ml_dtypes'.
DTYPES: dict[str, np.dtype] = {
    **{
        name: np.dtype(name)
        for name in (
            "float64",
            "float32",
            "float16",
            "int64",
            "int32",
            "int16",
            "int8",
            "uint64",
            "uint32",
            "uint16",
            "uint8",
            "bool",
        )
    },
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor whose values stay in their file until `read`.

    Attributes:
        dtype: one of the values of DTYPES. shape: its sizes; () is a scalar.
        read: its values, a C-contiguous little-endian array of exactly this dtype and shape; the bytes are those of the
            file, NaN payloads and the sign of zero included. Each call reads again, so that what is not held is free.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return self.size * self.dtype.itemsize

    @classmethod
    def of(cls, array: np.ndarray) -> Tensor:
        """A tensor that is in memory already; made contiguous."""
        array = np.ascontiguousarray(array).reshape(array.shape)  # ascontiguousarray makes a scalar one-dimensional
        return cls(array.dtype, array.shape, lambda: array)


Tensors = dict[str, Tensor]  # in the order of the file

_BLOCK = 1 << 20  # bytes


def same_bytes(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays have the same dtype, shape and bytes: -0.0 differs from 0.0, and a NaN equals itself."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    a, b = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (a, b))
    # In blocks: comparing makes an array as long as what is compared.
    return all(np.array_equal(a[i : i + _BLOCK], b[i : i + _BLOCK]) for i in range(0, len(a), _BLOCK))
