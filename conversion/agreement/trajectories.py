"""A whole training run in several frameworks: how far each drifts from the oracle's, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from conversion.agreement import cases
from conversion.agreement.figures import ORACLE, Trajectory
from conversion.agreement.findings import Finding, errors, judge
from conversion.agreement.suite import Contender
from ms_bert.config import BertConfig
from ms_bert.data.batches import Batch
from ms_bert.options import Options
from ms_bert.run.loop import Trainer
from ms_bert.run.recipe import learning_rate


def compare(
    contenders: Sequence[Contender], config: BertConfig, options: Options, make: Callable[[int], Batch]
) -> tuple[Trajectory, list[Finding]]:
    """Train in the oracle, in PyTorch and in each contender, from the same weights on the same batches.

    Args:
        config: with no dropout. options: of the run, its steps and seed among them. make: the batch of a step.

    Returns:
        the losses, and for each contender a finding of the check 'trajectory' for the curve and one for what the whole
        run changed in the weights.
    """
    from conversion.agreement.in_torch import PyTorch

    problem = cases.Problem(config, cases.ARCHITECTURE, {}, {}, ())
    batches = [make(step) for step in range(options.training.steps)]
    oracle, plain = PyTorch("float64"), PyTorch()
    exact, reference = (train(one, problem, options, batches) for one in (oracle, plain))
    yardsticks = errors(reference, exact)
    losses = {ORACLE: exact["losses"], plain.name: reference["losses"]}
    findings = judge("trajectory", "training", plain.name, plain.precision, yardsticks, None)
    for contender in contenders:
        found = train(contender, problem, options, batches)
        losses[contender.name] = found["losses"]
        name, precision = contender.name, contender.precision
        findings += judge("trajectory", "training", name, precision, errors(found, exact), yardsticks)
    drift = {name: np.abs(values / exact["losses"] - 1.0).tolist() for name, values in losses.items() if name != ORACLE}
    steps = list(range(1, len(batches) + 1))
    return Trajectory(steps, {name: values.tolist() for name, values in losses.items()}, drift), findings


def train(contender: Contender, problem: cases.Problem, options: Options, batches: Sequence[Batch]) -> cases.Tensors:
    """The loss of each step (steps,), nats, and the change of all weights (parameters,), float64."""
    trainer = contender.trainer(problem, options)
    before = _joined(trainer)
    losses = []
    for step, batch in enumerate(batches):
        result = trainer.train_step(batch, step, learning_rate(options.training, step + 1))
        losses.append(loss_of(result.sums))
    return {"losses": np.array(losses), "change of all weights": _joined(trainer) - before}


def _joined(trainer: Trainer) -> np.ndarray:
    # Not the keys' biases: their gradient is rounding alone, which Adam brings to the size of any other.
    kept = [value for name, value in trainer.state()[0].items() if not name.endswith("key.bias")]
    return np.concatenate([value.ravel().astype(np.float64) for value in kept])


def loss_of(sums: dict[str, float]) -> float:
    """The pre-training loss of a step, nats."""
    masked, next_sentence = (
        sums[f"{kind}_loss"] / max(sums[f"{kind}_count"], 1.0) for kind in ("masked", "next_sentence")
    )
    return masked + next_sentence
