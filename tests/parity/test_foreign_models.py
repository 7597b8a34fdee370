"""Models that transformers has saved: what their config and their tokenizer say is heeded, or refused in a sentence."""

import csv
import json
from pathlib import Path

import pytest
import torch
import transformers

from ms_bert.commands import prediction
from ms_bert.errors import UserError
from pt_reference import finetune, predict
from pt_reference.framework import PyTorch
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


@pytest.mark.parametrize(
    "fields, expected",
    [
        ({"num_labels": 3, "problem_type": "multi_label_classification"}, torch.sigmoid),
        ({"num_labels": 3, "problem_type": "single_label_classification"}, lambda logits: logits.softmax(-1)),
        ({"num_labels": 3}, lambda logits: logits.softmax(-1)),
        ({"num_labels": 1}, lambda logits: logits),
        ({"num_labels": 1, "problem_type": "regression"}, lambda logits: logits),
    ],
)
def test_a_models_logits_mean_what_its_config_says(saved, fields, expected):
    folder = saved(**fields)
    given = transformers.AutoTokenizer.from_pretrained(folder)([TEXT], return_tensors="pt")
    logits = transformers.AutoModelForSequenceClassification.from_pretrained(folder)(**given).logits[0]
    (answer,) = load(folder)([TEXT])
    found = [answer["value"]] if fields["num_labels"] == 1 else [*answer["probabilities"].values()]
    assert found == pytest.approx(expected(logits).tolist(), abs=1e-5)


WORDS = {"a": "name", "b": "object", "c": "file"}  # that tell which labels hold


def rows(task: str) -> list[dict]:
    """Of all sets of the labels, or how many words there are."""
    found = []
    for number in range(8):
        labels = [label for place, label in enumerate(WORDS) if number >> place & 1]
        text = " ".join(["value", *(WORDS[label] for label in labels)])
        found.append({"text": text, "label": labels if task == "multi-label" else len(labels) / 2})
    return found


@pytest.mark.parametrize("task", ["regression", "multi-label"])
def test_numbers_and_several_labels_go_from_a_file_to_a_folder_that_others_read(task, saved, tmp_path, capsys):
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(task)))
    given = ["--task", task, "--model", saved(), "--train", tmp_path / "data.jsonl", "--dev", tmp_path / "data.jsonl"]
    given += ["--longest", 12, "--steps", 90, "--batch-size", 8, "--learning-rate", 2e-2, "--eval-every", 90]
    assert finetune.main([*map(str, given), "--threads", "1", "--output", str(tmp_path / "run")]) == 0
    log = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert log[-1]["held_out_loss"] < 0.5 * log[0]["held_out_loss"]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "run").eval()
    kind = {"regression": "regression", "multi-label": "multi_label_classification"}[task]
    assert model.config.problem_type == kind and model.config.num_labels == {"regression": 1, "multi-label": 3}[task]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "run")
    told = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    capsys.readouterr()
    texts = [row["text"] for row in rows(task)]
    assert predict.main([str(tmp_path / "run"), *texts, "--format", "csv"]) == 0
    table = [*csv.DictReader(capsys.readouterr().out.splitlines())]
    for text, line, row in zip(texts, told, table, strict=True):
        logits = model(**tokenizer(text, return_tensors="pt")).logits[0]
        if task == "regression":
            assert line["value"] == pytest.approx(logits.item(), abs=1e-4) == float(row["value"])
        else:
            shares = dict(zip(model.config.id2label.values(), logits.sigmoid().tolist()))
            assert line["probabilities"] == pytest.approx(shares, abs=1e-4)
            assert sorted(line["labels"]) == sorted(label for label, share in shares.items() if share > 0.5)
            assert json.loads(row["labels"]) == line["labels"]


def test_a_precision_that_is_asked_for_is_that_of_the_answers(saved):
    """In PyTorch, which computes in bfloat16 on each processor; near to float32, and not the same."""
    folder = saved()
    exact, fewer = (load(folder, precision=one)([TEXT])[0]["probabilities"] for one in ("float32", "bfloat16"))
    assert 0 < max(abs(exact[name] - share) for name, share in fewer.items()) < 3e-2


class Asked(PyTorch):
    """PyTorch, and how it was told to compute."""

    def compute(self, architecture, found, *how):
        self.how = how[:3]
        return super().compute(architecture, found, *how)


@pytest.mark.parametrize("more", [(), ("--fill-mask",), ("--next-sentence",)])
def test_the_command_computes_how_it_is_told(more, saved, undisturbed):
    framework, texts = Asked(), ["the [MASK] of a value", "an object"][: 2 if more == ("--next-sentence",) else 1]
    given = [str(undisturbed if more else saved()), *texts, *more, "--precision", "bfloat16", "--threads", "1"]
    assert prediction.main(framework, "predict", "", given) == 0
    assert framework.how == ("CPU", "bfloat16", 1)
