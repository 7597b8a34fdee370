"""Models that transformers has saved: what their config and their tokenizer say is heeded, or refused in a sentence."""

import json
from pathlib import Path

import pytest
import torch
import transformers

from ms_bert.errors import UserError
from pt_reference import finetune
from pt_reference.predict import load

TEXT = "the file of a value is an object that holds each name and each name has a value"


@pytest.fixture
def saved(vocabulary, tmp_path):
    """A function: the folder of a classifier with these fields in its config, and these of its tokenizer."""

    def folder(tokenizer=(), **fields) -> Path:
        torch.manual_seed(1)
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        config = transformers.BertConfig(
            vocab_size=vocabulary.size, max_position_embeddings=40, initializer_range=0.5, **sizes, **fields
        )
        transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "model")
        (tmp_path / "model" / "tokenizer.json").write_text(vocabulary.to_json())
        about = {"tokenizer_class": "BertTokenizer", **dict(tokenizer)}
        (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(about))
        return tmp_path / "model"

    return folder


@pytest.mark.parametrize("longest, cut", [(8, True), (40, False), (10**30, False), (None, False)])
def test_a_text_is_cut_where_the_tokenizer_says_it(saved, longest, cut):
    folder = saved({"model_max_length": longest})
    (answer,) = load(folder)([TEXT])
    assert answer.get("truncated", False) == cut
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    given = tokenizer([TEXT], truncation=cut, return_tensors="pt")
    shares = model(**given).logits.softmax(-1)[0].tolist()
    assert [*answer["probabilities"].values()] == pytest.approx(shares, abs=1e-5)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"num_labels": 2, "problem_type": "regression"}, "is a regression of 2 numbers for a text; expected one of a"),
        ({"id2label": {0: "A", 1: "A"}, "label2id": {"A": 0}}, "gives the name 'A' to two labels; give each a name"),
    ],
)
def test_what_has_no_meaning_here_is_refused_as_a_model_and_as_a_teacher(saved, tmp_path, fields, words, capsys):
    folder = saved(**fields)
    with pytest.raises(UserError, match=words):
        load(folder)
    data = "".join(f'{{"text": "a value {n}", "label": {n / 2}}}\n' for n in range(8))
    (tmp_path / "data.jsonl").write_text(data)
    options = ["--task", "regression", "--model", folder, "--train", tmp_path / "data.jsonl", "--dev-share", 0.25]
    options += ["--longest", 16, "--steps", 1, "--output", tmp_path / "run", "--teacher", folder]
    assert finetune.main([*map(str, options)]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_run_tells_others_the_length_that_it_has_learned_from(saved, tmp_path):
    (tmp_path / "data.jsonl").write_text("".join(f'{{"text": "value {n}", "label": {n % 2}}}\n' for n in range(8)))
    options = ["--task", "classification", "--model", saved(), "--train", tmp_path / "data.jsonl", "--longest", 12]
    options += ["--dev-share", 0.25, "--steps", 1, "--output", tmp_path / "run"]
    assert finetune.main([*map(str, options)]) == 0
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "run").model_max_length == 12
