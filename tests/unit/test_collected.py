"""What a model gives for evaluation data is put together again, and scored only where it is numbers."""

import numpy as np
import pytest

from conversion.agreement.tasks.cases import PROBLEMS
from ms_bert.data.packing import EvaluationBatches
from ms_bert.errors import UserError


def collected(of, value: float):
    """The evaluation of a problem by a model that gives the same number everywhere, but `value` once."""
    sequences = of.sequences()
    batches = EvaluationBatches(sequences, of.config.max_position_embeddings, 1, together=of.task.together)
    found = of.task.evaluation(batches)
    choices = len(of.task.labels) or (2 if of.task.per_token else 1)
    for number in range(len(batches)):
        batch = batches(number)
        shape = batch["input_ids" if of.task.per_token else "cls_positions"].shape
        logits = np.zeros((*shape, choices), np.float32)
        if number == 0:
            logits[0, 0, -1] = value
        found.add(batch, dict.fromkeys(of.task.sums, 1.0), (logits,))
    return found


@pytest.mark.parametrize("of", PROBLEMS.values(), ids=PROBLEMS)
def test_scores_are_those_of_finite_numbers_alone(of):
    assert all(np.isfinite(value) for value in collected(of, 1.0).metrics().values())
    for value in (np.nan, np.inf):
        with pytest.raises(UserError, match="a prediction is not a finite number"):
            collected(of, value).metrics()
