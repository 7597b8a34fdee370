"""AdamW, Google's AdamWeightDecay, and LAMB, on the gradients that the parameters hold.

Each formula is for one parameter p with gradient g, moments m and v, learning rate r, the number of updates t, and
weight decay w, which is 0 for biases and LayerNorm:

    m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2
"""

import torch

from ms_bert.options import TrainingOptions
from ms_bert.run.recipe import is_decayed
from pt_reference.kernels import sums_of_squares
from pt_reference.training.exchange import Whole


class Optimizer:
    """What the three optimizers share: the moments by the names of what is updated, and the count of updates.

    Args:
        exchange: has what is updated, parameters or tiles of them. shares: of the learning rate, by parameter name;
            None: 1.
    """

    def __init__(self, exchange: Whole, options: TrainingOptions, shares: dict[str, float] | None = None):
        self.exchange, self.p = exchange, exchange.pieces
        shares = shares or dict.fromkeys(exchange.parameters.values(), 1.0)
        self.shares = {name: shares[parameter] for name, parameter in exchange.parameters.items()}
        self.decayed = {name: is_decayed(parameter) for name, parameter in exchange.parameters.items()}
        self.m = {name: torch.zeros_like(p) for name, p in self.p.items()}
        self.v = {name: torch.zeros_like(p) for name, p in self.p.items()}
        self.updates = 0
        self.weight_decay, self.epsilon = options.weight_decay, options.optimizer_epsilon
        self.beta1, self.beta2 = options.beta1, options.beta2

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Update everything with its `grad`."""
        self.updates += 1
        self.change(rate, 1.0 - self.beta1**self.updates, 1.0 - self.beta2**self.updates)


class AdamW(Optimizer):
    """p = p (1 - r w) - r (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps): Loshchilov & Hutter, 2019.

    It is torch's own, in its fused form.
    """

    def __init__(self, exchange: Whole, options: TrainingOptions, shares: dict[str, float] | None = None):
        super().__init__(exchange, options, shares)
        groups: dict[tuple[bool, float], list[torch.Tensor]] = {}
        for name, p in self.p.items():
            groups.setdefault((self.decayed[name], self.shares[name]), []).append(p)
        self.torch = torch.optim.AdamW(
            [{"params": group, "decayed": decayed, "share": share} for (decayed, share), group in groups.items()],
            lr=options.learning_rate,
            betas=(self.beta1, self.beta2),
            eps=self.epsilon,
            weight_decay=self.weight_decay,
            fused=True,
        )
        self.count = {name: torch.zeros((), device=p.device) for name, p in self.p.items()}
        for name, p in self.p.items():
            self.torch.state[p] = {"step": self.count[name], "exp_avg": self.m[name], "exp_avg_sq": self.v[name]}

    def change(self, rate, correction1, correction2):
        self._step(rate, self.epsilon, self.weight_decay)

    def _step(self, rate, epsilon, decay):
        for group in self.torch.param_groups:
            group.update(lr=rate * group["share"], eps=epsilon, weight_decay=decay if group["decayed"] else 0.0)
        counts = list(self.count.values())
        torch._foreach_zero_(counts)
        torch._foreach_add_(counts, self.updates - 1)  # the fused kernel adds one
        self.torch.step()


class AdamWeightDecay(AdamW):
    """p = p - r (m / (sqrt(v) + eps) + w p): Google's optimization.py, Adam without bias correction."""

    def change(self, rate, correction1, correction2):
        # AdamW computes it with r c1 / sqrt(c2) for r, eps / sqrt(c2) for eps and w sqrt(c2) / c1 for w.
        root = correction2**0.5
        self._step(rate * correction1 / root, self.epsilon / root, self.weight_decay * root / correction1)


class Lamb(Optimizer):
    """p = p - r (|p| / |u|) u with u = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) + w p: You et al., 2020, alg. 2.

    The ratio is 1 where either norm is 0, and for biases and LayerNorm, as in Google's lamb_optimizer.py.
    """

    def change(self, rate, correction1, correction2):
        norms = []
        for name, p in self.p.items():
            m, v = self.m[name], self.v[name]
            m.mul_(self.beta1).add_(p.grad, alpha=1.0 - self.beta1)
            v.mul_(self.beta2).addcmul_(p.grad, p.grad, value=1.0 - self.beta2)
            u = self.direction(name, correction1, correction2)
            norms.append(torch.stack((sums_of_squares(p), sums_of_squares(u)), -1))
        # The direction is computed once more, for all of them at once take the memory of a model.
        for (name, p), found in zip(self.p.items(), self.exchange.of_parameters(norms)):
            u = self.direction(name, correction1, correction2)
            if self.decayed[name]:
                u.mul_(trust_ratio(found))
            p.add_(u, alpha=-rate * self.shares[name])

    def direction(self, name: str, correction1: float, correction2: float) -> torch.Tensor:
        """u, of the moments as they are now."""
        u = (self.m[name] / correction1) / ((self.v[name] / correction2).sqrt_() + self.epsilon)
        return u.add_(self.p[name], alpha=self.weight_decay) if self.decayed[name] else u


def trust_ratio(norms):
    """|p| / |u| () float64, or 1 where either is 0; norms: their squares by tile (T, 2)."""
    p_norm, u_norm = norms.sum(0).sqrt()
    return torch.where((p_norm > 0.0) & (u_norm > 0.0), p_norm / u_norm, torch.ones_like(p_norm))


OPTIMIZERS = {"adamw": AdamW, "adam-weight-decay": AdamWeightDecay, "lamb": Lamb}
