"""Knowledge distillation: a model learns from a fine-tuned one's logits (Hinton et al., 2015), too, and from its hidden
states (Sun et al., 2019, "Patient Knowledge Distillation", arXiv 1908.09355)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ms_bert.config import ordered_as
from ms_bert.errors import UserError, listed
from ms_bert.tasks.embedding import Normalize

LOGITS = "teacher_logits"  # (B, N, C) float32 of a batch, or (B, S, C) where tokens are labelled
STATES = "teacher_states"  # (B, N, L, H) float32 of a batch: a vector of length 1 for each layer of `matched_layers`
_CHUNK = 4096  # vectors that are held in float64 at a time


@dataclasses.dataclass(frozen=True)
class Distillation:
    """Attributes:
    temperature: T, by which the logits of both are divided. share: of the loss that is the distance from the teacher;
        the rest is that of the labels. states: weight of the distance from the teacher's hidden states, which is added
        to that; 0: they are not compared.
    """

    temperature: float
    share: float
    states: float = 0.0

    @property
    def fields(self) -> tuple[str, ...]:
        """Of a batch, what the teacher says of it."""
        return (LOGITS, STATES) if self.states else (LOGITS,)


def in_order_of(labels: Sequence[str], theirs: Sequence[str], logits: np.ndarray) -> np.ndarray:
    """A teacher's logits (n, C) in the order of the student's labels.

    Raises:
        UserError: the labels are others.
    """
    order = ordered_as(labels, theirs)
    if order is None:
        raise UserError(
            f"the labels of --teacher are {listed(theirs)}, but those of the training data are {listed(labels)}; name "
            "a model that was fine-tuned for the same labels."
        )
    return logits[:, [order.index(name) for name in labels]] if labels else logits


def matched_layers(student: int, teacher: int) -> tuple[int, ...]:
    """With which layers of a teacher of M layers the layers 1 to m - 1 of a student of m are compared, numbered from 1.

    It is k M / m for the student's layer k, rounded, a half up: "PKD-Skip" of Sun et al. (2019), 3.2. The last layer is
    left out as there, for the logits that are made of it are compared already.

    Args:
        student: m. teacher: M, at least m.
    """
    return tuple((2 * k * teacher + student) // (2 * student) for k in range(1, student))


def narrowing(vectors: np.ndarray, width: int) -> np.ndarray:
    """The orthonormal projection from D to `width` dimensions that loses the least of vectors, (D, width) float64.

    These are their principal axes about the origin: of all projections P on so many dimensions it has the least sum of
    |x - P x|^2 (Eckart & Young, 1936). About the origin, not about their mean, so that lengths and angles are kept too.
    Of each axis the greatest component is positive, so that the result is one and the same.

    Args:
        vectors: (n, D) float32. width: at most D.
    """
    moments = np.zeros((vectors.shape[1],) * 2)
    for begin in range(0, len(vectors), _CHUNK):
        chunk = vectors[begin : begin + _CHUNK].astype(np.float64)
        moments += chunk.T @ chunk
    axes = np.linalg.eigh(moments)[1][:, ::-1][:, :width]  # the greatest eigenvalues come last
    return axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(width)])


def narrowed(vectors: np.ndarray, projections: Sequence[np.ndarray]) -> np.ndarray:
    """Vectors of L layers (n, L, D), each layer by its own projection (D, H), of length 1 again: (n, L, H) float32."""
    unit = Normalize()
    made = np.empty((*vectors.shape[:2], projections[0].shape[1]), np.float32)
    for layer, projection in enumerate(projections):
        for begin in range(0, len(vectors), _CHUNK):
            part = slice(begin, begin + _CHUNK)
            made[part, layer] = unit(vectors[part, layer].astype(np.float64) @ projection)
    return made
