"""Whether one text follows another, as a pre-trained model says (Devlin et al., 2019, 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import softmax

from ms_bert.errors import UserError, one_line, shown
from ms_bert.tasks import asked as user

if TYPE_CHECKING:
    from ms_bert.prediction_options import AskOptions

ARCHITECTURE = "BertForNextSentencePrediction"
LABELS = ("next", "not next")  # by class: 0 is "is next", as in Google's code and Hugging Face

Pair = tuple[str, str]


def checked(pair: Sequence[str]) -> Pair:
    """A pair that can be asked about.

    Raises:
        UserError: it is no pair, or a text of it is empty.
    """
    if not user.is_pair(pair):
        raise UserError(f"{shown(pair)} is no pair of texts; give a tuple of two.")
    first, second = pair
    if not (first.strip() and second.strip()):
        raise UserError(f"a text of the pair {shown(first)}, {shown(second)} is empty; give two texts.")
    return first, second


def answers(logits: np.ndarray) -> list[dict[str, Any]]:
    """Of logits (n, 2) the `label` of each pair, and the probabilities of both labels."""
    shares = softmax(logits.astype(np.float64), axis=-1)
    return [{"label": LABELS[int(row.argmax())], "probabilities": dict(zip(LABELS, row.tolist()))} for row in shares]


def asked(options: AskOptions) -> list[Pair]:
    """See `ms_bert.tasks.downstream.DownstreamTask`."""
    return [checked(pair) for pair in user.pairs(options)]


def inputs(pair: Pair) -> dict[str, Any]:
    """See `ms_bert.tasks.downstream.DownstreamTask`."""
    return {"texts": list(pair)}


def plain(pair: Pair, answer: dict[str, Any]) -> str:
    """Label, probability and pair in a line."""
    return f"{answer['label']} {answer['probabilities'][answer['label']]:.1%}\t{one_line(' | '.join(pair))}"


def table(pairs: Sequence[Pair], answers: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """A row for each pair, after the header."""
    rows = [[*pair, answer["label"], *answer["probabilities"].values()] for pair, answer in zip(pairs, answers)]
    return [["text", "text2", "label", *LABELS], *rows]
