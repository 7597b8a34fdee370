"""Answer selection: which of a question's candidates, such as the sentences of a page, answer it.

Each candidate is judged by itself, `[CLS] question [SEP] candidate [SEP]`: relevant or not. Those of a question are
ranked by how much speaks for relevance (Nogueira & Cho, 2019; Garg et al., 2020). Rankings are scored by MAP and MRR
(Voorhees & Tice, 2000), as of WikiQA, TREC-QA and InsuranceQA.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ms_bert.data import labelled
from ms_bert.data.records import kind as kind_of
from ms_bert.data.sequences import Sequences, encoded
from ms_bert.data.tokenizer import Vocabulary
from ms_bert.errors import UserError, shown
from ms_bert.tasks import Metrics, pictures
from ms_bert.tasks.downstream import DownstreamTask, Read, balanced, of_owners
from ms_bert.tasks.examples import Unfit, by_role, class_name, fitting, named_columns, whether
from ms_bert.tasks.metrics import interval_of_mean
from ms_bert.tasks.pictures import Drawing

if TYPE_CHECKING:
    from ms_bert.finetuning_options import DataOptions
    from ms_bert.prediction_options import PredictOptions

IRRELEVANT, RELEVANT = "irrelevant", "relevant"

# By which names columns are known: those of WikiQA, TREC-QA, InsuranceQA and MS MARCO.
_USUAL = {
    "question": ("question", "query"),
    "candidate": ("candidate", "candidates", "choices", "answer", "sentence", "passage", "document", "text"),
    "label": ("label", "labels", "relevance", "relevant"),
    "id": ("question_id", "questionid", "qid", "query_id"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """Attributes:
    candidates: at least 1, in the order of the file. relevant: of each whether it answers the question; empty: it is
        not known. id: by which the file tells questions of one text apart; empty: it has none.
    """

    question: str
    candidates: tuple[str, ...]
    relevant: tuple[bool, ...] = ()
    id: str = ""

    @property
    def one_sided(self) -> bool:
        """Whether all rankings are alike, because all candidates are relevant or none is."""
        return all(self.relevant) or not any(self.relevant)


@dataclasses.dataclass(frozen=True)
class AnswerSelection(DownstreamTask):
    """The candidates of a question, ranked.

    Attributes:
        scored_questions: clean, those that are not one-sided, as in the clean version of TREC-QA (Rao et al., 2016); or
            all, where a question without a relevant candidate scores 0.
    """

    scored_questions: str = "clean"

    name: ClassVar[str] = "answer-selection"
    architecture: ClassVar[str] = "BertForSequenceClassification"
    augmented: ClassVar[bool] = True

    def config(self) -> dict[str, Any]:
        return {**super().config(), "problem_type": "single_label_classification"}

    @classmethod
    def examples(cls, data: DataOptions, source: str, split: str) -> Read:
        skipped: Counter[str] = Counter()
        left_out = skipped if data.skip_bad else None
        rows = labelled.read(source, data.quotes, split=split, skipped=left_out)
        roles = find_columns(source, labelled.columns(rows), named_columns(data.columns))
        pairs = fitting(source, rows, lambda row: _candidates(row, roles), left_out)
        return Read(_by_question(pairs), skipped, ", ".join(f"{role} from {name}" for role, name in roles.items()))

    @classmethod
    def of(cls, data: DataOptions, examples: Sequence[Question]) -> AnswerSelection:
        judged = {relevant for question in examples for relevant in question.relevant}
        if len(judged) < 2:
            which = "relevant" if True in judged else "irrelevant"
            raise UserError(
                f"all candidates of the training data are {which}; the task learns from both kinds, so name other data."
            )
        task = cls((IRRELEVANT, RELEVANT), ("map", "mrr"), cls.usual_longest, columns=cls.input_columns(data))
        return task.with_options(data)

    def with_options(self, data: DataOptions) -> AnswerSelection:
        scored = data.scored_questions or self.scored_questions
        return dataclasses.replace(super().with_options(data), scored_questions=scored)

    def check_scored(self, examples: Sequence[Question]) -> None:
        if not any(self._is_scored(question) for question in examples):
            raise UserError(
                f"each of the {len(examples):,} questions to evaluate on has only relevant or only irrelevant "
                "candidates, so no ranking is better than another; name other data with --dev, or choose "
                "--scored-questions all."
            )

    def sequences(self, examples: Sequence[Question], vocabulary: Vocabulary, labelled: bool = True) -> Sequences:
        pairs = [(question.question, candidate) for question in examples for candidate in question.candidates]
        made = encoded(pairs, vocabulary, self.longest)
        if labelled:
            labels = [
                self.labels.index(RELEVANT if r else IRRELEVANT) for question in examples for r in question.relevant
            ]
            made.of_sequences["labels"] = np.array(labels, np.int32)
        owners = np.repeat(np.arange(len(examples)), [len(question.candidates) for question in examples])
        return dataclasses.replace(made, examples=examples, owners=owners)

    def weights_of(self, sequences: Sequences) -> np.ndarray:
        return balanced(sequences.of_sequences["labels"])

    def scores(self, sequences: Sequences, logits: np.ndarray) -> Metrics:
        """map, mrr: of the questions that are scored."""
        return {name: float(values.mean()) for name, values in self._of_questions(sequences, logits).items()}

    def intervals(self, sequences: Sequences, logits: np.ndarray) -> dict[str, tuple[float, float]]:
        values = self._of_questions(sequences, logits)
        return {name: interval_of_mean(values[name], seed=0) for name in self.measures}

    def details(self, sequences: Sequences, logits: np.ndarray) -> dict[str, Any]:
        """questions: how many are scored, and how many have only irrelevant or only relevant candidates."""
        examples = sequences.examples
        return {
            "scored_questions": self.scored_questions,
            "questions": {
                "scored": sum(self._is_scored(question) for question in examples),
                "without_relevant": sum(not any(question.relevant) for question in examples),
                "only_relevant": sum(all(question.relevant) for question in examples),
            },
        }

    def drawings(self, sequences: Sequences, logits: np.ndarray) -> list[Drawing]:
        """At which rank the first relevant candidate stands, and how good rankings are by their length."""
        values = self._of_questions(sequences, logits)
        found = np.sort(np.round(1 / values["mrr"][values["mrr"] > 0]).astype(np.int64))
        counts = dict(Counter(pictures.ranges(found)))
        if none := len(values["mrr"]) - len(found):
            counts["none"] = none
        shares = {name: count / len(values["mrr"]) for name, count in counts.items()}
        lengths = np.array([len(question.candidates) for question in sequences.examples if self._is_scored(question)])
        return [
            pictures.grouped("The first relevant candidate", "rank", {"share of the questions": shares}, counts),
            pictures.by_length(lengths, values["map"], "average precision", "candidates", "number of candidates"),
        ]

    def answers(self, sequences: Sequences, logits: np.ndarray) -> list[dict[str, Any]]:
        """ranking: the candidates, the best first and equal ones in their order: the number of each, from 0, its text,
        and its probability to be relevant."""
        told = []
        for question, margins in zip(sequences.examples, of_owners(sequences, self._margins(logits))):
            ranking = [
                {
                    "candidate": n,
                    "text": question.candidates[n],
                    "score": float(np.exp(-np.logaddexp(0.0, -margins[n]))),
                }
                for n in np.argsort(-margins, kind="stable").tolist()
            ]
            told.append({"ranking": ranking})
        return told

    def gold(self, example: Question) -> list[int]:
        """The numbers of the relevant candidates."""
        return [number for number, relevant in enumerate(example.relevant) if relevant]

    def inputs(self, example: Question) -> dict[str, Any]:
        named = {"id": example.id} if example.id else {}
        return {**named, "question": example.question, "candidates": list(example.candidates)}

    def plain(self, example: Question, answer: dict[str, Any]) -> str:
        """A line for each candidate, the best first."""
        return "\n".join(
            "\t".join((f"{one['score']:.1%}", *(" ".join(text.split()) for text in (one["text"], example.question))))
            for one in answer["ranking"]
        )

    def table(self, examples: Sequence[Question], answers: Sequence[dict[str, Any]]) -> list[list[Any]]:
        rows = [
            [example.question, rank, one["score"], one["text"]]
            for example, answer in zip(examples, answers)
            for rank, one in enumerate(answer["ranking"], 1)
        ]
        return [["question", "rank", "score", "candidate"], *rows]

    def asked(self, options: PredictOptions) -> list[Question]:
        """Of the arguments a question, with --choices; of a file as for training, and of a pipe an object of JSON a
        line."""
        if options.input is None:
            if len(options.texts) != 1 or not options.choices:
                raise UserError(
                    "no question with candidates was given; write one question after the model and its candidates "
                    "after --choices, or name a file with --input."
                )
            return [self.example((options.texts[0], options.choices))]
        rows = labelled.of_file_or_pipe(options.input, options.quotes)
        named = named_columns(self.by_columns(options).columns)
        roles = find_columns(options.input, labelled.columns(rows), named, labels=False)
        return _by_question(fitting(options.input, rows, lambda row: _candidates(row, roles), instead=""))

    def example(self, given: Mapping[str, Any] | Sequence[Any]) -> Question:
        """Of (question, candidates), or a dict of these."""
        if not isinstance(given, Mapping):
            if not isinstance(given, list | tuple) or len(given) != 2:
                raise UserError(
                    f"a question was given as {shown(given)}; expected a question and a list of candidates."
                )
            given = dict(zip(("question", "candidates"), given))
        given = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
        roles = find_columns("the question", list(given), {}, labels=False)
        try:
            return _candidates(labelled.Row(given, ""), roles)
        except Unfit as error:
            raise UserError(f"the question {error}.") from None

    def _is_scored(self, question: Question) -> bool:
        return self.scored_questions == "all" or not question.one_sided

    def _margins(self, logits: np.ndarray) -> np.ndarray:
        """How much speaks for relevance, of logits (n, 2): (n,) float64. Probabilities near 1 would be all alike."""
        wide = logits.astype(np.float64)
        return wide[:, self.labels.index(RELEVANT)] - wide[:, self.labels.index(IRRELEVANT)]

    def _of_questions(self, sequences: Sequences, logits: np.ndarray) -> dict[str, np.ndarray]:
        """Of each question that is scored its average precision and its reciprocal rank."""
        found = [
            (average_precision(margins, relevant), reciprocal_rank(margins, relevant))
            for question, margins in zip(sequences.examples, of_owners(sequences, self._margins(logits)))
            if self._is_scored(question)
            for relevant in [np.array(question.relevant)]
        ]
        return dict(zip(("map", "mrr"), np.array(found).T))


def average_precision(scores: np.ndarray, relevant: np.ndarray) -> float:
    """The mean, over the relevant candidates, of the share of relevant ones down to its rank; 0 if none is relevant.

    Of equal scores the irrelevant candidate stands first, so that a model that tells nothing apart earns nothing by the
    order of the file, in which answers may come early.

    Args:
        scores: (n,). relevant: (n,) bool.
    """
    ranks = _ranks_of_relevant(scores, relevant)
    return float((np.arange(1, len(ranks) + 1) / ranks).mean()) if len(ranks) else 0.0


def reciprocal_rank(scores: np.ndarray, relevant: np.ndarray) -> float:
    """1 / the rank of the first relevant candidate, ranked as for `average_precision`; 0 if none is relevant."""
    ranks = _ranks_of_relevant(scores, relevant)
    return float(1 / ranks[0]) if len(ranks) else 0.0


def _ranks_of_relevant(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """From 1, ascending."""
    return np.flatnonzero(relevant[np.lexsort((relevant, -scores))]) + 1


def find_columns(source: str, names: Collection[str], named: Mapping[str, str], labels: bool = True) -> dict[str, str]:
    """The columns by role: question, candidate, label if wanted, and id if there is one; those that are named, and else
    those with usual names.

    Raises:
        UserError: a column is missing, or a role is unknown.
    """
    roles = by_role(source, names, named, _USUAL)
    if not labels:
        roles.pop("label", None)
    for role in ("question", "candidate", *(["label"] if labels else [])):
        if role not in roles:
            raise labelled.no_column(source, names, f"that is known as {role} ({', '.join(_USUAL[role])})", role)
    return roles


def _candidates(row: labelled.Row, roles: Mapping[str, str]) -> Question:
    """The question of a row, with its candidate, or candidates and labels where a row has lists. Raises Unfit."""
    question = _text(row.values.get(roles["question"]), roles["question"])
    given = row.values.get(roles["candidate"])
    several = given if isinstance(given, list) else [given]
    if not several:
        raise Unfit("no candidate", "has no candidates", "give it at least one")
    candidates = tuple(_text(one, roles["candidate"]) for one in several)
    relevant: tuple[bool, ...] = ()
    if "label" in roles:
        label = row.values.get(roles["label"])
        relevant = tuple(_relevant(one) for one in (label if isinstance(label, list) else [label]))
        if len(relevant) != len(candidates):
            found = f"has {len(candidates)} candidates and {len(relevant)} labels"
            raise Unfit("candidates without a label each", found, "give each candidate one label")
    key = row.values.get(roles["id"]) if "id" in roles else None
    return Question(question, candidates, relevant, "" if key is None else str(key).strip())


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str | None):
        raise Unfit("no text", f"has in {shown(name)} no text but {kind_of(value)}", "name a column of text")
    if not value or not value.strip():
        raise Unfit("an empty text", f"has no text in {shown(name)}", "give it one")
    return value.strip()


def _relevant(value: Any) -> bool:
    found = whether(class_name(value))
    if found is None:
        raise Unfit("a label that is not 0 or 1", f"has the label {shown(value)}", "expected 0 or 1")
    return found


def _by_question(rows: Sequence[Question]) -> list[Question]:
    """The candidates of each question, told by its id and text, together: they may stand anywhere in the file. The
    questions are in the order of their first, the candidates in that of the file."""
    found: dict[tuple[str, str], list[Question]] = {}
    for row in rows:
        found.setdefault((row.id, row.question), []).append(row)
    return [
        Question(
            same[0].question,
            tuple(candidate for row in same for candidate in row.candidates),
            tuple(relevant for row in same for relevant in row.relevant),
            same[0].id,
        )
        for same in found.values()
    ]
