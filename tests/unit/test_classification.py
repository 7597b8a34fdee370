"""Tasks on texts: their labels, what evaluations make of logits, and what is told of a text."""

import dataclasses
import json

import numpy as np
import pytest

from ms_bert.commands import scoring
from ms_bert.data.packing import EvaluationBatches
from ms_bert.errors import UserError
from ms_bert.finetuning_options import DataOptions
from ms_bert.tasks import glue
from ms_bert.tasks.classification import Classification, MultiLabel, Regression
from ms_bert.tasks.downstream import in_order_of_names
from ms_bert.tasks.examples import Example, class_names
from ms_bert.tasks.registry import KINDS

LABELS = ("no", "yes", "perhaps")
ONE = Classification(LABELS, ("accuracy", "f1_macro"), 16, "mine")
NUMBER = Regression((), ("pearson", "spearman"), 16)
MANY = MultiLabel(LABELS, ("f1_micro", "subset_accuracy"), 16)


def examples(labels) -> list[Example]:
    return [Example((f"text {'word ' * (i % 5)}",), label, f"line {i}") for i, label in enumerate(labels)]


@pytest.mark.parametrize("task", [ONE, NUMBER, MANY])
def test_a_task_is_the_same_from_its_file(task):
    assert KINDS[task.name].from_remembered(json.loads(json.dumps(task.remembered()))) == task


@pytest.mark.parametrize("dataset", ["mrpc", "qqp"])
def test_f1_is_that_of_the_second_label_whatever_its_number_in_the_model(dataset, vocabulary):
    names = glue.DATASETS[dataset].labels
    labels, logits = [names[i] for i in (0, 1, 1, 1)], np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    expected = {"f1": 2 * 2 / (3 + 2), "accuracy": 3 / 4}
    for order in (1, -1):
        task = Classification(names[::order], ("f1", "accuracy"), 16, dataset, pairs=False)
        sequences = task.sequences(examples(labels), vocabulary)
        found = task.scores(sequences, logits[:, ::order])
        assert found == pytest.approx(expected)
        assert {name: low <= found[name] <= high for name, (low, high) in
                task.intervals(sequences, logits[:, ::order]).items()} == {"f1": True, "accuracy": True}  # fmt: skip


@pytest.mark.parametrize("pairs", [False, True])
def test_texts_of_another_kind_than_the_trained_ones_are_not_scored(pairs):
    one, two = Example(("a",), "yes", "dev.csv, line 2"), Example(("a", "b"), "yes", "dev.csv, line 2")
    task = Classification(LABELS, ("accuracy",), 16, pairs=pairs)
    task.check_scored([two if pairs else one])
    dataclasses.replace(task, pairs=None).check_scored([one, two])  # of older runs it is not known
    with pytest.raises(UserError, match=f"line 2 has a {'single text' if pairs else 'pair of texts'}, but the model"):
        task.check_scored([two if pairs else one, one if pairs else two])


@pytest.mark.parametrize("labels", [[("0",), ("1",)], [("1",), ()], [("0", "1"), ("1",)], [("True",), ("False",)]])
def test_zeros_and_ones_are_no_names_of_labels(labels):
    with pytest.raises(UserError, match="which say whether a label holds, not which; give each label its column"):
        MultiLabel.of(DataOptions("multi-label", columns=("label=toxic",)), examples(labels))
    named = DataOptions("multi-label", columns=("label=0,1",))
    assert MultiLabel.of(named, examples([("0",), ("1",)])).labels == ("0", "1")


def test_labels_are_in_the_order_of_their_names_and_numbers_of_their_values():
    names = ["b", "nan", "10", "9", "inf", "a", "-1.5"]
    for order in (names, names[::-1], sorted(names)):
        assert in_order_of_names(order) == ("-1.5", "9", "10", "a", "b", "inf", "nan")


@pytest.mark.parametrize(
    "task, labels, targets",
    [
        (ONE, ["yes", "no", "yes"], [1, 0, 1]),
        (NUMBER, [0.5, -3, 2], [0.5, -3, 2]),
        (MANY, [("yes",), (), ("perhaps", "no")], [[0, 1, 0], [0, 0, 0], [1, 0, 1]]),
    ],
)
def test_labels_become_targets(task, labels, targets, vocabulary):
    found = task.sequences(examples(labels), vocabulary).of_sequences["labels"]
    assert found.tolist() == targets and found.dtype == (np.int32 if task is ONE else np.float32)


@pytest.mark.parametrize("task, label", [(ONE, "never"), (ONE, None), (MANY, ("yes", "never"))])
def test_a_label_of_another_task_is_named_with_its_place(task, label):
    with pytest.raises(UserError, match=r"^line 0: the label .* is none of no, yes, perhaps"):
        task.targets(examples([label]))


@pytest.mark.parametrize("task", [ONE, NUMBER, MANY])
def test_an_evaluation_scores_all_batches_together(task, vocabulary):
    """Whatever the packing, in the order of the examples; F1 and correlations are no means over batches."""
    rng = np.random.default_rng(3)
    labels = {ONE: rng.choice(LABELS, 60).tolist(), NUMBER: rng.normal(size=60).tolist()}.get(
        task, [tuple(name for name in LABELS if rng.random() < 0.4) for _ in range(60)]
    )
    given = examples(labels)
    sequences = task.sequences(given, vocabulary)
    logits = rng.normal(size=(60, 1 if task is NUMBER else 3)).astype(np.float32)
    batches = EvaluationBatches(sequences, 512, tokens=128)
    scored = task.evaluation(batches)
    for number in range(len(batches)):
        batch = batches(number)
        outputs = logits[batch["sequence_numbers"]]  # what stands where no sequence is must not matter
        count = float(batch["weights"].sum())
        scored.add(batch, {"loss": 2.0 * count, "correct": 0.0, "count": count}, (outputs,))
    assert len(batches) > 3 and (scored.logits == logits).all() and scored.sequences.examples == given
    found = scored.metrics()
    assert found.keys() == {"loss", *task.measures} and found["loss"] == 2.0
    if task is ONE:
        assert found["accuracy"] == np.mean(logits.argmax(1) == task.targets(given))
    elif task is NUMBER:
        assert found["pearson"] == pytest.approx(np.corrcoef(logits[:, 0], labels)[0, 1])
    else:
        assert found["subset_accuracy"] == np.mean(((logits > 0) == task.targets(given)).all(1))


def test_what_is_told_of_a_text():
    logits = np.array([[0.0, np.log(3), -100.0], [5.0, 5.0, 5.0]], np.float32)
    first, second = ONE.answers(None, logits)
    assert first["label"] == "yes" and second["label"] == "no"  # the first of equals, as argmax
    assert list(first["probabilities"].values()) == pytest.approx([0.25, 0.75, 0.0])
    assert NUMBER.answers(None, logits[:, :1]) == [{"value": 0.0}, {"value": 5.0}]
    first, second = MANY.answers(None, logits)
    assert first["labels"] == ["yes"] and second["labels"] == list(LABELS)
    assert first["probabilities"]["yes"] == pytest.approx(0.75)


def test_the_guess_is_what_has_the_highest_probability():
    logits = np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32) * 30
    for answer in ONE.answers(None, logits):
        assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].get)


def test_numbers_that_are_all_alike_are_not_scored():
    alike = [Example(("a",), 3.0, "dev.csv, line 2"), Example(("b",), 3.0, "dev.csv, line 3")]
    with pytest.raises(UserError, match="the data from dev.csv, line 2 on have no other number than 3.0, but"):
        NUMBER.check_scored(alike)
    NUMBER.check_scored([*alike, Example(("c",), 4.0, "dev.csv, line 4")])


def test_several_labels_are_scored_where_there_is_one():
    none = [Example(("a",), (), "dev.csv, line 2")]
    with pytest.raises(UserError, match="the data from dev.csv, line 2 on have no label in any example, so"):
        MANY.check_scored(none)
    MANY.check_scored([*none, Example(("b",), ("yes",), "dev.csv, line 3")])


def test_a_file_of_several_labels_is_read_back():
    labels = ("a|b", 'c, "d"', "text", "labels")
    task = dataclasses.replace(MANY, labels=labels)
    (answer,) = task.of_logits(np.array([[1.0, 1.0, -1.0, 1.0]], np.float32))
    header, row = task.table([Example(("x",), (), "")], [answer])
    assert header == ["text", "labels", *(f"probability of {label}" for label in labels)]
    assert class_names(row[1]) == ("a|b", 'c, "d"', "labels")
    one = dataclasses.replace(ONE, labels=("label", "other"))
    assert one.table([], [])[0] == ["text", "label", "probability of label", "probability of other"]


def test_balanced_weights_let_all_labels_weigh_alike(vocabulary):
    sequences = ONE.sequences(examples(["no"] * 6 + ["yes"] * 2), vocabulary)
    weights = ONE.weights_of(sequences)
    assert weights.tolist() == pytest.approx([8 / 12] * 6 + [2.0] * 2) and weights.sum() == pytest.approx(8)
    with pytest.raises(UserError, match="is for classification and answer selection, not for regression"):
        NUMBER.weights_of(sequences)


def test_predictions_tell_the_most_probable_of_many_labels():
    many = {str(number): float(number) for number in range(100)}
    told = scoring._short({"label": "99", "probabilities": many})
    assert list(told["probabilities"]) == [str(number) for number in range(99, 79, -1)] and told["label"] == "99"
    for answer in ({"label": "a", "probabilities": {"a": 0.4, "b": 0.6}}, {"answer": 0, "probabilities": [0.1] * 50}):
        assert scoring._short(answer) == answer
