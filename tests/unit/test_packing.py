"""Packed batches: each sequence once an epoch, whole, in few shapes, as a pure function of the step."""

import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest

from ms_bert.config import BertConfig
from ms_bert.data.packing import (
    INPUTS,
    NUMBERS,
    WEIGHTS,
    EvaluationBatches,
    RowBatches,
    TrainingBatches,
    best_heights,
    packed,
    row_length,
)
from ms_bert.data.sequences import Sequences
from ms_bert.options import TrainingOptions
from ms_bert.randomness import DropoutColumns
from ms_bert.run.leaves import leaves
from ms_bert.run.workers import ALONE


def made(count=100, longest=50, seed=0) -> Sequences:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, longest + 1, count)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    ids, types = rng.integers(5, 1000, starts[-1]), rng.integers(0, 2, starts[-1])
    return Sequences(
        ids.astype(np.int32),
        types.astype(np.int32),
        starts,
        np.zeros(count, bool),
        pad=7,
        of_sequences={"labels": rng.integers(0, 3, count).astype(np.int32)},
        of_tokens={"tags": rng.integers(0, 9, starts[-1]).astype(np.int32)},
    )


def read_back(batch, sequences) -> list[int]:
    """Numbers of the sequences of a batch, each of which must lie in it whole."""
    for row, place in zip(*np.nonzero(batch[WEIGHTS])):
        number = batch[NUMBERS][row, place]
        first, last = sequences.starts[number : number + 2]
        inside = batch["sequence_ids"][row] == place + 1
        assert (batch["input_ids"][row, inside] == sequences.ids[first:last]).all()
        assert (batch["token_type_ids"][row, inside] == sequences.types[first:last]).all()
        assert (batch["position_ids"][row, inside] == np.arange(last - first)).all()
        assert (batch["tags"][row, inside] == sequences.of_tokens["tags"][first:last]).all()
        assert batch["cls_positions"][row, place] == np.flatnonzero(inside)[0]
        assert batch["labels"][row, place] == sequences.of_sequences["labels"][number]
    empty = batch["sequence_ids"] == 0
    assert (batch["input_ids"][empty] == 7).all() and (batch[NUMBERS][batch[WEIGHTS] == 0] == -1).all()
    assert {str(batch[name].dtype) for name in (*INPUTS, NUMBERS)} == {"int32"} and batch[WEIGHTS].dtype == np.float32
    return batch[NUMBERS][batch[WEIGHTS] > 0].tolist()


SIZES = [(100, 32, 1), (100, 32, 4), (64, 16, 2), (5, 32, 1), (5, 32, 8), (1, 1, 1)]


@pytest.mark.parametrize("count, size, parts", SIZES)
def test_an_epoch_has_each_sequence_once_in_an_order_of_its_own(count, size, parts):
    sequences = made(count)
    batches = TrainingBatches(sequences, 512, size, seed=3, parts=parts)
    assert batches.steps_per_epoch == -(-count // size)
    orders = []
    for epoch in range(3):
        steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
        seen = [read_back(batches(step), sequences) for step in steps]
        assert sorted(itertools.chain(*seen)) == list(range(count))
        assert [len(numbers) for numbers in seen[:-1]] == [size] * (len(seen) - 1)
        orders.append([frozenset(numbers) for numbers in seen])
    assert count < 10 or orders[0] != orders[1] != orders[2]


def test_a_batch_depends_on_its_step_and_the_seed_alone():
    sequences = made()
    one, other = TrainingBatches(sequences, 512, 16, 1), TrainingBatches(sequences, 512, 16, 1)
    later = [other(step) for step in (40, 3)]
    for step, batch in zip((40, 3), later):
        assert all((one(step)[name] == value).all() for name, value in batch.items())
    assert set(TrainingBatches(sequences, 512, 16, 2)(3)[NUMBERS].flat) != set(one(3)[NUMBERS].flat)


def test_there_are_few_shapes_and_little_padding():
    batches = TrainingBatches(made(2000), 512, 32, 1)
    whole = [batches(step) for step in range(2 * batches.steps_per_epoch)]
    shapes = {batch["input_ids"].shape for batch in whole}
    assert {batch["input_ids"].shape for batch in batches.samples()} <= shapes and len(shapes) <= 5
    filled = np.mean([(batch["sequence_ids"] > 0).mean() for batch in whole])
    assert filled > 0.85 and all(batch["input_ids"].shape[1] == 64 for batch in whole)


def test_the_parts_of_a_batch_hold_its_sequences_in_equal_numbers():
    sequences = made()
    batch = TrainingBatches(sequences, 512, 32, 1, parts=4)(0)
    rows = np.split(batch[WEIGHTS], 4)
    assert [int((part > 0).sum()) for part in rows] == [8, 8, 8, 8]


def test_weights_weigh_the_loss_of_each_sequence():
    sequences = made()
    weights = np.linspace(0.5, 2.0, 100, dtype=np.float32)
    batch = TrainingBatches(sequences, 512, 32, 1, weights=weights)(0)
    there = batch[NUMBERS] >= 0
    assert (batch[WEIGHTS][there] == weights[batch[NUMBERS][there]]).all()


def owned(owners=100, most=5, seed=0) -> Sequences:
    """Sequences of which each owner has one or more."""
    counts = np.random.default_rng(seed).integers(1, most + 1, owners)
    return dataclasses.replace(made(int(counts.sum())), owners=np.repeat(np.arange(owners), counts))


def of_parts(batch, parts: int, sequences: Sequences) -> list[list[int]]:
    """The owners in each part of a batch, each of which must be there with all its sequences."""
    found = []
    for numbers in np.split(batch[NUMBERS], parts):
        there = numbers[numbers >= 0]
        owners = np.unique(sequences.owners[there])
        assert sorted(there) == np.flatnonzero(np.isin(sequences.owners, owners)).tolist()
        found.append(owners.tolist())
    return found


@pytest.mark.parametrize("parts", [1, 4])
def test_sequences_of_one_owner_are_learned_in_one_part_of_one_step(parts):
    sequences = owned()
    batches = TrainingBatches(sequences, 512, 16, seed=3, parts=parts, together=True)
    assert batches.steps_per_epoch == 7
    whole = [batches(step) for step in range(14)]
    found = [of_parts(batch, parts, sequences) for batch in whole]
    for epoch in (found[:7], found[7:]):
        assert sorted(itertools.chain(*itertools.chain(*epoch))) == list(range(100))
    assert {len(part) for step in found[:6] for part in step} == {16 // parts} and found[:7] != found[7:]
    assert all(read_back(batch, sequences) for batch in whole)


@pytest.mark.parametrize("parts, tokens", [(1, 2048), (3, 700), (2, 64)])
def test_sequences_of_one_owner_are_evaluated_in_one_part_of_one_batch(parts, tokens):
    """Even where they have no room in a batch of so many tokens."""
    sequences = owned()
    batches = EvaluationBatches(sequences, 512, parts, tokens, together=True)
    whole = [batches(number) for number in range(len(batches))]
    found = [owner for batch in whole for part in of_parts(batch, parts, sequences) for owner in part]
    assert found == list(range(100)) and len({batch["input_ids"].shape for batch in whole}) == 1
    assert sorted(itertools.chain(*(read_back(batch, sequences) for batch in whole))) == list(range(len(sequences)))


@pytest.mark.parametrize("count, parts, tokens", [(100, 1, 2048), (100, 3, 256), (1, 4, 2048)])
def test_an_evaluation_has_each_sequence_once_in_one_shape(count, parts, tokens):
    sequences = made(count)
    batches = EvaluationBatches(sequences, 512, parts, tokens)
    whole = [batches(number) for number in range(len(batches))]
    assert sorted(itertools.chain(*(read_back(batch, sequences) for batch in whole))) == list(range(count))
    assert len({batch["input_ids"].shape for batch in whole}) == 1 and batches.height % parts == 0


@pytest.mark.parametrize("most", [1, 64, 4096])
def test_the_shape_of_a_row_alone_follows_from_its_length_only(most):
    shapes = {}
    for count, longest in ((100, 50), (7, 12), (1, 3), (60, 700)):
        sequences = made(count, longest)
        batches = RowBatches(sequences, most)
        whole = [batches(number) for number in range(len(batches))]
        assert sorted(itertools.chain(*(read_back(batch, sequences) for batch in whole))) == list(range(count))
        for batch in whole:
            assert batch["sequence_ids"].max() == 1
            for length in (batch["sequence_ids"] > 0).sum(1).tolist():
                assert length == 0 or shapes.setdefault(length, batch["input_ids"].shape) == batch["input_ids"].shape
    assert len(set(shapes.values())) < 12
    assert all(rows * tokens <= max(most, 16, 2 * length) for length, (rows, tokens) in shapes.items())
    assert all((rows + 1) * tokens > most for rows, tokens in shapes.values())
    assert most > 1 or all(rows == 1 for rows, _ in shapes.values())


def test_rows_hold_what_fits():
    lengths = np.random.default_rng(1).integers(1, 65, 300).tolist()
    rows = packed(lengths, 64, most=5)
    assert sorted(itertools.chain(*rows)) == list(range(300))
    assert all(sum(lengths[i] for i in row) <= 64 and len(row) <= 5 for row in rows)
    assert len(packed(lengths, 64, 64)) <= 1.1 * sum(lengths) / 64 + 1


@pytest.mark.parametrize("seed", range(6))
def test_the_heights_are_the_best_there_are(seed):
    rng = np.random.default_rng(seed)
    needed = Counter(rng.integers(1, 9, 40).tolist())

    def rows(heights) -> float:
        return sum(count * min((h for h in heights if h >= size), default=np.inf) for size, count in needed.items())

    sizes = sorted(needed)
    least = min(rows(chosen) for k in range(1, 4) for chosen in itertools.combinations(sizes, k))
    found = best_heights(needed, 3)
    assert rows(found) == least and found == sorted(found) and len(found) <= 3


@pytest.mark.parametrize(
    "longest, positions, tokens",
    [(3, 512, 64), (64, 512, 64), (65, 512, 80), (128, 512, 128), (130, 512, 144), (20, 40, 40), (40, 40, 40)],
)
def test_a_row_is_a_multiple_of_sixteen_unless_the_model_has_fewer_positions(longest, positions, tokens):
    assert row_length(longest, positions) == tokens


def test_a_row_that_is_longer_than_the_model_is_refused():
    batch = TrainingBatches(made(longest=60), 512, 8, 1)(0)
    config = BertConfig(max_position_embeddings=48)
    with pytest.raises(ValueError, match="rows of 64 tokens for a model of 48 positions"):
        leaves(batch, (WEIGHTS,), TrainingOptions(batch_size=8), 0, DropoutColumns(config), ALONE)
