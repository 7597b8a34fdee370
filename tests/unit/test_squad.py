"""Questions about passages from SQuAD's json and from rows; what does not fit is told, never mended in silence."""

import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from ms_bert.errors import UserError
from ms_bert.tasks.squad import Answer, Question, read

CONTEXT = "The caf\u00e9 \U0001f600 opened in 1990. It closed in 1991."


def entry(question="When did it open?", answers=(("1990", 21),), number="q1", **more):
    return {"question": question, "id": number, "answers": [{"text": t, "answer_start": s} for t, s in answers], **more}


@pytest.fixture
def squad(tmp_path):
    def written(*entries, context=CONTEXT, **more) -> str:
        path = tmp_path / "squad.json"
        whole = {"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": entries}]}]}
        path.write_text(json.dumps({**whole, **more}))
        return str(path)

    return written


@pytest.fixture
def rows(tmp_path):
    def written(*values) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in values))
        return str(path)

    return written


def test_squad_of_both_versions_is_read_with_all_its_answers(squad):
    none = entry(number="q2", answers=(), is_impossible=True, plausible_answers=[{"text": "1991", "answer_start": 1}])
    source = squad(entry(answers=(("1990", 21), ("in 1990", 18), ("1990", 21)), is_impossible=False), none)
    found, skipped = read(source)
    assert found == [
        Question(
            "When did it open?",
            CONTEXT,
            (Answer("1990", 21), Answer("in 1990", 18), Answer("1990", 21)),
            "q1",
            f"{source}, question 'q1'",
        ),
        Question("When did it open?", CONTEXT, (), "q2", f"{source}, question 'q2'"),
    ]
    assert not skipped and CONTEXT[found[0].answers[1].start : found[0].answers[1].end] == "in 1990"


@pytest.mark.parametrize(
    "answers, expected",
    [
        ({"text": ["1990", "in 1990"], "answer_start": [21, 18]}, (Answer("1990", 21), Answer("in 1990", 18))),
        ([{"text": "1990", "answer_start": 21}], (Answer("1990", 21),)),
        ({"text": "1990", "answer_start": 21}, (Answer("1990", 21),)),
        ({"text": [], "answer_start": []}, ()),
        ([], ()),
    ],
)
def test_rows_hold_answers_as_the_hub_has_them_or_as_squad(answers, expected, rows, tmp_path):
    row = {"id": 7, "question": "When?", "context": CONTEXT, "answers": answers}
    assert read(rows(row))[0][0].answers == expected
    if answers:
        parquet.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
        (found,) = read(str(tmp_path / "rows.parquet"))[0]
        assert found.answers == expected and found.id == "7" and found.context == CONTEXT


def test_columns_are_named_or_known(rows):
    source = rows({"Query": "When?", "text": CONTEXT, "gold": {"text": ["1990"], "answer_start": [21]}})
    (found,) = read(source, {"context": "text", "answers": "gold"})[0]
    assert found.question == "When?" and found.answers == (Answer("1990", 21),) and found.id == ""
    with pytest.raises(UserError, match=r"known as context \(context, passage, paragraph\), only Query, text, gold"):
        read(source)
    with pytest.raises(UserError, match="'txet', which is no role; expected question, context, answers"):
        read(source, {"txet": "text"})
    (found,) = read(source, {"context": "text"}, labels=False)[0]
    assert found.answers is None


@pytest.mark.parametrize(
    "answers, words",
    [
        ((("1990", 20),), "the answer '1990' does not stand at character 20 of its context, where ' 199' stands"),
        ((("1990", 22),), r"where '990\.' stands; it stands at 21; correct answer_start"),
        ((("1990", 999),), "which has 45 characters; it stands at 21"),
        ((("1990", -4),), "does not stand at character -4"),
        ((("1992", 21),), "where '1990' stands; it stands nowhere in it"),
        ((("The cafe", 0),), "where 'The caf\u00e9' stands; it stands nowhere in it"),
        ((("1990", 21), ("it", 0)), "the answer 'it' does not stand at character 0"),
        ((("", 3),), "has the answer ''; give it a text, or no answer at all"),
        (((" ", 3),), "has the answer ' '"),
        (((None, 3),), "an answer with the text null and the answer_start 3"),
        ((("1990", "21"),), "an answer with the text '1990' and the answer_start '21'"),
        ((("1990", True),), "the answer_start true"),
        ((("1990", None),), "the answer_start null"),
    ],
)
def test_an_answer_that_does_not_stand_where_it_should_is_told_or_left_out(answers, words, squad):
    source = squad(entry(answers=answers), entry(number="q2"))
    with pytest.raises(UserError, match=words) as caught:
        read(source)
    assert str(caught.value).startswith(f"{source}, question 'q1': ")
    assert "leave such questions out with --skip-bad" in str(caught.value)
    found, skipped = read(source, skip_bad=True)
    assert [question.id for question in found] == ["q2"] and skipped.total() == 1
    assert len(read(source, labels=False)[0]) == 2


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"answers": None}, "it has no answers; name a file with answers"),
        ({"answers": "1990"}, "has as its answers '1990'; expected a list of objects with text and answer_start"),
        ({"answers": {"text": ["1990"], "answer_start": []}}, "has as its answers"),
        ({"answers": ["1990"]}, "has as its answers"),
        ({"is_impossible": True}, "is_impossible and has answers"),
        ({"question": None}, "it has no question; expected a string"),
        ({"question": 3}, "it has as its question a number"),
    ],
)
def test_a_question_that_is_none_is_told_or_left_out(changes, words, squad):
    source = squad({**entry(), **changes}, entry(number="q2"))
    with pytest.raises(UserError, match=words):
        read(source)
    assert len(read(source, skip_bad=True)[0]) == 1


def test_a_file_of_which_nothing_can_be_used_is_an_error_that_says_why(squad):
    with pytest.raises(UserError, match=r"no question of .* can be used \(an empty answer: 1, no question: 1\)"):
        read(squad(entry(answers=(("", 0),)), entry(question=None)), skip_bad=True)
    with pytest.raises(UserError, match="no question of .* can be used; name another file"):
        read(squad())


@pytest.mark.parametrize(
    "content, words",
    [
        ("", "is empty"),
        ("{", "cannot be read to its end"),
        ("[1, 2]", "not an object"),
        ('{"version": "1.1", "data": []}', "is SQuAD's json without an article"),
        ('{"version": "1.1"}', "is neither SQuAD's json nor has it a column that is known as question"),
        ('{"data": [{"paragraphs": 3}]}', "has in paragraphs a number, but SQuAD's json has a list of objects there"),
        ('{"data": [{"paragraphs": [{"context": "c"}]}]}', "has in qas null"),
        (
            '{"data": [{"title": "t", "paragraphs": [{"qas": [{"question": "q", "answers": []}]}]}]}',
            "it has no context",
        ),
        ('[{"context_text": "c", "qas": []}]', "is neither SQuAD's json nor"),
    ],
)
def test_json_that_is_no_squad_is_one_sentence(content, words, tmp_path):
    (tmp_path / "data.json").write_text(content)
    with pytest.raises(UserError, match=words) as caught:
        read(str(tmp_path / "data.json"))
    assert "\n" not in str(caught.value) and "data.json" in str(caught.value)


def test_another_encoding_is_told(squad, tmp_path):
    source = squad(entry())
    text = json.dumps(json.loads(open(source).read()), ensure_ascii=False)
    (tmp_path / "latin.json").write_bytes(text.replace("\U0001f600", "xx").encode("latin-1"))
    with pytest.raises(UserError, match="is not UTF-8 text"):
        read(str(tmp_path / "latin.json"))
    (tmp_path / "utf16.json").write_text(text, encoding="utf-16")
    with pytest.raises(UserError, match="is UTF-16 text"):
        read(str(tmp_path / "utf16.json"))
    (tmp_path / "marked.json").write_text(text, encoding="utf-8-sig")
    assert read(str(tmp_path / "marked.json"))[0][0].context == CONTEXT


def test_half_a_character_is_replaced_and_moves_no_answer(squad):
    """JSON can spell one, no text can hold it."""
    (found,) = read(squad(entry(answers=(("x\ud800", 2), ("late", 5))), context="a x\ud800 late"))[0]
    assert found.context == "a x\ufffd late" and [a.text for a in found.answers] == ["x\ufffd", "late"]
