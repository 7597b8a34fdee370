"""Shards: which worker updates which tiles of the parameters, and where they lie in what the workers exchange.

Moments and update are divided among the workers (Rajbhandari et al., 2020, ZeRO stage 1). The tiles are exchanged in
buckets, so that no copy of all gradients is needed; in a bucket each worker's tiles lie one after the other, in a
segment of the same size for each worker. Which worker has which tile changes no number.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ms_bert.errors import UserError
from ms_bert.run.workers import Workers
from ms_bert.tiles import Tile, tiles

BUCKET = 2**24  # values of a bucket, at most, unless a single parameter has more
MOST = 64  # tiles of a bucket, about: MindSpore's compiler nests what is done for one of them in that for the next


class Shards:
    """The tiles of parameters, dealt to workers.

    Args:
        shapes: of the parameters that are trained, by name.

    Attributes:
        tiles: all of them, one parameter after the other. own: the numbers of this worker's, in the order of its
            segments. buckets: of each its segments, for each worker the numbers of its tiles; the tiles of a parameter
            are all in one. sizes: values of a segment of each bucket. most: tiles of a worker.

    Raises:
        UserError: there are fewer tiles than workers.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], workers: Workers):
        self.shapes, self.workers = dict(shapes), workers
        self.tiles = tiles(shapes)
        if len(self.tiles) < workers.count:
            raise UserError(
                f"{workers.count} workers cannot share a model of {len(self.tiles)} tiles; use at most as many workers."
            )
        self.buckets = [self._dealt(numbers) for numbers in self._in_buckets()]
        self.sizes = [max(map(self._size, segments)) for segments in self.buckets]
        self._of_workers = [[n for segments in self.buckets for n in segments[w]] for w in range(workers.count)]
        self.own = self._of_workers[workers.rank]
        self.most = max(map(len, self._of_workers))

    @property
    def own_tiles(self) -> list[Tile]:
        """Those of this worker."""
        return [self.tiles[number] for number in self.own]

    @property
    def order(self) -> list[int]:
        """Where each tile's value is among those that the workers give of their tiles, each filled up to `most`."""
        places = {n: w * self.most + place for w, own in enumerate(self._of_workers) for place, n in enumerate(own)}
        return [places[number] for number in range(len(self.tiles))]

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """For each tile of this worker the first tile of its parameter, and the one after its last."""
        names = [tile.parameter for tile in self.tiles]
        firsts = {name: names.index(name) for name in self.shapes}
        return [
            (firsts[name], firsts[name] + names.count(name)) for name in (tile.parameter for tile in self.own_tiles)
        ]

    def segment(self, bucket: int, worker: int) -> list[tuple[Tile, int]]:
        """The tiles of a worker in a bucket, each with the place where it begins in the segment."""
        found = [self.tiles[number] for number in self.buckets[bucket][worker]]
        return list(zip(found, itertools.accumulate((tile.size for tile in found), initial=0)))

    def pieces(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The rows of this worker's tiles of arrays of the parameters."""
        return {tile.name: arrays[tile.parameter][tile.begin : tile.end] for tile in self.own_tiles}

    def whole(self, pieces: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Arrays of the parameters, of which each worker gives the rows of its tiles."""
        kind = next(iter(pieces.values())).dtype
        made = {name: np.empty(shape, kind) for name, shape in self.shapes.items()}
        for bucket, size in enumerate(self.sizes):
            sent = np.zeros(size, kind)
            for tile, begin in self.segment(bucket, self.workers.rank):
                sent[begin : begin + tile.size] = pieces[tile.name].ravel()
            for worker, found in enumerate(self.workers.gather(sent)):
                for tile, begin in self.segment(bucket, worker):
                    rows = found[begin : begin + tile.size].reshape(tile.shape)
                    made[tile.parameter][tile.begin : tile.end] = rows
        return made

    def _in_buckets(self) -> Iterator[list[int]]:
        bucket: list[int] = []
        numbers = itertools.groupby(range(len(self.tiles)), key=lambda number: self.tiles[number].parameter)
        for _, group in numbers:
            own = list(group)
            if bucket and (self._size(bucket) + self._size(own) > BUCKET or len(bucket) + len(own) > MOST):
                yield bucket
                bucket = []
            bucket = bucket + own
        yield bucket

    def _dealt(self, numbers: Sequence[int]) -> list[list[int]]:
        """The largest tile first, each to the worker with the fewest values."""
        segments: list[list[int]] = [[] for _ in range(self.workers.count)]
        for number in sorted(numbers, key=lambda n: (-self.tiles[n].size, n)):
            min(segments, key=self._size).append(number)
        return [sorted(segment) for segment in segments]

    def _size(self, numbers: Sequence[int]) -> int:
        return sum(self.tiles[number].size for number in numbers)


def in_tree_order(rows: Sequence):
    """The sum of an array of each worker, as the tree of leaves has it: neighbours, then their sums."""
    found = list(rows)
    while len(found) > 1:
        found = [left + right for left, right in zip(found[::2], found[1::2])]
    return found[0]
