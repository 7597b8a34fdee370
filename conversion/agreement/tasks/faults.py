"""Planted faults of learning a task: small changes, which the agreement must find far beyond its limits.

A fault changes what anybody can hand in: the task, the labelled sequences, the batch, the loss. Nothing inside is
patched. Faults of the sequences and the batch are those of any framework; those of the loss are of the PyTorch twin.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import torch

from conversion.agreement.tasks.cases import Labelled, vocabulary
from ms_bert.data.batches import Batch
from ms_bert.data.packing import WEIGHTS
from ms_bert.data.sequences import Sequences
from ms_bert.tasks.distillation import LOGITS, STATES
from ms_bert.tasks.multiple_choice import GROUPS
from ms_bert.tasks.tagging import LABEL_WEIGHTS
from pt_reference.kernels import means, unit
from pt_reference.training import losses


def _same(value):
    return value


@dataclasses.dataclass(frozen=True)
class Fault:
    """A change of how a task is learned.

    Attributes:
        what: is wrong, in a phrase. problem: by name, which shows it.
        labelled, sequences, batch: from what is right to what the trainer gets. kind: the loss in place of the right
            one. distilled: the loss of a teacher's task in place of the right one.
    """

    what: str
    problem: str
    labelled: Callable[[Labelled], Labelled] = _same
    sequences: Callable[[Sequences], Sequences] = _same
    batch: Callable[[Batch], Batch] = _same
    kind: Callable | None = None
    distilled: Callable | None = None

    @property
    def is_of_data(self) -> bool:
        """Whether the right trainer of any framework shows it."""
        return self.kind is None and self.distilled is None

    def given(self, labelled: Labelled) -> tuple[Sequences, Batch]:
        """The sequences and the batch that a trainer gets."""
        changed = self.labelled(labelled)
        sequences = self.sequences(changed.sequences())
        return sequences, self.batch(changed.batch(sequences))

    def objective(self, labelled: Labelled) -> losses.Objective | None:
        """Of the PyTorch twin; None: the right one."""
        if self.is_of_data:
            return None
        right = losses.objective(labelled.task)
        if labelled.task.distillation is None:
            return right._replace(loss=self.kind)
        loss = functools.partial(self.distilled or right.loss.func, **right.loss.keywords)
        return right._replace(loss=loss if self.kind is None else functools.partial(loss, kind=self.kind))


# Faults of the targets.


def _task(**changes) -> Callable[[Labelled], Labelled]:
    return lambda labelled: dataclasses.replace(labelled, task=dataclasses.replace(labelled.task, **changes))


def _labels_reversed(labelled: Labelled) -> Labelled:
    return _task(labels=labelled.task.labels[::-1])(labelled)


def _teacher_by_name(sequences: Sequences) -> Sequences:
    """The columns in the order of the labels' names."""
    return _of_sequences(**{LOGITS: lambda values: values[:, [1, 2, 0]]})(sequences)


def _of_sequences(**changes) -> Callable[[Sequences], Sequences]:
    return lambda sequences: dataclasses.replace(
        sequences,
        of_sequences={
            **sequences.of_sequences,
            **{name: change(sequences.of_sequences[name]) for name, change in changes.items()},
        },
    )


def _of_tokens(change: Callable[[Sequences], dict[str, np.ndarray]]) -> Callable[[Sequences], Sequences]:
    return lambda sequences: dataclasses.replace(sequences, of_tokens={**sequences.of_tokens, **change(sequences)})


def _words(sequences: Sequences) -> list[tuple[int, int]]:
    """Of each labelled word its first token, and the one behind its last."""
    continues = vocabulary().continues_word[sequences.ids]
    found = []
    for first in np.flatnonzero(sequences.of_tokens[LABEL_WEIGHTS]).tolist():
        last = first + 1
        while continues[last]:
            last += 1
        found.append((first, last))
    return found


def _at_the_last_piece(sequences: Sequences) -> dict[str, np.ndarray]:
    labels, weights = (np.zeros_like(sequences.of_tokens[name]) for name in ("labels", LABEL_WEIGHTS))
    for first, last in _words(sequences):
        labels[last - 1], weights[last - 1] = sequences.of_tokens["labels"][first], 1.0
    return {"labels": labels, LABEL_WEIGHTS: weights}


def _at_all_pieces(sequences: Sequences) -> dict[str, np.ndarray]:
    labels, weights = (sequences.of_tokens[name].copy() for name in ("labels", LABEL_WEIGHTS))
    for first, last in _words(sequences):
        labels[first:last], weights[first:last] = labels[first], 1.0
    return {"labels": labels, LABEL_WEIGHTS: weights}


def _special_tokens_counted(sequences: Sequences) -> dict[str, np.ndarray]:
    weights = sequences.of_tokens[LABEL_WEIGHTS].copy()
    weights[sequences.starts[:-1]] = 1.0
    return {LABEL_WEIGHTS: weights}


def _rolled(name: str, by: int) -> Callable[[Sequences], dict[str, np.ndarray]]:
    return lambda sequences: {name: np.roll(sequences.of_tokens[name], by)}


def _first_answer_only(sequences: Sequences) -> dict[str, np.ndarray]:
    kept = {name: np.zeros_like(sequences.of_tokens[name]) for name in ("starts", "ends")}
    for first, last in zip(sequences.starts, sequences.starts[1:]):
        for name, values in kept.items():
            values[first + np.flatnonzero(sequences.of_tokens[name][first:last])[0]] = 1.0
    return kept


# Faults of the batch.


def _changed(**changes: Callable[[Batch], np.ndarray]) -> Callable[[Batch], Batch]:
    return lambda batch: {
        **batch,
        **{name: change(batch).astype(batch[name].dtype) for name, change in changes.items()},
    }


def _by_part(name: str, parts: int) -> Callable[[Batch], np.ndarray]:
    """Weights with which the mean over the step is the mean over parts of each part's mean."""

    def change(batch: Batch) -> np.ndarray:
        weights = batch[name]
        of_part = [part.sum() for part in np.split(weights, parts)]
        scale = np.repeat([weights.sum() / (parts * one) for one in of_part], len(weights) // parts)
        return weights * scale[:, None]

    return change


def _by_row(name: str) -> Callable[[Batch], np.ndarray]:
    """Weights with which the mean over the step is the mean over rows of each row's mean."""

    def change(batch: Batch) -> np.ndarray:
        weights = batch[name]
        of_row = weights.sum(1, keepdims=True)
        return weights / np.maximum(of_row, 1) * weights.sum() / (of_row > 0).sum()

    return change


def _only_with_an_answer(batch: Batch) -> np.ndarray:
    """Weight 0 for sequences whose answer is [CLS]."""
    at_cls = np.take_along_axis(batch["starts"], batch["cls_positions"], 1) > 0
    return batch[WEIGHTS] * ~at_cls


# Faults of the loss, in PyTorch.


class _MeanOverTheRow(losses.ClassificationLoss):
    def for_labels(self, logits, sequence_ids, rows, count):
        return logits, logits.mean(1, keepdim=True).expand(-1, count, -1).reshape(rows * count, -1)


class _MeanOverPaddingToo(losses.ClassificationLoss):
    """Padding counts as tokens of the last sequence of the row."""

    def for_labels(self, logits, sequence_ids, rows, count):
        last = sequence_ids.amax(1, keepdim=True)
        return logits, means(logits, torch.where(sequence_ids > 0, sequence_ids, last), count)


class _MeanOfAllSequences(losses.ClassificationLoss):
    """The mean over the tokens of all sequences of the row."""

    def for_labels(self, logits, sequence_ids, rows, count):
        own = means(logits, (sequence_ids > 0).int(), 1)
        return logits, own[:, None].expand(-1, count, -1).reshape(rows * count, -1)


class _SumOfTokens(losses.ClassificationLoss):
    def for_labels(self, logits, sequence_ids, rows, count):
        return logits, torch.einsum("bns,bsc->bnc", losses.own_tokens(sequence_ids, count), logits).flatten(0, 1)


class _NoSquare(losses.ClassificationLoss):
    def distance(self, logits, teacher, temperature, labels):
        return super().distance(logits, teacher, temperature, labels) / temperature**2


class _OtherWayRound(losses.ClassificationLoss):
    def distance(self, logits, teacher, temperature, labels):
        return losses.divergence(teacher, logits, temperature)


class _NoTemperature(losses.ClassificationLoss):
    def distance(self, logits, teacher, temperature, labels):
        return losses.divergence(logits, teacher, 1.0)


class _CrossEntropyOfTheTeacher(losses.ClassificationLoss):
    """Its gradient is right, its value is not: the entropy of the teacher is not taken away."""

    def distance(self, logits, teacher, temperature, labels):
        target, student = (teacher / temperature).softmax(-1), (logits / temperature).log_softmax(-1)
        return -(temperature**2) * (target * student).sum(-1)


class _NotNormalized(losses.PatientLoss):
    def state_distance(self, vectors, teacher):
        return (vectors - teacher.view(vectors.shape)).square().sum(-1).mean(-1)


class _LayerAbove(losses.PatientLoss):
    """The last layer is compared and the first is not."""

    def vectors(self, layers, *others):
        return super().vectors(layers[1:] + layers[:1], *others)


class _AttendedStates(losses.PatientLoss):
    """The states between a layer's halves, after its attention."""

    def vectors(self, layers, *others):
        return super().vectors(tuple((p, output, attended) for p, attended, output in layers), *others)


class _ClsForTheMean(losses.PatientLoss):
    def vectors(self, layers, sequence_ids, cls_positions, of_tokens):
        return super().vectors(layers, sequence_ids, cls_positions, not of_tokens)


class _StatesLeftOut(losses.PatientLoss):
    def state_distance(self, vectors, teacher):
        return 0.0 * super().state_distance(vectors, teacher)


class _WeightLeftOut(losses.PatientLoss):
    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.weight = 1.0


class _SumOfLayers(losses.PatientLoss):
    def state_distance(self, vectors, teacher):
        return super().state_distance(vectors, teacher) * vectors.shape[1]


class _MeanOfDimensions(losses.PatientLoss):
    """torch.nn.functional.mse_loss for the squared length of the difference."""

    def state_distance(self, vectors, teacher):
        return super().state_distance(vectors, teacher) / vectors.shape[2]


class _NoSquareOfLength(losses.PatientLoss):
    def state_distance(self, vectors, teacher):
        return torch.linalg.vector_norm(unit(vectors) - teacher.view(vectors.shape), dim=-1).mean(-1)


class _AbsoluteError(losses.RegressionLoss):
    def losses(self, logits, labels):
        squares, right = super().losses(logits, labels)
        return squares.sqrt(), right


class _HalfTheSquare(losses.RegressionLoss):
    def losses(self, logits, labels):
        squares, right = super().losses(logits, labels)
        return squares / 2, right


class _SoftmaxOfLabels(losses.MultiLabelLoss):
    def losses(self, logits, labels):
        return -(labels * logits.log_softmax(-1)).mean(-1), super().losses(logits, labels)[1]


class _SumOfLabels(losses.MultiLabelLoss):
    def losses(self, logits, labels):
        mean, right = super().losses(logits, labels)
        return mean * labels.shape[1], right


class _OneOfAllLabels(losses.MultiLabelLoss):
    """The teacher's labels as if one of them held."""

    def distance(self, logits, teacher, temperature, labels):
        return losses.divergence(logits, teacher, temperature)


class _OverTheRow(losses.SpanLoss):
    """The softmax over all tokens of a row, also of other sequences."""

    def forward(self, ids, sequence_ids, types, positions, cls, starts, ends, weights, total, scale, keys=None):
        logits = torch.stack(self.model(ids, sequence_ids, types, positions, cls, keys), -1)
        own = losses.own_tokens(sequence_ids, weights.shape[1])
        row = own.amax(1, keepdim=True).expand_as(own)
        both = []
        for number, targets in enumerate((starts, ends)):
            scores = (logits[..., number][:, None] + (row - 1) * 1e9).log_softmax(-1)
            both.append(-(scores * own * targets[:, None]).sum(-1).flatten())
        _, right = losses.token_losses(logits[..., 0], starts, own)
        sums = losses.weighted_sums((both[0] + both[1]) / 2, right, weights)
        return sums[0] / total * scale, torch.stack(sums).detach(), (logits,)


class _StartOnly(losses.SpanLoss):
    """The end is learned from the start's logits."""

    def forward(self, ids, sequence_ids, types, positions, cls, starts, ends, *rest):
        return super().forward(ids, sequence_ids, types, positions, cls, starts, starts, *rest)


class _TeacherOverTheRow(losses.SpanLoss):
    """The teacher's softmax is over all tokens of a row, also of other sequences."""

    def distance(self, start, end, teacher, temperature, own):
        return super().distance(start, end, teacher, temperature, own.amax(1, keepdim=True).expand_as(own))


class _TeacherOfTheStart(losses.SpanLoss):
    """The end is compared with the teacher's start."""

    def distance(self, start, end, teacher, temperature, own):
        return super().distance(start, end, teacher[..., :1].expand_as(teacher), temperature, own)


class _TeacherOfAllQuestions(losses.ChoiceLoss):
    """The teacher's softmax is over the choices of all questions."""

    def distance(self, logits, teacher, temperature, questions):
        return super().distance(logits, teacher, temperature, torch.ones_like(questions))


class _TeacherOfEachChoice(losses.ChoiceLoss):
    """The squared error of each score, as in regression."""

    def distance(self, logits, teacher, temperature, questions):
        return (logits - teacher).square().flatten()


class _TeacherOfAllTokens(losses.DistilledLoss):
    """A teacher's tokens count where no label is: the mean over all tokens."""

    def mixed(self, logits, labels, teacher):
        losses_, right = super().mixed(logits, labels, teacher)
        apart = self.of_task.distance(logits, teacher.view(logits.shape), self.temperature, labels)
        return losses_ + self.share * (apart.mean() - apart), right


class _StatesOfTheRightChoice(losses.ChoiceLoss):
    """The states of wrong choices do not count."""

    def of_examples(self, values, questions):
        return values


_CHOICES = "distilled multiple-choice with states"
_STATES = "distilled classification with states"
_STATES_OF_MEAN = "distilled regression of the mean with states"
FAULTS = {
    "labels-reversed": Fault("the labels are numbered from the last", "classification", _labels_reversed),
    "labels-by-name": Fault(
        "the labels are numbered by their names", "classification", _task(labels=("bad", "good", "so"))
    ),
    "class-weights-left-out": Fault(
        "all sequences weigh alike", "classification", lambda labelled: dataclasses.replace(labelled, balanced=False)
    ),
    "class-weights-squared": Fault(
        "a loss is weighed twice", "classification", batch=_changed(weights=lambda batch: batch[WEIGHTS] ** 2)
    ),
    "mean-over-rows": Fault(
        "the mean over rows of their sequences' mean", "answer-selection", batch=_changed(weights=_by_row(WEIGHTS))
    ),
    "mean-over-parts": Fault(
        "the mean over the parts of a step of each part's mean",
        "tagging",
        batch=_changed(**{LABEL_WEIGHTS: _by_part(LABEL_WEIGHTS, 2)}),
    ),
    "first-cls-of-the-row": Fault(
        "every sequence of a row has the first one's [CLS]",
        "classification",
        batch=_changed(cls_positions=lambda batch: 0 * batch["cls_positions"]),
    ),
    "positions-of-the-row": Fault(
        "positions are counted through the row",
        "classification",
        batch=_changed(position_ids=lambda batch: np.broadcast_to(np.arange(48), batch["position_ids"].shape)),
    ),
    "one-segment": Fault(
        "the second text has the first one's segment",
        "answer-selection",
        batch=_changed(token_type_ids=lambda batch: 0 * batch["token_type_ids"]),
    ),
    "attention-across-sequences": Fault(
        "the sequences of a row see each other",
        "tagging",
        batch=_changed(sequence_ids=lambda batch: batch["sequence_ids"] > 0),
    ),
    "mean-over-the-row": Fault("the mean over all places of a row", "classification of the mean", kind=_MeanOverTheRow),
    "mean-over-padding": Fault("padding counts in the mean", "classification of the mean", kind=_MeanOverPaddingToo),
    "mean-of-all-sequences": Fault(
        "the mean over all sequences of a row", "classification of the mean", kind=_MeanOfAllSequences
    ),
    "sum-of-tokens": Fault("the sum of the tokens for their mean", "classification of the mean", kind=_SumOfTokens),
    "absolute-error": Fault("the absolute error for its square", "regression", kind=_AbsoluteError),
    "half-the-square": Fault("half the squared error", "regression", kind=_HalfTheSquare),
    "scaled-labels": Fault(
        "labels from 0 to 5 are learned as 0 to 1",
        "regression",
        sequences=_of_sequences(labels=lambda labels: labels / np.float32(5)),
    ),
    "softmax-of-labels": Fault("a softmax over labels that exclude nothing", "multi-label", kind=_SoftmaxOfLabels),
    "sum-of-labels": Fault("the sum over the labels for their mean", "multi-label", kind=_SumOfLabels),
    "no-square-of-t": Fault("T^2 is left out", "distilled classification", kind=_NoSquare),
    "divergence-reversed": Fault("KL the other way round", "distilled classification", kind=_OtherWayRound),
    "no-temperature": Fault("the logits are not divided by T", "distilled classification", kind=_NoTemperature),
    "teacher-entropy-kept": Fault("cross-entropy for KL", "distilled classification", kind=_CrossEntropyOfTheTeacher),
    "teacher-by-name": Fault(
        "the teacher's columns are in another order", "distilled classification", sequences=_teacher_by_name
    ),
    "teacher-over-the-row": Fault(
        "the teacher's softmax is over the whole row", "distilled question-answering", kind=_TeacherOverTheRow
    ),
    "teacher-start-for-end": Fault(
        "the end is learned from the teacher's start", "distilled question-answering", kind=_TeacherOfTheStart
    ),
    "teacher-over-the-batch": Fault(
        "the teacher's choices of all questions exclude each other",
        _CHOICES,
        kind=_TeacherOfAllQuestions,
    ),
    "teacher-of-each-choice": Fault("the teacher's scores are learned one by one", _CHOICES, kind=_TeacherOfEachChoice),
    "states-of-the-right-choice": Fault(
        "only the states of the right choice are learned", _CHOICES, kind=_StatesOfTheRightChoice
    ),
    "teacher-of-all-tokens": Fault(
        "the teacher teaches tokens without a label, too", "distilled tagging", distilled=_TeacherOfAllTokens
    ),
    "teacher-a-token-late": Fault(
        "the teacher's logits stand a token late",
        "distilled tagging",
        sequences=_of_tokens(lambda sequences: {LOGITS: np.roll(sequences.of_tokens[LOGITS], 1, 0)}),
    ),
    "states-not-normalized": Fault("the states are not divided by their length", _STATES, distilled=_NotNormalized),
    "states-of-the-layer-above": Fault(
        "each layer is compared with that below it of the teacher", _STATES, distilled=_LayerAbove
    ),
    "states-in-reverse": Fault(
        "the teacher's layers are in the order from the highest",
        _STATES,
        sequences=_of_sequences(**{STATES: lambda values: np.ascontiguousarray(values[:, ::-1])}),
    ),
    "states-of-another-sequence": Fault(
        "each sequence learns the states of the one before",
        _STATES_OF_MEAN,
        sequences=_of_sequences(**{STATES: lambda values: np.roll(values, 1, 0)}),
    ),
    "states-after-attention": Fault("the states within a layer", _STATES, distilled=_AttendedStates),
    "states-left-out": Fault("the states do not count", _STATES, distilled=_StatesLeftOut),
    "weight-of-states-left-out": Fault("the states weigh 1", _STATES, distilled=_WeightLeftOut),
    "sum-of-layers": Fault("the sum over the layers for their mean", _STATES, distilled=_SumOfLayers),
    "mean-of-dimensions": Fault("the mean over the numbers of a state", _STATES, distilled=_MeanOfDimensions),
    "length-for-its-square": Fault("the distance for its square", _STATES, distilled=_NoSquareOfLength),
    "cls-for-the-mean": Fault("[CLS] for the mean of the tokens", _STATES_OF_MEAN, distilled=_ClsForTheMean),
    "mean-for-cls": Fault("the mean of the tokens for [CLS]", _STATES, distilled=_ClsForTheMean),
    "one-of-all-labels": Fault(
        "one softmax for a teacher of many labels", "distilled multi-label", kind=_OneOfAllLabels
    ),
    "label-at-the-last-piece": Fault(
        "a word is tagged by its last piece", "tagging", sequences=_of_tokens(_at_the_last_piece)
    ),
    "label-at-all-pieces": Fault("all pieces of a word count", "tagging", sequences=_of_tokens(_at_all_pieces)),
    "special-tokens-counted": Fault("[CLS] has a tag", "tagging", sequences=_of_tokens(_special_tokens_counted)),
    "start-shifted": Fault(
        "an answer begins a token late", "question-answering", sequences=_of_tokens(_rolled("starts", 1))
    ),
    "end-exclusive": Fault(
        "an answer ends a token late", "question-answering", sequences=_of_tokens(_rolled("ends", 1))
    ),
    "first-answer-only": Fault(
        "of several right answers only the first", "question-answering", sequences=_of_tokens(_first_answer_only)
    ),
    "only-with-an-answer": Fault(
        "windows without the answer are left out", "question-answering", batch=_changed(weights=_only_with_an_answer)
    ),
    "softmax-over-the-row": Fault("the softmax is over the whole row", "question-answering", kind=_OverTheRow),
    "end-as-start": Fault("the end is learned at the start", "question-answering", kind=_StartOnly),
    "softmax-over-the-batch": Fault(
        "the choices of all questions exclude each other",
        "multiple-choice",
        batch=_changed(**{GROUPS: lambda batch: batch[GROUPS] > 0}),
    ),
    "choice-shifted": Fault(
        "the choice behind the right one",
        "multiple-choice",
        sequences=_of_sequences(labels=lambda labels: np.roll(labels, 1)),
    ),
    "empty-places-as-choices": Fault(
        "empty places are choices of the first question",
        "multiple-choice",
        batch=_changed(**{GROUPS: lambda batch: np.maximum(batch[GROUPS], 1)}),
    ),
    "relevance-reversed": Fault("relevant is label 0", "answer-selection", _labels_reversed),
}
