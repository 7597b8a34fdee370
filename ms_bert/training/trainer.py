"""The trainer: a BERT, its optimizer and its compiled steps, driven by `ms_bert.run.loop`."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops

from ms_bert import kernels
from ms_bert.config import BertConfig
from ms_bert.data.batches import FIELDS, Batch
from ms_bert.errors import UserError
from ms_bert.model import BertForPreTraining, Numerics, count_parameters, initialize
from ms_bert.options import Options
from ms_bert.randomness import DropoutColumns, dropout_keys
from ms_bert.run.checkpoints import Arrays
from ms_bert.run.loop import SUMS, StepResult
from ms_bert.training.step import AccumulateStep, PreTrainingLoss, TrainStep, Update, UpdateFromBuffers

# What other writers add to a model.safetensors though it is no parameter of its own.
_DERIVED = {"cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
            "cls.predictions.decoder.bias": "cls.predictions.bias"}
_BUFFERS = {"bert.embeddings.position_ids"}


class MindSporeTrainer:
    """See `ms_bert.run.loop.Trainer`.

    Attributes:
        model: the BertForPreTraining. parameters: number of its values.
    """

    def __init__(self, config: BertConfig, options: Options):
        training = options.training
        self.config, self.training = config, training
        kernels.check(options.run.device, training.precision, config.head_size, options.examples.seq_length)
        self.model = BertForPreTraining(config, Numerics(options.run.device, training.precision, training.recompute))
        initialize(self.model, config, training.seed, options.model.truncated_normal)
        self.parameters = count_parameters(self.model)
        parameters = self.model.trainable_params()
        self.loss = PreTrainingLoss(self.model)
        self.update = Update(parameters, training)
        self.columns = DropoutColumns(config).total
        self.evaluation = PreTrainingLoss(self.model)
        if training.accumulate == 1:
            self.step = TrainStep(self.loss, self.update, parameters)
        else:
            buffers = [Parameter(ops.zeros_like(p), name=f"gradient.{p.name}") for p in parameters]
            self.step = AccumulateStep(self.loss, self.update, parameters, buffers)
            self.finish = UpdateFromBuffers(self.update, buffers)

    def step_inputs(self, batch: Batch, step: int, rate: float, part: int = 0) -> list[Tensor]:
        """What the compiled step takes for one part of a batch: its arrays, the step's totals, rate and dropout keys."""
        rows, tokens = batch["input_ids"].shape
        size = rows // self.training.accumulate
        of = slice(part * size, (part + 1) * size)
        # The keys are those of the whole batch, so that a batch in parts drops the very same units.
        row_keys, column_keys = dropout_keys(self.training.seed, step, rows * tokens, self.columns)
        totals = [np.float32(max(batch[name].sum(), 1.0)) for name in ("masked_weights", "next_sentence_weights")]
        values = [*(batch[name][of] for name in FIELDS), *totals, np.float32(rate),
                  row_keys[of.start * tokens:of.stop * tokens], column_keys]
        return [Tensor(value) for value in values]

    def train_step(self, batch: Batch, step: int, rate: float) -> StepResult:
        if self.training.accumulate == 1:
            sums, result = self.step(*self.step_inputs(batch, step, rate))
            sums = sums.asnumpy().astype(np.float64)
        else:
            sums = sum(self.step(*self.step_inputs(batch, step, rate, part)).asnumpy().astype(np.float64)
                       for part in range(self.training.accumulate))
            result = self.finish(Tensor(np.float32(rate)))
        norm, skipped, scale = map(float, result.asnumpy())
        return StepResult(dict(zip(SUMS, sums.tolist())), norm, bool(skipped), scale)

    def evaluate(self, batch: Batch) -> dict[str, float]:
        one = Tensor(np.float32(1.0))
        _, sums = self.evaluation(*[Tensor(batch[name]) for name in FIELDS], one, one, one)
        return dict(zip(SUMS, map(float, sums.asnumpy())))

    def state(self) -> tuple[Arrays, Arrays, dict]:
        optimizer = self.update.optimizer
        scalars = {"updates": int(optimizer.updates.asnumpy()), "loss_scale": float(self.update.loss_scale.asnumpy()),
                   "good_steps": int(self.update.good_steps.asnumpy())}
        return (_arrays(self.model.trainable_params()), _arrays((*optimizer.m, *optimizer.v)), scalars)

    def load(self, model: Arrays, optimizer: Arrays, scalars: dict) -> None:
        """Take over a state.

        Raises:
            UserError: the names or shapes are not this model's.
        """
        moments = self.update.optimizer
        _set(self.model.trainable_params(), model, "the checkpoint")
        _set((*moments.m, *moments.v), optimizer, "the checkpoint's optimizer")
        moments.updates.set_data(Tensor(scalars["updates"], ms.int32))
        self.update.loss_scale.set_data(Tensor(scalars["loss_scale"], ms.float32))
        self.update.good_steps.set_data(Tensor(scalars["good_steps"], ms.int32))

    def load_weights(self, model: Arrays, source: str) -> None:
        """Begin from weights instead of random ones; a tied decoder and position ids beside them may be there."""
        model = {name: value for name, value in model.items() if name not in _BUFFERS}
        for name, own in _DERIVED.items():
            if name in model and own in model and not np.array_equal(model.pop(name), model[own]):
                raise UserError(f"{source}: {name} differs from {own}, and this model ties the two; its heads cannot be "
                                "loaded as they are.")
        _set(self.model.trainable_params(), model, source)


def _arrays(parameters) -> Arrays:
    return {p.name: p.asnumpy().copy() for p in parameters}


def _set(parameters, arrays: Arrays, source: str) -> None:
    """Give parameters their values; all that does not fit is told at once."""
    expected = {p.name: tuple(p.shape) for p in parameters}
    faults = [f"{name} is missing" for name in expected if name not in arrays]
    faults += [f"{name} is unexpected" for name in arrays if name not in expected]
    faults += [f"{name} is {arrays[name].dtype} {arrays[name].shape} instead of float32 {shape}"
               for name, shape in expected.items()
               if name in arrays and (arrays[name].shape != shape or arrays[name].dtype != np.float32)]
    if faults:
        raise UserError(f"{source} does not fit this model: {'; '.join(faults)}.")
    for parameter in parameters:
        parameter.set_data(Tensor(arrays[parameter.name]))
