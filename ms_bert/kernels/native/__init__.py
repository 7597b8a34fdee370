"""The C++ library of fused CPU kernels: whether it is there, what it runs on, how many threads it takes."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ms_bert.kernels.native.sources import sources_hash

# The variable is for a build with sanitizers.
LIBRARY = Path(os.environ.get("MS_BERT_KERNELS") or Path(__file__).with_name("libms_bert_kernels.so"))
INSTRUCTIONS = ("avx512", "avx2", "baseline")


@functools.lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(str(LIBRARY))
        library.ms_bert_instructions.restype = library.ms_bert_sources.restype = ctypes.c_char_p
        library.ms_bert_set_threads.argtypes = [ctypes.c_int]
    except (OSError, AttributeError):
        return None
    return library


def why_not() -> str | None:
    """Why the library cannot be used, as part of a sentence; None where it can."""
    if not LIBRARY.exists():
        return "they were not built when this package was installed"
    if library() is None:
        return f"{LIBRARY.name} cannot be loaded here"
    if library().ms_bert_sources().decode() != sources_hash(Path(__file__).parent):
        return "they were built from other sources; install this package again"
    return None


def instructions() -> str:
    """The widest instruction set that the processor and the library have: 'avx512', 'avx2' or 'baseline'."""
    return library().ms_bert_instructions().decode()


def use(instructions: str) -> bool:
    """Compute with these instructions and no wider ones; False where the processor or the library has them not."""
    return bool(library().ms_bert_use(instructions.encode()))


def set_threads(threads: int) -> None:
    """Let the kernels use so many threads; 0: as many as the process may run on."""
    library().ms_bert_set_threads(threads)


def threads() -> int:
    """How many threads the kernels use."""
    return library().ms_bert_threads()


def call(name: str, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> None:
    """Run one kernel on arrays, float32 or int32 and contiguous, without MindSpore; see native/kernels.cpp."""
    arrays = [*inputs, *outputs]
    for array in arrays:
        if array.dtype not in (np.float32, np.int32) or not array.flags.c_contiguous:
            raise ValueError(f"an array of {array.dtype} was given; kernels take contiguous float32 or int32")
    data = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
    ranks = (ctypes.c_int * len(arrays))(*(array.ndim for array in arrays))
    sizes = [(ctypes.c_int64 * max(array.ndim, 1))(*array.shape) for array in arrays]
    shapes = (ctypes.POINTER(ctypes.c_int64) * len(arrays))(*sizes)
    if getattr(library(), f"ms_bert_{name}")(len(arrays), data, ranks, shapes, None, None, None):
        raise MemoryError(name)
