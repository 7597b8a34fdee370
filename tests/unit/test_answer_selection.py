"""Answer selection: rows become questions with candidates, logits become rankings, rankings are scored."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, label_ranking_average_precision_score

from ms_bert.data.sequences import encoded
from ms_bert.errors import UserError
from ms_bert.finetuning_options import DataOptions
from ms_bert.prediction_options import PredictOptions
from ms_bert.tasks.answer_selection import AnswerSelection, Question, average_precision, reciprocal_rank
from ms_bert.tasks.pictures import drawn
from tests.unit import drawings

TASK = AnswerSelection(("irrelevant", "relevant"), ("map", "mrr"), 24)
ALL = AnswerSelection(("irrelevant", "relevant"), ("map", "mrr"), 24, scored_questions="all")
WIKIQA = (
    "QuestionID\tQuestion\tDocumentID\tDocumentTitle\tSentenceID\tSentence\tLabel\n"
    'Q1\thow far is it\tD1\tFar\tD1-0\tIt is "far" away.\t0\n'
    "Q1\thow far is it\tD1\tFar\tD1-1\tIt is 3 km.\t1\n"
    "Q2\twho\tD2\tWho\tD2-0\tHe.\t0\n"
)


def read(path, content, **options):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return AnswerSelection.examples(DataOptions(**options), str(path), "train")


def told(path, content, **options) -> str:
    with pytest.raises(UserError) as caught:
        read(path, content, **options)
    return str(caught.value)


def test_a_file_of_wikiqa_is_known(tmp_path):
    found = read(tmp_path / "a.tsv", WIKIQA, quotes=False)
    assert found.examples == [
        Question("how far is it", ('It is "far" away.', "It is 3 km."), (False, True), "Q1"),
        Question("who", ("He.",), (False,), "Q2"),
    ]
    assert found.told == "question from Question, candidate from Sentence, label from Label, id from QuestionID"


def test_candidates_of_a_question_are_brought_together(tmp_path):
    """By their text, and by the id, which tells questions of one text apart."""
    rows = [("q", "a", 1), ("r", "b", 0), ("q", "c", 0), ("q", "d", 1)]
    content = "question,answer,label\n" + "".join(f"{q},{a},{label}\n" for q, a, label in rows)
    assert read(tmp_path / "a.csv", content).examples == [
        Question("q", ("a", "c", "d"), (True, False, True)),
        Question("r", ("b",), (False,)),
    ]
    with_ids = "qid," + content.replace("\nq,", "\n7,q,").replace("\nr,", "\n8,r,").replace("7,q,d", "9,q,d")
    assert [(q.id, q.candidates) for q in read(tmp_path / "b.csv", with_ids).examples] == [
        ("7", ("a", "c")),
        ("8", ("b",)),
        ("9", ("d",)),
    ]


def test_records_may_hold_lists_and_labels_of_several_kinds(tmp_path):
    records = [
        {"query": "q", "passage": ["a", "b", "😀"], "labels": [True, 0, "1"]},
        {"query": "q", "passage": "c", "labels": "false"},
    ]
    assert read(tmp_path / "a.jsonl", records).examples == [
        Question("q", ("a", "b", "😀", "c"), (True, False, True, False))
    ]


GOOD = {"question": "q", "candidate": "a", "label": 0}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"label": 2}, "record 2 has the label 2; expected 0 or 1"),
        ({"label": "good"}, "has the label 'good'; expected 0 or 1"),
        ({"label": None}, "has no label"),
        ({"label": [0, 1]}, "has 1 candidates and 2 labels"),
        ({"candidate": []}, "has no candidates"),
        ({"candidate": ""}, "has no text in 'candidate'"),
        ({"question": " "}, "has no text in 'question'"),
        ({"question": 5}, "has in 'question' no text but a number"),
    ],
)
def test_a_bad_row_is_told_with_its_place_or_counted(changes, words, tmp_path):
    records = [GOOD, {**GOOD, **changes}]
    assert words in told(tmp_path / "a.jsonl", records) and "record 2" in told(tmp_path / "a.jsonl", records)
    found = read(tmp_path / "a.jsonl", records, skip_bad=True)
    assert len(found.examples[0].candidates) == 1 and found.skipped.total() == 1


@pytest.mark.parametrize(
    "content, words",
    [
        ("question\tlabel\nq\t1\n", "known as candidate"),
        ("question\tanswer\nq\ta\n", "known as label"),
        ("answer\tlabel\na\t1\n", "known as question"),
        ("question\tanswer\tlabel\n", "holds no rows"),
        ("", "is empty"),
    ],
)
def test_a_file_of_another_shape_is_refused(content, words, tmp_path):
    assert words in told(tmp_path / "a.tsv", content)


def test_columns_can_be_named(tmp_path):
    found = read(tmp_path / "a.csv", "text,answer,y\nq,a,1\n", columns=("question=answer", "candidate=text", "label=y"))
    assert found.examples == [Question("a", ("q",), (True,))]
    assert "has no column 'z'" in told(tmp_path / "a.csv", "text,answer,y\nq,a,1\n", columns=("question=z",))


@pytest.mark.parametrize("relevant", [True, False])
def test_training_data_of_one_kind_is_refused(relevant):
    with pytest.raises(UserError, match=f"are {'relevant' if relevant else 'irrelevant'}; the task learns from both"):
        AnswerSelection.of(DataOptions(), [Question("q", ("a", "b"), (relevant, relevant))])


def test_questions_of_which_none_can_be_scored_are_refused():
    one_sided = [Question("q", ("a", "b"), (True, True)), Question("r", ("a",), (False,))]
    with pytest.raises(UserError, match="each of the 2 questions to evaluate on has only relevant or only irrelevant"):
        TASK.check_scored(one_sided)
    ALL.check_scored(one_sided)
    TASK.check_scored([*one_sided, Question("s", ("a", "b"), (True, False))])


def test_a_candidate_is_encoded_beside_its_question(vocabulary):
    questions = [Question("is it", ("a name", "an object"), (False, True)), Question("the class", ("works",), (True,))]
    made = TASK.sequences(questions, vocabulary)
    expected = encoded([("is it", "a name"), ("is it", "an object"), ("the class", "works")], vocabulary, 24)
    assert (made.ids == expected.ids).all() and made.owners.tolist() == [0, 0, 1]
    assert made.of_sequences["labels"].tolist() == [0, 1, 1] and made.of_sequences["labels"].dtype == np.int32
    other = AnswerSelection(("relevant", "irrelevant"), ("map", "mrr"), 24)  # a model may number them otherwise
    assert other.sequences(questions, vocabulary).of_sequences["labels"].tolist() == [1, 0, 0]
    assert TASK.weights_of(made).tolist() == pytest.approx([1.5, 0.75, 0.75])
    assert not TASK.sequences(questions, vocabulary, labelled=False).of_sequences


# Scores


def test_a_ranking_is_scored_as_by_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(50):
        scores, relevant = rng.permutation(12).astype(float), rng.random(12) < 0.3
        relevant[rng.integers(12)] = True
        assert average_precision(scores, relevant) == pytest.approx(average_precision_score(relevant, scores))
        first = relevant & (scores == scores[relevant].max())  # of one relevant candidate both scores are the same
        assert reciprocal_rank(scores, relevant) == pytest.approx(
            label_ranking_average_precision_score(first[None], scores[None])
        )


def test_ties_do_not_help():
    """A model that says the same of all gets the least there is, wherever the answers stand in the file."""
    for relevant in ([1, 0, 0, 0], [0, 0, 0, 1]):
        assert average_precision(np.zeros(4), np.array(relevant, bool)) == 0.25
        assert reciprocal_rank(np.zeros(4), np.array(relevant, bool)) == 0.25
    assert average_precision(np.array([1.0, 1.0, 0.0]), np.array([True, False, True])) == pytest.approx(
        (1 / 2 + 2 / 3) / 2
    )


def test_what_has_no_relevant_candidate_is_0():
    assert (
        average_precision(np.arange(3.0), np.zeros(3, bool)) == reciprocal_rank(np.arange(3.0), np.zeros(3, bool)) == 0
    )


@pytest.fixture
def scored(vocabulary):
    questions = [
        Question("q", ("a", "b", "c"), (False, True, True)),
        Question("r", ("a", "b"), (False, False)),
        Question("s", ("a", "b"), (True, False)),
        Question("t", ("a",), (True,)),
    ]
    return TASK.sequences(questions, vocabulary)


MARGINS = [5.0, 9.0, 1.0, 0.0, 0.0, -3.0, -2.0, 0.0]


def logits(margins) -> np.ndarray:
    return np.stack([np.zeros(len(margins)), margins], 1).astype(np.float32) + 7.0


def test_questions_of_one_kind_are_left_out_and_counted_or_kept(scored):
    first, third = (1 + 2 / 3) / 2, 1 / 2
    assert TASK.scores(scored, logits(MARGINS)) == {
        "map": pytest.approx((first + third) / 2),
        "mrr": pytest.approx((1 + 1 / 2) / 2),
    }
    assert ALL.scores(scored, logits(MARGINS)) == {
        "map": pytest.approx((first + 0 + third + 1) / 4),
        "mrr": pytest.approx((1 + 0 + 1 / 2 + 1) / 4),
    }
    assert TASK.details(scored, logits(MARGINS)) == {
        "scored_questions": "clean",
        "questions": {"scored": 2, "without_relevant": 1, "only_relevant": 1},
    }
    assert ALL.details(scored, logits(MARGINS))["questions"]["scored"] == 4


def test_a_model_scores_the_questions_that_it_was_trained_to_score_unless_told_otherwise():
    def asked(task, **given) -> str:
        return task.with_options(DataOptions(task="answer-selection", **given)).scored_questions

    assert (asked(ALL), asked(TASK)) == ("all", "clean")
    assert asked(ALL, scored_questions="clean") == "clean" and asked(TASK, scored_questions="all") == "all"


def test_intervals_are_of_questions(scored):
    low, high = TASK.intervals(scored, logits(MARGINS))["map"]
    assert low == pytest.approx(1 / 2) and high == pytest.approx((1 + 2 / 3) / 2)  # there are two


def test_candidates_are_ranked_also_where_probabilities_are_all_1(scored):
    first, _, third, _ = TASK.answers(scored, logits([50.0, 70.0, 60.0, 0.0, 0.0, -900.0, np.log(3), 0.0]))
    assert [one["candidate"] for one in first["ranking"]] == [1, 2, 0]
    assert third["ranking"] == [
        {"candidate": 1, "text": "b", "score": pytest.approx(0.75)},
        {"candidate": 0, "text": "a", "score": 0.0},
    ]
    assert TASK.plain(scored.examples[2], third) == "75.0%\tb\ts\n0.0%\ta\ts"
    assert TASK.table(scored.examples[2:3], [third])[1:] == [["s", 1, pytest.approx(0.75), "b"], ["s", 2, 0.0, "a"]]
    assert [TASK.gold(question) for question in scored.examples] == [[1, 2], [], [0], [0]]


def test_equal_candidates_are_ranked_in_their_order(scored):
    first, *_ = TASK.answers(scored, logits([0.0] * 8))
    assert [one["candidate"] for one in first["ranking"]] == [0, 1, 2]


def test_a_task_is_the_same_from_its_file():
    for task in (TASK, ALL):
        assert AnswerSelection.from_remembered(json.loads(json.dumps(task.remembered()))) == task


# What is asked


def asked(*texts, **options) -> list[Question]:
    return TASK.asked(PredictOptions(Path("runs/x"), texts, **options))


def test_what_is_asked(tmp_path, monkeypatch):
    assert asked("q", choices=("a", "b")) == [Question("q", ("a", "b"))]
    assert TASK.example(("q", ["a", "b"])) == TASK.example({"question": "q", "choices": ["a", "b"]})
    (tmp_path / "a.tsv").write_text(WIKIQA.replace('"', ""))
    assert [(q.id, len(q.candidates), q.relevant) for q in asked(input=str(tmp_path / "a.tsv"))] == [
        ("Q1", 2, ()),
        ("Q2", 1, ()),
    ]
    (tmp_path / "a.jsonl").write_text(json.dumps({"question": "q", "candidates": ["a", "b"]}))
    monkeypatch.setattr("sys.stdin", type("Pipe", (), {"buffer": open(tmp_path / "a.jsonl", "rb")}))
    assert asked(input="-") == [Question("q", ("a", "b"))]


def test_what_cannot_be_asked_is_one_sentence():
    for texts, choices in (((), ("a",)), (("q",), ()), (("q", "r"), ("a",))):
        with pytest.raises(UserError, match="no question with candidates was given"):
            asked(*texts, choices=choices)
    for given, words in (("qa", "was given as 'qa'"), (("q", []), "the question has no candidates; give it at least")):
        with pytest.raises(UserError, match=words):
            TASK.example(given)


def test_the_ranks_of_the_first_relevant_candidates_are_drawn(scored):
    ranks, by_candidates = TASK.drawings(scored, logits(MARGINS))
    assert drawings.bars(ranks) == {"1 (1)": [0.5], "2 (1)": [0.5]}
    ranks, by_candidates = ALL.drawings(scored, logits(MARGINS))
    assert drawings.bars(ranks) == {"1 (2)": [0.5], "2 (1)": [0.25], "none (1)": [0.25]}
    assert drawings.axes_of(by_candidates).get_xlabel() == "candidates (mean of a bin)"
    (line,) = drawings.axes_of(by_candidates).get_lines()[:1]
    assert line.get_xdata() == [2.0]  # of 3, 2, 2 and 1
    assert drawn([ranks, by_candidates]).startswith(b"\x89PNG")
