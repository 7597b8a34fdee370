"""Questions about passages as sequences: a passage that is too long is seen through windows that overlap."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from tokenizers import Tokenizer

from ms_bert.data.sequences import Sequences, without_special_tokens
from ms_bert.data.tokenizer import Vocabulary

_CHUNK = 1024  # texts that are tokenized at a time, so that no more encodings are held than these


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows(Sequences):
    """n sequences `[CLS] question [SEP] part of a passage [SEP]`, those of a question one after the other.

    Attributes:
        cut: (n,) bool, whether the question of a window lost tokens. texts: the passages, each once.
        offsets: of each passage, (tokens, 2) int64: the characters of it from which to which a token goes.
        passages: (n,) int64, whose part a window shows. first: (n,) int64, the first token of the passage that it has.
        before: (n,) int64, how many tokens of the sequence stand before it. Others: see Sequences.
    """

    texts: list[str]
    offsets: list[np.ndarray]
    passages: np.ndarray
    first: np.ndarray
    before: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """(n,) int64, how many tokens of its passage a window shows."""
        return self.lengths - self.before - 1

    def part(self, window: int) -> slice:
        """Where the tokens of its passage that a window shows lie among all tokens."""
        begin = int(self.starts[window] + self.before[window])
        return slice(begin, int(self.starts[window + 1]) - 1)


def windows(
    pairs: Sequence[tuple[str, str]],
    vocabulary: Vocabulary,
    longest: int,
    longest_question: int,
    stride: int,
    shared: int = 0,
) -> Windows:
    """Questions with their passages as sequences of at most `longest` tokens.

    A question keeps its first tokens ("only second" truncation, as BERT's for SQuAD); a passage loses none, for windows
    on it go on until its end is seen.

    Args:
        pairs: (question, passage), each of any length, also empty. longest: more than longest_question + 3.
        longest_question: tokens of a question that are kept. stride: tokens from the beginning of a window to that of
            the next one, if windows share as many tokens as `shared` then, or half of what they show if that is less;
            fewer otherwise. So what is no longer than that lies whole in some window.
    """
    plain = without_special_tokens(vocabulary.tokenizer)
    questions, numbers = _distinct(question for question, _ in pairs)
    texts, passages = _distinct(passage for _, passage in pairs)
    question_ids = [ids for ids, _ in _tokenized(questions, plain)]
    tokenized = list(_tokenized(texts, plain))
    cls, sep = (np.array([token], np.int32) for token in (vocabulary.cls, vocabulary.sep))
    ids: list[np.ndarray] = []
    made: list[tuple[int, int, int, int, int, bool]] = []  # owner, passage, first, before, size, cut
    for owner, (number, passage) in enumerate(zip(numbers, passages)):
        question, tokens = question_ids[number], tokenized[passage][0]
        kept = question[:longest_question]
        room = longest - 3 - len(kept)
        for first in _beginnings(len(tokens), room, min(stride, room - min(shared, room // 2))):
            part = tokens[first : first + room]
            ids += [cls, kept, sep, part, sep]
            made.append((owner, passage, first, len(kept) + 2, len(part), len(kept) < len(question)))
    owners, of, begins, before, sizes, cut = np.array(made, np.int64).reshape(-1, 6).T
    starts = np.concatenate([[0], np.cumsum(before + sizes + 1)])
    of_parts = np.array([0, vocabulary.second_type], np.int32)
    types = np.concatenate([np.zeros(0, np.int32), *(np.repeat(of_parts, (b, s + 1)) for b, s in zip(before, sizes))])
    return Windows(
        np.concatenate(ids) if ids else np.zeros(0, np.int32),
        types,
        starts,
        cut.astype(bool),
        vocabulary.pad,
        owners=owners,
        texts=texts,
        offsets=[offsets for _, offsets in tokenized],
        passages=of,
        first=begins,
        before=before,
    )


def most_context(first: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    """Of the windows of one passage, (k,) each: which of its tokens (size,) a window shows with most text around them.

    The measure is that of BERT's run_squad: the smaller of the numbers of tokens to the left and to the right, and a
    hundredth of the window's size; of equal ones the first window.
    """
    if len(first) == 1:
        return [np.ones(int(sizes[0]), bool)]
    ends = first + sizes
    token = np.arange(int(ends.max()))
    # Of each token only the windows that show it, so that a book costs no more than its length: they stand one after
    # the other, from the first that ends behind it to the last that begins before.
    lowest, highest = np.searchsorted(ends, token, side="right"), np.searchsorted(first, token, side="right") - 1
    windows = np.minimum(lowest + np.arange(int((highest - lowest).max()) + 1)[:, None], len(first) - 1)
    left, right = token - first[windows], ends[windows] - 1 - token
    scores = np.where((left >= 0) & (right >= 0), np.minimum(left, right) + 0.01 * sizes[windows], -1.0)
    best = windows[scores.argmax(0), token]
    return [best[f : f + s] == number for number, (f, s) in enumerate(zip(first, sizes))]


def tokens_of(offsets: np.ndarray, begin: int, end: int) -> tuple[int, int] | None:
    """The first and the last token that has a character of these; None: no token has.

    Args:
        offsets: (tokens, 2). begin, end: characters.
    """
    # A token without characters (begin = end) can be the first of none.
    touched = np.flatnonzero((offsets[:, 0] < end) & (offsets[:, 1] > begin))
    return (int(touched[0]), int(touched[-1])) if len(touched) else None


def _beginnings(tokens: int, room: int, step: int) -> range:
    """The first tokens of the windows on a passage, each of which shows `room` tokens."""
    return range(0, max(tokens - room, 0) + step, step)


def _distinct(texts: Iterable[str]) -> tuple[list[str], list[int]]:
    """The texts, each once, and the number of each among them."""
    numbers: dict[str, int] = {}
    of = [numbers.setdefault(text, len(numbers)) for text in texts]
    return list(numbers), of


def _tokenized(texts: Sequence[str], tokenizer: Tokenizer) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each text its ids (tokens,) int32 and offsets (tokens, 2) int64."""
    for begin in range(0, len(texts), _CHUNK):
        for encoding in tokenizer.encode_batch(list(texts[begin : begin + _CHUNK]), add_special_tokens=False):
            yield np.array(encoding.ids, np.int32), np.array(encoding.offsets, np.int64).reshape(-1, 2)
