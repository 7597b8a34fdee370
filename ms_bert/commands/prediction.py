"""Prediction: what a fine-tuned model says of texts, for the command and for one's own code."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from tqdm import tqdm

from conversion import pretrained
from conversion.parameters import ARCHITECTURES
from conversion.pretrained import Pretrained
from ms_bert.commands import command, training
from ms_bert.commands.finetuning import named_columns, read_task
from ms_bert.commands.framework import Framework
from ms_bert.data import tokenizer
from ms_bert.data.files import read_bytes, write_atomically
from ms_bert.data.packing import INPUTS, NUMBERS, RowBatches
from ms_bert.data.sequences import Sequences
from ms_bert.errors import UserError, listed
from ms_bert.prediction_options import PredictOptions
from ms_bert.run.folder import TASK
from ms_bert.tasks import examples, masked_words
from ms_bert.tasks.classification import Classification, MultiLabel, Regression, SentenceTask
from ms_bert.tasks.examples import Example

CHUNK = 1024  # texts that are answered at a time
MASKED_CHUNK = 64  # the scores of a whole vocabulary are many

Text = str | tuple[str, str]


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
        self._compute = framework.compute(architecture, found, device, precision, threads, fields)

    def logits(self, sequences: Sequences) -> np.ndarray:
        """(n, C) float32, of each sequence what it is whatever the others are."""
        batches = RowBatches(sequences)
        made: np.ndarray | None = None
        for number in range(len(batches)):
            batch = batches(number)
            found, numbers = self._compute(batch), batch[NUMBERS][:, 0]
            if made is None:
                made = np.zeros((len(sequences), found.shape[-1]), np.float32)
            made[numbers[numbers >= 0]] = found[numbers >= 0]
        return np.zeros((0, 0), np.float32) if made is None else made


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

    def __call__(self, texts: Sequence[Text]) -> list[dict[str, Any]]:
        """For each text, or pair of texts, in their order: what the task answers, such as label and probabilities.

        An answer about a text that was too long has `truncated`: true.
        """
        made = [Example((text,) if isinstance(text, str) else tuple(text), None, "") for text in texts]
        answers: list[dict[str, Any]] = []
        for begin in range(0, len(made), CHUNK):
            sequences = self.task.sequences(made[begin : begin + CHUNK], self._model.vocabulary, labelled=False)
            told = self.task.answers(self._model.logits(sequences))
            answers += [{**answer, "truncated": True} if cut else answer for answer, cut in zip(told, sequences.cut)]
        return answers


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
        answers: list[dict[str, Any]] = []
        for begin in range(0, len(texts), MASKED_CHUNK):
            chunk = texts[begin : begin + MASKED_CHUNK]
            sequences, owners = masked_words.sequences(chunk, self._model.vocabulary, self.longest)
            logits = self._model.logits(sequences)
            answers += masked_words.answers(chunk, logits, owners, self._model.vocabulary, self.top)
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
    computing = (options.device, options.precision, options.threads)
    model: Predictor | MaskFiller
    if options.fill_mask:
        if any(isinstance(text, tuple) for text in texts):
            raise UserError("--fill-mask takes single texts, not pairs; name one column with --columns text=NAME.")
        model = MaskFiller(options.model, framework, options.top, *computing)
    else:
        model = Predictor(options.model, framework, *computing)
    pairs = [text if isinstance(text, tuple) else (text,) for text in texts]
    answers: list[dict[str, Any]] = []
    with tqdm(total=len(texts), unit="texts", file=sys.stderr, disable=not sys.stderr.isatty()) as bar:
        for begin in range(0, len(texts), CHUNK):
            answers += model(texts[begin : begin + CHUNK])  # type: ignore[arg-type]
            bar.update(len(answers) - bar.n)
    written = FORMS[form](pairs, answers)
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
    if "masks" in answer:
        guesses = [", ".join(f"{g['token']} {g['probability']:.1%}" for g in mask) for mask in answer["masks"]]
        return f"{answer['text']}\t{'; '.join(guesses)}"
    if "value" in answer:
        return f"{answer['value']:.4f}"
    shares = answer["probabilities"]
    if "label" in answer:
        return f"{answer['label']} {shares[answer['label']]:.1%}"
    return listed([f"{name} {shares[name]:.1%}" for name in answer["labels"]]) or "none"


def _as_text(texts: Sequence[tuple[str, ...]], answers: Sequence[dict[str, Any]]) -> str:
    lines = [
        _plain(answer) if "masks" in answer else f"{_plain(answer)}\t{' | '.join(text)}"
        for text, answer in zip(texts, answers)
    ]
    return "".join(f"{line}\n" for line in lines)


def _as_jsonl(texts: Sequence[tuple[str, ...]], answers: Sequence[dict[str, Any]]) -> str:
    lines = [{"texts": list(text), **answer} for text, answer in zip(texts, answers)]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _as_csv(texts: Sequence[tuple[str, ...]], answers: Sequence[dict[str, Any]]) -> str:
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    pairs = any(len(text) > 1 for text in texts)
    first = answers[0] if answers else {}
    if "masks" in first:
        writer.writerow(["text", "mask", "token", "probability"])
        for text, answer in zip(texts, answers):
            for number, mask in enumerate(answer["masks"], 1):
                writer.writerows([*text, number, guess["token"], guess["probability"]] for guess in mask)
        return file.getvalue()
    kind = next((name for name in ("label", "labels", "value") if name in first), "label")
    names = list(first.get("probabilities", {}))
    writer.writerow(["text", *(["text2"] if pairs else []), kind, *names])
    for text, answer in zip(texts, answers):
        told = "|".join(answer[kind]) if kind == "labels" else answer[kind]
        writer.writerow([*text, told, *answer.get("probabilities", {}).values()])
    return file.getvalue()


FORMS = {"text": _as_text, "jsonl": _as_jsonl, "csv": _as_csv}
