"""The BiLSTM of the ablations reads each sequence by itself; below it BERT learns or stays as it is, as is said."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.contenders.bilstm import Top, Trainer, WithBiLSTM, read
from ms_bert.config import BertConfig
from ms_bert.data.packing import TrainingBatches
from ms_bert.data.sequences import Sequences
from ms_bert.errors import UserError
from ms_bert.finetuning_options import FinetuneOptions, FinetuningOptions
from ms_bert.tasks.classification import Classification
from ms_bert.tasks.tagging import LABEL_WEIGHTS, Tagging

CONFIG = BertConfig(
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=80,
)
TASK = Tagging(("A", "O"), Tagging.word_measures)
OPTIONS = FinetuneOptions(training=FinetuningOptions(learning_rate=1e-2, batch_size=6))


@pytest.fixture
def batches() -> TrainingBatches:
    rng = np.random.default_rng(0)
    starts = np.cumsum([0, *rng.integers(5, 40, 12)])
    ids = rng.integers(5, 50, starts[-1]).astype(np.int32)
    made = Sequences(ids, np.zeros_like(ids), starts, np.zeros(12, bool), owners=np.arange(12))
    made.of_tokens["labels"] = (ids % 2).astype(np.int32)
    made.of_tokens[LABEL_WEIGHTS] = np.ones(len(ids), np.float32)
    return TrainingBatches(made, CONFIG.max_position_embeddings, 6, seed=1)


def trained(batches, top: Top, steps=range(3), trainer: Trainer | None = None) -> Trainer:
    trainer = trainer or WithBiLSTM(top).trainer(CONFIG, OPTIONS, TASK)
    for step in steps:
        trainer.train_step(batches(step), step, 1e-2)
    return trainer


def weights(trainer: Trainer) -> dict[str, np.ndarray]:
    return {name: value.copy() for name, value in trainer.state()[0].items()}


@pytest.mark.parametrize("depth", [1, 2])
def test_each_sequence_is_read_by_itself_from_both_ends(depth):
    torch.manual_seed(0)
    lstm = nn.LSTM(6, 4, depth, batch_first=True, bidirectional=True)
    ids = torch.tensor([[1, 1, 1, 2, 2, 0], [1, 2, 2, 2, 3, 3], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]])
    hidden = torch.randn(ids.numel(), 6, requires_grad=True)
    found = read(lstm, hidden, ids)
    assert found.shape == (ids.numel(), 8)
    expected = torch.zeros_like(found).view(4, 6, 8)
    for row, numbers in enumerate(ids):
        for number in set(numbers.tolist()) - {0}:
            place = numbers == number
            expected[row, place] = lstm(hidden.view(4, 6, 6)[row, place][None])[0][0]
    torch.testing.assert_close(found, expected.view(-1, 8))
    found.sum().backward()
    assert ((hidden.grad != 0).any(-1) == (ids.flatten() > 0)).all()


def test_bert_learns_below_a_bilstm_and_stays_as_it_is_below_one_that_reads_its_features(batches):
    for top, moved in ((Top(), True), (Top(2, (0, -1)), False), (Top(2, (-1, -2), added=True), False)):
        before = weights(WithBiLSTM(top).trainer(CONFIG, OPTIONS, TASK))
        after = weights(trained(batches, top))
        changed = {name for name in before if (before[name] != after[name]).any()}
        assert {name for name in before if not name.startswith("bert.")} <= changed
        assert all((name in changed) == moved for name in before if "word_embeddings" in name or "query.weight" in name)


def test_features_are_those_of_the_layers_that_are_named_without_dropout(batches):
    trainer = WithBiLSTM(Top(1, (0, -1))).trainer(CONFIG, OPTIONS, TASK)
    seen = []
    trainer.model.lstm.register_forward_pre_hook(lambda _, given: seen.append(given[0].data.clone()))
    batch = batches(0)
    trainer.train_step(batch, 0, 0.0)
    fields = ("input_ids", "sequence_ids", "token_type_ids", "position_ids", "cls_positions")
    with torch.no_grad():
        last, _, (embeddings, _) = trainer.model.bert(*(torch.from_numpy(batch[name]) for name in fields))
    expected = torch.cat([embeddings, last], -1)[torch.from_numpy(batch["sequence_ids"]).flatten() > 0]
    assert len(seen) == 1 and seen[0].shape == expected.shape
    torch.testing.assert_close(seen[0].sum(0), expected.sum(0))  # of packed sequences the order is another


def test_equal_weights_at_the_beginning_make_the_sum_a_mean():
    trainer = WithBiLSTM(Top(1, (-1, -2), added=True)).trainer(CONFIG, OPTIONS, TASK)
    one, other = torch.randn(2, 3, 16)
    torch.testing.assert_close(trainer.model.combined([one, other]), (one + other) / 2)


def test_the_seed_decides_how_it_begins():
    def first(seed: int) -> np.ndarray:
        training = dataclasses.replace(OPTIONS.training, seed=seed)
        return weights(WithBiLSTM(Top()).trainer(CONFIG, dataclasses.replace(OPTIONS, training=training), TASK))

    one, same, other = first(1), first(1), first(2)
    assert all((one[name] == same[name]).all() for name in one)
    lstm = [name for name in one if name.startswith("lstm.weight")]
    assert len(lstm) == 4 and all((one[name] != other[name]).all() for name in lstm)
    assert np.std(one["lstm.weight_ih_l0"]) == pytest.approx(16**-0.5, rel=0.15)


@pytest.mark.parametrize("top", [Top(), Top(2, (-1, -2), added=True)], ids=["tuned", "features"])
def test_a_trainer_goes_on_from_its_state_to_the_same_bytes(batches, top):
    whole = weights(trained(batches, top))
    begun = trained(batches, top, range(2))
    state = [{name: value.copy() for name, value in part.items()} for part in begun.state()[:2]]
    resumed = WithBiLSTM(top).trainer(CONFIG, OPTIONS, TASK)
    resumed.load(*state, begun.state()[2])
    after = weights(trained(batches, top, range(2, 3), resumed))
    assert all((whole[name] == after[name]).all() for name in whole)


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="add --pooling mean to classification"):
        WithBiLSTM(Top()).trainer(CONFIG, OPTIONS, Classification(("no", "yes"), ("accuracy",)))
    with pytest.raises(UserError, match="--features: 3 is not a layer of the model; choose from 0 to 2"):
        WithBiLSTM(Top(1, (0, 3))).trainer(CONFIG, OPTIONS, TASK)
