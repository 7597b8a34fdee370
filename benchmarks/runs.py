"""The data of a measurement, and its runs, which are kept in folders: an interrupted one goes on where it was."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.machine import describe
from ms_bert.data.files import write_atomically
from ms_bert.options import cache_folder
from ms_bert.run.folder import METRICS, RESULTS, RUN, THROUGHPUT, read_log

CHECKPOINTS = "checkpoint-*"  # folders of transformers' Trainer


def with_files(data: Path | None, files: Iterable[str]) -> Path:
    """The folder of data, which must hold these files."""
    for file in files:
        if data is None or not (data / file).is_file():
            where = file if data is None else data / file
            raise SystemExit(f"{where} is missing; name the folder of the data with --data.")
    assert data is not None
    return data


def folder(question: str, work: Path | None) -> Path:
    """Of the runs of a question; None: one in the cache, of this commit."""
    commit = str(describe()["commit"]).split()
    changed = "-changed" * (len(commit) > 1)  # what is in the folder may be of other changes: work is for trials then
    work = work or cache_folder() / "benchmarks" / f"{question}-{commit[0][:12]}{changed}"
    work.mkdir(parents=True, exist_ok=True)
    return work


def named(text: str) -> str:
    """As a folder's name."""
    return "-".join(re.findall(r"[\w.]+", text.lower()))


@dataclasses.dataclass(frozen=True)
class Run:
    """A command and the folder it makes.

    Attributes:
        module: of the command. always: options that a run which goes on does not remember. options: others, without
            those of the folder. places: folders, by what stands for them.
    """

    module: str
    always: Sequence
    options: Sequence
    path: Path
    places: dict[Path, str]

    def done(self) -> dict:
        """Begin or go on, to the end; the command, the seconds of training, and the commit at which it was begun."""
        commit = self.path.with_name(f"{self.path.name}.commit")  # its folder is the command's to make
        if not commit.exists():
            write_atomically(commit, str(describe()["commit"]).encode())
        begun, options = ["-m", self.module, *map(str, self.always)], list(map(str, self.options))
        command = shlex.join(["python", *begun, *options])
        for place, name in self.places.items():
            command = command.replace(str(place), name)
        kept = self.path.with_name(f"{self.path.name}.command")
        if kept.exists() and kept.read_text() != command:
            raise SystemExit(f"{self.path} was begun by {kept.read_text()}, not {command}; remove it, or name another.")
        write_atomically(kept, command.encode())
        where = ["--resume"] if (self.path / RUN).is_file() else [*options, "--output"]
        if not (self.path / RESULTS).exists():
            if code := subprocess.run([sys.executable, *begun, *where, str(self.path)]).returncode:
                raise SystemExit(f"{self.path} ended with exit code {code}; the next call goes on with it.")
        seconds = sum(line.get("seconds", 0.0) for line in read_log(self.path, THROUGHPUT))
        return {"command": command, "training_seconds": round(seconds, 1), "commit": commit.read_text()}

    def held_out(self, first: bool = False) -> dict:
        """The last evaluation of a pre-training; or the first, before it."""
        evaluated = [line for line in read_log(self.path, METRICS) if any(name.startswith("held_out") for name in line)]
        chosen = evaluated[0 if first else -1]
        return {name: value for name, value in chosen.items() if name.startswith("held_out") or name == "step"}

    def metrics(self) -> dict:
        """The scores of a fine-tuned model."""
        found = json.loads((self.path / RESULTS).read_text())["metrics"]
        return {name: score["value"] for name, score in found.items()}


def checkpoint(output: Path) -> str | None:
    """The newest whole checkpoint that transformers' Trainer has in a folder; it writes its state last."""
    whole = [path.parent for path in output.glob(f"{CHECKPOINTS}/trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None
