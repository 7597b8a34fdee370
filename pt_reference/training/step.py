"""What a step does with the gradients: clipping, loss scaling, the optimizer."""

import torch
from torch import nn

from ms_bert.options import TrainingOptions
from ms_bert.run.recipe import GROWTH_INTERVAL
from pt_reference.kernels import Operations, sums_of_squares
from pt_reference.training.exchange import Whole
from pt_reference.training.optimizers import OPTIMIZERS


def norm_by_few_kernels(gradients: list[torch.Tensor]) -> float:
    """The global norm by a few kernels for all gradients, in place of several for each; their norms are float32."""
    return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)).double()))


class Update:
    """Unscale and clip the gradients, let the optimizer update, and adapt the loss scale.

    Clipping multiplies all gradients by clip / max(norm, clip), norm being their global norm (Pascanu et al., 2013).
    In float16 the loss is scaled (Micikevicius et al., 2018): a norm that is not finite skips the update and halves the
    scale, to no less than 1, and it doubles after 1000 good steps in a row.

    Args:
        shares: of the learning rate, by parameter name; None: 1. exchange: between workers; None: there is one.

    Attributes:
        optimizers: by the names of --optimizer; a subclass may have others.
    """

    optimizers = OPTIMIZERS

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        options: TrainingOptions,
        operations: Operations,
        shares: dict[str, float] | None = None,
        exchange: Whole | None = None,
    ):
        self.parameters = list(parameters.values())
        self.exchange = exchange or Whole(parameters)
        self.optimizer = self.optimizers[options.optimizer](self.exchange, options, shares)
        self.sums_of_squares = operations.sums_of_squares
        # Of the levels of the tree (see `ms_bert.run.leaves`) but the first, whose gradients the parameters hold.
        self.carried: dict[int, list[torch.Tensor]] = {}
        self.clip_norm = options.clip_norm
        self.scaled = options.precision == "float16"
        self.loss_scale = options.loss_scale if self.scaled else 1.0
        self.good_steps = 0

    def __call__(self, rate: float) -> tuple[float, bool]:
        """Update with the gradients that the parameters hold, or those that were carried to the last level, and clear
        them.

        Returns:
            the norm, and whether it was skipped at a scale above 1.
        """
        if self.carried:
            self._hold(self.carried.pop(max(self.carried)))
        self.exchange.reduce()
        gradients = [p.grad for p in self.exchange.pieces.values()]
        norm = self._norm(gradients) / self.loss_scale
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
        self.exchange.publish()
        self.clear()
        return norm, skipped

    @torch.no_grad()
    def carry(self, level: int) -> None:
        """Add the gradients of a level of the tree to those of the next one, and forget them."""
        if level == 0:
            gradients = [p.grad for p in self.parameters]
            self.clear()
        else:
            gradients = self.carried.pop(level)
        if level + 1 in self.carried:
            torch._foreach_add_(self.carried[level + 1], gradients)
        else:
            self.carried[level + 1] = gradients

    def _hold(self, gradients: list[torch.Tensor]) -> None:
        for p, gradient in zip(self.parameters, gradients):
            p.grad = gradient

    def _norm(self, gradients: list[torch.Tensor]) -> float:
        """The global norm."""
        alone = type(self.exchange) is Whole
        if alone and gradients[0].device.type == "cuda" and self.sums_of_squares is sums_of_squares:
            return norm_by_few_kernels(gradients)
        return float(self.exchange.of_tiles([self.sums_of_squares(gradient) for gradient in gradients]).sum() ** 0.5)

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
