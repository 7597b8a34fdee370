"""BertConfig reads what transformers of any version and other tools wrote, and refuses what is not computed here.

configs.json holds config.json files after those of well-known models, and others that are not BERT's or not computed
here, with words of what is said of them.
"""

import json
import math
import os
import time
import tracemalloc
from pathlib import Path

import pytest

from ms_bert import config as module
from ms_bert.config import PRESETS, BertConfig, read_fields, remarks
from ms_bert.errors import UserError

REAL = json.loads(Path(__file__).with_name("configs.json").read_text(encoding="utf-8"))

# What transformers writes for bert-base-uncased, all fields.
BASE = REAL["read"]["bert-base-uncased"]


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
    config = BertConfig(
        hidden_act="gelu_new", classifier_dropout=0.2, pad_token_id=None, id2label={"0": "no", "1": "yes", "2": "也许"}
    )
    (tmp_path / "config.json").write_text(config.to_json(), encoding="utf-8")
    assert BertConfig.from_json(tmp_path) == config
    assert config.num_labels == 3


@pytest.mark.parametrize(
    "architectures, read",
    [
        (["BertModel"], True),
        (["BertForSequenceClassification"], True),
        (["BertForMaskedLM"], False),
        (["BertModel", "BertForPreTraining"], False),
        (["BertLMHeadModel"], False),
        (None, False),
        ([], False),
    ],
)
def test_untied_embeddings_matter_only_to_a_head_of_masked_words(architectures, read):
    fields = BASE | {"tie_word_embeddings": False, "architectures": architectures}
    if read:
        assert BertConfig.from_dict(fields) == PRESETS["base"]
        return
    with pytest.raises(UserError, match="tie_word_embeddings is false, but only true"):
        BertConfig.from_dict(fields)


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


@pytest.mark.parametrize("name", REAL["read"])
def test_a_real_config_means_what_it_means_to_transformers(name, transformers):
    fields = REAL["read"][name]
    ours, theirs = BertConfig.from_dict(fields), transformers.BertConfig.from_dict(dict(fields))
    labels = ("id2label", "label2id")
    assert {k: getattr(ours, k) for k in vars(ours) if k not in labels} == {
        k: getattr(theirs, k) for k in vars(ours) if k not in labels
    }
    assert ours.num_labels == theirs.num_labels
    if ours.id2label:
        assert ours.id2label == {str(k): str(v) for k, v in theirs.id2label.items()}
    # And what is written from it is taken by both, without a remark.
    again = json.loads(ours.to_json())
    assert BertConfig.from_dict(again) == ours and not remarks(again)
    assert transformers.BertConfig.from_dict(again).num_labels == ours.num_labels


def test_at_least_33_real_configs_are_read():
    assert len(REAL["read"]) >= 33


# Fields of a BERT's config.json by some version of transformers, 2.0 to 4.57.
_OF_OLD = set(
    """
    output_attentions output_hidden_states output_past torchscript use_bfloat16 pruned_heads is_decoder max_length
    do_sample num_beams temperature top_k top_p repetition_penalty bos_token_id pad_token_id eos_token_ids
    length_penalty num_return_sequences architectures finetuning_task num_labels id2label label2id use_cache
    is_encoder_decoder min_length early_stopping no_repeat_ngram_size bad_words_ids prefix eos_token_id
    decoder_start_token_id task_specific_params xla_device return_dict tie_word_embeddings add_cross_attention
    tie_encoder_decoder chunk_size_feed_forward sep_token_id tokenizer_class _name_or_path name_or_path
    num_beam_groups diversity_penalty encoder_no_repeat_ngram_size output_scores return_dict_in_generate
    forced_bos_token_id forced_eos_token_id remove_invalid_values problem_type transformers_version typical_p
    exponential_decay_length_penalty suppress_tokens begin_suppress_tokens tf_legacy_loss
    cross_attention_hidden_size torch_dtype gradient_checkpointing _commit_hash _attn_implementation dtype
    """.split()
)


def test_what_transformers_itself_writes_is_known(transformers):
    assert not remarks(transformers.BertConfig().to_dict())


def test_fields_of_older_transformers_are_known():
    assert not module.unknown_fields(dict.fromkeys(_OF_OLD))


@pytest.mark.parametrize("name", REAL["refused"])
def test_another_models_config_is_refused_in_a_sentence(name):
    entry = REAL["refused"][name]
    with pytest.raises(UserError) as caught:
        BertConfig.from_dict(entry["config"], source="config.json")
    message = str(caught.value)
    assert message.startswith("config.json: ") and all(words in message for words in entry["words"])
    assert len(message) < 500 and "\n" not in message


@pytest.mark.parametrize(
    "change, words",
    [
        ({"rope_theta": 1e4}, "rope_theta is 10000.0, but only null"),
        ({"num_attention_heads": 7}, "not a multiple"),
        ({"hidden_size": "768"}, "hidden_size is '768', expected a whole number from 1 to 2147483647"),
        ({"hidden_size": None}, "hidden_size is null, expected a whole number"),
        ({"hidden_size": 768.5}, "hidden_size is 768.5"),
        ({"hidden_dropout_prob": 1.0}, "expected a number from 0 to 0.999"),
        ({"num_hidden_layers": True}, "num_hidden_layers is true, expected a whole number"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers is 1000000"),
        ({"layer_norm_eps": 0}, "layer_norm_eps is 0.0"),
        ({"layer_norm_eps": -0.0}, "layer_norm_eps is -0.0"),
        ({"layer_norm_eps": "1e-12"}, "layer_norm_eps is '1e-12', expected a number"),
        ({"layer_norm_eps": float("inf")}, "layer_norm_eps is inf"),
        ({"initializer_range": float("nan")}, "initializer_range is nan"),
        ({"hidden_act": None}, "hidden_act is null, expected gelu or gelu_new or relu"),
        ({"hidden_act": ["gelu"]}, "hidden_act is ['gelu']"),
        ({"pad_token_id": 40000}, "pad_token_id 40000 is not in a vocabulary of 30522"),
        ({"vocab_size": 10**12}, "vocab_size is 1000000000000"),
        ({"vocab_size": 10**7}, "vocab_size 10000000 times hidden_size 768 is more than 2147483647 values"),
        ({"vocab_size": 10**4000}, "vocab_size is 1000"),
        ({"num_labels": 2 * 10**9}, "num_labels is 2000000000, expected a whole number from 1 to 100000"),
        ({"num_labels": 0}, "num_labels is 0"),
        ({"num_labels": "3"}, "num_labels is '3'"),
        ({"id2label": ["a", "b"]}, "id2label is ['a', 'b'], expected an object"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label numbers its labels '0', '2', expected 0 to 1"),
        ({"id2label": {"a": 0}}, "id2label numbers its labels a, expected 0 to 0"),
        ({"id2label": {"0": None}}, "expected an object with text"),
        ({"id2label": {"0": "\ud800"}}, "expected an object with text"),
        ({"problem_type": 5}, "problem_type is 5"),
        ({"is_decoder": "yes"}, "is_decoder is 'yes', expected true or false"),
        ({"model_type": ["bert"]}, "model_type is ['bert']"),
    ],
)
def test_a_value_that_is_none_is_refused(change, words):
    with pytest.raises(UserError, match="config.json: ") as caught:
        BertConfig.from_dict({**BASE, **change}, source="config.json")
    assert words in str(caught.value) and len(str(caught.value)) < 400


def test_a_misspelt_field_is_not_replaced_by_a_default_in_silence():
    fields = {**BASE, "hiden_size": 512, "layer_norm_epsilon": 1e-5}
    assert BertConfig.from_dict(fields) == BertConfig()  # nothing is missing: others' fields
    del fields["hidden_size"], fields["layer_norm_eps"]
    with pytest.raises(UserError) as caught:
        BertConfig.from_dict(fields)
    assert "'hiden_size' is not a field, did you mean hidden_size" in str(caught.value)
    assert "'layer_norm_epsilon' is not a field, did you mean layer_norm_eps" in str(caught.value)


def test_the_ids_of_other_tokens_are_not_taken_for_a_misspelt_pad_token_id():
    fields = {name: value for name, value in BASE.items() if name != "pad_token_id"}
    assert BertConfig.from_dict({**fields, "eos_token_id": 2, "bos_token_id": 0, "cls_token_id": 1}) == BertConfig()


def test_all_faults_are_told_at_once_and_many_are_counted():
    wrong = {"hidden_size": "x", "prenorm": True, "layer_norm_eps": None, "num_labels": -1}
    with pytest.raises(UserError) as caught:
        BertConfig.from_dict({**BASE, **wrong})
    assert all(name in str(caught.value) for name in wrong)
    with pytest.raises(UserError, match=r"; and \d+ more;") as caught:
        BertConfig.from_dict(dict.fromkeys(BASE, "x" * 1000) | {"model_type": "bert"})
    assert len(str(caught.value)) < 1200


def test_numbers_are_taken_for_what_they_are():
    assert BertConfig.from_dict({**BASE, "num_hidden_layers": 12.0, "hidden_dropout_prob": 0}) == BertConfig(
        hidden_dropout_prob=0.0
    )
    config = BertConfig.from_dict({**BASE, "layer_norm_eps": 1})
    assert isinstance(config.layer_norm_eps, float)  # transformers refuses a config with 1
    assert isinstance(BertConfig.from_dict({**BASE, "num_labels": 3.0}).num_labels, int)


def test_other_names_of_an_activation_compute_the_same(transformers):
    import torch

    x = torch.linspace(-9, 9, 2001, dtype=torch.float64)
    for name, same in module._SAME_ACTS.items():
        assert BertConfig.from_dict({**BASE, "hidden_act": name}).hidden_act == same
        ours, theirs = transformers.activations.ACT2FN[same](x), transformers.activations.ACT2FN[name](x)
        torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "labels, words",
    [
        (
            {"num_labels": 3, "id2label": {"0": "a", "1": "b"}},
            "num_labels 3 is used, not the number of names in id2label (2)",
        ),
        ({"num_labels": 1, "id2label": {"0": "a", "1": "b"}}, "num_labels 1 is used"),
        ({"num_labels": 2, "id2label": {"0": "a", "1": "b"}}, ""),
        ({"num_labels": 3}, ""),
        ({"num_labels": None, "id2label": {"1": "b", "0": "a"}}, ""),
        ({"_num_labels": 5, "id2label": {"0": "a", "1": "b"}}, "_num_labels 5 was left out"),
        ({"_num_labels": 5}, "_num_labels 5 was left out"),
        ({"id2label": {"0": "a", "1": "b"}, "label2id": {"a": "0", "b": "1"}}, ""),
        ({"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 1, "b": 0}}, "label2id differs from id2label"),
        ({"id2label": {"0": "a", "1": "b"}, "label2id": [1]}, "label2id differs from id2label"),
        ({"label2id": {"a": 0, "b": 1, "c": 2}}, "label2id was left out"),
    ],
)
def test_of_labels_that_disagree_what_counts_is_what_counts_in_transformers(labels, words, transformers):
    config = BertConfig.from_dict({**BASE, **labels})
    told = " ".join(remarks({**BASE, **labels}))
    assert words in told if words else not told
    theirs = transformers.BertConfig.from_dict({**BASE, **{k: v for k, v in labels.items() if v is not None}})
    assert config.num_labels == theirs.num_labels
    if config.id2label:
        assert config.id2label == {str(k): v for k, v in theirs.id2label.items()}
        assert config.label2id in (None, {name: int(i) for i, name in config.id2label.items()})


def test_keys_of_labels_may_be_numbers_and_none_is_none():
    assert BertConfig.from_dict({**BASE, "id2label": {0: "a", 1: "b"}}).id2label == {"0": "a", "1": "b"}
    assert BertConfig.from_dict({**BASE, "id2label": {}}).id2label is None


def test_fields_that_are_not_known_are_let_through_and_told_in_a_line():
    fields = {**BASE, "adapters": {}, "x\x1b[31m": 1, **{f"extra_{i}": i for i in range(20)}}
    assert BertConfig.from_dict(fields) == BertConfig()
    (line,) = remarks(fields)
    assert "adapters, 'x\\x1b[31m', extra_0" in line and line.endswith("and 12 more")


STRANGE = [None, True, False, "", "x", "\ud800", "1e-12", -1, 0, 0.5, 1, 10**20, 1e999, -1e999, math.nan, -0.0]
STRANGE += [[], [[]], [1], {}, {"a": 1}, {"0": "a"}, {"0": {}}, {"1": 1, "0": 0}, {"0": [math.nan]}]


@pytest.mark.parametrize(
    "name",
    [
        *module._DEFAULTS,
        *module._ONLY,
        "num_labels",
        "_num_labels",
        "embedding_size",
        "model_type",
        "architectures",
        "other",
    ],
)
def test_any_value_of_any_field_is_a_config_that_can_be_written_or_a_sentence(name):
    for value in STRANGE:
        for fields in ({**BASE, name: value}, {**BASE, "id2label": {"0": "a", "1": "b"}, name: value}, {name: value}):
            try:
                config = BertConfig.from_dict(fields, "config.json")
            except UserError as error:
                str(error).encode()
                assert len(str(error)) < 600
            else:
                assert BertConfig.from_dict(json.loads(config.to_json())) == config
                assert all(line.isprintable() for line in remarks(fields))


def test_a_hostile_config_takes_neither_time_nor_memory(tmp_path):
    tracemalloc.start()
    began = time.process_time()
    for change in ({"num_labels": 2 * 10**9}, {"vocab_size": 10**12}, {"num_hidden_layers": 2**31}):
        with pytest.raises(UserError):
            BertConfig.from_dict({**BASE, **change})
    with pytest.raises(UserError, match="100000 fields"):
        BertConfig.from_dict({str(i): i for i in range(100_000)})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6 and time.process_time() - began < 5


def test_nothing_that_json_cannot_say_is_written():
    for change in (
        {"layer_norm_eps": float("inf")},
        {"hidden_dropout_prob": float("nan")},
        {"initializer_range": 1e999},
    ):
        with pytest.raises(UserError):
            BertConfig().replace(**change)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"{", "cannot be read as JSON"),
        (b"", "cannot be read as JSON"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b'{"hidden_size": ' + b"9" * 10_000 + b"}", "cannot be read as JSON"),
        (b'{"hidden_size": "\xff"}', "cannot be read as JSON"),
        (b'{"hidden_size": 768, "hidden_size": 1024}', "'hidden_size' appears twice, as 768 and as 1024"),
        (b"[1]", "expected an object"),
        (b"null", "expected an object"),
        (b'{"vocab_size": 1, "layer_norm_eps": 1e999, "model_type": "bert"}', "layer_norm_eps is inf"),
        (b'{"layer_norm_eps": NaN, "model_type": "bert"}', "layer_norm_eps is nan"),
    ],
)
def test_a_damaged_file_is_named_and_said_what_it_is(content, words, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        BertConfig.from_json(path)
    assert words in str(caught.value) and str(path) in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_of_windows_is_read(encoding, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(BASE), encoding=encoding)
    assert BertConfig.from_json(tmp_path) == BertConfig()


def test_a_field_that_says_the_same_twice_is_no_fault(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(BASE)[:-1] + ', "hidden_size": 768}')
    assert BertConfig.from_json(tmp_path) == BertConfig()


def test_a_config_that_is_no_file_is_said_to_be_none(tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(UserError, match="there is no .*config.json"):
        BertConfig.from_json(tmp_path)
    path.symlink_to("config.json")
    with pytest.raises(UserError, match="symbolic links"):
        read_fields(tmp_path)
    path.unlink()
    path.symlink_to("gone.json")
    with pytest.raises(UserError, match="is a link to a file that does not exist"):
        read_fields(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="not a regular file"):
        read_fields(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="not a regular file"):
        read_fields(tmp_path)
    path.rmdir()
    with open(path, "wb") as file:
        file.truncate(10**10)
    with pytest.raises(UserError, match="10,000,000,000 bytes"):
        read_fields(path)
