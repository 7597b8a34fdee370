"""The README promises nothing that is not so: its commands are understood, its numbers are the committed ones."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from ms_bert.options import Options
from ms_bert.run import command

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```\n(.*?)```", README, re.S) for line in block.splitlines()]
COMMANDS = [line for line in LINES if line.startswith("python -m ms_bert.pretrain")]


def result(question: str) -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / f"{question}.json").read_text())["result"]


@pytest.mark.parametrize("target", ["pretrain", "test"])
def test_the_two_commands_build_the_environment_and_run(target, tmp_path):
    assert any(line.startswith(f"make {target}") for line in LINES)
    # These tests run under make themselves, which hands its own flags on.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    plan = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", target, f"VENV={tmp_path}/venv"],
        cwd=ROOT,
        text=True,
        capture_output=True,
        env=environment,
    )
    assert plan.returncode == 0, plan.stderr
    steps = plan.stdout.splitlines()
    assert steps[0].endswith(f"-m venv {tmp_path}/venv") and "--constraint constraints.txt" in steps[1]
    assert steps[-1] == f"{tmp_path}/venv/bin/python -m " + {"pretrain": "ms_bert.pretrain", "test": "pytest"}[target]


def test_there_are_commands():
    assert len(COMMANDS) >= 4


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_understood(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "base").mkdir(parents=True)
    (tmp_path / "runs" / "base" / "run.json").write_text(json.dumps({"options": Options().to_dict(), "trained_by": []}))
    arguments = shlex.split(line)[3:]
    if arguments == ["--help"]:
        with pytest.raises(SystemExit, match="0"):
            command.parse("", "", arguments)
    else:
        assert isinstance(command.parse("", "", arguments), Options)


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)]+)\)", README) + re.findall(r"`(ms_bert/[\w./]+)`", README))
def test_every_file_it_names_is_there(path):
    assert (ROOT / path).exists()


def test_its_numbers_are_the_measured_ones():
    learning = result("learning")
    last = learning["held_out"][-1]
    for number in (
        f"{last['held_out_mlm_loss']:.2f}",
        f"{last['held_out_mlm_accuracy']:.1%}",
        f"{last['held_out_nsp_accuracy']:.1%}",
        f"{learning['text']['held_out_unigram_entropy']:.2f}",
    ):
        assert number in README
    assert learning["printed"][-1].split(":")[0] in README
    preset = Options().model.preset
    assert learning["options"]["model"]["preset"] == preset and f"BERT-{preset}" in README


def test_the_results_meet_what_was_required():
    learning = result("learning")
    last = learning["held_out"][-1]
    assert last["held_out_mlm_loss"] < learning["text"]["held_out_unigram_entropy"] - 0.5
    assert last["held_out_nsp_accuracy"] > 0.6
    assert min(v["least"] for v in result("batches")["sequences_per_second"].values()) >= 2000
    store = result("token_store")
    assert all(run["megabytes_per_minute"] >= 30 and run["peak_memory_gb"] < 1.5 for run in store["runs"])
    assert result("start")["median"]["to_first_step_seconds"] < 60
    models = result("large_models")
    assert models["base"]["peak_memory_gb"] < 8 and len(models["large"]["mlm_losses"]) >= 1
