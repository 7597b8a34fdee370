"""The words behind [MASK], as a pre-trained model guesses them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ms_bert.data.sequences import Sequences, without_special_tokens
from ms_bert.data.tokenizer import CONTINUATION, MASK, Vocabulary
from ms_bert.errors import UserError, shown
from ms_bert.tasks.downstream import lines
from ms_bert.tasks.examples import named_columns, read

if TYPE_CHECKING:
    from ms_bert.prediction_options import PredictOptions

ARCHITECTURE = "BertForMaskedLM"
POSITIONS = "masked_positions"


def sequences(texts: Sequence[str], vocabulary: Vocabulary, longest: int) -> Sequences:
    """A sequence for each [MASK] of each text.

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
    return Sequences(
        tokens,
        np.zeros_like(tokens),
        starts,
        np.zeros(len(rows), bool),
        vocabulary.pad,
        {POSITIONS: np.array(positions, np.int32)},
        examples=texts,
        owners=np.array(owners),
    )


def answers(sequences: Sequences, logits: np.ndarray, vocabulary: Vocabulary, top: int) -> list[dict[str, Any]]:
    """For each text `masks`, the `top` best tokens of each [MASK] with their probabilities, and `text`, with the best
    ones in place.

    Args:
        logits: (n, V) float32, of each mask.
    """
    told: list[dict[str, Any]] = [{"text": text, "masks": []} for text in sequences.examples]
    for row, owner in zip(logits.astype(np.float64), sequences.owners.tolist()):
        best = np.argsort(-row, kind="stable")[:top]
        shares = np.exp(row[best] - row.max()) / np.exp(row - row.max()).sum()
        tokens = [vocabulary.tokenizer.id_to_token(int(i)) or f"[id {int(i)}]" for i in best]
        told[owner]["masks"].append(
            [{"token": token, "probability": float(share)} for token, share in zip(tokens, shares)]
        )
        told[owner]["text"] = _filled(told[owner]["text"], tokens[0])
    return told


def asked(options: PredictOptions) -> list[str]:
    """See `ms_bert.tasks.downstream.DownstreamTask`.

    Raises:
        UserError: there are none, or they are pairs.
    """
    texts = lines(options)
    if texts is not None:
        return texts
    assert options.input is not None
    columns = named_columns(options.columns)
    found = read(options.input, "classification", columns, labels=False, quoted=options.quotes)[0]
    if any(len(example.texts) > 1 for example in found):
        raise UserError("--fill-mask takes single texts, not pairs; name one column with --columns text=NAME.")
    return [example.texts[0] for example in found]


def inputs(text: str) -> dict[str, Any]:
    """See `ms_bert.tasks.downstream.DownstreamTask`."""
    return {"texts": [text]}


def plain(text: str, answer: dict[str, Any]) -> str:
    """The text with the best guesses, then all guesses, in a line."""
    guesses = [", ".join(f"{g['token']} {g['probability']:.1%}" for g in mask) for mask in answer["masks"]]
    return f"{answer['text']}\t{'; '.join(guesses)}"


def table(texts: Sequence[str], answers: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """A row for each guess, after the header."""
    rows = [
        [text, number, guess["token"], guess["probability"]]
        for text, answer in zip(texts, answers)
        for number, mask in enumerate(answer["masks"], 1)
        for guess in mask
    ]
    return [["text", "mask", "token", "probability"], *rows]


def _filled(text: str, token: str) -> str:
    """The text with a token in place of its first [MASK]; a continuation is joined to the word before."""
    before, _, after = text.partition(MASK)
    if token.startswith(CONTINUATION):
        before, token = before.rstrip(), token.removeprefix(CONTINUATION)
    return before + token + after
