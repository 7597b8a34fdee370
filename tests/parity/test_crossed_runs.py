"""One run folder, two frameworks: what one began the other goes on with, and neither the curve nor the bytes break."""

import json
import signal
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from ms_bert.run.curves import training_spans
from tests import pictures, runs

torch = pytest.importorskip("torch")


def logged(folder) -> dict[tuple, float]:
    """Every number of metrics.jsonl, by step and name."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {(line["step"], name): value for line in lines for name, value in line.items()}


def finished(*arguments, package):
    result = runs.run(*arguments, package=package)
    assert result.returncode == 0, result.stderr


def spans(folder):
    trained_by = json.loads((folder / "run.json").read_text())["trained_by"]
    return [(first, framework) for first, _, framework in training_spans(trained_by)]


@pytest.fixture(scope="module")
def without_dropout(options) -> list[str]:
    return [*options, "--dropout", "0", "--decay-steps", "12"]


@pytest.fixture(scope="module")
def in_torch(without_dropout, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "torch"
    finished(*without_dropout, "--output", folder, package="pt_reference")
    return folder


@pytest.fixture(scope="module")
def crossed(without_dropout, tmp_path_factory):
    """MindSpore to step 4, PyTorch to step 8, MindSpore to step 12."""
    folder = tmp_path_factory.mktemp("runs") / "crossed"
    finished(*without_dropout, "--steps", 4, "--output", folder, package="ms_bert")
    finished("--resume", folder, "--steps", 8, package="pt_reference")
    with pictures.drawn():
        finished("--resume", folder, "--steps", 12, package="ms_bert")
    return folder


def test_a_crossed_run_follows_the_uncrossed_one(without_dropout, crossed, in_torch, tmp_path):
    in_mindspore = tmp_path / "mindspore"
    finished(*without_dropout, "--output", in_mindspore, package="ms_bert")
    expected = logged(in_mindspore)
    noise = {key: abs(value - expected[key]) for key, value in logged(in_torch).items()}
    checked = logged(crossed)
    # The crossed run is evaluated at steps 4 and 8 too, where it stops.
    for key in expected.keys() & checked.keys():
        step, name = key
        if name.endswith("loss") or name in ("gradient_norm", "held_out_mlm_perplexity"):
            assert checked[key] == pytest.approx(expected[key], rel=2e-5), key
            assert noise[key] <= 2e-5 * expected[key], key
        elif name in ("learning_rate", "step"):
            assert checked[key] == expected[key], key
    assert {(step, "mlm_loss") for step in (2, 4, 6, 8, 10, 12)} <= expected.keys() & checked.keys()
    weights = [load_file(folder / "model.safetensors") for folder in (crossed, in_mindspore)]
    assert list(weights[0]) == list(weights[1])
    assert max(np.abs(value - weights[1][name]).mean() for name, value in weights[0].items()) < 1e-6


def test_a_run_folder_says_which_framework_computed_which_steps(crossed, in_torch):
    assert spans(crossed) == [(0, "MindSpore"), (4, "PyTorch"), (8, "MindSpore")]
    assert spans(in_torch) == [(0, "PyTorch")]
    assert (crossed / "curves.png").stat().st_size > 10_000


def test_both_frameworks_leave_the_same_files(crossed, in_torch):
    assert {p.name for p in crossed.iterdir()} == {p.name for p in in_torch.iterdir()}
    for name in ("model", "optimizer"):
        files = [folder / "checkpoints" / "step-00000012" / f"{name}.safetensors" for folder in (crossed, in_torch)]
        described = [[(key, value.shape, value.dtype) for key, value in load_file(file).items()] for file in files]
        assert described[0] == described[1] and len(described[0]) > 20


@pytest.mark.full  # workers of it are killed in tests/faults/test_workers.py
def test_a_killed_reference_run_resumes_to_the_same_bytes(without_dropout, in_torch, tmp_path):
    folder = tmp_path / "run"
    process = runs.start(*without_dropout, "--output", folder, package="pt_reference")
    metrics, deadline = folder / "metrics.jsonl", time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finished("--resume", folder, package="pt_reference")
    found, expected = runs.content(folder), runs.content(in_torch)
    differing = [name for name in expected if found.get(name) != expected[name]]
    assert not differing, (found["metrics.jsonl"], expected["metrics.jsonl"])


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--device", "Ascend"), "does not run on Ascend"),
        (("--device", "GPU"), "nvidia-smi"),
        (("--precision", "float8"), "float64"),
    ],
)
def test_what_the_reference_cannot_do_is_one_sentence(arguments, words, tmp_path):
    if arguments[1] == "GPU" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    result = runs.run(*arguments, "--output", tmp_path / "run", package="pt_reference")
    assert result.returncode == 2 and words in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()
