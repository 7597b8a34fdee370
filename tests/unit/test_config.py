"""BertConfig reads and writes Hugging Face's config.json and refuses what it would compute differently."""

import json

import pytest

from ms_bert.config import PRESETS, BertConfig
from ms_bert.errors import UserError

# What transformers writes for bert-base-uncased, all fields.
BASE = {
    "architectures": ["BertForMaskedLM"],
    "attention_probs_dropout_prob": 0.1,
    "gradient_checkpointing": False,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "transformers_version": "4.6.0.dev0",
    "type_vocab_size": 2,
    "use_cache": True,
    "vocab_size": 30522,
}


def test_the_config_of_bert_base_is_the_base_preset():
    assert BertConfig.from_dict(BASE) == PRESETS["base"] == BertConfig()


@pytest.mark.parametrize(
    "name, layers, hidden",
    [("tiny", 2, 128), ("mini", 4, 256), ("small", 4, 512), ("medium", 8, 512), ("base", 12, 768), ("large", 24, 1024)],
)
def test_presets_have_the_published_sizes(name, layers, hidden):
    config = PRESETS[name]
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (layers, hidden, 4 * hidden)
    assert config.head_size == 64


def test_a_config_survives_its_file(tmp_path):
    config = BertConfig(hidden_act="gelu_new", classifier_dropout=0.2, id2label={"0": "no", "1": "yes", "2": "maybe"})
    (tmp_path / "config.json").write_text(config.to_json())
    assert BertConfig.from_json(tmp_path) == config
    assert config.num_labels == 3


@pytest.mark.parametrize(
    "change, words",
    [
        ({"hidden_sizes": 768}, "did you mean hidden_size?"),
        ({"rope_theta": 1e4}, "unknown field 'rope_theta'"),
        ({"model_type": "roberta"}, "model_type"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"is_decoder": True}, "is_decoder"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"hidden_act": "swish"}, "hidden_act is 'swish'"),
        ({"num_attention_heads": 7}, "not a multiple"),
        ({"hidden_size": "768"}, "expected int"),
        ({"hidden_dropout_prob": 1.0}, "under 1"),
        ({"num_hidden_layers": True}, "expected int"),
        ({"layer_norm_eps": 0}, "must be positive"),
        ({"pad_token_id": 40000}, "pad_token_id"),
    ],
)
def test_what_would_be_computed_differently_is_refused(change, words):
    with pytest.raises(UserError, match="config.json: ") as caught:
        BertConfig.from_dict({**BASE, **change}, source="config.json")
    assert words in str(caught.value)


def test_a_broken_file_is_named(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("{")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        BertConfig.from_json(path)
    with pytest.raises(UserError, match="there is no"):
        BertConfig.from_json(tmp_path / "other.json")
    path.write_text(json.dumps([1]))
    with pytest.raises(UserError, match="expected an object"):
        BertConfig.from_json(path)
