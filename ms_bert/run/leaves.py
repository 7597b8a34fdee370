"""Leaves: the parts of a batch whose gradients and losses are added up in an order that nothing else decides.

Each leaf is computed by itself. Its gradients are added to those of its neighbour, the sum to that of the next two, and
so on, a tree whose form follows from the number of leaves alone. So any number of workers, each of which has as many
leaves that are neighbours, comes to the same bytes. Losses are added up in float64, one leaf after the other.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from ms_bert.data.batches import Batch
from ms_bert.options import TrainingOptions
from ms_bert.randomness import DropoutColumns, dropout_keys
from ms_bert.run.workers import Workers


@dataclasses.dataclass(frozen=True)
class Part:
    """What is computed at once: a leaf, or one of the --accumulate parts of it.

    Attributes:
        batch: the rows of this part. totals: for each of the task's weights its sum over the whole step, 1 where that
        is 0, which each part's losses are divided by. row_keys (rows * S, 1), column_keys (columns,): for dropout.
    """

    batch: Batch
    totals: tuple[np.float32, ...]
    row_keys: np.ndarray
    column_keys: np.ndarray


def own_batches(make: Callable[[int], Batch], workers: Workers) -> Callable[[int], Batch]:
    """What makes this worker's rows of the batch of any step, of what makes the whole batch.

    If that has `part` (see `ms_bert.data.batches.BatchMaker`), no other rows are made.
    """
    if workers.count == 1:
        return make
    if part := getattr(make, "part", None):
        return lambda step: part(step, workers.rank, workers.count)
    return lambda step: own_rows(make(step), workers)


def own_rows(batch: Batch, workers: Workers) -> Batch:
    """The rows of a whole batch that this worker computes."""
    return {name: np.split(value, workers.count)[workers.rank] for name, value in batch.items()}


def leaves(
    own: Batch,
    weights: tuple[str, ...],
    options: TrainingOptions,
    step: int,
    columns: DropoutColumns,
    workers: Workers,
) -> list[list[Part]]:
    """The leaves of this worker, each in its parts, at a 0-based step.

    Args:
        own: this worker's rows of the batch. weights: of the task. columns: of the model's dropout keys.
    """
    rows, tokens = own["input_ids"].shape
    if tokens > columns.config.max_position_embeddings:  # a kernel would read keys that are not there
        raise ValueError(f"rows of {tokens} tokens for a model of {columns.config.max_position_embeddings} positions")
    count, size = own_leaves(options, workers), options.accumulate
    divided = _cut(own, count)
    sums = added([np.array([leaf[name].sum() for name in weights]) for leaf in divided], workers)
    totals = tuple(np.float32(total if total > 0.0 else 1.0) for total in sums)
    drawn = options.seed, step, rows // count * tokens
    _, column_keys = dropout_keys(*drawn, columns.total)
    made = []
    for number, leaf in enumerate(divided, workers.rank * count):
        # The keys are those of the whole leaf, so that its rows, computed in parts, drop the very same units.
        row_keys, _ = dropout_keys(*drawn, 0, number)
        parts = zip(_cut(leaf, size), np.split(row_keys, size))
        made.append([Part(part, totals, keys, column_keys) for part, keys in parts])
    return made


def own_leaves(options: TrainingOptions, workers: Workers) -> int:
    """How many leaves each worker has; they are neighbours, in the order of the workers."""
    return options.in_leaves // workers.count


def cut(batch: Batch, options: TrainingOptions) -> list[Batch]:
    """A batch in all its parts, each of which fits into memory."""
    return _cut(batch, options.parts)


def _cut(batch: Batch, count: int) -> list[Batch]:
    arrays = {name: np.split(value, count) for name, value in batch.items()}
    return [{name: values[number] for name, values in arrays.items()} for number in range(count)]


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
