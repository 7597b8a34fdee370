"""What tasks train: the losses, modules that hold a model.

Each takes the fields of its task's batch, then for each of the task's weights its sum over the whole step, () float32,
1 where that is 0, then the loss scale () float32 and dropout_keys as BertModel's. Dividing by the sums of the whole
step, not of the part at hand, makes accumulated gradients those of the whole batch.

Each returns the scaled loss (), the sums (K,) of the task, and a tuple of outputs, each with the batch's rows first.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from ms_bert.tasks import Task
from ms_bert.tasks.answer_selection import AnswerSelection
from ms_bert.tasks.classification import Classification, MultiLabel, Regression
from ms_bert.tasks.distillation import Distillation
from ms_bert.tasks.multiple_choice import MultipleChoice
from ms_bert.tasks.pretraining import PreTraining
from ms_bert.tasks.question_answering import QuestionAnswering
from ms_bert.tasks.tagging import Tagging
from pt_reference.heads import (
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    named,
)
from pt_reference.kernels import correct, means, own_tokens, share_correct, unit, wide
from pt_reference.model import BertForPreTraining, gather_positions


class PreTrainingLoss(nn.Module):
    """The mean MLM loss over the masked tokens of a step plus the mean NSP loss over its sentence pairs.

    The sums are (6,); there are no outputs, for nothing else is asked of it.
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
        masked, pooled, _ = self.model.bert(
            input_ids, sequence_ids, token_type_ids, position_ids, cls_positions, dropout_keys, masked_positions
        )
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


class LabelLoss(nn.Module):
    """The mean loss over what has a label in a step, sequences or tokens; a subclass says which loss.

    The outputs are the logits of a model that classifies sequences (B, N, C), or those of one that classifies tokens
    (B, S, C), of which the mean is taken for each sequence, unless a subclass says otherwise.
    """

    def __init__(self, model: BertForSequenceClassification):
        super().__init__()
        self.model = model
        self.cross_entropy = model.bert.numerics.operations.cross_entropy

    def forward(
        self,
        input_ids,
        sequence_ids,
        token_type_ids,
        position_ids,
        cls_positions,
        labels,
        weights,
        total,
        scale,
        dropout_keys=None,
    ):
        logits = self.model(input_ids, sequence_ids, token_type_ids, position_ids, cls_positions, dropout_keys)
        rows, count = weights.shape
        given, logits = self.for_labels(logits, sequence_ids, rows, count)
        losses, right = self.losses(logits, labels.view(rows * count, -1))
        sums = weighted_sums(losses, right, weights)
        return sums[0] / total * scale, torch.stack(sums).detach(), (given,)

    def for_labels(self, logits, sequence_ids, rows, count):
        """The logits as the outputs have them, and those of what has a label, (B * N, C) of sequences."""
        if logits.ndim == 3:
            return logits, means(logits, sequence_ids, count)
        return logits.view(rows, count, -1), logits

    def losses(self, logits, labels):
        """logits (N, C), labels (N, 1 or more) -> the loss of each (N,), and how right it is, 0..1 (N,)."""
        raise NotImplementedError

    def distance(self, logits, teacher, temperature, labels):
        """How far logits (N, C) are from a teacher's -> (N,); labels: as `losses` takes them."""
        raise NotImplementedError

    def of_examples(self, values, labels):
        """What is true of each sequence (N,), where its loss stands for others, too, as the mean of all of them."""
        return values


class ClassificationLoss(LabelLoss):
    """Cross-entropy of the one label of each sequence."""

    def losses(self, logits, labels):
        labels = labels.flatten()
        return self.cross_entropy(logits, labels), correct(logits, labels)

    def distance(self, logits, teacher, temperature, labels):
        return divergence(wide(logits), wide(teacher), temperature)


class RegressionLoss(LabelLoss):
    """The squared error of the one value (C = 1)."""

    def losses(self, logits, labels):
        errors = (wide(logits) - labels).flatten()
        return errors * errors, torch.zeros_like(errors)

    def distance(self, logits, teacher, temperature, labels):
        return torch.square((wide(logits) - wide(teacher)).flatten())


class MultiLabelLoss(LabelLoss):
    """Binary cross-entropy, the mean over the C labels, of which any number may hold: labels (N, C), 0 or 1."""

    def losses(self, logits, labels):
        logits = wide(logits)
        # -log sigmoid(x) of a label that holds and of -x of one that does not, without overflow.
        losses = torch.relu(logits) - logits * labels + torch.log1p(torch.exp(-torch.abs(logits)))
        return losses.mean(-1), share_correct(logits, labels)

    def distance(self, logits, teacher, temperature, labels):
        # Each label is a choice of two, of logits x and 0.
        return divergence(or_zero(wide(logits)), or_zero(wide(teacher)), temperature).mean(-1)


class DistilledLoss(nn.Module):
    """The loss of a task (1 - share), and its distance from a teacher's logits (share), as LabelLoss has them.

    Args:
        kind: of the loss, one of LabelLoss; of a subclass, one that has what it calls.
    """

    def __init__(self, model, kind: type, distillation: Distillation):
        super().__init__()
        self.model = model
        self.of_task = kind(model)
        self.temperature, self.share = distillation.temperature, distillation.share

    def forward(
        self,
        input_ids,
        sequence_ids,
        token_type_ids,
        position_ids,
        cls_positions,
        labels,
        weights,
        teacher_logits,
        total,
        scale,
        dropout_keys=None,
    ):
        logits = self.model(input_ids, sequence_ids, token_type_ids, position_ids, cls_positions, dropout_keys)
        rows, count = weights.shape
        given, logits = self.of_task.for_labels(logits, sequence_ids, rows, count)
        losses, right = self.mixed(logits, labels, teacher_logits)
        sums = weighted_sums(losses, right, weights)
        return sums[0] / total * scale, torch.stack(sums).detach(), (given,)

    def mixed(self, logits, labels, teacher):
        """logits (B * N, C), labels (B, N, ...) and a teacher's logits (B, N, C) -> as `losses` of LabelLoss.

        Of labels of tokens N is S.
        """
        labels, teacher = labels.view(logits.shape[0], -1), teacher.view(logits.shape[0], -1)
        losses, right = self.of_task.losses(logits, labels)
        distances = self.of_task.distance(logits, teacher, self.temperature, labels)
        return (1.0 - self.share) * losses + self.share * distances, right


class PatientLoss(DistilledLoss):
    """DistilledLoss, and the distance of the hidden states from the teacher's, times a weight (Sun et al., 2019).

    Of each layer but the last a sequence has a vector, the state of [CLS], or the mean of its tokens where the model
    classifies tokens. The distance is the squared length of the difference of this vector, divided by its length, and
    the teacher's: from 0 to 4; the mean over the layers, where arXiv 1908.09355, 3.2, has the sum.
    """

    def __init__(self, model, kind: type[LabelLoss], distillation: Distillation):
        super().__init__(model, kind, distillation)
        self.weight = distillation.states

    def forward(
        self,
        input_ids,
        sequence_ids,
        token_type_ids,
        position_ids,
        cls_positions,
        labels,
        weights,
        teacher_logits,
        teacher_states,
        total,
        scale,
        dropout_keys=None,
    ):
        hidden, pooled, (_, layers) = self.model.bert(
            input_ids, sequence_ids, token_type_ids, position_ids, cls_positions, dropout_keys
        )
        logits = self.model.head(hidden, pooled, input_ids.shape[1], dropout_keys)
        vectors = self.vectors(layers, sequence_ids, cls_positions, logits.ndim == 3)
        rows, count = weights.shape
        given, logits = self.of_task.for_labels(logits, sequence_ids, rows, count)
        losses, right = self.mixed(logits, labels, teacher_logits)
        apart = self.state_distance(vectors, teacher_states)
        losses = losses + self.weight * self.of_task.of_examples(apart, labels.view(-1, 1))
        sums = weighted_sums(losses, right, weights)
        return sums[0] / total * scale, torch.stack(sums).detach(), (given,)

    def vectors(self, layers, sequence_ids, cls_positions, of_tokens):
        """The intermediates of BertModel's layers -> of each sequence a vector for each but the last (B * N, L, H)."""
        rows, tokens = sequence_ids.shape
        made = ()
        for _, _, states in layers[:-1]:
            if of_tokens:
                vector = means(states.view(rows, tokens, -1), sequence_ids, cls_positions.shape[1])
            else:
                vector = wide(gather_positions(states, cls_positions, tokens))
            made += (vector,)
        return torch.stack(made, 1)

    def state_distance(self, vectors, teacher):
        """vectors (B * N, L, H), a teacher's of length 1 (B, N, L, H) -> (B * N,)."""
        teacher = wide(teacher.view(vectors.shape[0], vectors.shape[1], -1))
        return torch.square(unit(vectors) - teacher).sum(-1).mean(-1)


def or_zero(x):
    """The logits (..., 2) of a choice between x and 0."""
    return torch.stack((x, torch.zeros_like(x)), -1)


def divergence(logits, teacher, temperature):
    """T^2 KL(softmax(teacher / T) || softmax(logits / T)) over the last axis, float32 (Hinton et al., 2015, 2.1)."""
    student, target = torch.log_softmax(logits / temperature, -1), torch.log_softmax(teacher / temperature, -1)
    return temperature * temperature * (torch.exp(target) * (target - student)).sum(-1)


class TaggingLoss(ClassificationLoss):
    """The mean cross-entropy over the tokens of a step that have a label, of a model that gives logits for each.

    The outputs are the logits (B, S, C).
    """

    def for_labels(self, logits, sequence_ids, rows, count):
        return logits, logits.view(-1, logits.shape[-1])


class ChoiceLoss(LabelLoss):
    """Cross-entropy of the choices of each question, whose scores are the one value (C = 1).

    In place of labels it takes which question each sequence is a choice of; the choices of one lie anywhere in the
    batch. The weights are 1 at the right choices and 0 at all others, so that their sum is that of the questions.
    """

    def losses(self, logits, questions):
        scores = self.of_questions(logits, questions)
        own = torch.arange(scores.shape[0], device=scores.device)
        return self.cross_entropy(scores, own), correct(scores, own)

    def distance(self, logits, teacher, temperature, questions):
        return divergence(self.of_questions(logits, questions), self.of_questions(teacher, questions), temperature)

    def of_questions(self, logits, questions):
        """The scores (N, 1) of N choices -> for each the scores of all choices of its question, nothing of others
        (N, N). The column of a choice is its number."""
        return wide(logits).view(1, -1) + (self.same(questions) - 1.0) * 1e9

    def of_examples(self, values, questions):
        """The loss of a question stands at its right choice."""
        same = self.same(questions)
        return (same * values.view(1, -1)).sum(-1) / same.sum(-1)

    def same(self, questions):
        """Whether two choices are of the same question: (N, N) float32."""
        questions = questions.view(-1, 1)
        return wide(questions == questions.view(1, -1))


class SpanLoss(nn.Module):
    """The mean loss over the sequences of a step, of a model that gives each token two logits, as the start and as the
    end of an answer: of each the cross-entropy over the tokens of the same sequence, then the mean of both.

    For a sequence that is alone in its row it is the loss of transformers' BertForQuestionAnswering; where several
    answers are right, the mean of what that is for each of them.

    Its fields have starts and ends, (B, S) float32, of each token the share of its sequence's right answers that begin
    or end there; they add up to 1 for each sequence. A sequence is right (1) if both best tokens have a share. The
    outputs are the logits (B, S, 2), start and end.
    """

    def __init__(self, model: BertForQuestionAnswering):
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids,
        sequence_ids,
        token_type_ids,
        position_ids,
        cls_positions,
        starts,
        ends,
        weights,
        total,
        scale,
        dropout_keys=None,
    ):
        start, end = self.model(input_ids, sequence_ids, token_type_ids, position_ids, cls_positions, dropout_keys)
        start, end = wide(start), wide(end)
        losses, right = self.losses(start, end, starts, ends, own_tokens(sequence_ids, weights.shape[1]))
        sums = weighted_sums(losses, right, weights)
        return sums[0] / total * scale, torch.stack(sums).detach(), (torch.stack((start, end), -1),)

    def losses(self, start, end, starts, ends, own):
        """Logits and targets (B, S), own (B, N, S) -> the loss of each sequence (B * N,), and whether it is right."""
        start_losses, start_right = token_losses(start, starts, own)
        end_losses, end_right = token_losses(end, ends, own)
        return 0.5 * (start_losses + end_losses), start_right * end_right

    def distance(self, start, end, teacher, temperature, own):
        """How far logits (B, S) are from a teacher's (B, S, 2) over the tokens of the same sequence -> (B * N,)."""
        starts = divergence(among_own(start, own), among_own(teacher[..., 0], own), temperature)
        ends = divergence(among_own(end, own), among_own(teacher[..., 1], own), temperature)
        return (0.5 * (starts + ends)).flatten()


class DistilledSpanLoss(DistilledLoss):
    """The loss of SpanLoss (1 - share), and the distance from a teacher's logits of start and end (share)."""

    def forward(
        self,
        input_ids,
        sequence_ids,
        token_type_ids,
        position_ids,
        cls_positions,
        starts,
        ends,
        weights,
        teacher_logits,
        total,
        scale,
        dropout_keys=None,
    ):
        start, end = self.model(input_ids, sequence_ids, token_type_ids, position_ids, cls_positions, dropout_keys)
        start, end = wide(start), wide(end)
        own = own_tokens(sequence_ids, weights.shape[1])
        losses, right = self.of_task.losses(start, end, starts, ends, own)
        distances = self.of_task.distance(start, end, wide(teacher_logits), self.temperature, own)
        sums = weighted_sums((1.0 - self.share) * losses + self.share * distances, right, weights)
        return sums[0] / total * scale, torch.stack(sums).detach(), (torch.stack((start, end), -1),)


def among_own(logits, own):
    """Logits (B, S) for each sequence, nothing at the tokens that are not its own: (B, N, S)."""
    return logits[:, None] + (own - 1.0) * 1e9


def token_losses(logits, targets, own):
    """The cross-entropy of each sequence over its own tokens: -sum of target * log softmax(logits).

    Args:
        logits: (B, S). targets: (B, S), 1 in all for each sequence. own: (B, N, S), see `own_tokens`.

    Returns:
        (B * N,), and whether the token with the highest logit has a target above 0 (B * N,), float32.
    """
    scores = among_own(logits, own)
    centred = scores - scores.amax(-1, keepdim=True).detach()
    totals = torch.log1p(torch.exp(centred).sum(-1) - 1.0)
    hits = (centred * own * targets[:, None]).sum(-1)
    right = torch.gather(targets, 1, scores.argmax(-1)) > 0.0
    return (totals - hits).flatten(), wide(right).flatten()


def weighted_sums(losses, right, weights):
    """Sums over rows of weight * loss, weight * (the label has the highest score), and weight."""
    weights = weights.flatten().to(losses.dtype)
    return (losses * weights).sum(), (right * weights).sum(), weights.sum()


class Objective(NamedTuple):
    """What trains a task: the model, made of (config, numerics), and the loss, made of the model; and what is learned
    where there is a teacher, made of (model, loss, distillation)."""

    model: Callable[..., nn.Module]
    loss: Callable[..., nn.Module]
    distilled: Callable[..., nn.Module] = DistilledLoss


OBJECTIVES = {
    PreTraining.name: Objective(BertForPreTraining, PreTrainingLoss),
    Classification.name: Objective(BertForSequenceClassification, ClassificationLoss),
    Regression.name: Objective(BertForSequenceClassification, RegressionLoss),
    MultiLabel.name: Objective(BertForSequenceClassification, MultiLabelLoss),
    Tagging.name: Objective(BertForTokenClassification, TaggingLoss),
    MultipleChoice.name: Objective(BertForMultipleChoice, ChoiceLoss),
    AnswerSelection.name: Objective(BertForSequenceClassification, ClassificationLoss),
    QuestionAnswering.name: Objective(BertForQuestionAnswering, SpanLoss, DistilledSpanLoss),
}


def objective(task: Task) -> Objective:
    """That of a task, whose architecture may follow from its options."""
    found = OBJECTIVES[task.name]._replace(model=named(task.architecture))
    distillation = getattr(task, "distillation", None)
    if distillation is None:
        return found
    loss = PatientLoss if distillation.states else found.distilled
    return found._replace(loss=functools.partial(loss, kind=found.loss, distillation=distillation))
