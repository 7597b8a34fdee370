"""Texts and pairs of texts as token ids, many one after the other in flat arrays."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from ms_bert.data.tokenizer import Vocabulary

_CHUNK = 4096  # texts that are tokenized at a time, so that no more encodings are held than these


@dataclasses.dataclass(frozen=True)
class Sequences:
    """n sequences of T tokens in all, each `[CLS] A [SEP]` or `[CLS] A [SEP] B [SEP]`.

    Attributes:
        ids: (T,) int32. types: (T,) int32, of B and its [SEP] the vocabulary's `second_type`, usually 1, else 0.
        starts: (n + 1,) int64, where each begins and the last one ends. pad: the id of [PAD].
        of_sequences, of_tokens: what is to be learned of each sequence (n, ...) or token (T, ...), by field of a batch.
        cut: (n,) bool, which of them lost tokens because they were too long.
        examples: what they were made of. owners: (n,) int64, the number of each one's example, which may have several.
    """

    ids: np.ndarray
    types: np.ndarray
    starts: np.ndarray
    cut: np.ndarray
    pad: int = 0
    of_sequences: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    of_tokens: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    examples: Sequence[Any] = ()
    owners: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def truncated(self) -> int:
        """How many examples lost tokens."""
        return len(np.unique(self.owners[self.cut]))

    def between(self, first: int, last: int) -> Sequences:
        """Those from `first` to before `last`, or to the end, without what is to be learned of them."""
        starts = self.starts[first : last + 1]
        span = slice(starts[0], starts[-1])
        of = slice(first, last)
        return Sequences(
            self.ids[span], self.types[span], starts - starts[0], self.cut[of], self.pad, owners=self.owners[of]
        )

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """(n,) int64."""
        return np.diff(self.starts)


def encoded(texts: Sequence[tuple[str, ...]], vocabulary: Vocabulary, longest: int) -> Sequences:
    """Texts, each one or a pair, as sequences of at most `longest` tokens.

    Of what is too long, tokens are taken away from the end of the longer text (from its beginning if the vocabulary
    `cuts_left`) until both are equally long, then from both ("longest first"; of an odd number the longer text keeps
    one more, or B, as in Hugging Face's tokenizers). A pair whose second text is empty is a text alone, as in Google's
    code and Hugging Face's.

    Args:
        longest: at least 3, the special tokens of a pair and nothing else.
    """
    plain = without_special_tokens(vocabulary.tokenizer)

    def kept() -> Iterator[tuple[list[list[int]], bool]]:
        for begin in range(0, len(texts), _CHUNK):
            chunk = [pair if pair[-1] else pair[:1] for pair in texts[begin : begin + _CHUNK]]
            encodings = iter(plain.encode_batch([text for pair in chunk for text in pair], add_special_tokens=False))
            for pair in chunk:
                parts = [next(encodings).ids for _ in pair]
                sizes = _longest_first([len(part) for part in parts], longest - 1 - len(parts))
                begins = [len(part) - size if vocabulary.cuts_left else 0 for part, size in zip(parts, sizes)]
                left = [part[begin : begin + size] for part, begin, size in zip(parts, begins, sizes)]
                yield left, sum(map(len, parts)) > sum(sizes)

    return _joined(kept(), vocabulary)


def encoded_choices(texts: Sequence[tuple[str, Sequence[str]]], vocabulary: Vocabulary, longest: int) -> Sequences:
    """Texts A, each with several texts B, as sequences `[CLS] A [SEP] B [SEP]` of at most `longest` tokens, in their
    order; those of one A have one owner.

    Of what is too long, tokens are taken away from the end of A, equally many for all of its B, so that nothing but B
    tells its sequences apart; where that is not enough, from the beginning of B.

    Args:
        longest: at least 4.
    """
    plain = without_special_tokens(vocabulary.tokenizer)

    def kept() -> Iterator[tuple[list[list[int]], bool]]:
        for first, seconds in texts:
            a, *several = (found.ids for found in plain.encode_batch([first, *seconds], add_special_tokens=False))
            most = longest - 3
            room = max(0, most - max(map(len, several)))
            for b in several:
                yield [a[:room], b[-most:]], len(a) > room or len(b) > most

    owners = np.repeat(np.arange(len(texts)), [len(seconds) for _, seconds in texts])
    return dataclasses.replace(_joined(kept(), vocabulary), owners=owners)


def _joined(kept: Iterable[tuple[list[list[int]], bool]], vocabulary: Vocabulary) -> Sequences:
    """Sequences of the ids of their texts and whether they lost some; each has an owner of its own."""
    ids: list[int] = []
    second: list[tuple[int, int]] = []  # where B and its [SEP] stand
    starts, cut = [0], []
    for parts, lost in kept:
        cut.append(lost)
        ids.append(vocabulary.cls)
        for number, part in enumerate(parts):
            if number:
                second.append((len(ids), len(ids) + len(part) + 1))
            ids += part
            ids.append(vocabulary.sep)
        starts.append(len(ids))
    types = np.zeros(len(ids), np.int32)
    for first, last in second:
        types[first:last] = vocabulary.second_type
    ends = np.array(starts, np.int64)
    owners = np.arange(len(cut))
    return Sequences(np.array(ids, np.int32), types, ends, np.array(cut, bool), vocabulary.pad, owners=owners)


def without_special_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that neither truncates nor pads, whatever its file says."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def _longest_first(sizes: list[int], room: int) -> list[int]:
    """How many tokens of each of one or two texts are kept."""
    if sum(sizes) <= room:
        return sizes
    if len(sizes) == 1:
        return [room]
    short, long = sorted(sizes)
    if 2 * short <= room:
        long = room - short
    else:
        short, long = room // 2, room - room // 2
    return [short, long] if sizes[0] <= sizes[1] else [long, short]
