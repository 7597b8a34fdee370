"""Knowledge distillation (Hinton et al., 2015): a model learns from a fine-tuned one's logits, too."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ms_bert.errors import UserError, listed

TEACHER = "teacher_logits"  # (B, N, C) float32 of a batch


@dataclasses.dataclass(frozen=True)
class Distillation:
    """Attributes:
    temperature: T, by which the logits of both are divided. share: of the loss that is the distance from the teacher;
        the rest is that of the labels.
    """

    temperature: float
    share: float


def in_order_of(labels: Sequence[str], theirs: Sequence[str], logits: np.ndarray) -> np.ndarray:
    """A teacher's logits (n, C) in the order of the student's labels.

    Raises:
        UserError: the labels are others.
    """
    if set(labels) != set(theirs):
        raise UserError(
            f"the labels of --teacher are {listed(theirs)}, but those of the training data are {listed(labels)}; name "
            "a model that was fine-tuned for the same labels."
        )
    return logits[:, [theirs.index(name) for name in labels]] if labels else logits
