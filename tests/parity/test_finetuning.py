"""Fine-tuning and prediction: the frameworks agree, and nothing is lost by a kill."""

import dataclasses
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import transformers
from safetensors.numpy import load

from conversion.__main__ import main as convert
from ms_bert.commands import finetuning, prediction, scoring
from ms_bert.commands.augmenting import Augmenter
from ms_bert.config import BertConfig
from ms_bert.data.conll import Sentence
from ms_bert.data.packing import TrainingBatches
from ms_bert.device import use_device
from ms_bert.errors import UserError
from ms_bert.finetuning_options import (
    FORMER_DEFAULTS,
    DataOptions,
    FinetuneOptions,
    FinetuningOptions,
    FinetuningRun,
    StartOptions,
)
from ms_bert.framework import MindSpore
from ms_bert.run.checkpoints import MODEL
from ms_bert.run.progress import Progress
from ms_bert.tasks import masked_words
from ms_bert.tasks.classification import Classification, MultiLabel, Regression
from ms_bert.tasks.distillation import in_order_of
from ms_bert.tasks.examples import Example
from ms_bert.tasks.tagging import Tagging
from ms_bert.training.trainer import MindSporeTrainer
from pt_reference import predict
from pt_reference.framework import PyTorch
from pt_reference.training.trainer import TorchTrainer
from tests import pictures, runs
from tests.cases import some

pytestmark = pytest.mark.slow
PACKAGES = ("ms_bert", "pt_reference")
GOOD, BAD = ("works", "returns", "defined"), ("raises", "fails", "error")


def sentence(rng: random.Random, words) -> str:
    filling = "the module of a class in Python is an object with the name that import binds".split()
    chosen = rng.choices(filling, k=rng.randint(2, 9))
    chosen.insert(rng.randrange(len(chosen)), rng.choice(words))
    return " ".join(chosen)


def rows(count: int, seed: int) -> list[tuple[str, str]]:
    rng = random.Random(seed)
    labels = [rng.choice(("good", "bad")) for _ in range(count)]
    return [(sentence(rng, GOOD if label == "good" else BAD), label) for label in labels]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Options of a run that learns to tell sentences with a good word from those with a bad one."""
    folder = tmp_path_factory.mktemp("data")
    for name, count in (("train", 192), ("dev", 40), ("other", 30)):
        lines = [f"{text}\t{label}\n" for text, label in rows(count, seed=len(name))]
        (folder / f"{name}.tsv").write_text("sentence\tlabel\n" + "".join(lines))
    return folder


@pytest.fixture(scope="module")
def command(data, undisturbed, cache):
    return [
        *("--model", undisturbed, "--train", data / "train.tsv", "--dev", data / "dev.tsv", "--cache", cache),
        *("--longest", 32, "--batch-size", 8, "--epochs", 3, "--learning-rate", 1e-2, "--log-every", 5, "--threads", 1),
    ]


def finetune(*arguments, package):
    result = runs.run(*arguments, package=package, command="finetune")
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def tuned(command, data, tmp_path_factory) -> dict:
    """The folder of a run in each framework."""
    folder = tmp_path_factory.mktemp("tuned")
    for package in PACKAGES:
        test = data / "other.tsv"
        with pictures.drawn():
            finetune(*command, "--test", test, "--output", folder / package, package=package)
    return {package: folder / package for package in PACKAGES}


def metrics(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_both_frameworks_learn_it_alike(tuned):
    one, other = (metrics(tuned[package]) for package in PACKAGES)
    assert len(one) == len(other) and one[-1]["held_out_accuracy"] > 0.9 > one[0]["held_out_accuracy"]
    for mine, theirs in zip(one, other):
        assert mine.keys() == theirs.keys()
        for name in mine.keys() - {"accuracy", "held_out_accuracy", "held_out_f1_macro"}:
            assert mine[name] == pytest.approx(theirs[name], rel=2e-3, abs=1e-6), name


def test_a_folder_holds_the_best_model_and_what_it_says_of_the_dev_data(tuned):
    for folder in tuned.values():
        evaluated = {line["step"]: line["held_out_accuracy"] for line in metrics(folder) if "held_out_loss" in line}
        results = json.loads((folder / "results.json").read_text())
        best = max((value, -step) for step, value in evaluated.items() if step)
        assert (results["metrics"]["accuracy"]["value"], -results["step"]) == best
        assert list(evaluated) == [0, 24, 48, 72]
        predictions = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
        assert [line["texts"][0] for line in predictions] == [text for text, _ in rows(40, seed=3)]
        right = np.mean([line["label"] == line["gold"] for line in predictions])
        assert right == results["metrics"]["accuracy"]["value"]
        assert results["metrics"]["accuracy"]["low"] <= right <= results["metrics"]["accuracy"]["high"]
        assert sum(map(sum, results["confusion"])) == 40 and set(results["labels"]) == {"bad", "good"}
        assert (folder / "evaluation.png").stat().st_size > 10_000
        ((_, tested),) = results["test"].items()
        told = [json.loads(line) for line in (folder / "predictions-other.jsonl").read_text().splitlines()]
        assert np.mean([line["label"] == line["gold"] for line in told]) == tested["metrics"]["accuracy"]["value"]
        assert tested["examples"] == len(told) == 30


def test_transformers_loads_the_folder_and_computes_the_same(tuned):
    folder = tuned["ms_bert"]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert model.config.id2label == {0: "bad", 1: "good"}
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()][:8]
    given = tokenizer([line["texts"][0] for line in lines], padding=True, return_tensors="pt")
    shares = model(**given).logits.softmax(-1).detach().numpy()
    found = [[line["probabilities"][name] for name in ("bad", "good")] for line in lines]
    assert np.abs(shares - found).max() < 1e-5


# By the same loop MindSpore goes on to the same bytes in tests/faults/test_run.py, without the time of this one.
@pytest.mark.parametrize("first, then", some([("ms_bert", "ms_bert"), PACKAGES], PACKAGES))
def test_a_killed_run_goes_on_to_the_same_end(first, then, command, data, tuned, tmp_path):
    folder = tmp_path / "run"
    test = ("--test", data / "other.tsv")
    process = runs.start(*command, *test, "--output", folder, package=first, command="finetune")
    log, deadline = folder / "metrics.jsonl", time.monotonic() + 120
    while not (log.exists() and '"step": 30' in log.read_text()):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    finetune("--resume", folder, package=then)
    expected = tuned[first]
    if first == then:
        for name in ("metrics.jsonl", MODEL, "predictions.jsonl", "results.json", "config.json", "task.json"):
            assert (folder / name).read_bytes() == (expected / name).read_bytes(), name
    else:
        losses = [
            [line["held_out_loss"] for line in metrics(path) if "held_out_loss" in line] for path in (folder, expected)
        ]
        assert losses[0] == pytest.approx(losses[1], rel=2e-3)
        assert len(json.loads((folder / "run.json").read_text())["trained_by"]) == 2


@pytest.mark.parametrize("package", PACKAGES)
def test_a_prediction_is_that_of_the_run_whatever_stands_beside_it(package, tuned):
    load = __import__(f"{package}.predict", fromlist=["load"]).load
    folder = tuned[package]
    kept = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    texts = [line["texts"][0] for line in kept]
    model = load(folder)
    together = model(texts)
    for line, answer in zip(kept, together, strict=True):
        assert answer["label"] == line["label"]
        assert answer["probabilities"]["good"] == pytest.approx(line["probabilities"]["good"], abs=1e-5)
    assert [model([text])[0] for text in texts[:12]] == together[:12]  # to the last bit
    assert model(texts[::-1]) == together[::-1] and model([]) == []
    assert "truncated" not in together[0] and model([" ".join(texts)])[0]["truncated"]


def test_the_command_predicts_from_arguments_files_and_a_pipe(tuned, data, tmp_path):
    folder = tuned["pt_reference"]

    def predict(*arguments, **options):
        return runs.run(folder, *arguments, package="pt_reference", command="predict", **options)

    told = predict("the class works", "the class fails")
    assert [line.split()[0] for line in told.stdout.splitlines()] == ["good", "bad"], told.stderr
    piped = predict("--input", "-", "--format", "jsonl", input="the class works\nthe class fails\n")
    answers = [json.loads(line) for line in piped.stdout.splitlines()]
    assert [answer["label"] for answer in answers] == ["good", "bad"] and answers[0]["texts"] == ["the class works"]
    assert predict("--input", data / "dev.tsv", "--output", tmp_path / "answers.csv").returncode == 0
    lines = (tmp_path / "answers.csv").read_text().splitlines()
    assert lines[0] == "text,label,probability of bad,probability of good" and len(lines) == 41


@pytest.mark.parametrize(
    "changes, words",
    [
        (("--train", "missing.tsv"), "missing.tsv"),
        (("--columns", "text=review"), "review"),
        (("--columns", "text"), "is not ROLE=NAME"),
        (("--task", "regression"), "number"),
        (("--task", "sst2"), "line 2 has the label 'bad'"),
        (("--longest", "400"), "40 positions"),
        (("--task", "sst2", "--columns", "text=sentence"), "--columns is for data of one's own, but --task sst2 knows"),
        (("--scheme", "bio"), "--scheme is bio, but the task is classification; --scheme is for --task tagging"),
        (("--scored-questions", "all"), "--scored-questions is for --task answer-selection, so leave it out"),
        (("--separator", "|"), "--separator is for --task multi-label, so leave it out"),
        (("--stride", "64"), "--stride is 64, but the task is classification; --stride is for --task question-ans"),
        (("--longest-answer", "9"), "--longest-answer is for --task question-answering, so leave it out"),
        (("--dev-share", "0.2"), "is the development data; leave one of the two out"),
        (("--temperature", "3"), "--temperature is 3.0, but there is no --teacher; name one"),
        (("--teacher-share", "1"), "--teacher-share is 1.0, but there is no --teacher; name one"),
        (("--augment-share", "0.5"), "--augment-share is 0.5, but there is no --augment; name one"),
        (("--frozen-layers", "1", "--reinitialized-layers", "1"), "overlap in a model of 1 layers"),
        (("--model", "nowhere"), "nowhere"),
        (("--task", "tagging", "--augment", "dropped"), "is for tasks with labels of whole texts"),
        (("--augment", "dropped", "--augment-model", "nowhere"), "add --augment guesses, or leave it out"),
        (("--augment", "guesses", "--augment-model", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence_before_a_folder_is_made(changes, words, command, tmp_path, capsys):
    arguments = [*map(str, command), *changes, "--output", str(tmp_path / "run")]
    assert finetuning.main(PyTorch(), "finetune", "", arguments) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("finetune: ") and words in told
    assert not (tmp_path / "run").exists()


def test_a_run_stops_when_its_patience_ends(command, tmp_path, capsys):
    folder = tmp_path / "run"
    few = ["--patience", "1", "--eval-every", "2", "--steps", "40", "--learning-rate", "1e-9"]  # nothing is learned
    assert finetuning.main(PyTorch(), "finetune", "", [*map(str, command), *few, "--output", str(folder)]) == 0
    assert "stopped at step 4: 1 evaluations were not better" in capsys.readouterr().out
    assert metrics(folder)[-1]["step"] == 4 and json.loads((folder / "results.json").read_text())["step"] == 2
    assert finetuning.main(PyTorch(), "finetune", "", ["--resume", str(folder), "--steps", "60"]) == 0
    assert "is complete at step 4; give a larger --patience to continue" in capsys.readouterr().out


def test_several_seeds_are_runs_of_their_own_and_a_summary(command, tmp_path, capsys):
    folder = tmp_path / "runs"
    test = str(Path(command[[*command].index("--dev") + 1]).with_name("other.tsv"))
    few = [*map(str, command), "--test", test, "--steps", "6", "--seeds", "2", "--seed", "4", "--output", str(folder)]
    assert finetuning.main(PyTorch(), "finetune", "", few) == 0
    results = json.loads((folder / "results.json").read_text())
    values = [json.loads((folder / f"seed-{n}/results.json").read_text())["metrics"]["accuracy"] for n in (4, 5)]
    assert list(results["metrics"]["accuracy"]["by_seed"].values()) == [value["value"] for value in values]
    assert results["metrics"]["accuracy"]["mean"] == pytest.approx(np.mean([value["value"] for value in values]))
    tested = [json.loads((folder / f"seed-{n}/results.json").read_text())["test"][test]["metrics"] for n in (4, 5)]
    of_test = [one["accuracy"]["value"] for one in tested]
    assert list(results["test"][test]["accuracy"]["by_seed"].values()) == of_test
    losses = [metrics(folder / f"seed-{n}")[1]["loss"] for n in (4, 5)]
    assert len(set(losses)) == 2 and (folder / results["median_run"] / MODEL).exists()
    assert "on average over 2 seeds" in capsys.readouterr().out
    kept = (folder / "seed-5/predictions.jsonl").read_bytes()
    before = (folder / "results.json").read_bytes()
    shutil.rmtree(folder / "seed-5")  # as if it was stopped after the first
    (folder / "results.json").unlink()
    assert finetuning.main(PyTorch(), "finetune", "", ["--resume", str(folder)]) == 0
    assert (folder / "seed-5/predictions.jsonl").read_bytes() == kept
    assert (folder / "results.json").read_bytes() == before
    capsys.readouterr()
    longer = ["--steps", "8", "--test", *(str(Path(test).with_name(name)) for name in ("other.tsv", "train.tsv"))]
    assert finetuning.main(PyTorch(), "finetune", "", ["--resume", str(folder / "seed-4"), *longer]) == 0
    assert finetuning.main(PyTorch(), "finetune", "", ["--resume", str(folder)]) == 0
    assert "the seeds were trained for 8 and 6 steps, by which their scores differ" in capsys.readouterr().out
    assert list(json.loads((folder / "results.json").read_text())["test"]) == [test]
    wrong = [*few[:-1], str(tmp_path / "wrong"), "--columns", "text=review"]
    assert finetuning.main(PyTorch(), "finetune", "", wrong) == 2 and not (tmp_path / "wrong").exists()


def test_several_seeds_go_on_as_they_were_last_told_to(command, tmp_path, monkeypatch, capsys):
    folder, few = tmp_path / "runs", ["--steps", "3", "--seeds", "2", "--seed", "1", "--output"]
    assert finetuning.main(PyTorch(), "finetune", "", [*map(str, command), *few, str(folder)]) == 0
    begun = (folder / "run.json").read_bytes()
    missing = ["--resume", str(folder), "--steps", "9", "--train", str(tmp_path / "no.tsv")]
    assert finetuning.main(PyTorch(), "finetune", "", missing) == 2
    assert (folder / "run.json").read_bytes() == begun
    for shorter in (["--steps", "2"], ["--steps", "3"]):  # nothing is trained, so the record stays
        assert finetuning.main(PyTorch(), "finetune", "", ["--resume", str(folder), *shorter]) == 0
        assert (folder / "run.json").read_bytes() == begun
    train_step = TorchTrainer.train_step

    def interrupted(self, batch, step, rate):
        if self.training.seed == 2 and step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(self, batch, step, rate)

    with monkeypatch.context() as patch:
        patch.setattr(TorchTrainer, "train_step", interrupted)
        assert finetuning.main(PyTorch(), "finetune", "", ["--resume", str(folder), "--steps", "6"]) == 143
    assert "continue all with --resume" in capsys.readouterr().out
    assert finetuning.main(PyTorch(), "finetune", "", ["--resume", str(folder)]) == 0
    assert [metrics(folder / f"seed-{seed}")[-1]["step"] for seed in (1, 2)] == [6, 6]


def test_a_run_goes_on_with_data_that_have_moved_but_not_with_others(command, data, tmp_path, capsys):
    folder, moved = tmp_path / "run", tmp_path / "moved"
    given = [str(part).replace(str(data), str(moved)) for part in command]
    shutil.copytree(data, moved)
    assert finetuning.main(PyTorch(), "finetune", "", [*given, "--steps", "3", "--output", str(folder)]) == 0
    moved.rename(tmp_path / "there")
    again = ["--resume", str(folder), "--steps", "4"]
    assert finetuning.main(PyTorch(), "finetune", "", again) == 2
    assert "there is no file" in capsys.readouterr().err
    other = ["--train", str(tmp_path / "there/other.tsv"), "--dev", str(tmp_path / "there/dev.tsv")]
    assert finetuning.main(PyTorch(), "finetune", "", [*again, *other]) == 2
    assert "the train data is not what" in capsys.readouterr().err
    there = ["--train", str(tmp_path / "there/train.tsv"), "--dev", str(tmp_path / "there/dev.tsv")]
    assert finetuning.main(PyTorch(), "finetune", "", [*again, *there]) == 0
    # A complete run is scored on further files, and keeps the scores that it has.
    tests = [str(tmp_path / "there/other.tsv"), str(tmp_path / "there/dev.tsv")]
    for test in tests:
        assert finetuning.main(PyTorch(), "finetune", "", ["--resume", str(folder), "--test", test]) == 0
    results = json.loads((folder / "results.json").read_text())
    assert list(results["test"]) == tests and results["test"][tests[1]]["metrics"] == results["metrics"]
    capsys.readouterr()
    assert finetuning.main(PyTorch(), "finetune", "", ["--resume", str(folder), "--test", tests[0]]) == 0
    assert "is complete at step 4 and has scored these files" in capsys.readouterr().out
    # Not so another text in its place; and of two files of a name the predictions can be of one only.
    shutil.copy(tests[1], tests[0])
    assert finetuning.main(PyTorch(), "finetune", "", ["--resume", str(folder), "--test", tests[0]]) == 0
    results = json.loads((folder / "results.json").read_text())
    assert results["test"][tests[0]] == results["test"][tests[1]]
    (tmp_path / "twice").mkdir()
    again = shutil.copy(tests[0], str(tmp_path / "twice/other.tsv"))
    assert finetuning.main(PyTorch(), "finetune", "", ["--resume", str(folder), "--test", again]) == 0
    assert list(json.loads((folder / "results.json").read_text())["test"]) == [tests[1], again]
    for damaged in ("[1]", '{"test": null}', "{", "[" * 100_000):
        (folder / "results.json").write_text(damaged)
        assert finetuning.main(PyTorch(), "finetune", "", ["--resume", str(folder)]) == 0
        assert json.loads((folder / "results.json").read_text())["step"] > 0
    # What was found by the model of fewer steps goes with it.
    assert finetuning.main(PyTorch(), "finetune", "", ["--resume", str(folder), "--test", again]) == 0
    assert finetuning.main(PyTorch(), "finetune", "", ["--resume", str(folder), "--steps", "5"]) == 0
    assert "test" not in json.loads((folder / "results.json").read_text())
    assert not (folder / "predictions-other.jsonl").exists()


def test_labels_of_another_head_are_not_those_of_the_task(tuned, tmp_path):
    """Another tool has saved its model into a copy of the folder, where the old task.json stays."""
    for name, labels in (("swapped", ["good", "bad"]), ("three", ["bad", "good", "mixed"])):
        shutil.copytree(tuned["pt_reference"], tmp_path / name, ignore=shutil.ignore_patterns("checkpoints"))
        transformers.AutoModelForSequenceClassification.from_pretrained(
            tuned["pt_reference"],
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: number for number, label in enumerate(labels)},
            ignore_mismatched_sizes=True,
        ).save_pretrained(tmp_path / name)
        words = (
            "calls label 0 'bad', but .* 'good'; remove" if name == "swapped" else "is of 2 labels, but .* of 3; rem"
        )
        with pytest.raises(UserError, match=f"task.json {words}"):
            predict.load(tmp_path / name)
        (tmp_path / name / "task.json").unlink()
        assert predict.load(tmp_path / name).task.labels == tuple(labels)


def test_a_converted_run_predicts_as_before_and_goes_on(tuned, tmp_path):
    new, there = tmp_path / "new", tuned["pt_reference"]
    assert convert(["convert", str(there), str(new)]) == 0
    texts = ["the class works", "the class fails"]
    assert predict.load(new)(texts) == predict.load(there)(texts)
    assert predict.load(new / MODEL).task == predict.load(there).task  # which stands beside the file
    google = str(tmp_path / "google/bert_model.ckpt.index")  # whose config has no names of labels
    assert convert(["convert", str(there), google]) == 0 and predict.load(google)(texts) == predict.load(there)(texts)
    finetune("--resume", new, package="pt_reference")
    assert json.loads((new / "results.json").read_text())["metrics"] == json.loads(
        (there / "results.json").read_text()
    )["metrics"]  # fmt: skip


@pytest.mark.parametrize("package", PACKAGES)
def test_a_model_is_scored_without_training(package, command, tuned, tmp_path, capsys):
    framework, dev = {"ms_bert": MindSpore, "pt_reference": PyTorch}[package](), command[[*command].index("--dev") + 1]
    own = json.loads((tuned["ms_bert"] / "results.json").read_text())
    arguments = ["--evaluate", str(tuned["ms_bert"]), "--test", str(dev), "--threads", "1"]
    assert finetuning.main(framework, "finetune", "", [*arguments, "--output", str(tmp_path / "scores")]) == 0
    assert f"{dev} accuracy {own['metrics']['accuracy']['value']:.4f} (95% interval" in capsys.readouterr().out
    scored = json.loads((tmp_path / "scores/results.json").read_text())["test"][str(dev)]
    assert scored["metrics"] == own["metrics"] and scored["examples"] == own["examples"]
    name = f"predictions-{Path(dev).stem}.jsonl"
    mine, theirs = (
        [
            {key: row[key] for key in ("texts", "gold", "label")}
            for row in map(json.loads, file.read_text().splitlines())
        ]
        for file in (tmp_path / "scores" / name, tuned["ms_bert"] / "predictions.jsonl")
    )
    assert mine == theirs
    # The same model from elsewhere: no options of a run, and labels in another spelling.
    shutil.copytree(tuned["ms_bert"], tmp_path / "hub", ignore=shutil.ignore_patterns("run.json", "task.json"))
    config = json.loads((tmp_path / "hub/config.json").read_text())
    config["id2label"] = {number: label.upper() for number, label in config.pop("id2label").items()}
    del config["label2id"]
    (tmp_path / "hub/config.json").write_text(json.dumps(config))
    other = ["--evaluate", str(tmp_path / "hub"), "--test", str(dev), "--threads", "1"]
    assert finetuning.main(framework, "finetune", "", other) == 0
    assert f"accuracy {own['metrics']['accuracy']['value']:.4f}" in capsys.readouterr().out


def test_a_run_that_remembers_former_defaults_goes_on_and_is_scored(command, tuned, tmp_path):
    """Of options of other tasks, which had values before they had none."""
    folder, dev = tmp_path / "run", str(command[[*command].index("--dev") + 1])
    shutil.copytree(tuned["pt_reference"], folder)
    described = json.loads((folder / "run.json").read_text())
    assert described["options"]["data"].keys() >= FORMER_DEFAULTS.keys()
    described["options"]["data"] |= FORMER_DEFAULTS
    (folder / "run.json").write_text(json.dumps(described))
    assert finetuning.main(PyTorch(), "finetune", "", ["--evaluate", str(folder), "--test", dev]) == 0
    (folder / "results.json").unlink()
    assert finetuning.main(PyTorch(), "finetune", "", ["--resume", str(folder)]) == 0
    assert (folder / "results.json").read_bytes() == (tuned["pt_reference"] / "results.json").read_bytes()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--evaluate", "RUN"), "--evaluate scores a model on labelled data; name them with --test"),
        (("--evaluate", "RUN", "--test", "DEV", "--train", "DEV"), "--train has no effect on --evaluate, which trains"),
        (("--evaluate", "RUN", "--test", "DEV", "--seeds", "2"), "--seeds has no effect on --evaluate, which trains"),
        (("--evaluate", "RUN", "--test", "DEV", "--pooling", "mean"), "--pooling has no effect on --evaluate"),
        (("--evaluate", "RUN", "--test", "DEV", "--repeat", "RUN"), "trains nothing; leave out --resume and --repeat"),
        (("--evaluate", "RUN", "--test", "DEV", "--longest", "999"), "but the model has only"),
        (("--evaluate", "RUN", "--test", "DEV", "--task", "tagging"), "give --task classification, or name another"),
        (("--evaluate", "RUN", "--test", "OTHER"), "has the labels bad, good, but the data have others"),
        (("--evaluate", "RUN", "--test", "DEV", "--output", "RUN"), "already holds a run"),
        (("--evaluate", "BASE", "--test", "DEV"), "is a run of pre-training, not of classification"),
    ],
)
def test_what_cannot_be_scored_is_one_sentence(arguments, words, command, tuned, undisturbed, tmp_path, capsys):
    dev = Path(command[[*command].index("--dev") + 1])
    other = tmp_path / "other.tsv"
    other.write_text(dev.read_text().replace("\tgood", "\tothers"))
    places = {"RUN": tuned["pt_reference"], "DEV": dev, "OTHER": other, "BASE": undisturbed}
    given = [str(places.get(one, one)) for one in arguments]
    assert finetuning.main(PyTorch(), "finetune", "", given) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_a_models_labels_are_called_as_the_data_call_them():
    def named(labels, task="classification", examples=()):
        model = Classification(labels, ("accuracy",), 32)
        return scoring.as_the_data_say(model, DataOptions(task=task), examples, Path("model"))

    of_three = [Example(("a",), label, "") for label in "012"]
    unnamed = tuple(f"LABEL_{number}" for number in range(3))
    assert named(unnamed, examples=of_three).labels == ("0", "1", "2")
    assert named(unnamed, examples=of_three).measures == ("accuracy", "f1_macro")
    assert named(("2", "0", "1", "more"), examples=of_three).labels == ("2", "0", "1", "more")
    found = named(("LABEL_0", "LABEL_1"), "mrpc")
    assert found.labels == ("not_equivalent", "equivalent") and found.measures == ("f1", "accuracy")
    assert named(("POSITIVE", "NEGATIVE"), "sst2").labels == ("positive", "negative")
    assert named(("LABEL_0", "LABEL_1"), "mrpc").pairs and not named(("positive", "negative"), "sst2").pairs
    # F1 is that of the pairs that are equivalent, whatever number the model gives them.
    labels, guesses = np.array([0, 0, 1]), np.array([0, 1, 1])
    of_first = named(("EQUIVALENT", "NOT_EQUIVALENT"), "mrpc").compared("f1", labels, guesses)
    assert [one.tolist() for one in of_first] == [[1, 1, 0], [1, 0, 0]]
    assert found.compared("f1", labels, guesses)[0].tolist() == labels.tolist()
    tagger = Tagging.of_labels([f"LABEL_{number}" for number in range(3)], 32)
    tags = [Sentence(("a", "b"), ("0", "2"))]
    assert scoring.as_the_data_say(tagger, DataOptions(task="tagging"), tags, Path("model")).labels == ("0", "1", "2")
    tagger = Tagging.of_labels(["o", "b-per", "i-per"], 32)
    tags = [Sentence(("a", "b"), ("O", "B-PER", "I-PER"))]
    spans = scoring.as_the_data_say(tagger, DataOptions(task="tagging"), tags, Path("model"))
    assert (spans.labels, spans.blank, spans.scheme) == (("O", "B-PER", "I-PER"), "O", "bio")
    run_of_mrpc = dataclasses.replace(found, labels=("Equivalent", "Not_equivalent"))
    of_own = [Example(("a", "b"), "Equivalent", "")]
    plain = scoring.as_the_data_say(run_of_mrpc, DataOptions(), of_own, Path("model"))
    assert plain.measures == ("accuracy", "f1_macro") and not plain.dataset
    with pytest.raises(UserError, match="name the labels in the model's config.json"):
        named(unnamed, "mnli")  # whose classes each model orders as it likes
    with pytest.raises(UserError, match="but the data have '3'"):
        named(unnamed, examples=[Example(("a",), "3", "")])


def test_a_longer_run_has_no_results_of_the_shorter_one(command, tmp_path):
    """Killed after its last checkpoint it must not pass for complete; nor does it leave what was half written."""
    folder = tmp_path / "run"
    assert (
        finetuning.main(PyTorch(), "finetune", "", [*map(str, command), "--steps", "4", "--output", str(folder)]) == 0
    )
    left = [folder / f".{name}.abcdefgh" for name in ("results.json", "evaluation.png", "predictions-other.jsonl")]
    for path in left:
        path.write_bytes(b"half")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetuning, "_conclude", lambda *_: sys.exit(9))
        with pytest.raises(SystemExit):
            finetuning.main(PyTorch(), "finetune", "", ["--resume", str(folder), "--steps", "6"])
    assert not (folder / "results.json").exists() and not any(path.exists() for path in left)
    assert finetuning.main(PyTorch(), "finetune", "", ["--resume", str(folder)]) == 0
    assert (folder / "results.json").exists()


def test_the_head_goes_on_only_where_the_labels_are_the_same(command, tuned, tmp_path, capsys):
    """Whatever their order; two labels of another task do not mean what these two meant."""
    few = ["--model", str(tuned["ms_bert"]), "--steps", "1", "--learning-rate", "1e-9"]
    arguments = [*map(str, command), *few]
    assert finetuning.main(PyTorch(), "finetune", "", [*arguments, "--output", str(tmp_path / "same")]) == 0
    assert "initialised at random" not in capsys.readouterr().out
    assert metrics(tmp_path / "same")[0]["held_out_accuracy"] > 0.9

    def renamed(good: str, bad: str) -> list[str]:
        """The command with other names for the labels in the data."""
        changed = list(arguments)
        for name in ("train", "dev"):
            place, written = changed.index(f"--{name}") + 1, tmp_path / f"{good}-{name}.tsv"
            text = Path(changed[place]).read_text()
            written.write_text(text.replace("\tgood", f"\t{good}").replace("\tbad", f"\t{bad}"))
            changed[place] = str(written)
        return changed

    other = renamed("well", "ill")
    assert finetuning.main(PyTorch(), "finetune", "", [*other, "--output", str(tmp_path / "other")]) == 0
    assert "because the checkpoint has them for other labels or another task: classifier" in capsys.readouterr().out
    # transformers' Trainer calls the labels 0 and 1 of data LABEL_0 and LABEL_1, if nobody names them.
    shutil.copytree(tuned["ms_bert"], tmp_path / "unnamed", ignore=shutil.ignore_patterns("run.json", "task.json"))
    config = json.loads((tmp_path / "unnamed/config.json").read_text())
    numbers = {name: number for number, name in config["id2label"].items()}
    del config["label2id"]
    config["id2label"] = {number: f"LABEL_{number}" for number in config["id2label"]}
    (tmp_path / "unnamed/config.json").write_text(json.dumps(config))
    numbered = renamed(numbers["good"], numbers["bad"])
    numbered[numbered.index(str(tuned["ms_bert"]))] = str(tmp_path / "unnamed")
    assert finetuning.main(PyTorch(), "finetune", "", [*numbered, "--output", str(tmp_path / "numbered")]) == 0
    assert "initialised at random" not in capsys.readouterr().out
    assert metrics(tmp_path / "numbered")[0]["held_out_accuracy"] > 0.9


def test_the_head_of_a_regression_goes_on_whatever_its_output_is_called():
    regression, texts = Regression((), ("pearson",), 32), Classification(("score",), ("accuracy",), 32)
    named = SimpleNamespace(config=BertConfig(id2label={"0": "score"}, label2id={"score": 0}))
    assert finetuning._with_labels_of(regression, named) == (regression, True)
    assert finetuning._with_labels_of(texts, named) == (texts, True)
    assert finetuning._with_labels_of(regression, SimpleNamespace(config=BertConfig())) == (regression, False)


def test_a_label_that_was_not_trained_is_named_with_its_line(command, tmp_path, capsys):
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\nthe class works\tgood\nthe class\tmiddling\n")
    arguments = [*map(str, command), "--dev", str(tmp_path / "dev.tsv"), "--output", str(tmp_path / "run")]
    assert finetuning.main(PyTorch(), "finetune", "", arguments) == 2
    assert "line 3: the label 'middling' is none of bad, good" in capsys.readouterr().err


def test_what_cannot_be_predicted_is_one_sentence(undisturbed, tuned, tmp_path, capsys):
    (tmp_path / "latin.txt").write_bytes("d\xe9j\xe0 vu\n".encode("latin-1"))
    for arguments, words in (
        ([undisturbed, "a text"], "is a BertForPreTraining"),
        ([tuned["ms_bert"], "--input", tmp_path / "latin.txt"], "is not UTF-8 text"),
        ([tuned["ms_bert"]], "no text was given"),
        (
            [tuned["ms_bert"], "a [MASK]", "--fill-mask"],
            "has no head of masked words (MLM), which this prediction needs",
        ),
        ([tuned["ms_bert"], "a text", "--output", tmp_path], "is a folder"),
    ):
        assert prediction.main(PyTorch(), "predict", "", list(map(str, arguments))) == 2
        (told,) = capsys.readouterr().err.splitlines()
        assert told.startswith("predict: ") and words in told


# Masked words

MASKED = [
    "the [MASK] of a module",
    "[MASK] is a class in [MASK] [MASK].",
    "an object with a name that import binds to the [MASK] of another module in a package",
]


@pytest.mark.parametrize("package", PACKAGES)
def test_masked_words_are_guessed_as_by_transformers(package, undisturbed):
    load = __import__(f"{package}.predict", fromlist=["load_mask_filler"]).load_mask_filler
    with pytest.raises(UserError, match="a list is expected, not the text 'dog'"):
        load(undisturbed, candidates="dog")
    with pytest.raises(UserError, match="top is 0; choose a number from 1 on"):
        load(undisturbed, top=0)
    fill = load(undisturbed, top=3)
    answers = fill(MASKED)
    model = transformers.AutoModelForMaskedLM.from_pretrained(undisturbed).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(undisturbed)
    for text, answer in zip(MASKED, answers, strict=True):
        given = tokenizer(text, return_tensors="pt")
        masks = (given["input_ids"][0] == tokenizer.mask_token_id).nonzero()[:, 0]
        shares, ids = model(**given).logits[0, masks].softmax(-1).topk(3)
        assert len(answer["masks"]) == len(masks) == text.count("[MASK]")
        for mask, expected, tokens in zip(answer["masks"], shares.tolist(), ids.tolist()):
            assert [guess["probability"] for guess in mask] == pytest.approx(expected, rel=1e-4)
            assert [guess["token"] for guess in mask] == tokenizer.convert_ids_to_tokens(tokens)
        assert "[MASK]" not in answer["text"]
    assert [fill([text])[0] for text in MASKED] == answers  # to the last bit
    with pytest.raises(UserError, match=r"text 2, 'no gap', has no \[MASK\]"):
        fill([MASKED[0], "no gap"])
    with pytest.raises(UserError, match="tokens, but the model takes at most 40; shorten it"):
        fill(["[MASK] " + "class " * 40])


def test_the_command_fills_masks(undisturbed):
    result = runs.run(undisturbed, MASKED[1], "--fill-mask", "--top", 2, package="pt_reference", command="predict")
    filled, guesses = result.stdout.rstrip("\n").split("\t")
    assert "is a class in" in filled and guesses.count(";") == 2 and guesses.count("%") == 6


def test_a_guess_that_continues_a_word_is_joined_to_it():
    assert masked_words._filled("play [MASK] and [MASK]", ["##ing"]) == "playing and [MASK]"
    assert masked_words._filled("[MASK] and [MASK]", ["one"]) == "one and [MASK]"
    assert masked_words._filled("x [MASK] y [MASK].", ["[MASK]", "##s"]) == "x [MASK] ys."


# The losses

CONFIG = dict(
    vocab_size=600,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=48,
    max_position_embeddings=40,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
LABELS = ("one", "two", "three")


def example(rng: random.Random, label) -> Example:
    texts = tuple(sentence(rng, GOOD) for _ in range(rng.randint(1, 2)))
    return Example(texts, label, "")


TASKS = {
    "classification": (Classification(LABELS, ("accuracy",), 32), lambda rng: rng.choice(LABELS)),
    "of the mean": (Classification(LABELS, ("accuracy",), 32, pooling="mean"), lambda rng: rng.choice(LABELS)),
    "regression": (Regression((), ("pearson",), 32), lambda rng: rng.uniform(0, 5)),
    "multi-label": (
        MultiLabel(LABELS, ("f1_micro",), 32),
        lambda rng: tuple(name for name in LABELS if rng.random() < 0.5),
    ),
}


def test_a_teachers_logits_are_in_the_order_of_the_students_labels():
    logits = np.array([[1.0, 2.0, 3.0]], np.float32)
    assert in_order_of(("a", "b", "c"), ("c", "a", "b"), logits).tolist() == [[2.0, 3.0, 1.0]]
    with pytest.raises(UserError, match="labels of --teacher are c, d"):
        in_order_of(("a", "b"), ("c", "d"), logits)
    assert in_order_of(("1", "0", "2"), ("LABEL_0", "LABEL_1", "LABEL_2"), logits).tolist() == [[2.0, 1.0, 3.0]]
    with pytest.raises(UserError, match="labels of --teacher are LABEL_0"):
        in_order_of(("1", "2", "3"), ("LABEL_0", "LABEL_1", "LABEL_2"), logits)


def test_a_student_goes_on_without_its_teacher(command, tuned, tmp_path):
    teacher, folder = tmp_path / "teacher", tmp_path / "student"
    shutil.copytree(tuned["ms_bert"], teacher)
    few = [*map(str, command), "--teacher", str(teacher), "--teacher-share", "1.0", "--epochs", "2"]
    assert finetuning.main(PyTorch(), "finetune", "", [*few, "--output", str(folder)]) == 0
    assert metrics(folder)[-1]["held_out_accuracy"] > 0.9  # it has learned from the teacher alone
    shutil.rmtree(teacher)
    before = (folder / "predictions.jsonl").read_bytes()
    (folder / "results.json").unlink()
    assert finetuning.main(PyTorch(), "finetune", "", ["--resume", str(folder)]) == 0
    assert (folder / "predictions.jsonl").read_bytes() == before
    assert "teacher" not in (folder / "task.json").read_text()


# Texts that are changed


CHANGED = ("--augment", "guesses", "dropped", "swapped", "--augment-share", "0.3")


@pytest.fixture(scope="module")
def killed(command, undisturbed, tmp_path_factory) -> tuple[Path, Path]:
    """The folders of two runs on changed texts: of one to its end, and of one that was killed. What guessed their words
    is gone."""
    folder = tmp_path_factory.mktemp("changed")
    guesser, whole, part = folder / "guesser", folder / "whole", folder / "part"
    shutil.copytree(undisturbed, guesser)
    line = [*command, *CHANGED, "--augment-model", guesser]
    told = finetune(*line, "--output", whole, package="pt_reference").stdout
    assert "training texts are changed in the first epoch, such as" in told and f"passes of {guesser}" in told
    process = runs.start(*line, "--output", part, package="pt_reference", command="finetune")
    log, deadline = part / "metrics.jsonl", time.monotonic() + 120
    while not (log.exists() and '"step": 30' in log.read_text()):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    shutil.rmtree(guesser)
    return whole, part


@pytest.mark.parametrize("package", PACKAGES)
def test_a_killed_run_on_changed_texts_goes_on_to_the_same_end(package, killed, tuned, tmp_path):
    whole, part = killed
    folder = tmp_path / "run"
    shutil.copytree(part, folder)
    finetune("--resume", folder, package=package)
    if package == "pt_reference":
        for name in ("metrics.jsonl", MODEL, "predictions.jsonl", "results.json", "guesses.safetensors"):
            assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    losses = [[line["loss"] for line in metrics(path) if "loss" in line] for path in (folder, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)
    plain = [line["loss"] for line in metrics(tuned["pt_reference"]) if "loss" in line]
    assert losses[1][-1] != pytest.approx(plain[-1], rel=2e-3)  # as on texts that are not changed
    options = json.loads((folder / "run.json").read_text())["options"]["training"]
    assert options["augment"] == ["guesses", "dropped", "swapped"] and options["augment_share"] == 0.3
    assert metrics(folder)[0] == metrics(tuned["pt_reference"])[0]  # nothing of the development data is changed


def test_both_frameworks_guess_alike_and_make_the_same_batches(undisturbed, vocabulary):
    task, label = TASKS["classification"]
    rng = random.Random(7)
    sequences = task.sequences([example(rng, label(rng)) for _ in range(40)], vocabulary)
    training = FinetuningOptions(augment=("guesses", "dropped", "swapped"), augment_share=0.4, batch_size=8)
    options = FinetuneOptions(training=training, start=StartOptions(model=undisturbed), run=FinetuningRun(threads=1))
    made, kept = [], []
    for framework in (MindSpore(), PyTorch()):
        augmented, files = Augmenter(options, None, vocabulary)(framework, sequences, Progress())
        made.append(TrainingBatches(sequences, 40, 8, seed=1, augmented=augmented))
        kept.append(load(files["guesses.safetensors"]))
    assert (kept[0]["ids"] == kept[1]["ids"]).all() and kept[0]["shares"] == pytest.approx(kept[1]["shares"], rel=1e-3)
    changed = 0
    for step in range(3 * made[0].steps_per_epoch):
        one, other = (batches(step) for batches in made)
        assert one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)
        plain = TrainingBatches(sequences, 40, 8, seed=1)(step)
        changed += not np.array_equal(one["input_ids"], plain["input_ids"])
    assert changed > 10


def test_what_cannot_guess_is_named_before_the_data_is_read(command, undisturbed, tuned, tmp_path, capsys):
    other, reader = tmp_path / "other", tmp_path / "reader"
    for folder in (other, reader):
        shutil.copytree(undisturbed, folder)
    content = (other / "tokenizer.json").read_text()
    assert '"##ing"' in content
    (other / "tokenizer.json").write_text(content.replace('"##ing"', '"##gni"'))
    config = json.loads((reader / "config.json").read_text())
    (reader / "config.json").write_text(json.dumps({**config, "is_decoder": True}))
    for arguments, words in (
        (("--model", tuned["ms_bert"]), "has no MLM head"),
        (("--augment-model", tuned["ms_bert"]), "has no MLM head"),
        (("--augment-model", other), "has another vocabulary than --model"),
        (("--augment-model", reader), "is read from left to right"),
    ):
        line = [*command, *CHANGED, "--train", "missing.tsv", *arguments, "--output", tmp_path / "run"]
        assert finetuning.main(PyTorch(), "finetune", "", list(map(str, line))) == 2
        (told,) = capsys.readouterr().err.splitlines()
        assert told.startswith("finetune: ") and words in told and "--augment-model" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("optimizer", ["adamw", "lamb"])
def test_each_layer_has_its_own_rate_and_what_is_frozen_stays(optimizer, vocabulary):
    task, label = TASKS["of the mean"]
    rng = random.Random(5)
    sequences = task.sequences([example(rng, label(rng)) for _ in range(8)], vocabulary)
    batch = TrainingBatches(sequences, 40, 8, seed=1)(0)
    config = BertConfig(**CONFIG).replace(**task.config())
    use_device("CPU")
    changes = {}
    # PyTorch's with equal rates says what those with others must be, for the first step of both is the same.
    for kind, decay, frozen in ((TorchTrainer, 1.0, None), (TorchTrainer, 0.5, 0), (MindSporeTrainer, 0.5, 0)):
        options = FinetuningOptions(
            steps=9,
            batch_size=8,
            layer_decay=decay,
            frozen_layers=frozen,
            optimizer=optimizer,
            weight_decay=0.0,
            clip_norm=0.0,  # the norm is that of what is trained
        )
        trainer = kind(config, FinetuneOptions(training=options), task)
        before = {name: value.copy() for name, value in trainer.state()[0].items()}
        trainer.train_step(batch, 0, 1e-2)
        after, moments, scalars = trainer.state()
        changes[kind, decay] = {name: np.abs(value - before[name]).mean() for name, value in after.items()}
        trainer.load(after, moments, scalars)  # a checkpoint holds all moments, whatever is trained
        assert moments.keys() == {f"{moment}.{name}" for moment in "mv" for name in after}
        assert all(moments[f"m.{name}"].any() or not change for name, change in changes[kind, decay].items())
    for kind in (MindSporeTrainer, TorchTrainer):
        for name, change in changes[TorchTrainer, 1.0].items():
            share = 0.0 if "embeddings" in name else 0.5 if "layer.0." in name else 1.0
            assert changes[kind, 0.5][name] == pytest.approx(share * change, rel=2e-3, abs=1e-6), name
