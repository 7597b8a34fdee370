"""Leaves: the parts of a batch whose gradients and losses are added up in an order that nothing else decides.

Each leaf is computed by itself. Its gradients are added to those of its neighbour, the sum to that of the next two, and
so on, a tree whose form follows from the number of leaves alone. So any number of workers, each of which has as many
leaves that are neighbours, comes to the same bytes. Losses are added up in float64, one leaf after the other.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from ms_bert.data.batches import Batch
from ms_bert.options import TrainingOptions
from ms_bert.randomness import DropoutColumns, dropout_keys
from ms_bert.run.workers import Workers


@dataclasses.dataclass(frozen=True)
class Part:
    """What is computed at once: a leaf, or one of the --accumulate parts of it.

    Attributes:
        batch: the rows of this part. totals: for each of the task's weights its sum over the whole step, at least 1,
        which each part's losses are divided by. row_keys (rows * S, 1), column_keys (columns,): for dropout.
    """

    batch: Batch
    totals: tuple[np.float32, ...]
    row_keys: np.ndarray
    column_keys: np.ndarray


def leaves(
    batch: Batch,
    weights: tuple[str, ...],
    options: TrainingOptions,
    step: int,
    columns: DropoutColumns,
    workers: Workers,
) -> list[list[Part]]:
    """The leaves of this worker, each in its parts, of the batch of all at a 0-based step.

    Args:
        weights: of the task. columns: of the model's dropout keys.
    """
    rows, tokens = batch["input_ids"].shape
    if tokens > columns.config.max_position_embeddings:  # a kernel would read keys that are not there
        raise ValueError(f"rows of {tokens} tokens for a model of {columns.config.max_position_embeddings} positions")
    # The keys are those of the whole batch, so that a batch in parts drops the very same units.
    row_keys, column_keys = dropout_keys(options.seed, step, rows * tokens, columns.total)
    totals = tuple(np.float32(max(batch[name].sum(), 1.0)) for name in weights)
    parts = [
        Part(part, totals, own, column_keys)
        for part, own in zip(cut(batch, options), np.split(row_keys, options.parts))
    ]
    first, count = own_leaves(options, workers)
    size = options.accumulate
    return [parts[leaf * size : (leaf + 1) * size] for leaf in range(first, first + count)]


def own_leaves(options: TrainingOptions, workers: Workers) -> tuple[int, int]:
    """The first leaf of this worker, and how many it has."""
    count = options.in_leaves // workers.count
    return workers.rank * count, count


def cut(batch: Batch, options: TrainingOptions) -> list[Batch]:
    """A batch in all its parts, each of which fits into memory."""
    arrays = {name: np.split(value, options.parts) for name, value in batch.items()}
    return [{name: values[number] for name, values in arrays.items()} for number in range(options.parts)]


class Tree:
    """In which order gradients are added up, with few of them in memory.

    The gradients of leaves are added to buffer 0; `carried` says when a buffer is added to the next one, and emptied.
    After the last leaf buffer `levels` has the sum, and all others are empty.

    Args:
        count: of the leaves, a power of two. parts: of each.

    Attributes:
        at_once: leaves that are added to buffer 0 before it is carried: the two of a pair, where both are whole.
    """

    def __init__(self, count: int, parts: int):
        self.at_once = 2 if parts == 1 and count > 1 else 1
        self.levels = (count // self.at_once).bit_length() - 1

    def carried(self, done: int) -> list[int]:
        """The buffers that are carried, one after the other, when so many leaves are done."""
        times, odd = divmod(done, self.at_once)
        return [] if odd else [level for level in range(self.levels) if times % 2**level == 0]


def added(sums: Sequence[np.ndarray], workers: Workers) -> np.ndarray:
    """The sums (K,) float64 of all leaves of all workers, one after the other.

    Args:
        sums: of the leaves of this worker.
    """
    gathered = workers.gather(np.stack(sums).astype(np.float64))
    return functools.reduce(np.add, gathered.reshape(-1, gathered.shape[-1]))
