"""Packed batches of sequences of any length: several in a row, few shapes, next to no padding.

The batch of a step is a pure function of (sequences, options, seed, step). It holds exactly the sequences of the step,
packed in as few rows as they need; the rows are filled up to one of a few numbers, so that few graphs are compiled.
"""

from __future__ import annotations

import bisect
import collections
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ms_bert.data.batches import Batch
from ms_bert.data.sequences import Sequences
from ms_bert.randomness import ORDER, permuted

SHAPES = 4  # of training batches, each a graph to compile
ROW = 16  # tokens of a row are a multiple of this, as Ascend's attention needs it
SHORTEST_ROW = 64  # tokens: shorter rows leave more of them empty
ROWS_ALONE = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)  # tokens
TOKENS_ALONE = 64  # of a batch of such rows, at least: one text costs no more than these, many cost little more
TOKENS_ELSEWHERE = 4096  # as TOKENS_ALONE, on devices that are slower to begin a batch than to compute it
INPUTS = ("input_ids", "sequence_ids", "token_type_ids", "position_ids", "cls_positions")
NUMBERS = "sequence_numbers"  # (B, N) int32 of a batch: which sequence it is, -1 where there is none
WEIGHTS = "weights"


def row_length(longest: int, positions: int) -> int:
    """S, the tokens of a row that holds sequences of at most so many.

    Args:
        positions: of the model, which a row must not exceed: each has dropout keys of its own.
    """
    return min(max(SHORTEST_ROW, -(-longest // ROW) * ROW), positions)


def packed(lengths: Sequence[int], tokens: int, most: int) -> list[list[int]]:
    """Which sequences go into which row of so many tokens, at most `most` in one: best fit, the longest first.

    Ties are decided by position, so that equal lengths always give equal rows.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, row) of those that take more, ascending
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = int(lengths[index])
        place = bisect.bisect_left(room, (length, -1))
        if place == len(room):
            left, row = tokens, len(rows)
            rows.append([])
        else:
            left, row = room.pop(place)
        rows[row].append(index)
        if len(rows[row]) < most:
            bisect.insort(room, (left - length, row))
    return rows


def grouped(sequences: Sequences, together: bool) -> list[list[int]]:
    """The numbers of the sequences of each owner, which stand one after the other; not together: each alone."""
    count = len(sequences)
    starts = np.flatnonzero(np.diff(sequences.owners, prepend=-1)) if together else np.arange(count)
    return [list(range(first, last)) for first, last in itertools.pairwise([*starts.tolist(), count])]


class TrainingBatches:
    """Makes the batch of any training step: sequences in an order of their own in each epoch, `batch_size` a step, in
    the last step of an epoch what is left.

    Args:
        sequences: at least 1. positions: of the model. batch_size: sequences of a step. seed: of the order. parts: a
            batch's rows can be divided into so many, of equally many sequences but for one (--leaves and --accumulate).
            weights: of each sequence's loss, (n,) float32; None: 1. together: sequences of one owner lie in one part of
            one step, and what is ordered and counted are the owners instead. augmented: the sequences of an epoch, as
            many in the same order, none of them longer; None: they are always the same.

    Attributes:
        steps_per_epoch. tokens: S, of a row.
    """

    def __init__(
        self,
        sequences: Sequences,
        positions: int,
        batch_size: int,
        seed: int,
        parts: int = 1,
        weights: np.ndarray | None = None,
        together: bool = False,
        augmented: Callable[[int], Sequences] | None = None,
    ):
        self.batch_size, self.seed, self.parts, self.weights = batch_size, seed, parts, weights
        self._of_epoch = functools.lru_cache(2)(augmented or (lambda epoch: sequences))
        self._groups = grouped(sequences, together)
        self.steps_per_epoch = -(-len(self._groups) // batch_size)
        lengths = sequences.lengths
        self.tokens = row_length(int(lengths.max()), positions)
        most = -(-batch_size // parts) * max(map(len, self._groups))
        self.most = int(min(most, self.tokens // lengths.min()))
        self._order = functools.lru_cache(2)(self._permutation)
        needed = [max(map(len, self._rows(step))) for step in range(self.steps_per_epoch)]
        self._heights = best_heights(collections.Counter(needed), SHAPES)
        # A step of the first epoch that needs each height; of several the first.
        self._steps = {self._height(rows): step for step, rows in reversed(list(enumerate(needed)))}

    def __call__(self, step: int) -> Batch:
        """See `filled`; the rows of each part lie together."""
        parts = self._rows(step)
        shape = (self._height(max(map(len, parts))), self.tokens)
        sequences = self._of_epoch(step // self.steps_per_epoch)
        made = [filled(sequences, rows, shape, self.most, self.weights) for rows in parts]
        return {name: np.concatenate([part[name] for part in made]) for name in made[0]}

    def samples(self, step: int = 0) -> list[Batch]:
        """A batch of each shape that a step of the first epoch has."""
        return [self(step) for _, step in sorted(self._steps.items())]

    def _height(self, needed: int) -> int:
        """Rows of each part. No later epoch changes the heights, which decide the dropout of a step; one may need more
        rows than the first."""
        return next((height for height in self._heights if height >= needed), needed)

    def _rows(self, step: int) -> list[list[list[int]]]:
        """The rows of each part of a step."""
        epoch, within = divmod(step, self.steps_per_epoch)
        numbers = self._order(epoch)[within * self.batch_size : (within + 1) * self.batch_size]
        lengths = self._of_epoch(epoch).lengths
        made = []
        for part in np.array_split(numbers, self.parts):
            chosen = [number for group in part.tolist() for number in self._groups[group]]
            rows = packed(lengths[chosen].tolist(), self.tokens, self.most)
            made.append([[chosen[index] for index in row] for row in rows])
        return made

    def _permutation(self, epoch: int) -> np.ndarray:
        size = len(self._groups)
        return permuted(np.arange(size), size, self.seed, ORDER, np.full(size, epoch))


class EvaluationBatches:
    """All sequences once, in batches of one shape.

    Args:
        positions: of the model. parts: the rows can be divided into so many. tokens: of a batch, at most about so many.
        together: sequences of one owner lie in one part of one batch.
    """

    def __init__(
        self, sequences: Sequences, positions: int, parts: int = 1, tokens: int = 2048, together: bool = False
    ):
        self.sequences, self.parts = sequences, parts
        lengths = sequences.lengths
        self.tokens = row_length(int(lengths.max()), positions)
        self.most = int(self.tokens // lengths.min())
        most_rows = max(1, tokens // self.tokens // parts)
        self._rows = self._whole(most_rows) if together else self._divided(most_rows)
        self.height = max(map(len, self._rows)) * parts

    def __len__(self) -> int:
        return -(-len(self._rows) // self.parts)

    def __call__(self, number: int) -> Batch:
        """See `filled`; the rows of each part lie together."""
        height = self.height // self.parts
        parts = self._rows[number * self.parts : (number + 1) * self.parts]
        rows = [row for part in parts for row in part + [[]] * (height - len(part))]
        return filled(self.sequences, rows, (self.height, self.tokens), self.most)

    def _divided(self, most_rows: int) -> list[list[list[int]]]:
        """The rows of each part, all of equally many but the last."""
        rows = packed(self.sequences.lengths.tolist(), self.tokens, self.most)
        height = min(most_rows, -(-len(rows) // self.parts))
        return [rows[i : i + height] for i in range(0, len(rows), height)]

    def _whole(self, most_rows: int) -> list[list[list[int]]]:
        """The rows of each part, which holds as many owners, one after the other, as have room, and at least one."""
        lengths = self.sequences.lengths.tolist()

        def rows(numbers: list[int]) -> list[list[int]]:
            found = packed([lengths[number] for number in numbers], self.tokens, self.most)
            return [[numbers[index] for index in row] for row in found]

        made: list[list[list[int]]] = []
        chosen: list[int] = []
        for group in grouped(self.sequences, together=True):
            if chosen and len(rows(chosen + group)) > most_rows:
                made.append(rows(chosen))
                chosen = []
            chosen = chosen + group
        return [*made, rows(chosen)]


class RowBatches:
    """All sequences once, each in a row of its own, in batches of a shape that follows from its length alone.

    So what a model gives for one does not depend on which others there are: matrix products round by their shape.

    Args:
        tokens: of a batch, if a row has not more; with 1, each sequence has a batch of its own, too.
    """

    def __init__(self, sequences: Sequences, tokens: int = TOKENS_ALONE):
        self.sequences, self._most = sequences, tokens
        by_length: dict[int, list[int]] = {}
        for number, length in enumerate(sequences.lengths.tolist()):
            by_length.setdefault(_row_alone(length), []).append(number)
        self._batches: list[tuple[int, list[int]]] = []
        for length, numbers in sorted(by_length.items()):
            height = max(1, self._most // length)
            self._batches += [(length, numbers[i : i + height]) for i in range(0, len(numbers), height)]

    def __len__(self) -> int:
        return len(self._batches)

    def __call__(self, number: int) -> Batch:
        """See `filled`; N = 1."""
        length, numbers = self._batches[number]
        return filled(self.sequences, [[number] for number in numbers], (max(1, self._most // length), length), 1)


def _row_alone(length: int) -> int:
    """S of a row for one sequence: few, for each is a graph to compile, and each at most half as long again."""
    return next((row for row in ROWS_ALONE if row >= length), -(-length // ROWS_ALONE[-1]) * ROWS_ALONE[-1])


def best_heights(needed: Mapping[int, int], most: int) -> list[int]:
    """At most so many numbers of rows, ascending, to one of which each batch is filled up, with the fewest rows in all.

    Args:
        needed: how many batches need a number of rows.
    """
    sizes = sorted(needed)
    # cost[k][i]: rows of the batches of the i smallest sizes, filled up to k heights of which the last is sizes[i - 1].
    cost: list[list[float]] = [[0.0] + [math.inf] * len(sizes)]
    choice: list[list[int]] = [[0] * (len(sizes) + 1)]
    for _ in range(most):
        row, chosen = [math.inf], [0]
        for i in range(1, len(sizes) + 1):
            options = []
            batches = 0
            for j in range(i - 1, -1, -1):
                batches += needed[sizes[j]]
                options.append((cost[-1][j] + batches * sizes[i - 1], j))
            least, where = min(options)
            row.append(least)
            chosen.append(where)
        cost.append(row)
        choice.append(chosen)
    kinds = min(range(1, most + 1), key=lambda k: (cost[k][-1], k))
    heights, i = [], len(sizes)
    for k in range(kinds, 0, -1):
        heights.append(sizes[i - 1])
        i = choice[k][i]
    return heights[::-1]


def filled(
    sequences: Sequences, rows: list[list[int]], shape: tuple[int, int], most: int, weights: np.ndarray | None = None
) -> Batch:
    """The batch of rows of sequences, N = `most` places in each.

    Args:
        rows: numbers of sequences, in at most B rows. shape: (B, S). weights: of all sequences, (n,) float32;
            None: 1 each.

    Returns:
        INPUTS, NUMBERS, WEIGHTS (B, N) float32, 0 where there is no sequence, and the targets: (B, N, ...) of
        sequences, (B, S, ...) of tokens, 0 where there is none.
    """
    count, tokens = shape
    batch = {name: np.zeros(shape, np.int32) for name in ("sequence_ids", "token_type_ids", "position_ids")}
    batch["input_ids"] = np.full(shape, sequences.pad, np.int32)
    batch["cls_positions"] = np.zeros((count, most), np.int32)
    batch[NUMBERS] = np.full((count, most), -1, np.int32)
    batch[WEIGHTS] = np.zeros((count, most), np.float32)
    for targets, places in ((sequences.of_sequences, most), (sequences.of_tokens, tokens)):
        for name, values in targets.items():
            batch[name] = np.zeros((count, places, *values.shape[1:]), values.dtype)
    for row, numbers in enumerate(rows):
        begin = 0
        for place, number in enumerate(numbers):
            first, last = sequences.starts[number], sequences.starts[number + 1]
            span = slice(begin, begin + last - first)
            batch["input_ids"][row, span] = sequences.ids[first:last]
            batch["token_type_ids"][row, span] = sequences.types[first:last]
            batch["sequence_ids"][row, span] = place + 1
            batch["position_ids"][row, span] = np.arange(last - first)
            batch["cls_positions"][row, place] = begin
            batch[NUMBERS][row, place] = number
            batch[WEIGHTS][row, place] = 1.0 if weights is None else weights[number]
            for name, values in sequences.of_tokens.items():
                batch[name][row, span] = values[first:last]
            for name, values in sequences.of_sequences.items():
                batch[name][row, place] = values[number]
            begin = span.stop
    return batch


class Unpacked:
    """What a model gives for packed batches, in the order of the sequences again: the inverse of `filled`.

    Args:
        per_token: whether it gives something for each token, (B, S, ...), or for each sequence, (B, N, ...).

    Attributes:
        values: (T, ...) or (n, ...), of the dtype of the first batch; 0 where none has come.
    """

    def __init__(self, sequences: Sequences, per_token: bool):
        self.sequences, self.per_token = sequences, per_token
        self.values = np.zeros((0, 0), np.float32)

    def add(self, batch: Batch, found: np.ndarray) -> None:
        """What the model gives for a batch."""
        if not self.values.size:
            count = self.sequences.starts[-1] if self.per_token else len(self.sequences)
            self.values = np.zeros((count, *found.shape[2:]), found.dtype)
        numbers = batch[NUMBERS]
        if self.per_token:
            rows, columns = np.nonzero(batch["sequence_ids"])
            owners = numbers[rows, batch["sequence_ids"][rows, columns] - 1]
            places = self.sequences.starts[owners] + batch["position_ids"][rows, columns]
            self.values[places] = found[rows, columns]
        else:
            self.values[numbers[numbers >= 0]] = found[numbers >= 0]


class ByRows:
    """A model of packed batches that rounds by their shape, as one that gives the same whatever stands beside.

    Args:
        compute: the model, of a batch: (B * N, C), or of tokens (B, S, C). device: that it computes on.
        head: whether it has one. On the CPU, oneDNN rounds a product with 2 or 3 columns, as that of a head on tokens,
            also by the place of the row: then each sequence has a batch of its own.
    """

    def __init__(self, compute: Callable[[Batch], np.ndarray], device: str, head: bool):
        self._compute, self._device, self._head = compute, device, head

    def __call__(self, batch: Batch) -> np.ndarray:
        """As `compute`."""
        return self._compute(batch)

    def logits(self, sequences: Sequences, per_token: bool) -> np.ndarray:
        """(n, C) of n sequences, or (T, C) of their tokens."""
        on_cpu = 1 if self._head and per_token else TOKENS_ALONE
        tokens = on_cpu if self._device == "CPU" else TOKENS_ELSEWHERE
        batches, made = RowBatches(sequences, tokens), Unpacked(sequences, per_token)
        for number in range(len(batches)):
            batch = batches(number)
            found = self._compute(batch)
            made.add(batch, found if per_token else found.reshape(*batch[NUMBERS].shape, -1))
        return made.values
