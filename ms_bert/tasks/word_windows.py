"""Sentences as sequences of word pieces, and which piece stands for which word.

A word is tagged by its first piece (Devlin et al., 2019, 5.3). A sentence that is too long for a sequence becomes
several that overlap by half, each of whole words; a word is tagged where it has most context, once.
"""

from __future__ import annotations

import dataclasses
import math
import unicodedata
from collections.abc import Sequence

import numpy as np

from ms_bert.data.conll import Sentence
from ms_bert.data.sequences import Sequences, without_special_tokens
from ms_bert.data.tokenizer import Vocabulary


@dataclasses.dataclass(frozen=True, slots=True)
class Words:
    """A text and its words.

    Attributes:
        text: that offsets are of. words: as they are tagged. offsets: (start, end) of each, in characters of the text.
        pieces: ids of each; of some words nothing is left, such as control characters.
    """

    text: str
    words: Sequence[str]
    offsets: Sequence[tuple[int, int]]
    pieces: Sequence[Sequence[int]]


@dataclasses.dataclass(frozen=True)
class WordSequences(Sequences):
    """Sentences as sequences.

    Attributes:
        sentences: that they are of. tokens: of each word, one sentence after the other, the token that tags it (W,)
            int64; -1: none, for it has no pieces.
    """

    sentences: Sequence[Words] = ()
    tokens: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def word_starts(self) -> np.ndarray:
        """(sentences + 1,) int64: where the words of each sentence begin in `tokens`, and the last ones end."""
        return np.cumsum([0, *(len(sentence.words) for sentence in self.sentences)], dtype=np.int64)


def divided(sentences: Sequence[Sentence], vocabulary: Vocabulary) -> list[Words]:
    """The words of sentences, those that are given or those of their texts."""
    given = iter(given_words([sentence.words for sentence in sentences if sentence.text is None], vocabulary))
    found = iter(found_words([sentence.text for sentence in sentences if sentence.text is not None], vocabulary))
    return [next(given if sentence.text is None else found) for sentence in sentences]


def given_words(sentences: Sequence[Sequence[str]], vocabulary: Vocabulary) -> list[Words]:
    """Sentences that are divided into words already; their texts have a space between two words."""
    plain = without_special_tokens(vocabulary.tokenizer)
    encodings = plain.encode_batch([list(words) for words in sentences], is_pretokenized=True, add_special_tokens=False)
    made = []
    for words, encoding in zip(sentences, encodings):
        pieces: list[list[int]] = [[] for _ in words]
        for number, piece in zip(encoding.word_ids, encoding.ids):
            pieces[number].append(piece)
        offsets, begin = [], 0
        for word in words:
            offsets.append((begin, begin + len(word)))
            begin += len(word) + 1
        made.append(Words(" ".join(words), words, offsets, pieces))
    return made


def found_words(texts: Sequence[str], vocabulary: Vocabulary) -> list[Words]:
    """Texts, divided into words as BERT divides them: at white space, and around punctuation and Chinese characters."""
    plain = without_special_tokens(vocabulary.tokenizer)
    made = []
    for text, encoding in zip(texts, plain.encode_batch(list(texts), add_special_tokens=False)):
        offsets: list[tuple[int, int]] = []
        pieces: list[list[int]] = []
        last = None
        for number, piece, (start, end) in zip(encoding.word_ids, encoding.ids, encoding.offsets):
            if number != last:
                offsets.append((start, end))
                pieces.append([])
            offsets[-1] = (offsets[-1][0], end)
            pieces[-1].append(piece)
            last = number
        offsets = [(start, _with_marks(text, end)) for start, end in offsets]
        made.append(Words(text, [text[start:end] for start, end in offsets], offsets, pieces))
    return made


def _with_marks(text: str, end: int) -> int:
    """The end of a word with the accents that were taken from its last letter."""
    while end < len(text) and unicodedata.category(text[end]).startswith("M"):
        end += 1
    return end


def sequences(sentences: Sequence[Words], vocabulary: Vocabulary, longest: int) -> WordSequences:
    """The sequences of sentences, each of at most `longest` tokens. Of a word that has more, some are lost (`cut`)."""
    room = longest - 2
    ids: list[int] = []
    starts, owners, cut = [0], [], []
    tokens: list[int] = []
    for owner, sentence in enumerate(sentences):
        pieces = [word[:room] for word in sentence.pieces]
        lost = [len(word) > room for word in sentence.pieces]
        found = windows([len(word) for word in pieces], room)
        chosen = np.full(len(pieces), -1, np.int64)
        most = [-1.0] * len(pieces)
        for first, last in found:
            place = len(ids) + 1
            inside = [piece for word in pieces[first:last] for piece in word]
            for word in range(first, last):
                context = _context(place - len(ids) - 1, len(inside), first > 0, last < len(pieces))
                if pieces[word] and context > most[word]:
                    chosen[word], most[word] = place, context
                place += len(pieces[word])
            ids += [vocabulary.cls, *inside, vocabulary.sep]
            starts.append(len(ids))
            owners.append(owner)
            cut.append(any(lost[first:last]))
        tokens += chosen.tolist()
    whole = np.array(ids, np.int32)
    return WordSequences(
        whole,
        np.zeros_like(whole),
        np.array(starts, np.int64),
        np.array(cut, bool),
        vocabulary.pad,
        owners=np.array(owners, np.int64),
        sentences=sentences,
        tokens=np.array(tokens, np.int64),
    )


def _context(before: int, tokens: int, goes_on_before: bool, goes_on_after: bool) -> float:
    """The least distance from a piece to an end of its window beyond which the sentence goes on."""
    return min(before if goes_on_before else math.inf, tokens - 1 - before if goes_on_after else math.inf)


def windows(sizes: Sequence[int], room: int) -> list[tuple[int, int]]:
    """Windows over the words of a sentence, from a word to before another, each of at most `room` pieces.

    Each but the last begins at least half a room after the one before and leaves no gap; the last one begins as early
    as there is room.

    Args:
        sizes: pieces of each word, at most `room`.
    """
    ends = np.cumsum([0, *sizes])  # pieces before each word, and all
    count = len(sizes)
    found, begin = [], 0
    while ends[count] - ends[begin] > room:
        end = int(np.searchsorted(ends, ends[begin] + room, side="right")) - 1
        found.append((begin, end))
        half = int(np.searchsorted(ends, ends[begin] + room / 2))
        begin = min(max(half, begin + 1), end)
    return [*found, (int(np.searchsorted(ends, ends[count] - room)), count)]
