"""Multiple choice: files of every shape become questions, choices become sequences, scores become an answer."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ms_bert.data.sequences import encoded
from ms_bert.errors import UserError
from ms_bert.finetuning_options import DataOptions
from ms_bert.prediction_options import PredictOptions
from ms_bert.tasks.multiple_choice import MultipleChoice, Question
from ms_bert.tasks.pictures import drawn
from tests.unit import drawings

TASK = MultipleChoice((), ("accuracy",), 24)
SWAG = (
    ",video-id,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label\n"
    '0,v,A man sits. He,A man sits.,He,gold,"plays, loudly.",flies.,is red.,melts.,2\n'
)
DREAM = [
    [["W: Is it late?", "M: Yes."], [{"question": "Is it?", "choice": ["No.", "Yes."], "answer": "Yes."}], "4-1"],
    [["男：再见。"], [{"question": "他？", "choice": ["走", "来", "睡"], "answer": "走"}] * 2, "m-2"],
]


def read(path, content, **options):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return MultipleChoice.examples(DataOptions(**options), str(path), "train")


def told(path, content, **options) -> str:
    with pytest.raises(UserError) as caught:
        read(path, content, **options)
    return str(caught.value)


def test_a_file_of_swag_is_known(tmp_path):
    found = read(tmp_path / "val.csv", SWAG)
    (question,) = found.examples
    assert question == Question(
        "A man sits.", "He", ("plays, loudly.", "flies.", "is red.", "melts."), 2, question.place
    )
    assert question.texts == ("A man sits.", ["He plays, loudly.", "He flies.", "He is red.", "He melts."])
    assert "context from sent1, question from sent2" in found.told and "ending0 ending1 ending2 ending3" in found.told


def test_files_of_dream_and_c3_are_known(tmp_path):
    first, *others = read(tmp_path / "dev.json", DREAM).examples
    assert first == Question("W: Is it late?\nM: Yes.", "Is it?", ("No.", "Yes."), 1, first.place)
    assert [(q.context, q.choices, q.answer) for q in others] == [("男：再见。", ("走", "来", "睡"), 0)] * 2
    assert others[1].place.endswith("dev.json, record 2, question 2")


def test_files_of_race_arc_and_commonsenseqa_are_known_as_their_authors_wrote_them(tmp_path):
    race = {"article": "c", "questions": ["q", "r"], "options": [["x", "y"], ["z", "v", "w"]], "answers": ["B", "C"]}
    first, second = read(tmp_path / "race.jsonl", json.dumps({**race, "id": "high1.txt"})).examples
    assert first == Question("c", "q", ("x", "y"), 1, first.place) and first.place.endswith("record 1, question 1")
    assert (second.context, second.question, second.choices, second.answer) == ("c", "r", ("z", "v", "w"), 2)
    choices = [{"text": "x", "label": "A"}, {"text": "y", "label": "B"}]
    arc = {"id": "7", "question": {"stem": "q", "choices": choices}, "answerKey": "B"}
    (question,) = read(tmp_path / "arc.jsonl", json.dumps(arc)).examples
    assert question == Question("", "q", ("x", "y"), 1, question.place)
    broken = {**arc, "question": {"stem": "q", "choices": [{"label": "A"}, choices[1]]}}
    assert "has in choice 0 no text" in told(tmp_path / "arc.jsonl", json.dumps(broken))
    uneven = told(tmp_path / "race.jsonl", json.dumps({**race, "answers": ["B"]}))
    assert "no column that is known as" in uneven


@pytest.mark.parametrize(
    "record, expected",
    [
        ({"context": "c", "question": "q", "choices": ["x", "y"], "label": 1}, ("c", "q", ("x", "y"), 1)),
        ({"article": "c", "question": "q", "options": ["x", "y", "z"], "answer": "C"}, ("c", "q", ("x", "y", "z"), 2)),
        ({"query": "q", "choices": {"text": ["x", "y"], "label": [1, 2]}, "answerKey": "2"}, ("", "q", ("x", "y"), 1)),
        ({"ctx": "c", "endings": ["x", "y"], "label": "0"}, ("c", "", ("x", "y"), 0)),
        ({"question": "q", "A": "x", "B": "y", "C": "z", "answer": "B"}, ("", "q", ("x", "y", "z"), 1)),
        ({"question": "q", "choices": '["x", "\\ud83d\\ude00"]', "answer": "😀"}, ("", "q", ("x", "😀"), 1)),
        ({"question": "q", "choices": ["1", "0"], "answer": "1"}, ("", "q", ("1", "0"), 0)),  # its text, not its number
        ({"question": "q", "choices": ["x", "x"], "answer": 1.0}, ("", "q", ("x", "x"), 1)),
    ],
)  # fmt: skip
def test_a_record_becomes_a_question(record, expected, tmp_path):
    (found,) = read(tmp_path / "a.jsonl", record).examples
    assert (found.context, found.question, found.choices, found.answer) == expected


@pytest.mark.parametrize(
    "rows, expected",
    [
        ([("xyz", "A"), ("BAC", "A"), ("xyz", "C")], [0, 0, 2]),  # letters, also of choices that are letters
        ([("1234", 1), ("wxyz", 1)], [1, 1]),
        ([("1234", "1"), ("wxyz", "1")], [1, 1]),  # as a csv file has it
        ([("3568", "3"), ("2105", "0")], [0, 2]),  # texts that are numbers
        ([("3568", "3"), ("2105", "0"), ("abcd", "9")], None),
        ([("3120", "1"), ("0213", "2"), ("1023", "3"), ("wxyz", "1")], [1, 1, 3, 1]),  # one odd row
        ([("xyz", "y"), ("BAC", "A"), ("xyz", "C")], [1, 1, 2]),  # most are texts; what is none may be a place
    ],
)
def test_a_file_tells_its_answers_in_one_way(rows, expected, tmp_path):
    records = [{"question": "q", "choices": list(choices), "label": label} for choices, label in rows]
    if expected is None:
        assert "record 3 has the answer '9'" in told(tmp_path / "a.jsonl", records)
    else:
        assert [question.answer for question in read(tmp_path / "a.jsonl", records).examples] == expected


@pytest.mark.parametrize("skip_bad", [False, True])
def test_answers_that_are_counted_from_1_are_refused_as_a_whole(skip_bad, tmp_path):
    """As those of SocialIQA and Winogrande; the others would be taken for the next choice."""
    records = [{"question": "q", "choices": ["x", "y", "z"], "label": label} for label in ("1", "2", "3")]
    words = "count the choices from 1; count them from 0, or write letters or the texts of the choices."
    assert words in told(tmp_path / "a.jsonl", records, skip_bad=skip_bad)
    odd = [{**records[0], "choices": ["1", "2", "3"]}, {**records[0], "label": -1}, {**records[0], "label": "A"}]
    assert words in told(tmp_path / "a.jsonl", [*odd, *records], skip_bad=skip_bad)
    found = read(tmp_path / "a.jsonl", [*records, {**records[0], "label": "0"}], skip_bad=True)
    assert [one.answer for one in found.examples] == [1, 2, 0] and found.skipped.total() == 1
    assert [one.answer for one in read(tmp_path / "a.jsonl", records[:2]).examples] == [1, 2]


def test_where_choices_have_names_an_answer_is_one_of_them(tmp_path):
    named = {"text": ["3", "5", "6", "8"], "label": ["1", "2", "3", "4"]}
    record = {"question": "q", "choices": named, "answerKey": "3"}
    assert [question.answer for question in read(tmp_path / "a.jsonl", record).examples] == [2]
    assert "expected one of '1', '2', '3', '4'" in told(tmp_path / "a.jsonl", {**record, "answerKey": "8"})


def test_columns_can_be_named(tmp_path):
    content = "Q\tone\ttwo\tright\nwhich?\tthis\tthat\ttwo words\n"
    columns = ("question=Q", "choices=one,two", "label=right")
    assert "has the answer 'two words', which is none of its choices" in told(
        tmp_path / "a.tsv", content, columns=columns
    )
    (found,) = read(tmp_path / "a.tsv", content.replace("two words", "b"), columns=columns).examples
    assert found.choices == ("this", "that") and found.answer == 1


GOOD = {"question": "q", "choices": ["x", "y"], "label": 0}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"label": 2}, "record 2 has the answer 2, which is none of its choices; expected a number from 0 to 1"),
        ({"label": "maybe"}, "has the answer 'maybe'"),
        ({"label": -1}, "has the answer -1"),
        ({"label": "9" * 5000}, "is none of its choices"),
        ({"label": None}, "has no label"),
        ({"label": "x", "choices": ["x", "x"]}, "has several choices 'x', its answer; give its number"),
        ({"choices": []}, "has no choices; expected at least 2"),
        ({"choices": ["x"]}, "has one choice; expected at least 2"),
        ({"choices": ["x", " "]}, "has in choice 1 no text; give it one"),
        ({"choices": ["x", 5]}, "has in choice 1 no text but a number"),
        ({"choices": "x or y"}, "has a string as its choices; expected a list of texts"),
        ({"choices": None}, "has null as its choices"),
        ({"choices": "['x','y']"}, 'has as its choices "[\'x\',\'y\']", which is no list of JSON; write ["a", "b"]'),
        ({"question": " "}, "has neither a context nor a question"),
        ({"question": 7}, "has in 'question' no text but a number"),
    ],
)
def test_a_bad_question_is_told_with_its_place_or_counted(changes, words, tmp_path):
    records = [GOOD, {**GOOD, **changes}]
    path = tmp_path / "a.jsonl"
    assert words in told(path, records) and "record 2" in told(path, records)
    found = read(path, records, skip_bad=True)
    assert len(found.examples) == 1 and found.skipped.total() == 1


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("val.csv", SWAG.replace("melts.", ""), "line 2 has in 'ending3' no text; give it one"),
        ("val.csv", SWAG.replace(",melts.", ""), "has 10 fields, but there are 11 columns"),
        ("val.csv", SWAG.replace("label", "other"), "has no column that is known as label"),
        ("a.jsonl", {"question": "q", "label": 0}, "has no column that is known as choices"),
        ("a.jsonl", {"choices": ["x", "y"], "label": 0}, "has no column that is known as question"),
        ("a.json", [["a dialogue"]], "record 1 is a list, not an object"),
        ("a.json", [["a dialogue", []]], "record 1 is a list, not an object"),
        ("a.json", "", "is empty"),
        ("a.json", [], "holds no rows"),
    ],
)
def test_a_file_of_another_shape_is_refused(name, content, words, tmp_path):
    assert words in told(tmp_path / name, content)


def test_a_column_that_is_not_there_is_named(tmp_path):
    assert "has no column 'C'" in told(tmp_path / "a.jsonl", GOOD, columns=("choices=question,C",))
    assert "names 'answers', which is no role" in told(tmp_path / "a.jsonl", GOOD, columns=("answers=label",))


# Sequences


def texts(sequences, vocabulary) -> list[str]:
    rows = [sequences.ids[first:last] for first, last in zip(sequences.starts, sequences.starts[1:])]
    return [vocabulary.tokenizer.decode(row.tolist(), skip_special_tokens=False) for row in rows]


def test_a_choice_is_encoded_as_a_pair(vocabulary):
    questions = [
        Question("the class", "is it", ("a module", "an object"), 1, ""),
        Question("", "is it", ("a name", "a class", "an import"), 0, ""),
        Question("the class", "", ("works", "fails"), 0, ""),
    ]
    made = TASK.sequences(questions, vocabulary)
    pairs = [
        *(("the class", "is it a module"), ("the class", "is it an object")),
        *(("is it", "a name"), ("is it", "a class"), ("is it", "an import")),
        *(("the class", "works"), ("the class", "fails")),
    ]
    expected = encoded(pairs, vocabulary, 24)
    assert (made.ids == expected.ids).all() and (made.types == expected.types).all() and not made.truncated
    assert made.owners.tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert made.of_sequences["labels"].tolist() == [0, 1, 1, 0, 0, 1, 0]
    assert made.of_sequences["groups"].tolist() == [1, 1, 2, 2, 2, 3, 3]
    assert not TASK.sequences(questions, vocabulary, labelled=False).of_sequences


def test_a_context_loses_its_end_and_as_much_of_it_for_all_choices(vocabulary):
    long = " ".join(["class"] * 10 + ["module"] * 30)
    made = TASK.sequences([Question(long, "is it", ("a name", "an object with a name"), 0, "")], vocabulary)
    one, other = texts(made, vocabulary)
    assert other.split(" [SEP]")[0] == one.split(" [SEP]")[0] and one.startswith("[CLS] class class")
    assert made.lengths[1] == 24 > made.lengths[0] and one.endswith("is it a name [SEP]") and made.cut.all()


def test_a_question_that_is_too_long_loses_its_beginning(vocabulary):
    question = " ".join(["class"] * 40)
    made = TASK.sequences([Question("a module", question, ("a name", "an object"), 0, "")], vocabulary)
    one, other = texts(made, vocabulary)
    assert one.startswith("[CLS] [SEP] class") and one.endswith("a name [SEP]") and other.endswith("an object [SEP]")
    assert made.lengths.tolist() == [24, 24] and made.cut.all()


# Scores and answers


@pytest.fixture
def scored(vocabulary):
    questions = [
        Question("", "q", ("a", "b"), 0, ""),
        Question("", "q", ("a", "b", "c"), 2, ""),
        Question("", "q", ("a", "a"), 1, ""),
    ]
    return TASK.sequences(questions, vocabulary)


def test_a_question_is_right_or_wrong_as_a_whole(scored):
    logits = np.array([[3.0], [2.0], [9.0], [-1.0], [8.0], [0.0], [0.0]], np.float32)
    assert TASK.scores(scored, logits) == {"accuracy": 1 / 3}
    low, high = TASK.intervals(scored, logits)["accuracy"]
    assert 0 <= low < 1 / 3 < high <= 1
    details = TASK.details(scored, logits)
    assert details["chance"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 3)
    assert details["by_choices"] == {"2": {"questions": 2, "accuracy": 0.5}, "3": {"questions": 1, "accuracy": 0.0}}


def test_an_answer_has_the_probabilities_of_its_own_choices(scored):
    logits = np.array([[0.0], [np.log(3)], [1e4], [-1e4], [0.0], [2.0], [2.0]], np.float32)
    answers = TASK.answers(scored, logits)
    assert answers[0] == {"answer": 1, "text": "b", "probabilities": pytest.approx([0.25, 0.75])}
    assert answers[1]["probabilities"] == [1.0, 0.0, 0.0] and answers[2]["answer"] == 0  # the first of equals
    assert [TASK.gold(question) for question in scored.examples] == [0, 2, 1]
    assert TASK.plain(scored.examples[0], answers[0]) == "b 75.0%\tq"
    assert TASK.table(scored.examples, answers)[1] == ["", "q", 1, "b", pytest.approx(0.75)]


def test_a_task_is_the_same_from_its_file():
    assert MultipleChoice.from_remembered(json.loads(json.dumps(TASK.remembered()))) == TASK
    assert TASK.config()["label2id"] == {"LABEL_0": 0} and TASK.measure == "accuracy"


# What is asked


def asked(*texts, **options) -> list[Question]:
    return TASK.asked(PredictOptions(Path("runs/x"), texts, **options))


def test_what_is_asked_on_the_command_line(tmp_path, monkeypatch):
    assert asked("q", choices=("x", "y")) == [Question("", "q", ("x", "y"), None, "")]
    assert asked("c", "q", choices=("x", "y")) == [Question("c", "q", ("x", "y"), None, "")]
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(DREAM))
    assert [(q.choices, q.answer) for q in asked(input=str(path))][0] == (("No.", "Yes."), None)
    monkeypatch.setattr("sys.stdin", type("Pipe", (), {"buffer": open(path, "rb")}))
    assert len(asked(input="-")) == 3


def test_what_is_asked_in_python():
    whole = Question("c", "q", ("x", "y"), None, "")
    assert TASK.example(("c", "q", ["x", "y"])) == whole
    assert TASK.example({"context": "c", "question": "q", "choices": ("x", "y"), "answer": "nothing"}) == whole
    assert TASK.example(["q", ("x", "y")]) == Question("", "q", ("x", "y"), None, "")


@pytest.mark.parametrize(
    "given, words",
    [
        (("q", ["x"]), "the question has one choice; expected at least 2."),
        (("q", "xy"), "the question has a string as its choices"),
        ("qxy", "a question was given as 'qxy'"),
        (("a", "b", "c", ["x", "y"]), "expected a context, which may be left out, a question and a list of choices"),
        ({"question": "q"}, "known as choices"),
        (None, "a question was given as null"),
        (5, "a question was given as 5"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(given, words):
    with pytest.raises(UserError) as caught:
        TASK.example(given)
    assert words in str(caught.value) and "skip-bad" not in str(caught.value)


def test_a_question_needs_choices(tmp_path):
    with pytest.raises(UserError, match="no choices were given"):
        asked("q")
    with pytest.raises(UserError, match="by --input; leave one of them out"):
        asked(input="a.json", choices=("x", "y"))
    (tmp_path / "a.jsonl").write_text(json.dumps({"question": "q", "choices": ["x"]}))
    with pytest.raises(UserError, match=r"record 1 has one choice; expected at least 2\.$"):
        asked(input=str(tmp_path / "a.jsonl"))


def test_skipped_rows_are_counted_by_reason(tmp_path):
    records = [GOOD, {**GOOD, "label": 7}, {**GOOD, "choices": ["x"]}]
    assert read(tmp_path / "a.jsonl", records, skip_bad=True).skipped == Counter(
        {"an answer that is no choice": 1, "too few choices": 1}
    )


def test_questions_are_drawn_by_the_number_of_their_choices_if_that_differs(scored, vocabulary):
    logits = np.array([[3.0], [2.0], [9.0], [-1.0], [8.0], [0.0], [0.0]], np.float32)
    calibrated, by_length, by_choices = TASK.drawings(scored, logits)
    assert drawings.bars(by_choices) == {"2 (2)": [0.5, 0.5], "3 (1)": [0.0, pytest.approx(1 / 3)]}
    (points,) = drawings.axes_of(calibrated).collections
    share = np.exp([3.0, 2.0]) / np.exp([3.0, 2.0]).sum()
    middle = np.exp([9.0, -1.0, 8.0]) / np.exp([9.0, -1.0, 8.0]).sum()
    # In the bins of 0.5 and of 0.7: one wrong guess, and one right and one wrong.
    assert points.get_offsets().tolist() == [
        [pytest.approx(0.5), 0.0],
        [pytest.approx((share[0] + middle[0]) / 2, abs=1e-6), 0.5],
    ]
    assert drawings.axes_of(by_length).get_lines()[0].get_xdata() == [pytest.approx(scored.lengths.mean())]
    alike = TASK.sequences([Question("", "q", ("a", "b"), 0, "")], vocabulary)
    assert len(TASK.drawings(alike, logits[:2])) == 2
    assert drawn([calibrated, by_length, by_choices]).startswith(b"\x89PNG")
