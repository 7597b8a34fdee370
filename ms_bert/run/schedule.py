"""The learning rate of each step."""

from ms_bert.options import TrainingOptions


def learning_rate(options: TrainingOptions, step: int) -> float:
    """Rate of the 1-based step t, with W warm-up steps and the decay ending after step D.

    t / W of the highest rate for t <= W, then ((D + 1 - t) / (D + 1 - W)) ** power of it, and 0 after D: linear
    warm-up and polynomial decay (Devlin et al., 2019, A.2), with neither a first nor a last step of rate 0.
    """
    last = options.decay_steps or options.steps
    if step <= options.warmup_steps:
        return options.learning_rate * step / options.warmup_steps
    if step > last:
        return 0.0
    return options.learning_rate * ((last + 1 - step) / (last + 1 - options.warmup_steps)) ** options.decay_power
