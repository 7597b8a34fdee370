"""Prediction: what a fine-tuned model says of texts, for the command and for one's own code."""

from __future__ import annotations

import csv
import functools
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
from ms_bert.commands.framework import Compute, Framework
from ms_bert.data import tokenizer
from ms_bert.data.files import write_atomically
from ms_bert.data.packing import INPUTS, NUMBERS, RowBatches, Unpacked
from ms_bert.data.sequences import Sequences
from ms_bert.errors import UserError
from ms_bert.prediction_options import PredictOptions
from ms_bert.run.folder import TASK
from ms_bert.tasks import masked_words
from ms_bert.tasks.classification import Classification, MultiLabel, Regression, SentenceTask
from ms_bert.tasks.downstream import DownstreamTask
from ms_bert.tasks.multiple_choice import MultipleChoice
from ms_bert.tasks.question_answering import QuestionAnswering
from ms_bert.tasks.tagging import Tagging

CHUNK = 1024  # examples that are answered at a time
SEQUENCE_CLASSIFIER = "BertForSequenceClassification"
MASKED_CHUNK = 64  # the scores of a whole vocabulary are many


class Model(Protocol):
    """What the command asks: an examples' reader, a function of examples, and how both are shown."""

    def asked(self, options: PredictOptions) -> list[Any]: ...

    def answers(self, examples: Sequence[Any]) -> list[dict[str, Any]]: ...

    def inputs(self, example: Any) -> dict[str, Any]: ...

    def plain(self, example: Any, answer: dict[str, Any]) -> str: ...

    def table(self, examples: Sequence[Any], answers: Sequence[dict[str, Any]]) -> list[list[Any]]: ...


class _Model:
    """A model with its vocabulary; see Predictor for the arguments."""

    def __init__(
        self,
        found: Pretrained,
        path: Path,
        framework: Framework,
        architecture: str,
        fields: tuple[str, ...],
        device: str,
        precision: str,
        threads: int | None,
    ):
        if not found.checkpoint.tokenizer:
            raise UserError(f"no vocabulary was found beside {found.checkpoint.source.path}; put its tokenizer there.")
        needed = ARCHITECTURES[architecture].parts
        missing = [part for part in needed if part not in found.checkpoint.parts]
        if missing:
            raise UserError(
                f"{path} has no {' and '.join(missing)}, which this prediction needs; name a model that has it, or "
                "fine-tune this one first."
            )
        self.vocabulary = tokenizer.load(found.checkpoint.source.home)
        self._make = functools.partial(
            framework.compute, architecture, found, device, precision, threads=threads, fields=fields
        )

    @functools.cached_property
    def _compute(self) -> Compute:
        """Made when it is needed: what a user asks is read before, and may be wrong."""
        return self._make()

    def logits(self, sequences: Sequences, per_token: bool = False) -> np.ndarray:
        """(n, C) float32 of the sequences, or (T, C) of their tokens; whatever the other sequences are."""
        batches, made = RowBatches(sequences, per_token), Unpacked(sequences, per_token)
        for number in range(len(batches)):
            batch = batches(number)
            found = self._compute(batch)
            made.add(batch, found if per_token else found.reshape(*batch[NUMBERS].shape, -1))
        return made.values


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
        self._model = _Model(found, path, framework, self.task.architecture, INPUTS, device, precision, threads)

    def __call__(self, given: Sequence[Any]) -> list[dict[str, Any]]:
        """For each of what is given, in that order: what the task answers, such as label and probabilities.

        An answer about a text that was too long has `truncated`: true.

        Args:
            given: as `example` of the task takes it, such as a text, or a pair of texts.
        """
        return self.answers([self.task.example(one) for one in given])

    def answers(self, examples: Sequence[Any]) -> list[dict[str, Any]]:
        """As a call, of examples of the task."""
        answers: list[dict[str, Any]] = []
        for begin in range(0, len(examples), CHUNK):
            chunk = examples[begin : begin + CHUNK]
            sequences = self.task.sequences(chunk, self._model.vocabulary, labelled=False)
            told = self.task.answers(sequences, self._model.logits(sequences, self.task.per_token))
            for number in set(sequences.owners[sequences.cut].tolist()):
                told[number]["truncated"] = True
            answers += told
        return answers

    def logits(self, examples: Sequence[Any]) -> np.ndarray:
        """Those of examples of a task on sentences, (n, C) float32."""
        assert isinstance(self.task, SentenceTask)
        sequences = self.task.sequences(examples, self._model.vocabulary, labelled=False)
        return self.task.pooled(sequences, self._model.logits(sequences, self.task.per_token))

    def asked(self, options: PredictOptions) -> list[Any]:
        return self.task.asked(options)

    def inputs(self, example: Any) -> dict[str, Any]:
        return self.task.inputs(example)

    def plain(self, example: Any, answer: dict[str, Any]) -> str:
        return self.task.plain(example, answer)

    def table(self, examples: Sequence[Any], answers: Sequence[dict[str, Any]]) -> list[list[Any]]:
        return self.task.table(examples, answers)


class MaskFiller:
    """A pre-trained model that guesses the words behind [MASK], called with texts.

    Args:
        top: how many guesses for each mask. Others: see Predictor.
    """

    def __init__(
        self,
        path: str | Path,
        framework: Framework,
        top: int = 5,
        device: str = "CPU",
        precision: str = "float32",
        threads: int | None = None,
    ):
        path = Path(path)
        found = pretrained.read(path)
        fields = (*INPUTS, masked_words.POSITIONS)
        self._model = _Model(found, path, framework, masked_words.ARCHITECTURE, fields, device, precision, threads)
        self.longest, self.top = found.config.max_position_embeddings, top

    def __call__(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """For each text, in their order: `masks`, for each [MASK] of it the best tokens with their probabilities, and
        `text`, the text with the best ones in place.

        Raises:
            UserError: a text has no [MASK], or is too long.
        """
        return self.answers(texts)

    def answers(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """As a call."""
        answers: list[dict[str, Any]] = []
        for begin in range(0, len(texts), MASKED_CHUNK):
            chunk = texts[begin : begin + MASKED_CHUNK]
            sequences = masked_words.sequences(chunk, self._model.vocabulary, self.longest)
            answers += masked_words.answers(sequences, self._model.logits(sequences), self._model.vocabulary, self.top)
        return answers

    def asked(self, options: PredictOptions) -> list[str]:
        return masked_words.asked(options)

    inputs = staticmethod(masked_words.inputs)
    plain = staticmethod(masked_words.plain)
    table = staticmethod(masked_words.table)


def _task(path: Path, found: Pretrained) -> DownstreamTask:
    """That of a run's task.json, or what the config of a classifier from elsewhere says."""
    if path.is_dir() and (path / TASK).exists():
        return training.read_task(path)
    config = found.config
    labels = tuple((config.id2label or {str(i): f"LABEL_{i}" for i in range(config.num_labels)}).values())
    longest = config.max_position_embeddings
    if found.checkpoint.architecture == Tagging.architecture:
        return Tagging.of_labels(labels, longest)
    if found.checkpoint.architecture == MultipleChoice.architecture:
        return MultipleChoice((), ("accuracy",), config.max_position_embeddings)
    if found.checkpoint.architecture == QuestionAnswering.architecture:
        return QuestionAnswering.of_model(config.max_position_embeddings)
    if found.checkpoint.architecture != SEQUENCE_CLASSIFIER:
        raise UserError(
            f"{path} is a {found.checkpoint.architecture}, but predictions need a fine-tuned model; name "
            f"one, such as a {SEQUENCE_CLASSIFIER}."
        )
    if config.problem_type == MultiLabel.problem_type:
        return MultiLabel(labels, ("f1_micro",), longest)
    if config.problem_type == Regression.problem_type or len(labels) == 1:
        return Regression((), ("spearman",), longest)
    return Classification(labels, ("accuracy",), longest)


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
    computing = (options.device, options.precision, options.threads)
    model: Model
    if options.fill_mask:
        model = MaskFiller(options.model, framework, options.top, *computing)
    else:
        model = Predictor(options.model, framework, *computing)
        model.task = model.task.showing(options.top)
    examples = model.asked(options)
    answers: list[dict[str, Any]] = []
    with tqdm(total=len(examples), unit="texts", file=sys.stderr, disable=not sys.stderr.isatty()) as bar:
        for begin in range(0, len(examples), CHUNK):
            answers += model.answers(examples[begin : begin + CHUNK])
            bar.update(len(answers) - bar.n)
    written = FORMS[form](model, examples, answers)
    if options.output is None:
        sys.stdout.write(written)
    else:
        write_atomically(options.output, written.encode())
    cut = sum("truncated" in answer for answer in answers)
    if cut:
        told = f"{cut:,} of {len(answers):,} texts were too long for the model and were truncated"
        print(f"predict: {told}", file=sys.stderr)
    return 0


def _form(output: Path | None) -> str:
    by_ending = {".jsonl": "jsonl", ".json": "jsonl", ".csv": "csv"}
    return "text" if output is None else by_ending.get(output.suffix, "text")


def _as_text(model: Model, examples: Sequence[Any], answers: Sequence[dict[str, Any]]) -> str:
    return "".join(f"{model.plain(example, answer)}\n" for example, answer in zip(examples, answers))


def _as_jsonl(model: Model, examples: Sequence[Any], answers: Sequence[dict[str, Any]]) -> str:
    lines = [{**model.inputs(example), **answer} for example, answer in zip(examples, answers)]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _as_csv(model: Model, examples: Sequence[Any], answers: Sequence[dict[str, Any]]) -> str:
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\n").writerows(model.table(examples, answers))
    return file.getvalue()


FORMS: dict[str, Callable[[Model, Sequence[Any], Sequence[dict[str, Any]]], str]] = {
    "text": _as_text,
    "jsonl": _as_jsonl,
    "csv": _as_csv,
}
