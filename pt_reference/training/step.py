"""What a step computes: the pre-training loss, then clipping, loss scaling and the optimizer."""

import torch
from torch import nn

from ms_bert.options import TrainingOptions
from ms_bert.run.recipe import GROWTH_INTERVAL
from pt_reference.kernels import Operations, correct
from pt_reference.model import BertForPreTraining, gather_positions
from pt_reference.training.optimizers import OPTIMIZERS


class PreTrainingLoss(nn.Module):
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
        super().__init__()
        self.model = model
        operations = model.bert.numerics.operations
        self.linear_cross_entropy, self.cross_entropy = operations.linear_cross_entropy, operations.cross_entropy

    def forward(
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
        labels = masked_labels.flatten()
        # The scores are never given: the operation may turn them into their gradient where they are.
        losses, right = self.linear_cross_entropy(head.transform(masked), word_embeddings, head.bias, labels)
        masked = weighted_sums(losses, right, masked_weights)
        logits, labels = self.model.cls.seq_relationship(pooled), next_sentence_labels.flatten()
        losses, right = self.cross_entropy(logits, labels), correct(logits, labels)
        next_sentence = weighted_sums(losses, right, next_sentence_weights)
        loss = masked[0] / masked_total + next_sentence[0] / next_sentence_total
        return loss * scale, torch.stack(masked + next_sentence).detach(), ()


def weighted_sums(losses, right, weights):
    """Sums over rows of weight * loss, weight * (the label has the highest score), and weight."""
    weights = weights.flatten().to(losses.dtype)
    return (losses * weights).sum(), (right * weights).sum(), weights.sum()


class Update:
    """Unscale and clip the gradients, let the optimizer update, and adapt the loss scale.

    Clipping multiplies all gradients by clip / max(norm, clip), norm being their global norm (Pascanu et al., 2013).
    In float16 the loss is scaled (Micikevicius et al., 2018): a norm that is not finite skips the update and halves the
    scale, to no less than 1, and it doubles after 1000 good steps in a row.

    Attributes:
        optimizers: by the names of --optimizer; a subclass may have others.
    """

    optimizers = OPTIMIZERS

    def __init__(self, parameters: dict[str, nn.Parameter], options: TrainingOptions, operations: Operations):
        self.parameters = list(parameters.values())
        self.optimizer = self.optimizers[options.optimizer](parameters, options)
        self.sum_of_squares = operations.sum_of_squares
        self.clip_norm = options.clip_norm
        self.scaled = options.precision == "float16"
        self.loss_scale = options.loss_scale if self.scaled else 1.0
        self.good_steps = 0

    def __call__(self, rate: float) -> tuple[float, bool]:
        """Update with the gradients that the parameters hold, and clear them.

        Returns:
            the norm, and whether it was skipped at a scale above 1.
        """
        gradients = [p.grad for p in self.parameters]
        norm = float(sum(map(self.sum_of_squares, gradients)) ** 0.5) / self.loss_scale
        overflown = self.scaled and not abs(norm) < float("inf")
        skipped = overflown and self.loss_scale > 1.0
        if not overflown:
            factor = 1.0 / self.loss_scale
            if self.clip_norm > 0.0:
                factor *= self.clip_norm / max(norm, self.clip_norm)
            if factor != 1.0:
                torch._foreach_mul_(gradients, factor)
            self.optimizer.step(rate)
        if self.scaled:
            self._adapt(overflown)
        self.clear()
        return norm, skipped

    def clear(self) -> None:
        """Forget the gradients that the parameters hold."""
        for p in self.parameters:
            p.grad = None

    def _adapt(self, overflown: bool) -> None:
        self.good_steps = 0 if overflown else self.good_steps + 1
        if overflown:
            self.loss_scale = max(self.loss_scale * 0.5, 1.0)
        elif self.good_steps >= GROWTH_INTERVAL:
            self.loss_scale, self.good_steps = self.loss_scale * 2.0, 0
