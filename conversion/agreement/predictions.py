"""What a user would ask two models for, side by side: words for [MASK], labels, answers, the nearest of the texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from conversion.agreement.cases import Problem, Tensors
from conversion.agreement.inputs import Texts
from conversion.parameters import ARCHITECTURES, CHOICE, SEQUENCE, SLOT, TOKEN

BEST = 3  # words for a [MASK]
LONGEST_ANSWER = 30  # tokens
MOST_SHOWN = 12  # questions of a kind
CUT = 90  # characters of a text


@dataclasses.dataclass(frozen=True)
class Row:
    """One question.

    Attributes:
        asked: the text, or the part of it that is asked about. answers: of each side, with its probability or score.
        equal: whether all sides' first answers are the same.
    """

    asked: str
    answers: tuple[str, ...]
    equal: bool


@dataclasses.dataclass(frozen=True)
class Predictions:
    """One kind of question.

    Attributes:
        what: is asked, for people. sides: whose answers they are. rows: the first MOST_SHOWN. equal: of how many of
        `total` questions all first answers are the same.
    """

    what: str
    sides: tuple[str, ...]
    rows: tuple[Row, ...]
    equal: int
    total: int


_Answer = tuple[object, str]  # what is compared, what is shown
_Question = tuple[str, Callable[..., list[tuple[str, _Answer]]]]  # what is asked, and how a tensor answers it


def predict(
    problem: Problem, texts: Texts, sides: Mapping[str, Tensors], labels: Sequence[Mapping[int, str]]
) -> list[Predictions]:
    """What each side's tensors of the texts say, by the heads that the problem has; without any, by the hidden states.

    Args:
        sides: the forward tensors by the name of the side; those of a graph may lack some.
        labels: names of each side's labels.
    """
    made = []
    for name, (what, answer) in _questions(problem).items():
        there = {side: tensors for side, tensors in sides.items() if name in tensors}
        if len(there) < 2 or (name == _hidden(problem) and made):
            continue
        by_side = {
            side: answer(tensors[name], texts, of_side)
            for (side, tensors), of_side in zip(sides.items(), labels)
            if side in there
        }
        made.append(_together(what, by_side))
    return made


def asks(problem: Problem) -> list[str]:
    """The tensors of the forward pass that `predict` looks at."""
    return [*_questions(problem)]


def _questions(problem: Problem) -> dict[str, _Question]:
    """What the heads of a problem, and its hidden states, are asked for, by the tensor that tells the answer."""
    heads = ARCHITECTURES[problem.architecture].heads
    return {**{head.tensor: _OF_PART.get(head.part, _OF_ROW[head.row]) for head in heads}, _hidden(problem): _OF_HIDDEN}


def _together(what: str, by_side: dict[str, list[tuple[str, _Answer]]]) -> Predictions:
    rows = []
    for told in zip(*by_side.values()):
        keys = [answer[0] for _, answer in told]
        rows.append(Row(told[0][0], tuple(answer[1] for _, answer in told), all(key == keys[0] for key in keys)))
    equal = sum(row.equal for row in rows)
    shown = sorted(rows, key=lambda row: row.equal)[:MOST_SHOWN] if equal < len(rows) else rows[:MOST_SHOWN]
    return Predictions(what, tuple(by_side), tuple(shown), equal, len(rows))


def _hidden(problem: Problem) -> str:
    return f"layer.{problem.config.num_hidden_layers - 1}.output"


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _words(scores: np.ndarray, texts: Texts, labels) -> list[tuple[str, _Answer]]:
    batch, vocabulary = texts.batch, texts.vocabulary.tokenizer
    used = batch["masked_weights"] > 0
    scores = scores.reshape(*used.shape, -1)
    told = []
    for row, slot in np.argwhere(used):
        shares = _softmax(scores[row, slot])
        best = np.argsort(-shares, kind="stable")[:BEST]
        words = ", ".join(f"{vocabulary.id_to_token(int(i)) or f'#{i}'} {shares[i]:.1%}" for i in best)
        at = int(batch["masked_positions"][row, slot])
        around = _decoded(
            texts, batch["input_ids"][row, max(at - 5, 0) : at + 6], batch["sequence_ids"][row, max(at - 5, 0) : at + 6]
        )
        hidden = vocabulary.id_to_token(int(batch["masked_labels"][row, slot])) or "?"
        told.append((f"{around} (was: {hidden})", (int(best[0]), words)))
    return told


def _next(scores: np.ndarray, texts: Texts, labels) -> list[tuple[str, _Answer]]:
    shares = _softmax(scores)
    names = ("yes", "no")
    answers = [(int(best), f"{names[best]} {row[best]:.1%}") for row, best in zip(shares, shares.argmax(-1))]
    return [(_cut(line), answer) for line, answer in zip(texts.lines, answers)]


def _labels(scores: np.ndarray, texts: Texts, labels) -> list[tuple[str, _Answer]]:
    if scores.shape[1] == 1:
        return [(_cut(line), (f"{row[0]:.3g}", f"{row[0]:.4g}")) for line, row in zip(texts.lines, scores)]
    shares = _softmax(scores)
    told = [(int(i), f"{labels.get(int(i), f'label {i}')} {row[i]:.1%}") for row, i in zip(shares, shares.argmax(-1))]
    return [(_cut(line), answer) for line, answer in zip(texts.lines, told)]


def _tags(scores: np.ndarray, texts: Texts, labels) -> list[tuple[str, _Answer]]:
    batch = texts.batch
    shares = _softmax(scores).reshape(*batch["input_ids"].shape, -1)
    special = (texts.vocabulary.cls, texts.vocabulary.sep)
    told = []
    for row, at in np.argwhere((batch["sequence_ids"] > 0) & ~np.isin(batch["input_ids"], special)):
        best = int(shares[row, at].argmax())
        word = texts.vocabulary.tokenizer.id_to_token(int(batch["input_ids"][row, at]))
        asked = f"{word} (token {at} of {_cut(texts.lines[row], 40)})"
        told.append((asked, (best, f"{labels.get(best, f'label {best}')} {shares[row, at, best]:.1%}")))
    return told


def _spans(scores: np.ndarray, texts: Texts, labels) -> list[tuple[str, _Answer]]:
    """The best span of the second half, as answer to the first."""
    batch = texts.batch
    scores = scores.reshape(*batch["input_ids"].shape, 2)
    told = []
    for row, line in enumerate(texts.lines):
        ids = batch["input_ids"][row]
        separators = np.flatnonzero((ids == texts.vocabulary.sep) & (batch["sequence_ids"][row] > 0))
        inside = np.arange(separators[0] + 1, separators[-1])
        if not len(inside):
            continue
        sums = scores[row, inside, 0][:, None] + scores[row, inside, 1][None]
        allowed = np.triu(np.ones_like(sums, bool)) & ~np.triu(np.ones_like(sums, bool), LONGEST_ANSWER)
        best = np.where(allowed, sums, -np.inf)
        begin, end = np.unravel_index(best.argmax(), best.shape)
        span = inside[begin], inside[end]
        text = texts.vocabulary.tokenizer.decode(ids[span[0] : span[1] + 1].tolist(), skip_special_tokens=False)
        told.append((_cut(line), (tuple(map(int, span)), f"{_cut(text, 50)} ({best.max():.3g})")))
    return told


def _nearest(hidden: np.ndarray, texts: Texts, labels) -> list[tuple[str, _Answer]]:
    """Of each text the other whose mean hidden state has the largest cosine with its own."""
    inside = (texts.batch["sequence_ids"] > 0)[:, :, None]
    hidden = hidden.reshape(*inside.shape[:2], -1)
    means = (hidden * inside).sum(1) / inside.sum(1)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-30)
    cosines = means @ means.T
    np.fill_diagonal(cosines, -np.inf)
    return [
        (_cut(line), (int(row.argmax()), f"{_cut(texts.lines[row.argmax()], 50)} ({row.max():.4f})"))
        for line, row in zip(texts.lines, cosines)
        if len(texts.lines) > 1
    ]


_OF_ROW: dict[str, _Question] = {
    SLOT: ("the most likely words for [MASK]", _words),
    TOKEN: ("the label of each token", _tags),
    **dict.fromkeys((SEQUENCE, CHOICE), ("the label of the text, or its score", _labels)),
}
_OF_PART: dict[str, _Question] = {
    "nsp": ("does the second half of the text follow the first?", _next),
    "qa": ("the best answer within the second half of the text", _spans),
}
_OF_HIDDEN: _Question = ("the nearest of the other texts, by the cosine of the mean hidden states", _nearest)


def _decoded(texts: Texts, ids: np.ndarray, inside: np.ndarray) -> str:
    return texts.vocabulary.tokenizer.decode(ids[inside > 0].tolist(), skip_special_tokens=False)


def _cut(text: str, length: int = CUT) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
