"""The words behind [MASK], as a pre-trained model guesses them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ms_bert.data.sequences import Sequences, without_special_tokens
from ms_bert.data.tokenizer import CONTINUATION, MASK, Vocabulary
from ms_bert.errors import UserError, shown

ARCHITECTURE = "BertForMaskedLM"
POSITIONS = "masked_positions"


def sequences(texts: Sequence[str], vocabulary: Vocabulary, longest: int) -> tuple[Sequences, np.ndarray]:
    """A sequence for each [MASK] of each text, and the number of the text that each is of (n,).

    The position of the mask is in `masked_positions` (n,) int32. The sequences of a text are equal but for it, so that
    what is guessed for a mask depends on its text alone.

    Raises:
        UserError: a text has no [MASK], or has more than `longest` tokens.
    """
    plain = without_special_tokens(vocabulary.tokenizer)
    plain.add_special_tokens([MASK])
    rows: list[list[int]] = []
    positions, owners = [], []
    for number, (text, encoding) in enumerate(zip(texts, plain.encode_batch(list(texts), add_special_tokens=False))):
        ids = [vocabulary.cls, *encoding.ids, vocabulary.sep]
        masks = [position for position, token in enumerate(ids) if token == vocabulary.mask]
        if not masks:
            raise UserError(f"the text {shown(text)} has no {MASK}; put it where a word is to be guessed.")
        if len(ids) > longest:
            raise UserError(
                f"the text {shown(text)} has {len(ids)} tokens, but the model takes at most {longest}; shorten it."
            )
        rows += [ids] * len(masks)
        positions += masks
        owners += [number] * len(masks)
    starts = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    tokens = np.array([token for row in rows for token in row], np.int32)
    made = Sequences(tokens, np.zeros_like(tokens), starts, np.zeros(len(rows), bool), vocabulary.pad)
    made.of_sequences[POSITIONS] = np.array(positions, np.int32)
    return made, np.array(owners)


def answers(
    texts: Sequence[str], logits: np.ndarray, owners: np.ndarray, vocabulary: Vocabulary, top: int
) -> list[dict[str, Any]]:
    """For each text `masks`, the `top` best tokens of each [MASK] with their probabilities, and `text`, with the best
    ones in place.

    Args:
        logits: (n, V) float32, of each mask. owners: (n,), number of its text.
    """
    told = [{"text": text, "masks": []} for text in texts]
    for row, owner in zip(logits.astype(np.float64), owners.tolist()):
        best = np.argsort(-row, kind="stable")[:top]
        shares = np.exp(row[best] - row.max()) / np.exp(row - row.max()).sum()
        tokens = [vocabulary.tokenizer.id_to_token(int(i)) or f"[id {int(i)}]" for i in best]
        told[owner]["masks"].append(
            [{"token": token, "probability": float(share)} for token, share in zip(tokens, shares)]
        )
        told[owner]["text"] = _filled(told[owner]["text"], tokens[0])
    return told


def _filled(text: str, token: str) -> str:
    """The text with a token in place of its first [MASK]; a continuation is joined to the word before."""
    before, _, after = text.partition(MASK)
    if token.startswith(CONTINUATION):
        before, token = before.rstrip(), token.removeprefix(CONTINUATION)
    return before + token + after
