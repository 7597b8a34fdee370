"""The measure of agreement: how far a tensor is from the oracle's, and how far it may be."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping

import numpy as np

from conversion.agreement.tolerances import Error, tolerance

# Bins of a histogram: decades of |x - exact| / max |exact|, four a decade, from 1e-18 to 1e2; what is smaller (or 0) is
# in the first bin, what is larger (or not finite) in the last.
HISTOGRAM_EDGES = tuple(-18 + i / 4 for i in range(81))

# The softmax does not see a bias of the keys: its gradient is 0, and what is computed for it is noise, whose scale is
# that of the terms that should cancel. The gradients beside it show them: of the queries' bias, and of the keys'
# weight, whose rows are the same terms times numbers near 1.
_KEY_BIAS, _QUERY_BIAS, _KEY_WEIGHT = (f"attention.self.{name}" for name in ("key.bias", "query.bias", "key.weight"))


@dataclasses.dataclass(frozen=True)
class Finding:
    """How far one tensor that a framework computed is from the oracle's.

    Attributes:
        check: what was compared ('forward', 'losses', 'gradients', 'step adamw', ...). case: on which inputs.
        contender: which framework, and how ('MindSpore graph'). precision: of its activations and products.
        name: of the tensor. error: against the oracle. yardstick: the error of PyTorch (eager) at the same precision;
        None where the contender is PyTorch itself. limit: of the error.
        histogram: how many elements have an error within each bin of HISTOGRAM_EDGES.
        judged: False where PyTorch's own error is so large that no limit would mean anything.
    """

    check: str
    case: str
    contender: str
    precision: str
    name: str
    error: Error
    yardstick: Error | None
    limit: Error
    histogram: tuple[int, ...] = ()
    judged: bool = True

    @property
    def share(self) -> float:
        """The error as a share of its limit: at most 1 where it agrees."""
        pairs = ((self.error.norm, self.limit.norm), (self.error.largest, self.limit.largest))
        return max(_times(error, limit) for error, limit in pairs)

    @property
    def agrees(self) -> bool:
        return self.share <= 1.0 or not self.judged

    @property
    def ratio(self) -> float:
        """How many times the yardstick's error it is, by the worse of the two measures; nan without a yardstick."""
        if self.yardstick is None:
            return math.nan
        pairs = ((self.error.norm, self.yardstick.norm), (self.error.largest, self.yardstick.largest))
        return max(_times(error, other) for error, other in pairs)

    def __str__(self) -> str:
        times = "" if self.yardstick is None else f", {self.ratio:.3g}x PyTorch's own"
        return (
            f"{self.check}, {self.case}, {self.contender} {self.precision}, {self.name}: error {self.error.norm:.2e} "
            f"(largest {self.error.largest:.2e}){times}; the limit is {self.limit.norm:.2e} ({self.limit.largest:.2e})"
        )


def _times(error: float, other: float) -> float:
    """error / other; 0 where there is no error, and infinite where it is not a number or there must be none."""
    if error == 0.0:
        return 0.0
    return error / other if other and not math.isnan(error) else math.inf


def error_of(value: np.ndarray, exact: np.ndarray, scale: np.ndarray | None = None) -> Error:
    """||x - exact|| / ||scale|| and max |x - exact| / max |scale|, in float64; infinite where x is not finite.

    Args:
        scale: what the error is relative to; None: exact itself. Where it is 0 everywhere, x must be so too.
    """
    if value.shape != exact.shape:
        raise ValueError(f"a tensor of shape {value.shape} was computed, and the oracle's is {exact.shape}")
    value, scale = value.astype(np.float64, copy=False), exact if scale is None else scale
    if not np.isfinite(value).all():
        return Error(math.inf, math.inf)
    difference, size = np.abs(value - exact), np.abs(scale)
    largest, norm = float(difference.max(initial=0.0)), float(np.linalg.norm(difference))
    if largest == 0.0:
        return Error(0.0, 0.0)
    if size.max() == 0.0:
        return Error(math.inf, math.inf)
    return Error(norm / float(np.linalg.norm(size)), largest / float(size.max()))


def errors(values: Mapping[str, np.ndarray], exact: Mapping[str, np.ndarray]) -> dict[str, Error]:
    """The error of each tensor, in the oracle's order; those that the contender does not give are left out.

    Raises:
        ValueError: it gives one that the oracle has not.
    """
    if unknown := sorted(values.keys() - exact.keys()):
        raise ValueError(f"the oracle has no {', '.join(unknown)}")
    return {name: error_of(values[name], exact[name], _scale(name, exact)) for name in exact if name in values}


def histogram(value: np.ndarray, exact: np.ndarray) -> tuple[int, ...]:
    """How many elements of |x - exact| / max |exact| fall in each bin of HISTOGRAM_EDGES."""
    scale = float(np.abs(exact).max(initial=0.0)) or 1.0
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        decades = np.log10(np.abs(value - exact) / scale)
    decades = np.nan_to_num(decades, nan=math.inf).clip(HISTOGRAM_EDGES[0], HISTOGRAM_EDGES[-1] - 1e-9)
    return tuple(np.histogram(decades, HISTOGRAM_EDGES)[0].tolist())


def judge(
    check: str,
    case: str,
    contender: str,
    precision: str,
    found: Mapping[str, Error],
    yardsticks: Mapping[str, Error] | None,
    histograms: Mapping[str, tuple[int, ...]] | None = None,
) -> list[Finding]:
    """The findings of a contender's errors.

    Args:
        yardsticks: PyTorch's own errors at this precision; None where the contender is PyTorch, which only the absolute
            cap holds.
    """
    findings = []
    for name, error in found.items():
        allowed = tolerance(check, name, precision)
        yardstick = None if yardsticks is None else yardsticks[name]
        limit = allowed.cap if yardstick is None else allowed.limit(yardstick)
        bins = (histograms or {}).get(name, ())
        findings.append(Finding(check, case, contender, precision, name, error, yardstick, limit, bins))
    return findings


def worst(findings: Iterable[Finding]) -> Finding:
    """The one of those judged that is nearest to its limit, or farthest beyond it."""
    return max(findings, key=lambda finding: (finding.judged, finding.share))


def larger(one: Mapping[str, Error], other: Mapping[str, Error]) -> dict[str, Error]:
    """The larger of two errors of each tensor, measure by measure."""
    return {
        name: Error(max(error.norm, other[name].norm), max(error.largest, other[name].largest))
        for name, error in one.items()
    }


def _scale(name: str, exact: Mapping[str, np.ndarray]) -> np.ndarray:
    layer = name.removesuffix(_KEY_BIAS)
    if layer == name or layer + _QUERY_BIAS not in exact:
        return exact[name]
    terms = np.sqrt(np.square(exact[layer + _KEY_WEIGHT]).mean(1))
    return np.maximum.reduce([np.abs(exact[layer + _QUERY_BIAS]), np.abs(exact[name]), terms])
