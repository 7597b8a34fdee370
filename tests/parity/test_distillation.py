"""A model learns from a teacher's hidden states, and begins with some of a model's layers."""

import json
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file, save_file

from conversion.parameters import ARCHITECTURES, BACKBONE, shapes
from ms_bert.commands import finetuning, teaching
from ms_bert.config import BertConfig
from ms_bert.randomness import initial_weights
from ms_bert.run.checkpoints import MODEL
from ms_bert.tasks.classification import Classification
from pt_reference.framework import PyTorch
from tests import runs
from tests.parity.test_finetuning import BAD, GOOD, PACKAGES, finetune, metrics, sentence

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
FILE = "teacher.safetensors"
LONGEST = 24


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder, rng = tmp_path_factory.mktemp("data"), random.Random(1)
    for name, count in (("train", 64), ("dev", 16)):
        lines = []
        for _ in range(count):
            label = rng.choice(("good", "bad"))
            lines.append(f"{sentence(rng, GOOD if label == 'good' else BAD)}\t{label}\n")
        (folder / f"{name}.tsv").write_text("sentence\tlabel\n" + "".join(lines))
    return folder


@pytest.fixture(scope="module")
def model(undisturbed, tmp_path_factory):
    """Makes the folder of a classifier of so many layers of some width, of random weights that differ by the seed."""
    folder = tmp_path_factory.mktemp("models")

    def made(layers: int, width: int, pooling: str = "cls", seed: int = 1, **changes) -> Path:
        path = folder / f"{layers}-{width}-{pooling}-{seed}-{'-'.join(changes)}"
        if path.exists():
            return path
        task = Classification(("bad", "good"), ("accuracy",), LONGEST, pooling=pooling)
        config = BertConfig(
            vocab_size=600,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=48,
            max_position_embeddings=40,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ).replace(**task.config(), **changes)
        wanted = shapes(config, (*BACKBONE, *ARCHITECTURES[task.architecture].parts))
        path.mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
            shutil.copy(undisturbed / name, path / name)
        (path / "config.json").write_text(json.dumps({"architectures": [task.architecture], **config.to_dict()}))
        (path / "task.json").write_text(json.dumps(task.remembered()))
        weights = {name: initial_weights(name, shape, 0.2, seed, False) for name, shape in wanted.items()}
        save_file(weights, path / MODEL, {"format": "pt"})
        return path

    return made


@pytest.fixture(scope="module")
def command(data, cache) -> list[str]:
    line = [
        *("--train", data / "train.tsv", "--dev", data / "dev.tsv", "--cache", cache, "--longest", LONGEST),
        *("--batch-size", 8, "--steps", 16, "--learning-rate", 1e-3, "--log-every", 1, "--threads", 1),
    ]
    return [*map(str, line)]


def trained(*arguments) -> Path:
    """The folder of a run of PyTorch in this process."""
    line = [*map(str, arguments)]
    assert finetuning.main(PyTorch(), "finetune", "", line) == 0
    return Path(line[line.index("--output") + 1])


def assert_refused(capsys, folder: Path, words: str, *arguments) -> None:
    """One sentence with these words, before there is a folder."""
    assert finetuning.main(PyTorch(), "finetune", "", [*map(str, arguments), "--output", str(folder)]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("finetune: ") and words in told
    assert not folder.exists()


# Some layers of a model


def test_a_model_begins_with_the_layers_that_are_kept(command, model, tmp_path, capsys):
    begun = model(4, 32)
    still = ("--steps", 1, "--learning-rate", 1e-12, "--weight-decay", 0)
    folder = trained(*command, "--model", begun, "--keep-layers", 1, 3, *still, "--output", tmp_path / "run")
    assert f"weights of {begun}" in (said := capsys.readouterr().out) and "; layers 1, 3 of 4 kept\n" in said
    assert "BERT of 2 layers" in said
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 2
    before, after = load_file(begun / MODEL), load_file(folder / MODEL)
    assert len(after) == len(before) - 2 * 16
    for name, value in after.items():
        was = before[name.replace("layer.1.", "layer.2.")]
        assert value == pytest.approx(was, abs=1e-6), name


def test_layers_that_are_drawn_anew_are_those_that_were_asked_for(command, model, tmp_path, capsys):
    begun = model(3, 32)
    still = ("--steps", 1, "--learning-rate", 1e-12, "--weight-decay", 0)
    for count, anew in ((0, ("pooler.",)), (1, ("pooler.", "layer.2.")), (3, ("pooler.", "layer."))):
        line = [*command, "--model", begun, *still, "--reinitialized-layers", count]
        folder = trained(*line, "--output", tmp_path / str(count))
        assert "the pooler and top layers" in capsys.readouterr().out
        before, after = load_file(begun / MODEL), load_file(folder / MODEL)
        assert after.keys() == before.keys()
        for name, value in after.items():
            changed = bool(np.abs(value - before[name]).max() > 1e-6)
            of_these = any(part in name for part in anew)  # what is 0 or 1 by the initialisation stays it
            assert changed == (of_these and value.ndim == 2), name


def test_dropout_takes_the_place_of_the_configs_own(command, model, tmp_path):
    line = [*command, "--model", model(2, 32), "--steps", 2]
    dropped = trained(*line, "--dropout", 0.3, "--output", tmp_path / "dropped")
    config = json.loads((dropped / "config.json").read_text())
    assert (config["hidden_dropout_prob"], config["attention_probs_dropout_prob"]) == (0.3, 0.3)
    plain = trained(*line, "--output", tmp_path / "plain")
    assert metrics(dropped)[0] == metrics(plain)[0]  # evaluated before the first step
    assert metrics(dropped)[1]["loss"] != pytest.approx(metrics(plain)[1]["loss"], rel=1e-4)


def test_balanced_classes_weigh_alike_in_the_loss(command, model, data, tmp_path):
    """The mean loss of a step over the classes, not over the examples, of which one class has a fifth."""
    rows = (data / "train.tsv").read_text().splitlines()
    good, bad = ([row for row in rows if row.endswith(f"\t{label}")] for label in ("good", "bad"))
    few = tmp_path / "few.tsv"
    few.write_text("\n".join([rows[0], *good[:16], *bad[:4], ""]))
    line = [*command, "--model", model(2, 32), "--train", few, "--batch-size", 20, "--steps", 1]
    losses = {}
    for kind in ("equal", "balanced"):
        folder = trained(*line, "--class-weights", kind, "--output", tmp_path / kind)
        losses[kind] = metrics(folder)[1]["loss"]
    given = ["--evaluate", model(2, 32), "--test", few, "--threads", 1, "--output", tmp_path / "before"]
    assert finetuning.main(PyTorch(), "finetune", "", [*map(str, given)]) == 0
    told = [json.loads(line) for line in (tmp_path / "before" / "predictions-few.jsonl").read_text().splitlines()]
    of_class = [
        np.mean([-np.log(line["probabilities"][label]) for line in told if line["gold"] == label])
        for label in ("good", "bad")
    ]
    assert losses["equal"] == pytest.approx((16 * of_class[0] + 4 * of_class[1]) / 20, rel=1e-4)
    assert losses["balanced"] == pytest.approx(sum(of_class) / 2, rel=1e-4)
    assert losses["balanced"] != pytest.approx(losses["equal"], rel=1e-2)


@pytest.mark.parametrize("layers", [(5,), (0, 1), (2, 1), (1, 1), (-1,)])
def test_layers_that_there_are_not_are_refused(layers, command, model, tmp_path, capsys):
    words = f"--keep-layers is {' '.join(map(str, layers))}, but"
    assert_refused(capsys, tmp_path / "run", words, *command, "--model", model(4, 32), "--keep-layers", *layers)


# Hidden states of a teacher


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_run_remembers_the_states_that_transformers_has(pooling, command, model, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(teaching, "CHUNK", 5)
    teacher, student = model(5, 32, seed=2), model(3, 32, pooling)
    few = ("--pooling", pooling, "--teacher-states", 1, "--steps", 1)
    folder = trained(*command, "--model", student, "--teacher", teacher, *few, "--output", tmp_path / "run")
    assert f"asking the teacher {teacher} for its logits and the states of layers 2, 3\n" in capsys.readouterr().out
    kept = load_file(folder / FILE)
    assert kept.keys() == {f"teacher_{what}/{part}" for what in ("logits", "states") for part in ("train", "dev")}
    network = transformers.AutoModelForSequenceClassification.from_pretrained(teacher).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(teacher)
    for part, count in (("train", 64), ("dev", 16)):
        states, logits = kept[f"teacher_states/{part}"], kept[f"teacher_logits/{part}"]
        assert states.shape == (count, 2, 32) and states.dtype == np.float32
        rows = [line.split("\t")[0] for line in (data / f"{part}.tsv").read_text().splitlines()[1:]]
        for row, found, its in [*zip(rows, states, logits)][-12:]:
            given = tokenizer(row, truncation=True, max_length=LONGEST, return_tensors="pt")
            seen = network(**given, output_hidden_states=True)
            assert its == pytest.approx(seen.logits[0].detach().numpy(), abs=1e-4)
            for layer, vector in zip((2, 3), found):  # of five, for the first two of three
                tokens = seen.hidden_states[layer][0].detach().numpy()
                expected = tokens[0] if pooling == "cls" else tokens.mean(0)
                assert vector == pytest.approx(expected / np.linalg.norm(expected), abs=1e-5)


@pytest.fixture(scope="module")
def learned(command, model, tmp_path_factory) -> dict[str, Path]:
    """A run of each framework that learns from a deeper and wider teacher, and what it is told."""
    folder = tmp_path_factory.mktemp("learned")
    for package in PACKAGES:
        finetune(*_patient(command, model), "--output", folder / package, package=package)
    return {package: folder / package for package in PACKAGES}


def _patient(command, model) -> list:
    teacher = ("--teacher", model(6, 40, "mean", seed=2), "--teacher-states", 2)
    return [*command, "--model", model(3, 32, "mean"), *teacher, "--pooling", "mean", "--checkpoint-every", 4]


def test_both_frameworks_learn_alike_from_states(learned):
    one, other = (metrics(learned[package]) for package in PACKAGES)
    assert len(one) == len(other) == 16 + 3
    for mine, theirs in zip(one, other):
        for name in ("loss", "gradient_norm", "held_out_loss"):
            assert (name in mine) == (name in theirs)
            assert name not in mine or mine[name] == pytest.approx(theirs[name], rel=1e-4), name
    first, last = (line["held_out_loss"] for line in (one[0], one[-1]))
    assert last < 0.9 * first
    kept = [load_file(learned[package] / FILE) for package in PACKAGES]
    assert kept[0].keys() == kept[1].keys()
    assert all(value == pytest.approx(kept[1][name], abs=1e-5) for name, value in kept[0].items())
    states = kept[0]["teacher_states/train"]
    assert states.shape == (64, 2, 32) and np.linalg.norm(states, axis=-1) == pytest.approx(1, abs=1e-6)


def test_a_killed_run_goes_on_without_its_teacher_to_the_same_bytes(learned, command, model, tmp_path):
    package, folder, teacher = "pt_reference", tmp_path / "run", tmp_path / "teacher"
    line = _patient(command, model)
    shutil.copytree(line[line.index("--teacher") + 1], teacher)
    line[line.index("--teacher") + 1] = teacher
    process = runs.start(*map(str, line), "--output", str(folder), package=package, command="finetune")
    log, deadline = folder / "metrics.jsonl", time.monotonic() + 120
    while not (log.exists() and '"step": 5' in log.read_text()):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    shutil.rmtree(teacher)
    finetune("--resume", folder, package=package)
    for name in ("metrics.jsonl", MODEL, "predictions.jsonl", "results.json", "config.json", "task.json", FILE):
        assert (folder / name).read_bytes() == (learned[package] / name).read_bytes(), name
    further = runs.run("--resume", folder, "--test", line[line.index("--dev") + 1], package=package, command="finetune")
    assert further.returncode == 2 and "learns from a teacher, who was asked about its data" in further.stderr


def test_a_model_that_is_its_own_teacher_is_at_no_distance_from_it(command, model, tmp_path):
    begun = model(3, 32)
    losses = []
    for weight in (0, 1000):
        arguments = ("--model", begun, "--teacher", begun, "--teacher-states", weight, "--steps", 4)
        folder = trained(*command, *arguments, "--output", tmp_path / str(weight))
        losses.append([line["held_out_loss"] for line in metrics(folder) if "held_out_loss" in line])
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-5)
    assert losses[1][-1] != pytest.approx(losses[0][-1], rel=1e-5)  # and it counts as soon as there is one


@pytest.mark.parametrize(
    "student, teacher, words",
    [
        ((3, 32), (4, 16), "but the hidden states of {} have 16 numbers and the model's 32; name another"),
        ((3, 32), (2, 32), "but {} has 2 and the model 3; name another --teacher, or --keep-layers."),
        ((1, 32), (2, 32), "--teacher-states compares all layers but the last, and the model has only one"),
    ],
)
def test_a_teacher_whose_states_cannot_be_compared_is_refused(
    student, teacher, words, command, model, tmp_path, capsys
):
    one, other = model(*student), model(*teacher)
    arguments = (*command, "--model", one, "--teacher", other, "--teacher-states", 1)
    assert_refused(capsys, tmp_path / "run", words.format(other), *arguments)


def test_a_teacher_whose_cls_sees_no_word_is_refused(command, model, tmp_path, capsys):
    teacher = model(4, 32, "mean", is_decoder=True)
    arguments = (*command, "--model", model(3, 32), "--teacher", teacher, "--teacher-states", 1)
    assert_refused(capsys, tmp_path / "run", "its [CLS] sees no word of a text; leave --teacher-states", *arguments)


def test_a_teacher_of_pairs_does_not_teach_single_texts(command, model, tmp_path, capsys):
    teacher = tmp_path / "teacher"
    shutil.copytree(model(2, 32), teacher)
    told = json.loads((teacher / "task.json").read_text())
    (teacher / "task.json").write_text(json.dumps({**told, "pairs": True}))
    words = f"{teacher} was fine-tuned for pairs of texts, but the training data is of single texts; name another"
    assert_refused(capsys, tmp_path / "run", words, *command, "--model", model(2, 32), "--teacher", teacher)


def test_states_of_no_teacher_are_refused_before_anything_is_read(command, model, tmp_path, capsys):
    words = "--teacher-states is 1.0, but there is no --teacher; name one"
    assert_refused(capsys, tmp_path / "run", words, *command, "--model", model(3, 32), "--teacher-states", 1)
