"""Multiple choice and answer selection, whole: answers are those of transformers, in both frameworks."""

import json
import random

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from ms_bert.commands import finetuning, prediction
from ms_bert.tasks.multiple_choice import MultipleChoice, Question
from pt_reference.framework import PyTorch

pytestmark = pytest.mark.slow
TASK = MultipleChoice((), ("accuracy",), 32)
CONFIG = dict(
    vocab_size=600,
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=48,
    max_position_embeddings=40,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
GOOD, BAD = ("works", "returns", "defined"), ("raises", "fails", "error")


def sentence(rng: random.Random, words=()) -> str:
    filling = "the module of a class in Python is an object with the name that import binds".split()
    chosen = rng.choices(filling, k=rng.randint(1, 6))
    return " ".join([*chosen, *(rng.choice(words) for _ in words[:1])])


def question(rng: random.Random, context: str) -> Question:
    count = rng.randint(2, 4)
    answer = rng.randrange(count)
    choices = tuple(sentence(rng, GOOD if number == answer else BAD) for number in range(count))
    return Question(context, "is it", choices, answer, "")


def written(folder, vocabulary, spread: float):
    """A multiple-choice model of transformers."""
    torch.manual_seed(1)
    model = transformers.BertForMultipleChoice(transformers.BertConfig(**CONFIG, initializer_range=spread))
    model.save_pretrained(folder)
    vocabulary.tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def given(sequences, owner: int) -> dict[str, torch.Tensor]:
    """The choices of a question as transformers takes them, (1, choices, tokens)."""
    numbers = np.flatnonzero(sequences.owners == owner)
    rows = {
        name: np.zeros((1, len(numbers), 32), np.int64) for name in ("input_ids", "token_type_ids", "attention_mask")
    }
    for row, number in enumerate(numbers):
        first, last = sequences.starts[number : number + 2]
        rows["input_ids"][0, row, : last - first] = sequences.ids[first:last]
        rows["token_type_ids"][0, row, : last - first] = sequences.types[first:last]
        rows["attention_mask"][0, row, : last - first] = 1
    return {name: torch.from_numpy(values) for name, values in rows.items()}


@pytest.mark.parametrize("package", ["ms_bert", "pt_reference"])
def test_a_model_of_transformers_answers_as_there_whatever_stands_beside(package, vocabulary, tmp_path):
    rng = random.Random(3)
    folder = written(tmp_path, vocabulary, spread=0.3)  # so that it tells choices apart
    questions = [question(rng, sentence(rng) if number % 3 else "") for number in range(9)]
    model = __import__(f"{package}.predict", fromlist=["load"]).load(folder)
    asked = [{"context": one.context, "question": one.question, "choices": list(one.choices)} for one in questions]
    answers = model(asked)
    theirs = transformers.BertForMultipleChoice.from_pretrained(folder).eval()
    sequences = TASK.sequences(questions, vocabulary)
    for owner, (one, answer) in enumerate(zip(questions, answers, strict=True)):
        shares = theirs(**given(sequences, owner)).logits.softmax(-1)[0].tolist()
        assert answer["probabilities"] == pytest.approx(shares, abs=1e-5) and max(shares) < 0.999
        assert answer["text"] == one.choices[answer["answer"]]
    assert len({answer["answer"] for answer in answers}) > 1
    assert [model([one])[0] for one in asked[:4]] == answers[:4]  # to the last bit
    assert model(asked[::-1]) == answers[::-1] and model([]) == []


def finetune(*arguments) -> int:
    return finetuning.main(PyTorch(), "finetune", "", [*map(str, arguments)])


def scored(run, file, *options) -> dict:
    """What --evaluate finds of a run on a file."""
    folder = run.with_name(f"scores-{len([*run.parent.iterdir()])}")
    assert finetune("--evaluate", run, "--test", file, *options, "--output", folder) == 0
    return told(folder)["test"][str(file)]


def told(folder) -> dict:
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def recipe(vocabulary, cache, tmp_path_factory):
    folder = written(tmp_path_factory.mktemp("start"), vocabulary, spread=0.02)
    return [
        *("--model", folder, "--cache", cache, "--longest", 32, "--epochs", 3, "--batch-size", 8),
        *("--learning-rate", 1e-2, "--accumulate", 2),
    ]


def test_choices_are_learned_and_asked(recipe, tmp_path, capsys):
    rng = random.Random(7)
    for name, count in (("train", 64), ("dev", 24)):
        records = [
            {"sent1": one.context, "sent2": one.question, "choices": one.choices, "answer": one.choices[one.answer]}
            for one in (question(rng, sentence(rng)) for _ in range(count))
            if len(set(one.choices)) == len(one.choices)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    run = tmp_path / "run"
    data = ("--train", tmp_path / "train.jsonl", "--dev", tmp_path / "dev.jsonl")
    assert finetune("--task", "multiple-choice", *recipe, *data, "--output", run) == 0
    assert "initialised at random" not in capsys.readouterr().out  # the head goes on
    results = told(run)
    assert results["metrics"]["accuracy"]["value"] > 0.9 > results["chance"]
    transformers.BertForMultipleChoice.from_pretrained(run)
    lines = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    right = np.mean([line["gold"] == line["answer"] for line in lines])
    assert right == results["metrics"]["accuracy"]["value"] and lines[0]["text"] in lines[0]["choices"]
    assert scored(run, tmp_path / "dev.jsonl", "--task", "multiple-choice")["metrics"] == results["metrics"]
    alone = ("--teacher", run, "--teacher-share", 1, "--output", tmp_path / "student")
    assert finetune("--task", "multiple-choice", *recipe, *data, *alone) == 0
    assert told(tmp_path / "student")["metrics"]["accuracy"]["value"] > 0.9
    capsys.readouterr()
    asked = [str(run), "the class", "is it", "--choices", "it fails", "it works", "an error"]
    assert prediction.main(PyTorch(), "predict", "", asked) == 0
    assert capsys.readouterr().out.startswith("it works ")
    file = ["--input", str(tmp_path / "dev.jsonl"), "--format", "jsonl"]
    assert prediction.main(PyTorch(), "predict", "", [str(run), *file]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["answer"] for one in answers] == [one["answer"] for one in lines]


def test_candidates_are_learned_and_ranked(recipe, tmp_path, capsys):
    rng = random.Random(8)
    for name, count in (("train", 24), ("dev", 20)):
        rows = [
            f"q{number}\tis it\t{sentence(rng, GOOD if label else BAD)}\t{label}\n"
            for number in range(count)
            for label in rng.choices((0, 1), k=3)
        ]
        (tmp_path / f"{name}.tsv").write_text("question_id\tquestion\tanswer\tlabel\n" + "".join(rows))
    run = tmp_path / "run"
    data = ("--train", tmp_path / "train.tsv", "--dev", tmp_path / "dev.tsv")
    assert finetune("--task", "answer-selection", *recipe, *data, "--output", run) == 0
    results = told(run)
    assert results["metrics"]["map"]["value"] > 0.9 and results["examples"] == 20
    assert 0 < results["questions"]["scored"] < 20 == sum(results["questions"].values())
    assert scored(run, tmp_path / "dev.tsv", "--task", "answer-selection")["metrics"] == results["metrics"]
    of_all = scored(run, tmp_path / "dev.tsv", "--task", "answer-selection", "--scored-questions", "all")
    assert (
        of_all["questions"]["scored"] == 20 and of_all["metrics"]["map"]["value"] < results["metrics"]["map"]["value"]
    )
    taught = ("--teacher", run, "--steps", 1, "--output", tmp_path / "student")
    assert finetune("--task", "answer-selection", *recipe, *data, *taught) == 0
    logits = load_file(tmp_path / "student" / "teacher.safetensors")["teacher_logits/dev"].astype(np.float64)
    shares = iter(np.exp(logits[:, 1]) / np.exp(logits).sum(1))
    for line in (run / "predictions.jsonl").read_text().splitlines():
        for one in sorted(json.loads(line)["ranking"], key=lambda one: one["candidate"]):
            assert one["score"] == pytest.approx(next(shares), abs=1e-5)
    asked = [str(run), "is it", "--choices", "a name fails", "a name works", "--format", "jsonl"]
    capsys.readouterr()
    assert prediction.main(PyTorch(), "predict", "", asked) == 0
    ranking = json.loads(capsys.readouterr().out)["ranking"]
    assert [one["text"] for one in ranking] == ["a name works", "a name fails"]
    assert ranking[0]["score"] > ranking[1]["score"]
    assert prediction.main(PyTorch(), "predict", "", [str(run), "is it"]) == 2
    assert "no question with candidates was given" in capsys.readouterr().err
    assert finetune("--task", "answer-selection", *recipe, *data, "--pooling", "mean") == 2
    assert "--pooling mean is for tasks on texts" in capsys.readouterr().err
    (tmp_path / "dev.tsv").write_text("question\tanswer\tlabel\nq\ta\t1\n")
    assert finetune("--task", "answer-selection", *recipe, *data, "--output", tmp_path / "other") == 2
    assert "only relevant or only irrelevant candidates" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
