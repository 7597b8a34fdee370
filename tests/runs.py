"""Whole runs as a user starts them, in processes of their own, on a model so small that only start-up costs."""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from safetensors.numpy import save_file

from conversion import pretrained
from conversion.parameters import ARCHITECTURES, BACKBONE, shapes
from tests.forks import Forks


def small_run(corpus: Path, cache: Path, config: Path) -> list[str]:
    """Options of a run of 12 steps with a line each second step, evaluations and checkpoints in between."""
    return [
        "--corpus",
        str(corpus),
        "--vocab-size",
        "600",
        "--held-out",
        "0.2",
        "--config",
        str(config),
        "--cache",
        str(cache),
        "--processes",
        "1",
        "--seq-length",
        "32",
        "--batch-size",
        "4",
        "--steps",
        "12",
        "--warmup-steps",
        "4",
        "--log-every",
        "2",
        "--eval-every",
        "5",
        "--eval-sequences",
        "8",
        "--checkpoint-every",
        "3",
        "--dropout",
        "0.1",
    ]


def write_config(folder: Path, **changes) -> Path:
    """A config.json of a BERT of one layer."""
    fields = {
        "vocab_size": 600,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 40,
        **changes,
    }
    path = folder / "config.json"
    path.write_text(json.dumps(fields))
    return path


@functools.cache
def forks(package: str) -> Forks:
    return Forks(package)


def run(*arguments, package: str = "ms_bert", command: str = "pretrain", **options) -> subprocess.CompletedProcess:
    """The command of a package, to its end; with options of subprocess.run in a process that imports all anew."""
    arguments = [str(argument) for argument in arguments]
    if not options:
        return forks(package).run(f"{package}.{command}", arguments, timeout=200)
    # Importing MindSpore sets OMP_NUM_THREADS=1 behind os.environ's back, and torch rounds by the number of threads:
    # a process gets the environment that is seen.
    options.setdefault("env", dict(os.environ))
    return subprocess.run(
        [sys.executable, "-m", f"{package}.{command}", *arguments],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=200,
        **options,
    )


def start(*arguments, package: str = "ms_bert", command: str = "pretrain") -> subprocess.Popen:
    """The command of a package, in the background."""
    return subprocess.Popen(
        [sys.executable, "-m", f"{package}.{command}", *map(str, arguments)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def assert_refused(result: subprocess.CompletedProcess, words: str, code: int = 2) -> None:
    """One sentence with these words, this exit code, no traceback."""
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    message = result.stderr.strip().splitlines()
    assert len(message) == 1 and words in message[0], result.stderr


def content(folder: Path) -> dict[str, bytes]:
    """What two equal runs must share, byte for byte."""
    last = sorted((folder / "checkpoints").iterdir())[-1]
    files = [folder / "metrics.jsonl", folder / "model.safetensors", *sorted(last.iterdir())]
    return {path.name if path.parent == folder else f"{last.name}/{path.name}": path.read_bytes() for path in files}


def headed(undisturbed: Path, folder: Path, task) -> Path:
    """The folder of a model with a head for a task, as a run on it leaves it, of random weights.

    Args:
        undisturbed: the folder of a pre-trained model.
    """
    found = pretrained.read(undisturbed)
    config = found.config.replace(**task.config())
    parts = (*BACKBONE, *ARCHITECTURES[task.architecture].parts)
    fit = found.fit(shapes(config, parts, task.architecture), task.architecture)
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copy(undisturbed / name, folder / name)
    (folder / "config.json").write_text(json.dumps({"architectures": [task.architecture], **config.to_dict()}))
    (folder / "task.json").write_text(json.dumps(task.remembered()))
    save_file(fit.values(seed=1), folder / "model.safetensors", {"format": "pt"})
    return folder
