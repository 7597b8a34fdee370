"""What a trainer computes of a task's training step, judged against the oracle. No framework is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from conversion.agreement import suite as pretraining
from conversion.agreement.cases import Problem, Tensors
from conversion.agreement.findings import Error, Finding, error_of, errors, judge
from conversion.agreement.tasks.cases import CLIP, Labelled
from conversion.agreement.tasks.oracle import RATE, UPDATES
from ms_bert.data.batches import Batch
from ms_bert.data.packing import Unpacked
from ms_bert.data.sequences import Sequences
from ms_bert.run.loop import Trainer

CHECKS = ("forward", "losses", "gradients", "step adamw")


def computed(trainer: Trainer, labelled: Labelled, problem: Problem, sequences: Sequences, batch: Batch) -> dict:
    """By check: the logits in the order of the sequences, the sums, each parameter's gradient, what a step changes.

    Args:
        trainer: of the labelled problem's task. batch: of the sequences.
    """
    zero = {name: np.zeros_like(value) for name, value in problem.moments.items()}
    scalars = {"loss_scale": 1.0, "good_steps": 0}
    # From no moments, m is (1 - beta1) times the clipped gradient.
    trainer.load(problem.weights, zero, {**scalars, "updates": 0})
    _, outputs = trainer.evaluate(batch)
    collected = Unpacked(sequences, labelled.task.per_token)
    collected.add(batch, outputs[0])
    result = trainer.train_step(batch, 0, 0.0)
    scale = max(result.gradient_norm, CLIP) / CLIP / (1.0 - labelled.options.training.beta1)
    moments = trainer.state()[1]
    gradients = {name: moments[f"m.{name}"].astype(np.float64) * scale for name in problem.weights}
    trainer.load(problem.weights, problem.moments, {**scalars, "updates": UPDATES})
    trainer.train_step(batch, 0, RATE)
    return {
        "forward": {"logits": collected.values.astype(np.float64)},
        "losses": {name: np.array(value) for name, value in result.sums.items()},
        "gradients": {**gradients, "global norm": np.array(result.gradient_norm)},
        "step adamw": pretraining.changes(problem, trainer),
    }


def judged(
    name: str,
    contender: str,
    found: Mapping[str, Tensors],
    exact: Mapping[str, Tensors],
    yardstick: Mapping[str, Tensors] | None = None,
) -> list[Finding]:
    """The findings of what a contender computed of a problem.

    Args:
        yardstick: what PyTorch computed; None: the contender is PyTorch.
    """
    findings: list[Finding] = []
    for check in CHECKS:
        if missing := exact[check].keys() - found[check].keys():
            raise ValueError(f"{contender} does not give {', '.join(sorted(missing))} of {check}, {name}")
        own = None if yardstick is None else _errors(yardstick[check], exact[check])
        findings += judge(check, name, contender, "float32", _errors(found[check], exact[check]), own)
    return findings


def _errors(found: Tensors, exact: Tensors) -> dict[str, Error]:
    """A softmax over tokens or choices does not see what is added to all of them, such as a bias of the head: that
    gradient is 0, and what is computed for it is noise, of the scale of the terms that should cancel. The gradient of
    the weight beside the bias shows it."""
    told = errors(found, exact)
    for name, value in exact.items():
        weight = exact.get(name.removesuffix("bias") + "weight")
        if weight is None or name.endswith("key.bias") or np.abs(value).max() > 1e-10 * np.abs(weight).max():
            continue
        told[name] = error_of(found[name], value, np.full(value.shape, np.sqrt(np.square(weight).mean())))
    return told


def options_of(labelled: Labelled) -> tuple[Any, ...]:
    """What both trainers are made of."""
    return labelled.config, labelled.options, labelled.task
