"""Tagging: a tag for each word of a sentence, such as those of named entities or parts of speech."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ms_bert.data.conll import Sentence
from ms_bert.data.packing import INPUTS
from ms_bert.data.sequences import Sequences
from ms_bert.data.tokenizer import Vocabulary
from ms_bert.errors import UserError, listed, shown
from ms_bert.tasks import Metrics, Sums, pictures, sentences, tag_scores, word_windows
from ms_bert.tasks.downstream import DownstreamTask, Read, lines
from ms_bert.tasks.examples import named_columns
from ms_bert.tasks.metrics import METRICS, by_class, confusion, interval, interval_of_ratio
from ms_bert.tasks.pictures import Drawing
from ms_bert.tasks.spans import (
    NONE,
    OUTSIDE,
    Span,
    is_of_span,
    misfits,
    misspelled,
    scheme_of,
    spans,
    strict_spans,
    type_of,
)
from ms_bert.tasks.word_windows import WordSequences

if TYPE_CHECKING:
    from ms_bert.finetuning_options import DataOptions
    from ms_bert.prediction_options import PredictOptions

LABEL_WEIGHTS = "label_weights"  # (B, S) float32: 1 for tokens that tag a word


@dataclasses.dataclass(frozen=True)
class Tagging(DownstreamTask):
    """See `ms_bert.tasks.downstream`. Examples are Sentences.

    Attributes:
        scheme: of the tags, one of `ms_bert.tasks.spans.SCHEMES`. blank: the tag of words that have no piece, so that
            the model cannot see them.
    """

    scheme: str = NONE
    blank: str = OUTSIDE

    name: ClassVar[str] = "tagging"
    architecture: ClassVar[str] = "BertForTokenClassification"
    per_token: ClassVar[bool] = True
    labels_tokens: ClassVar[bool] = True
    learned: ClassVar[tuple[str, ...]] = (*INPUTS, "labels", LABEL_WEIGHTS)
    weights: ClassVar[tuple[str, ...]] = (LABEL_WEIGHTS,)
    span_measures: ClassVar[tuple[str, ...]] = ("f1", "precision", "recall", "f1_strict", "accuracy")
    word_measures: ClassVar[tuple[str, ...]] = ("accuracy", "f1_macro")

    @classmethod
    def examples(cls, data: DataOptions, source: str, split: str) -> Read:
        named = named_columns(data.columns)
        found, skipped, told = sentences.read(source, named, split=split, skip_bad=data.skip_bad)
        return Read(found, skipped, f"{told}, scheme {_scheme(data, found)}")

    @classmethod
    def of(cls, data: DataOptions, examples: Sequence[Sentence]) -> Tagging:
        counted = Counter(tag for sentence in examples for tag in sentence.tags or ())
        if len(counted) < 2:
            raise UserError(
                f"the training data has the tags {listed(sorted(counted)) or 'none'}; tagging needs at least 2, so "
                "name another column or more data."
            )
        scheme = _scheme(data, examples)
        if data.scheme == "auto" and scheme == NONE and (odd := misspelled(counted)):
            raise UserError(
                f"the training data has the tags {listed(odd)}, which look like B-NAME and I-NAME in another spelling; "
                "write them so, or count them as they are with --scheme none."
            )
        if wrong := misfits(counted, scheme):
            place = next(sentence.place for sentence in examples if wrong[0] in (sentence.tags or ()))
            raise UserError(
                f"{place} and others have the tags {listed(wrong)}, which are not of the scheme {scheme}, O and such "
                "as B-NAME; correct them, or name a scheme with --scheme (none for parts of speech)."
            )
        made = cls.made(set(counted), scheme, counted.most_common(1)[0][0], data.longest or cls.usual_longest)
        return dataclasses.replace(made, columns=cls.input_columns(data))

    @classmethod
    def of_labels(cls, labels: Sequence[str], longest: int) -> Tagging:
        """That of a model from elsewhere, of which the labels alone are known."""
        # A part of speech may look like a tag of spans (I, M); beside tags of spans may stand [PAD], [CLS] or X.
        inside = [is_of_span(label) for label in labels if label not in (OUTSIDE, "X") and label[:1] != "["]
        # Types such as PER beside O are spans, as transformers reads them.
        scheme = "io" if OUTSIDE in labels and not any(inside) else NONE
        if 2 * sum(inside) > len(inside):
            scheme = scheme_of([label] for label in labels)
        task = cls.made(set(labels), scheme, labels[0], longest)
        blank = OUTSIDE if OUTSIDE in labels else labels[0]
        return dataclasses.replace(task, labels=tuple(labels), blank=blank)

    @classmethod
    def made(cls, labels: set[str], scheme: str, commonest: str, longest: int) -> Tagging:
        if scheme == NONE:
            blank = OUTSIDE if OUTSIDE in labels else commonest
            return cls(tuple(sorted(labels)), cls.word_measures, longest, "", scheme, blank)
        return cls(tuple(sorted(labels | {OUTSIDE})), cls.span_measures, longest, "", scheme)

    def metrics(self, sums: Sums) -> Metrics:
        """loss and accuracy (0..1) of words; 0 if the vocabulary leaves nothing of any."""
        return super().metrics({**sums, "count": max(sums["count"], 1.0)})

    def renamed(self, labels: Sequence[str]) -> Tagging:
        """By the names the scheme is known, and which tag stands outside of spans."""
        return dataclasses.replace(self.of_labels(labels, self.longest), columns=self.columns)

    def names_of(self, example: Sentence) -> set[str]:
        return set(example.tags or ())

    def sequences(self, examples: Sequence[Sentence], vocabulary: Vocabulary, labelled: bool = True) -> WordSequences:
        """See `word_windows`. A word's label is that of its first piece in one of the windows; other tokens have the
        weight 0."""
        words = word_windows.divided(examples, vocabulary)
        made = dataclasses.replace(word_windows.sequences(words, vocabulary, self.longest), examples=examples)
        if labelled:
            seen = made.tokens >= 0
            made.of_tokens["labels"] = np.zeros(len(made.ids), np.int32)
            made.of_tokens["labels"][made.tokens[seen]] = self._targets(examples)[seen]
            made.of_tokens[LABEL_WEIGHTS] = np.zeros(len(made.ids), np.float32)
            made.of_tokens[LABEL_WEIGHTS][made.tokens[seen]] = 1.0
        return made

    def _targets(self, examples: Sequence[Sentence]) -> np.ndarray:
        """The label of each word (W,) int32."""
        numbers = {name: number for number, name in enumerate(self.labels)}
        found = []
        for sentence in examples:
            for word, tag in zip(sentence.words, sentence.tags or ()):
                if tag not in numbers:
                    self._number(tag, f"{sentence.place}, the word {shown(word)}")
                found.append(numbers[tag])
        return np.array(found, np.int32)

    # Scores

    def scores(self, sequences: Sequences, logits: np.ndarray) -> Metrics:
        gold, guessed = self._gold_and_guessed(sequences, logits)
        labels, guesses = self._numbers(gold), self._numbers(guessed)
        accuracy = float(np.mean(labels == guesses)) if len(labels) else 0.0
        if self.scheme == NONE:
            return {"accuracy": accuracy, "f1_macro": METRICS["f1_macro"](labels, guesses)}
        strict = tag_scores.counts(gold, guessed, self.scheme, strict_spans).scores
        lenient = tag_scores.counts(gold, guessed, self.scheme, spans).scores
        return {**lenient, "f1_strict": strict["f1"], "accuracy": accuracy}

    def intervals(self, sequences: Sequences, logits: np.ndarray) -> dict[str, tuple[float, float]]:
        """Of samples of the sentences."""
        gold, guessed = self._gold_and_guessed(sequences, logits)
        right = np.array([sum(map(str.__eq__, *pair)) for pair in zip(gold, guessed)])
        accuracy = interval_of_ratio(right, np.array([len(tags) for tags in gold]), seed=0)
        if self.scheme == NONE:
            owners = np.repeat(np.arange(len(gold)), [len(tags) for tags in gold])
            macro = interval("f1_macro", self._numbers(gold), self._numbers(guessed), seed=0, groups=owners)
            return {"accuracy": accuracy, "f1_macro": macro}
        lenient, strict = (tag_scores.counts(gold, guessed, self.scheme, read) for read in (spans, strict_spans))
        return {
            "f1": interval_of_ratio(2 * lenient.right, lenient.found + lenient.there, seed=0),
            "precision": interval_of_ratio(lenient.right, lenient.found, seed=0),
            "recall": interval_of_ratio(lenient.right, lenient.there, seed=0),
            "f1_strict": interval_of_ratio(2 * strict.right, strict.found + strict.there, seed=0),
            "accuracy": accuracy,
        }

    def details(self, sequences: Sequences, logits: np.ndarray) -> dict[str, Any]:
        """The scheme, scores of each type of span or each tag, and how many words and sentences were out of the
        ordinary."""
        assert isinstance(sequences, WordSequences)
        gold, guessed = self._gold_and_guessed(sequences, logits)
        if self.scheme == NONE:
            table = {"labels": by_class(self._numbers(gold), self._numbers(guessed), self.labels)}
        else:
            table = {"types": tag_scores.by_type(gold, guessed, self.scheme, spans)}
        windows = np.bincount(sequences.owners, minlength=1)
        return {
            "scheme": self.scheme,
            "words": len(sequences.tokens),
            "words_without_tokens": int((sequences.tokens < 0).sum()),
            "sentences_in_windows": int((windows > 1).sum()),
            **table,
        }

    def drawings(self, sequences: Sequences, logits: np.ndarray) -> list[Drawing]:
        """F1 by type, and how right entities are by their length; or F1 by tag; and which are taken for which."""
        gold, guessed = self._gold_and_guessed(sequences, logits)
        told = self.details(sequences, logits)
        kind, table = ("tag", told["labels"]) if self.scheme == NONE else ("type", told["types"])
        support = {name: int(of["support"]) for name, of in table.items()}
        made = [pictures.bars(f"F1 by {kind}", "F1", {name: of["f1"] for name, of in table.items()}, support)]
        if self.scheme != NONE:
            made.append(self._by_length(gold, guessed))
        names = sorted(support, key=lambda name: -support[name]) + ([] if self.scheme == NONE else [OUTSIDE])
        if 1 < len(names) <= pictures.MOST_NAMES:
            made.append(pictures.confusion(confusion(*self._kinds(gold, guessed, names), len(names)), names))
        return made

    def _by_length(self, gold: tag_scores.Tags, guessed: tag_scores.Tags) -> Drawing:
        """The recall of the spans that there are, and the precision of those that the model finds, by their words."""
        there, found = (
            {(n, span) for n, sentence in enumerate(tags) for span in spans(sentence, self.scheme)}
            for tags in (gold, guessed)
        )

        def words(one: tuple[int, Span]) -> int:
            return one[1].end - one[1].start

        each = sorted(there | found, key=words)
        sizes = dict(zip(each, pictures.ranges(np.array([words(one) for one in each], np.int64))))
        of_gold, of_guesses, right = (Counter(sizes[one] for one in own) for own in (there, found, there & found))
        shares = {
            name: {size: right[size] / number for size, number in counts.items()}
            for name, counts in (("recall", of_gold), ("precision", of_guesses))
        }
        ordered = {size: of_gold[size] for size in dict.fromkeys(sizes.values())}
        return pictures.grouped("Entities by length", "words", shares, ordered)

    def _kinds(
        self, gold: tag_scores.Tags, guessed: tag_scores.Tags, names: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of each word the number of its type, or of its tag where they are no spans, for both: (W,) int64."""
        numbers = {name: number for number, name in enumerate(names)}
        kinds = {tag: tag if self.scheme == NONE else type_of(tag, self.scheme) for tag in self.labels}
        gold_kinds, guessed_kinds = (
            np.array([numbers[kinds[tag]] for sentence in tags for tag in sentence], np.int64)
            for tags in (gold, guessed)
        )
        return gold_kinds, guessed_kinds

    def _gold_and_guessed(self, sequences: Sequences, logits: np.ndarray) -> tuple[tag_scores.Tags, tag_scores.Tags]:
        assert isinstance(sequences, WordSequences)
        return [sentence.tags for sentence in sequences.examples], self._tags(sequences, logits)[0]

    def _tags(self, sequences: WordSequences, logits: np.ndarray) -> tuple[list[list[str]], list[list[float]]]:
        """Of each sentence the tags of its words, and their probabilities, 1 where the vocabulary leaves nothing."""
        seen = sequences.tokens >= 0
        rows = logits[sequences.tokens[seen]].astype(np.float64)
        numbers = np.full(len(seen), self.labels.index(self.blank))
        shares = np.ones(len(seen))
        if len(rows):
            numbers[seen] = rows.argmax(1)
            shares[seen] = 1 / np.exp(rows - rows.max(1, keepdims=True)).sum(1)
        tags = [self.labels[number] for number in numbers.tolist()]
        places = sequences.word_starts.tolist()
        spread = shares.tolist()
        return [tags[a:b] for a, b in zip(places, places[1:])], [spread[a:b] for a, b in zip(places, places[1:])]

    def _numbers(self, tags: tag_scores.Tags) -> np.ndarray:
        numbers = {name: number for number, name in enumerate(self.labels)}
        return np.array([numbers[tag] for sentence in tags for tag in sentence], np.int64)

    # Answers

    def answers(self, sequences: Sequences, logits: np.ndarray) -> list[dict[str, Any]]:
        """words, their tags, offsets (start, end) in characters of the text, and scores, the probabilities of the tags;
        and, if tags are of spans, `spans`: type, text, start, end, and score, the mean of those of its words."""
        assert isinstance(sequences, WordSequences)
        told = []
        for sentence, tags, shares in zip(sequences.sentences, *self._tags(sequences, logits)):
            offsets = [list(offset) for offset in sentence.offsets]
            answer: dict[str, Any] = {
                "words": list(sentence.words),
                "tags": tags,
                "offsets": offsets,
                "scores": shares,
            }
            if self.scheme != NONE:
                answer["spans"] = []
                for kind, first, last in spans(tags, self.scheme):
                    start, end = offsets[first][0], offsets[last - 1][1]
                    score = sum(shares[first:last]) / (last - first)
                    text = sentence.text[start:end]
                    answer["spans"].append({"type": kind, "text": text, "start": start, "end": end, "score": score})
            told.append(answer)
        return told

    def gold(self, example: Sentence) -> list[str]:
        return list(example.tags or ())

    def inputs(self, example: Sentence) -> dict[str, Any]:
        return {"text": _text(example)}

    def plain(self, example: Sentence, answer: dict[str, Any]) -> str:
        """The text with spans in brackets and their types behind them; or each word with its tag."""
        if self.scheme == NONE:
            return " ".join(f"{word}/{tag}" for word, tag in zip(answer["words"], answer["tags"]))
        text, made, begin = _text(example), "", 0
        for span in answer["spans"]:
            made += f"{text[begin : span['start']]}[{text[span['start'] : span['end']]}]({span['type']})"
            begin = span["end"]
        return " ".join((made + text[begin:]).split())

    def table(self, examples: Sequence[Sentence], answers: Sequence[dict[str, Any]]) -> list[list[Any]]:
        """A row for each span, or each word; `number`: of the example, from 1."""
        if self.scheme == NONE:
            rows = [
                [number, word, tag, *offset, score]
                for number, answer in enumerate(answers, 1)
                for word, tag, offset, score in zip(*(answer[n] for n in ("words", "tags", "offsets", "scores")))
            ]
            return [["number", "word", "tag", "start", "end", "score"], *rows]
        names = ("type", "text", "start", "end", "score")
        rows = [
            [number, *(span[name] for name in names)]
            for number, answer in enumerate(answers, 1)
            for span in answer["spans"]
        ]
        return [["number", *names], *rows]

    def asked(self, options: PredictOptions) -> list[Sentence]:
        """Texts; or the sentences of a file of CoNLL or of records with a list of words; --columns makes a .txt the
        former."""
        texts = None if options.columns and options.input not in (None, "-") else lines(options)
        if texts is not None:
            return [self.example(text) for text in texts]
        assert options.input is not None
        remembered = sentences.form(options.input) == self._form_of_columns()
        columns = self.by_columns(options).columns if remembered else options.columns
        return sentences.asked(options.input, named_columns(columns), options.quotes)

    def _form_of_columns(self) -> str:
        """The form of the files that the columns named in training are of: those of CoNLL have numbers."""
        numbered = all(name.isdecimal() for name in named_columns(self.columns).values())
        return sentences.CONLL if numbered else sentences.RECORDS

    def example(self, given: str | Sequence[str]) -> Sentence:
        """Of a text, or of a list of words."""
        if isinstance(given, str):
            return Sentence((), text=given)
        if isinstance(given, Sequence) and all(isinstance(word, str) for word in given):
            return Sentence(tuple(given))
        raise UserError(f"{shown(given)} is neither a text nor a list of words; give one of them.")


def _scheme(data: DataOptions, examples: Sequence[Sentence]) -> str:
    """The one that is asked for, or that of the tags."""
    return scheme_of(example.tags or () for example in examples) if data.scheme == "auto" else data.scheme


def _text(example: Sentence) -> str:
    return " ".join(example.words) if example.text is None else example.text
