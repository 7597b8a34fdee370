"""Leaves and tiles: in which order gradients are added up, and what follows for the options."""

import functools

import numpy as np
import pytest

from ms_bert.errors import UserError
from ms_bert.options import Options, TrainingOptions
from ms_bert.run.leaves import Tree, added, own_leaves
from ms_bert.run.workers import ALONE
from ms_bert.tiles import VALUES, bounds, tiles


def tree_sum(leaves):
    """The definition: neighbours are added, then their sums."""
    while len(leaves) > 1:
        leaves = [left + right for left, right in zip(leaves[::2], leaves[1::2])]
    return leaves[0]


def by_buffers(leaves, parts=1):
    """As a trainer goes about it."""
    tree, zero = Tree(len(leaves), parts), np.zeros_like(leaves[0])
    buffers = [zero.copy() for _ in range(tree.levels + 1)]
    for done, leaf in enumerate(leaves, 1):
        buffers[0] += leaf
        for level in tree.carried(done):
            buffers[level + 1] += buffers[level]
            buffers[level][:] = 0.0
    assert not any(buffer.any() for buffer in buffers[:-1])
    return buffers[-1], len(buffers)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("count", [1, 2, 4, 8, 16, 64])
def test_few_buffers_give_the_very_sum_of_the_tree(count, parts):
    leaves = list(np.random.default_rng(count).standard_normal((count, 1000)).astype(np.float32))
    found, buffers = by_buffers(leaves, parts)
    assert found.tobytes() == tree_sum(leaves).tobytes()
    assert buffers <= count.bit_length()
    if count >= 4:
        assert found.tobytes() != functools.reduce(np.add, leaves).tobytes()


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_workers_that_add_up_their_own_leaves_come_to_the_same_sum(workers):
    leaves = list(np.random.default_rng(0).standard_normal((8, 1000)).astype(np.float32))
    own = 8 // workers
    subtrees = [by_buffers(leaves[rank * own : (rank + 1) * own])[0] for rank in range(workers)]
    assert tree_sum(subtrees).tobytes() == tree_sum(leaves).tobytes()


class Together:
    """Workers whose arrays are at hand."""

    def __init__(self, arrays):
        self.arrays, self.count, self.rank = arrays, len(arrays), 0

    def gather(self, array):
        return np.stack(self.arrays)


def test_the_losses_of_leaves_are_added_one_after_the_other_whoever_has_them():
    sums = np.random.default_rng(1).standard_normal((8, 6)) * np.logspace(0, 12, 8)[:, None]
    expected = functools.reduce(np.add, list(sums))
    assert added(list(sums), ALONE).tobytes() == expected.tobytes()
    for workers in (2, 4, 8):
        parts = np.split(sums, workers)
        assert added(list(parts[0]), Together(parts)).tobytes() == expected.tobytes()


def test_each_worker_has_leaves_that_are_neighbours():
    options = TrainingOptions(batch_size=32, leaves=8)
    for count in (1, 2, 4, 8):
        found = []
        for rank in range(count):
            workers = Together([None] * count)
            workers.rank = rank
            first, own = own_leaves(options, workers)
            found += range(first, first + own)
        assert found == list(range(8))


@pytest.mark.parametrize(
    "options, leaves",
    [
        ({}, 1),
        ({"batch_size": 64}, 2),
        ({"batch_size": 256}, 8),
        ({"batch_size": 256, "accumulate": 2}, 4),
        ({"batch_size": 256, "accumulate": 16}, 1),
        ({"batch_size": 96}, 2),
        ({"batch_size": 2**14}, 64),
        ({"batch_size": 256, "leaves": 2}, 2),
    ],
)
def test_a_batch_has_as_many_leaves_as_are_large_enough(options, leaves):
    assert Options(training=TrainingOptions(**options)).resolved().training.leaves == leaves


def test_each_phase_has_the_same_leaves():
    groups = {"training": {"batch_size": 256}, "examples": {"phases": ("32x256x100",)}}
    assert Options.from_dict(groups, "run.json").resolved().training.leaves == 2


@pytest.mark.parametrize(
    "options, words",
    [
        ({"leaves": 3, "batch_size": 33}, "--leaves is 3; choose a power of two"),
        ({"leaves": 64}, "--batch-size 32 cannot be divided into --leaves 64 x --accumulate 1 equal parts"),
        ({"leaves": 8, "accumulate": 8}, "--batch-size 32 cannot be divided into --leaves 8 x --accumulate 8 equal"),
    ],
)
def test_leaves_that_a_batch_does_not_have_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        TrainingOptions(**options)


@pytest.mark.parametrize("shape", [(1,), (30522, 128), (3072, 768), (2, VALUES + 5), (VALUES + 1,), (7, 3, 5)])
def test_tiles_cover_each_row_once(shape):
    found = bounds(shape)
    assert [row for begin, end in found for row in range(begin, end)] == list(range(shape[0]))
    made = tiles({"a": shape, "b": (4,)})
    assert made[-1].parameter == "b" and sum(tile.size for tile in made[:-1]) == np.prod(shape)
    assert all(tile.size <= max(VALUES, np.prod(shape[1:], dtype=int)) for tile in made)
