"""From the logits of a passage's windows to its most probable answers, each a span of the passage's own characters."""

from __future__ import annotations

import dataclasses
import unicodedata

import numpy as np

from ms_bert.data.windows import Windows, most_context


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """An answer of a passage: its characters from start to end, and the sum of its two logits."""

    start: int
    end: int
    score: float


@dataclasses.dataclass(frozen=True)
class Spans:
    """What a model says of one question.

    Attributes:
        best: answers, the one with the highest score first; none, if the passage has no token.
        null: the score of "no answer": the sum of the two logits of [CLS], the lowest of all windows, since a window
            that does not show the answer says only that it does not (Google's run_squad).
        total: the logarithm of the sum of e^score over all answers, also those that are not among the best; -inf, if
            there are none.
    """

    best: tuple[Span, ...]
    null: float
    total: float

    @property
    def margin(self) -> float:
        """By how much "no answer" has a higher score than the best answer."""
        return self.null - self.best[0].score if self.best else np.inf


def spans(windows: Windows, logits: np.ndarray, count: int, most: int, longest: int) -> list[Spans]:
    """Of each question its answers.

    An answer goes from a token of its passage to the same or a later one in the same window, and is at most `longest`
    tokens long. It is an answer of that window only in which its first token has most context (`most_context`), so that
    none competes with itself. Of equal scores the earlier answer is the better one. Tokens that are parts of one
    character give that character; accents that stand behind the last character belong to it.

    Args:
        logits: (T, 2) of the tokens of all windows: start, end. count: how many questions there are. most: how many
            answers are told of each, at least 1.
    """
    logits = logits.astype(np.float64)
    bounds = np.searchsorted(windows.owners, np.arange(count + 1))
    return [_spans(windows, logits, range(*bounds[i : i + 2]), most, longest) for i in range(count)]


def _spans(windows: Windows, logits: np.ndarray, numbers: range, most: int, longest: int) -> Spans:
    """Of the question whose windows these are."""
    first = windows.first[numbers.start : numbers.stop]
    nulls = logits[windows.starts[numbers.start : numbers.stop]].sum(1)
    tables = []
    for number, best in zip(numbers, most_context(first, windows.sizes[numbers.start : numbers.stop])):
        start, end = logits[windows.part(number)].T
        # ends[i, j]: the logit of an end at token i + j of the window.
        padded = np.concatenate([end, np.full(longest - 1, -np.inf)])
        ends = np.lib.stride_tricks.sliding_window_view(padded, longest) if len(end) else np.empty((0, longest))
        tables.append(np.where(best, start, -np.inf)[:, None] + ends)
    scores = np.concatenate(tables).ravel()
    rows = np.concatenate([first_ + np.arange(len(table)) for first_, table in zip(first, tables)])  # of the passage
    if not np.isfinite(scores).any():
        return Spans((), float(nulls.min()), -np.inf)
    highest = scores.max()
    total = float(highest + np.log(np.exp(scores - highest).sum()))
    passage = windows.passages[numbers.start]
    text, offsets = windows.texts[passage], windows.offsets[passage]
    found: dict[tuple[int, int], Span] = {}
    for place in _best(scores, rows, longest, most):
        row, length = divmod(int(place), longest)
        start, end = int(offsets[rows[row], 0]), int(offsets[rows[row] + length, 1])
        while end < len(text) and unicodedata.category(text[end])[0] == "M":
            end += 1
        found.setdefault((start, end), Span(start, end, float(scores[place])))
        if len(found) == most:
            break
    return Spans(tuple(found.values()), float(nulls.min()), total)


_TWICE = 4  # as many candidates as are asked for, because several may be the same characters


def _best(scores: np.ndarray, rows: np.ndarray, longest: int, most: int) -> np.ndarray:
    """The places of the highest finite scores, the highest first; of equal ones the earliest in the passage."""
    size = min(_TWICE * most, int(np.isfinite(scores).sum()))
    least = np.partition(scores, -size)[-size]
    places = np.flatnonzero(scores >= least)
    order = np.lexsort((places % longest, rows[places // longest], -scores[places]))
    return places[order]
