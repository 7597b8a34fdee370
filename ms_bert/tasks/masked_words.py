"""The words behind [MASK], as a pre-trained model guesses them: single tokens, or words of several pieces.

A word of k pieces is looked for with k masks in the place of the one, and its pieces are filled in from left to right,
each with the ones before it in place. Its score is the mean log-probability of its pieces, so that longer words are
comparable with shorter ones; the probability that is told is its exponential, the geometric mean.
"""

from __future__ import annotations

import dataclasses
import itertools
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import log_softmax

from ms_bert.data.sequences import Sequences, without_special_tokens
from ms_bert.data.tokenizer import CONTINUATION, MASK, SPECIAL_TOKENS, Vocabulary
from ms_bert.errors import UserError, one_line, shown
from ms_bert.tasks import asked as user

if TYPE_CHECKING:
    from ms_bert.prediction_options import AskOptions

ARCHITECTURE = "BertForMaskedLM"
POSITIONS = "masked_positions"
BEAM = 8  # beginnings of a word that are kept while its next piece is looked for

Row = tuple[list[int], int]
"""The ids of a sequence, and the position of the mask that is asked about."""
Logits = Callable[[list[Row]], np.ndarray]
"""A model: rows -> (n, V) float32."""


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """A [MASK] of a text.

    Attributes:
        text: the number of its text. before, after: the ids on either side, [CLS] and [SEP] included.
    """

    text: int
    before: list[int]
    after: list[int]

    def row(self, pieces: tuple[int, ...], count: int, mask: int) -> Row:
        """The sequence with `count` masks in this place, the first ones filled with pieces; the next is asked about."""
        masks = [mask] * (count - len(pieces))
        return [*self.before, *pieces, *masks, *self.after], len(self.before) + len(pieces)


@dataclasses.dataclass(frozen=True, slots=True)
class Guess:
    """Attributes:
    pieces: ids. score: the sum of their log-probabilities.
    """

    pieces: tuple[int, ...]
    score: float

    @property
    def mean(self) -> float:
        """Per piece."""
        return self.score / len(self.pieces)


def places(texts: Sequence[str], vocabulary: Vocabulary, longest: int, pieces: int = 1) -> list[Place]:
    """Each [MASK] of each text.

    Args:
        longest: the most tokens of a sequence. pieces: the most masks in one place.

    Raises:
        UserError: a text has no [MASK], or more than `longest` tokens.
    """
    plain = without_special_tokens(vocabulary.tokenizer)
    plain.add_special_tokens([MASK])
    found = []
    for number, (text, encoding) in enumerate(zip(texts, plain.encode_batch(list(texts), add_special_tokens=False))):
        ids = [vocabulary.cls, *encoding.ids, vocabulary.sep]
        masks = [position for position, token in enumerate(ids) if token == vocabulary.mask]
        which = f"text {number + 1}, {shown(text)}," if len(texts) > 1 else f"the text {shown(text)}"
        if not masks:
            raise UserError(f"{which} has no {MASK}; put it where a word is to be guessed.")
        tokens = len(ids) + pieces - 1
        if tokens > longest:
            more = f", {pieces} in the place of {MASK}" if pieces > 1 else ""
            raise UserError(f"{which} has {tokens} tokens{more}, but the model takes at most {longest}; shorten it.")
        found += [Place(number, ids[:position], ids[position + 1 :]) for position in masks]
    return found


def sequences(rows: Sequence[Row], vocabulary: Vocabulary) -> Sequences:
    """A sequence of each row, with the position that is asked about in `masked_positions` (n,) int32."""
    starts = np.cumsum([0, *(len(ids) for ids, _ in rows)]).astype(np.int64)
    tokens = np.array([token for ids, _ in rows for token in ids], np.int32)
    made = Sequences(tokens, np.zeros_like(tokens), starts, np.zeros(len(rows), bool), vocabulary.pad)
    made.of_sequences[POSITIONS] = np.array([position for _, position in rows], np.int32)
    return made


def guesses(
    places: Sequence[Place], logits: Logits, vocabulary: Vocabulary, top: int, pieces: int = 1
) -> list[list[Guess]]:
    """For each place the best words of 1 to `pieces` pieces, at most `top`, the best first.

    A single piece may be any token. Of several, the first begins a word and the others continue it; Chinese characters,
    each a token, make words of each other. They are found by a beam search.
    """
    words = _Words(vocabulary) if pieces > 1 else None
    found: list[list[Guess]] = [[] for _ in places]
    for count in range(1, pieces + 1):
        beams = [[Guess((), 0.0)] for _ in places]
        for _ in range(count):
            extended = []
            for begun, table in zip(beams, _told(places, beams, count, logits, vocabulary)):
                totals = table + np.array([guess.score for guess in begun])[:, None]
                if words is not None and count > 1 and begun:
                    totals[~np.stack([words.continuing(guess.pieces) for guess in begun])] = -np.inf
                best = np.argsort(-totals, axis=None, kind="stable")[: top if count == 1 else BEAM]
                numbers, ids = np.unravel_index(best, totals.shape)
                extended.append(
                    [
                        Guess((*begun[number].pieces, token), float(totals[number, token]))
                        for number, token in zip(numbers.tolist(), ids.tolist())
                        if totals[number, token] > -np.inf
                    ]
                )
            beams = extended
        found = [[*one, *more] for one, more in zip(found, beams)]
    return [sorted(each, key=lambda guess: -guess.mean)[:top] for each in found]


def among(
    places: Sequence[Place], logits: Logits, vocabulary: Vocabulary, words: Sequence[tuple[int, ...]], top: int
) -> list[list[Guess]]:
    """For each place the best of these words, at most `top`, the best first.

    Args:
        words: of each the ids of its pieces; see `pieces_of`.
    """
    found: list[list[Guess]] = [[] for _ in places]
    for count, group in itertools.groupby(sorted(set(words), key=len), key=len):
        same = list(group)
        totals = np.zeros((len(places), len(same)))
        for done in range(count):
            begun = [[Guess(word[:done], 0.0) for word in same] for _ in places]
            asked = [word[done] for word in same]
            for total, table in zip(totals, _told(places, begun, count, logits, vocabulary)):
                total += table[np.arange(len(same)), asked]
        for one, total in zip(found, totals.tolist()):
            one += [Guess(word, score) for word, score in zip(same, total)]
    return [sorted(each, key=lambda guess: -guess.mean)[:top] for each in found]


def pieces_of(words: Sequence[str], vocabulary: Vocabulary) -> list[tuple[int, ...]]:
    """The ids of the pieces of each word.

    Raises:
        UserError: the vocabulary has no pieces for it.
    """
    plain = without_special_tokens(vocabulary.tokenizer)
    found = [tuple(plain.encode(word, add_special_tokens=False).ids) for word in words]
    for word, ids in zip(words, found):
        if not ids or vocabulary.unk in ids:
            raise UserError(f"the vocabulary cannot spell the candidate {shown(word)}; choose another word.")
    return found


def answers(
    texts: Sequence[str],
    places: Sequence[Place],
    found: Sequence[Sequence[Guess]],
    vocabulary: Vocabulary,
    told: bool = False,
) -> list[dict[str, Any]]:
    """For each text `masks`, for each [MASK] of it the guesses with their probabilities, and `text`, with the best ones
    in place.

    Args:
        told: whether the pieces of each guess are told.
    """
    made: list[dict[str, Any]] = [{"text": text, "masks": []} for text in texts]
    for place, guessed in zip(places, found):
        mask: list[dict[str, Any]] = []
        for guess in guessed:
            tokens = [vocabulary.tokenizer.id_to_token(i) or f"[id {i}]" for i in guess.pieces]
            word = tokens[0] + "".join(token.removeprefix(CONTINUATION) for token in tokens[1:])
            more = {"pieces": tokens} if told else {}
            mask.append({"token": word, "probability": float(np.exp(guess.mean)), **more})
        made[place.text]["masks"].append(mask)
    for one in made:
        one["text"] = _filled(one["text"], [mask[0]["token"] for mask in one["masks"]])
    return made


def asked(options: AskOptions) -> list[str]:
    """See `ms_bert.tasks.downstream.DownstreamTask`."""
    return user.texts(options)


def inputs(text: str) -> dict[str, Any]:
    """See `ms_bert.tasks.downstream.DownstreamTask`."""
    return {"texts": [text]}


def plain(text: str, answer: dict[str, Any]) -> str:
    """The text with the best guesses, then all guesses, in a line."""
    guesses = [", ".join(f"{g['token']} {g['probability']:.1%}" for g in mask) for mask in answer["masks"]]
    return f"{one_line(answer['text'])}\t{'; '.join(guesses)}"


def table(texts: Sequence[str], answers: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """A row for each guess, after the header."""
    rows = [
        [text, number, guess["token"], guess["probability"]]
        for text, answer in zip(texts, answers)
        for number, mask in enumerate(answer["masks"], 1)
        for guess in mask
    ]
    return [["text", "mask", "token", "probability"], *rows]


def _told(
    places: Sequence[Place], begun: Sequence[Sequence[Guess]], count: int, logits: Logits, vocabulary: Vocabulary
) -> Iterator[np.ndarray]:
    """For each place the log-probabilities (guesses, V) float64 of the next piece of each guess, of `count` pieces."""
    rows = [
        place.row(guess.pieces, count, vocabulary.mask) for place, guesses in zip(places, begun) for guess in guesses
    ]
    table = logits(rows) if rows else np.zeros((0, vocabulary.size), np.float32)
    first = 0
    for guesses in begun:
        shares = log_softmax(table[first : first + len(guesses)].astype(np.float64), axis=-1)
        yield shares[:, : vocabulary.size]  # a model may have more rows than there are entries
        first += len(guesses)


class _Words:
    """Which tokens begin a word, and which continue one."""

    def __init__(self, vocabulary: Vocabulary):
        self._continues = vocabulary.continues_word
        self._chinese, self._begins = np.zeros(vocabulary.size, bool), np.zeros(vocabulary.size, bool)
        for token, i in vocabulary.tokenizer.get_vocab(with_added_tokens=True).items():
            self._chinese[i] = len(token) == 1 and unicodedata.name(token, "").startswith("CJK ")
            self._begins[i] = not token.startswith(CONTINUATION) and token not in SPECIAL_TOKENS

    def continuing(self, pieces: tuple[int, ...]) -> np.ndarray:
        """(V,) bool."""
        if not pieces:
            return self._begins
        return self._chinese if self._chinese[pieces[-1]] else self._continues


def _filled(text: str, tokens: Sequence[str]) -> str:
    """The text with tokens in the places of its [MASK]s; a continuation is joined to the word before."""
    filled, rest = "", text
    for token in tokens:  # which may be [MASK] itself
        before, _, rest = rest.partition(MASK)
        filled += before
        if token.startswith(CONTINUATION):
            filled, token = filled.rstrip(), token.removeprefix(CONTINUATION)
        filled += token
    return filled + rest
