"""The workers that compute a run together: which one this process is, and what they tell each other."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Workers(Protocol):
    """Processes that compute each batch together.

    Attributes:
        rank: of this one, from 0. count: of them all.
    """

    rank: int
    count: int

    def close(self) -> None:
        """Leave the others, once all are done; nothing can be exchanged then."""

    def gather(self, array: np.ndarray) -> np.ndarray:
        """(count, ...): what each worker gives at the same time, arrays of one shape and dtype."""


def gathered(workers: Workers, arrays: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """The arrays of each worker, of any shapes and numbers; none of a worker that has none to give."""
    if workers.count == 1:
        return [list(arrays)]
    content = io.BytesIO()
    np.savez(content, *arrays)
    own = np.frombuffer(content.getvalue(), np.uint8)
    sizes = workers.gather(np.array([len(own)]))[:, 0]
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: len(own)] = own
    found = []
    for content_of_one, size in zip(workers.gather(padded), sizes):
        with np.load(io.BytesIO(content_of_one[:size].tobytes())) as held:
            found.append([held[name] for name in held.files])
    return found


class Alone:
    """The one worker of a run that has no other."""

    rank, count = 0, 1

    def close(self) -> None:
        pass

    def gather(self, array: np.ndarray) -> np.ndarray:
        return array[None]


ALONE = Alone()
