"""Extractive question answering: the answer to a question is a span of a passage, or, if the data has such questions,
nowhere in it (SQuAD 1.1 and 2.0: Rajpurkar et al., 2016 and 2018; Devlin et al., 2019, 4.2 and 4.3)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ms_bert.data import labelled
from ms_bert.data.files import read_bytes
from ms_bert.data.packing import INPUTS, WEIGHTS
from ms_bert.data.sequences import Sequences
from ms_bert.data.tokenizer import Vocabulary
from ms_bert.data.windows import Windows, tokens_of, windows
from ms_bert.errors import UserError, not_utf8, one_line, shown
from ms_bert.tasks import Metrics, pictures, squad
from ms_bert.tasks.answer_scores import By, best_threshold, compared_by, exact_match, f1
from ms_bert.tasks.answer_spans import Span, Spans, spans
from ms_bert.tasks.downstream import DownstreamTask, Read, lines
from ms_bert.tasks.examples import named_columns
from ms_bert.tasks.metrics import interval_of_mean
from ms_bert.tasks.pictures import Drawing
from ms_bert.tasks.squad import Question

if TYPE_CHECKING:
    from ms_bert.finetuning_options import DataOptions
    from ms_bert.prediction_options import PredictOptions

_NOT_NAMED = "(no answer)"


@dataclasses.dataclass(frozen=True)
class QuestionAnswering(DownstreamTask):
    """See `ms_bert.tasks.downstream`; its examples are `squad.Question`s, its logits those of start and end.

    Attributes:
        no_answer: whether there are questions without an answer. threshold: then there is none where the score of "no
            answer" is more than this above that of the best answer; `tuned` chooses it. longest_question: tokens of a
            question that are kept. longest_answer: tokens of an answer. stride, shared: see `windows`. by: how answers
            are compared. top: how many answers are told.
    """

    longest: int = 384
    no_answer: bool = False
    threshold: float = 0.0
    longest_question: int = 64
    longest_answer: int = 30
    stride: int = 128
    shared: int = 0
    by: By = "words"
    top: int = 5

    name: ClassVar[str] = "question-answering"
    label_roles: ClassVar[tuple[str, ...]] = ("answers", "is_impossible", "id")
    architecture: ClassVar[str] = "BertForQuestionAnswering"
    per_token: ClassVar[bool] = True
    labels_tokens: ClassVar[bool] = True
    usual_longest: ClassVar[int] = 384
    learned: ClassVar[tuple[str, ...]] = (*INPUTS, "starts", "ends", WEIGHTS)

    # What a folder remembers

    def config(self) -> dict[str, Any]:
        """Two outputs, whatever labels the model had before."""
        return {"id2label": None, "label2id": None, "problem_type": None}

    # Training data

    @classmethod
    def examples(cls, data: DataOptions, source: str, split: str) -> Read:
        found, skipped = squad.read(
            source, named_columns(data.columns), quoted=data.quotes, split=split, skip_bad=data.skip_bad
        )
        none = sum(not question.answers for question in found)
        return Read(
            found, skipped, f"{len(found):,} questions" + (f", {none:,} of them without an answer" * (none > 0))
        )

    @classmethod
    def of(cls, data: DataOptions, examples: Sequence[Question]):
        """By the data: whether there are questions without an answer, and how answers are compared."""
        no_answer = any(not question.answers for question in examples)
        if all(not question.answers for question in examples):
            raise UserError("no question of the training data has an answer; name data with answers.")
        task = cls(
            (),
            (*(("best_f1",) if no_answer else ()), "f1", "exact_match"),
            cls.usual_longest,
            no_answer=no_answer,
            shared=cls.longest_answer,
            by=compared_by(question.context for question in examples),
            columns=cls.input_columns(data),
        )
        return task.with_options(data)

    def with_options(self, data: DataOptions) -> QuestionAnswering:
        names = ("longest_question", "longest_answer", "stride")
        given = {name: value for name in names if (value := getattr(data, name)) is not None}
        if given.get("longest_answer", self.longest_answer) != self.longest_answer:
            given["shared"] = given["longest_answer"]
        task = dataclasses.replace(super().with_options(data), **given)
        if task.longest_question + 3 >= task.longest:
            raise UserError(
                f"--longest {task.longest} leaves no room for a passage beside questions of --longest-question "
                f"{task.longest_question} tokens; choose a larger --longest or a smaller --longest-question."
            )
        return task

    @classmethod
    def of_model(cls, longest: int):
        """That of a model from elsewhere, of which nothing else is known.

        Args:
            longest: tokens that the model takes.
        """
        longest = min(longest, cls.usual_longest)
        most = min(64, max(1, longest // 3))
        return cls((), ("f1", "exact_match"), longest, longest_question=most, shared=cls.longest_answer)

    def passage(self, example: Question) -> str:
        return example.context

    def sequences(self, examples: Sequence[Question], vocabulary: Vocabulary, labelled: bool = True) -> Windows:
        """The windows on the passages; the targets are `starts` and `ends` (T,) float32, of each token the share of the
        right answers that begin or end at it.

        All right answers that lie within a window are learned from, each as often as the data has it, so that the loss
        is the mean of what it is for each; where there is one, that is the loss of BERT and transformers. A window that
        shows none of them wholly is to choose [CLS], as there.
        """
        pairs = [(example.question, example.context) for example in examples]
        made = windows(pairs, vocabulary, self.longest, self.longest_question, self.stride, self.shared)
        if labelled:
            starts, ends = (np.zeros(len(made.ids), np.float32) for _ in range(2))
            for window in range(len(made)):
                chosen = self._within(made, window, examples[made.owners[window]])
                for start, end in chosen:
                    starts[start] += 1.0 / len(chosen)
                    ends[end] += 1.0 / len(chosen)
            made.of_tokens.update(starts=starts, ends=ends)
        return dataclasses.replace(made, examples=examples)

    @staticmethod
    def _within(made: Windows, window: int, example: Question) -> list[tuple[int, int]]:
        """Where, among all tokens, the right answers begin and end that a window shows; [CLS], if it shows none."""
        part, first, offsets = made.part(window), made.first[window], made.offsets[made.passages[window]]
        found = []
        for answer in example.answers or ():
            tokens = tokens_of(offsets, answer.start, answer.end)
            if tokens is not None and first <= tokens[0] and tokens[1] < first + part.stop - part.start:
                found.append((int(part.start + tokens[0] - first), int(part.start + tokens[1] - first)))
        return found or [(int(made.starts[window]),) * 2]

    # Scores

    def scores(self, sequences: Sequences, logits: np.ndarray) -> Metrics:
        """f1 and exact_match (0..1) at the task's threshold, best_f1 at the one that is best for these examples."""
        found = self._judged(sequences, logits)
        return {name: float(found[name].mean()) for name in self.measures}

    def intervals(self, sequences: Sequences, logits: np.ndarray) -> dict[str, tuple[float, float]]:
        found = self._judged(sequences, logits)
        return {name: interval_of_mean(found[name], seed=0) for name in self.measures}

    def details(self, sequences: Sequences, logits: np.ndarray) -> dict[str, Any]:
        """How answers were compared; the scores of questions with and without an answer."""
        found = self._judged(sequences, logits)
        told: dict[str, Any] = {"compared_by": self.by}
        answerable = np.array([bool(example.answers) for example in sequences.examples])
        if self.no_answer:
            told["threshold"] = self.threshold
        if not answerable.all():
            for name, chosen in (("with_answer", answerable), ("without_answer", ~answerable)):
                scores = {key: float(found[key][chosen].mean()) for key in ("f1", "exact_match") if chosen.any()}
                told[name] = {"examples": int(chosen.sum()), **scores}
        return told

    def drawings(self, sequences: Sequences, logits: np.ndarray) -> list[Drawing]:
        """How right answers are by their length, and by the length of the passage."""
        assert isinstance(sequences, Windows)
        found = self._judged(sequences, logits)
        sizes = np.array([self._length(example) for example in sequences.examples])
        groups = np.array(pictures.ranges(sizes), dtype=object)
        groups[sizes == 0] = _NOT_NAMED
        # By length, those without an answer last.
        names = [groups[number] for number in np.argsort(np.where(sizes == 0, sizes.max() + 1, sizes), kind="stable")]
        counts = {name: int((groups == name).sum()) for name in dict.fromkeys(names)}
        scores = {
            told: {name: float(found[key][groups == name].mean()) for name in counts}
            for told, key in (("exact match", "exact_match"), ("F1", "f1"))
        }
        tokens = np.zeros(len(sequences.examples))
        tokens[sequences.owners] = [len(sequences.offsets[passage]) for passage in sequences.passages]
        return [
            pictures.grouped("Questions by length of the answer", self.by, scores, counts),
            pictures.by_length(tokens, found["f1"], "F1", "tokens of the passage"),
        ]

    def _length(self, example: Question) -> int:
        """Words or characters of the first right answer, at least 1; 0: there is none."""
        if not example.answers:
            return 0
        text = example.answers[0].text
        return max(1, len(text.split()) if self.by == "words" else len(text))

    def tuned(self, sequences: Sequences, logits: np.ndarray):
        """With the threshold that is best for F1, if the examples are of both kinds: else nothing can be learned."""
        answered, unanswered, margins = self._chances(sequences, logits)
        kinds = {bool(example.answers) for example in sequences.examples}
        if not self.no_answer or len(kinds) < 2:
            return self
        return dataclasses.replace(self, threshold=best_threshold(margins, answered["f1"], unanswered))

    def _judged(self, sequences: Sequences, logits: np.ndarray) -> dict[str, np.ndarray]:
        """Of each example its f1 and exact_match at the task's threshold, and its f1 at the best one: (n,) float64."""
        answered, unanswered, margins = self._chances(sequences, logits)
        best = best_threshold(margins, answered["f1"], unanswered) if self.no_answer else math.inf
        threshold = self.threshold if self.no_answer else math.inf
        judged = {name: np.where(margins > threshold, unanswered, values) for name, values in answered.items()}
        return {**judged, "best_f1": np.where(margins > best, unanswered, answered["f1"])}

    def _chances(
        self, sequences: Sequences, logits: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """Of each example: how right its best answer is, by measure; how right it is to give none; its margin."""
        found = self._spans(sequences, logits, 1)
        rows = []
        for example, of in zip(sequences.examples, found):
            text = example.context[of.best[0].start : of.best[0].end] if of.best else ""
            gold = [answer.text for answer in example.answers]
            rows.append((f1(text, gold, self.by), exact_match(text, gold, self.by), f1("", gold), of.margin))
        f1s, exact, unanswered, margins = np.array(rows, np.float64).T
        return {"f1": f1s, "exact_match": exact}, unanswered, margins

    def _spans(self, sequences: Sequences, logits: np.ndarray, most: int) -> list[Spans]:
        assert isinstance(sequences, Windows)
        return spans(sequences, logits, len(sequences.examples), most, self.longest_answer)

    # Answers

    def answers(self, sequences: Sequences, logits: np.ndarray) -> list[dict[str, Any]]:
        """answer, score, start and end (characters of the passage), and the n_best, each with the same.

        The score is the probability of the answer among all answers of the passage, e^score / sum of e^score; if there
        may be none, "no answer" is one of them, whose score is its own less the threshold, so that the most probable
        one is told. No answer is "", from null to null.
        """
        return [
            self._told(example, found)
            for example, found in zip(sequences.examples, self._spans(sequences, logits, self.top))
        ]

    def _told(self, example: Question, found: Spans) -> dict[str, Any]:
        null = found.null - self.threshold
        total = np.logaddexp(found.total, null) if self.no_answer else found.total
        best: list[Span | None] = [*found.best]
        if self.no_answer or not best:
            place = next((i for i, span in enumerate(found.best) if span.score < null), len(best))
            best.insert(place, None)
        told = []
        for span in best[: self.top]:
            score = null if span is None else span.score
            told.append(
                {
                    "answer": "" if span is None else example.context[span.start : span.end],
                    "score": float(np.exp(score - total)) if np.isfinite(total) else 0.0,
                    "start": None if span is None else span.start,
                    "end": None if span is None else span.end,
                }
            )
        return {**told[0], "n_best": told}

    def gold(self, example: Question) -> list[dict[str, Any]]:
        return [{"answer": answer.text, "start": answer.start, "end": answer.end} for answer in example.answers or ()]

    def inputs(self, example: Question) -> dict[str, Any]:
        """The question, and its id in the data if it has one; passages are long, and one has many questions."""
        return {**({"id": example.id} if example.id else {}), "question": example.question}

    def plain(self, example: Question, answer: dict[str, Any]) -> str:
        return f"{' '.join(answer['answer'].split()) or _NOT_NAMED} {answer['score']:.1%}\t{one_line(example.question)}"

    def table(self, examples: Sequence[Question], answers: Sequence[dict[str, Any]]) -> list[list[Any]]:
        names = ("answer", "score", "start", "end")
        rows = [[e.id, e.question, *(answer[name] for name in names)] for e, answer in zip(examples, answers)]
        return [["id", "question", *names], *rows]

    def showing(self, top: int):
        return dataclasses.replace(self, top=top)

    def asked(self, options: PredictOptions) -> list[Question]:
        """Questions about the passage of --context or --context-file; or those of a file with their own passages, or
        of a pipe that gives an object of JSON a line."""
        context = _context(options)
        if context is not None:
            questions = lines(options)
            if questions is None:
                raise UserError(
                    "--input has passages of its own; leave --context out, or give questions as lines of text."
                )
            return [self.example((question, context)) for question in questions]
        if options.input is None or options.input.endswith(".txt"):
            raise UserError(
                "a question needs a passage; give it with --context or --context-file, or name with --input a file "
                "that has both."
            )
        columns = named_columns(self.by_columns(options).columns)
        rows = labelled.of_file_or_pipe(options.input, options.quotes)
        return squad.questions(options.input, rows, columns, labels=False)

    def example(self, given: Sequence[str] | Mapping[str, str]) -> Question:
        """Of (question, context), or of an object with both."""
        pair = [given.get("question"), given.get("context")] if isinstance(given, Mapping) else given
        texts = [text for text in pair if isinstance(text, str)] if isinstance(pair, list | tuple) else []
        if len(texts) != 2 or len(pair) != 2:
            raise UserError(f"{shown(given)} is no question about a passage; give (question, context).")
        return Question(texts[0], texts[1], None, "", "")


def _context(options: PredictOptions) -> str | None:
    if options.context_file is None:
        return options.context
    try:
        return read_bytes(options.context_file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_utf8(f"--context-file {options.context_file}", error) from None
    except OSError as error:
        raise UserError(
            f"--context-file {options.context_file} cannot be read ({error.strerror}); check the path."
        ) from None
