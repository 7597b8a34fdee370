"""Scores of predictions by scikit-learn and SciPy, their confidence intervals, and scores of each class.

Labels and predictions are arrays of one shape: (N,) numbers of classes, (N,) numbers of a regression, or (N, K) of 0
and 1 for several labels at once. What is not defined is 0.0, never nan: the F1 of a class that neither has, a
correlation with what is constant. (scikit-learn gives 0.0 too, after a warning. SciPy gives nan.)
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ms_bert.errors import UserError
from ms_bert.randomness import BOOTSTRAP, generator
from ms_bert.tasks.examples import Kind

_COUNTS_AT_A_TIME = 1 << 22  # of rows in draws, float64
_LEAST_VARIANCE = 1e-12  # of a draw, as a share of that of all rows: less is an error of rounding

# From counts (draws, N) of how often each row was drawn to the score of each draw.
OfDraws = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Metric:
    """A function of (labels, predictions).

    Attributes:
        kinds: of tasks that it is for; two_classes: only where there are two classes, of which the second is positive.
        score: by scikit-learn or SciPy. draws: the same formula for many samples of the rows at once.
    """

    kinds: tuple[Kind, ...]
    score: Callable[[np.ndarray, np.ndarray], float]
    draws: Callable[[np.ndarray, np.ndarray], OfDraws]
    two_classes: bool = False

    def __call__(self, labels: np.ndarray, predictions: np.ndarray) -> float:
        """The score.

        Raises:
            ValueError: the arrays are empty or of different shapes, or have more classes than the metric is for.
            UserError: a prediction is not finite.
        """
        labels, predictions = self.checked(labels, predictions)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is not defined
            value = float(self.score(labels, predictions))
        return 0.0 if math.isnan(value) else value

    def checked(self, labels: np.ndarray, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both as arrays; raises as a call does."""
        labels, predictions = np.asarray(labels), np.asarray(predictions)
        if labels.shape != predictions.shape or not labels.size:
            raise ValueError(f"labels {labels.shape} and predictions {predictions.shape} are to be of one shape")
        if not np.isfinite(predictions).all():
            raise UserError(
                "a prediction is not a finite number; train again, with a lower learning rate.", exit_code=1
            )
        if self.two_classes and max(labels.max(), predictions.max()) > 1:
            raise ValueError("this metric is for two classes")
        return labels, predictions


def interval(
    metric: str,
    labels: np.ndarray,
    predictions: np.ndarray,
    seed: int,
    draws: int = 1000,
    groups: np.ndarray | None = None,
) -> tuple[float, float]:
    """The 95% confidence interval of a metric, for other rows of the same kind: from the 2.5th to the 97.5th percentile
    of its values on samples of N rows with replacement (the percentile bootstrap; Efron & Tibshirani, 1993, ch. 13).

    It says nothing of how the metric changes with the seed of the training.

    Args:
        metric: a name in METRICS. seed: the samples follow from it.
        groups: the group of each row (N,), from 0, if whole groups are drawn, such as the words of a sentence; not for
            metrics that are means over the rows.

    Raises:
        ValueError, UserError: as a call of the metric.
    """
    labels, predictions = METRICS[metric].checked(labels, predictions)
    of_draws = METRICS[metric].draws(labels, predictions)
    if groups is None:
        return _percentiles(of_draws, len(labels), seed, draws)
    return _percentiles(lambda counts: of_draws(counts[:, groups]), int(groups.max()) + 1, seed, draws, len(labels))


def interval_of_ratio(
    numerators: np.ndarray, denominators: np.ndarray, seed: int, draws: int = 1000
) -> tuple[float, float]:
    """The same of the ratio of two sums over rows, each (N,), such as words that are right and words of sentences."""
    parts = np.stack([numerators, denominators], axis=1).astype(np.float64)

    def of_draws(counts):
        above, below = (counts @ parts).T
        return _ratio(above, below)

    return _percentiles(of_draws, len(parts), seed, draws)


def interval_of_mean(values: np.ndarray, seed: int, draws: int = 1000) -> tuple[float, float]:
    """The same of the mean of values (N,), each of another example."""
    return _percentiles(lambda counts: counts @ values / len(values), len(values), seed, draws)


def _percentiles(of_draws: OfDraws, rows: int, seed: int, draws: int, values: int = 0) -> tuple[float, float]:
    """values: that a draw takes, if they are more than its rows."""
    rng = generator(seed, BOOTSTRAP, 0)
    at_a_time = max(1, _COUNTS_AT_A_TIME // max(rows, values))
    scores = []
    for start in range(0, draws, at_a_time):
        counts = np.empty((min(at_a_time, draws - start), rows))
        for draw in counts:
            draw[:] = np.bincount(rng.integers(rows, size=rows), minlength=rows)
        scores.append(of_draws(counts))
    low, high = np.quantile(np.concatenate(scores), (0.025, 0.975))
    return float(low), float(high)


def by_class(labels: np.ndarray, predictions: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Of each class: precision, recall, f1, and support, the number of rows that have the label; names: of all K."""
    from sklearn.metrics import precision_recall_fscore_support

    labels, predictions, of = _indicators(np.asarray(labels), np.asarray(predictions), range(len(names)))
    scores = precision_recall_fscore_support(labels, predictions, labels=of, average=None, zero_division=0)
    precision, recall, f1, support = (column.tolist() for column in scores)
    return {
        name: {"precision": precision[i], "recall": recall[i], "f1": f1[i], "support": support[i]}
        for i, name in enumerate(names)
    }


def confusion(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """How often the class of a row, (N,) numbers, is predicted as the class of a column: (K, K), int64."""
    from sklearn.metrics import confusion_matrix

    return confusion_matrix(labels, predictions, labels=range(classes))


def calibration(probabilities: np.ndarray, right: np.ndarray, bins: int = 10) -> dict[str, Any]:
    """How often guesses of each probability are right, and the expected calibration error (Guo et al., 2017, eq. 3):
    the mean difference between the two, over bins of equal width, weighted by their sizes.

    Args:
        probabilities: (N,), of the guesses, 0..1. right: (N,), whether they are.
    """
    numbers = np.minimum((probabilities * bins).astype(int), bins - 1)
    told = [
        {
            "probability": float(probabilities[numbers == number].mean()),
            "right": float(right[numbers == number].mean()),
            "count": int((numbers == number).sum()),
        }
        for number in np.unique(numbers)
    ]
    error = sum(abs(one["probability"] - one["right"]) * one["count"] for one in told) / len(probabilities)
    return {"expected_calibration_error": float(error), "bins": told}


def _accuracy(labels, predictions):
    from sklearn.metrics import accuracy_score

    labels, predictions, _ = _indicators(labels, predictions)
    return accuracy_score(labels, predictions)


def _matthews(labels, predictions):
    from sklearn.metrics import matthews_corrcoef

    return matthews_corrcoef(labels, predictions)


def _f1(average: str):
    def score(labels, predictions):
        from sklearn.metrics import f1_score

        labels, predictions, of = _indicators(labels, predictions)
        return f1_score(labels, predictions, average=average, labels=of, zero_division=0)

    return score


def _indicators(labels, predictions, classes=None):
    """The arrays, and which classes they have, as scikit-learn wants them: it takes a single column of labels for the
    numbers of two classes."""
    if labels.ndim == 1:
        return labels, predictions, classes
    if labels.shape[1] == 1:
        return labels[:, 0], predictions[:, 0], [1]
    return labels, predictions, None


def _pearson(labels, predictions):
    from scipy.stats import pearsonr

    return pearsonr(_float64(labels), _float64(predictions)).statistic if len(labels) > 1 else math.nan


def _spearman(labels, predictions):
    from scipy.stats import spearmanr

    return spearmanr(labels, predictions).statistic


# The same of many draws: all but Spearman's are functions of sums over the rows, so those of all draws are one product.


def _accuracy_of_draws(labels, predictions) -> OfDraws:
    right = (labels == predictions).reshape(len(labels), -1).all(axis=1)
    return lambda counts: counts @ right / len(right)


def _f1_of_draws(labels, predictions) -> OfDraws:
    return _f1_micro_of_draws((labels == 1)[:, None], (predictions == 1)[:, None])


def _f1_micro_of_draws(labels, predictions) -> OfDraws:
    sums = _class_sums(labels, predictions)

    def of_draws(counts):
        labelled, predicted, right = (part.sum(axis=1) for part in sums(counts))
        return _ratio(2 * right, labelled + predicted)

    return of_draws


def _f1_macro_of_draws(labels, predictions) -> OfDraws:
    sums = _class_sums(labels, predictions)

    def of_draws(counts):
        labelled, predicted, right = sums(counts)
        scores = _ratio(2 * right, labelled + predicted)
        if labels.ndim == 2:
            return scores.mean(axis=1)
        return scores.sum(axis=1) / (labelled + predicted > 0).sum(axis=1)  # the mean of the classes that there are

    return of_draws


def _matthews_of_draws(labels, predictions) -> OfDraws:
    """For any number of classes: R_K (Gorodkin, 2004), which for two is Matthews'."""
    sums, rows = _class_sums(labels, predictions), len(labels)

    def of_draws(counts):
        labelled, predicted, right = sums(counts)
        together = rows * right.sum(axis=1) - (labelled * predicted).sum(axis=1)
        apart = (rows**2 - (labelled**2).sum(axis=1)) * (rows**2 - (predicted**2).sum(axis=1))
        return _ratio(together, np.sqrt(apart))

    return of_draws


def _pearson_of_draws(labels, predictions) -> OfDraws:
    x, y = (_float64(values) - _float64(values).mean() for values in (labels, predictions))
    return lambda counts: _correlation(x, y, counts)


def _spearman_of_draws(labels, predictions) -> OfDraws:
    x, y = (np.unique(values, return_inverse=True)[1] for values in (labels, predictions))
    return lambda counts: np.concatenate([_correlation(_ranks(x, row), _ranks(y, row), row[None]) for row in counts])


def _class_sums(labels, predictions) -> Callable[[np.ndarray], list[np.ndarray]]:
    """From counts to three arrays (draws, K): rows of the class, rows predicted as it, rows for which both holds."""
    if labels.ndim == 1:
        classes = np.union1d(labels, predictions)
        labels, predictions = labels[:, None] == classes, predictions[:, None] == classes
    parts = np.concatenate([labels, predictions, labels * predictions], axis=1).astype(np.float64)
    return lambda counts: np.split(counts @ parts, 3, axis=1)


def _correlation(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Pearson's of each draw; x, y: (N,), about centred."""
    rows = len(x)
    mean_x, mean_y, xx, yy, xy = (counts @ np.stack([x, y, x * x, y * y, x * y], axis=1) / rows).T
    variances = np.stack([xx - mean_x**2, yy - mean_y**2])
    variances[variances <= _LEAST_VARIANCE * np.array([[x.var()], [y.var()]])] = 0
    return np.clip(_ratio(xy - mean_x * mean_y, np.sqrt(variances[0] * variances[1])), -1, 1)


def _ranks(numbered: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The rank of each row within a draw, the mean rank among equals, less the mean of all; numbered: (N,) positions of
    the values in their order."""
    times = np.bincount(numbered, weights=counts)
    return (np.cumsum(times) - times / 2 - counts.sum() / 2)[numbered]


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def _float64(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float64)


METRICS = {
    "accuracy": Metric(("classification",), _accuracy, _accuracy_of_draws),
    "f1": Metric(("classification",), _f1("binary"), _f1_of_draws, two_classes=True),
    "f1_macro": Metric(("classification", "multi-label"), _f1("macro"), _f1_macro_of_draws),
    "f1_micro": Metric(("classification", "multi-label"), _f1("micro"), _f1_micro_of_draws),
    "matthews_correlation": Metric(("classification",), _matthews, _matthews_of_draws),
    "subset_accuracy": Metric(("multi-label",), _accuracy, _accuracy_of_draws),
    "pearson": Metric(("regression",), _pearson, _pearson_of_draws),
    "spearman": Metric(("regression",), _spearman, _spearman_of_draws),
}
