"""AdamW, Google's AdamWeightDecay, and LAMB, as cells that update all parameters inside the compiled step.

Each formula is for one parameter p with gradient g, moments m and v, learning rate r, the number of updates t, and
weight decay w, which is 0 for biases and LayerNorm:

    m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2
"""

import itertools
import math
from collections.abc import Mapping

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ms_bert.kernels import Operations
from ms_bert.kernels.stock import multiplied
from ms_bert.options import TrainingOptions
from ms_bert.run.recipe import is_decayed
from ms_bert.training.exchange import Whole


class Optimizer(nn.Cell):
    """What the three optimizers share: the moments, and the count of updates.

    Args:
        exchange: has what is updated, parameters or tiles of them. shares: of the learning rate, by parameter name;
            None: 1.

    Args of the call:
        gradients: as many as there are pieces, float32. factor: () float32, by which they are to be multiplied. rate:
        () float32. keep: () bool, False leaves everything as it was (the gradient overflowed), or None where that
        cannot happen.
    """

    def __init__(
        self,
        exchange: Whole,
        options: TrainingOptions,
        operations: Operations,
        shares: Mapping[str, float] | None = None,
    ):
        super().__init__(auto_prefix=False)
        self.exchange, self.p = exchange, exchange.pieces
        self.shares = tuple(1.0 if shares is None else shares[name] for name in exchange.parameters)
        self.m = ParameterTuple([Parameter(ops.zeros_like(p), name=f"m.{p.name}") for p in self.p])
        self.v = ParameterTuple([Parameter(ops.zeros_like(p), name=f"v.{p.name}") for p in self.p])
        self.updates = Parameter(Tensor(0, ms.int32), name="updates")
        self.decayed = tuple(map(is_decayed, exchange.parameters))
        self.weight_decay, self.epsilon = options.weight_decay, options.optimizer_epsilon
        self.beta1, self.beta2 = options.beta1, options.beta2
        # The updates take 1 - b in float32, which for 0.999 is off by 1e-5, and the moment with it: corrected with the
        # same b it is right again, and a long run drifts less.
        self.rounded1, self.rounded2 = float(np.float32(options.beta1)), float(np.float32(options.beta2))
        # Parameters are mapped over: the compiler unrolls a loop by recursion, too deep for those of BERT-base.
        self.map = ops.HyperMap()
        # Neighbours of one share, which are updated at once: (share, first, end).
        runs = [(share, len(list(run))) for share, run in itertools.groupby(self.shares)]
        ends = itertools.accumulate(size for _, size in runs)
        self.runs = tuple((share, end - size, end) for (share, size), end in zip(runs, ends))
        self.take(operations)

    def take(self, operations: Operations) -> None:
        """Take the operations of the subclass, of which `update` is the last."""
        raise NotImplementedError

    def construct(self, gradients, factor, rate, keep):
        beta1, beta2, updates = Tensor(self.beta1, ms.float32), Tensor(self.beta2, ms.float32), self.updates + 1
        t = ops.cast(updates, ms.float32)
        correction1, correction2 = one_minus_power(self.rounded1, t), one_minus_power(self.rounded2, t)
        if keep is not None:
            # With neither gradient nor rate, and moments that do not decay, the formulas change nothing.
            gradients = self.map(ops.partial(multiplied, factor), gradients)
            gradients, factor = self.map(ops.partial(or_zero, keep), gradients), None
            beta1, beta2 = ops.select(keep, beta1, ops.ones_like(t)), ops.select(keep, beta2, ops.ones_like(t))
            rate, updates = or_zero(keep, rate), ops.select(keep, updates, self.updates * 1)
        changes = self.change(gradients, factor, rate, beta1, beta2, correction1, correction2)
        return ops.depend(ops.assign(self.updates, updates), changes)

    def updated(self, given, rate, numbers):
        """All parameters after the operation `update` of the subclass.

        Args:
            given: to it, for each parameter, after its moments. numbers: before the rate and after it.
        """
        before, after = numbers
        changes = ()
        for share, first, end in self.runs:
            arrays = self.p[first:end], self.m[first:end], self.v[first:end], given[first:end]
            own = rate if share == 1.0 else rate * share
            changes += (self.update(*arrays, self.decayed[first:end], *before, own, *after),)
        return changes


def one_minus_power(beta, t):
    """1 - beta^t, accurate in float32 for small t as well; t is () float32."""
    if beta == 0.0:
        return ops.ones_like(t)
    x = t * math.log(beta)
    # On CPU ops.expm1 is exp(x) - 1, at the first steps off by 1e-5 for beta 0.999. Near 0, its series.
    series = ops.zeros_like(x)
    for i in range(9, 0, -1):
        series = (x / i) * (1.0 + series)
    return -ops.select(x > -0.5, series, ops.exp(x) - 1.0)


def or_zero(keep, x):
    return ops.select(keep, x, ops.zeros_like(x))


class Adam(Optimizer):
    """What AdamW and AdamWeightDecay share: `Operations.adam_update`, each with its own numbers."""

    def take(self, operations: Operations) -> None:
        self.update = operations.adam_update

    def change(self, gradients, factor, rate, beta1, beta2, correction1, correction2):
        rate, epsilon, decay = self.numbers(rate, correction1, correction2)
        return self.updated(gradients, rate, ((factor,), (beta1, beta2, epsilon, decay)))


class AdamW(Adam):
    """p = p (1 - r w) - r (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps): Loshchilov & Hutter, 2019, as in torch."""

    def numbers(self, rate, correction1, correction2):
        # The same without bias correction, with r sqrt(c2) / c1 for r, eps sqrt(c2) for eps and w c1 / sqrt(c2) for w.
        root = ops.sqrt(correction2)
        return rate * (root / correction1), self.epsilon * root, self.weight_decay * (correction1 / root)


class AdamWeightDecay(Adam):
    """p = p - r (m / (sqrt(v) + eps) + w p): Google's optimization.py, Adam without bias correction."""

    def numbers(self, rate, correction1, correction2):
        return rate, Tensor(self.epsilon, ms.float32), Tensor(self.weight_decay, ms.float32)


class Lamb(Optimizer):
    """p = p - r (|p| / |u|) u with u = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) + w p: You et al., 2020, alg. 2.

    The ratio is 1 where either norm is 0, and for biases and LayerNorm, as in Google's lamb_optimizer.py.
    """

    def take(self, operations: Operations) -> None:
        self.moments, self.update = operations.lamb_moments, operations.lamb_update

    def change(self, gradients, factor, rate, beta1, beta2, correction1, correction2):
        epsilon, decay = Tensor(self.epsilon, ms.float32), Tensor(self.weight_decay, ms.float32)
        numbers = correction1, correction2, epsilon, decay
        norms = self.moments(self.p, self.m, self.v, gradients, self.decayed, factor, beta1, beta2, *numbers)
        return self.updated(self.exchange.of_parameters(norms), rate, ((), numbers))


OPTIMIZERS = {"adamw": AdamW, "adam-weight-decay": AdamWeightDecay, "lamb": Lamb}
