"""What do next-sentence prediction, seeing both sides, and tuning all layers give? The ablations of BERT's paper.

Its tables 5 and 7 (Devlin et al., 2019, 5.1 and 5.3), at a size that two cores train in a few hours. Models that
differ in how they were pre-trained, on the same text and for as many steps, are fine-tuned with several seeds; one of
them with a BiLSTM on top, too. Of models that are left as they are, the hidden states of several layers are the
features of a BiLSTM and of a logistic regression.

The runs are kept in the cache, in a folder of the commit, so that an interrupted measurement goes on where it was.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks import runs
from benchmarks.real_tasks import TASKS
from benchmarks.runs import Run, named
from ms_bert.data import labelled
from ms_bert.data.files import write_atomically
from ms_bert.embed import load

CORPUS = "corpus_en/corpus.txt.xz"
DEFAULT, NO_NSP, LEFT_TO_RIGHT = "default", "no NSP", "LTR & no NSP"
MODELS = {
    DEFAULT: (),
    NO_NSP: ("--no-nsp",),
    LEFT_TO_RIGHT: ("--no-nsp", "--objective", "left-to-right"),
}
# A model of these that is fine-tuned with a BiLSTM on top, and its name then.
BILSTM, BELOW_BILSTM = f"{LEFT_TO_RIGHT} + BiLSTM", LEFT_TO_RIGHT
# How texts are pooled when it is fine-tuned: of a model that is read from left to right, [CLS] sees no word.
POOLINGS = {DEFAULT: ("cls", "mean"), NO_NSP: ("cls", "mean"), LEFT_TO_RIGHT: ("mean",), BILSTM: ("mean",)}
ON_TEXTS, ON_WORDS = ("mrpc", "sst2"), "wnut17"
TUNED = (*ON_TEXTS, ON_WORDS)
FINETUNE, WITH_BILSTM = "ms_bert.finetune", "benchmarks.contenders.bilstm"
# Of the feature-based approach: which layers, and whether their vectors are added up instead of put side by side; by a
# BiLSTM with weights that are learned.
FEATURES = {
    "embeddings": ((0,), False),
    "second-to-last layer": ((-2,), False),
    "last layer": ((-1,), False),
    "sum of the last four layers": ((-1, -2, -3, -4), True),
    "concatenation of the last four layers": ((-1, -2, -3, -4), False),
}


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is trained.

    Attributes:
        pretraining, finetuning, features: options of the commands; features: of a BiLSTM on a model that is left as it
            is. epochs: of fine-tuning, by task. seeds: of what is fine-tuned. sentences: of SST-2, drawn at random.
    """

    pretraining: tuple[str, ...]
    finetuning: tuple[str, ...]
    features: tuple[str, ...]
    epochs: Mapping[str, float]
    seeds: tuple[int, ...]
    sentences: int


FULL = Size(
    pretraining=(
        *("--preset", "mini", "--steps", "3000", "--learning-rate", "1e-3", "--warmup-steps", "200"),
        *("--pack", "2", "--eval-every", "500", "--checkpoint-every", "250", "--sentences", "line"),
        *("--phases", "32x128x1500", "--dropout", "0", "--precision", "bfloat16"),
    ),
    finetuning=("--learning-rate", "3e-4"),
    features=("--epochs", "8", "--learning-rate", "1e-3"),
    epochs={"mrpc": 2, "sst2": 3, "wnut17": 5},
    seeds=(1, 2),
    sentences=5000,
)


def measure(output: Path, data: Path | None = None, size: Size = FULL, work: Path | None = None) -> Iterator[dict]:
    """A result for each model that was pre-trained, each run that was fine-tuned, and each choice of features.

    Args:
        data: the folder of the text and of the labelled data. work: of the runs; None: one in the cache.
    """
    files = [CORPUS, *(file for task in TUNED for file in TASKS[task].files)]
    return _measured(runs.with_files(data, files), size, runs.folder("ablations", work))


def _measured(data: Path, size: Size, work: Path) -> Iterator[dict]:
    places = {data: "DATA", work: "WORK"}
    for model, options in MODELS.items():
        line = ["--corpus", data / CORPUS, *size.pretraining, *options]
        run = Run("ms_bert.pretrain", (), line, work / named(model), places)
        yield {"kind": "pretraining", "model": model, **run.done(), "held_out": run.held_out()}
    trains = {"sst2": _some(data / TASKS["sst2"].train[0], size.sentences, work / "sst2.tsv")}

    def finetuned(name: str, task: str, model: str, seed: int, options: Sequence, top: Sequence | None = None) -> dict:
        """A model with a head for a task, in a folder by a name; top: options of a BiLSTM, if there is one."""
        train, dev = trains.get(task, data / TASKS[task].train[0]), data / TASKS[task].dev[0]
        line = [*TASKS[task].options, "--model", work / named(model), "--train", train, "--dev", dev]
        line += [*options, "--seed", seed]
        run = Run(FINETUNE if top is None else WITH_BILSTM, top or (), line, work / named(f"{task} {name}"), places)
        return {**run.done(), "metrics": run.metrics()}

    # By seeds first: so there is something to compare early.
    for seed, task, model in itertools.product(size.seeds, TUNED, POOLINGS):
        below, top = (BELOW_BILSTM, ()) if model == BILSTM else (model, None)
        for pooling in POOLINGS[model] if task in ON_TEXTS else ("",):
            options = [*size.finetuning, "--epochs", size.epochs[task], *(["--pooling", pooling] if pooling else [])]
            found = finetuned(f"{model} {pooling} {seed}", task, below, seed, options, top)
            yield {"kind": "finetuning", "task": task, "model": model, "pooling": pooling, "seed": seed, **found}
    for seed, task, features in itertools.product(size.seeds, (ON_WORDS, "sst2"), FEATURES):
        layers, added = FEATURES[features]
        top = ("--depth", 2, "--features", *layers, *(["--added"] if added else []))
        options = [*size.features, *(["--pooling", "mean"] if task in ON_TEXTS else [])]
        found = finetuned(f"{DEFAULT} {features} {seed}", task, DEFAULT, seed, options, top)
        about = {"kind": "features", "task": task, "model": DEFAULT, "classifier": "BiLSTM"}
        yield {**about, "features": features, "seed": seed, **found}
    dev = data / TASKS["sst2"].dev[0]
    for model in MODELS:
        yield from _features(work / named(model), model, trains["sst2"], dev)


def _some(source: Path, count: int, path: Path) -> Path:
    """A file with so many lines of another, drawn at random, below its header."""
    header, *lines = source.read_text(encoding="utf-8").splitlines()
    chosen = np.random.default_rng(0).permutation(len(lines))[:count]
    write_atomically(path, "".join(f"{line}\n" for line in (header, *(lines[i] for i in sorted(chosen)))).encode())
    return path


def _features(path: Path, model: str, train: Path, dev: Path) -> Iterator[dict]:
    """The accuracy of logistic regressions on vectors of sentences, the means of their tokens."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    layers = sorted({layer for chosen, _ in FEATURES.values() for layer in chosen})
    embed = load(path, "mean", layers=layers)
    (texts, labels), (dev_texts, dev_labels) = _sentences(train), _sentences(dev)
    vectors, dev_vectors = (embed(part).reshape(len(part), len(layers), -1) for part in (texts, dev_texts))
    for features, (chosen, added) in FEATURES.items():
        places = [layers.index(layer) for layer in chosen]

        def features_of(of_layers: np.ndarray, places=places, added=added) -> np.ndarray:
            picked = of_layers[:, places]
            return picked.sum(1) if added else picked.reshape(len(picked), -1)

        regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, C=0.1))
        regression.fit(features_of(vectors), labels)
        accuracy = float(regression.score(features_of(dev_vectors), dev_labels))
        about = {"kind": "features", "task": "sst2", "model": model, "classifier": "logistic regression"}
        yield {**about, "features": features, "metrics": {"accuracy": accuracy}}


def _sentences(path: Path) -> tuple[list[str], list[str]]:
    """The texts and the labels of SST-2."""
    rows = [row.values for row in labelled.read(str(path), quoted=False)]
    return [row["sentence"] for row in rows], [row["label"] for row in rows]
