"""How well do models do that are fine-tuned on real data, in each framework and by transformers' Trainer?

`python -m benchmarks.real_tasks --data FOLDER --tasks mrpc --seeds 1 2 3` fine-tunes, one run after the other, and adds
each result to results/real_tasks.json as soon as it is there. A result is known by its task, recipe, contender and
seed; those that are there are not measured again. So runs of several days and machines come together, each with its own
command, machine, versions and commit. With --work, an interrupted run is resumed by the next call of the same commit.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import runs
from benchmarks.contenders import minilm
from benchmarks.machine import describe
from ms_bert.data.files import write_atomically
from ms_bert.run.folder import RESULTS as RESULTS_OF_A_RUN
from ms_bert.run.folder import RUN

RESULTS = Path(__file__).parent / "results" / "real_tasks.json"
CONTENDERS = {
    "ms_bert": "ms_bert.finetune",
    "pt_reference": "pt_reference.finetune",
    "transformers": "benchmarks.contenders.trainer",
}


@dataclasses.dataclass(frozen=True)
class Task:
    """Labelled data, and what all contenders are told of them.

    Attributes:
        train, dev: files below the folder of data; of several, one is put after the other. Without dev, a tenth of
            train is, the same for all. options: of the command.
        divided: a file of SQuAD's shape, of which every fourth article is put to dev and the others to train.
        test: dev is test data, by which no checkpoint is chosen: the last one is scored.
    """

    train: tuple[str, ...]
    dev: tuple[str, ...]
    options: tuple[str, ...]
    divided: tuple[str, ...] = ()
    test: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train, *self.dev, *self.divided)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is fine-tuned.

    Attributes:
        model: minilm, or a name that --model gives. longest: tokens; None: as usual for the task.
        twins: further options, of ms_bert and pt_reference alone; transformers has no such recipe then.
        teacher: the recipe whose model of the same seed teaches this one, and is in --work already; None: none does.
    """

    model: str = "minilm"
    epochs: float = 3
    learning_rate: float = 5e-5
    longest: int | None = None
    twins: tuple[str, ...] = ()
    teacher: str | None = None


TASKS = {
    "sst2": Task(("sst2/train.tsv",), ("sst2/dev.tsv",), ("--task", "sst2")),
    "mrpc": Task(("mrpc/msr_paraphrase_train.txt",), ("mrpc/msr_paraphrase_test.txt",), ("--task", "mrpc"), test=True),
    "cola": Task(
        ("cola/in_domain_train.tsv",), ("cola/in_domain_dev.tsv", "cola/out_of_domain_dev.tsv"), ("--task", "cola")
    ),
    "chnsenticorp": Task(
        ("chnsenticorp_htl/ChnSentiCorp_htl_all.csv",),
        (),
        ("--task", "classification", "--columns", "text=review", "label=label"),
    ),
    "wnut17": Task(("wnut17/wnut17train.conll",), ("wnut17/emerging.dev.conll",), ("--task", "tagging")),
    "policyqa": Task(("policyqa/dev.json",), ("policyqa/test.json",), ("--task", "question-answering"), test=True),
    # It has no training data of its own.
    "xquad": Task(("policyqa/dev.json",), (), ("--task", "question-answering"), divided=("xquad/xquad.en.json",)),
    "dream": Task(("dream/train.json",), ("dream/dev.json",), ("--task", "multiple-choice")),
}
RECIPES = {
    "usual": Recipe(),
    "mean": Recipe(twins=("--pooling", "mean")),
    "mean-1e-4": Recipe(learning_rate=1e-4, twins=("--pooling", "mean")),
    "mean-1e-4-5-epochs": Recipe(epochs=5, learning_rate=1e-4, twins=("--pooling", "mean")),
    "mean-1e-4-decay": Recipe(
        learning_rate=1e-4, twins=("--pooling", "mean", "--layer-decay", "0.9", "--eval-every", "1000")
    ),
    "mean-2e-4-decay": Recipe(epochs=4, learning_rate=2e-4, twins=("--pooling", "mean", "--layer-decay", "0.9")),
    # As the one before, with it as its teacher.
    "self-distilled": Recipe(
        epochs=4,
        learning_rate=2e-4,
        twins=("--pooling", "mean", "--layer-decay", "0.9"),
        teacher="mean-2e-4-decay",
    ),
    "self-distilled-1e-4-bfloat16": Recipe(
        learning_rate=1e-4,
        twins=("--pooling", "mean", "--layer-decay", "0.9", "--eval-every", "1000", "--precision", "bfloat16"),
        teacher="mean-1e-4-decay",
    ),
    # Those before in MindSpore, with the products of the fused kernels in bfloat16.
    "usual-bfloat16": Recipe(twins=("--precision", "bfloat16")),
    "mean-2e-4-decay-bfloat16": Recipe(
        epochs=4,
        learning_rate=2e-4,
        twins=("--pooling", "mean", "--layer-decay", "0.9", "--precision", "bfloat16"),
    ),
    "one-epoch-1e-4": Recipe(epochs=1, learning_rate=1e-4),
    # As mean-1e-4, on changed texts; MiniLM has no MLM head, so that it guesses no words.
    "augmented": Recipe(learning_rate=1e-4, twins=("--pooling", "mean", "--augment", "dropped", "swapped")),
    # A Chinese model that `python -m benchmarks chinese` has pre-trained.
    "chinese": Recipe(model="chinese", learning_rate=1e-4),
}


@dataclasses.dataclass(frozen=True)
class Run:
    task: str
    recipe: str
    contender: str
    seed: int

    @property
    def key(self) -> str:
        return f"{self.task}/{self.recipe}/{self.contender}/{self.seed}"

    def beside(self, output: Path, recipe: str) -> Path:
        """Where the same run by another recipe has its folder; output: that of this one."""
        return output.parents[2] / recipe / self.contender / str(self.seed)

    def arguments(self, model: Path, train: Path, dev: Path | None, output: Path, threads: int | None) -> list[str]:
        """Of the command that fine-tunes."""
        recipe = RECIPES[self.recipe]
        line = [*TASKS[self.task].options, "--model", model, "--train", train]
        line += [] if dev is None else ["--dev", dev]
        line += ["--epochs", recipe.epochs, "--learning-rate", recipe.learning_rate]
        line += [] if recipe.longest is None else ["--longest", recipe.longest]
        line += _computing(threads)
        if TASKS[self.task].test:
            # Of the twins, an evaluation at the end and no other; checkpoints meanwhile, to resume.
            never, often = ["--eval-every", 1_000_000], ["--checkpoint-every", 100]
            line += ["--last"] if self.contender == "transformers" else [*never, *often]
        if recipe.teacher is not None:
            line += ["--teacher", self.beside(output, recipe.teacher)]
        line += ["--seed", self.seed, "--output", output]
        return [*map(str, line), *recipe.twins]


def main(arguments: Sequence[str] | None = None) -> int:
    given = parse(arguments)
    models = {"minilm": minilm(), **given.model}
    # By seeds first: so there is something to compare early.
    order = itertools.product(given.seeds, given.tasks, given.contenders)
    chosen = [Run(task, given.recipe, contender, seed) for seed, task, contender in order]
    recipe = RECIPES[given.recipe]
    if recipe.model not in models:
        raise SystemExit(
            f"the recipe {given.recipe} begins with the model {recipe.model}; give --model {recipe.model}=FOLDER"
        )
    for run in chosen:
        runs.with_files(given.data, TASKS[run.task].files)
    for run in chosen:
        if run.contender == "transformers" and recipe.twins:
            print(f"{run.key}: transformers has no {' '.join(recipe.twins)}")
        elif run.key in read(given.results):
            print(f"{run.key}: there already")
        else:
            with tempfile.TemporaryDirectory() as name:
                found = measured(run, given.data, models, given.work or Path(name), given.threads)
            write(given.results, {**read(given.results), run.key: found})
            print(f"{run.key}: {found['metrics']} in {found['seconds']} s", flush=True)
    return 0


def measured(run: Run, data: Path, models: dict[str, Path], work: Path, threads: int | None = None) -> dict:
    """The result of a run, whose folder is made below `work`. `seconds`: None, if it was interrupted and resumed."""
    described = describe()  # before, for the commit must be that of the measured code
    commit = str(described["commit"])
    work = work / commit[:12]
    output, model = work / run.key, models[RECIPES[run.recipe].model]
    files = files_of(TASKS[run.task], data, work / run.task)
    line = ["-m", CONTENDERS[run.contender], *run.arguments(model, *files, output, threads)]
    teacher = RECIPES[run.recipe].teacher
    if teacher is not None and not (run.beside(output, teacher) / RESULTS_OF_A_RUN).is_file():
        raise SystemExit(f"{run.key} is taught by the recipe {teacher}; measure that before, with the same --work.")
    twin = run.contender != "transformers"
    begun_before = (output / RUN).is_file() if twin else runs.checkpoint(output) is not None
    resumed = begun_before and re.fullmatch("[0-9a-f]+", commit) is not None  # the same code began it
    if output.exists() and not resumed:  # the rest of what cannot go on
        shutil.rmtree(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    given = [*line[:2], "--resume", str(output), *_computing(threads)] if resumed and twin else line
    if code := subprocess.run([sys.executable, *given]).returncode:
        raise SystemExit(f"{run.key} ended with exit code {code}.")
    seconds = None if resumed else round(time.perf_counter() - begun, 1)
    results = json.loads((output / RESULTS_OF_A_RUN).read_text())
    places = {model: RECIPES[run.recipe].model, work: "WORK", data: "DATA"}
    return {
        **dataclasses.asdict(run),
        "command": _portable(shlex.join(["python", *line]), places),
        "seconds": seconds,
        "examples": results["examples"],
        "step": results["step"],
        "loss": results["loss"],
        "metrics": {name: found["value"] for name, found in results["metrics"].items()},
        **described,
    }


def _computing(threads: int | None) -> list[str]:
    return [] if threads is None else ["--threads", str(threads)]


def files_of(task: Task, data: Path, folder: Path) -> tuple[Path, Path | None]:
    """The files to train on and to evaluate on; None: a part of the first. Those that are made lie in `folder`."""
    train, dev = ([data / name for name in part] for part in (task.train, task.dev))
    for name in task.divided:
        articles = json.loads((data / name).read_bytes())["data"]
        parts = [[one for i, one in enumerate(articles) if (i % 4 == 3) is held] for held in (False, True)]
        for files, part, chosen in zip((train, dev), ("train", "dev"), parts):
            path = folder / part / Path(name).name
            _write(path, json.dumps({"version": "1.1", "data": chosen}).encode())
            files.append(path)
    one = _joined(train, folder)
    assert one is not None
    return one, _joined(dev, folder)


def _joined(files: list[Path], folder: Path) -> Path | None:
    """One file with what all have: their lines, or their articles, of SQuAD's shape."""
    if len(files) < 2:
        return files[0] if files else None
    path = folder / f"{'-'.join(file.stem for file in files)}{files[0].suffix}"
    contents = [file.read_bytes() for file in files]
    if path.suffix == ".json":
        articles = [article for content in contents for article in json.loads(content)["data"]]
        _write(path, json.dumps({"version": "1.1", "data": articles}).encode())
    else:
        _write(path, b"".join(content.rstrip(b"\n") + b"\n" for content in contents))
    return path


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)


def _portable(text: str, places: dict[Path, str]) -> str:
    """Without this machine's paths."""
    for place, name in places.items():
        text = text.replace(str(place), name)
    return text


def read(path: Path) -> dict[str, dict]:
    """The results by key."""
    return json.loads(path.read_text())["result"] if path.exists() else {}


def write(path: Path, results: dict[str, dict]) -> None:
    """Each in a line of its own, in the order of the keys, so that those of several machines are easily merged."""
    lines = ",\n".join(f"    {json.dumps(key)}: {json.dumps(results[key])}" for key in sorted(results))
    question = json.dumps(__doc__.splitlines()[0])
    _write(path, f'{{\n  "question": {question},\n  "result": {{\n{lines}\n  }}\n}}\n'.encode())


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_tasks", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data, each in a subfolder of its own")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, required=True)
    parser.add_argument("--recipe", choices=RECIPES, default="usual")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument(
        "--model",
        nargs="+",
        type=_named,
        default=[],
        metavar="NAME=FOLDER",
        help="models that recipes begin with, besides minilm, which a package brings",
    )
    parser.add_argument("--threads", type=int, help="of each run (default: all processors)")
    parser.add_argument("--work", type=Path, help="folder of the runs, which are kept there (default: none is kept)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the results (default: %(default)s)")
    given = parser.parse_args(arguments)
    given.model = dict(given.model)
    return given


def _named(text: str) -> tuple[str, Path]:
    name, mark, folder = text.partition("=")
    if not (name and mark and Path(folder).exists()):
        raise argparse.ArgumentTypeError(f"{text} is not NAME=FOLDER of a model")
    return name, Path(folder)


if __name__ == "__main__":
    sys.exit(main())
