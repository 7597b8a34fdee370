"""How right an answer from a passage is: exact match and F1, as the scripts of SQuAD and of CMRC 2018 compute them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

By = Literal["words", "characters"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = dict.fromkeys(map(ord, string.punctuation))
# CMRC 2018's own list; other marks are compared.
_NO_CHINESE_PUNCTUATION = dict.fromkeys(map(ord, "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』"))
_CHINESE = "\u4e00-\u9fa5"
_SEGMENT = re.compile(rf"[{_CHINESE}]|[^\W{_CHINESE}]+|[^\w\s]")
_LETTER = re.compile(r"[^\W\d_]")
_CHINESE_LETTER = re.compile(f"[{_CHINESE}]")


def compared_by(texts: Iterable[str]) -> By:
    """How answers from such passages are compared: by characters if more than half of the letters are Chinese."""
    letters = chinese = 0
    for text in texts:
        letters += len(_LETTER.findall(text))
        chinese += len(_CHINESE_LETTER.findall(text))
    return "characters" if 2 * chinese > letters else "words"


def exact_match(answer: str, gold: Sequence[str], by: By = "words") -> float:
    """1.0 if the answer is one of those that are right, else 0.0; see `f1`."""
    if by == "characters" and answer and gold:
        return float(_plain_chinese(answer) in map(_plain_chinese, gold))
    return float(_words(answer) in _right(gold))


def f1(answer: str, gold: Sequence[str], by: By = "words") -> float:
    """The harmonic mean of precision and recall (0..1), the highest of all answers that are right.

    By words: of the bags of words, without regard to case, punctuation and articles, as in the script of SQuAD 2.0
    (Rajpurkar et al., 2018; that of 1.1 gives the same for every right answer that has a word left). By characters: of
    the longest run of segments that both have, a segment being a Chinese character or a word of another script, as in
    the script of CMRC 2018 (Cui et al., 2019; it splits what is not Chinese with NLTK, here a word is a run of letters
    and digits, and any other mark is by itself).

    Args:
        answer: "" says that there is none. gold: the right ones; none: there is no answer.
    """
    if by == "characters" and answer and gold:
        found = _segments(answer)
        return max(_f1_of(_longest_run(found, right), found, right) for right in map(_segments, gold))
    found = _words(answer)
    return max(_f1_of_words(found, right) for right in _right(gold))


def best_threshold(margins: np.ndarray, answered: np.ndarray, unanswered: np.ndarray) -> float:
    """The threshold with which the scores are highest, if an answer is given where the margin is at most as much.

    As `find_best_thresh` of SQuAD 2.0's script, which takes the margin of an example; this one lies between those of
    two examples, or 1 beyond the first or last of all, so that rounding does not decide. Of several as good ones the
    lowest is taken.

    Args:
        margins: (n,) float64, of each example the score of "no answer" less that of its best answer.
        answered, unanswered: (n,) float64, how right the best answer is, and how right it is to give none.
    """
    # Where a passage has no tokens the margin is infinite, but a threshold is a number that JSON can write.
    finite = margins[np.isfinite(margins)]
    low, high = (finite.min() - 2.0, finite.max() + 2.0) if len(finite) else (-2.0, 2.0)
    margins = np.clip(margins, low, high)
    order = np.argsort(margins, kind="stable")
    sorted_margins = margins[order]
    totals = np.concatenate([[0.0], np.cumsum((answered - unanswered)[order])])
    cuts = np.flatnonzero(np.diff(sorted_margins)) + 1  # equal margins are answered together
    places = np.concatenate([[0], cuts, [len(margins)]])
    best = int(places[np.argmax(np.round(totals[places], 9))])
    if best == 0:
        return float(sorted_margins[0] - 1.0)
    if best == len(margins):
        return float(sorted_margins[-1] + 1.0)
    return float((sorted_margins[best - 1] + sorted_margins[best]) / 2.0)


def _words(text: str) -> list[str]:
    """SQuAD's normalize_answer: lower case, then without punctuation (of ASCII), articles and further white space."""
    return _ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()


def _right(gold: Sequence[str]) -> list[list[str]]:
    """The words of each right answer that has some; if none has, no words are right."""
    return [words for words in map(_words, gold) if words] or [[]]


def _f1_of_words(found: list[str], right: list[str]) -> float:
    if not found or not right:
        return float(found == right)
    return _f1_of((Counter(found) & Counter(right)).total(), found, right)


def _f1_of(common: int, found: list[str], right: list[str]) -> float:
    return 2.0 * common / (len(found) + len(right)) if common else 0.0


def _plain_chinese(text: str) -> str:
    return text.lower().strip().translate(_NO_CHINESE_PUNCTUATION)


def _segments(text: str) -> list[str]:
    return _SEGMENT.findall(_plain_chinese(text))


def _longest_run(one: list[str], other: list[str]) -> int:
    """The length of the longest run of equal segments."""
    longest, before = 0, [0] * (len(other) + 1)
    for segment in one:
        row = [0]
        for place, another in enumerate(other):
            row.append(before[place] + 1 if segment == another else 0)
        longest, before = max(longest, max(row)), row
    return longest
