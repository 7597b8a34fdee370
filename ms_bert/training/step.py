"""The compiled step: forward pass, gradients, clipping, loss scaling, optimizer."""

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ms_bert.kernels import Operations
from ms_bert.kernels.stock import correct, multiplied
from ms_bert.model import BertForPreTraining, gather_positions
from ms_bert.options import TrainingOptions
from ms_bert.run.recipe import GROWTH_INTERVAL
from ms_bert.training.optimizers import OPTIMIZERS


class PreTrainingLoss(nn.Cell):
    """The pre-training loss of a batch, as its share of the step's loss.

    The loss of a step is the mean over its masked tokens plus the mean over its sentence pairs; dividing by the counts
    of the whole step, not of the part at hand, makes accumulated gradients those of the whole batch.

    Args of the call:
        the fields of `ms_bert.tasks.pretraining`; masked_total, next_sentence_total: () float32, the sums of the
        weights over the step (at least 1); scale: () float32 loss scale; dropout_keys: as BertModel's.

    Returns:
        the scaled loss (), the sums (6,) of the task, in its dtype, and () for outputs: nothing else is asked of it.
    """

    def __init__(self, model: BertForPreTraining):
        super().__init__(auto_prefix=False)  # a cell that holds the model must not rename its parameters
        self.model = model
        operations = model.bert.numerics.operations
        self.linear_cross_entropy, self.cross_entropy = operations.linear_cross_entropy, operations.cross_entropy

    def construct(
        self,
        input_ids,
        sequence_ids,
        token_type_ids,
        position_ids,
        cls_positions,
        masked_positions,
        masked_labels,
        masked_weights,
        next_sentence_labels,
        next_sentence_weights,
        masked_total,
        next_sentence_total,
        scale,
        dropout_keys=None,
    ):
        hidden, pooled, _ = self.model.bert(
            input_ids, sequence_ids, token_type_ids, position_ids, cls_positions, dropout_keys
        )
        masked = gather_positions(hidden, masked_positions, input_ids.shape[1])
        head, word_embeddings = self.model.cls.predictions, self.model.bert.embeddings.word_embeddings.weight
        labels = ops.reshape(masked_labels, (-1,))
        # The scores are never given: the operation may turn them into their gradient where they are.
        losses, right = self.linear_cross_entropy(head.transform(masked), word_embeddings, head.bias, labels)
        masked = weighted_sums(losses, right, masked_weights)
        logits, labels = self.model.cls.seq_relationship(pooled), ops.reshape(next_sentence_labels, (-1,))
        losses, right = self.cross_entropy(logits, labels), correct(logits, labels)
        next_sentence = weighted_sums(losses, right, next_sentence_weights)
        loss = masked[0] / masked_total + next_sentence[0] / next_sentence_total
        return loss * scale, ops.stack(masked + next_sentence), ()


def weighted_sums(losses, right, weights):
    """Sums over rows of weight * loss, weight * (the label has the highest score), and weight."""
    weights = ops.reshape(weights, (-1,))
    return (losses * weights).sum(), (right * weights).sum(), weights.sum()


def cleared(after, buffer):
    """Set a buffer to 0 once `after` is known."""
    return ops.assign(buffer, ops.depend(ops.zeros_like(buffer), after))


class Update(nn.Cell):
    """Unscale and clip the gradients, let the optimizer update, and adapt the loss scale.

    Clipping multiplies all gradients by clip / max(norm, clip), norm being their global norm (Pascanu et al., 2013).
    In float16 the loss is scaled (Micikevicius et al., 2018): a norm that is not finite skips the update and halves the
    scale, to no less than 1, and it doubles after 1000 good steps in a row.

    Attributes:
        optimizers: by the names of --optimizer; a subclass may have others.

    Returns:
        the norm, whether it was skipped at a scale above 1 (0 or 1) and the next loss scale, (3,) float32.
    """

    optimizers = OPTIMIZERS

    def __init__(self, parameters, options: TrainingOptions, operations: Operations):
        super().__init__(auto_prefix=False)
        self.optimizer = self.optimizers[options.optimizer](parameters, options, operations)
        self.sum_of_squares = operations.sum_of_squares
        self.clip_norm = options.clip_norm
        self.scaled = options.precision == "float16"
        self.map = ops.HyperMap()
        first = options.loss_scale if self.scaled else 1.0
        self.loss_scale = Parameter(Tensor(first, ms.float32), name="loss_scale")
        self.good_steps = Parameter(Tensor(0, ms.int32), name="good_steps")

    def construct(self, gradients, rate):
        norm = ops.sqrt(ops.stack(self.map(self.sum_of_squares, gradients)).sum()) / self.loss_scale
        factor = 1.0 / self.loss_scale
        if self.clip_norm > 0.0:
            factor = factor * (self.clip_norm / ops.maximum(norm, Tensor(self.clip_norm, ms.float32)))
        if not self.scaled:
            done = self.optimizer(gradients, factor, rate, None)
            return ops.depend(ops.stack((norm, ops.zeros_like(norm), ops.ones_like(norm))), done)
        finite = ops.isfinite(norm)
        done = self.optimizer(gradients, factor, rate, finite)
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
    """The gradients of one part of the batch, added to the buffers. Called as TrainStep; returns the sums (K,)."""

    def __init__(self, loss: nn.Cell, update: Update, parameters, buffers):
        super().__init__(auto_prefix=False)
        self.update = update
        self.buffers = ParameterTuple(buffers)
        self.map = ops.HyperMap()
        self.gradients = ms.value_and_grad(loss, None, weights=ParameterTuple(parameters), has_aux=True)

    def construct(self, rate, row_keys, column_keys, *arrays):  # the rate is for the update
        (_, sums, _), gradients = self.gradients(*arrays, self.update.loss_scale, (row_keys, column_keys))
        return ops.depend(sums, self.map(ops.assign_add, self.buffers, gradients))


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
