"""Scores are scikit-learn's and SciPy's; intervals follow from the same formula; nothing is ever nan."""

import warnings

import numpy as np
import pytest

from ms_bert.errors import UserError
from ms_bert.tasks import metrics
from ms_bert.tasks.metrics import METRICS, interval, interval_of_ratio


def of(rng, kind, rows, classes=2):
    """Labels and predictions that are right more often than not."""
    if kind == "regression":
        labels = rng.integers(0, 11, size=rows) / 2  # with ties, as the scores of annotators
        return labels, (labels + rng.normal(size=rows)).round(1).astype(np.float32)
    shape = rows if kind == "classification" else (rows, classes)
    most = classes if kind == "classification" else 2
    labels = rng.integers(0, most, size=shape)
    return labels, np.where(rng.random(shape) < 0.7, labels, rng.integers(0, most, size=shape))


# name, kind, number of classes
CASES = [
    ("accuracy", "classification", 2),
    ("accuracy", "classification", 5),
    ("f1", "classification", 2),
    ("f1_macro", "classification", 2),
    ("f1_macro", "classification", 5),
    ("f1_micro", "classification", 5),
    ("matthews_correlation", "classification", 2),
    ("matthews_correlation", "classification", 5),
    ("f1_macro", "multi-label", 1),
    ("f1_macro", "multi-label", 4),
    ("f1_micro", "multi-label", 1),
    ("f1_micro", "multi-label", 4),
    ("subset_accuracy", "multi-label", 1),
    ("subset_accuracy", "multi-label", 4),
    ("pearson", "regression", 0),
    ("spearman", "regression", 0),
]


def test_every_metric_is_tried_with_each_kind_of_task():
    assert {(name, kind) for name, kind, _ in CASES} == {
        (name, kind) for name, metric in METRICS.items() for kind in metric.kinds
    }


@pytest.mark.parametrize(
    "name, labels, predictions, expected",
    [
        ("accuracy", [0, 1, 2, 2], [0, 1, 1, 2], 3 / 4),
        ("f1", [0, 1, 1, 1, 0], [1, 1, 1, 0, 0], 2 * 2 / (3 + 3)),
        ("f1_macro", [0, 1, 1, 1, 0], [1, 1, 1, 0, 0], (2 / 3 + 1 / 2) / 2),
        ("f1_micro", [0, 1, 2, 2], [0, 1, 1, 2], 3 / 4),
        ("matthews_correlation", [0, 1, 1, 1, 0], [1, 1, 1, 0, 0], (2 * 1 - 1 * 1) / (3 * 3 * 2 * 2) ** 0.5),
        ("f1_micro", [[1, 0], [1, 1]], [[1, 1], [0, 1]], 2 * 2 / (3 + 3)),
        ("f1_macro", [[1, 0], [1, 1]], [[1, 1], [0, 1]], (2 / 3 + 2 / 3) / 2),
        ("f1_micro", [[1], [0], [0]], [[1], [1], [0]], 2 / 3),
        ("subset_accuracy", [[1, 0], [1, 1]], [[1, 1], [1, 1]], 1 / 2),
        ("pearson", [1, 2, 3], [1, 2, 4], 3 / (2 * 14 / 3) ** 0.5),
        ("spearman", [1, 2, 3, 4], [10, 30, 20, 40], 1 - 6 * 2 / (4 * 15)),
    ],
)
def test_scores_are_those_of_the_formulas(name, labels, predictions, expected):
    assert METRICS[name](np.array(labels), np.array(predictions)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name, kind, classes", CASES)
def test_the_formula_of_the_draws_is_that_of_the_score(name, kind, classes):
    rng = np.random.default_rng(1)
    metric = METRICS[name]
    for rows in (2, 7, 60):
        labels, predictions = of(rng, kind, rows, classes)
        drawn = np.concatenate([np.arange(rows)[None], rng.integers(rows, size=(20, rows))])
        counts = np.stack([np.bincount(draw, minlength=rows) for draw in drawn]).astype(np.float64)
        expected = [metric(labels[draw], predictions[draw]) for draw in drawn]
        assert metric.draws(labels, predictions)(counts) == pytest.approx(expected, abs=1e-9)


CONSTANT = [
    ("accuracy", [0, 0], [1, 1], 0.0),
    ("f1", [0, 0], [0, 0], 0.0),
    ("f1_macro", [0, 0], [1, 1], 0.0),
    ("matthews_correlation", [0, 1, 1], [1, 1, 1], 0.0),
    ("matthews_correlation", [1, 1], [1, 1], 0.0),
    ("f1_macro", [[0, 0]], [[0, 0]], 0.0),
    ("f1_micro", [[0, 0]], [[0, 0]], 0.0),
    ("subset_accuracy", [[0, 0]], [[0, 0]], 1.0),
    ("pearson", [1.0, 2.0, 3.0], [0.1, 0.1, 0.1], 0.0),
    ("pearson", [1.0], [1.0], 0.0),
    ("spearman", [1.0, 2.0, 3.0], [0.1, 0.1, 0.1], 0.0),
    ("spearman", [1.0], [1.0], 0.0),
]


@pytest.mark.parametrize("name, labels, predictions, expected", CONSTANT)
def test_what_is_not_defined_is_zero_without_a_warning(name, labels, predictions, expected):
    labels, predictions = np.array(labels), np.array(predictions)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert METRICS[name](labels, predictions) == expected
        assert interval(name, labels, predictions, 0, draws=10) == (expected, expected)


def test_draws_without_any_variance_are_zero_and_not_an_error_of_rounding():
    rng, counts = np.random.default_rng(0), np.array([[2.0, 1, 2, 1, 1, 0, 0]])  # all of one value
    for _ in range(200):
        labels, predictions = (np.array([often] * 6 + [once]) for often, once in rng.integers(1, 60, size=(2, 2)) / 10)
        for name in ("pearson", "spearman"):
            assert METRICS[name].draws(labels, predictions)(counts) == 0


@pytest.mark.parametrize("name, kind, classes", CASES)
def test_an_interval_holds_the_score_follows_from_the_seed_and_shrinks_with_more_rows(name, kind, classes):
    rng = np.random.default_rng(2)
    widths = []
    for rows in (100, 2000):
        labels, predictions = of(rng, kind, rows, classes)
        low, high = interval(name, labels, predictions, seed=3, draws=200)
        assert low < METRICS[name](labels, predictions) < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2
    assert interval(name, labels, predictions, seed=3, draws=200) == (low, high)
    assert interval(name, labels, predictions, seed=4, draws=200) != (low, high)


def test_the_interval_of_an_accuracy_is_about_that_of_the_normal_distribution():
    labels = np.zeros(872, int)
    predictions = (np.arange(872) < 87).astype(int)
    low, high = interval("accuracy", labels, predictions, seed=0)
    share = 1 - 87 / 872
    half = 1.96 * (share * (1 - share) / 872) ** 0.5
    assert (low, high) == pytest.approx((share - half, share + half), abs=0.003)


def test_an_interval_is_the_same_however_many_draws_are_made_at_a_time(monkeypatch):
    labels, predictions = of(np.random.default_rng(5), "regression", 50)
    at_once = interval("spearman", labels, predictions, 1, draws=30)
    monkeypatch.setattr(metrics, "_COUNTS_AT_A_TIME", 60)
    assert interval("spearman", labels, predictions, 1, draws=30) == pytest.approx(at_once, abs=1e-12)


def test_scores_of_each_class_and_the_confusion_of_classes():
    labels, predictions = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 0])
    assert metrics.by_class(labels, predictions, ["no", "yes", "never"]) == {
        "no": {"precision": 1 / 2, "recall": 1 / 2, "f1": 1 / 2, "support": 2},
        "yes": {
            "precision": pytest.approx(2 / 3),
            "recall": pytest.approx(2 / 3),
            "f1": pytest.approx(2 / 3),
            "support": 3,
        },
        "never": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0},
    }
    assert metrics.confusion(labels, predictions, 3).tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]


def test_scores_of_each_of_several_labels():
    labels, predictions = np.array([[1, 0], [1, 1]]), np.array([[1, 1], [0, 1]])
    assert metrics.by_class(labels, predictions, ["a", "b"]) == {
        "a": {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2},
        "b": {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1},
    }
    single = metrics.by_class(labels[:, :1], predictions[:, :1], ["a"])
    assert single == {"a": {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2}}


def test_predictions_that_are_not_finite_and_arrays_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="not a finite number"):
        METRICS["pearson"](np.zeros(2), np.array([0, np.nan]))
    with pytest.raises(ValueError, match="one shape"):
        METRICS["accuracy"](np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match="one shape"):
        interval("accuracy", np.zeros(0), np.zeros(0), 0)
    with pytest.raises(ValueError, match="two classes"):
        METRICS["f1"](np.array([0, 2]), np.array([0, 1]))


def test_calibration_is_the_distance_of_confidence_from_accuracy():
    probabilities = np.array([0.95, 0.91, 0.99, 0.55, 0.51, 1.0])
    right = np.array([True, True, False, True, False, True])
    found = metrics.calibration(probabilities, right)
    assert [one["count"] for one in found["bins"]] == [2, 4] and found["bins"][1]["right"] == 0.75
    expected = (2 * abs(0.53 - 0.5) + 4 * abs(0.9625 - 0.75)) / 6
    assert found["expected_calibration_error"] == pytest.approx(expected)
    assert metrics.calibration(np.ones(5), np.ones(5, bool))["expected_calibration_error"] == 0.0


def test_the_interval_of_a_ratio_of_sums_is_that_of_the_mean_where_all_rows_count_alike():
    labels, predictions = of(np.random.default_rng(5), "classification", 300)
    right = labels == predictions
    assert interval_of_ratio(right, np.ones(300), 2) == pytest.approx(interval("accuracy", labels, predictions, 2))
    assert interval_of_ratio(3 * right, np.full(300, 3), 2) == interval_of_ratio(right, np.ones(300), 2)
    assert interval_of_ratio(np.zeros(4), np.zeros(4), 2) == (0.0, 0.0)


def test_whole_groups_of_rows_are_drawn_where_rows_belong_together():
    labels, predictions = of(np.random.default_rng(5), "classification", 300, classes=3)
    alone = interval("f1_macro", labels, predictions, 2)
    assert interval("f1_macro", labels, predictions, 2, groups=np.arange(300)) == alone
    fifteen = interval("f1_macro", np.repeat(labels, 15), np.repeat(predictions, 15), 2, groups=np.arange(4500) // 15)
    assert fifteen == pytest.approx(alone)  # rows that are alike tell no more than one
