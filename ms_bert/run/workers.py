"""The workers that compute a run together: which one this process is, and what they tell each other."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Workers(Protocol):
    """Processes that compute each batch together.

    Attributes:
        rank: of this one, from 0. count: of them all.
    """

    rank: int
    count: int

    def gather(self, array: np.ndarray) -> np.ndarray:
        """The arrays of all workers, (count, ...), which each of them gives at the same time, of one shape and dtype."""


class Alone:
    """The one worker of a run that has no other."""

    rank, count = 0, 1

    def gather(self, array: np.ndarray) -> np.ndarray:
        return array[None]


ALONE = Alone()
