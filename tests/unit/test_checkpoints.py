"""Weights from elsewhere are taken whole or not at all; what does not fit is told at once."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from ms_bert.errors import UserError
from ms_bert.run import checkpoints

SHAPES = {"bert.embeddings.word_embeddings.weight": (5, 2), "cls.predictions.bias": (5,)}


def arrays(**changes):
    own = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
    return {name: value for name, value in {**own, **changes}.items() if value is not None}


def load(tmp_path, values):
    save_file(values, tmp_path / "model.safetensors")
    return checkpoints.load_weights(tmp_path, SHAPES)


def test_what_transformers_writes_beside_the_weights_is_left_out(tmp_path):
    extra = {
        "cls.predictions.decoder.weight": np.ones((5, 2), np.float32),
        "bert.embeddings.position_ids": np.arange(9),
    }
    assert set(load(tmp_path, {**arrays(), **extra})) == set(SHAPES)


def test_an_untied_decoder_is_refused(tmp_path):
    with pytest.raises(UserError, match="decoder.weight differs from bert.embeddings"):
        load(tmp_path, {**arrays(), "cls.predictions.decoder.weight": np.zeros((5, 2), np.float32)})


def test_all_that_does_not_fit_is_told_at_once(tmp_path):
    with pytest.raises(UserError) as caught:
        load(tmp_path, {"cls.predictions.bias": np.ones(4, np.float16), "other": np.ones(1, np.float32)})
    for words in ("word_embeddings.weight is missing", "other is unexpected", "float16 (4,) instead of float32 (5,)"):
        assert words in str(caught.value)


def test_a_file_that_is_none_is_named(tmp_path):
    with pytest.raises(UserError, match="there is no"):
        checkpoints.load_weights(tmp_path, SHAPES)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        checkpoints.load_weights(tmp_path, SHAPES)
