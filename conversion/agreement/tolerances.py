"""Every tolerance of the agreement suite, each with the noise that was measured and the smallest fault it catches.

A framework agrees on a tensor if its error is at most K times PyTorch's own error at the same precision plus a floor.
Beyond the cap nothing can be judged: PyTorch itself is then so poor that what is allowed would hide a fault. Both
measures must hold: of the norm and of the largest element. PyTorch itself is held by the cap alone.
"""

from __future__ import annotations

import dataclasses

K = 3.0  # programs that round in another order than PyTorch, and no worse, were seen to err up to twice as much


@dataclasses.dataclass(frozen=True)
class Error:
    """How far a tensor is from the oracle's.

    Attributes:
        norm: ||x - exact|| / ||exact||. largest: max |x - exact| / max |exact|.
    """

    norm: float
    largest: float

    def within(self, other: Error) -> bool:
        return self.norm <= other.norm and self.largest <= other.largest


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """How far a tensor may be: K times PyTorch's own error plus the floor.

    Attributes:
        cap: beyond it no error is allowed, whatever PyTorch's own is.
        noise: the largest error, by norm, of any framework without a fault. fault: the smallest planted fault that is
        caught, and its error; None where none was planted: MindSpore has bfloat16 on the NPU only. Both as
        `python -m benchmarks agreement` measured them.
        margins: of `verify X X` over many models, as `python -m benchmarks calibration` measured them: the largest
        share of its limit that a sound tensor came to, and how many times its limit the smallest fault was (None: none
        was planted at this precision); None: not a check of `verify`.
    """

    floor: Error
    cap: Error
    noise: float
    fault: tuple[str, float] | None
    margins: tuple[float, float | None] | None = None

    def uncapped(self, yardstick: Error) -> Error:
        return Error(K * yardstick.norm + self.floor.norm, K * yardstick.largest + self.floor.largest)

    def limit(self, yardstick: Error) -> Error:
        allowed = self.uncapped(yardstick)
        return Error(min(allowed.norm, self.cap.norm), min(allowed.largest, self.cap.largest))

    def judges(self, yardstick: Error) -> bool:
        """Whether the cap leaves what K and the floor allow: where it cuts that, sound programs would fail."""
        return self.uncapped(yardstick).within(self.cap)


def _both(value: float) -> Error:
    return Error(value, value)


# By the check and the precision: floor, cap, noise, fault, margins. The floors are what MindSpore's CPU backend costs
# beyond PyTorch's own error: its exp is a polynomial, right to 3.3e-6 where probabilities are large, and where
# attention is flat PyTorch's own error of them, 1e-7, says nothing of it; its LogSoftmax is right to 4e-6; the
# primitive that updates Adam's moments takes 1 - beta2 in float32, right to 1e-5. A check that is not named here
# compares what has no rounding: nothing but 0 will do.
TOLERANCES: dict[tuple[str, str], Tolerance] = {
    ("forward", "float32"): Tolerance(_both(4e-6), _both(2e-5), 5.0e-06, ("epsilon-1e-7", 7.4e-05), (0.61, 18)),
    ("losses", "float32"): Tolerance(_both(1e-6), _both(5e-6), 4.3e-07, ("ignored-labels-counted", 0.28)),
    ("gradients", "float32"): Tolerance(_both(3e-5), _both(6e-5), 5.7e-06, ("decoder-untied", 1), (0.53, 3.1e4)),
    ("step", "float32"): Tolerance(_both(8e-6), _both(2e-5), 6.8e-06, ("decay-of-layer-norm", 0.054)),
    ("evaluation", "float32"): Tolerance(_both(1e-6), _both(5e-6), 9.4e-08, ("dropout-in-evaluation", 0.13)),
    ("trajectory", "float32"): Tolerance(_both(1e-6), _both(2e-2), 1.9e-06, None),
    ("forward", "float16"): Tolerance(_both(2e-4), _both(1e-2), 1.5e-03, ("bias-dropped", 0.1), (0.38, None)),
    ("losses", "float16"): Tolerance(_both(2e-4), _both(2e-3), 3.3e-04, ("averaged-over-rows", 0.39)),
    ("gradients", "float16"): Tolerance(
        _both(5e-4), _both(2e-2), 6.6e-03, ("ignored-labels-counted", 1.1), (0.50, None)
    ),
    ("step", "float16"): Tolerance(_both(2e-5), _both(2e-3), 4.7e-05, None),
    ("evaluation", "float16"): Tolerance(_both(2e-4), _both(2e-3), 1.1e-04, None),
    ("forward", "bfloat16"): Tolerance(_both(2e-3), _both(5e-2), 1.2e-02, None),
    ("losses", "bfloat16"): Tolerance(_both(2e-3), _both(1e-2), 4.3e-03, None),
    ("gradients", "bfloat16"): Tolerance(_both(5e-3), _both(1e-1), 4.5e-02, None),
    ("step", "bfloat16"): Tolerance(_both(2e-4), _both(1e-2), 3.4e-04, None),
    ("evaluation", "bfloat16"): Tolerance(_both(2e-3), _both(1e-2), 2.7e-03, None),
}
# The tables of embeddings of two checkpoints are copied, not computed: they differ by rounding or not at all.
_COPIED = Tolerance(_both(1e-6), _both(1e-6), 0.0, None)
_EXACT = Tolerance(_both(1e-15), _both(1e-15), 7.3e-17, ("warm-up-late", 0.49))


def kind(check: str, name: str) -> str:
    """What tolerances are told apart by; all optimizers share theirs."""
    return "gradients" if name == "global norm" else check.split(",")[0].split()[0]


def tolerance(check: str, name: str, precision: str) -> Tolerance:
    """The tolerance of a tensor in a check, at a precision."""
    found = kind(check, name)
    return _COPIED if found == "tables" else TOLERANCES.get((found, precision), _EXACT)
