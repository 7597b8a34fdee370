"""Scores of tagged sentences: of their spans, as the CoNLL shared tasks score them, and of their words.

A span is right if its type and both of its ends are. `spans` reads as leniently as conlleval does; `strict_spans` wants
each span written as the scheme says. Both for the tags of the data and for those of the model, as in seqeval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ms_bert.tasks.spans import Span

Tags = Sequence[Sequence[str]]  # of each sentence, a tag for each word


class Counts(NamedTuple):
    """How many spans are right, how many the model found, and how many there are: numbers, or arrays (n,) int64 of
    sentences."""

    right: Any
    found: Any
    there: Any

    @property
    def summed(self) -> Counts:
        return Counts(*(int(np.sum(part)) for part in self))

    @property
    def scores(self) -> dict[str, float]:
        """precision, recall and f1, their harmonic mean; 0 where there is nothing."""
        right, found, there = self.summed
        return {
            "precision": right / found if found else 0.0,
            "recall": right / there if there else 0.0,
            "f1": 2 * right / (found + there) if found + there else 0.0,
        }


def counts(gold: Tags, guessed: Tags, scheme: str, read: Callable[[Sequence[str], str], list[Span]]) -> Counts:
    """Of each sentence; read: `spans` or `strict_spans`."""
    rows = []
    for one, other in zip(gold, guessed):
        there, found = set(read(one, scheme)), set(read(other, scheme))
        rows.append((len(there & found), len(found), len(there)))
    return Counts(*np.array(rows, np.int64).reshape(-1, 3).T)


def by_type(
    gold: Tags, guessed: Tags, scheme: str, read: Callable[[Sequence[str], str], list[Span]]
) -> dict[str, dict[str, float]]:
    """Of each type of span: precision, recall, f1, support, the number of spans there are, and found, of the model."""
    right: Counter[str] = Counter()
    found: Counter[str] = Counter()
    there: Counter[str] = Counter()
    for one, other in zip(gold, guessed):
        labelled, predicted = read(one, scheme), read(other, scheme)
        right.update(span.type for span in set(labelled) & set(predicted))
        found.update(span.type for span in predicted)
        there.update(span.type for span in labelled)
    return {
        kind: {**Counts(right[kind], found[kind], there[kind]).scores, "support": there[kind], "found": found[kind]}
        for kind in sorted(found | there)
    }
