"""What the workers of a run exchange in a step: gradients, the norms of tiles, and the rows that each has updated."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from ms_bert.run.shards import Shards, in_tree_order
from ms_bert.tiles import Tile
from pt_reference.collectives import TorchWorkers


class Whole:
    """Nothing is exchanged: this worker is alone, and updates all parameters.

    Attributes:
        pieces: what this worker updates, by a name for each. parameters: of each the name of its parameter.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]):
        self.pieces: dict[str, torch.Tensor] = dict(parameters)
        self.parameters = {name: name for name in parameters}

    def reduce(self) -> None:
        """Let each piece hold the gradient that is the sum over all workers."""

    def of_tiles(self, values: list[torch.Tensor]) -> torch.Tensor:
        """(T_i, ...) of the tiles of each piece -> (T, ...) of all tiles of all parameters, in their order."""
        return torch.cat(values)

    def of_parameters(self, values: list[torch.Tensor]) -> list[torch.Tensor]:
        """(T_i, ...) of the tiles of each piece -> for each piece those of all tiles of its parameter."""
        return values

    def publish(self) -> None:
        """Let the parameters of all workers be what each has updated."""

    def whole(self, values: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
        """Something that each piece has, of its shape -> of each parameter, by its name."""
        return {name: value.detach().cpu().numpy() for name, value in values.items()}

    def own(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Arrays of the parameters -> those of the pieces."""
        return {name: arrays[name] for name in self.pieces}


class Sharded(Whole):
    """Each worker sums up the gradients of its tiles and updates them; pieces are views of the parameters.

    Args:
        vendor: sum by the library's all-reduce, in an order of its own.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], workers: TorchWorkers, vendor: bool = False):
        self.workers, self.vendor, self.all = workers, vendor, dict(parameters)
        self.shards = Shards({name: tuple(p.shape) for name, p in parameters.items()}, workers)
        own = self.shards.own_tiles
        self.pieces = {tile.name: _rows(self.all[tile.parameter].detach(), tile) for tile in own}
        self.parameters = {tile.name: tile.parameter for tile in own}
        self.order = torch.tensor(self.shards.order, device=workers.device)

    @torch.no_grad()
    def reduce(self) -> None:
        for bucket in range(len(self.shards.buckets)):
            sent = self._segments(bucket, self.workers.count)
            for worker, segment in enumerate(sent):
                for tile, begin in self.shards.segment(bucket, worker):
                    _place(segment, tile, begin).copy_(_rows(self.all[tile.parameter].grad, tile))
            if self.vendor:
                summed = self.workers.all_reduce(sent)[self.workers.rank]
            else:
                summed = in_tree_order(self.workers.all_to_all(sent))
            for tile, begin in self.shards.segment(bucket, self.workers.rank):
                self.pieces[tile.name].grad = _place(summed, tile, begin)
        for p in self.all.values():
            p.grad = None

    def of_tiles(self, values: list[torch.Tensor]) -> torch.Tensor:
        own = torch.cat(values)  # a piece is one tile
        padded = own.new_zeros((self.shards.most, *own.shape[1:]))
        padded[: len(own)] = own
        return self.workers.all_gather(padded).flatten(0, 1)[self.order]

    def of_parameters(self, values: list[torch.Tensor]) -> list[torch.Tensor]:
        found = self.of_tiles(values)
        return [found[first:end] for first, end in self.shards.ranges]

    @torch.no_grad()
    def publish(self) -> None:
        for piece in self.pieces.values():
            piece.grad = None
        for bucket in range(len(self.shards.buckets)):
            (own,) = self._segments(bucket, 1)
            for tile, begin in self.shards.segment(bucket, self.workers.rank):
                _place(own, tile, begin).copy_(self.pieces[tile.name])
            for worker, segment in enumerate(self.workers.all_gather(own)):
                for tile, begin in self.shards.segment(bucket, worker) if worker != self.workers.rank else ():
                    _rows(self.all[tile.parameter], tile).copy_(_place(segment, tile, begin))

    def whole(self, values: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
        return self.shards.whole(super().whole(values))

    def own(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self.shards.pieces(arrays)

    def _segments(self, bucket: int, count: int) -> torch.Tensor:
        """So many segments of a bucket, filled with 0."""
        like = next(iter(self.all.values()))
        return like.new_zeros((count, self.shards.sizes[bucket]), requires_grad=False)


def _rows(tensor: torch.Tensor, tile: Tile) -> torch.Tensor:
    """Of the tensor of the tile's parameter."""
    return tensor[tile.begin : tile.end]


def _place(segment: torch.Tensor, tile: Tile, begin: int) -> torch.Tensor:
    """Of a tile in a segment, where it begins."""
    return segment[begin : begin + tile.size].view(tile.shape)
