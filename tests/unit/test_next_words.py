"""The targets of a left-to-right language model: each token's next one, within its own sequence, and no other."""

import numpy as np
import pytest

from ms_bert.data.batches import BatchMaker
from ms_bert.data.next_words import next_words
from ms_bert.errors import UserError
from ms_bert.options import ExampleOptions


def test_each_token_predicts_the_next_of_its_own_sequence():
    ids = np.array([[2, 7, 8, 3, 2, 9, 3, 0], [2, 5, 3, 0, 0, 0, 0, 0], [0] * 8], np.int32)
    made = next_words(ids, np.array([[1, 1, 1, 1, 2, 2, 2, 0], [1, 1, 1, 0, 0, 0, 0, 0], [0] * 8], np.int32))
    assert made["masked_positions"].tolist() == [[0, 1, 2, 4, 5, 0, 0, 0], [0, 1] + [0] * 6, [0] * 8]
    assert made["masked_labels"].tolist() == [[7, 8, 3, 9, 3, 0, 0, 0], [5, 3] + [0] * 6, [0] * 8]
    assert made["masked_weights"].sum(1).tolist() == [5, 2, 0]


def test_a_batch_has_the_text_as_it_is_and_is_the_same_whenever_it_is_made(store, vocabulary):
    options = {"seq_length": 48, "nsp": False, "pack": 2}
    left, masked = (
        BatchMaker(store.train, vocabulary, ExampleOptions(**options, objective=objective), 4, 1)
        for objective in ("left-to-right", "masked")
    )
    batch, other = left(3), masked(3)
    assert all(np.array_equal(value, left(3)[name]) for name, value in batch.items())
    # Both have the same text: of the masked one, where nothing is masked.
    for name in batch.keys() - {"input_ids", "masked_positions", "masked_labels", "masked_weights"}:
        assert np.array_equal(batch[name], other[name])
    assert not (batch["input_ids"] == vocabulary.mask).any() and (other["input_ids"] == vocabulary.mask).any()
    rows, slots = np.nonzero(batch["masked_weights"])
    positions = batch["masked_positions"][rows, slots]
    assert np.array_equal(batch["input_ids"][rows, positions + 1], batch["masked_labels"][rows, slots])
    sequences = sum(len(set(row[row > 0])) for row in batch["sequence_ids"])
    assert len(rows) == (batch["sequence_ids"] > 0).sum() - sequences
    assert batch["masked_weights"].shape == (4, left.options.prediction_slots)


@pytest.mark.parametrize("wrong", [{"nsp": True}, {"masking": "ngram"}, {"max_predictions": 9}])
def test_what_a_left_to_right_model_has_not_is_refused(wrong):
    with pytest.raises(UserError, match="left-to-right"):
        ExampleOptions(**{"objective": "left-to-right", "nsp": False, **wrong})
