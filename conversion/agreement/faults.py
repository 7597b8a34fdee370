"""Planted faults, the proof that the suite can fail: small changes of the MindSpore side, which it must catch.

A fault changes what ms_bert is given or is made of, where anybody can: weights, batch, config, options, the operations
that a model is built with, the class that updates, what a trainer does. Nothing inside ms_bert is patched.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import ops

from conversion.agreement import cases
from conversion.agreement.cases import Problem, Tensors
from conversion.agreement.findings import Finding
from conversion.agreement.in_mindspore import MindSpore
from conversion.agreement.suite import Reference, findings
from ms_bert import kernels
from ms_bert.config import BertConfig
from ms_bert.data.batches import Batch
from ms_bert.kernels import Operations, stock
from ms_bert.options import Options
from ms_bert.run.loop import Trainer
from ms_bert.training import optimizers
from ms_bert.training.step import Update


def _same(value):
    return value


def _same_trainer(trainer: Trainer, options: Options) -> Trainer:
    return trainer


def _same_rate(rate: Callable, options, step: int) -> float:
    return rate(options, step)


@dataclasses.dataclass(frozen=True)
class Fault:
    """A change of what MindSpore is given, or of what it computes with.

    Attributes:
        what: is wrong, in a phrase. groups: of `suite.CHECKS` that run.
        weights, batch, config, options, operations: from what is right to what MindSpore gets.
        update: the class that clips and updates. trainer: from a trainer and its options to a faulty one.
        rate: from the right learning rate's function, the options of the training and a 1-based step to its rate.
        precision: at which it is looked for. quiet: whether it takes the problem with small activations to show it.
    """

    what: str
    groups: tuple[str, ...] = ("forward",)
    weights: Callable[[Tensors], Tensors] = _same
    batch: Callable[[Batch], Batch] = _same
    config: Callable[[BertConfig], BertConfig] = _same
    options: Callable[[Options], Options] = _same
    operations: Callable[[Operations], Operations] = _same
    update: type[Update] = Update
    trainer: Callable[[Trainer, Options], Trainer] = _same_trainer
    rate: Callable[..., float] = _same_rate
    precision: str = "float32"
    quiet: bool = False

    @property
    def changes_code(self) -> bool:
        """Whether it is more than other weights or another batch: a graph that is compiled already cannot show it."""
        right = Fault(self.what)
        names = ("config", "options", "operations", "update", "trainer", "rate")
        return any(getattr(self, name) is not getattr(right, name) for name in names)

    @property
    def of_numbers(self) -> bool:
        """Whether it shows in any precision, in the graphs that are there: with other weights or another batch."""
        return not self.changes_code and self.groups != ("schedule",)


class Faulty:
    """A contender with a fault: what it is given is changed on the way."""

    def __init__(self, inner: MindSpore, fault: Fault):
        self.inner, self.fault = inner, fault
        self.name, self.precision, self.own_dropout = inner.name, inner.precision, inner.own_dropout

    def leaves_out(self, name: str) -> bool:
        return self.inner.leaves_out(name)

    def forward(self, problem: Problem, batch: Batch) -> Tensors:
        return self.inner.forward(self._changed(problem), self.fault.batch(batch))

    def losses_and_gradients(self, problem: Problem, batch: Batch, dropout: bool) -> tuple[Tensors, Tensors]:
        return self.inner.losses_and_gradients(self._changed(problem), self.fault.batch(batch), dropout)

    def trainer(self, problem: Problem, options: Options) -> Trainer:
        made = self.inner.trainer(self._changed(problem), self.fault.options(options))
        return self.fault.trainer(made, options)

    def learning_rate(self, options, step: int) -> float:
        return self.fault.rate(self.inner.learning_rate, options, step)

    def _changed(self, problem: Problem) -> Problem:
        return dataclasses.replace(
            problem, weights=self.fault.weights(problem.weights), config=self.fault.config(problem.config)
        )


def planted(fault: Fault, healthy: MindSpore, problem: Problem, reference: Reference) -> list[Finding]:
    """What the suite finds with a fault in place.

    Args:
        healthy: a contender whose compiled graphs serve the faults that change no code.
    """
    inner = healthy
    if fault.changes_code:
        # What a fault of the code shows, the cases of one shape show: each further shape costs a compilation.
        operations = fault.operations(kernels.operations(healthy.device, fault.precision))
        inner = MindSpore(fault.precision, healthy.device, healthy.graph, operations=operations, update=fault.update)
        problem = cases.of_one_shape(problem)
    return findings(Faulty(inner, fault), problem, reference, fault.groups)


# Faults of the weights, as a wrong conversion makes them.


def _exchanged(*names: str) -> Callable[[Tensors], Tensors]:
    """The values of two parameters, or of two groups whose names begin so, exchanged."""

    def change(weights: Tensors) -> Tensors:
        one, other = names
        changed = dict(weights)
        for name in weights:
            if name.startswith(one):
                twin = other + name[len(one) :]
                changed[name], changed[twin] = weights[twin], weights[name]
        return changed

    return change


def _changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Tensors], Tensors]:
    return lambda weights: {**weights, name: np.ascontiguousarray(change(weights[name]))}


def _heads_exchanged(weight: np.ndarray) -> np.ndarray:
    heads = weight.reshape(len(weight), 3, -1)[:, [1, 0, 2]]
    return heads.reshape(weight.shape)


# Faults of the batch, as a wrong model or pipeline computes with it.


def _batch(**changes: Callable[[Batch], np.ndarray]) -> Callable[[Batch], Batch]:
    return lambda batch: {
        **batch,
        **{name: change(batch).astype(batch[name].dtype) for name, change in changes.items()},
    }


def _averaged_by_row(batch: Batch) -> np.ndarray:
    """Weights under which the mean over all masked tokens is the mean over rows of each row's mean."""
    weights = batch["masked_weights"]
    by_row, total = weights.sum(1, keepdims=True), weights.sum()
    rows = max((by_row > 0).sum(), 1)
    return weights / np.maximum(by_row, 1) * total / rows


# Faults of the operations: a smaller one from which the larger ones are composed, or a larger one itself.


def _made_of(**parts) -> Callable[[Operations], Operations]:
    return lambda right: stock.composed("float32", **parts)


def _with(**fields) -> Callable[[Operations], Operations]:
    return lambda right: dataclasses.replace(right, **fields)


def _unscaled_attention(query, key, value, sequence_ids, heads, rate, row_keys, column_keys, causal):
    d = query.shape[-1] // heads
    return stock.attention(query * d**0.5, key, value, sequence_ids, heads, rate, row_keys, column_keys, causal)


def _reused_attention(query, key, value, sequence_ids, heads, rate, row_keys, column_keys, causal):
    return stock.attention(query, key, key, sequence_ids, heads, rate, row_keys, column_keys, causal)


def _unbiased_layer_norm(x, weight, bias, epsilon):
    centred = x - x.mean(-1, keep_dims=True)
    variance = ops.square(centred).sum(-1, keepdims=True) / (x.shape[-1] - 1)
    return centred * ops.rsqrt(variance + epsilon) * weight + bias


def _untied(x, word_embeddings, bias):
    return stock.linear(x, ops.stop_gradient(word_embeddings), bias)


def _without_residual(x, weight, bias, residual, gamma, beta, epsilon, rate, row_keys, column_keys):
    dropped = stock.dropout(stock.linear(x, weight, bias), rate, row_keys, column_keys)
    return stock.layer_norm(dropped, gamma, beta, epsilon)


def _without_activation(name):
    """The linear layer alone where it widens nothing, as the MLM head's does."""
    activation = stock.ACTIVATIONS[name]

    def activated(x, weight, bias):
        y = stock.linear(x, weight, bias)
        return y if weight.shape[0] == weight.shape[1] else activation(y)

    return activated


def _unscaled_dropout(x, rate, row_keys, column_keys):
    return stock.dropout(x, rate, row_keys, column_keys) * (1.0 - rate)


def _shared_dropout(x, rate, row_keys, column_keys):
    """Every place of the hidden states, (rows, H), by the same column keys."""
    if rate > 0.0 and x.ndim == 2:
        column_keys = ops.arange(1, 2 * x.shape[1], 2, dtype=ms.int32) * 1013904223
    return stock.dropout(x, rate, row_keys, column_keys)


def _clipped_alone(p, m, v, gradients, decayed, factor, *numbers):
    return stock.adam_update(p, m, v, _map(_clipped, gradients), decayed, None, *numbers)


def _clipped(x):
    norm = ops.sqrt(ops.ReduceSum()(ops.square(x)))
    return x * (0.5 / ops.maximum(norm, ms.Tensor(0.5, ms.float32)))


def _all_decayed(p, m, v, gradients, decayed, *numbers):
    return stock.adam_update(p, m, v, gradients, (True,) * len(decayed), *numbers)


def _without_ratio(p, m, v, norms, *numbers):
    return stock.lamb_update(p, m, v, _map(ops.ones_like, norms), *numbers)


_map = ops.HyperMap()


# Faults of the update, of a trainer, of the options.


class _CoupledDecay(optimizers.AdamW):
    """Adam with L2 regularisation: the decay goes through the gradient."""

    def change(self, gradients, factor, rate, beta1, beta2, correction1, correction2):
        gradients = self.map(ops.partial(stock.multiplied, factor), gradients)
        gradients = self.map(ops.partial(_regularised, self.weight_decay), gradients, self.p, self.decayed)
        rate, epsilon, _ = self.numbers(rate, correction1, correction2)
        moments, none = (self.p, self.m, self.v), ops.zeros_like(rate)
        return self.update(*moments, gradients, self.decayed, None, rate, beta1, beta2, epsilon, none)


def _regularised(decay, gradient, p, decayed):
    return gradient + decay * p if decayed else gradient * 1.0


class _CoupledUpdate(Update):
    optimizers = {"adamw": _CoupledDecay}


class _HeedlessUpdate(Update):
    """It scales the loss in float16, and updates whatever comes of it."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.scaled = False


class _Wrapped:
    """A trainer that does what its inner one does, but for what a subclass says."""

    def __init__(self, inner: Trainer, options: Options):
        self.inner, self.options = inner, options

    def __getattr__(self, name: str):
        return getattr(self.inner, name)


class _EvaluatesInTraining(_Wrapped):
    def evaluate(self, batch):
        return self.inner.train_step(batch, 0, 0.0).sums, ()


class _CountsPartsAlike(_Wrapped):
    """Each part's mean counts the same, however much the part holds."""

    def train_step(self, batch, step, rate):
        parts = self.options.training.accumulate
        weights = {name: value for name, value in batch.items() if name.endswith("_weights")}
        alike = {
            name: np.concatenate(
                [part * (value.sum() / parts / max(part.sum(), 1.0)) for part in np.split(value, parts)]
            )
            for name, value in weights.items()
        }
        alike = {name: value.astype(np.float32) for name, value in alike.items()}
        return self.inner.train_step({**batch, **alike}, step, rate)


def _training(**changes) -> Callable[[Options], Options]:
    return lambda options: cases.with_changed(options, "training", **changes)


def _late(rate: Callable, options, step: int) -> float:
    return rate(options, step - 1) if step > 1 else 0.0


_LAYER = "bert.encoder.layer."

FAULTS: dict[str, Fault] = {
    # the model
    "tanh-gelu": Fault(
        "the tanh form of GELU instead of the erf form", operations=_made_of(activations={"gelu": stock.gelu_new})
    ),
    "epsilon-1e-7": Fault(
        "LayerNorm's epsilon is 1e-7, MindSpore's default, instead of 1e-12",
        config=lambda config: config.replace(layer_norm_eps=1e-7),
        quiet=True,
    ),
    "epsilon-1e-5": Fault(
        "LayerNorm's epsilon is 1e-5, PyTorch's default, instead of 1e-12",
        config=lambda config: config.replace(layer_norm_eps=1e-5),
        quiet=True,
    ),
    "unbiased-variance": Fault("LayerNorm divides by n - 1", operations=_made_of(layer_norm=_unbiased_layer_norm)),
    "scale-missing": Fault(
        "attention scores are not divided by sqrt(d)", operations=_made_of(attention=_unscaled_attention)
    ),
    "value-is-key": Fault(
        "attention averages the keys, not the values", operations=_made_of(attention=_reused_attention)
    ),
    "residual-missing": Fault("no residual connection", operations=_with(linear_dropout_add_norm=_without_residual)),
    "transform-not-activated": Fault(
        "no GELU in the MLM head", operations=_with(linear_activation=_without_activation)
    ),
    "decoder-untied": Fault(
        "the word embedding gets no gradient from the decoder",
        ("gradients",),
        operations=_made_of(scores=_untied),
    ),
    # the weights
    "query-and-key-exchanged": Fault(
        "Q and K exchanged in layer 1",
        weights=_exchanged(f"{_LAYER}1.attention.self.query.", f"{_LAYER}1.attention.self.key."),
    ),
    "output-transposed": Fault(
        "layer 0's attention output projection transposed",
        weights=_changed(f"{_LAYER}0.attention.output.dense.weight", np.transpose),
    ),
    "gamma-and-beta-exchanged": Fault(
        "gamma and beta of layer 1's last LayerNorm exchanged",
        weights=_exchanged(f"{_LAYER}1.output.LayerNorm.weight", f"{_LAYER}1.output.LayerNorm.bias"),
    ),
    "bias-dropped": Fault(
        "no bias in layer 0's intermediate dense layer",
        weights=_changed(f"{_LAYER}0.intermediate.dense.bias", np.zeros_like),
    ),
    "value-bias-dropped": Fault(
        "no bias of the values in layer 1", weights=_changed(f"{_LAYER}1.attention.self.value.bias", np.zeros_like)
    ),
    "layers-exchanged": Fault("layers 0 and 1 exchanged", weights=_exchanged(f"{_LAYER}0.", f"{_LAYER}1.")),
    "heads-exchanged": Fault(
        "two heads exchanged in layer 1's output projection",
        weights=_changed(f"{_LAYER}1.attention.output.dense.weight", _heads_exchanged),
    ),
    "one-weight-in-float16": Fault(
        "one matrix was rounded to float16",
        weights=_changed(f"{_LAYER}1.output.dense.weight", lambda w: w.astype(np.float16).astype(np.float32)),
    ),
    "padding-row-zeroed": Fault(
        "the embedding of token 0 is zero, as with padding_idx=0",
        weights=_changed("bert.embeddings.word_embeddings.weight", lambda w: w * (np.arange(len(w)) > 0)[:, None]),
    ),
    # the batch
    "segments-ignored": Fault(
        "every token has segment 0", batch=_batch(token_type_ids=lambda b: np.zeros_like(b["token_type_ids"]))
    ),
    "positions-shifted": Fault(
        "positions begin at 1", batch=_batch(position_ids=lambda b: np.minimum(b["position_ids"] + 1, 31))
    ),
    "last-position-missing": Fault(
        "the last position is cut off", batch=_batch(position_ids=lambda b: np.minimum(b["position_ids"], 30))
    ),
    "mask-shifted": Fault(
        "the attention mask is shifted by one", batch=_batch(sequence_ids=lambda b: np.roll(b["sequence_ids"], 1, 1))
    ),
    "mask-ignored": Fault(
        "padding is attended to", batch=_batch(sequence_ids=lambda b: np.ones_like(b["sequence_ids"]))
    ),
    "packed-sequences-mixed": Fault(
        "packed sequences attend to each other", batch=_batch(sequence_ids=lambda b: np.minimum(b["sequence_ids"], 1))
    ),
    "wrong-token-pooled": Fault(
        "the pooler takes the token after [CLS]", batch=_batch(cls_positions=lambda b: b["cls_positions"] + 1)
    ),
    "nsp-labels-flipped": Fault(
        "NSP's labels are flipped",
        ("gradients",),
        batch=_batch(next_sentence_labels=lambda b: 1 - b["next_sentence_labels"]),
    ),
    "masked-positions-shifted": Fault(
        "the MLM head reads the previous token",
        batch=_batch(masked_positions=lambda b: np.maximum(b["masked_positions"] - 1, 0)),
    ),
    "ignored-labels-counted": Fault(
        "ignored labels count",
        ("gradients",),
        batch=_batch(masked_weights=lambda b: np.ones_like(b["masked_weights"])),
    ),
    "averaged-over-rows": Fault(
        "the loss is the mean over rows, not over masked tokens",
        ("gradients",),
        batch=_batch(masked_weights=_averaged_by_row),
    ),
    # training
    "bias-correction-off": Fault(
        "AdamW without bias correction",
        ("step adamw",),
        options=_training(optimizer="adam-weight-decay"),
    ),
    "bias-correction-on": Fault(
        "AdamWeightDecay with bias correction",
        ("step adam-weight-decay",),
        options=_training(optimizer="adamw"),
    ),
    "decay-of-layer-norm": Fault(
        "weight decay is applied to LayerNorm and biases", ("step adamw",), operations=_with(adam_update=_all_decayed)
    ),
    "decay-coupled": Fault(
        "weight decay is added to the gradient, as in Adam with L2",
        ("step adamw",),
        update=_CoupledUpdate,
    ),
    "clipped-by-tensor": Fault(
        "each gradient is clipped by its own norm", ("step adamw",), operations=_with(adam_update=_clipped_alone)
    ),
    "not-clipped": Fault("gradients are not clipped", ("step adamw",), options=_training(clip_norm=0.0)),
    "trust-ratio-missing": Fault(
        "LAMB without its trust ratio",
        ("step lamb",),
        operations=_with(lamb_update=_without_ratio),
    ),
    "accumulation-summed": Fault(
        "the means of accumulated parts count the same, whatever the parts hold",
        ("step accumulated",),
        trainer=_CountsPartsAlike,
    ),
    "warm-up-late": Fault("the warm-up is one step late", ("schedule",), rate=_late),
    "overflow-not-skipped": Fault(
        "a step that overflows is not skipped", ("overflow",), update=_HeedlessUpdate, precision="float16"
    ),
    # dropout
    "dropout-in-evaluation": Fault(
        "dropout is on in evaluation",
        ("evaluation",),
        trainer=_EvaluatesInTraining,
    ),
    "dropout-unscaled": Fault(
        "the units that dropout keeps are not scaled up", ("gradients",), operations=_made_of(dropout=_unscaled_dropout)
    ),
    "dropout-shared": Fault(
        "dropout drops the same units at all positions",
        ("gradients",),
        operations=_made_of(dropout=_shared_dropout),
    ),
}
