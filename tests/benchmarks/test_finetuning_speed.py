"""The contenders of fine-tuning learn from the same sentences, a step whenever it is their turn."""

import threading

import numpy as np
import pytest

from benchmarks import finetuning_speed
from benchmarks.contenders import Work, sentences


def test_synthetic_sentences_have_the_lengths_of_sst2():
    made = finetuning_speed.synthetic()
    assert len(made) == 67349 and made.lengths.mean() == pytest.approx(13.319, abs=1e-3)
    assert (np.bincount(made.lengths)[3:] == finetuning_speed.SST2).all()
    assert (made.lengths[:3000].mean() - made.lengths.mean()) < 0.5  # not sorted


def test_contenders_read_what_the_question_wrote(tmp_path):
    made = finetuning_speed.synthetic()
    sentences.saved(tmp_path / "sentences.npz", made)
    read = sentences._sequences(Work("sentences", "minilm", 2, 16, file=str(tmp_path / "sentences.npz")))
    for name in ("ids", "types", "starts", "cut"):
        assert (getattr(read, name) == getattr(made, name)).all()
    assert (read.of_sequences["labels"] == made.of_sequences["labels"]).all()


def test_a_loop_does_a_step_when_it_is_asked_and_none_ahead():
    turns, done = sentences._turns(), []

    def train():
        turns.on_train_begin()
        for step in range(2):
            done.append(step)
            turns.on_step_end()

    threading.Thread(target=turns.run, args=(train,), daemon=True).start()
    for steps in (1, 2):
        turns.step()
        assert len(done) == steps
    with pytest.raises(SystemExit, match="the Trainer has ended"):
        turns.step()
