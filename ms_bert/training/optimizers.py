"""AdamW, Google's AdamWeightDecay, and LAMB, as cells that update all parameters inside the compiled step.

Each formula is for one parameter p with gradient g, moments m and v, learning rate r, the number of updates t, and
weight decay w, which is 0 for biases and LayerNorm.
"""

import math

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ms_bert.options import TrainingOptions


def is_decayed(name: str) -> bool:
    """Whether weight decay applies to a parameter: to all but biases and LayerNorm (Devlin et al., 2019, A.2)."""
    return not name.endswith("bias") and "LayerNorm" not in name


class Moments(nn.Cell):
    """What the three optimizers share: the moments, and the count of updates.

    m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2

    Args of the call:
        gradients: as many as parameters, clipped, float32. rate: () float32. keep: () bool, False leaves everything
        as it was (the gradient overflowed), or None where that cannot happen.
    """

    def __init__(self, parameters, options: TrainingOptions):
        super().__init__(auto_prefix=False)
        self.parameters_ = ParameterTuple(parameters)
        self.m = ParameterTuple([Parameter(ops.zeros_like(p), name=f"m.{p.name}") for p in parameters])
        self.v = ParameterTuple([Parameter(ops.zeros_like(p), name=f"v.{p.name}") for p in parameters])
        self.updates = Parameter(Tensor(0, ms.int32), name="updates")
        self.map = ops.HyperMap()
        self.decay = tuple(options.weight_decay if is_decayed(p.name) else 0.0 for p in parameters)
        self.beta1, self.beta2, self.epsilon = options.beta1, options.beta2, options.optimizer_epsilon

    def construct(self, gradients, rate, keep):
        updates = self.updates + 1
        done = ops.assign(self.updates, updates if keep is None else ops.select(keep, updates, self.updates))
        t = ops.cast(updates, ms.float32)
        # 1 - beta^t, accurate in float32 for small t as well.
        correction1 = -ops.expm1(t * math.log(self.beta1)) if self.beta1 else ops.ones_like(t)
        correction2 = -ops.expm1(t * math.log(self.beta2)) if self.beta2 else ops.ones_like(t)
        # Mapped, not looped over: the compiler unrolls a loop by recursion, too deep for the parameters of BERT-base.
        change = ops.partial(self.change, rate, correction1, correction2, keep)
        return ops.depend(done, self.map(change, self.parameters_, self.m, self.v, gradients, self.decay))

    def change(self, rate, correction1, correction2, keep, p, m, v, g, decay):
        """Assign the new values of one parameter and its moments."""
        new_m = self.beta1 * m + (1.0 - self.beta1) * g
        new_v = self.beta2 * v + (1.0 - self.beta2) * ops.square(g)
        new_p = self.update(p, new_m, new_v, rate, correction1, correction2, decay)
        if keep is not None:
            new_p, new_m, new_v = ops.select(keep, new_p, p), ops.select(keep, new_m, m), ops.select(keep, new_v, v)
        return ops.depend(True, (ops.assign(p, new_p), ops.assign(m, new_m), ops.assign(v, new_v)))


class AdamW(Moments):
    """p = p (1 - r w) - r (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps): Loshchilov & Hutter, 2019, as in torch."""

    def update(self, p, m, v, rate, correction1, correction2, decay):
        denominator = ops.sqrt(v) * ops.rsqrt(correction2) + self.epsilon
        return p * (1.0 - rate * decay) - (rate / correction1) * (m / denominator)


class AdamWeightDecay(Moments):
    """p = p - r (m / (sqrt(v) + eps) + w p): Google's optimization.py, Adam without bias correction."""

    def update(self, p, m, v, rate, correction1, correction2, decay):
        return p - rate * (m / (ops.sqrt(v) + self.epsilon) + decay * p)


class Lamb(Moments):
    """p = p - r (|p| / |u|) u with u = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) + w p: You et al., 2020, alg. 2.

    The ratio is 1 where either norm is 0, and for biases and LayerNorm, as in Google's lamb_optimizer.py.
    """

    def update(self, p, m, v, rate, correction1, correction2, decay):
        u = (m / correction1) / (ops.sqrt(v) * ops.rsqrt(correction2) + self.epsilon) + decay * p
        return p - rate * self.trust(p, u, decay) * u

    def trust(self, p, u, decay):
        if decay == 0.0:
            return 1.0
        p_norm, u_norm = ops.sqrt(ops.ReduceSum()(ops.square(p))), ops.sqrt(ops.ReduceSum()(ops.square(u)))
        both = ops.logical_and(p_norm > 0.0, u_norm > 0.0)
        return ops.select(both, p_norm / ops.select(both, u_norm, ops.ones_like(u_norm)), ops.ones_like(p_norm))


OPTIMIZERS = {"adamw": AdamW, "adam-weight-decay": AdamWeightDecay, "lamb": Lamb}
