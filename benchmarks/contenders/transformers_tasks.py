"""The tasks of fine-tuning as transformers' example scripts (run_glue, run_ner, run_qa, run_swag) prepare them.

Examples are those that ms_bert has read, so that all contenders have the same. Scores of spans and answers are those of
ms_bert, which tests hold to the official ones; the others are those of scikit-learn.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import transformers
from sklearn import metrics

IGNORED = -100  # a label that no loss counts
BEST = 20  # starts and ends of each window that compete, as in run_qa
SCORES: dict[str, Callable] = {
    "accuracy": metrics.accuracy_score,
    "f1": metrics.f1_score,
    "f1_macro": lambda labels, guesses: metrics.f1_score(labels, guesses, average="macro"),
    "matthews_correlation": metrics.matthews_corrcoef,
}


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a Trainer takes.

    Attributes:
        score: of an EvalPrediction, by the name of the measure.
    """

    model: transformers.PreTrainedModel
    train: datasets.Dataset
    dev: datasets.Dataset
    collator: Callable
    score: Callable[[transformers.EvalPrediction], dict[str, float]]


def sentences(model: Path, task, train: Sequence[Any], dev: Sequence[Any]) -> Prepared:
    """Classification of a text or a pair, by the pooler of the checkpoint as it is there."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)

    def encoded(examples: Sequence[Any]) -> datasets.Dataset:
        columns = [list(column) for column in zip(*(example.texts for example in examples))]
        made = tokenizer(*columns, truncation="longest_first", max_length=task.longest, padding=False)
        return datasets.Dataset.from_dict({**made, "labels": [task.labels.index(e.label) for e in examples]})

    def score(found: transformers.EvalPrediction) -> dict[str, float]:
        guesses = found.predictions.argmax(-1)
        return {name: float(SCORES[name](found.label_ids, guesses)) for name in task.measures}

    made = transformers.AutoModelForSequenceClassification.from_pretrained(model, num_labels=len(task.labels))
    return Prepared(made, encoded(train), encoded(dev), transformers.DataCollatorWithPadding(tokenizer), score)


def tagging(model: Path, task, train: Sequence[Any], dev: Sequence[Any]) -> Prepared:
    """The label of a word is that of its first piece; words that are beyond the length get the tag O."""
    from ms_bert.tasks import spans, tag_scores

    tokenizer = transformers.AutoTokenizer.from_pretrained(model)

    def encoded(examples: Sequence[Any]) -> tuple[datasets.Dataset, list[list[int | None]]]:
        words = [list(example.words) for example in examples]
        made = tokenizer(words, is_split_into_words=True, truncation=True, max_length=task.longest, padding=False)
        owners = [made.word_ids(number) for number in range(len(words))]
        # The word of each token that is the first of one, else None.
        firsts = [[word if word != before else None for before, word in zip([None, *own], own)] for own in owners]
        labels = [
            [IGNORED if word is None else task.labels.index(example.tags[word]) for word in first]
            for example, first in zip(examples, firsts)
        ]
        return datasets.Dataset.from_dict({**made, "labels": labels}), firsts

    learned, (seen, firsts) = encoded(train)[0], encoded(dev)

    def score(found: transformers.EvalPrediction) -> dict[str, float]:
        guessed = []
        for example, first, row in zip(dev, firsts, found.predictions.argmax(-1)):
            tags = [spans.OUTSIDE] * len(example.words)
            for token, word in enumerate(first):
                if word is not None:
                    tags[word] = task.labels[row[token]]
            guessed.append(tags)
        return dict(tag_scores.counts([example.tags for example in dev], guessed, task.scheme, spans.spans).scores)

    made = transformers.AutoModelForTokenClassification.from_pretrained(model, num_labels=len(task.labels))
    return Prepared(made, learned, seen, transformers.DataCollatorForTokenClassification(tokenizer), score)


def answers(model: Path, task, train: Sequence[Any], dev: Sequence[Any]) -> Prepared:
    """Answers in windows on the passage, of which each learns the first gold answer; every question has one."""
    from ms_bert.tasks.answer_scores import exact_match, f1

    tokenizer = transformers.AutoTokenizer.from_pretrained(model)

    def encoded(examples: Sequence[Any]) -> tuple[datasets.Dataset, list[int], list[list[tuple[int, int] | None]]]:
        """The windows, the number of the example of each, and of each token its characters of the passage."""
        cut = tokenizer([e.question for e in examples], add_special_tokens=False, return_offsets_mapping=True)
        ends = [[0, *(end for _, end in offsets)] for offsets in cut["offset_mapping"]]
        questions = [e.question[: end[min(len(end) - 1, task.longest_question)]] for e, end in zip(examples, ends)]
        made = tokenizer(
            questions,
            [example.context for example in examples],
            truncation="only_second",
            max_length=task.longest,
            stride=task.stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            padding=False,
        )
        owners, offsets = made.pop("overflow_to_sample_mapping"), made.pop("offset_mapping")
        places, starts, stops = [], [], []
        for number, owner in enumerate(owners):
            parts = made.sequence_ids(number)
            place = [tuple(pair) if part == 1 else None for pair, part in zip(offsets[number], parts)]
            answer = examples[owner].answers[0]
            begin = [i for i, pair in enumerate(place) if pair and pair[0] <= answer.start < pair[1]]
            end = [i for i, pair in enumerate(place) if pair and pair[0] < answer.start + len(answer.text) <= pair[1]]
            whole = bool(begin and end)  # else the window is to choose [CLS], the first token
            starts.append(begin[0] if whole else 0)
            stops.append(end[0] if whole else 0)
            places.append(place)
        return datasets.Dataset.from_dict({**made, "start_positions": starts, "end_positions": stops}), owners, places

    learned, (seen, owners, places) = encoded(train)[0], encoded(dev)

    def score(found: transformers.EvalPrediction) -> dict[str, float]:
        best: dict[int, tuple[float, str]] = collections.defaultdict(lambda: (-np.inf, ""))
        for owner, place, start_scores, end_scores in zip(owners, places, *found.predictions):
            size = len(place)  # beyond it is padding
            starts, ends = (np.argsort(scores[:size])[: -BEST - 1 : -1] for scores in (start_scores, end_scores))
            for start, end in itertools.product(starts.tolist(), ends.tolist()):
                if place[start] and place[end] and 0 <= end - start < task.longest_answer:
                    text = dev[owner].context[place[start][0] : place[end][1]]
                    best[owner] = max(best[owner], (float(start_scores[start] + end_scores[end]), text))
        rows = [
            [
                judge(best[number][1], [answer.text for answer in example.answers], task.by)
                for judge in (f1, exact_match)
            ]
            for number, example in enumerate(dev)
        ]
        return dict(zip(("f1", "exact_match"), np.mean(rows, 0).tolist()))

    made = transformers.AutoModelForQuestionAnswering.from_pretrained(model)
    return Prepared(made, learned, seen, transformers.DataCollatorWithPadding(tokenizer), score)


def choices(model: Path, task, train: Sequence[Any], dev: Sequence[Any]) -> Prepared:
    """Of each question, all of which have equally many choices, the pair of the context and each choice."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)

    def encoded(examples: Sequence[Any]) -> datasets.Dataset:
        pairs = [(first, second) for example in examples for first, seconds in [example.texts] for second in seconds]
        firsts, seconds = map(list, zip(*pairs))
        made = tokenizer(firsts, seconds, truncation="longest_first", max_length=task.longest, padding=False)
        (number,) = {len(example.choices) for example in examples}
        columns = {name: [v[i : i + number] for i in range(0, len(v), number)] for name, v in made.items()}
        return datasets.Dataset.from_dict({**columns, "labels": [example.answer for example in examples]})

    def score(found: transformers.EvalPrediction) -> dict[str, float]:
        return {"accuracy": float(metrics.accuracy_score(found.label_ids, found.predictions.argmax(-1)))}

    made = transformers.AutoModelForMultipleChoice.from_pretrained(model)
    return Prepared(made, encoded(train), encoded(dev), transformers.DataCollatorForMultipleChoice(tokenizer), score)


KINDS = {
    "classification": sentences,
    "tagging": tagging,
    "question-answering": answers,
    "multiple-choice": choices,
}
