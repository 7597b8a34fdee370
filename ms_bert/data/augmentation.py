"""Training texts that are a little different in each epoch: words are guessed anew, left out, or change places.

In each epoch chance leaves half of the sequences as they are and changes each of the others in one of the ways that
were chosen, as EDA changes a text in one way at a time (Wei & Zou, 2019):

- guesses: a word is replaced by what a masked language model guesses in its place, which does not know the label
  (Kobayashi, 2018; by BERT in TinyBERT's augmentation; Jiao et al., 2020);
- dropped: a word is left out (EDA's random deletion);
- swapped: two neighbouring words change places (EDA swaps any two of a text).

A word is what `ms_bert.data.words` says, so all pieces of one go together. Special tokens stay, no word leaves its
text, and no text loses its last word. A sequence never becomes longer, and its labels are those that it had.

The sequences of an epoch are a pure function of (sequences, options, seed, epoch).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ms_bert.data.batches import Batch
from ms_bert.data.packing import ROW, EvaluationBatches
from ms_bert.data.sequences import Sequences
from ms_bert.data.tokenizer import CONTINUATION, Vocabulary
from ms_bert.data.words import Words
from ms_bert.options import ExampleOptions
from ms_bert.randomness import AUGMENTATION, generator

GUESSES, DROPPED, SWAPPED = WAYS = ("guesses", "dropped", "swapped")
UNCHANGED = 0.5  # share of the sequences of an epoch
PASSES = 7  # of the model that guesses: each masks one word of seven, about the 15% of pre-training
CANDIDATES = 5  # guesses that are kept of a word
POSITIONS = "masked_positions"  # (B, P) int32 of a batch
_SLOTS = "slots"


class Layout:
    """The words of sequences, W in all. A special token is a word here, and a text of its own.

    Attributes:
        firsts: (W,) int64, the token with which each word begins. lengths: (W,) int64, its tokens.
        owners: (W,) int64, the sequence that it is of. free: (W,) bool, whether it may be changed: it is not special.
        texts: (W,) int64, the number of its text; begins: (texts,) int64, the word with which each text begins.
        guessed: (G,) int64, the words that are guessed: those that are an entry of the vocabulary, see `entries`.
    """

    def __init__(self, sequences: Sequences, vocabulary: Vocabulary):
        ids = sequences.ids
        special = np.isin(ids, [vocabulary.pad, vocabulary.cls, vocabulary.sep, vocabulary.mask])
        continues = Words(vocabulary, ExampleOptions()).continues(ids[None], ~special[None])[0]
        self.firsts = np.flatnonzero(~continues)
        self.lengths = np.diff(self.firsts, append=len(ids))
        self.owners = np.repeat(np.arange(len(sequences)), sequences.lengths)[self.firsts]
        self.free = ~special[self.firsts]
        begins = ~self.free
        begins[1:] |= ~self.free[:-1]
        self.texts = np.cumsum(begins) - 1
        self.begins = np.flatnonzero(begins)
        self.guessed = np.flatnonzero(self.free & (self.lengths == 1) & entries(vocabulary)[ids[self.firsts]])


def entries(vocabulary: Vocabulary) -> np.ndarray:
    """(V,) bool, which entries of a vocabulary are words: neither pieces that continue one, nor punctuation, nor
    anything in brackets, as special tokens and unused places are."""
    found = np.zeros(vocabulary.size, bool)
    for token, number in vocabulary.tokenizer.get_vocab(with_added_tokens=True).items():
        found[number] = any(map(str.isalnum, token)) and not token.startswith((CONTINUATION, "["))
    return found


@dataclasses.dataclass(frozen=True)
class Guesses:
    """What a masked language model guesses in the place of words, other than themselves.

    Attributes:
        ids: (G, K) int32, of each word of `Layout.guessed` the best K entries of the vocabulary, the best first.
        shares: (G, K) float32, their probabilities; 0 for what is no guess.
    """

    ids: np.ndarray
    shares: np.ndarray


class Augmentation:
    """A function from an epoch to the training sequences of it.

    Args:
        sequences: as they are, without labels of tokens. ways: of WAYS, at least one. share: of the words of a text
            that is changed, on average, but at least one word is. seed: of the run. guesses: of the sequences' words;
            None: there is no such way.
    """

    def __init__(
        self,
        sequences: Sequences,
        vocabulary: Vocabulary,
        ways: Sequence[str],
        share: float,
        seed: int,
        guesses: Guesses | None = None,
    ):
        if sequences.of_tokens:
            raise ValueError("labels of tokens would belong to other tokens")
        self.sequences, self.share, self.seed, self.guesses = sequences, share, seed, guesses
        self.ways = [way for way in WAYS if way in ways]
        self.layout = layout = Layout(sequences, vocabulary)
        self._places = np.arange(len(layout.texts)) - layout.begins[layout.texts]  # of words in their texts
        self._has_next = np.diff(layout.texts, append=-1) == 0
        self._sizes = np.bincount(layout.texts)[layout.texts]  # of their texts, in words

    def __call__(self, epoch: int) -> Sequences:
        """As many sequences, in the same order."""
        layout, count = self.layout, len(self.sequences)
        rng = generator(self.seed, AUGMENTATION, epoch)
        fate, odd = rng.random(count), rng.integers(0, 2, count)
        key, choice = rng.random(len(layout.firsts)), rng.random(len(layout.firsts))
        number = np.floor((fate - UNCHANGED) / (1 - UNCHANGED) * len(self.ways))[layout.owners]  # negative: unchanged
        ids, order = self.sequences.ids, np.arange(len(layout.firsts))
        for way, name in enumerate(self.ways):
            mine = layout.free & (number == way)
            if name == GUESSES:
                assert self.guesses is not None
                known = np.zeros(len(layout.texts), bool)
                known[layout.guessed] = (self.guesses.shares > 0).any(1)
                ids = self._guessed(ids, self._chosen(key, mine & known), choice)
            elif name == SWAPPED:
                # A text is tiled with pairs, from its first word or from its second, so that none is in two of them.
                odds = odd[layout.owners] & (self._sizes > 2)  # of two words there is one pair
                left = self._chosen(key, mine & self._has_next & ((self._places + odds) % 2 == 0))
                where = np.flatnonzero(left)
                order[where], order[where + 1] = where + 1, where
            else:
                highest = np.maximum.reduceat(key, layout.begins)[layout.texts]
                order[self._chosen(key, mine & (key < highest))] = -1  # the word with the highest key always stays
        return self._of_words(ids, order[order >= 0])

    def _chosen(self, key: np.ndarray, fit: np.ndarray) -> np.ndarray:
        """(W,) bool, of the words that are fit those with a key below the share, but of each sequence at least one."""
        owners = self.layout.owners
        least = np.full(len(self.sequences), np.inf)
        np.minimum.at(least, owners[fit], key[fit])
        return fit & ((key < self.share) | (key == least[owners]))

    def _guessed(self, ids: np.ndarray, chosen: np.ndarray, choice: np.ndarray) -> np.ndarray:
        """The ids with guesses in the place of the chosen words, each drawn by its probability among the kept ones."""
        assert self.guesses is not None
        words = self.layout.guessed
        totals = np.cumsum(self.guesses.shares, axis=1, dtype=np.float64)
        there = np.flatnonzero(chosen[words])
        drawn = (totals[there] > (choice[words[there]] * totals[there, -1])[:, None]).argmax(1)
        ids = ids.copy()
        ids[self.layout.firsts[words[there]]] = self.guesses.ids[there, drawn]
        return ids

    def _of_words(self, ids: np.ndarray, order: np.ndarray) -> Sequences:
        """The sequences of words in this order."""
        layout = self.layout
        lengths = layout.lengths[order]
        tokens = _spans(layout.firsts[order], lengths)
        sizes = np.bincount(layout.owners[order], lengths, len(self.sequences)).astype(np.int64)
        return dataclasses.replace(
            self.sequences, ids=ids[tokens], types=self.sequences.types[tokens], starts=np.cumsum([0, *sizes])
        )


def guesses(
    sequences: Sequences, vocabulary: Vocabulary, positions: int, logits: Callable[[Batch], np.ndarray]
) -> Guesses:
    """Ask a masked language model for the words of sequences.

    Each word of `Layout.guessed` is masked once, every seventh of a sequence in one pass, so that the model sees what
    stands around it. A guess is a word too, see `entries`.

    Args:
        positions: of the model. logits: the model, of a batch with POSITIONS (B, P): (B * P, V) float32.
    """
    words = Layout(sequences, vocabulary)
    tokens = words.firsts[words.guessed]
    original = sequences.ids[tokens]
    no_words = ~entries(vocabulary)
    kept = min(CANDIDATES, vocabulary.size)
    made = Guesses(np.zeros((len(tokens), kept), np.int32), np.zeros((len(tokens), kept), np.float32))
    for batch, rows, columns in _questions(sequences, words, tokens, vocabulary.mask, positions):
        slots = batch[_SLOTS][rows, columns] - 1
        count, width = batch[POSITIONS].shape
        table = logits(batch).reshape(count, width, -1)[rows, _numbered(rows), : vocabulary.size].astype(np.float64)
        shares = np.exp(table - table.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        shares[:, no_words] = 0
        shares[np.arange(len(slots)), original[slots]] = 0
        best = np.sort(np.argpartition(-shares, kept - 1)[:, :kept])
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(shares, best, 1), kind="stable"), 1)
        made.ids[slots], made.shares[slots] = best, np.take_along_axis(shares, best, 1)
    return made


def _questions(
    sequences: Sequences, words: Layout, tokens: np.ndarray, mask: int, positions: int
) -> Iterator[tuple[Batch, np.ndarray, np.ndarray]]:
    """Batches in which the tokens to guess, (G,), are masked, and the rows and columns of these in each batch.

    A batch has POSITIONS, and as _SLOTS (B, S) at each mask which of the G it is, from 1.
    """
    owners = words.owners[words.guessed]
    for number in range(PASSES):
        asked = np.flatnonzero(_numbered(owners) % PASSES == number)
        if not len(asked):
            return  # no sequence has so many words
        slots = np.zeros(len(sequences.ids), np.int32)
        slots[tokens[asked]] = asked + 1
        numbers = np.unique(owners[asked])
        spans = _spans(sequences.starts[numbers], sequences.lengths[numbers])
        masked = Sequences(
            np.where(slots > 0, np.int32(mask), sequences.ids)[spans],
            sequences.types[spans],
            np.cumsum([0, *sequences.lengths[numbers]]),
            sequences.cut[numbers],
            sequences.pad,
            of_tokens={_SLOTS: slots[spans]},
        )
        batches = EvaluationBatches(masked, positions)
        widest = max(int((batches(i)[_SLOTS] > 0).sum(1).max()) for i in range(len(batches)))
        width = -(-widest // ROW) * ROW  # so that the passes have few shapes
        for i in range(len(batches)):
            batch = batches(i)
            rows, columns = np.nonzero(batch[_SLOTS])
            batch[POSITIONS] = np.zeros((len(batch[_SLOTS]), width), np.int32)
            batch[POSITIONS][rows, _numbered(rows)] = columns
            yield batch, rows, columns


def _spans(firsts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The numbers of `lengths` from `firsts` on, one span after the other."""
    ends = np.cumsum(lengths)
    return np.repeat(firsts - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)


def _numbered(owners: np.ndarray) -> np.ndarray:
    """Which one each is of its owner's, from 0; those of an owner stand one after the other."""
    return np.arange(len(owners)) - np.searchsorted(owners, owners)
