"""Numbers that are stored in other dtypes: what both may be roundings of is the same."""

from __future__ import annotations

import numpy as np

# Of a dtype: the bits of its mantissa after the point, and the exponent below which its numbers are evenly spaced.
_BITS = {"float64": (52, -1022), "float32": (23, -126), "float16": (10, -14), "bfloat16": (7, -126)}


def common(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two tensors in float32, made the same wherever one number, rounded to nearest, can be stored as both.

    They take the value of the side that rounds more. What differs by more keeps its own value, on both sides.

    Args:
        a, b: finite, each in the dtype in which it is stored.
    """
    if a.dtype == b.dtype:
        return a.astype(np.float32), b.astype(np.float32)
    one, other = a.astype(np.float64), b.astype(np.float64)
    steps = _step(one, a.dtype.name), _step(other, b.dtype.name)
    alike = np.abs(one - other) <= (steps[0] + steps[1]) / 2
    coarser = np.where(steps[0] > steps[1], one, other)
    made = (np.where(alike, coarser, value).astype(np.float32) for value in (one, other))
    return next(made), next(made)


def _step(value: np.ndarray, dtype: str) -> np.ndarray:
    """The distance of a dtype's numbers at these values, float64."""
    bits, least = _BITS[dtype]
    exponent = np.frexp(value)[1] - 1  # frexp's mantissa is below 1
    exponent = np.where(value == 0.0, least, exponent)
    return np.exp2(np.maximum(exponent, least).astype(np.float64) - bits)
