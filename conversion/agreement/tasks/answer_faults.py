"""Planted faults of the answers and scores of a task, which the oracle of `answers` must contradict.

As those of `faults`, they change what anybody can hand in: the task or a subclass of it, its sequences, the logits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from conversion.agreement.tasks import answers
from conversion.agreement.tasks.cases import PROBLEMS, vocabulary
from ms_bert.data.sequences import Sequences
from ms_bert.tasks.answer_selection import AnswerSelection
from ms_bert.tasks.answer_spans import spans
from ms_bert.tasks.classification import Classification, MultiLabel, Regression
from ms_bert.tasks.downstream import DownstreamTask
from ms_bert.tasks.multiple_choice import MultipleChoice
from ms_bert.tasks.question_answering import QuestionAnswering
from ms_bert.tasks.tagging import Tagging


def _same(value):
    return value


def _same_logits(sequences: Sequences, logits: np.ndarray) -> np.ndarray:
    return logits


@dataclasses.dataclass(frozen=True)
class AnswerFault:
    """A change of how answers and scores are made.

    Attributes:
        what: is wrong, in a phrase. problem: by name, which shows it.
        task, sequences, logits: from what is right to what is wrong.
    """

    what: str
    problem: str
    task: Callable[[DownstreamTask], DownstreamTask] = _same
    sequences: Callable[[Sequences], Sequences] = _same
    logits: Callable[[Sequences, np.ndarray], np.ndarray] = _same_logits

    def differences(self) -> list[str]:
        """Where the oracle contradicts."""
        labelled = PROBLEMS[self.problem]
        sequences = labelled.sequences()
        logits = answers.logits_of(labelled, sequences)
        wrong = self.logits(sequences, logits)
        told = answers.found(self.task(labelled.task), self.sequences(sequences), wrong)
        return list(answers.differences(told, answers.expected(labelled, logits)))


def _with(**changes) -> Callable[[DownstreamTask], DownstreamTask]:
    return lambda task: dataclasses.replace(task, **changes)


def _as(kind: type[DownstreamTask]) -> Callable[[DownstreamTask], DownstreamTask]:
    """The task as one of a faulty subclass."""

    def change(task: DownstreamTask) -> DownstreamTask:
        return kind(**{field.name: getattr(task, field.name) for field in dataclasses.fields(task)})

    return change


class _CertainLabels(MultiLabel):
    def guesses(self, logits):
        return logits > 0.5


class _Macro(Classification):
    """The F1 of all labels together."""

    def scores(self, sequences, logits):
        found = super().scores(sequences, logits)
        return {**found, "f1_macro": found["accuracy"]}


class _Clipped(Regression):
    def guesses(self, logits):
        return super().guesses(logits).clip(0, 5)


class _Lenient(Tagging):
    def scores(self, sequences, logits):
        found = super().scores(sequences, logits)
        return {**found, "f1_strict": found["f1"]}


class _HighestNull(QuestionAnswering):
    def _spans(self, sequences, logits, most):
        found = super()._spans(sequences, logits, most)
        nulls = logits[sequences.starts[:-1]].astype(np.float64).sum(1)
        return [
            dataclasses.replace(one, null=float(nulls[sequences.owners == owner].max()))
            for owner, one in enumerate(found)
        ]


class _EachWindow(QuestionAnswering):
    """Every window tells all its answers, whichever shows most of their context."""

    def _spans(self, sequences, logits, most):
        made = []
        for owner, one in enumerate(super()._spans(sequences, logits, most)):
            own = []
            for number in np.flatnonzero(sequences.owners == owner).tolist():
                alone = {
                    name: getattr(sequences, name)[number : number + 1] for name in ("passages", "first", "before")
                }
                window = dataclasses.replace(
                    sequences, **alone, starts=sequences.starts[number : number + 2], owners=np.zeros(1, np.int64)
                )
                own += spans(window, logits, 1, most, self.longest_answer)
            best = sorted((span for of in own for span in of.best), key=lambda span: -span.score)[:most]
            total = float(np.logaddexp.reduce([of.total for of in own]))
            made.append(dataclasses.replace(one, best=tuple(best), total=total))
        return made


class _NextChoice(MultipleChoice):
    def answers(self, sequences, logits):
        return [{**answer, "answer": answer["answer"] + 1} for answer in super().answers(sequences, logits)]


class _AlongAllChoices(MultipleChoice):
    """The probabilities among the choices of all questions."""

    def answers(self, sequences, logits):
        total = float(np.exp(logits.astype(np.float64)).sum())
        found = super().answers(sequences, logits)
        sums = [np.exp(logits[sequences.owners == owner].astype(np.float64)).sum() for owner in range(len(found))]
        return [
            {**answer, "probabilities": [share * own / total for share in answer["probabilities"]]}
            for answer, own in zip(found, sums)
        ]


class _ByIrrelevance(AnswerSelection):
    def _margins(self, logits):
        return -super()._margins(logits)


def _shifted(sequences: Sequences) -> Sequences:
    return dataclasses.replace(sequences, offsets=[offsets + 1 for offsets in sequences.offsets])


def _last_pieces(sequences: Sequences) -> Sequences:
    continues = np.append(vocabulary().continues_word[sequences.ids], False)
    tokens = sequences.tokens.copy()
    for place in np.flatnonzero(tokens >= 0):
        while continues[tokens[place] + 1]:
            tokens[place] += 1
    return dataclasses.replace(sequences, tokens=tokens)


def _rolled(sequences: Sequences, logits: np.ndarray) -> np.ndarray:
    return np.roll(logits, 1, axis=0)


def _relevant_first(sequences: Sequences, logits: np.ndarray) -> np.ndarray:
    """Of equal candidates the relevant one stands first."""
    return logits + np.float32([0.0, 1e-6]) * sequences.of_sequences["labels"][:, None]


ANSWER_FAULTS = {
    "labels-reversed-in-config": AnswerFault(
        "the names of the labels are in another order", "classification", _with(labels=("good", "bad", "so"))
    ),
    "answers-of-the-next": AnswerFault("each sequence gets the answer before it", "classification", logits=_rolled),
    "macro-as-micro": AnswerFault("the F1 of all labels together", "classification", _as(_Macro)),
    "values-clipped": AnswerFault("values are clipped to 0 to 5", "regression", _as(_Clipped)),
    "logit-as-probability": AnswerFault("a logit over 0.5 makes a label", "multi-label", _as(_CertainLabels)),
    "strict-as-lenient": AnswerFault("the strict F1 is the lenient one", "tagging", _as(_Lenient)),
    "tag-of-the-last-piece": AnswerFault("a word has the tag of its last piece", "tagging", sequences=_last_pieces),
    "start-and-end-exchanged": AnswerFault(
        "an answer begins where it ends", "question-answering", logits=lambda sequences, logits: logits[:, ::-1]
    ),
    "threshold-ignored": AnswerFault("the threshold is 0", "question-answering", _with(threshold=0.0)),
    "always-an-answer": AnswerFault("no answer is no answer", "question-answering", _with(no_answer=False)),
    "null-as-maximum": AnswerFault(
        "the highest score of no answer of all windows", "question-answering", _as(_HighestNull)
    ),
    "windows-scored-twice": AnswerFault(
        "an answer counts in each window that shows it", "question-answering", _as(_EachWindow)
    ),
    "offsets-shifted": AnswerFault("an answer begins a character late", "question-answering", sequences=_shifted),
    "answer-a-token-longer": AnswerFault(
        "an answer may be a token longer", "question-answering", _with(longest_answer=6)
    ),
    "choice-from-one": AnswerFault("choices are counted from 1", "multiple-choice", _as(_NextChoice)),
    "share-of-all-choices": AnswerFault(
        "the probabilities are those among all choices", "multiple-choice", _as(_AlongAllChoices)
    ),
    "relevant-first": AnswerFault(
        "of equal candidates the relevant one stands first", "answer-selection", logits=_relevant_first
    ),
    "one-sided-scored": AnswerFault(
        "questions without a relevant candidate are scored", "answer-selection", _with(scored_questions="all")
    ),
    "ranked-from-the-last": AnswerFault("the least relevant stands first", "answer-selection", _as(_ByIrrelevance)),
}
