"""How much longer is a pre-training step with LAMB than with AdamW, and how much longer is the update by itself?

Float32, dropout 0.1, clipping, rows without padding; contenders take turns. LAMB scales the update of a tensor by its
norm, so that it goes through a tensor twice: 10 numbers are read or written for each parameter, 7 by AdamW.
"""

import statistics
import time

import numpy as np

from benchmarks.contenders import THREADS, Work, all_measured, need_fused_kernels
from ms_bert.kernels import native
from ms_bert.tiles import bounds

WORKS = (
    (Work("lamb", "mini", rows=16, tokens=128, slots=20), 3, 9),
    (Work("lamb", "base", rows=8, tokens=128, slots=20), 3, 7),
)  # with the contenders held in memory at once, and the rounds
SHAPES = {"feed-forward": (3072, 768), "word embeddings": (30522, 768)}  # of BERT-base
NUMBERS = {
    "adam": (1e-4, 0.9, 0.1, 0.999, 0.001, 1e-8, 0.01, 1.0),
    "lamb": (1e-4, 0.9, 0.1, 0.999, 0.001, 1e-6, 0.01, 1.0, 1.0, 1.0, 1.0),
}  # in the order of optimizer.h


def measure(output):
    need_fused_kernels()
    yield {"update_alone": {name: _updates(shape) for name, shape in SHAPES.items()}}
    yield from all_measured(WORKS)


def _updates(shape: tuple[int, ...], rounds: int = 21) -> dict:
    """Nanoseconds for each parameter, and how many times as long LAMB takes, pair by pair."""
    native.set_threads(THREADS)
    rng, done = np.random.default_rng(0), np.zeros(1, np.float32)
    arrays = [np.abs(rng.standard_normal(shape)).astype(np.float32) for _ in range(4)]
    norms = np.zeros((len(bounds(shape)), 2), np.float32)
    seconds: dict[str, list[float]] = {name: [] for name in NUMBERS}
    for _ in range(rounds):
        for name, numbers in NUMBERS.items():
            settings = np.array(numbers, np.float32)
            begun = time.perf_counter()
            if name == "adam":
                native.call(name, [*arrays, settings], [done])
            else:
                native.call("lamb_moments", [*arrays, settings], [norms])
                native.call("lamb_update", [*arrays[:3], norms, settings], [done])
            seconds[name].append(time.perf_counter() - begun)
    values = arrays[0].size
    return {
        **{f"{name}_nanoseconds": round(statistics.median(found) / values * 1e9, 3) for name, found in seconds.items()},
        "lamb_times_adam": round(statistics.median(b / a for a, b in zip(*seconds.values())), 3),
    }
