"""Two workers that share a batch train as one that has it whole; two processes make the store that one makes."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ms_bert.config import BertConfig
from ms_bert.data import store as store_module
from ms_bert.data.batches import BatchMaker
from ms_bert.data.corpus import Corpus
from ms_bert.data.store import open_store
from ms_bert.device import use_device
from ms_bert.options import ExampleOptions, Options, TrainingOptions
from ms_bert.run.recipe import learning_rate
from ms_bert.training.trainer import MindSporeTrainer

from .two_workers import WAYS

CONFIG = BertConfig(
    vocab_size=600,
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=48,
    max_position_embeddings=40,
)
STEPS = 3
SHARED = Options(
    # Short ones, so that the halves of a batch differ in their masked tokens.
    examples=ExampleOptions(seq_length=32, short_sequences=0.5),
    training=TrainingOptions(
        batch_size=8,
        leaves=2,
        steps=STEPS,
        warmup_steps=0,
        learning_rate=1e-3,
        epsilon=1e-4,  # near the gradients: no noise is divided by noise, and the size of a gradient is seen
        clip_norm=2.0,  # amid the norms
    ),
)
WHOLE = dataclasses.replace(SHARED, training=dataclasses.replace(SHARED.training, leaves=1))

# Seen: 0 of a norm or its last bit, 1e-7, and 2e-8 in a weight; with the faults of WAYS at least 4e-3 and 2.7e-4.
NORM_TOLERANCE, WEIGHT_TOLERANCE = 1e-5, 1e-6


@pytest.fixture(scope="module")
def batches(store, vocabulary):
    make = BatchMaker(store.train, vocabulary, SHARED.examples, SHARED.training.batch_size, SHARED.training.seed)
    return [make(step) for step in range(STEPS)]


@pytest.fixture(scope="module")
def by_one(batches) -> dict[str, np.ndarray]:
    """The weights after the steps of one worker, and the norms."""
    use_device("CPU")
    trainer = MindSporeTrainer(CONFIG, WHOLE)
    rates = [learning_rate(WHOLE.training, step + 1) for step in range(STEPS)]
    results = [trainer.train_step(batch, step, rates[step]) for step, batch in enumerate(batches)]
    return {"norms": np.array([result.gradient_norm for result in results], np.float32), **trainer.state()[0]}


@pytest.fixture(scope="module")
def by_two(batches, tmp_path_factory) -> dict[str, list[dict[str, np.ndarray]]]:
    """The same of each of two workers, by the way they went."""
    folder = tmp_path_factory.mktemp("workers")
    (folder / "config.json").write_text(CONFIG.to_json())
    (folder / "options.json").write_text(json.dumps(SHARED.to_dict()))
    for step, batch in enumerate(batches):
        np.savez(folder / f"batch-{step}.npz", **batch)
    run_two_workers(folder)
    return {way: [dict(np.load(folder / f"{way}-{rank}.npz")) for rank in range(2)] for way in WAYS}


def run_two_workers(folder: Path) -> None:
    programs = Path(sys.executable).parent
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workers = ["--worker_num", "2", "--local_worker_num", "2", "--master_port", str(port), "--join", "True"]
    script = Path(__file__).with_name("two_workers.py")
    process = subprocess.Popen(
        [programs / "msrun", *workers, "--log_dir", folder / "logs", script, folder],
        # msrun starts whatever `python` the path names first. The level: MindSpore warns in pages.
        env={**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "GLOG_v": "3"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,  # MindSpore leaves its dumps where it runs
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=200)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)  # its workers too
        raise
    assert process.returncode == 0, said


def assert_same_norms(found, expected):
    assert found["norms"] == pytest.approx(expected["norms"], rel=NORM_TOLERANCE)


def assert_same_weights(found, expected):
    assert list(found) == list(expected)
    differences = {name: np.abs(found[name] - expected[name]).max() for name in expected if name != "norms"}
    assert max(differences.values()) < WEIGHT_TOLERANCE, differences


def test_two_workers_train_as_one_does_on_the_whole_batch(by_one, by_two):
    assert_same_norms(by_two["right"][0], by_one)
    assert_same_weights(by_two["right"][0], by_one)


def test_the_workers_weights_stay_the_same_to_the_last_byte(by_two):
    first, second = by_two["right"]
    assert [name for name, value in first.items() if value.tobytes() != second[name].tobytes()] == []


@pytest.mark.parametrize("way", [way for way in WAYS if way != "right"])
@pytest.mark.parametrize("check", [assert_same_norms, assert_same_weights])
def test_fault_a_wrong_exchange_is_caught(by_one, by_two, way, check):
    with pytest.raises(AssertionError):
        check(by_two[way][0], by_one)


def test_fault_gradients_that_are_kept_drive_the_workers_apart(by_two):
    first, second = by_two["kept"]
    assert all((value != second[name]).any() for name, value in first.items())


def test_two_processes_make_the_very_bytes_of_the_store_that_one_makes(text_options, vocabulary, tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "_CHUNK", 2000)  # characters, so that there is work for both
    made = []
    for processes in (1, 2):
        options = dataclasses.replace(text_options, processes=processes, cache=tmp_path / str(processes))
        folder = open_store(options, Corpus(options), vocabulary)[0].folder
        made.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert len(made[0]) == 7 and made[0] == made[1]
