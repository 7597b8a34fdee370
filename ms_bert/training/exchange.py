"""What the workers of a run exchange in a step: gradients, the norms of tiles, and the rows that each has updated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ms_bert.collectives import MindSporeWorkers
from ms_bert.run.shards import Shards
from ms_bert.tiles import Tile


class Whole(nn.Cell):
    """Nothing is exchanged: this worker is alone, and updates all parameters.

    Attributes:
        pieces: what this worker updates. parameters: of each the name of its parameter.
    """

    def __init__(self, parameters: Sequence[Parameter]):
        super().__init__(auto_prefix=False)
        self.pieces = ParameterTuple(parameters)
        self.parameters = tuple(p.name for p in parameters)

    def reduced(self, gradients):
        """The gradients of the parameters -> those of the pieces, the sums over all workers."""
        return gradients

    def of_tiles(self, values):
        """(T_i, ...) of the tiles of each piece -> (T, ...) of all tiles of all parameters, in their order."""
        return ops.concat(values)

    def of_parameters(self, values):
        """(T_i, ...) of the tiles of each piece -> for each piece those of all tiles of its parameter."""
        return values

    def published(self, done):
        """Let the parameters of all workers be what each has updated, once `done` is known; returns what depends on
        it."""
        return done

    def whole(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Something that each piece has, of its shape -> of each parameter, by its name."""
        return dict(values)

    def own(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Arrays of the parameters -> those of the pieces."""
        return {p.name: arrays[p.name] for p in self.pieces}


class Sharded(Whole):
    """Each worker sums up the gradients of its tiles and updates them; pieces are copies of rows of the parameters.

    Args:
        vendor: sum by the library's all-reduce, in an order of its own.
    """

    def __init__(self, parameters: Sequence[Parameter], workers: MindSporeWorkers, vendor: bool = False):
        shards = Shards({p.name: tuple(p.shape) for p in parameters}, workers)
        pieces = [Parameter(Tensor(np.zeros(tile.shape, np.float32)), name=tile.name) for tile in shards.own_tiles]
        super().__init__(pieces)
        self.shards = shards
        self.parameters = tuple(tile.parameter for tile in shards.own_tiles)
        numbers = {p.name: number for number, p in enumerate(parameters)}
        buckets = range(len(shards.buckets))
        self.reduces = nn.CellList(
            [_Reduce(shards, bucket, numbers, workers, vendor) for bucket in buckets], auto_prefix=False
        )
        self.publishes = nn.CellList(
            [_Publish(shards, bucket, numbers, parameters) for bucket in buckets], auto_prefix=False
        )
        counts = [len(segments[workers.rank]) for segments in shards.buckets]
        self.ends = tuple((sum(counts[:bucket]), sum(counts[: bucket + 1])) for bucket in buckets)
        self.left = shards.most - len(pieces)
        self.order = Tensor(np.array(shards.order, np.int32))
        self.firsts, self.lasts = (tuple(side) for side in zip(*shards.ranges))
        self.all_gather = ops.AllGather()
        self.map = ops.HyperMap()

    def reduced(self, gradients):
        found, last = (), ops.zeros((1,), ms.float32)
        for reduce in self.reduces:
            own, last = reduce(gradients, last)
            found += own
        return found

    def of_tiles(self, values):
        own = ops.concat(values)  # a piece is one tile
        if self.left:
            own = ops.concat((own, ops.zeros((self.left, *own.shape[1:]), own.dtype)))
        return ops.gather(self.all_gather(own), self.order, 0)

    def of_parameters(self, values):
        return self.map(ops.partial(_between, self.of_tiles(values)), self.firsts, self.lasts)

    def published(self, done):
        for bucket in range(len(self.publishes)):
            first, end = self.ends[bucket]
            done = self.publishes[bucket](self.pieces[first:end], done)
        return done

    def whole(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self.shards.whole(values)

    def own(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self.shards.pieces(arrays)


def _between(x, first, end):
    return x[first:end]


class _Reduce(nn.Cell):
    """The sums of the gradients of a bucket for this worker's tiles.

    A pair of workers sums what both have, and each keeps a half, which it sums with its partner of the next level: the
    additions are those of the tree. Two numbers have one sum, so that every library computes the same.
    """

    def __init__(
        self, shards: Shards, bucket: int, numbers: Mapping[str, int], workers: MindSporeWorkers, vendor: bool
    ):
        super().__init__(auto_prefix=False)
        # Half by half a worker comes to the segment whose number has the bits of its own in reverse.
        positions = range(workers.count) if vendor else [_reversed(p, workers.count) for p in range(workers.count)]
        self.parts = tuple(part for worker in positions for part in _filled(shards, bucket, worker, numbers))
        self.size = shards.sizes[bucket]
        self.vendor, self.first = vendor, workers.rank * self.size
        self.sums = [ops.AllReduce(group=pair) for pair in ([] if vendor else workers.pairs)]
        self.lower = tuple(workers.rank >> level & 1 == 0 for level in range(len(self.sums)))
        self.all_reduce = ops.AllReduce()
        self.own = tuple((begin, begin + tile.size, tile.shape) for tile, begin in shards.segment(bucket, workers.rank))

    def construct(self, gradients, before):
        sent = ()
        for number, begin, end in self.parts:
            sent += (_flat(gradients, number, begin, end),)
        # One exchange after the other, in the same order for all workers.
        summed = ops.depend(ops.concat(sent), before)
        if self.vendor:
            summed = self.all_reduce(summed)[self.first : self.first + self.size]
        for level in range(len(self.sums)):
            summed = self.sums[level](summed)
            half = summed.shape[0] // 2
            summed = summed[:half] if self.lower[level] else summed[half:]
        found = ()
        for begin, end, shape in self.own:
            found += (ops.reshape(summed[begin:end], shape),)
        return found, summed


class _Publish(nn.Cell):
    """The rows of a bucket that each worker has updated, to the parameters of all."""

    def __init__(self, shards: Shards, bucket: int, numbers: Mapping[str, int], parameters: Sequence[Parameter]):
        super().__init__(auto_prefix=False)
        size, workers = shards.sizes[bucket], shards.workers
        self.left = size - sum(tile.size for tile, _ in shards.segment(bucket, workers.rank))
        self.all_gather = ops.AllGather()
        rows: dict[str, list[tuple[int, int]]] = {}
        found = [
            (tile, worker * size + begin)
            for worker in range(workers.count)
            for tile, begin in shards.segment(bucket, worker)
        ]
        for tile, begin in sorted(found, key=lambda pair: (numbers[pair[0].parameter], pair[0].begin)):
            rows.setdefault(tile.parameter, []).append((begin, begin + tile.size))
        self.rows = tuple(map(tuple, rows.values()))
        self.parameters = ParameterTuple([parameters[numbers[name]] for name in rows])

    def construct(self, pieces, done):
        sent = ()
        for piece in pieces:
            sent += (ops.reshape(ops.depend(piece, done), (-1,)),)
        if self.left:
            sent += (ops.zeros((self.left,), ms.float32),)
        found = self.all_gather(ops.depend(ops.concat(sent), done))
        changes = ()
        for number in range(len(self.rows)):
            parts = ()
            for begin, end in self.rows[number]:
                parts += (found[begin:end],)
            p = self.parameters[number]
            changes += (ops.assign(p, ops.reshape(ops.concat(parts), p.shape)),)
        return ops.depend(found, changes)


def _reversed(number: int, count: int) -> int:
    """A number below a power of two with its bits in reverse order."""
    bits = count.bit_length() - 1
    return int(f"{number:0{bits}b}"[::-1], 2) if bits else number


NONE = -1  # in place of a parameter's number: what fills up a segment


def _filled(shards: Shards, bucket: int, worker: int, numbers: Mapping[str, int]) -> list[tuple[int, int, int]]:
    """The segment of a worker: of each part the number of its parameter, and its rows; or NONE, 0 and a length."""
    tiles: list[Tile] = [tile for tile, _ in shards.segment(bucket, worker)]
    parts = [(numbers[tile.parameter], tile.begin, tile.end) for tile in tiles]
    left = shards.sizes[bucket] - sum(tile.size for tile in tiles)
    return [*parts, (NONE, 0, left)] if left else parts


def _flat(gradients, number, begin, end):
    if number == NONE:
        return ops.zeros((end,), ms.float32)
    return ops.reshape(gradients[number][begin:end], (-1,))
