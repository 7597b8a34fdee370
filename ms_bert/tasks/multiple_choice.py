"""Multiple choice: which of a question's choices is the right one, with or without a context to read.

A choice is a sequence `[CLS] context [SEP] question choice [SEP]` (Devlin et al., 2019, 4.4; Radford et al., 2018, 3.3)
or, without a context, `[CLS] question [SEP] choice [SEP]`. The model gives each a score. The softmax over the scores of
a question gives the probabilities of its choices.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ms_bert.data import labelled
from ms_bert.data.packing import INPUTS
from ms_bert.data.records import kind as kind_of
from ms_bert.data.sequences import Sequences, encoded_choices
from ms_bert.data.tokenizer import Vocabulary
from ms_bert.errors import UserError, listed, one_line, shown
from ms_bert.tasks import Metrics, pictures
from ms_bert.tasks.downstream import DownstreamTask, Read, of_owners
from ms_bert.tasks.examples import Unfit, by_role, class_name, fitting, list_of_json, named_columns
from ms_bert.tasks.metrics import METRICS, calibration, interval
from ms_bert.tasks.pictures import Drawing

if TYPE_CHECKING:
    from ms_bert.finetuning_options import DataOptions
    from ms_bert.prediction_options import PredictOptions

GROUPS = "groups"  # (B, N) int32 of a batch: the number of the question plus 1, 0 where there is no sequence

# By which names columns are known: those of SWAG, HellaSwag, RACE, DREAM, C3, ARC, OpenBookQA and CommonsenseQA.
_USUAL = {
    "context": ("context", "sent1", "ctx", "passage", "article", "dialogue", "startphrase"),
    "question": ("question", "sent2", "question_stem", "query"),
    "choices": ("choices", "options", "endings", "choice"),
    "label": ("label", "answer", "answerkey"),
}
_NUMBERED = re.compile(r"ending(\d+)", re.IGNORECASE)
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """Attributes:
    context: to read before; question: one of both may be empty. choices: at least 2. answer: number of the right one,
        from 0; None: it is not known. place: where it stands, for messages.
    """

    context: str
    question: str
    choices: tuple[str, ...]
    answer: int | None
    place: str

    @property
    def texts(self) -> tuple[str, list[str]]:
        """The first text of its sequences, and the second of each."""
        if self.context and self.question:
            return self.context, [f"{self.question} {choice}" for choice in self.choices]
        return self.context or self.question, list(self.choices)


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns that are read.

    Attributes:
        choices: one that holds a list, or several that hold a choice each. Others: None, if there is none.
    """

    context: str | None
    question: str | None
    choices: tuple[str, ...]
    label: str | None


@dataclasses.dataclass(frozen=True)
class MultipleChoice(DownstreamTask):
    """One of the choices of a question, of which each may have another number."""

    name: ClassVar[str] = "multiple-choice"
    architecture: ClassVar[str] = "BertForMultipleChoice"
    usual_longest: ClassVar[int] = 256
    together: ClassVar[bool] = True
    learned: ClassVar[tuple[str, ...]] = (*INPUTS, GROUPS, "labels")
    weights: ClassVar[tuple[str, ...]] = ("labels",)  # 1 at the right choice, so that their sum is that of questions

    def config(self) -> dict[str, Any]:
        """One output, which Hugging Face calls a label."""
        return {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "problem_type": None}

    @classmethod
    def examples(cls, data: DataOptions, source: str, split: str) -> Read:
        skipped: Counter[str] = Counter()
        left_out = skipped if data.skip_bad else None
        rows = labelled.read(source, data.quotes, split=split, skipped=left_out, unfold=_unfolded)
        columns = find_columns(source, labelled.columns(rows), named_columns(data.columns))
        places_first = _places_first(rows, columns)
        _check_counted_from_0(source, rows, columns)
        found = fitting(source, rows, lambda row: _question(row, columns, places_first), left_out)
        return Read(found, skipped, _told(columns))

    @classmethod
    def of(cls, data: DataOptions, examples: Sequence[Question]) -> MultipleChoice:
        return cls((), ("accuracy",), data.longest or cls.usual_longest, columns=cls.input_columns(data))

    def passage(self, example: Question) -> str:
        return example.context

    def sequences(self, examples: Sequence[Question], vocabulary: Vocabulary, labelled: bool = True) -> Sequences:
        made = encoded_choices([question.texts for question in examples], vocabulary, self.longest)
        if labelled:
            right = [number == question.answer for question in examples for number in range(len(question.choices))]
            made.of_sequences["labels"] = np.array(right, np.float32)
            made.of_sequences[GROUPS] = (made.owners + 1).astype(np.int32)
        return dataclasses.replace(made, examples=examples)

    def scores(self, sequences: Sequences, logits: np.ndarray) -> Metrics:
        labels, guesses = _answers(sequences), _guesses(sequences, logits)
        return {name: METRICS[name](labels, guesses) for name in self.measures}

    def intervals(self, sequences: Sequences, logits: np.ndarray) -> dict[str, tuple[float, float]]:
        labels, guesses = _answers(sequences), _guesses(sequences, logits)
        return {name: interval(name, labels, guesses, seed=0) for name in self.measures}

    def details(self, sequences: Sequences, logits: np.ndarray) -> dict[str, Any]:
        """chance: the accuracy of guessing; by_choices: the accuracy of questions of so many choices."""
        right, numbers = _answers(sequences) == _guesses(sequences, logits), np.bincount(sequences.owners)
        by_choices = {
            str(number): {
                "questions": int((numbers == number).sum()),
                "accuracy": float(right[numbers == number].mean()),
            }
            for number in np.unique(numbers)
        }
        return {"chance": float((1 / numbers).mean()), "by_choices": by_choices}

    def drawings(self, sequences: Sequences, logits: np.ndarray) -> list[Drawing]:
        """The calibration, and how right the model is by length and, where that differs, by the number of choices."""
        right = _answers(sequences) == _guesses(sequences, logits)
        shares = np.array([max(told["probabilities"]) for told in self.answers(sequences, logits)])
        told = calibration(shares, right)
        lengths = np.array([own.max() for own in of_owners(sequences, sequences.lengths)])
        made = [
            pictures.calibration(told["bins"], told["expected_calibration_error"]),
            pictures.by_length(lengths, right, "accuracy", "tokens with the longest choice"),
        ]
        by_choices = self.details(sequences, logits)["by_choices"]
        if len(by_choices) > 1:
            values = {"accuracy": {number: of["accuracy"] for number, of in by_choices.items()}}
            values["chance"] = {number: 1 / int(number) for number in by_choices}
            counts = {number: of["questions"] for number, of in by_choices.items()}
            made.append(pictures.grouped("Questions by number of choices", "choices", values, counts))
        return made

    def answers(self, sequences: Sequences, logits: np.ndarray) -> list[dict[str, Any]]:
        """answer: the number of a choice, from 0; text: of it; probabilities: of all choices."""
        told = []
        for question, scores in zip(sequences.examples, of_owners(sequences, logits[:, 0].astype(np.float64))):
            shares = np.exp(scores - scores.max())
            best = int(scores.argmax())
            told.append(
                {"answer": best, "text": question.choices[best], "probabilities": (shares / shares.sum()).tolist()}
            )
        return told

    def gold(self, example: Question) -> int | None:
        return example.answer

    def inputs(self, example: Question) -> dict[str, Any]:
        return {"context": example.context, "question": example.question, "choices": list(example.choices)}

    def plain(self, example: Question, answer: dict[str, Any]) -> str:
        share = answer["probabilities"][answer["answer"]]
        return f"{one_line(answer['text'])} {share:.1%}\t{one_line(example.question or example.context)}"

    def table(self, examples: Sequence[Question], answers: Sequence[dict[str, Any]]) -> list[list[Any]]:
        rows = [
            [example.context, example.question, answer["answer"], answer["text"], max(answer["probabilities"])]
            for example, answer in zip(examples, answers)
        ]
        return [["context", "question", "answer", "text", "probability"], *rows]

    def asked(self, options: PredictOptions) -> list[Question]:
        """Of the arguments: a question, or a context and a question, with --choices; of a file as for training, and of
        a pipe an object of JSON a line."""
        if options.choices:
            return [self.example((*options.texts, options.choices))]
        if options.input is None:
            raise UserError(
                "no choices were given; write a question, or a context and a question, after the model and --choices "
                "with two or more, or name a file with --input."
            )
        rows = labelled.of_file_or_pipe(options.input, options.quotes, unfold=_unfolded)
        named = named_columns(self.by_columns(options).columns)
        columns = find_columns(options.input, labelled.columns(rows), named, labels=False)
        return fitting(options.input, rows, lambda row: _question(row, columns), instead="")

    def example(self, given: Mapping[str, Any] | Sequence[Any]) -> Question:
        """Of (context, question, choices), (question, choices), or a dict of these."""
        if not isinstance(given, Mapping):
            if not isinstance(given, list | tuple) or not 2 <= len(given) <= 3:
                raise UserError(
                    f"a question was given as {shown(given)}; expected a context, which may be left out, a question "
                    "and a list of choices."
                )
            given = dict(zip(("choices", "question", "context"), reversed(given)))
        given = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
        columns = find_columns("the question", list(given), {}, labels=False)
        try:
            return _question(labelled.Row(given, ""), columns)
        except Unfit as error:
            raise UserError(f"the question {error}.") from None


def find_columns(source: str, names: Collection[str], named: Mapping[str, str], labels: bool = True) -> Columns:
    """Which columns hold what: those that are named by role, and else those with usual names.

    Args:
        named: columns by role: context, question, choices (one, or several as A,B,C), label.

    Raises:
        UserError: a column is missing, or a role is unknown.
    """
    several = tuple(named.get("choices", "").split(","))
    if len(several) > 1:
        named = {role: name for role, name in named.items() if role != "choices"}
        for name in several:
            if name not in names:
                raise labelled.no_column(source, names, shown(name), "choices")
    roles = by_role(source, names, named, _USUAL)
    choices = several if len(several) > 1 else (roles["choices"],) if "choices" in roles else _each_its_own(names)
    if not choices:
        raise labelled.no_column(source, names, "that is known as choices (choices, options, ending0, A)", "choices")
    if "context" not in roles and "question" not in roles:
        raise labelled.no_column(
            source, names, f"that is known as question ({', '.join(_USUAL['question'])})", "question"
        )
    if labels and "label" not in roles:
        raise labelled.no_column(source, names, f"that is known as label ({', '.join(_USUAL['label'])})", "label")
    return Columns(roles.get("context"), roles.get("question"), choices, roles["label"] if labels else None)


def answer_number(value: Any, choices: Sequence[str], names: Sequence[str] = (), places_first: bool = False) -> int:
    """Which of the choices is meant, from 0: by the name that the file gives it, if it gives names; or else by its text
    or by its place, a letter (A is the first) or a number (0 is the first).

    Args:
        names: of the choices, where the file gives some. places_first: what could be either is a place, not a text.

    Raises:
        Unfit: none is, or several.
    """
    name, expected = class_name(value), f"one of {listed(names)}"
    number = names.index(name) if name in names else -1
    if not names:
        number, place = _by_text(value, choices), _by_place(name, choices)
        if place >= 0 and (places_first or number < 0):
            number = place
        elif number >= 0 and choices.count(choices[number]) > 1:
            raise Unfit("an ambiguous answer", f"has several choices {shown(value)}, its answer", "give its number")
        places = f"a number from 0 to {len(choices) - 1}, a letter from A to {_LETTERS[: len(choices)][-1]}"
        expected = f"{places} or the text of a choice"
    if not 0 <= number < len(choices):
        raise Unfit(
            "an answer that is no choice",
            f"has the answer {shown(value)}, which is none of its choices",
            f"expected {expected}",
        )
    return number


def _by_text(value: Any, choices: Sequence[str]) -> int:
    """The number of the first choice with this text; -1: there is none."""
    return choices.index(value.strip()) if isinstance(value, str) and value.strip() in choices else -1


def _by_place(name: str, choices: Sequence[str]) -> int:
    """The number of the choice with this letter or number; -1: there is none."""
    number = _LETTERS.find(name.upper()) if len(name) == 1 else -1
    if name.isdecimal() and len(name) < 10:
        number = int(name)
    return number if number < len(choices) else -1


def _places_first(rows: Iterable[labelled.Row], columns: Columns) -> bool:
    """Whether the answers of a file are places of choices rather than their texts.

    A choice may read like the place of another one, so that a row by itself does not tell. What could be both is a
    place where more answers can be places alone than texts alone, and at least as many as can be both.
    """
    counts: Counter[tuple[bool, bool]] = Counter()
    for row in rows:
        try:
            choices, _ = _choices(row, columns)
            value = row.values.get(columns.label or "")
            counts[_by_text(value, choices) >= 0, _by_place(class_name(value), choices) >= 0] += 1
        except Unfit:  # what has other faults tells nothing
            continue
    both, text_alone, place_alone = counts[True, True], counts[True, False], counts[False, True]
    return place_alone > text_alone and place_alone >= both


def _check_counted_from_0(source: str, rows: Iterable[labelled.Row], columns: Columns) -> None:
    """Raise UserError if the answers of a file are numbers from 1: most would be taken for the choice after theirs."""
    numbers, last = set[int](), False
    for row in rows:
        try:
            choices, names = _choices(row, columns)
            value = class_name(row.values.get(columns.label or ""))
        except Unfit:  # what has other faults tells nothing
            continue
        if names or not value.isdecimal() or len(value) > 9 or value in choices:
            continue
        numbers.add(int(value))
        last = last or int(value) == len(choices)
    if last and 0 not in numbers:
        raise UserError(
            f"the answers of {source} count the choices from 1; count them from 0, or write letters or the texts of "
            "the choices."
        )


def _answers(sequences: Sequences) -> np.ndarray:
    return np.array([question.answer for question in sequences.examples])


def _guesses(sequences: Sequences, logits: np.ndarray) -> np.ndarray:
    """The number of the choice with the highest score; of several the first."""
    return np.array([scores.argmax() for scores in of_owners(sequences, logits[:, 0])])


def _each_its_own(names: Collection[str]) -> tuple[str, ...]:
    """The columns of which each holds a choice: ending0, ending1, ... or A, B, C, ..."""
    numbered = {int(found[1]): name for name in names if (found := _NUMBERED.fullmatch(name))}
    endings = tuple(numbered[number] for number in sorted(numbered))
    letters = tuple(letter for number, letter in enumerate(_LETTERS) if set(_LETTERS[: number + 1]) <= set(names))
    return endings or (letters if len(letters) > 1 else ())


def _question(row: labelled.Row, columns: Columns, places_first: bool = False) -> Question:
    """Raises Unfit."""
    context, question = (_text(row, name) for name in (columns.context, columns.question))
    if not context and not question:
        raise Unfit("no question", "has neither a context nor a question", "give it one")
    choices, names = _choices(row, columns)
    answer = None
    if columns.label is not None:
        answer = answer_number(row.values.get(columns.label), choices, names, places_first)
    return Question(context, question, tuple(choices), answer, row.place)


def _text(row: labelled.Row, name: str | None) -> str:
    """A text; of a list of texts, such as the turns of a dialogue, a line each."""
    value = None if name is None else row.values.get(name)
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = "\n".join(value)
    if not isinstance(value, str | None):
        raise Unfit("no text", f"has in {shown(name)} no text but {kind_of(value)}", "name a column of text")
    return (value or "").strip()


def _choices(row: labelled.Row, columns: Columns) -> tuple[list[str], list[str]]:
    """The choices, and their names where the file gives some: of a list, also one written as JSON; of an object of two
    lists, text and label, as ARC has it; or of a column each."""
    value: Any = [row.values.get(name) for name in columns.choices]
    names: list[str] = []
    if len(columns.choices) == 1:
        (value,) = value
        if isinstance(value, str) and value.lstrip().startswith("["):
            value = list_of_json(value, "choices", 'write ["a", "b"]')
        if isinstance(value, dict) and isinstance(value.get("text"), list) and isinstance(value.get("label"), list):
            value, names = value["text"], [str(name) for name in value["label"]]
        if not isinstance(value, list):
            raise Unfit("no list of choices", f"has {kind_of(value)} as its choices", "expected a list of texts")
    for number, choice in enumerate(value):
        if not isinstance(choice, str) or not choice.strip():
            where = f"choice {number}" if len(columns.choices) == 1 else shown(columns.choices[number])
            found = "no text" if choice is None or isinstance(choice, str) else f"no text but {kind_of(choice)}"
            raise Unfit("a choice without text", f"has in {where} {found}", "give it one")
    if len(value) < 2:
        raise Unfit("too few choices", f"has {'one choice' if value else 'no choices'}", "expected at least 2")
    return [choice.strip() for choice in value], names


def _unfolded(record: Any, place: str) -> list[labelled.Row]:
    """The questions of a record in the form in which authors of a dataset gave it away; none of any other."""
    if isinstance(record, dict):
        return _passage(record, place) or _stem(record, place)
    return _dialogue(record, place)


def _passage(record: dict[str, Any], place: str) -> list[labelled.Row]:
    """Those of RACE: an article with the lists questions, options and answers."""
    questions, options, answers = (record.get(name) for name in ("questions", "options", "answers"))
    if not (isinstance(questions, list) and isinstance(options, list) and isinstance(answers, list)):
        return []
    if not len(questions) == len(options) == len(answers):
        return []
    return [
        labelled.Row(
            {"article": record.get("article"), "question": question, "options": choices, "answer": answer},
            f"{place}, question {number}",
        )
        for number, (question, choices, answer) in enumerate(zip(questions, options, answers), 1)
    ]


def _stem(record: dict[str, Any], place: str) -> list[labelled.Row]:
    """That of ARC, OpenBookQA and CommonsenseQA: a question of a stem and choices, each a text with its label."""
    asked = record.get("question")
    choices = asked.get("choices") if isinstance(asked, dict) else None
    if not isinstance(asked, dict) or not isinstance(choices, list) or not all(isinstance(c, dict) for c in choices):
        return []
    named = {name: [choice.get(name) for choice in choices] for name in ("text", "label")}
    return [labelled.Row({**record, "question": asked.get("stem"), "choices": named}, place)]


def _dialogue(record: Any, place: str) -> list[labelled.Row]:
    """The questions of a record of DREAM or C3: [turns of a dialogue, [{question, choice, answer}, ...], id]."""
    if not (isinstance(record, list) and len(record) >= 2 and isinstance(record[1], list)):
        return []
    return [
        labelled.Row({"context": record[0], **asked}, f"{place}, question {number}")
        for number, asked in enumerate(record[1], 1)
        if isinstance(asked, dict)
    ]


def _told(columns: Columns) -> str:
    roles = {"context": columns.context, "question": columns.question, "answers": columns.label}
    told = [f"{role} from {name}" for role, name in roles.items() if name is not None]
    return ", ".join((*told, f"choices from {' '.join(columns.choices)}"))
