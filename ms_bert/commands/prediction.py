"""Prediction: what a fine-tuned model says of texts, for the command and for one's own code."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from conversion import pretrained
from conversion.parameters import ARCHITECTURES
from conversion.pretrained import Pretrained
from ms_bert.commands import command, delivery, training
from ms_bert.commands.framework import Framework
from ms_bert.commands.inference import Inference, Loaded
from ms_bert.config import are_unnamed
from ms_bert.data import tokenizer
from ms_bert.data.packing import INPUTS
from ms_bert.data.sequences import Sequences, encoded
from ms_bert.errors import UserError, shown
from ms_bert.prediction_options import PredictOptions
from ms_bert.run.folder import TASK
from ms_bert.tasks import asked, masked_words, next_sentence
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


class Predictor(Loaded):
    """A fine-tuned model, called with texts.

    What it says of a text does not depend on the other texts of the call.

    Args:
        path: the folder of a run, one of Hugging Face, or a checkpoint of any format. framework: computes.
        device, precision, threads: as the options of the commands.

    Attributes:
        task: what is predicted, with its labels. pretrained: the checkpoint.

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
        self.pretrained = found = pretrained.read(path)
        self.task = _task(path, found)
        needed = ARCHITECTURES[self.task.architecture].parts
        self._model = Inference(
            found, path, framework, self.task.architecture, needed, INPUTS, device, precision, threads
        )

    def __call__(self, given: Sequence[Any]) -> list[dict[str, Any]]:
        """For each of what is given, in that order: what the task answers, such as label and probabilities.

        An answer about a text that was too long has `truncated`: true.

        Args:
            given: as `example` of the task takes it, such as a text, or a pair of texts.
        """
        return self.answers([self.task.example(one) for one in asked.several(given)])

    def answers(self, examples: Sequence[Any]) -> list[dict[str, Any]]:
        """As a call, of examples of the task."""
        answers: list[dict[str, Any]] = []
        for begin in range(0, len(examples), CHUNK):
            chunk = examples[begin : begin + CHUNK]
            sequences = self.task.sequences(chunk, self._model.vocabulary, labelled=False)
            told = self.task.answers(sequences, self.outputs(sequences))
            for number in set(sequences.owners[sequences.cut].tolist()):
                told[number]["truncated"] = True
            answers += told
        return answers

    @property
    def vocabulary(self) -> tokenizer.Vocabulary:
        return self._model.vocabulary

    def logits(self, sequences: Sequences) -> np.ndarray:
        """Those of what the task labels, sequences (n, C) or tokens (T, C), float32."""
        return self.task.pooled(sequences, self.outputs(sequences))

    def outputs(self, sequences: Sequences) -> np.ndarray:
        """The logits that the model gives: of sequences (n, C), or of tokens (T, C) if the task is one of them,
        float32."""
        return self._model.logits(sequences, self.task.per_token)

    def asked(self, options: PredictOptions) -> list[Any]:
        if options.pairs and not isinstance(self.task, SentenceTask):
            raise UserError(f"--pairs is for classification and regression, not for {self.task.name}; leave it out.")
        return self.task.asked(options)

    def inputs(self, example: Any) -> dict[str, Any]:
        return self.task.inputs(example)

    def plain(self, example: Any, answer: dict[str, Any]) -> str:
        return self.task.plain(example, answer)

    def table(self, examples: Sequence[Any], answers: Sequence[dict[str, Any]]) -> list[list[Any]]:
        return self.task.table(examples, answers)


class MaskFiller(Loaded):
    """A pre-trained model that guesses the words behind [MASK], called with texts.

    Args:
        top: how many guesses for each mask. pieces: also of words of so many pieces; see `ms_bert.tasks.masked_words`.
        candidates: only guess among these words. Others: see Predictor.
    """

    inputs = staticmethod(masked_words.inputs)
    plain = staticmethod(masked_words.plain)
    table = staticmethod(masked_words.table)
    asked = staticmethod(masked_words.asked)

    def __init__(
        self,
        path: str | Path,
        framework: Framework,
        top: int = 5,
        pieces: int = 1,
        candidates: Sequence[str] = (),
        device: str = "CPU",
        precision: str = "float32",
        threads: int | None = None,
    ):
        path = Path(path)
        for name, number in (("top", top), ("pieces", pieces)):
            if number < 1:
                raise UserError(f"{name} is {number}; choose a number from 1 on.")
        candidates = asked.several_texts(candidates)
        found = pretrained.read(path)
        _check_both_sides(path, found)
        kind, fields = masked_words.ARCHITECTURE, (*INPUTS, masked_words.POSITIONS)
        needed = ARCHITECTURES[kind].parts
        self._model = Inference(found, path, framework, kind, needed, fields, device, precision, threads)
        self._candidates = masked_words.pieces_of(candidates, self._model.vocabulary)
        self.longest, self.top = found.config.max_position_embeddings, top
        self.pieces = max(map(len, self._candidates), default=pieces)

    def __call__(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """For each text, in their order: `masks`, for each [MASK] of it the best words with their probabilities, and
        `text`, the text with the best ones in place.

        Raises:
            UserError: a text has no [MASK], or is too long.
        """
        return self.answers(asked.several_texts(texts))

    def answers(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """As a call."""
        answers: list[dict[str, Any]] = []
        vocabulary = self._model.vocabulary
        # The scores of a whole vocabulary are many.
        size = max(1, MASKED_CHUNK // (len(self._candidates) or (masked_words.BEAM if self.pieces > 1 else 1)))
        for begin in range(0, len(texts), size):
            chunk = texts[begin : begin + size]
            places = masked_words.places(chunk, vocabulary, self.longest, self.pieces)
            if self._candidates:
                found = masked_words.among(places, self._logits, vocabulary, self._candidates, self.top)
            else:
                found = masked_words.guesses(places, self._logits, vocabulary, self.top, self.pieces)
            answers += masked_words.answers(chunk, places, found, vocabulary, told=self.pieces > 1)
        return answers

    def _logits(self, rows: list[masked_words.Row]) -> np.ndarray:
        return self._model.logits(masked_words.sequences(rows, self._model.vocabulary))


class NextSentence(Loaded):
    """A pre-trained model that says whether one text follows another, called with pairs; see Predictor."""

    inputs = staticmethod(next_sentence.inputs)
    plain = staticmethod(next_sentence.plain)
    table = staticmethod(next_sentence.table)
    asked = staticmethod(next_sentence.asked)

    def __init__(
        self,
        path: str | Path,
        framework: Framework,
        device: str = "CPU",
        precision: str = "float32",
        threads: int | None = None,
    ):
        path, kind = Path(path), next_sentence.ARCHITECTURE
        found = pretrained.read(path)
        _check_both_sides(path, found)
        needed = ARCHITECTURES[kind].parts
        self._model = Inference(found, path, framework, kind, needed, INPUTS, device, precision, threads)
        self.longest = found.config.max_position_embeddings

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """For each pair, in their order: `label`, "next" or "not next", and `probabilities` of both.

        The answer about a pair that was too long has `truncated`: true.

        Raises:
            UserError: a text is empty.
        """
        return self.answers([next_sentence.checked(pair) for pair in asked.several(pairs)])

    def answers(self, pairs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """As a call."""
        if not pairs:
            return []
        sequences = encoded(pairs, self._model.vocabulary, self.longest)
        told = next_sentence.answers(self._model.logits(sequences))
        return [{**answer, "truncated": True} if cut else answer for answer, cut in zip(told, sequences.cut)]


def _check_both_sides(path: Path, found: Pretrained) -> None:
    """Raise UserError where no token sees what stands after it."""
    if found.config.is_decoder:
        raise UserError(
            f"{path} is read from left to right (is_decoder), but this is asked of tokens that see both sides; name "
            "another model."
        )


def _task(path: Path, found: Pretrained) -> DownstreamTask:
    """That of the task.json beside it, or what the config of a classifier from elsewhere says."""
    home = found.checkpoint.source.home
    config = found.config
    labels = config.labels
    if (home / TASK).exists():
        task = training.read_task(home)
        _check_labels(home / TASK, task, labels)
        return task
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise UserError(
            f"the config.json of {path} gives the name {shown(twice[0])} to two labels; give each a name of its own in "
            "id2label."
        )
    positions = config.max_position_embeddings
    longest = min(positions, tokenizer.longest_of(home) or positions)
    if found.checkpoint.architecture == Tagging.architecture:
        return Tagging.of_labels(labels, longest)
    if found.checkpoint.architecture == MultipleChoice.architecture:
        return MultipleChoice((), ("accuracy",), longest)
    if found.checkpoint.architecture == QuestionAnswering.architecture:
        return QuestionAnswering.of_model(longest)
    if found.checkpoint.architecture != SEQUENCE_CLASSIFIER:
        raise UserError(
            f"{path} is a {found.checkpoint.architecture}, but predictions need a fine-tuned model; name "
            f"one, such as a {SEQUENCE_CLASSIFIER}."
        )
    if config.problem_type == MultiLabel.problem_type:
        return MultiLabel(labels, ("f1_micro",), longest)
    if config.problem_type == Regression.problem_type and len(labels) > 1:
        raise UserError(f"{path} is a regression of {len(labels)} numbers for a text; expected one of a single number.")
    if config.problem_type == Regression.problem_type or len(labels) == 1:
        return Regression((), ("spearman",), longest)
    return Classification(labels, ("accuracy",), longest)


def _check_labels(file: Path, task: DownstreamTask, found: Sequence[str]) -> None:
    """Raise UserError where a task.json is of another head than the config beside it: another tool has saved one there.

    Args:
        found: the names of the labels in the config; those that say nothing stand where a format has none.
    """
    told = tuple(task.config().get("id2label") or ())
    remedy = f"remove {TASK} if the config is right, else restore the config"
    if told and len(told) != len(found):
        raise UserError(f"{file} is of {len(told)} labels, but the config beside it of {len(found)}; {remedy}.")
    if not task.labels or are_unnamed(found):
        return
    for number, (own, other) in enumerate(zip(task.labels, found)):
        if own != other:
            raise UserError(
                f"{file} calls label {number} {shown(own)}, but the config beside it {shown(other)}; {remedy}."
            )


def main(framework: Framework, program: str, description: str, arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    run = functools.partial(predict, framework)
    return command.main_with(PredictOptions, run, program, description, arguments, delivery.INTERRUPTED)


def predict(framework: Framework, options: PredictOptions) -> int:
    """Answer about the texts of the options; returns the exit code."""
    training.check_processors(options.threads)
    form = delivery.form(options.output, options.format, ENDINGS)
    computing = (options.device, options.precision, options.threads)
    model: Model
    if options.fill_mask:
        model = MaskFiller(options.model, framework, options.top, options.pieces, options.candidates, *computing)
    elif options.next_sentence:
        model = NextSentence(options.model, framework, *computing)
    else:
        model = Predictor(options.model, framework, *computing)
        model.task = model.task.showing(options.top)
    answers_questions = isinstance(model, Predictor) and isinstance(model.task, QuestionAnswering)
    if not answers_questions and (options.context is not None or options.context_file is not None):
        raise UserError("a passage was given, but the model answers no questions about one; leave it out.")
    if options.top != PredictOptions.top and not (options.fill_mask or answers_questions):
        raise UserError("--top is for --fill-mask and for models that answer questions; leave it out.")
    examples = model.asked(options)
    if not examples:
        raise UserError(f"--input {options.input} holds nothing to predict about; give at least one text.")
    cut = 0
    with delivery.writing(options.output) as write:
        parts = delivery.chunked(examples, CHUNK, model.answers, between_lines=options.output is None)
        for chunk, answers in parts if form in IN_PARTS else [_whole(parts)]:
            write(FORMS[form](model, chunk, answers))
            cut += sum("truncated" in answer for answer in answers)
    delivery.tell_cut("predict", cut, len(examples), model.task.longest if isinstance(model, Predictor) else None)
    return 0


def _whole(parts: Iterable[tuple[Sequence[Any], list[dict[str, Any]]]]) -> tuple[list[Any], list[dict[str, Any]]]:
    examples, answers = zip(*parts)
    return [*chain.from_iterable(examples)], [*chain.from_iterable(answers)]


def _as_text(model: Model, examples: Sequence[Any], answers: Sequence[dict[str, Any]]) -> str:
    return "".join(f"{model.plain(example, answer)}\n" for example, answer in zip(examples, answers))


def _as_jsonl(model: Model, examples: Sequence[Any], answers: Sequence[dict[str, Any]]) -> str:
    lines = [{**model.inputs(example), **answer} for example, answer in zip(examples, answers)]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _as_csv(model: Model, examples: Sequence[Any], answers: Sequence[dict[str, Any]]) -> str:
    return delivery.table(model.table(examples, answers))


ENDINGS = {".jsonl": "jsonl", ".json": "jsonl", ".csv": "csv"}
FORMS: dict[str, Callable[[Model, Sequence[Any], Sequence[dict[str, Any]]], str]] = {
    "text": _as_text,
    "jsonl": _as_jsonl,
    "csv": _as_csv,
}
IN_PARTS = ("text", "jsonl")  # a table's columns depend on all of its rows
