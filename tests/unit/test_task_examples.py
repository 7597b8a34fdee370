"""Examples from any file: columns are found or named, labels become what the kind of task needs."""

import json

import pytest

from ms_bert.errors import UserError
from ms_bert.finetuning_options import DataOptions
from ms_bert.tasks import examples as module
from ms_bert.tasks.classification import MultiLabel
from ms_bert.tasks.examples import Columns, Example, find_columns


@pytest.fixture
def write(tmp_path):
    def written(*rows) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return written


def labels_of(source, kind, **options):
    return [example.label for example in module.read(source, kind, **options)[0]]


@pytest.mark.parametrize(
    "names, named, columns",
    [
        (("label", "review"), {}, Columns("review", None, "label")),
        (("id", "Sentence", "Target"), {}, Columns("Sentence", None, "Target")),
        (("sentence1", "sentence2", "score"), {}, Columns("sentence1", "sentence2", "score")),
        (("question", "sentence", "labels"), {}, Columns("question", "sentence", "labels")),
        (("text", "text_pair", "stars"), {}, Columns("text", "text_pair", "stars")),
        (("a", "b", "c"), {"text": "c", "label": "a"}, Columns("c", None, "a")),
        (("a", "b", "c"), {"text": "c", "text_pair": "b", "label": "a"}, Columns("c", "b", "a")),
        (("sentence1", "sentence2", "label"), {"text": "sentence2"}, Columns("sentence2", None, "label")),
        (("content", "text", "review"), {"label": "text"}, Columns("review", None, "text")),
    ],
)
def test_columns_are_found_by_their_usual_names_or_named(names, named, columns):
    assert find_columns("a.csv", names, named) == columns


def test_without_labels_no_column_of_labels_is_needed():
    assert find_columns("a.csv", ["text"], {}, labels=False) == Columns("text")


@pytest.mark.parametrize(
    "names, named, words",
    [
        (("a", "b"), {}, r"no column that is known as text \(sentence, text, .*\), only a, b; .* --columns text=NAME"),
        (("text", "b"), {}, "has no column that is known as label .*--columns label=NAME"),
        (("text", "label"), {"text": "body"}, "has no column 'body', only text, label; name one with --columns text="),
        (("text", "label"), {"txet": "text"}, "'txet', which is no role"),
        (("text", "label"), {"text2": "text"}, "the second text .* only; name the first"),
    ],
)
def test_a_column_that_is_missing_is_told_with_those_there_are(names, named, words):
    with pytest.raises(UserError, match=words):
        find_columns("a.csv", names, named)


def test_an_example_has_its_texts_its_label_and_its_place(write):
    source = write({"text": "one", "text2": "", "label": "x"}, {"text": "", "text2": "two", "label": "y"})
    assert module.read(source, "classification") == (
        [Example(("one", ""), "x", f"{source}, record 1"), Example(("", "two"), "y", f"{source}, record 2")],
        Columns("text", "text2", "label"),
        {},
    )


def test_classes_are_named_alike_however_a_file_spells_them(write):
    source = write(*({"text": "t", "label": label} for label in (1, 1.0, "1", " 1.0 ", True, "good ", "1.5", -1)))
    assert labels_of(source, "classification") == ["1", "1", "1", "1", "True", "good", "1.5", "-1"]


def test_numbers_of_a_regression_are_read_from_strings_too(write):
    source = write(*({"text": "t", "score": label} for label in (2, 2.5, " 3e-1 ", "-4")))
    assert labels_of(source, "regression") == [2.0, 2.5, 0.3, -4.0]


def test_several_labels_come_as_a_list_or_with_separators(write):
    spelled = (["a", "b", "a"], "a, b", "", [], "[]", '["a", "b"]', 3, [1, 2.0], " , ")
    source = write(*({"text": "t", "labels": labels} for labels in spelled))
    expected = [("a", "b"), ("a", "b"), (), (), (), ("a", "b"), ("3",), ("1", "2"), ()]
    assert labels_of(source, "multi-label") == expected
    source = write({"text": "t", "labels": "a, b|c"})
    assert labels_of(source, "multi-label", separator="|") == [("a, b", "c")]


@pytest.mark.parametrize(
    "kind, label, words",
    [
        ("classification", "", "record 2 has no label; give it one, or leave such rows out with --skip-bad"),
        ("classification", None, "record 2 has no label"),
        ("classification", float("nan"), "record 2 has no label"),
        ("classification", 0.5, "has as its label 0.5, which names no class but is a number"),
        ("classification", float("inf"), "names no class"),
        ("classification", ["a"], "names no class but is a list"),
        ("regression", "", "record 2 has no label"),
        ("regression", "high", "record 2 has as its label 'high'; expected a number"),
        ("regression", float("nan"), "has as its label nan; expected a number"),
        ("regression", "inf", "has as its label 'inf'; expected a number"),
        ("regression", 10**400, "has as its label .*; expected a number"),
        ("regression", "1e30", "expected a number of at most"),
        ("regression", True, "has as its label true; expected a number"),
        ("regression", [1], "expected a number"),
        ("regression", "1_000", "expected a number"),
        ("regression", "3,5", "record 2 has as its label '3,5'; write it with a point"),
        ("regression", "12,000", "record 2 has as its label '12,000'; expected a number"),
        ("multi-label", None, "has null as its labels; expected a list"),
        ("multi-label", {"a": 2}, "has in 'a' 2; expected 0 or 1 for each label"),
        ("multi-label", "['a', 'b']", "which is no list of JSON; write them as a, b"),
        ("multi-label", [["a"]], "names no class but is a list"),
        ("multi-label", ["a", None], "record 2 has no label"),
    ],
)
def test_a_label_that_is_none_of_its_kind_is_told_with_its_place_or_counted(write, kind, label, words):
    good = {"classification": "a", "regression": 1, "multi-label": ["a"]}[kind]
    source = write({"text": "one", "label": good}, {"text": "two", "label": label})
    with pytest.raises(UserError, match=words):
        module.read(source, kind)
    made, _, skipped = module.read(source, kind, skip_bad=True)
    assert len(made) == 1 and sum(skipped.values()) == 1
    assert labels_of(source, kind, labels=False) == [None, None]


def test_a_text_that_is_no_text_is_told_with_its_place_or_counted(write):
    source = write({"text": "one", "label": 1}, {"text": 2, "label": 1})
    with pytest.raises(UserError, match="record 2 has in 'text' no text but a number; name a column of text"):
        module.read(source, "classification")
    assert module.read(source, "classification", skip_bad=True)[2] == {"no text": 1}


@pytest.mark.parametrize("row", [{"label": 1}, {"text": None, "label": 1}, {"text": float("nan"), "label": 1}])
def test_a_text_that_is_not_there_is_no_empty_text(write, row):
    source = write({"text": "one", "label": 1}, row)
    for labels in (True, False):
        with pytest.raises(UserError, match="record 2 has no 'text'; give it a text, which may be empty"):
            module.read(source, "classification", labels=labels)
    assert module.read(source, "classification", skip_bad=True)[2] == {"no text": 1}


def test_a_file_of_which_no_row_can_be_used_is_an_error_that_says_why(write):
    source = write({"text": "one", "label": ""}, {"text": 2, "label": 1})
    with pytest.raises(UserError, match=r"no row of .* can be used \(no label: 1, no text: 1\)"):
        module.read(source, "classification", skip_bad=True)


def test_what_a_file_says_does_not_reach_the_terminal_as_it_is(write):
    source = write({"text": "one", "label": ["\x1b[31m" * 1000]})
    with pytest.raises(UserError) as caught:
        module.read(source, "classification")
    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_each_label_may_be_a_column(ending, tmp_path):
    """As the comments of Jigsaw have it."""
    rows = [("good", 0, 0, 0), ("bad", 1, 0, 1), ("ugly", "true", 0.0, 1.0)]
    names = ("comment", "toxic", "rude", "threat")
    lines = [json.dumps(dict(zip(names, row))) for row in rows]
    lines = lines if ending == "jsonl" else [",".join(names), *(",".join(map(str, row)) for row in rows)]
    path = tmp_path / f"a.{ending}"
    path.write_text("\n".join(lines) + "\n")
    columns = {"label": "toxic,rude,threat"}
    found, used, _ = module.read(str(path), "multi-label", columns)
    assert [one.label for one in found] == [(), ("toxic", "threat"), ("toxic", "threat")] and used.text == "comment"
    with pytest.raises(UserError, match="has no column 'mild'"):
        module.read(str(path), "multi-label", {"label": "toxic,mild"})
    path.write_text(path.read_text().replace("true", "often"))
    with pytest.raises(UserError, match="has in 'toxic' 'often'; expected 0 or 1 for each label"):
        module.read(str(path), "multi-label", columns)


def test_columns_of_labels_are_no_texts_and_all_of_them_are_labels(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("comment,review,spam,threat\nhello,1,0,0\nbye,0,1,0\n")
    named = {"label": "review,spam,threat"}
    found, used, _ = module.read(str(path), "multi-label", named)
    assert used.text == "comment" and [one.label for one in found] == [("review",), ("spam",)]
    task = MultiLabel.of(DataOptions("multi-label", columns=("label=review,spam,threat",)), found)
    assert task.labels == ("review", "spam", "threat")


@pytest.mark.parametrize("value", [[1, 1, 0], [0.0, 1.0, 0.0], "[0, 1, 0]", [True, True], ["0", "1", "0"], "1,0,1"])
def test_zeros_and_ones_are_no_names_of_labels(value, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": "a", "labels": one}) + "\n" for one in ([0, 1], value)))
    with pytest.raises(
        UserError, match="record 2 has as its labels .* which look like places, not like names; .*A,B,C"
    ):
        module.read(str(path), "multi-label")
