"""The trainer: a BERT, its optimizer and its compiled steps, driven by `ms_bert.run.loop`."""

from __future__ import annotations

import contextlib
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops

from ms_bert import kernels
from ms_bert.config import BertConfig
from ms_bert.data.batches import FIELDS, Batch
from ms_bert.model import BertForPreTraining, Numerics, initialize
from ms_bert.options import Options
from ms_bert.randomness import DropoutColumns
from ms_bert.run.checkpoints import Arrays
from ms_bert.run.loop import SUMS, StepResult
from ms_bert.run.recipe import cut, parts
from ms_bert.training import graph_cache
from ms_bert.training.step import AccumulateStep, PreTrainingLoss, TrainStep, Update, UpdateFromBuffers


class MindSporeTrainer:
    """See `ms_bert.run.loop.Trainer`.

    Args:
        graphs: the folder in which compiled training steps are kept; None: each is compiled anew.
        numerics: how the model computes; None: as the options say. update: what clips and updates.

    Attributes:
        model: the BertForPreTraining. shapes: of its parameters, by name.
    """

    def __init__(
        self,
        config: BertConfig,
        options: Options,
        graphs: Path | None = None,
        numerics: Numerics | None = None,
        update: type[Update] = Update,
    ):
        training = options.training
        self.training = training
        kernels.check(options.run.device, training.precision, config.head_size, options.examples.seq_length)
        numerics = numerics or Numerics(options.run.device, training.precision, training.recompute, training.kernels)
        self.model = BertForPreTraining(config, numerics)
        initialize(self.model, config, training.seed, options.model.truncated_normal)
        parameters = self.model.trainable_params()
        self.shapes = {p.name: tuple(p.shape) for p in parameters}
        loss, self.evaluation = PreTrainingLoss(self.model), PreTrainingLoss(self.model)
        self.update = update(parameters, training, numerics.operations)
        self.columns = DropoutColumns(config).total
        self.compiling = contextlib.nullcontext()
        if graphs is not None:
            self.compiling = graph_cache.kept(graphs, graph_cache.key(config, options))
        if training.accumulate == 1:
            self.step = TrainStep(loss, self.update, parameters)
        else:
            buffers = [Parameter(ops.zeros_like(p), name=f"gradient.{p.name}") for p in parameters]
            self.step = AccumulateStep(loss, self.update, parameters, buffers)
            self.finish = UpdateFromBuffers(self.update, buffers)

    def step_inputs(self, batch: Batch, step: int, rate: float) -> list[list[Tensor]]:
        """What the compiled step takes for each part of a batch: its arrays, totals, rate and dropout keys."""
        return [
            [
                *(Tensor(part.batch[name]) for name in FIELDS),
                *(Tensor(value) for value in (part.masked_total, part.next_sentence_total, np.float32(rate))),
                Tensor(part.row_keys),
                Tensor(part.column_keys),
            ]
            for part in parts(batch, self.training, step, self.columns)
        ]

    def train_step(self, batch: Batch, step: int, rate: float) -> StepResult:
        compiling, self.compiling = self.compiling, contextlib.nullcontext()
        with compiling:
            return self._train_step(self.step_inputs(batch, step, rate), rate)

    def _train_step(self, inputs: list[list[Tensor]], rate: float) -> StepResult:
        if len(inputs) == 1:
            sums, result = self.step(*inputs[0])
            sums = sums.asnumpy().astype(np.float64)
        else:
            sums = sum(self.step(*part).asnumpy().astype(np.float64) for part in inputs)
            result = self.finish(Tensor(np.float32(rate)))
        norm, skipped, scale = map(float, result.asnumpy())
        return StepResult(dict(zip(SUMS, sums.tolist())), norm, bool(skipped), scale)

    def evaluate(self, batch: Batch) -> dict[str, float]:
        one = Tensor(np.float32(1.0))
        sums = 0.0
        for part in cut(batch, self.training):
            _, part_sums = self.evaluation(*[Tensor(part[name]) for name in FIELDS], one, one, one)
            sums = sums + part_sums.asnumpy().astype(np.float64)
        return dict(zip(SUMS, sums.tolist()))

    def state(self) -> tuple[Arrays, Arrays, dict]:
        """Weights, moments and scalars; the arrays are views, valid until the next step."""
        optimizer = self.update.optimizer
        scalars = {
            "updates": int(optimizer.updates.asnumpy()),
            "loss_scale": float(self.update.loss_scale.asnumpy()),
            "good_steps": int(self.update.good_steps.asnumpy()),
        }
        return (_arrays(self.model.trainable_params()), _arrays((*optimizer.m, *optimizer.v)), scalars)

    def load(self, model: Arrays, optimizer: Arrays, scalars: dict) -> None:
        moments = self.update.optimizer
        self.load_weights(model)
        _set((*moments.m, *moments.v), optimizer)
        moments.updates.set_data(Tensor(scalars["updates"], ms.int32))
        self.update.loss_scale.set_data(Tensor(scalars["loss_scale"], ms.float32))
        self.update.good_steps.set_data(Tensor(scalars["good_steps"], ms.int32))

    def load_weights(self, model: Arrays) -> None:
        _set(self.model.trainable_params(), model)


def _arrays(parameters) -> Arrays:
    return {p.name: p.asnumpy() for p in parameters}


def _set(parameters, arrays: Arrays) -> None:
    """Give parameters their values: to each its own, of its shape, and none left over."""
    if {p.name: tuple(p.shape) for p in parameters} != {name: value.shape for name, value in arrays.items()}:
        raise ValueError("the arrays are not those of these parameters")
    for parameter in parameters:
        parameter.set_data(Tensor(arrays[parameter.name]))
