"""Prediction: what a fine-tuned model says of texts, for the command and for one's own code."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tyro
from tqdm import tqdm

from conversion import pretrained
from conversion.parameters import ARCHITECTURES
from conversion.pretrained import Pretrained
from ms_bert.commands import command, training
from ms_bert.commands.finetuning import named_columns, read_task
from ms_bert.data import tokenizer
from ms_bert.data.batches import Batch
from ms_bert.data.files import read_bytes, write_atomically
from ms_bert.data.packing import NUMBERS, RowBatches
from ms_bert.data.tokenizer import Vocabulary
from ms_bert.errors import UserError, listed
from ms_bert.prediction_options import PredictOptions
from ms_bert.run.folder import TASK
from ms_bert.tasks import examples
from ms_bert.tasks.classification import Classification, MultiLabel, Regression, SentenceTask
from ms_bert.tasks.examples import Example

CHUNK = 1024  # texts that are answered at a time

Text = str | tuple[str, str]
Compute = Callable[[Batch], np.ndarray]
"""A model as a function of a batch: the logits of its sequences (B * N, C) float32."""


class Framework(Protocol):
    """What a prediction needs of a framework."""

    def compute(self, architecture: str, path: Path, device: str, precision: str, threads: int | None) -> Compute:
        """The model of a checkpoint, for inference."""


class Predictor:
    """A fine-tuned model, called with texts.

    What it says of a text does not depend on the other texts of the call.

    Args:
        path: the folder of a run, one of Hugging Face, or a checkpoint of any format. framework: computes.
        device, precision, threads: as the options of the commands.

    Attributes:
        task: what is predicted, with its labels.

    Raises:
        UserError: it cannot be read, or has no head for a task that is known here.
    """

    def __init__(
        self,
        path: str | Path,
        framework: Framework,
        device: str = "CPU",
        precision: str = "float32",
        threads: int | None = None,
    ):
        path = Path(path)
        found = pretrained.read(path)
        self.task = _task(path, found)
        missing = [part for part in ARCHITECTURES[self.task.architecture].parts if part not in found.checkpoint.parts]
        if missing:
            raise UserError(
                f"{path} has no {' and '.join(missing)}, which a {self.task.name} needs; name a fine-tuned model, or "
                "fine-tune this one first."
            )
        self.vocabulary = _vocabulary(found)
        self.compute = framework.compute(self.task.architecture, path, device, precision, threads)

    def __call__(self, texts: Sequence[Text]) -> list[dict[str, Any]]:
        """For each text, or pair of texts, in their order: what the task answers, such as label and probabilities.

        An answer about a text that was too long has `truncated`: true.
        """
        made = [Example((text,) if isinstance(text, str) else tuple(text), None, "") for text in texts]
        answers: list[dict[str, Any]] = []
        for begin in range(0, len(made), CHUNK):
            answers += self._answers(made[begin : begin + CHUNK])
        return answers

    def _answers(self, chunk: list[Example]) -> list[dict[str, Any]]:
        sequences = self.task.sequences(chunk, self.vocabulary, labelled=False)
        batches = RowBatches(sequences)
        logits: np.ndarray | None = None
        for number in range(len(batches)):
            batch = batches(number)
            found = self.compute(batch)
            if logits is None:
                logits = np.zeros((len(chunk), found.shape[-1]), np.float32)
            numbers = batch[NUMBERS][:, 0]
            logits[numbers[numbers >= 0]] = found[numbers >= 0]
        answers = self.task.answers(logits) if logits is not None else []
        for answer, cut in zip(answers, sequences.cut):
            if cut:
                answer["truncated"] = True
        return answers


def _task(path: Path, found: Pretrained) -> SentenceTask:
    """That of a run's task.json, or what the config of a classifier from elsewhere says."""
    if path.is_dir() and (path / TASK).exists():
        return read_task(path)
    config = found.config
    if found.checkpoint.architecture != SentenceTask.architecture:
        raise UserError(
            f"{path} is a {found.checkpoint.architecture}, but predictions need a fine-tuned model; name "
            f"one, such as a {SentenceTask.architecture}."
        )
    labels = tuple((config.id2label or {str(i): f"LABEL_{i}" for i in range(config.num_labels)}).values())
    longest = config.max_position_embeddings
    if config.problem_type == MultiLabel.problem_type:
        return MultiLabel(labels, ("f1_micro",), longest)
    if config.problem_type == Regression.problem_type or len(labels) == 1:
        return Regression((), ("spearman",), longest)
    return Classification(labels, ("accuracy",), longest)


def _vocabulary(found: Pretrained) -> Vocabulary:
    if not found.checkpoint.tokenizer:
        raise UserError(f"no vocabulary was found beside {found.checkpoint.source.path}; put its tokenizer there.")
    return tokenizer.load(found.checkpoint.source.home)


def main(framework: Framework, program: str, description: str, arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""

    def run(arguments: Sequence[str]) -> int:
        return predict(framework, parse(program, description, arguments))

    return command.main(run, program, arguments, interrupted="interrupted; nothing was written.")


def parse(program: str, description: str, arguments: Sequence[str]) -> PredictOptions:
    """Options from the command line."""
    plain = (tyro.conf.OmitArgPrefixes,)
    return tyro.cli(PredictOptions, prog=program, description=description, args=arguments, config=plain)


def predict(framework: Framework, options: PredictOptions) -> int:
    """Answer about the texts of the options; returns the exit code."""
    training.check_threads(options.threads)
    form = options.format or _form(options.output)
    if options.output is not None and options.output.is_dir():
        raise UserError(f"--output {options.output} is a folder; name a file.")
    texts = _texts(options)
    model = Predictor(options.model, framework, options.device, options.precision, options.threads)
    pairs = [text if isinstance(text, tuple) else (text,) for text in texts]
    answers: list[dict[str, Any]] = []
    with tqdm(total=len(texts), unit="texts", file=sys.stderr, disable=not sys.stderr.isatty()) as bar:
        for begin in range(0, len(texts), CHUNK):
            answers += model(texts[begin : begin + CHUNK])
            bar.update(len(answers) - bar.n)
    written = FORMS[form](pairs, answers)
    if options.output is None:
        sys.stdout.write(written)
    else:
        write_atomically(options.output, written.encode())
    cut = sum("truncated" in answer for answer in answers)
    if cut:
        told = f"{cut:,} of {len(answers):,} texts are longer than {model.task.longest} tokens and were truncated"
        print(f"predict: {told}", file=sys.stderr)
    return 0


def _form(output: Path | None) -> str:
    by_ending = {".jsonl": "jsonl", ".json": "jsonl", ".csv": "csv"}
    return "text" if output is None else by_ending.get(output.suffix, "text")


def _texts(options: PredictOptions) -> Sequence[Text]:
    if options.input is None:
        if not options.texts:
            raise UserError("no text was given; write one after the model, or name a file with --input.")
        return list(options.texts)
    if options.input == "-" or options.input.endswith(".txt"):
        content = sys.stdin.buffer.read() if options.input == "-" else read_bytes(Path(options.input))
        try:
            return content.decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise UserError(
                f"--input {options.input} is not UTF-8 text ({error.reason} at byte {error.start}); convert it, for "
                "example with iconv."
            ) from None
    columns = named_columns(options.columns)
    found, _, _ = examples.read(options.input, "classification", columns, labels=False, quoted=options.quotes)
    return [example.texts if len(example.texts) > 1 else example.texts[0] for example in found]  # type: ignore[misc]


def _plain(answer: dict[str, Any]) -> str:
    """An answer in a few words."""
    if "value" in answer:
        return f"{answer['value']:.4f}"
    shares = answer["probabilities"]
    if "label" in answer:
        return f"{answer['label']} {shares[answer['label']]:.1%}"
    return listed([f"{name} {shares[name]:.1%}" for name in answer["labels"]]) or "none"


def _as_text(texts: Sequence[tuple[str, ...]], answers: Sequence[dict[str, Any]]) -> str:
    return "".join(f"{_plain(answer)}\t{' | '.join(text)}\n" for text, answer in zip(texts, answers))


def _as_jsonl(texts: Sequence[tuple[str, ...]], answers: Sequence[dict[str, Any]]) -> str:
    lines = [{"texts": list(text), **answer} for text, answer in zip(texts, answers)]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _as_csv(texts: Sequence[tuple[str, ...]], answers: Sequence[dict[str, Any]]) -> str:
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    pairs = any(len(text) > 1 for text in texts)
    first = answers[0] if answers else {}
    kind = next((name for name in ("label", "labels", "value") if name in first), "label")
    names = list(first.get("probabilities", {}))
    writer.writerow(["text", *(["text2"] if pairs else []), kind, *names])
    for text, answer in zip(texts, answers):
        told = "|".join(answer[kind]) if kind == "labels" else answer[kind]
        writer.writerow([*text, told, *answer.get("probabilities", {}).values()])
    return file.getvalue()


FORMS = {"text": _as_text, "jsonl": _as_jsonl, "csv": _as_csv}
