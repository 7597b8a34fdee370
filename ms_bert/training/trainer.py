"""The trainer: a model, a task's loss, an optimizer and compiled steps, driven by `ms_bert.run.loop`."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops

from ms_bert.config import BertConfig
from ms_bert.data.batches import Batch
from ms_bert.kernels.stock import check_dropout
from ms_bert.model import Numerics, initialize
from ms_bert.options import TrainerOptions
from ms_bert.randomness import DropoutColumns
from ms_bert.run.checkpoints import Arrays
from ms_bert.run.leaves import Part, Tree, added, cut, leaves, own_leaves
from ms_bert.run.loop import StepResult
from ms_bert.run.recipe import all_moments, moments_of
from ms_bert.run.workers import ALONE, Workers
from ms_bert.tasks import Sums, Task
from ms_bert.tasks.pretraining import PRETRAINING
from ms_bert.training import graph_cache, losses
from ms_bert.training.exchange import Sharded, Whole
from ms_bert.training.losses import Objective
from ms_bert.training.step import AccumulateStep, Carry, TrainStep, Update, UpdateFromBuffers


class MindSporeTrainer:
    """See `ms_bert.run.loop.Trainer`.

    Args:
        graphs: the folder in which compiled training steps are kept; None: each is compiled again.
        objective: of the task; by default that of the losses.
        numerics: how the model computes; None: as the options say. update: what clips and updates. workers: with which
            each batch is computed.

    Attributes:
        model: of the objective. config: of the model. shapes: of its parameters, by name.
    """

    def __init__(
        self,
        config: BertConfig,
        options: TrainerOptions,
        task: Task = PRETRAINING,
        graphs: Path | None = None,
        objective: Objective | None = None,
        numerics: Numerics | None = None,
        update: type[Update] = Update,
        workers: Workers = ALONE,
    ):
        training = options.training
        self.config, self.options, self.training, self.task, self.graphs = config, options, training, task, graphs
        self.workers = workers
        objective = objective or losses.objective(task)
        device, kind = options.run.device, options.mindspore.kernels
        if device != "CPU" and (config.hidden_dropout_prob or config.attention_probs_dropout_prob):
            check_dropout(device)
        numerics = numerics or Numerics(device, training.precision, training.recompute, kind)
        self.model = objective.model(config, numerics)
        initialize(self.model, config, training.seed, options.truncated_normal)
        self.shapes = {p.name: tuple(p.shape) for p in self.model.get_parameters()}
        shares = {name: training.rate_share(name, config.num_hidden_layers) for name in self.shapes}
        for p in self.model.get_parameters():
            p.requires_grad = shares[p.name] > 0.0
        parameters = self.model.trainable_params()
        loss, self.evaluation = objective.loss(self.model), objective.loss(self.model)
        exchange = Whole(parameters)
        if workers.count > 1:
            exchange = Sharded(parameters, workers, training.reduction == "vendor")
        self.update = update(parameters, training, numerics.operations, shares, exchange)
        self._take_pieces()
        self.columns = DropoutColumns(config)
        count = own_leaves(training, workers)
        self.tree = Tree(count, training.accumulate)
        self.in_one_graph = count * training.accumulate == 1
        if self.in_one_graph:
            self.step = TrainStep(loss, self.update, parameters)
        else:
            buffers = [
                [Parameter(ops.zeros_like(p), name=f"gradient.{level}.{p.name}") for p in parameters]
                for level in range(self.tree.levels + 1)
            ]
            self.step = AccumulateStep(loss, self.update, parameters, buffers[0])
            self.carries = [Carry(*pair) for pair in itertools.pairwise(buffers)]
            self.finish = UpdateFromBuffers(self.update, buffers[-1])

    def leaves(self, batch: Batch, step: int) -> list[list[Part]]:
        """See `ms_bert.run.leaves.leaves`."""
        return leaves(batch, self.task.weights, self.training, step, self.columns, self.workers)

    def step_inputs(self, part: Part, rate: float) -> list[Tensor]:
        """What the compiled step takes for a part of a batch, in the order of `TrainStep`."""
        return [
            *map(Tensor, (np.float32(rate), part.row_keys, part.column_keys)),
            *(Tensor(part.batch[name]) for name in self.task.fields),
            *map(Tensor, part.totals),
        ]

    def compile(self, batches: Sequence[Batch]) -> bool:
        compiling: contextlib.AbstractContextManager = contextlib.nullcontext()
        if self.graphs is not None:
            shapes = [{name: batch[name].shape for name in self.task.fields} for batch in batches]
            name = graph_cache.key(self.config, self.options, self.task, shapes)
            compiling = graph_cache.kept(self.graphs, name)
        with compiling:
            for batch in batches:
                self.step.compile(*self.step_inputs(self.leaves(batch, 0)[0][0], 0.0))
            if not self.in_one_graph:
                for carry in self.carries:
                    carry.compile()
                self.finish.compile(Tensor(np.float32(0.0)))
        return True

    def train_step(self, batch: Batch, step: int, rate: float) -> StepResult:
        found = self.leaves(batch, step)
        if self.in_one_graph:
            sums, result = self.step(*self.step_inputs(found[0][0], rate))
            sums = [sums.asnumpy().astype(np.float64)]
        else:
            sums = []
            for done, leaf in enumerate(found, 1):
                sums.append(sum(self.step(*self.step_inputs(part, rate)).asnumpy().astype(np.float64) for part in leaf))
                for level in self.tree.carried(done):
                    self.carries[level]()
            result = self.finish(Tensor(np.float32(rate)))
        norm, skipped, scale = map(float, result.asnumpy())
        whole = added(sums, self.workers)
        return StepResult(dict(zip(self.task.sums, whole.tolist())), norm, bool(skipped), scale)

    def evaluate(self, batch: Batch) -> tuple[Sums, tuple[np.ndarray, ...]]:
        ones = [Tensor(np.float32(1.0))] * (len(self.task.weights) + 1)
        sums, outputs = 0.0, []
        for part in cut(batch, self.training):
            _, part_sums, part_outputs = self.evaluation(*[Tensor(part[name]) for name in self.task.fields], *ones)
            sums = sums + part_sums.asnumpy().astype(np.float64)
            outputs.append([_on_host(output) for output in part_outputs])
        return dict(zip(self.task.sums, sums.tolist())), tuple(map(np.concatenate, zip(*outputs)))

    def state(self) -> tuple[Arrays, Arrays, dict]:
        """Weights, moments and scalars; the arrays are views, valid until the next step."""
        optimizer = self.update.optimizer
        scalars = {
            "updates": int(optimizer.updates.asnumpy()),
            "loss_scale": float(self.update.loss_scale.asnumpy()),
            "good_steps": int(self.update.good_steps.asnumpy()),
        }
        m, v = (
            self.update.exchange.whole(moments_of(letter, _arrays(own)))
            for letter, own in (("m", optimizer.m), ("v", optimizer.v))
        )
        return _arrays(self.model.get_parameters()), all_moments(self.shapes, m, v), scalars

    def load(self, model: Arrays, optimizer: Arrays, scalars: dict) -> None:
        moments = self.update.optimizer
        self.load_weights(model)
        for letter, own in (("m", moments.m), ("v", moments.v)):
            arrays = self.update.exchange.own(moments_of(letter, optimizer))
            _set(own, {f"{letter}.{name}": value for name, value in arrays.items()})
        moments.updates.set_data(Tensor(scalars["updates"], ms.int32))
        self.update.loss_scale.set_data(Tensor(scalars["loss_scale"], ms.float32))
        self.update.good_steps.set_data(Tensor(scalars["good_steps"], ms.int32))

    def load_weights(self, model: Arrays) -> None:
        _set(tuple(self.model.get_parameters()), model)
        self._take_pieces()

    def _take_pieces(self) -> None:
        """Let the pieces that this worker updates be those of the model."""
        if self.workers.count > 1:
            exchange = self.update.exchange
            _set(exchange.pieces, exchange.own(_arrays(self.model.get_parameters())))


def _on_host(output) -> np.ndarray:
    """NumPy's own dtypes: bfloat16, which it lacks, becomes float32."""
    return (ops.cast(output, ms.float32) if output.dtype == ms.bfloat16 else output).asnumpy()


def _arrays(parameters) -> Arrays:
    return {p.name: p.asnumpy() for p in parameters}


def _set(parameters, arrays: Arrays) -> None:
    """Give parameters their values: to each its own, of its shape, and none left over."""
    if {p.name: tuple(p.shape) for p in parameters} != {name: value.shape for name, value in arrays.items()}:
        raise ValueError("the arrays are not those of these parameters")
    for parameter in parameters:
        parameter.set_data(Tensor(arrays[parameter.name]))
