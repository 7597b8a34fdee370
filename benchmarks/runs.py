"""Runs of a measurement that are kept in folders, so that an interrupted one goes on where it was."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import describe
from ms_bert.options import cache_folder
from ms_bert.run.folder import METRICS, RESULTS, RUN, THROUGHPUT, read_log


def folder(question: str) -> Path:
    """Of the runs of a question: one in the cache, of this commit."""
    return cache_folder() / "benchmarks" / f"{question}-{str(describe()['commit'])[:12]}"


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
        """Begin or go on, to the end; the command, and the seconds of training."""
        begun, options = ["-m", self.module, *map(str, self.always)], list(map(str, self.options))
        where = ["--resume"] if (self.path / RUN).is_file() else [*options, "--output"]
        if not (self.path / RESULTS).exists():
            if code := subprocess.run([sys.executable, *begun, *where, str(self.path)]).returncode:
                raise SystemExit(f"{self.path} ended with exit code {code}; the next call goes on with it.")
        command = shlex.join(["python", *begun, *options])
        for place, name in self.places.items():
            command = command.replace(str(place), name)
        seconds = sum(line.get("seconds", 0.0) for line in read_log(self.path, THROUGHPUT))
        return {"command": command, "training_seconds": round(seconds, 1)}

    def held_out(self, first: bool = False) -> dict:
        """The last evaluation of a pre-training; or the first, before it."""
        evaluated = [line for line in read_log(self.path, METRICS) if any(name.startswith("held_out") for name in line)]
        chosen = evaluated[0 if first else -1]
        return {name: value for name, value in chosen.items() if name.startswith("held_out") or name == "step"}

    def metrics(self) -> dict:
        """The scores of a fine-tuned model."""
        found = json.loads((self.path / RESULTS).read_text())["metrics"]
        return {name: score["value"] for name, score in found.items()}
