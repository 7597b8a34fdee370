"""The agreement suite: every tensor that a framework computes of the problems, judged against the oracle."""

from __future__ import annotations

import dataclasses
import fractions
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from conversion.agreement import cases
from conversion.agreement.cases import Case, Problem, Tensors
from conversion.agreement.findings import Error, Finding, errors, histogram, judge
from ms_bert.data.batches import Batch
from ms_bert.options import Options, TrainingOptions
from ms_bert.run.loop import Trainer

STEP = 3  # the 0-based step that is compared: it decides the dropout masks
STEPS = ("step adamw", "step adam-weight-decay", "step lamb", "step accumulated")


class Contender(Protocol):
    """A framework and a way to run it.

    Attributes:
        name: as 'MindSpore'. precision: of activations and products.
        own_dropout: whether it drops other units than `ms_bert.randomness` says, as a fused attention does.
    """

    name: str
    precision: str
    own_dropout: bool

    def leaves_out(self, name: str) -> bool:
        """Whether it cannot give this tensor of the forward pass, as a fused attention has no probabilities."""

    def forward(self, problem: Problem, batch: Batch) -> Tensors:
        """The named intermediates and the outputs, float64 arrays, without dropout."""

    def losses_and_gradients(self, problem: Problem, batch: Batch, dropout: bool) -> tuple[Tensors, Tensors]:
        """`cases.losses`, and the gradient of the pre-training loss by each parameter's name."""

    def trainer(self, problem: Problem, options: Options) -> Trainer:
        """The framework's trainer, as its command uses it."""

    def learning_rate(self, options: TrainingOptions, step: int) -> float:
        """Of a 1-based step, as the loop of its command asks for it."""


Results = Iterator[tuple[str, Case, Tensors]]  # check, case, tensors


def forward(contender: Contender, problem: Problem) -> Results:
    """Every named intermediate and output."""
    for case in problem.cases:
        if not case.dropout:
            found = cases.real_only(contender.forward(problem, case.batch), case.batch)
            yield "forward", case, case.back(found) if case.back else found


def gradients(contender: Contender, problem: Problem) -> Results:
    """The losses, the gradient of every parameter, and their global norm."""
    for case in problem.cases:
        if case.dropout and contender.own_dropout:
            continue
        losses, found = contender.losses_and_gradients(problem, case.batch, case.dropout)
        yield "losses", case, losses
        norm = np.sqrt(sum(np.square(value).sum() for value in found.values()))
        yield "gradients", case, {**found, "global norm": np.array(norm)}


def step(check: str) -> Callable[[Contender, Problem], Results]:
    """A step of an optimizer, with clipping, through the framework's own trainer.

    Once as the eighth update, once as the first, where bias correction is largest; from the same moments, for after
    none the change is little more than the signs of the gradient.
    """

    def results(contender: Contender, problem: Problem) -> Results:
        case, rows = problem.cases[0], len(problem.cases[0].batch["input_ids"])
        accumulate = 2 if check == "step accumulated" else 1
        optimizer = "adamw" if accumulate > 1 else check.removeprefix("step ")
        options = cases.step_options(optimizer, contender.precision, rows, accumulate=accumulate)
        trainer = contender.trainer(cases.without_dropout(problem), options)
        for updates, name in ((cases.UPDATES, case.name), (0, "first update")):
            before = {"updates": updates, "loss_scale": cases.scale(contender.precision), "good_steps": 0}
            trainer.load(problem.weights, problem.moments, before)
            result = trainer.train_step(case.batch, STEP, cases.RATE)
            norm = {"global norm": np.array(result.gradient_norm)}
            yield check, dataclasses.replace(case, name=name), changes(problem, trainer) | norm

    return results


def changes(problem: Problem, trainer: Trainer) -> Tensors:
    """What a step changed: each weight's change, for the weight itself would hide it, and the moments, float64."""
    weights, moments, scalars = trainer.state()
    changed = {f"change of {name}": value.astype(np.float64) - problem.weights[name] for name, value in weights.items()}
    return (
        changed
        | {name: value.astype(np.float64) for name, value in moments.items()}
        | {"updates": np.array(float(scalars["updates"]))}
    )


def overflow(contender: Contender, problem: Problem) -> Results:
    """A step in float16 whose gradients overflow: nothing changes, and the loss scale halves."""
    if contender.precision != "float16":
        return
    case, rows = problem.cases[0], len(problem.cases[0].batch["input_ids"])
    trainer = contender.trainer(problem, cases.step_options("adamw", "float16", rows))
    trainer.load(problem.weights, problem.moments, {"updates": cases.UPDATES, "loss_scale": 2.0**40, "good_steps": 9})
    result = trainer.train_step(case.batch, STEP, cases.RATE)
    _, _, scalars = trainer.state()
    found = changes(problem, trainer)
    moved = [value - problem.moments[name] if name in problem.moments else value for name, value in found.items()]
    yield (
        "overflow",
        case,
        {
            "what changed": np.array(sum(np.abs(value).sum() for value in moved[:-1])),
            "skipped": np.array(float(result.skipped)),
            **{name: np.array(float(value)) for name, value in scalars.items()},
        },
    )


def evaluation(contender: Contender, problem: Problem) -> Results:
    """The losses of an evaluation by the trainer of a model with dropout: it must be off."""
    case, rows = problem.cases[0], len(problem.cases[0].batch["input_ids"])
    trainer = contender.trainer(problem, cases.step_options("adamw", contender.precision, rows))
    trainer.load_weights(problem.weights)
    yield "evaluation", case, cases.losses(trainer.evaluate(case.batch)[0], case.batch)


def schedule(contender: Contender, problem: Problem) -> Results:
    """The learning rates of a run, warm-up and both decays."""
    yield (
        "schedule",
        problem.cases[0],
        {"rates": np.array([contender.learning_rate(o, t) for o in SCHEDULES for t in TIMES])},
    )


SCHEDULES = (
    TrainingOptions(steps=40, warmup_steps=10, learning_rate=0.5),
    TrainingOptions(steps=40, warmup_steps=7, learning_rate=2.0, decay_steps=33, decay_power=2.0),
    TrainingOptions(steps=40, warmup_steps=0, learning_rate=1.0),
    TrainingOptions(steps=40, warmup_steps=5, learning_rate=0.5, schedule="constant"),
    TrainingOptions(steps=40, warmup_steps=5, learning_rate=0.5, schedule="wsd"),
    TrainingOptions(steps=40, warmup_steps=9, learning_rate=0.5, schedule="wsd", cooldown_steps=11, decay_steps=35),
)
TIMES = range(1, 46)

CHECKS: dict[str, Callable[[Contender, Problem], Results]] = {
    "forward": forward,
    "gradients": gradients,
    **{check: step(check) for check in STEPS},
    "overflow": overflow,
    "evaluation": evaluation,
    "schedule": schedule,
}


def exact_overflow() -> Tensors:
    exact = {"what changed": 0.0, "skipped": 1.0, "updates": cases.UPDATES, "loss_scale": 2.0**39, "good_steps": 0.0}
    return {name: np.array(float(value)) for name, value in exact.items()}


def exact_schedule() -> Tensors:
    """In fractions: W steps up to the highest rate, a plateau up to step B, then polynomial decay to 0 after step D."""
    rates = []
    for options in SCHEDULES:
        top, w = fractions.Fraction(options.learning_rate), options.warmup_steps
        last = options.decay_steps or options.steps
        b = {"linear": w, "constant": TIMES[-1], "wsd": last - (options.cooldown_steps or last // 5)}[options.schedule]
        for t in TIMES:
            risen = min(fractions.Fraction(t, w), 1) if w else 1
            left = 1 if t <= b else fractions.Fraction(max(last + 1 - t, 0), last + 1 - b)
            rates.append(float(top * risen * left ** int(options.decay_power)))
    return {"rates": np.array(rates)}


EXACT: dict[str, Callable[[], Tensors]] = {"overflow": exact_overflow, "schedule": exact_schedule}

Key = tuple[str, str]  # check, case


def known(group: str, problem: Problem) -> dict[Key, Tensors] | None:
    """The exact tensors of a group that needs no framework to be known; None for the others."""
    return {(group, problem.cases[0].name): EXACT[group]()} if group in EXACT else None


class Oracle(Protocol):
    """What the oracle computes of a problem, and PyTorch's own errors, by the groups of CHECKS."""

    def exact(self, group: str) -> dict[Key, Tensors]:
        """The oracle's tensors."""

    def yardsticks(self, group: str, precision: str) -> dict[Key, dict[str, Error]]:
        """PyTorch's own errors at a precision."""


class Reference:
    """What the oracle computes of a problem, and PyTorch's own errors; made when they are first asked for."""

    def __init__(self, problem: Problem):
        self.problem = dataclasses.replace(problem, cases=tuple(case for case in problem.cases if case.same_as is None))
        self._exact: dict[str, dict[Key, Tensors]] = {}
        self._yardsticks: dict[tuple[str, str], dict[Key, dict[str, Error]]] = {}

    def exact(self, group: str) -> dict[Key, Tensors]:
        """The oracle's tensors."""
        if group not in self._exact:
            self._exact[group] = known(group, self.problem) or self._computed(group, "float64")
        return self._exact[group]

    def yardsticks(self, group: str, precision: str) -> dict[Key, dict[str, Error]]:
        """PyTorch's own errors at a precision."""
        if (group, precision) not in self._yardsticks:
            exact = self.exact(group)
            found = self._computed(group, precision)
            self._yardsticks[group, precision] = {key: errors(found[key], exact[key]) for key in found}
        return self._yardsticks[group, precision]

    def _computed(self, group: str, precision: str) -> dict[Key, Tensors]:
        from conversion.agreement.in_torch import PyTorch

        results = CHECKS[group](PyTorch(precision), self.problem)
        return {(check, case.name): tensors for check, case, tensors in results}


def findings(contender: Contender, problem: Problem, reference: Oracle, groups=tuple(CHECKS)) -> list[Finding]:
    """What a contender computes of a problem, judged.

    Raises:
        ValueError: it does not give a tensor of the oracle's that it does not say it leaves out, or gives others.
    """
    found = []
    for group in groups:
        exact = reference.exact(group)
        for check, case, tensors in CHECKS[group](contender, problem):
            key = check, case.same_as or case.name
            yardsticks = None
            if contender.name != "PyTorch":
                yardsticks = reference.yardsticks(group, contender.precision)[key]
            found += judged(check, case.name, contender, tensors, exact[key], yardsticks)
    return found


def judged(
    check: str, case: str, contender: Contender, tensors: Tensors, exact: Tensors, yardsticks: dict[str, Error] | None
) -> list[Finding]:
    """The findings of a contender's tensors, with their histograms."""
    missing = [name for name in exact if name not in tensors and not contender.leaves_out(name)]
    if missing:
        raise ValueError(f"{contender.name} does not give {', '.join(missing)} of {check}, {case}")
    bins = {name: histogram(value, exact[name]) for name, value in tensors.items()}
    return judge(check, case, contender.name, contender.precision, errors(tensors, exact), yardsticks, bins)
