"""Pictures are drawn of whatever a model says, of one example and of collapsed models too."""

import numpy as np
import pytest

from ms_bert.data.sequences import Sequences
from ms_bert.tasks.classification import Classification, MultiLabel, Regression
from ms_bert.tasks.pictures import drawn

LABELS = ("no", "yes", "a label whose name is very long")


def sequences(labels) -> Sequences:
    starts = np.cumsum([0, *(3 + i % 7 for i in range(len(labels)))])
    tokens = np.zeros(starts[-1], np.int32)
    return Sequences(tokens, tokens, starts, np.zeros(len(labels), bool), of_sequences={"labels": labels})


@pytest.mark.parametrize("count", [1, 7, 300])
@pytest.mark.parametrize("collapsed", [False, True])
def test_every_task_draws_its_evaluation(count, collapsed):
    rng = np.random.default_rng(count)
    numbers = rng.integers(0, 3, count).astype(np.int32)
    for task, labels, width in (
        (Classification(LABELS, ("accuracy",)), numbers, 3),
        (Classification(tuple(map(str, range(50))), ("accuracy",)), numbers, 50),
        (Regression((), ("pearson",)), numbers.astype(np.float32), 1),
        (MultiLabel(LABELS, ("f1_micro",)), rng.integers(0, 2, (count, 3)).astype(np.float32), 3),
    ):
        logits = np.full((count, width), 1e4, np.float32) if collapsed else rng.normal(size=(count, width))
        drawings = task.drawings(sequences(labels), logits.astype(np.float32))
        assert drawings and drawn(drawings).startswith(b"\x89PNG")
