"""Leaves and tiles: in which order gradients are added up, and what follows for the options."""

import functools

import numpy as np
import pytest

from ms_bert.config import BertConfig
from ms_bert.data.batches import BatchMaker, Phases
from ms_bert.errors import UserError
from ms_bert.options import ExampleOptions, Options, Phase, TrainingOptions
from ms_bert.randomness import DropoutColumns, dropout_keys
from ms_bert.run.leaves import Tree, added, leaves, own_batches, own_leaves, own_rows
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


def at(rank: int, count: int):
    """One of so many workers."""
    workers = Together([None] * count)
    workers.rank = rank
    return workers


def test_losses_are_divided_by_the_weights_there_are_also_where_those_are_small():
    for weight, total in ((0.1, 0.4), (1.0, 4.0), (0.0, 1.0)):
        batch = {"input_ids": np.zeros((4, 8), np.int32), "weights": np.full((4, 1), weight, np.float32)}
        given = ("weights",), TrainingOptions(batch_size=4, leaves=1), 0, DropoutColumns(BertConfig()), ALONE
        assert leaves(batch, *given)[0][0].totals == (pytest.approx(total),)


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_each_worker_has_leaves_that_are_neighbours(count):
    options, batch = TrainingOptions(batch_size=32, leaves=8), {"x": np.arange(64).reshape(32, 2)}
    assert own_leaves(options, at(0, count)) == 8 // count
    found = [own_rows(batch, at(rank, count))["x"] for rank in range(count)]
    assert (np.concatenate(found) == batch["x"]).all()
    # What cannot make a part of a batch makes all of it, and what can is asked for its part alone.
    whole = [own_batches(lambda step: {"x": batch["x"] + step}, at(rank, count))(3)["x"] for rank in range(count)]
    assert (np.concatenate(whole) == batch["x"] + 3).all()


def test_a_worker_makes_the_rows_of_its_own_leaves_and_no_others(store, vocabulary, monkeypatch):
    examples = ExampleOptions(seq_length=32, masking="whole-word", pack=2)
    make = Phases(store.train, vocabulary, examples, [Phase(32, 16, 5), Phase(32, 32, 9)], seed=3, leaves=8)
    drawn, leaf = [], BatchMaker._leaf
    monkeypatch.setattr(
        BatchMaker, "_leaf", lambda self, step, number: (drawn.append(number), leaf(self, step, number))[1]
    )
    for step in (0, 7):
        whole = make(step)
        drawn.clear()
        parts = [own_batches(make, at(rank, 4))(step) for rank in range(4)]
        assert drawn == list(range(8))
        for name, value in whole.items():
            assert (np.concatenate([part[name] for part in parts]) == value).all(), name
    # The leaves are no copies of each other, and the numbers of the examples are those of a batch of one leaf.
    rows = make(0)["input_ids"].reshape(8, -1)
    assert len(np.unique(rows, axis=0)) == 8
    one = Phases(store.train, vocabulary, examples, [Phase(32, 16, 5)], seed=3)
    assert (one(0)["input_ids"] != make(0)["input_ids"]).any()
    sampler, seen = make.makers[0].sampler, []
    monkeypatch.setattr(
        type(sampler), "_first_sentences", lambda self, number: (seen.append(number), np.zeros(len(number), int))[1]
    )
    for number in range(8):
        sampler.draw(2, 2, number, 8)
    sampler.draw(2, 16)
    in_leaves, at_once = np.concatenate(seen[:16]).reshape(8, 2, 2), np.concatenate(seen[16:])
    assert (in_leaves.swapaxes(0, 1).ravel() == at_once).all()


@pytest.mark.parametrize("count", [2, 4, 8])
def test_what_a_leaf_is_computed_with_does_not_depend_on_who_computes_it(count):
    options = TrainingOptions(batch_size=16, leaves=8, accumulate=2)
    rng, columns = np.random.default_rng(0), DropoutColumns(BertConfig(num_hidden_layers=1))
    batch = {"input_ids": np.arange(64, dtype=np.int32).reshape(16, 4), "weight": rng.random((16, 1), np.float32)}
    alone = leaves(batch, ("weight",), options, 5, columns, ALONE)
    sums = np.array([[leaf.sum()] for leaf in np.split(batch["weight"], 8)])
    found = []
    for rank in range(count):
        workers = Together(np.split(sums, count))
        workers.rank = rank
        found += leaves(own_rows(batch, workers), ("weight",), options, 5, columns, workers)
    assert len(found) == len(alone) == 8 and {len(leaf) for leaf in found} == {2}
    for one, other in zip((part for leaf in alone for part in leaf), (part for leaf in found for part in leaf)):
        assert one.totals == other.totals and (one.column_keys == other.column_keys).all()
        assert (one.row_keys == other.row_keys).all() and (one.batch["input_ids"] == other.batch["input_ids"]).all()
    keys = np.concatenate([part.row_keys for leaf in alone for part in leaf])
    assert len(np.unique(keys)) == len(keys) == 64
    (whole,), *_ = leaves(batch, ("weight",), TrainingOptions(batch_size=16), 5, columns, ALONE)
    assert whole.totals == (batch["weight"].sum(),)
    assert (dropout_keys(1, 5, 64, columns.total)[0] == whole.row_keys).all()


@pytest.mark.parametrize(
    "options, count",
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
def test_a_batch_has_as_many_leaves_as_are_large_enough(options, count):
    assert Options(training=TrainingOptions(**options)).resolved().training.leaves == count


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
