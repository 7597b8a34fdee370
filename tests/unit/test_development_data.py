"""Development data that nobody named: a part of the training data, which nothing that is trained on gives away."""

import json

import pytest

from ms_bert.commands import finetuning
from ms_bert.finetuning_options import DataOptions
from ms_bert.run.progress import Progress


def divided(task, rows, path, share=0.2):
    """(train, dev) of records."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, found = finetuning.read(DataOptions(task=task, train=str(path), dev_share=share), Progress())
    return found["train"].examples, found["dev"].examples


def records(task, passages):
    answers = {"answers": {"text": ["word"], "answer_start": [0]}}
    fields = answers if task == "question-answering" else {"choices": ["a", "b"], "label": 0}
    return [{"context": f"word {i % passages}", "question": f"{i}?", **fields} for i in range(100)]


@pytest.mark.parametrize("task", ["question-answering", "multiple-choice"])
def test_questions_on_one_passage_stay_together(task, tmp_path):
    train, dev = divided(task, records(task, passages=20), tmp_path / "data.jsonl")
    assert len(dev) == 20 and len(train) == 80
    assert len({one.context for one in dev}) == 4 and not {one.context for one in dev} & {one.context for one in train}


@pytest.mark.parametrize("task", ["question-answering", "multiple-choice"])
@pytest.mark.parametrize("passages, share, kept_out", [(1, 0.2, 20), (2, 0.5, 50)])
def test_something_is_left_to_train_on(task, passages, share, kept_out, tmp_path):
    train, dev = divided(task, records(task, passages), tmp_path / "data.jsonl", share)
    assert len(dev) == kept_out and len(train) == 100 - kept_out


@pytest.mark.parametrize("task", ["question-answering", "multiple-choice"])
def test_a_passage_of_most_questions_is_trained_on(task, tmp_path):
    rows = [{**row, "context": "word 0" if i < 90 else row["context"]} for i, row in enumerate(records(task, 20))]
    train, dev = divided(task, rows, tmp_path / "data.jsonl", share=0.1)
    assert 1 <= len(dev) <= 10 and len(train) + len(dev) == 100
    train, dev = divided(task, rows[:91], tmp_path / "data.jsonl", share=0.001)
    assert len(dev) == 1 and dev[0].context != "word 0"


def test_a_label_that_stands_once_is_learned(tmp_path):
    for rare in range(0, 40, 3):
        rows = [{"text": f"text {i}", "label": "c" if i == rare else "ab"[i % 2]} for i in range(40)]
        train, dev = divided("classification", rows, tmp_path / "data.jsonl", share=0.5)
        assert {one.label for one in train} == {"a", "b", "c"} and len(dev) == 20
        rows = [{"text": f"text {i}", "labels": ["c", "a"] if i == rare else ["b", "a"]} for i in range(40)]
        train, dev = divided("multi-label", rows, tmp_path / "data.jsonl", share=0.5)
        assert {name for one in train for name in one.label} == {"a", "b", "c"} and len(dev) == 20
        rows = [{"tokens": ["x", str(i)], "tags": ["O", "B-C" if i == rare else "B-A"]} for i in range(40)]
        train, dev = divided("tagging", rows, tmp_path / "data.jsonl", share=0.5)
        assert {tag for one in train for tag in one.tags} == {"O", "B-A", "B-C"} and len(dev) == 20


def test_rather_more_are_kept_out_than_the_only_one_of_a_label(tmp_path):
    rows = [{"text": f"text {i % 3}", "label": "ab"[i % 2]} for i in range(30)] + [{"text": "rare", "label": "c"}]
    train, dev = divided("classification", rows, tmp_path / "data.jsonl", share=0.1)
    assert len(dev) == 10 and {one.label for one in train} == {"a", "b", "c"}


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_text_that_stands_twice_is_learned_or_kept_out(task, tmp_path):
    rows = [{"text": f"text {i % 30}", "label": i % 2} for i in range(90)]
    train, dev = divided(task, rows, tmp_path / "data.jsonl")
    assert len(dev) == 18 and not {one.texts for one in train} & {one.texts for one in dev}


def test_files_to_test_take_no_other_ones_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, count in (("train", 6), ("dev", 4), ("more", 2)):
        (tmp_path / name).write_text("".join(f"word{i}\tO\nother\tB-X\n\n" for i in range(count)))
    data = DataOptions("tagging", train="train", dev="dev", test=("dev", "train", "more"))
    _, found = finetuning.read(data, Progress())
    counts = {name: len(read.examples) for name, read in found.items()}
    assert counts == {"train": 6, "dev": 4, "--test dev": 4, "--test train": 6, "--test more": 2}


def test_texts_are_kept_out_one_by_one_and_always_the_same(tmp_path):
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(50)]
    train, dev = divided("classification", rows, tmp_path / "data.jsonl", share=0.1)
    assert len(dev) == 5 and len({*train, *dev}) == 50
    assert divided("classification", rows, tmp_path / "data.jsonl", share=0.1) == (train, dev)
