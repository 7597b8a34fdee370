"""What a training step is told, whatever framework computes it: its rate, and which parameters decay."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ms_bert.options import TrainingOptions

GROWTH_INTERVAL = 1000  # good steps after which the loss scale doubles


def learning_rate(options: TrainingOptions, step: int) -> float:
    """Rate of the 1-based step t, with W warm-up steps and a decay after step B that ends after step D.

    t / W of the highest rate for t <= W, all of it up to B, then ((D + 1 - t) / (D + 1 - B)) ** power of it, and 0
    after D: linear warm-up and polynomial decay (Devlin et al., 2019, A.2), with neither a first nor a last step of
    rate 0. B is W in a linear schedule, and stands before the cool-down in one with a plateau (Hu et al., 2024, 4).
    """
    if step <= options.warmup_steps:
        return options.learning_rate * step / options.warmup_steps
    last, begin = options.decay_steps or options.steps, options.warmup_steps
    if options.schedule == "wsd":
        begin = max(begin, last - (options.cooldown_steps or max(1, last // 5)))
    if options.schedule == "constant" or step <= min(begin, last):
        return options.learning_rate
    if step > last:
        return 0.0
    return options.learning_rate * ((last + 1 - step) / (last + 1 - begin)) ** options.decay_power


def is_decayed(name: str) -> bool:
    """Whether weight decay applies to a parameter: to all but biases and LayerNorm (Devlin et al., 2019, A.2)."""
    return not name.endswith("bias") and "LayerNorm" not in name


def all_moments(
    shapes: Mapping[str, tuple[int, ...]], m: Mapping[str, np.ndarray], v: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The moments of all parameters, m.NAME and v.NAME: 0 of those that are not trained, as if they never were.

    Args:
        shapes: of all parameters. m, v: of those that are trained, at least one.
    """
    kind = next(iter(m.values())).dtype
    return {
        f"{letter}.{name}": moments[name] if name in moments else np.zeros(shape, kind)
        for letter, moments in (("m", m), ("v", v))
        for name, shape in shapes.items()
    }


def moments_of(letter: str, moments: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those of what `all_moments` gave that begin with 'm' or 'v', by the names of the parameters."""
    start = f"{letter}."
    return {name.removeprefix(start): value for name, value in moments.items() if name.startswith(start)}
