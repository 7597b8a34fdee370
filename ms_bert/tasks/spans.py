"""Spans of words in the tags of a sentence, such as the names of persons in B-PER I-PER O, in any of the usual schemes.

The first letter of a tag says where in a span a word stands, the rest after a hyphen which type the span has:

| scheme | a span of three words | of one | a span that follows one of its type |
|---|---|---|---|
| io | I I I | I | (one span with it) |
| iob1 (Ramshaw & Marcus, 1995) | I I I | I | B I I |
| bio, or IOB2 | B I I | B | B I I |
| bioes, or IOBES, also written BMES or BMEWO | B I E | S | B I E |
| bilou | B I L | U | B I L |

O stands outside of all spans. `none`: the tags are no spans at all, as parts of speech are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

OUTSIDE = "O"
NONE = "none"
NO_TYPE = "_"  # of a tag that is a letter alone, as seqeval calls it
SCHEMES = (NONE, "io", "iob1", "bio", "bioes", "bilou")

_MISSPELLED = re.compile(r"[BIESMLUW][-_.:/|].+", re.DOTALL | re.IGNORECASE)
_BEHIND = re.compile(r".+[-_.:/|][BIESMLUW]", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"([BIESMLUW])(?:-(.+))?", re.DOTALL)
_LETTERS = {"M": "I", "L": "E", "U": "S", "W": "S"}  # how others write those of bioes


class Span(NamedTuple):
    """Words of a sentence from `start` to before `end`, and what they are."""

    type: str
    start: int
    end: int


def spans(tags: Sequence[str], scheme: str) -> list[Span]:
    """The spans as conlleval, the script of the CoNLL shared tasks, reads them, whatever the scheme: each run of tags
    of one type, divided where a letter begins or ends a span. So I-PER begins a span where none goes on, and a span
    need not be ended.

    Args:
        scheme: with io, a tag without a letter is a type by itself (PER for I-PER).
    """
    found: list[Span] = []
    before = OUTSIDE
    for place, tag in enumerate(tags):
        letter, kind = _parts(tag, scheme)
        if letter != OUTSIDE:
            goes_on = letter in "IE" and before in ("B", "I") and found[-1].type == kind
            start = found.pop().start if goes_on else place
            found.append(Span(kind, start, place + 1))
        before = letter
    return found


def type_of(tag: str, scheme: str) -> str:
    """The type of the span that a word is in; OUTSIDE, if it is in none."""
    letter, kind = _parts(tag, scheme)
    return OUTSIDE if letter == OUTSIDE else kind


def strict_spans(tags: Sequence[str], scheme: str) -> list[Span]:
    """Those of `spans` whose tags are what the scheme prescribes for them."""
    found, before = [], Span("", -1, -1)
    for span in spans(tags, scheme):
        letters = "".join(_parts(tag, scheme)[0] for tag in tags[span.start : span.end])
        follows = (before.type, before.end) == (span.type, span.start)
        if letters == _written(len(letters), scheme, follows):
            found.append(span)
        before = span
    return found


def scheme_of(sentences: Iterable[Sequence[str]]) -> str:
    """The scheme that tags are written in, one of SCHEMES, as far as they are of spans; see `misfits`."""
    sentences = list(sentences)
    tags = {tag for sentence in sentences for tag in sentence} - {OUTSIDE}
    letters = {tag[0] for tag in tags if is_of_span(tag)}
    if not letters:
        return NONE
    if letters & {"L", "U"}:
        return "bilou"
    if letters & {"E", "S", "M", "W"}:
        return "bioes"
    if "B" not in letters:
        return "io"
    return "iob1" if _is_iob1(sentences) else "bio"


def is_of_span(tag: str) -> bool:
    """Whether a tag has the form of those of spans, a letter or a letter and a type."""
    return _TAG.fullmatch(tag) is not None


def misfits(tags: Iterable[str], scheme: str) -> list[str]:
    """Tags that cannot be of this scheme, in order."""
    if scheme in (NONE, "io"):
        return []
    return sorted(tag for tag in set(tags) if tag != OUTSIDE and not is_of_span(tag))


def misspelled(tags: Iterable[str]) -> list[str]:
    """Tags that are perhaps of spans, such as B_PER and i-loc or PER-B and PER-I, in order: some that begin a span and
    some that go on with one, beside O and nothing else."""
    others = sorted(set(tags) - {OUTSIDE})
    for spelling, place in ((_MISSPELLED, 0), (_BEHIND, -1)):
        if all(map(spelling.fullmatch, others)) and {"B", "I"} <= {tag[place].upper() for tag in others}:
            return others
    return []


def _is_iob1(sentences: Iterable[Sequence[str]]) -> bool:
    """Whether B stands only where a span follows one of its type, and I begins others."""
    begun = set()
    for tags in sentences:
        before = Span("", -1, -1)
        for span in spans(tags, "bio"):
            follows = (before.type, before.end) == (span.type, span.start)
            begun.add((tags[span.start][0], follows))
            before = span
    return ("I", False) in begun and ("B", False) not in begun


def _parts(tag: str, scheme: str) -> tuple[str, str]:
    """The letter of a tag, as bioes writes it, and its type."""
    if tag == OUTSIDE:
        return OUTSIDE, ""
    match = _TAG.fullmatch(tag)
    if match is None:
        return ("I", tag) if scheme == "io" else (OUTSIDE, "")
    return _LETTERS.get(match[1], match[1]), match[2] or NO_TYPE


def _written(length: int, scheme: str, follows: bool) -> str:
    """The letters of a span; follows: it stands behind one of its type."""
    if scheme in ("bioes", "bilou"):
        return "S" if length == 1 else f"B{'I' * (length - 2)}E"
    begins = scheme == "bio" or (scheme == "iob1" and follows)
    return ("B" if begins else "I") + "I" * (length - 1)
