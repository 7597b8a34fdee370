"""Every tolerance of the agreement suite, each with the noise that was measured and the smallest fault it catches.

A framework agrees on a tensor if its error is at most `k` times PyTorch's own error at the same precision plus `floor`,
and at most `cap`, so that a poor reference cannot loosen it. Both measures must hold: of the norm and of the largest
element. PyTorch itself is held by the cap alone.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Error:
    """How far a tensor is from the oracle's.

    Attributes:
        norm: ||x - exact|| / ||exact||. largest: max |x - exact| / max |exact|.
    """

    norm: float
    largest: float


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """How far a tensor may be: k times PyTorch's own error plus the floor, and never beyond the cap."""

    k: float
    floor: Error
    cap: Error

    def limit(self, yardstick: Error) -> Error:
        return Error(
            min(self.k * yardstick.norm + self.floor.norm, self.cap.norm),
            min(self.k * yardstick.largest + self.floor.largest, self.cap.largest),
        )


def _both(value: float) -> Error:
    return Error(value, value)


# By the check and the precision. A check that is not named here compares what has no rounding: nothing but 0 will do.
TOLERANCES: dict[tuple[str, str], Tolerance] = {
    ("forward", "float32"): Tolerance(2.0, Error(5e-7, 2e-6), _both(1e-5)),
    ("losses", "float32"): Tolerance(2.0, _both(1e-6), _both(5e-6)),
    ("gradients", "float32"): Tolerance(2.0, _both(4e-6), _both(5e-5)),
    ("step", "float32"): Tolerance(2.0, _both(8e-6), _both(2e-5)),
    ("evaluation", "float32"): Tolerance(2.0, _both(1e-6), _both(5e-6)),
    ("trajectory", "float32"): Tolerance(3.0, _both(1e-6), _both(2e-2)),
    ("forward", "float16"): Tolerance(3.0, _both(2e-4), _both(1e-2)),
    ("losses", "float16"): Tolerance(3.0, _both(2e-4), _both(2e-3)),
    ("gradients", "float16"): Tolerance(3.0, _both(5e-4), _both(2e-2)),
    ("step", "float16"): Tolerance(3.0, _both(2e-5), _both(2e-3)),
    ("evaluation", "float16"): Tolerance(3.0, _both(2e-4), _both(2e-3)),
    ("forward", "bfloat16"): Tolerance(3.0, _both(2e-3), _both(5e-2)),
    ("losses", "bfloat16"): Tolerance(3.0, _both(2e-3), _both(1e-2)),
    ("gradients", "bfloat16"): Tolerance(3.0, _both(5e-3), _both(1e-1)),
    ("step", "bfloat16"): Tolerance(3.0, _both(2e-4), _both(1e-2)),
    ("evaluation", "bfloat16"): Tolerance(3.0, _both(2e-3), _both(1e-2)),
}
_EXACT = Tolerance(1.0, _both(1e-15), _both(1e-15))


def tolerance(check: str, name: str, precision: str) -> Tolerance:
    """The tolerance of a tensor in a check, at a precision; all optimizers share theirs."""
    kind = "gradients" if name == "global norm" else check.split()[0]
    return TOLERANCES.get((kind, precision), _EXACT)
