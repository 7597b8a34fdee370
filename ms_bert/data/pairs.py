"""Training examples: two segments of text, the second the next sentences or another document's.

Google's recipe (create_pretraining_data.py), but drawn instead of enumerated: an example begins at the sentence that
holds a given token position; positions are spread evenly over the text, shifted and visited in a new order in each
epoch. So any example can be made alone, and no copy of the data lies on disk.

Where rows are packed, the examples of a row are drawn one after the other, each for the room that is left.
"""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np

from ms_bert.data.store import Split
from ms_bert.errors import UserError
from ms_bert.options import ExampleOptions
from ms_bert.randomness import HELD_OUT, ORDER, PAIRS, generator, permuted

LEAST_ROOM = 32  # tokens that a further example of a row must have: shorter ones teach little


@dataclasses.dataclass(frozen=True)
class Segments:
    """Where the tokens of B examples lie in the token column; where both lengths are 0 there is no example.

    Attributes:
        a_start, a_length, b_start, b_length: (B,) int64; without NSP, b_length is 0.
        is_random: (B,) bool, whether B is another document's.
    """

    a_start: np.ndarray
    a_length: np.ndarray
    b_start: np.ndarray
    b_length: np.ndarray
    is_random: np.ndarray


class PairSampler:
    """Draws the segments of the examples at a step.

    Args:
        split: the text. options: lengths and NSP. seed: of the run. held_out: whether this is for evaluation,
            which has its own random streams. begin: the step that comes first. epochs: how often the text was seen
            before it.

    Raises:
        UserError: there is too little text, or NSP is asked for and there are no two documents, or no document of
            two sentences, to make it from.
    """

    def __init__(
        self,
        split: Split,
        options: ExampleOptions,
        seed: int,
        held_out: bool = False,
        begin: int = 0,
        epochs: Fraction = Fraction(0),
    ):
        self.split, self.options, self.seed, self.begin = split, options, seed, begin
        self.shift = HELD_OUT if held_out else 0
        counts, name = split.counts, "held-out" if held_out else "training"
        if not counts["tokens"]:
            raise UserError(
                f"the {name} documents hold no text; use a larger corpus"
                + (", or --held-out 0 to train without evaluation." if held_out else ".")
            )
        if options.nsp and counts["documents"] < 2:
            raise UserError(
                f"the corpus leaves only {counts['documents']} {name} document, but next-sentence prediction "
                "needs two or more (a blank line ends a document); use a corpus of at least four "
                "documents, or --no-nsp."
            )
        if options.nsp and counts["sentences"] == counts["documents"]:
            raise UserError(
                f"each of the {name} documents has only one sentence, but next-sentence prediction needs "
                "documents of two or more (a blank line ends a document); use --no-nsp."
            )
        self.special = 3 if options.nsp else 2  # [CLS] A [SEP] B [SEP], or [CLS] A [SEP]
        self.longest = options.seq_length - self.special
        self.per_epoch = max(1, counts["tokens"] // self.longest)
        self.first = int(epochs * self.per_epoch)

    def epochs(self, steps: int, rows: int) -> Fraction:
        """How often so many steps go through the text; some of what is drawn for packed rows finds no room."""
        return Fraction(steps * self.options.pack * rows, self.per_epoch)

    def draw(self, step: int, rows: int, leaf: int = 0, leaves: int = 1) -> list[Segments]:
        """The examples of a leaf of a step's batch: the first of each row, the second, and so on, as many as a row may
        hold.

        Args:
            rows: of the leaf. leaf: its number, of so many leaves.
        """
        room = np.full(rows, self.options.seq_length)
        drawn = []
        for turn in range(self.options.pack):
            segments = self._draw(step, rows, turn, np.maximum(room - self.special, 2), leaf, leaves)
            if turn:
                there = room >= LEAST_ROOM
                segments = dataclasses.replace(
                    segments,
                    a_length=np.where(there, segments.a_length, 0),
                    b_length=np.where(there, segments.b_length, 0),
                    is_random=segments.is_random & there,
                )
            drawn.append(segments)
            taken = segments.a_length + segments.b_length
            room = room - np.where(taken > 0, taken + self.special, 0)
        return drawn

    def _draw(self, step: int, rows: int, turn: int, longest: np.ndarray, leaf: int, leaves: int) -> Segments:
        """An example for each row, of at most longest (B,) tokens, [CLS] and [SEP] aside."""
        split, rng = self.split, generator(self.seed, PAIRS + self.shift, step, turn, leaf)
        number = self.first + (((step - self.begin) * self.options.pack + turn) * leaves + leaf) * rows
        sentence = self._first_sentences(number + np.arange(rows))
        document = split.documents.last_not_above(sentence)
        if self.options.nsp:
            # A document of one sentence has no next one: draw another place, a few times.
            for _ in range(8):
                other = rng.integers(0, len(split.sentences) - 1, rows)
                alone = split.documents[document + 1] - split.documents[document] < 2
                sentence = np.where(alone, other, sentence)
                document = split.documents.last_not_above(sentence)
        short = rng.random(rows) < self.options.short_sequences
        target = np.where(short, rng.integers(2, longest + 1, rows), longest)
        end = split.documents[document + 1]
        if not self.options.nsp:
            start = split.sentences[sentence]
            length = np.minimum(target, split.sentences[end] - start)
            nothing = np.zeros(rows, np.int64)
            return Segments(start, length, nothing, nothing, np.zeros(rows, bool))

        first = split.documents[document]
        sentence = np.maximum(first, np.minimum(sentence, end - 2))
        stop = self._reach(sentence, target, end)  # the sentences up to the one with which the target is reached
        stop = np.minimum(np.maximum(stop, sentence + 2), end)
        a_stop = sentence + 1 + (rng.random(rows) * np.maximum(stop - sentence - 1, 1)).astype(np.int64)
        is_random = (rng.random(rows) < 0.5) | (stop - sentence < 2)
        a_start = split.sentences[sentence]
        a_length = split.sentences[a_stop] - a_start

        # Another document, each as likely; from a random sentence on, as long as the target asks for.
        elsewhere = rng.integers(0, len(split.documents) - 2, rows)
        elsewhere += elsewhere >= document
        first, end = split.documents[elsewhere], split.documents[elsewhere + 1]
        b_sentence = first + (rng.random(rows) * (end - first)).astype(np.int64)
        b_sentence = np.where(is_random, b_sentence, np.minimum(a_stop, len(split.sentences) - 2))
        b_stop = np.where(is_random, self._reach(b_sentence, np.maximum(target - a_length, 1), end), stop)
        b_start = split.sentences[b_sentence]
        b_length = split.sentences[b_stop] - b_start
        return self._truncate(rng, longest, a_start, a_length, b_start, b_length, is_random)

    def _first_sentences(self, example: np.ndarray) -> np.ndarray:
        """The sentence at which each example of the epochs begins."""
        epoch, index = np.divmod(example, self.per_epoch)
        place = permuted(index, self.per_epoch, self.seed, ORDER + self.shift, epoch)
        # The golden ratio spreads the epochs' shifts evenly, however many there are (Weyl).
        shift = (np.modf((epoch + 1) * 0.6180339887498949)[0] * self.longest).astype(np.int64)
        token = np.minimum(place * self.longest + shift, len(self.split.tokens) - 1)
        return np.minimum(self.split.sentences.last_not_above(token), len(self.split.sentences) - 2)

    def _reach(self, sentence: np.ndarray, tokens: np.ndarray, end: np.ndarray) -> np.ndarray:
        """One past the sentence with which `tokens` tokens from the start of `sentence` are reached, at most end."""
        last = self.split.sentences.last_not_above(self.split.sentences[sentence] + tokens - 1)
        return np.minimum(last + 1, end)

    def _truncate(self, rng, longest, a_start, a_length, b_start, b_length, is_random) -> Segments:
        """Shorten the longer segment until both fit; each token goes from the front or the back, at random."""
        half = longest // 2
        over = a_length + b_length > longest
        # Cutting the longer one token by token, and B when both are equal, ends here:
        a_kept = np.where(b_length <= half, longest - b_length, np.minimum(a_length, longest - half))
        a_kept = np.where(over, a_kept, a_length)
        b_kept = np.where(over, longest - a_kept, b_length)
        a_front = rng.binomial(a_length - a_kept, 0.5)
        b_front = rng.binomial(b_length - b_kept, 0.5)
        return Segments(a_start + a_front, a_kept, b_start + b_front, b_kept, is_random)
