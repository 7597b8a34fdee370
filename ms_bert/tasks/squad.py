"""Questions about passages, with their answers, from SQuAD's json (1.1 and 2.0) or any file or dataset of rows."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ms_bert.data import labelled
from ms_bert.data.records import kind
from ms_bert.errors import UserError, listed, shown
from ms_bert.tasks.examples import Unfit, by_role

# By which names columns are known, without regard to case; the first that is there is taken.
_COLUMNS = {
    "question": ("question", "query"),
    "context": ("context", "passage", "paragraph"),
    "answers": ("answers", "answer"),
    "id": ("id", "question_id"),
    "is_impossible": ("is_impossible",),
}
_PARAGRAPHS, _QUESTIONS = "paragraphs", "qas"  # of SQuAD's json


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """A right answer: a text, and the character of the passage at which it begins."""

    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """A question about a passage.

    Attributes:
        answers: all right ones; (): the passage does not answer it; None: they are not known. id: of the data, or "".
        place: where it stands, for messages.
    """

    question: str
    context: str
    answers: tuple[Answer, ...] | None
    id: str
    place: str


def read(
    source: str,
    named: Mapping[str, str] | None = None,
    *,
    labels: bool = True,
    quoted: bool = True,
    split: str = "train",
    skip_bad: bool = False,
) -> tuple[list[Question], Counter[str]]:
    """The questions of a file or dataset, and how many were left out, by reason.

    A file is SQuAD's json, or has rows with the columns question, context, answers (as the hub has them: an object of
    the lists text and answer_start; or a list of such objects) and, if it likes, id.

    Args:
        source, quoted, split: see `labelled.read`.
        named: columns by role: question, context, answers, id; without them usual names are looked for.
        labels: whether answers are wanted; if not, none are read.
        skip_bad: leave out what is unfit instead of an error.

    Raises:
        UserError: the file cannot be read, is neither, or has a question that is unfit or (skip_bad) none that is not:
            one without text, or with an answer that does not stand in its passage where it should.
    """
    skipped: Counter[str] = Counter()
    left_out = skipped if skip_bad else None
    rows = labelled.read(source, quoted, None, split, left_out)
    return questions(source, rows, named, labels=labels, skipped=left_out), skipped


def questions(
    source: str,
    rows: Sequence[labelled.Row],
    named: Mapping[str, str] | None = None,
    *,
    labels: bool = True,
    skipped: Counter[str] | None = None,
) -> list[Question]:
    """The questions of the rows of a source; see `read`.

    Args:
        skipped: takes how many were left out, by reason; without it what is unfit is an error.
    """
    names = labelled.columns(rows)
    if [row.values.get("data") for row in rows] == [[]]:
        raise UserError(f"{source} is SQuAD's json without an article; name another file.")
    if _PARAGRAPHS in names:
        entries = _of_articles(rows)
    else:
        entries = _of_rows(rows, find_columns(source, names, named or {}, labels))
    instead = ", or leave such questions out with --skip-bad" if labels else ""
    made = []
    for place, entry in entries:
        try:
            made.append(_question(entry, place, labels))
        except Unfit as error:
            if skipped is None:
                raise UserError(f"{place}: {error.found}; {error.mend}{instead}.") from None
            skipped[error.reason] += 1
    if not made:
        raise labelled.none_of(f"no question of {source} can be used", skipped, "name another file")
    return made


def find_columns(source: str, names: Collection[str], named: Mapping[str, str], labels: bool = True) -> dict[str, str]:
    """Which columns hold what, by role: those that are named, and else those with usual names.

    Raises:
        UserError: a column is missing, or a role is unknown.
    """
    roles = by_role(source, names, named, _COLUMNS)
    for role, usual in _COLUMNS.items():
        if role not in roles and (role in ("question", "context") or (labels and role == "answers")):
            raise UserError(
                f"{source} is neither SQuAD's json nor has it a column that is known as {role} ({', '.join(usual)}), "
                f"only {listed(names)}; name one with --columns {role}=NAME."
            )
    return roles


def _of_articles(rows: Iterable[labelled.Row]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The place of each question of SQuAD's json, and its fields."""
    for row in rows:
        for paragraph in _objects(row.values.get(_PARAGRAPHS), row.place, _PARAGRAPHS):
            for entry in _objects(paragraph.get(_QUESTIONS), row.place, _QUESTIONS):
                place = f"{row.place.rpartition(', ')[0]}, question {shown(entry.get('id', entry.get('question')))}"
                yield place, {**entry, "context": paragraph.get("context")}


def _objects(value: Any, place: str, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(element, dict) for element in value):
        raise UserError(
            f"{place} has in {name} {kind(value)}, but SQuAD's json has a list of objects there; mend it, or name a "
            "file with the columns question, context and answers."
        )
    return value


def _of_rows(rows: Iterable[labelled.Row], columns: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for row in rows:
        entry = {role: row.values.get(name) for role, name in columns.items()}
        yield row.place if entry.get("id") is None else f"{row.place}, question {shown(entry['id'])}", entry


def _question(entry: Mapping[str, Any], place: str, labels: bool) -> Question:
    question, context = _text(entry, "question"), _text(entry, "context")
    answers = _answers(entry, context) if labels else None
    number = entry.get("id")
    return Question(question, context, answers, "" if number is None else str(number), place)


def _answers(entry: Mapping[str, Any], context: str) -> tuple[Answer, ...]:
    impossible, given = entry.get("is_impossible"), entry.get("answers")
    if given is None and impossible is not True:
        raise Unfit("no answers", "it has no answers", "name a file with answers")
    answers = tuple(_answer(text, start, context) for text, start in _pairs(given))
    if answers and impossible is True:
        raise Unfit("answers of the impossible", "it is_impossible and has answers", "take one of them away")
    return answers


def _pairs(given: Any) -> Iterable[tuple[Any, Any]]:
    """(text, answer_start) of what a column of answers holds."""
    if given is None:
        return ()
    if isinstance(given, list) and all(isinstance(answer, dict) for answer in given):
        return [(answer.get("text"), answer.get("answer_start")) for answer in given]
    if isinstance(given, dict):
        texts, starts = given.get("text"), given.get("answer_start")
        if isinstance(texts, str):
            return [(texts, starts)]
        if isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts):
            return list(zip(texts, starts))
    raise Unfit(
        "no list of answers",
        f"it has as its answers {shown(given)}",
        "expected a list of objects with text and answer_start, or an object with a list of each",
    )


def _answer(text: Any, start: Any, context: str) -> Answer:
    if not isinstance(text, str) or type(start) is not int:
        raise Unfit(
            "an answer without text or place",
            f"it has an answer with the text {shown(text)} and the answer_start {shown(start)}",
            "expected a string and a whole number",
        )
    if not any(character.isprintable() and not character.isspace() for character in text):
        raise Unfit("an empty answer", f"it has the answer {shown(text)}", "give it a text, or no answer at all")
    stands = context[start : start + len(text)] if 0 <= start <= len(context) else ""
    if stands == text:
        return Answer(text, start)
    where = f"where {shown(stands)} stands" if stands else f"which has {len(context):,} characters"
    elsewhere = " and ".join(map(str, itertools.islice(_places(context, text), 3)))
    told = f"it stands at {elsewhere}" if elsewhere else "it stands nowhere in it"
    raise Unfit(
        "an answer that does not stand where it should",
        f"the answer {shown(text)} does not stand at character {start} of its context, {where}; {told}",
        "correct answer_start, which counts characters from 0",
    )


def _places(context: str, text: str) -> Iterator[int]:
    place = context.find(text)
    while place >= 0:
        yield place
        place = context.find(text, place + 1)


def _text(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str):
        found = f"no {name}" if value is None else f"as its {name} {kind(value)}"
        raise Unfit(f"no {name}", f"it has {found}", "expected a string")
    return value
