"""A tensor of a checkpoint file: what it is at once, its values when they are asked for."""

from __future__ import annotations

import dataclasses
import errno
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import ml_dtypes
import numpy as np

from ms_bert.errors import UserError

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

FLOATS = ("float32", "float16", "bfloat16", "float64")  # what weights are of

_BLOCK = 1 << 20  # bytes: what fits a core's cache


@dataclasses.dataclass(frozen=True)
class Place:
    """A range of bytes of a file."""

    path: Path
    offset: int
    size: int

    def send_to(self, file: BinaryIO) -> bool:
        """Let the kernel append the bytes to a file; False, with nothing done, where it cannot."""
        sent = 0
        with open(self.path, "rb", buffering=0) as source:
            while sent < self.size:
                try:
                    count = os.sendfile(file.fileno(), source.fileno(), self.offset + sent, self.size - sent)
                except OSError as error:
                    if sent or error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
                        raise
                    return False
                if not count:
                    raise self._too_short()
                sent += count
        return True

    def _too_short(self) -> UserError:
        return UserError(f"{self.path} is shorter than when it was opened; fetch or write it again.")

    def blocks(self) -> Iterator[memoryview]:
        """The bytes, a block at a time, through one buffer."""
        buffer, left = memoryview(bytearray(min(_BLOCK, self.size))), self.size
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self.offset)
            while left:
                block = buffer[: min(left, _BLOCK)]
                filled = 0
                while filled < len(block):
                    count = file.readinto(block[filled:])
                    if not count:
                        raise self._too_short()
                    filled += count
                left -= len(block)
                yield block


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor whose values stay in their file until `read`.

    Attributes:
        dtype: one of the values of DTYPES. shape: its sizes; () is a scalar.
        place: where exactly these bytes lie in a file, if they do.
        read: its values, a C-contiguous little-endian array of exactly this dtype and shape; the bytes are those of the
            file, NaN payloads and the sign of zero included. Each call reads again, so that what is not held is free.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    place: Place | None = None

    def copy_to(self, file: BinaryIO) -> None:
        """Append the bytes of the values to an unbuffered file; by the kernel alone where they lie in one.

        Raises:
            UserError: the file that they lie in has become shorter. OSError: they cannot be written.
        """
        if self.place is None or not self.place.send_to(file):
            for block in self.blocks():
                while block:
                    block = block[file.write(block) :]

    def blocks(self) -> Iterator[memoryview]:
        """The bytes of the values, a block at a time, each valid until the next; all but the last are of one size.

        Raises:
            UserError: the file has become shorter.
        """
        if self.place is not None:
            yield from self.place.blocks()
            return
        data = self.read().reshape(-1).view(np.uint8).data
        for begin in range(0, len(data), _BLOCK):
            yield data[begin : begin + _BLOCK]

    def transposed(self) -> Tensor:
        """A matrix the other way round."""

        def read() -> np.ndarray:
            # As integers: no copy of a float may touch the bits of a NaN.
            bits = self.read().view(f"u{self.dtype.itemsize}")
            return np.ascontiguousarray(bits.T).view(self.dtype)

        return Tensor(self.dtype, self.shape[::-1], read)

    def reshaped(self, shape: tuple[int, ...]) -> Tensor:
        """The same values in another shape of as many; they lie where they lay."""
        return Tensor(self.dtype, shape, lambda: self.read().reshape(shape), self.place)

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


def same_bytes(a: Tensor | np.ndarray, b: Tensor | np.ndarray) -> bool:
    """Whether two have the same dtype, shape and bytes: -0.0 differs from 0.0, and a NaN equals itself."""
    a, b = (value if isinstance(value, Tensor) else Tensor.of(value) for value in (a, b))
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in zip(a.blocks(), b.blocks(), strict=True))


def check_same(what: str, wanted: Tensors, found: Tensors) -> None:
    """Compare what was read back with what was to be written.

    Raises:
        OSError: there are others, or one has other bytes.
    """
    if wanted.keys() != found.keys():
        raise OSError(f"read back, the names of the {what} differ: {sorted(wanted.keys() ^ found.keys())[:3]}")
    with ThreadPoolExecutor(2) as pool:
        equal = pool.map(same_bytes, wanted.values(), [found[name] for name in wanted])
        for name, same in zip(wanted, equal):
            if not same:
                raise OSError(f"read back, {name} has other bytes than were written; the disk or memory is failing")


def cast(name: str, tensor: Tensor, dtype: str | None) -> Tensor:
    """The tensor in another dtype, rounded to nearest even; finite values must stay finite."""
    if dtype is None or tensor.dtype == DTYPES[dtype]:
        return tensor
    if tensor.dtype.name not in FLOATS:
        raise UserError(f"{name} is {tensor.dtype.name}; --dtype is for floating-point weights.")

    def load() -> np.ndarray:
        values = tensor.read()
        with np.errstate(over="ignore", invalid="ignore"):
            if dtype == "bfloat16" and values.dtype == np.float64:
                values = _to_odd_float32(values)  # ml_dtypes goes by float32 and would round twice
            cast = values.astype(DTYPES[dtype])
        lost = int((np.isfinite(values) & ~np.isfinite(cast)).sum())
        if lost:
            values_are = "value is" if lost == 1 else "values are"
            raise UserError(f"{name}: {lost} {values_are} too large for {dtype}; use bfloat16 or float32.")
        return cast

    return Tensor(DTYPES[dtype], tensor.shape, load)


def _to_odd_float32(values: np.ndarray) -> np.ndarray:
    """float64 to float32, what is inexact rounded to an odd last bit, so that rounding once more is right."""
    nearest = values.astype(np.float32)
    inexact = np.isfinite(nearest) & (nearest != values)
    bits = nearest.view(np.uint32)
    bits[inexact & (np.abs(nearest) > np.abs(values))] -= 1
    bits[inexact] |= 1
    return nearest
