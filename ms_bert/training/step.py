"""The compiled step: forward pass, gradients, clipping, loss scaling, optimizer."""

from collections.abc import Mapping

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ms_bert.kernels import Operations
from ms_bert.kernels.stock import multiplied
from ms_bert.options import TrainingOptions
from ms_bert.run.recipe import GROWTH_INTERVAL
from ms_bert.training.exchange import Whole
from ms_bert.training.optimizers import OPTIMIZERS


def cleared(after, buffer):
    """Set a buffer to 0 once `after` is known."""
    return ops.assign(buffer, ops.depend(ops.zeros_like(buffer), after))


class Update(nn.Cell):
    """Unscale and clip the gradients, let the optimizer update, and adapt the loss scale.

    Clipping multiplies all gradients by clip / max(norm, clip), norm being their global norm (Pascanu et al., 2013).
    In float16 the loss is scaled (Micikevicius et al., 2018): a norm that is not finite skips the update and halves the
    scale, to no less than 1, and it doubles after 1000 good steps in a row.

    Args:
        shares: of the learning rate, by parameter name; None: 1. exchange: between workers; None: there is one.

    Attributes:
        optimizers: by the names of --optimizer; a subclass may have others.

    Returns:
        the norm, whether it was skipped at a scale above 1 (0 or 1) and the next loss scale, (3,) float32.
    """

    optimizers = OPTIMIZERS

    def __init__(
        self,
        parameters,
        options: TrainingOptions,
        operations: Operations,
        shares: Mapping[str, float] | None = None,
        exchange: Whole | None = None,
    ):
        super().__init__(auto_prefix=False)
        self.exchange = exchange or Whole(parameters)
        self.optimizer = self.optimizers[options.optimizer](self.exchange, options, operations, shares)
        self.sums_of_squares = operations.sums_of_squares
        self.clip_norm = options.clip_norm
        self.scaled = options.precision == "float16"
        self.map = ops.HyperMap()
        first = options.loss_scale if self.scaled else 1.0
        self.loss_scale = Parameter(Tensor(first, ms.float32), name="loss_scale")
        self.good_steps = Parameter(Tensor(0, ms.int32), name="good_steps")

    def construct(self, gradients, rate):
        gradients = self.exchange.reduced(gradients)
        squares = self.exchange.of_tiles(self.map(self.sums_of_squares, gradients))
        norm = ops.sqrt(squares.sum()) / self.loss_scale
        factor = 1.0 / self.loss_scale
        if self.clip_norm > 0.0:
            factor = factor * (self.clip_norm / ops.maximum(norm, Tensor(self.clip_norm, ms.float32)))
        if not self.scaled:
            done = self.exchange.published(self.optimizer(gradients, factor, rate, None))
            return ops.depend(ops.stack((norm, ops.zeros_like(norm), ops.ones_like(norm))), done)
        finite = ops.isfinite(norm)
        done = self.exchange.published(self.optimizer(gradients, factor, rate, finite))
        good = ops.select(finite, self.good_steps + 1, ops.zeros_like(self.good_steps))
        grown = good >= GROWTH_INTERVAL
        scale = ops.select(
            finite,
            ops.select(grown, self.loss_scale * 2.0, self.loss_scale * 1.0),
            ops.maximum(self.loss_scale * 0.5, Tensor(1.0, ms.float32)),
        )
        skipped = ops.logical_and(ops.logical_not(finite), self.loss_scale > 1.0)
        result = ops.stack((norm, ops.cast(skipped, ms.float32), scale))
        changes = (
            ops.assign(self.loss_scale, scale),
            ops.assign(self.good_steps, ops.select(grown, ops.zeros_like(good), good)),
        )
        return ops.depend(result, (done, changes))


class TrainStep(nn.Cell):
    """A whole step in one graph: the batch's loss, its gradients, the update.

    Args:
        loss: a cell of a task: fields of a batch, their totals, scale and dropout keys -> the scaled loss (), the sums
            (K,) of the task, and a tuple of outputs.

    Args of the call:
        rate: () float32. row_keys, column_keys: of dropout. arrays: the task's fields, then its totals.

    Returns:
        the sums (K,) and Update's (3,).
    """

    def __init__(self, loss: nn.Cell, update: Update, parameters):
        super().__init__(auto_prefix=False)
        self.update = update
        self.gradients = ms.value_and_grad(loss, None, weights=ParameterTuple(parameters), has_aux=True)

    def construct(self, rate, row_keys, column_keys, *arrays):
        (_, sums, _), gradients = self.gradients(*arrays, self.update.loss_scale, (row_keys, column_keys))
        return sums, self.update(gradients, rate)


class AccumulateStep(nn.Cell):
    """The gradients of one part of a leaf, added to the buffers. Called as TrainStep; returns the sums (K,)."""

    def __init__(self, loss: nn.Cell, update: Update, parameters, buffers):
        super().__init__(auto_prefix=False)
        self.update = update
        self.buffers = ParameterTuple(buffers)
        self.map = ops.HyperMap()
        self.gradients = ms.value_and_grad(loss, None, weights=ParameterTuple(parameters), has_aux=True)

    def construct(self, rate, row_keys, column_keys, *arrays):  # the rate is for the update
        (_, sums, _), gradients = self.gradients(*arrays, self.update.loss_scale, (row_keys, column_keys))
        return ops.depend(sums, self.map(ops.assign_add, self.buffers, gradients))


class Carry(nn.Cell):
    """Buffers added to those of the next level of the tree (see `ms_bert.run.leaves`), and set back to 0."""

    def __init__(self, buffers, following):
        super().__init__(auto_prefix=False)
        self.buffers, self.following = ParameterTuple(buffers), ParameterTuple(following)
        self.map = ops.HyperMap()

    def construct(self):
        return self.map(carried, self.following, self.buffers)


def carried(following, buffer):
    return cleared(ops.assign_add(following, buffer), buffer)


class UpdateFromBuffers(nn.Cell):
    """The update with the accumulated gradients, and the buffers set back to 0. Returns Update's (3,)."""

    def __init__(self, update: Update, buffers):
        super().__init__(auto_prefix=False)
        self.update = update
        self.buffers = ParameterTuple(buffers)
        self.map = ops.HyperMap()

    def construct(self, rate):
        gradients = self.map(ops.partial(multiplied, 1.0), self.buffers)
        result = self.update(gradients, rate)
        return ops.depend(result, self.map(ops.partial(cleared, result), self.buffers))
