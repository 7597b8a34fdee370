"""The C++ library of fused CPU kernels: whether it is there, what it runs on, how many threads it takes."""

from __future__ import annotations

import ctypes
import functools
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ms_bert.kernels.native.sources import sources_hash

# The variable is for a build with sanitizers.
LIBRARY = Path(os.environ.get("MS_BERT_KERNELS") or Path(__file__).with_name("libms_bert_kernels.so"))
BY_HAND = ("baseline", "tiles_by_hand")  # take many instructions for each product of bfloat16 or int8; for tests
# What the library may compute with, by the type that products multiply, the widest first.
INSTRUCTIONS = {
    "float32": ("avx512", "avx2", "baseline"),
    "bfloat16": ("amx_bf16", "avx512_bf16", *BY_HAND),
    "int8": ("amx_int8", "avx512_vnni", *BY_HAND),  # of encoders
}
PRECISIONS = tuple(INSTRUCTIONS)
REFUSED = 2  # what a kernel returns for arrays that do not fit; it says why on standard error
GAIN = 1.2  # the least by which products in another type must be faster than those in float32, to be used


@functools.lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(str(LIBRARY))
        library.ms_bert_instructions.restype = library.ms_bert_sources.restype = ctypes.c_char_p
        library.ms_bert_product_seconds.restype = ctypes.c_double
        library.ms_bert_set_threads.argtypes = [ctypes.c_int]
    except (OSError, AttributeError):
        return None
    return library


def why_not(precision: str = "float32") -> str | None:
    """Why the library cannot be used, or not for products of this type, as part of a sentence; None where it can."""
    if not LIBRARY.exists():
        return "they were not built when this package was installed"
    if library() is None:
        return f"{LIBRARY.name} cannot be loaded here"
    if library().ms_bert_sources().decode() != sources_hash(Path(__file__).parent):
        return "they were built from other sources; install this package again"
    if precision != "float32":
        if instructions(precision) in BY_HAND:
            needed = " or ".join(name for name in INSTRUCTIONS[precision] if name not in BY_HAND)
            return f"this processor, or the compiler that built them, has no products in {precision} ({needed})"
        if gain(precision) < GAIN:
            return f"products in {precision} are {gain(precision):.2f} times as fast as in float32 on this processor"
    return None


@functools.lru_cache
def gain(precision: str) -> float:
    """How many times as fast a product of this type is as one in float32; measured, for instructions do not tell it."""
    pair = [PRECISIONS.index(name) for name in ("float32", precision)]
    float32, other = np.min([[library().ms_bert_product_seconds(i) for i in pair] for _ in range(5)], axis=0)
    return float(float32 / other)


def instructions(precision: str = "float32") -> str:
    """The widest instruction set that the processor and the library have for products of this type."""
    return library().ms_bert_instructions(PRECISIONS.index(precision)).decode()


def use(instructions: str, precision: str = "float32") -> bool:
    """Compute with these instructions and no wider ones; False where the processor or the library has them not."""
    return bool(library().ms_bert_use(PRECISIONS.index(precision), instructions.encode()))


def kernel(name: str, precision: str = "float32") -> str:
    """The library's function of a kernel whose products multiply numbers of this type."""
    return f"ms_bert_{name}" if precision == "float32" else f"ms_bert_{precision}_{name}"


def set_threads(threads: int) -> None:
    """Let the kernels use so many threads; 0: as many as the process may run on."""
    library().ms_bert_set_threads(threads)


def threads() -> int:
    """How many threads the kernels use."""
    return library().ms_bert_threads()


def kept_shape(shape: Sequence[int]) -> tuple[int]:
    """Of what a kernel in bfloat16 keeps of an array of this shape for its gradient, in int32 of half as many bits."""
    return ((math.prod(shape) + 1) // 2,)


def kept_of(arrays: Sequence[np.ndarray], precision: str) -> list[np.ndarray]:
    """Room for what a kernel keeps of arrays of these shapes."""
    if precision == "float32":
        return [np.empty_like(array) for array in arrays]
    return [np.empty(kept_shape(array.shape), np.int32) for array in arrays]


def call(name: str, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], precision: str = "float32") -> None:
    """Run one kernel on arrays, float32 or int32 and contiguous, without MindSpore; see native/kernels.cpp.

    Raises:
        ValueError: they do not fit; a line on standard error says why. MemoryError: there is too little.
    """
    arrays = [*inputs, *outputs]
    for array in arrays:
        if array.dtype not in (np.float32, np.int32) or not array.flags.c_contiguous:
            raise ValueError(f"an array of {array.dtype} was given; kernels take contiguous float32 or int32")
    data = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
    ranks = (ctypes.c_int * len(arrays))(*(array.ndim for array in arrays))
    sizes = [(ctypes.c_int64 * max(array.ndim, 1))(*array.shape) for array in arrays]
    shapes = (ctypes.POINTER(ctypes.c_int64) * len(arrays))(*sizes)
    failed = getattr(library(), kernel(name, precision))(len(arrays), data, ranks, shapes, None, None, None)
    if failed:
        raise ValueError(f"{name}: arrays that do not fit") if failed == REFUSED else MemoryError(name)
