"""Masked-language-model targets: which tokens are predicted, and what stands in their place.

15% of the tokens are chosen; of these 80% become [MASK], 10% a random token, 10% stay (Devlin et al., 2019, 3.1).
What is chosen together is a group: a token, a word, or a span of words.
"""

from __future__ import annotations

import numpy as np

from ms_bert.data.tokenizer import Vocabulary
from ms_bert.data.words import Words
from ms_bert.options import ExampleOptions

# Spans of n words are drawn with probability proportional to 1 / n, n up to 3 (ALBERT, Lan et al., 2020, 4.2).
_SPAN_LENGTHS = np.array([1, 2, 3])
_SPAN_CUMULATIVE = np.cumsum(1 / _SPAN_LENGTHS) / (1 / _SPAN_LENGTHS).sum()


def mask(
    rng: np.random.Generator,
    input_ids: np.ndarray,
    maskable: np.ndarray,
    options: ExampleOptions,
    vocabulary: Vocabulary,
    words: Words | None = None,
) -> dict[str, np.ndarray]:
    """Choose and replace tokens.

    Args:
        rng: draws; the same numbers of values whatever the text. words: of the options; None: they are made.
        input_ids: (B, S) int32. maskable: (B, S) bool, what is neither special nor padding.

    Returns:
        input_ids (B, S) int32 with replacements, masked_positions and masked_labels (B, P) int32, ascending and
        padded with 0, masked_weights (B, P) float32, 1 for a slot in use.
    """
    rows, tokens = input_ids.shape
    slots = options.prediction_slots
    wanted = np.clip(np.rint(maskable.sum(1) * options.mask_rate), 1, slots).astype(np.int64)
    wanted = np.minimum(wanted, maskable.sum(1))
    group = _groups(rng, input_ids, maskable, options.masking, words or Words(vocabulary, options))
    chosen = _choose(rng.random((rows, tokens)), group, maskable, wanted)

    # The chosen positions in ascending order, first in each row.
    positions = np.argsort(~chosen, axis=1, kind="stable")[:, :slots]
    used = np.arange(slots) < chosen.sum(1)[:, None]
    positions = np.where(used, positions, 0)
    labels = np.where(used, np.take_along_axis(input_ids, positions, 1), 0)

    fate = rng.random((rows, slots))
    random_ids = rng.integers(0, vocabulary.size, (rows, slots), dtype=np.int32)
    replacement = np.where(fate < 0.8, np.int32(vocabulary.mask), np.where(fate < 0.9, random_ids, labels))
    replaced = input_ids.copy()
    row = np.broadcast_to(np.arange(rows)[:, None], positions.shape)
    replaced[row[used], positions[used]] = replacement[used]
    return {
        "input_ids": replaced,
        "masked_positions": positions.astype(np.int32),
        "masked_labels": labels.astype(np.int32),
        "masked_weights": used.astype(np.float32),
    }


def _groups(rng, input_ids, maskable, masking: str, words: Words) -> np.ndarray:
    """(B, S) int64: the number, within the row, of the group each token belongs to."""
    rows, tokens = input_ids.shape
    if masking == "token":
        return np.broadcast_to(np.arange(tokens), (rows, tokens))
    # A word begins where the token continues none, and anew after a special token.
    follows = np.zeros_like(maskable)
    follows[:, 1:] = maskable[:, :-1]
    word = np.cumsum(~words.continues(input_ids, maskable), axis=1) - 1
    if masking == "whole-word":
        return word
    # Tile the row with spans; special tokens are words as well here, which nothing masks, and end a span.
    lengths = _SPAN_LENGTHS[np.searchsorted(_SPAN_CUMULATIVE, rng.random((rows, tokens)), side="right")]
    begins = np.cumsum(lengths, axis=1)
    starts_span = np.zeros((rows, tokens + int(_SPAN_LENGTHS[-1])), np.int64)
    inside = begins < tokens
    row = np.broadcast_to(np.arange(rows)[:, None], begins.shape)
    starts_span[row[inside], begins[inside]] = 1
    span = np.take_along_axis(np.cumsum(starts_span, axis=1), word, 1)
    border = np.cumsum(maskable != follows, axis=1)  # rises at every change between text and special tokens
    return np.cumsum(np.diff(span + (tokens + 1) * border, axis=1, prepend=-1) != 0, axis=1) - 1


def _choose(keys: np.ndarray, group: np.ndarray, maskable: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Whole groups in random order until `wanted` (B,) tokens are chosen; one that would exceed it is passed over.

    Google's loop over the shuffled groups, for all rows at once: as the room left only shrinks, a group too large
    for it now stays so. So a round takes the longest run of groups that fit together, drops those that no longer
    fit, and repeats; a row is done when no group fits.
    """
    rows, tokens = group.shape
    sizes = np.zeros((rows, tokens), np.int64)
    row = np.broadcast_to(np.arange(rows)[:, None], group.shape)
    np.add.at(sizes, (row, group), maskable)
    order = np.argsort(np.where(sizes > 0, keys, 2.0), axis=1)  # groups in random order, the empty ones last
    sizes = np.take_along_axis(sizes, order, 1)
    taken = np.zeros((rows, tokens), bool)
    room = wanted.copy()
    while True:
        open_ = (sizes > 0) & ~taken & (sizes <= room[:, None])
        if not open_.any():
            break
        fits = open_ & (np.cumsum(np.where(open_, sizes, 0), axis=1) <= room[:, None])
        taken |= fits
        room -= (sizes * fits).sum(1)
    chosen_groups = np.zeros((rows, tokens), bool)
    np.put_along_axis(chosen_groups, order, taken, 1)
    return np.take_along_axis(chosen_groups, group, 1) & maskable
