"""The training loop, for any task and framework: batches in, metrics, evaluations and checkpoints out."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ms_bert.config import BertConfig
from ms_bert.data.batches import Batch, prefetched
from ms_bert.errors import UserError
from ms_bert.options import RunOptions, TrainingOptions
from ms_bert.process import handle_signals
from ms_bert.run import checkpoints, curves
from ms_bert.run.checkpoints import Arrays, TrainingState
from ms_bert.run.folder import METRICS, THROUGHPUT, RunFolder
from ms_bert.run.leaves import own_batches, own_rows
from ms_bert.run.progress import Progress
from ms_bert.run.recipe import learning_rate
from ms_bert.run.workers import ALONE, Workers, gathered
from ms_bert.tasks import Batches, Evaluation, HeldOut, Metrics, Sums, Task

_DRAWN_EVERY = 60.0  # seconds between two pictures of the curves: one takes half a second


@dataclasses.dataclass(frozen=True)
class StepResult:
    """What one step did.

    Attributes:
        sums: by the names of the task. gradient_norm: global norm before clipping.
        skipped: the gradient overflowed in float16, nothing was updated, and a smaller loss scale is left to try: the
            scale was above 1. loss_scale: the one after.
    """

    sums: Sums
    gradient_norm: float
    skipped: bool = False
    loss_scale: float = 1.0


class Trainer(Protocol):
    """A model, the loss of a task and an optimizer in some framework.

    Attributes:
        config: of the model. shapes: of its weights, by Hugging Face's names.
    """

    config: BertConfig
    shapes: dict[str, tuple[int, ...]]

    def compile(self, batches: Sequence[Batch]) -> bool:
        """Compile the step for batches of these shapes, this worker's rows, and update nothing; returns whether
        anything is compiled."""

    def train_step(self, batch: Batch, step: int, rate: float) -> StepResult:
        """One optimizer step; `step` is 0-based and decides the dropout masks. batch: this worker's rows."""

    def evaluate(self, batch: Batch) -> tuple[Sums, tuple[np.ndarray, ...]]:
        """Sums by the names of the task and what its loss gives besides, without dropout."""

    def state(self) -> tuple[Arrays, Arrays, dict]:
        """Weights, moments and scalars; the arrays may be views, valid until the next step."""

    def load(self, model: Arrays, optimizer: Arrays, scalars: dict) -> None:
        """Take over what `state` gave."""

    def load_weights(self, model: Arrays) -> None:
        """Take over weights only, of the shapes in `shapes`."""


class Interrupted(Exception):
    """A signal asked the run to stop; it did, after a checkpoint."""

    def __init__(self, number: int, step: int):
        super().__init__(f"stopped by a signal after step {step}")
        self.exit_code = 128 + number


class _StopSignals:
    """Remembers SIGINT or SIGTERM until the step is done; a second one stops at once.

    While a graph runs MindSpore catches SIGINT itself and sends SIGTERM instead, so both must do the same.
    """

    def __init__(self):
        self.received = None

    def __enter__(self):
        self._before = handle_signals({signal.SIGINT: self._handle, signal.SIGTERM: self._handle})
        return self

    def _handle(self, number, frame):
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number

    def __exit__(self, *error):
        handle_signals(self._before)


class _Clock:
    """Measures the steps; evaluations, checkpoints and compilation are not among them.

    Args:
        workers: that compute a batch, each about as much of it.

    Attributes:
        size: sequences and tokens of the last batch.
    """

    def __init__(self, workers: int = 1):
        self._workers = workers
        self.size = (0, 0)
        self._sums: dict[str, Any] = collections.Counter()  # update adds
        self.resume()

    def resume(self) -> None:
        self._began = time.perf_counter()

    def got_batch(self) -> None:
        self._got = time.perf_counter()

    def stepped(self, own: Batch) -> float:
        """Seconds of this step, the wait for its batch included.

        Args:
            own: this worker's rows.
        """
        now = time.perf_counter()
        seconds = now - self._began
        ids = own["sequence_ids"]
        self.size = self._workers * int(ids.max(1).sum()), self._workers * int((ids > 0).sum())
        self._sums.update(
            {
                "seconds": seconds,
                "waited_for_batches": self._got - self._began,
                "sequences": self.size[0],
                "tokens": self.size[1],
            }
        )
        return seconds

    def take(self) -> dict[str, float]:
        """A line of throughput.jsonl about the steps since the last."""
        sums, self._sums = self._sums, collections.Counter()
        line = {k: round(sums[k], 4) for k in ("seconds", "waited_for_batches")}
        return line | {f"{k}_per_second": round(sums[k] / sums["seconds"], 2) for k in ("sequences", "tokens")}


def evaluate(task: Task, trainer: Trainer, held_out: HeldOut, workers: Workers = ALONE) -> Evaluation:
    """What the task collects of a model's outputs for these batches, which the workers compute by turns."""
    evaluation, count = task.evaluation(held_out), len(held_out)
    with contextlib.closing(prefetched(held_out, range(count))) as batches:
        together: list[Batch] = []
        for number, batch in enumerate(batches):
            together.append(batch)
            if len(together) < workers.count and number < count - 1:
                continue
            for of_one, (sums, *outputs) in zip(together, _evaluated(task, trainer, together, workers)):
                evaluation.add(of_one, dict(zip(task.sums, sums.tolist())), tuple(outputs))
            together = []
    return evaluation


def _evaluated(task: Task, trainer: Trainer, batches: Sequence[Batch], workers: Workers) -> list[list[np.ndarray]]:
    """The sums and the outputs for each of at most as many batches as there are workers."""
    own: list[np.ndarray] = []
    if workers.rank < len(batches):
        sums, outputs = trainer.evaluate(batches[workers.rank])
        own = [np.array([sums[name] for name in task.sums], np.float64), *outputs]
    return gathered(workers, own)[: len(batches)]


def _is_window(window: dict, task: Task, step: int) -> bool:
    """Whether these can be a loop's sums since its last logged line, of which the next line can be made."""
    known, numbers = {*task.sums, "gradient_norm"}, [window.get(name, 0) for name in ("steps", "skipped")]
    return (
        window.keys() <= {*known, "steps", "skipped"}
        and all(type(number) is int and 0 <= number <= step for number in numbers)
        and all(type(value) in (int, float) and abs(value) < 2.0**127 for value in window.values())
        and (not window.get("steps") or (known <= window.keys() and window[task.count] > 0))
    )


def _is_best(best: Any, step: int) -> bool:
    """Whether this can be a loop's best step so far."""
    return best is None or (
        isinstance(best, dict)
        and best.keys() == {"step", "value"}
        and type(best["step"]) is int
        and 0 < best["step"] <= step
        and type(best["value"]) in (int, float)
        and math.isfinite(best["value"])
    )


class Loop:
    """A run from its first or resumed step to its last.

    Args:
        task: what is trained for. training, run: the options. trainer: computes. folder: of the run. train, held_out:
            make the batches; held_out may be None. progress: shows. patience: evaluations in a row that are not better
            than the best, after which it stops; 0: it does not. workers: that train together; the first of them alone
            writes the folder.

    Attributes:
        step: how many are done. best: step and value of the highest measure of the task so far; None: there is none.
    """

    def __init__(
        self,
        task: Task,
        training: TrainingOptions,
        run: RunOptions,
        trainer: Trainer,
        folder: RunFolder,
        train: Batches,
        held_out: HeldOut | None,
        progress: Progress,
        patience: int = 0,
        workers: Workers = ALONE,
    ):
        self.workers, self.leads = workers, workers.rank == 0
        self.task, self.training, self.options = task, training, run
        self.trainer, self.folder, self.progress = trainer, folder, progress
        self.train, self.held_out, self.patience = train, held_out, patience
        self.step = 0
        self.window: dict[str, Any] = collections.Counter()  # update adds
        self.best: dict[str, float] | None = None

    def resume(self, state: TrainingState | None) -> None:
        """Go on from a checkpoint, or from the beginning where none was written yet.

        Raises:
            UserError: the checkpoint is none of this model, or the log before it is damaged; nothing was changed then.
        """
        path = self.folder.path
        if state is None:
            self.progress.say(f"{path} has no checkpoint yet: the run starts from the beginning")
            damaged = self.folder.cut_logs(0)
        else:
            if misfit := self._misfit(state):
                raise UserError(
                    f"checkpoint {checkpoints.folder_of(path, state.step)} does not belong to this run ({misfit}); "
                    "remove it to continue from the one before."
                )
            damaged = self.folder.cut_logs(state.step, state.metrics)
            self.trainer.load(state.model, state.optimizer, state.scalars)
            self.step, self.window = state.step, collections.Counter(state.position["window"])
            self.best = self._best_of(state)
            if self.leads:
                checkpoints.set_aside(path, state.step)
                # What a kill between a checkpoint and the end of its step left undone.
                self._publish()
        if damaged:
            self.progress.say(f"removed {damaged} damaged line{'s' * (damaged > 1)} from {path / THROUGHPUT}")

    def _misfit(self, state: TrainingState) -> str | None:
        """Why a checkpoint is none of this run, or None."""
        window = state.position.get("window")
        if not isinstance(window, dict) or not _is_window(window, self.task, state.step):
            return "its position does not hold the sums since the last logged line"
        if not _is_best(state.position.get("best"), state.step):
            return "its position names a best step that is impossible"
        kind = "float64" if self.training.precision == "float64" else "float32"
        return checkpoints.misfit(state, self.trainer.shapes, kind)

    @property
    def finished(self) -> bool:
        """Whether no step is left to do."""
        return self.step >= self.training.steps or self.stalled

    @property
    def stalled(self) -> bool:
        """Whether patience is at its end; it follows from the steps, so that a resumed run knows."""
        if not self.patience or self.best is None:
            return False
        return self.step - self.best["step"] >= self.patience * self.options.eval_every

    def run(self) -> None:
        """Train to the last step, or until patience ends.

        Raises:
            Interrupted: SIGINT or SIGTERM, after a checkpoint.
            UserError: the loss is not finite, or the run folder cannot be written.
        """
        try:
            self._run()
        except OSError as error:
            raise UserError(
                f"step {self.step}: writing the run folder {self.folder.path} failed ({error}); "
                f"{self._kept()}; free some disk space or restore the folder, then --resume it.",
                exit_code=1,
            ) from error

    def _run(self) -> None:
        run, training = self.options, self.training
        steps = range(self.step, training.steps)
        make = own_batches(self.train, self.workers)
        with _StopSignals() as stop, self.progress, contextlib.closing(prefetched(make, steps)) as batches:
            self.progress.start(self.task, self.step, training.steps)
            if self.held_out and run.eval_every and self.step == 0:
                self._evaluate(self.held_out)
            self._compile()
            clock, drawn = _Clock(self.workers.count), time.perf_counter()
            for batch in batches:
                clock.got_batch()
                rate = learning_rate(training, self.step + 1)
                result = self.trainer.train_step(batch, self.step, rate)
                self._check(result)
                self.step += 1
                self._count(result)
                seconds = clock.stepped(batch)
                self.progress.step(self.step, result, rate, clock.size, seconds)
                last = self.step == training.steps
                if last or self.step % run.log_every == 0:
                    self._log(rate, result)
                    self.folder.log(THROUGHPUT, {"step": self.step, **clock.take()})
                better = False
                if self.held_out and (last or (run.eval_every and self.step % run.eval_every == 0)):
                    better = self._is_better(self._evaluate(self.held_out))
                    if not last and self.stalled:
                        self.progress.say(f"stopped at step {self.step}: {self.patience} evaluations were not better")
                        last = True
                number = self._stopped(stop.received)
                ends = last or number is not None
                if ends or better or self.step % run.checkpoint_every == 0:
                    self._save()
                if self.leads and (ends or time.perf_counter() - drawn > _DRAWN_EVERY):
                    curves.draw(self.folder.path, self.task.panels())
                    drawn = time.perf_counter()
                if last:
                    return
                if number is not None:
                    raise Interrupted(number, self.step)
                clock.resume()

    def _stopped(self, received: int | None) -> int | None:
        """The signal that any worker has received, which all hear of after the same step."""
        numbers = self.workers.gather(np.array([received or 0]))[:, 0]
        return int(numbers.max()) or None

    def _compile(self) -> None:
        began = time.perf_counter()
        if self.trainer.compile([own_rows(batch, self.workers) for batch in self.train.samples(self.step)]):
            seconds = time.perf_counter() - began
            self.folder.log(THROUGHPUT, {"step": self.step, "compile_seconds": round(seconds, 4)})
            self.progress.say(f"compiled in {seconds:.1f} s")

    def _check(self, result: StepResult) -> None:
        finite = all(map(math.isfinite, (*result.sums.values(), result.gradient_norm)))
        if finite or result.skipped:
            return
        name, value = next(iter(self.task.metrics(result.sums).items()))
        raise UserError(
            f"step {self.step + 1}: {name} is {value} and the gradient norm is {result.gradient_norm}, but both must "
            f"be finite; {self._kept()}; a lower --learning-rate or a longer warm-up usually helps.",
            exit_code=1,
        )

    def _kept(self) -> str:
        saved = checkpoints.steps(self.folder.path)
        return f"the checkpoint of step {saved[-1]} is intact" if saved else "there is no checkpoint"

    def _count(self, result: StepResult) -> None:
        if not result.skipped:
            self.window.update(result.sums)
            self.window["steps"] += 1
            self.window["gradient_norm"] += result.gradient_norm
        self.window["skipped"] += int(result.skipped)

    def _log(self, rate: float, result: StepResult) -> None:
        window, self.window = self.window, collections.Counter()
        line: dict[str, float] = {"step": self.step}
        if window["steps"]:
            line |= {**self.task.metrics(window), "gradient_norm": window["gradient_norm"] / window["steps"]}
        line |= {"learning_rate": rate}
        if self.training.precision == "float16":
            line |= {"loss_scale": result.loss_scale, "skipped_steps": window["skipped"]}
        self.folder.log(METRICS, line)

    def _evaluate(self, held_out: HeldOut) -> Metrics:
        metrics = evaluate(self.task, self.trainer, held_out, self.workers).metrics()
        self.folder.log(METRICS, {"step": self.step, **{f"held_out_{k}": v for k, v in metrics.items()}})
        self.progress.evaluated(self.step, metrics)
        return metrics

    def _is_better(self, metrics: Metrics) -> bool:
        """Whether this step is the best so far; then it is remembered as such."""
        if self.task.measure is None:
            return False
        value = metrics[self.task.measure]
        better = self.best is None or value > self.best["value"]
        if better:
            self.best = {"step": self.step, "value": value}
        return better

    def _best_of(self, state: TrainingState) -> dict[str, float] | None:
        """The best step of a checkpoint, if its weights are there: conversion takes along one checkpoint only."""
        best = state.position.get("best")
        if best is None or best["step"] == state.step:
            return best
        folder = checkpoints.folder_of(self.folder.path, best["step"])
        try:
            checkpoints.verified(folder)
        except ValueError as error:
            self.progress.say(f"{folder}, the best checkpoint, cannot be used ({error}); the best from now on is kept")
            return None
        return best

    def _save(self) -> None:
        metrics = self.folder.sync_logs()
        model, optimizer, scalars = self.trainer.state()  # all workers have a share in it
        if not self.leads:
            return
        position: dict[str, Any] = {"window": dict(self.window)}
        if self.best is not None:
            position["best"] = self.best
        checkpoints.save(self.folder.path, TrainingState(self.step, model, optimizer, scalars, position, metrics))
        self._publish()

    def _publish(self) -> None:
        """Let the run's model be that of its best or newest checkpoint, and remove old ones."""
        shown = self.step if self.best is None else int(self.best["step"])
        checkpoints.publish(self.folder.path, shown)
        checkpoints.prune(self.folder.path, self.options.keep, self.options.keep_every, shown)
