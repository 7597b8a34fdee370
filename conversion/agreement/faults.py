"""Planted faults, the proof that the suite can fail: small changes of the MindSpore side, which it must catch."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from unittest import mock

import mindspore as ms
import numpy as np
from mindspore import ops

from conversion.agreement import cases
from conversion.agreement.cases import Problem, Tensors
from conversion.agreement.findings import Finding
from conversion.agreement.in_mindspore import MindSpore
from conversion.agreement.suite import Reference, findings
from ms_bert import kernels, model
from ms_bert.config import BertConfig
from ms_bert.data.batches import Batch
from ms_bert.kernels import stock
from ms_bert.randomness import DropoutColumns
from ms_bert.run import loop, recipe
from ms_bert.training import optimizers, step, trainer


def _same(value):
    return value


@dataclasses.dataclass(frozen=True)
class Fault:
    """A change of what MindSpore is given, or of what it computes.

    Attributes:
        what: is wrong, in a phrase. groups: of `suite.CHECKS` that run.
        weights, batch, config: from what is right to what MindSpore gets.
        patch: a context in which the code of ms_bert is wrong. after: what spoils a trainer once it is made.
        precision: at which it is looked for. quiet: whether it takes the problem with small activations to show it.
    """

    what: str
    groups: tuple[str, ...] = ("forward",)
    weights: Callable[[Tensors], Tensors] = _same
    batch: Callable[[Batch], Batch] = _same
    config: Callable[[BertConfig], BertConfig] = _same
    patch: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
    after: Callable = _same
    precision: str = "float32"
    quiet: bool = False

    @property
    def changes_code(self) -> bool:
        """Whether a graph that is compiled already cannot show it."""
        return self.patch is not contextlib.nullcontext or self.config is not _same or self.after is not _same


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

    def trainer(self, problem: Problem, options):
        made = self.inner.trainer(self._changed(problem), options)
        self.fault.after(made)
        return made

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
        inner = MindSpore(fault.precision, healthy.device, healthy.graph)
        problem = cases.of_one_shape(problem)
    with fault.patch():
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


# Faults of the code.


def _replaced(target, name: str, value) -> Callable[[], contextlib.AbstractContextManager]:
    return lambda: mock.patch.object(target, name, value)


def _item(mapping: dict, key: str, value) -> Callable[[], contextlib.AbstractContextManager]:
    return lambda: mock.patch.dict(mapping, {key: value})


def _unscaled_attention(query, key, value, sequence_ids, heads, rate, row_keys, column_keys):
    d = query.shape[-1] // heads
    return stock.attention(query * d**0.5, key, value, sequence_ids, heads, rate, row_keys, column_keys)


def _reused_attention(query, key, value, sequence_ids, heads, rate, row_keys, column_keys):
    return stock.attention(query, key, key, sequence_ids, heads, rate, row_keys, column_keys)


def _pick(function):
    return lambda device, dtype: function


def _unbiased_layer_norm(x, weight, bias, epsilon):
    centred = x - x.mean(-1, keep_dims=True)
    variance = ops.square(centred).sum(-1, keepdims=True) / (x.shape[-1] - 1)
    return centred * ops.rsqrt(variance + epsilon) * weight + bias


def _untied(self, x, word_embeddings):
    return kernels.linear(self.transform(x), ops.stop_gradient(word_embeddings), self.bias)


def _without_residual(self, x, residual, dropout_keys):
    return self.LayerNorm(self.dropout(self.dense(x), dropout_keys))


def _without_activation(self, x):
    return self.LayerNorm(self.dense(x))


def _unscaled_dropout(x, rate, row_keys, column_keys):
    return stock.dropout(x, rate, row_keys, column_keys) * (1.0 - rate)


class _SharedColumns(DropoutColumns):
    """Every place of the hidden states drops the units of the first."""

    def hidden(self, block: int) -> int:
        return super().hidden(block if block > 2 * self.config.num_hidden_layers else 0)


def _clipped_alone(factor, x):
    norm = ops.sqrt(ops.ReduceSum()(ops.square(x)))
    return x * (0.5 / ops.maximum(norm, ms.Tensor(0.5, ms.float32)))


def _summed_parts(batch, weights, options, number, columns):
    """Each part's loss divided by what the part holds, not by what the step holds."""
    for part in recipe.parts(batch, weights, options, number, columns):
        yield dataclasses.replace(part, totals=tuple(np.float32(max(part.batch[name].sum(), 1.0)) for name in weights))


def _full_trust(p, u):
    return ops.ones_like(ops.ReduceSum()(p))


def _late_rate(options, number):
    return recipe.learning_rate(options, number - 1) if number > 1 else 0.0


class _CoupledDecay(optimizers.AdamW):
    """Adam with L2 regularisation: the decay goes through the gradient."""

    def change(self, gradients, rate, beta1, beta2, correction1, correction2):
        gradients = self.map(ops.partial(_regularised, self.weight_decay), gradients, self.p, self.decayed)
        root = ops.sqrt(correction2)
        none = ops.zeros_like(root)
        update = ops.partial(optimizers.adam, rate * (root / correction1), beta1, beta2, self.epsilon * root, none)
        return self.map(update, self.p, self.m, self.v, gradients, self.decayed)


def _regularised(decay, gradient, p, decayed):
    return gradient + decay * p if decayed else gradient * 1.0


def _evaluated_with_dropout(self, batch):
    one = ms.Tensor(np.float32(1.0))
    part = recipe.parts(batch, self.task.weights, self.training, 0, self.columns)[0]
    arrays = [ms.Tensor(batch[name]) for name in self.task.fields]
    keys = (ms.Tensor(part.row_keys), ms.Tensor(part.column_keys))
    _, sums, _ = self.evaluation(*arrays, one, one, one, keys)
    return dict(zip(self.task.sums, map(float, sums.asnumpy()))), ()


def _never_skip(made) -> None:
    made.update.scaled = False


def _without_clipping(made) -> None:
    made.update.clip_norm = 0.0


_LAYER = "bert.encoder.layer."

FAULTS: dict[str, Fault] = {
    # the model
    "tanh-gelu": Fault(
        "the tanh form of GELU for the erf form", patch=_item(kernels.ACTIVATIONS, "gelu", stock.gelu_new)
    ),
    "epsilon-1e-7": Fault(
        "LayerNorm's epsilon 1e-7, MindSpore's default, for 1e-12",
        config=lambda config: config.replace(layer_norm_eps=1e-7),
        quiet=True,
    ),
    "epsilon-1e-5": Fault(
        "LayerNorm's epsilon 1e-5, PyTorch's default, for 1e-12",
        config=lambda config: config.replace(layer_norm_eps=1e-5),
        quiet=True,
    ),
    "unbiased-variance": Fault(
        "LayerNorm divides by n - 1", patch=_replaced(kernels, "layer_norm", _unbiased_layer_norm)
    ),
    "scale-missing": Fault(
        "attention scores are not divided by sqrt(d)", patch=_replaced(kernels, "attention", _pick(_unscaled_attention))
    ),
    "value-is-key": Fault(
        "attention averages the keys, not the values", patch=_replaced(kernels, "attention", _pick(_reused_attention))
    ),
    "residual-missing": Fault(
        "no residual connection", patch=_replaced(model.BertSelfOutput, "construct", _without_residual)
    ),
    "transform-not-activated": Fault(
        "no GELU in the MLM head", patch=_replaced(model.BertPredictionHeadTransform, "construct", _without_activation)
    ),
    "decoder-untied": Fault(
        "the word embedding gets no gradient from the decoder",
        ("gradients",),
        patch=_replaced(model.BertLMPredictionHead, "construct", _untied),
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
        "no bias in layer 0's widening", weights=_changed(f"{_LAYER}0.intermediate.dense.bias", np.zeros_like)
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
        "one matrix went through float16 on the way",
        weights=_changed(f"{_LAYER}1.output.dense.weight", lambda w: w.astype(np.float16).astype(np.float32)),
    ),
    "padding-row-zeroed": Fault(
        "the embedding of token 0 is zero, as of a padding_idx",
        weights=_changed("bert.embeddings.word_embeddings.weight", lambda w: w * (np.arange(len(w)) > 0)[:, None]),
    ),
    # the batch
    "segments-ignored": Fault(
        "every token is of segment 0", batch=_batch(token_type_ids=lambda b: np.zeros_like(b["token_type_ids"]))
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
        "the MLM head reads the token before",
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
        patch=_item(optimizers.OPTIMIZERS, "adamw", optimizers.AdamWeightDecay),
    ),
    "bias-correction-on": Fault(
        "AdamWeightDecay with bias correction",
        ("step adam-weight-decay",),
        patch=_item(optimizers.OPTIMIZERS, "adam-weight-decay", optimizers.AdamW),
    ),
    "decay-of-layer-norm": Fault(
        "LayerNorm and biases decay", ("step adamw",), patch=_replaced(optimizers, "is_decayed", lambda name: True)
    ),
    "decay-coupled": Fault(
        "the decay goes through the gradient, as in Adam with L2",
        ("step adamw",),
        patch=_item(optimizers.OPTIMIZERS, "adamw", _CoupledDecay),
    ),
    "clipped-by-tensor": Fault(
        "each gradient is clipped by its own norm", ("step adamw",), patch=_replaced(step, "multiplied", _clipped_alone)
    ),
    "not-clipped": Fault("gradients are not clipped", ("step adamw",), after=_without_clipping),
    "trust-ratio-missing": Fault(
        "LAMB without its trust ratio",
        ("step lamb",),
        patch=_replaced(optimizers, "trust_ratio", _full_trust),
    ),
    "accumulation-summed": Fault(
        "accumulated parts are summed, each by its own mean",
        ("step accumulated",),
        patch=_replaced(trainer, "parts", lambda *arguments: list(_summed_parts(*arguments))),
    ),
    "warm-up-late": Fault(
        "the warm-up is one step late", ("schedule",), patch=_replaced(loop, "learning_rate", _late_rate)
    ),
    "overflow-not-skipped": Fault(
        "a step that overflows is not skipped", ("overflow",), after=_never_skip, precision="float16"
    ),
    # dropout
    "dropout-in-evaluation": Fault(
        "dropout is on in evaluation",
        ("evaluation",),
        patch=_replaced(trainer.MindSporeTrainer, "evaluate", _evaluated_with_dropout),
    ),
    "dropout-unscaled": Fault(
        "what dropout keeps is not scaled up", ("gradients",), patch=_replaced(kernels, "dropout", _unscaled_dropout)
    ),
    "dropout-shared": Fault(
        "all places of the hidden states drop the same units",
        ("gradients",),
        patch=_replaced(model, "DropoutColumns", _SharedColumns),
    ),
}
