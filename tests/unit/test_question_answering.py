"""Extractive question answering: targets, scores, the threshold of "no answer", and what is told."""

import dataclasses
import io
import json
import types

import numpy as np
import pytest

from ms_bert.errors import UserError
from ms_bert.finetuning_options import DataOptions
from ms_bert.prediction_options import PredictOptions
from ms_bert.tasks import squad
from ms_bert.tasks.pictures import drawn
from ms_bert.tasks.question_answering import QuestionAnswering
from ms_bert.tasks.registry import KINDS
from ms_bert.tasks.squad import Answer, Question
from tests.unit import drawings

CONTEXT = "The import statement finds a module, and then it binds the result of that search to a name in the scope."
TASK = QuestionAnswering((), ("f1", "exact_match"), 24, longest_question=6, longest_answer=8, stride=6)
NULL = dataclasses.replace(TASK, measures=("best_f1", "f1", "exact_match"), no_answer=True)


def question(*answers: str, text="What does import bind?", context=CONTEXT) -> Question:
    return Question(text, context, tuple(Answer(answer, context.index(answer)) for answer in answers), "q", "here")


def saying(sequences, *spans, null=0.0) -> np.ndarray:
    """Logits by which the best answer of each question is this text of its passage, with the score 8; of none where it
    is empty, that is 8 for [CLS]."""
    logits = np.zeros((len(sequences.ids), 2), np.float32)
    for window in range(len(sequences)):
        owner, part = sequences.owners[window], sequences.part(window)
        logits[sequences.starts[window]] = (null if spans[owner] else 8.0) / 2
        if spans[owner]:
            start = sequences.examples[owner].context.index(spans[owner])
            offsets = sequences.offsets[sequences.passages[window]][sequences.first[window] :][: part.stop - part.start]
            logits[part, 0] += 4.0 * (offsets[:, 0] == start)
            logits[part, 1] += 4.0 * (offsets[:, 1] == start + len(spans[owner]))
    return logits


def targets(sequences, window: int) -> tuple[dict, dict]:
    """The targets of a window, by the place of the token in it."""
    span = slice(sequences.starts[window], sequences.starts[window + 1])
    found = [sequences.of_tokens[name][span] for name in ("starts", "ends")]
    assert all(values.sum() == pytest.approx(1) and values.dtype == np.float32 for values in found)
    return tuple(
        {int(place): pytest.approx(float(values[place])) for place in np.flatnonzero(values)} for values in found
    )


def test_it_is_the_same_from_its_file():
    for task in (TASK, dataclasses.replace(NULL, threshold=-1.5, by="characters")):
        assert KINDS[task.name].from_remembered(json.loads(json.dumps(task.remembered()))) == task


def test_a_window_learns_the_answers_that_it_shows_and_else_that_there_is_none(vocabulary):
    made = TASK.sequences([question("the result of that search")], vocabulary)
    (offsets,) = made.offsets
    first = int(np.flatnonzero(offsets[:, 0] == CONTEXT.index("the result"))[0])
    last = int(np.flatnonzero(offsets[:, 1] == CONTEXT.index(" to a name"))[0])
    shown = 0
    for window in range(len(made)):
        begin, end = made.first[window], made.first[window] + made.sizes[window]
        if begin <= first and last < end:
            shown += 1
            at = int(made.before[window] - begin)
            assert targets(made, window) == ({first + at: 1.0}, {last + at: 1.0})
        else:
            assert targets(made, window) == ({0: 1.0}, {0: 1.0})
    assert 1 <= shown < len(made)


def test_of_several_answers_each_counts_as_often_as_it_was_given(vocabulary):
    wide = dataclasses.replace(TASK, longest=90)
    made = wide.sequences([question("a module", "module", "module"), question()], vocabulary)
    starts, ends = targets(made, 0)
    assert sorted(value.expected for value in starts.values()) == pytest.approx([1 / 3, 2 / 3])
    assert list(ends.values()) == [1.0] and targets(made, 1) == ({0: 1.0}, {0: 1.0})


@pytest.mark.parametrize("context", [CONTEXT, "", "\u200b \x00", "\U0001f600" * 40, "他在北京大学学习。" * 9])
def test_an_answer_is_a_substring_of_the_passage_whatever_the_model_says(context, vocabulary):
    """Also of a model that says the same of all tokens, and of a passage that has none."""
    rng = np.random.default_rng(4)
    examples = [question(context=context), question(text="", context=context)]
    for task in (TASK, NULL):
        made = task.sequences(examples, vocabulary, labelled=False)
        for scale in (0.0, 1.0, 300.0):
            logits = (scale * rng.normal(size=(len(made.ids), 2))).astype(np.float32)
            for answer in task.answers(made, logits):
                assert 0 <= sum(told["score"] for told in answer["n_best"]) <= 1.0 + 1e-9
                scores = [told["score"] for told in answer["n_best"]]
                assert scores == sorted(scores, reverse=True) and answer["score"] == scores[0]
                for told in answer["n_best"]:
                    if told["start"] is None:
                        assert told["answer"] == "" and told["end"] is None and (task.no_answer or not made.sizes.any())
                    else:
                        assert told["answer"] == context[told["start"] : told["end"]] != ""
    assert TASK.answers(TASK.sequences([], vocabulary), np.zeros((0, 2), np.float32)) == []


def test_the_score_is_the_probability_among_all_answers(vocabulary):
    whole = dataclasses.replace(TASK, longest=90, longest_answer=100, top=100_000)
    made = whole.sequences([question()], vocabulary)
    logits = saying(made, "a module")
    (answer,) = whole.answers(made, logits)
    assert answer["answer"] == "a module" and sum(told["score"] for told in answer["n_best"]) == pytest.approx(1.0)
    (few,) = dataclasses.replace(whole, top=2).answers(made, logits)
    assert few["n_best"] == answer["n_best"][:2]


def test_there_is_no_answer_where_its_score_is_above_the_threshold(vocabulary):
    made = NULL.sequences([question()], vocabulary)
    logits = saying(made, "a module", null=7.0)  # a margin of -1
    for threshold, expected in ((-1.5, ""), (-1.1, ""), (-0.9, "a module"), (0.0, "a module")):
        (answer,) = dataclasses.replace(NULL, threshold=threshold).answers(made, logits)
        assert answer["answer"] == expected and answer["score"] == max(told["score"] for told in answer["n_best"])
    (one,) = dataclasses.replace(NULL, top=1).answers(made, logits)
    assert [told["answer"] for told in one["n_best"]] == ["a module"]


def test_one_window_that_does_not_show_the_answer_does_not_make_it_none(vocabulary):
    """The score of "no answer" is the lowest of all windows."""
    made = NULL.sequences([question()], vocabulary)
    assert len(made) > 2
    logits = saying(made, "a module", null=7.0)
    logits[made.starts[1:-1]] = 20.0
    (answer,) = NULL.answers(made, logits)
    assert answer["answer"] == "a module"


def test_scores_are_means_over_questions_and_the_best_of_all_right_answers_counts(vocabulary):
    examples = [question("a module", "module"), question("the result of that search"), question("a name")]
    made = TASK.sequences(examples, vocabulary)
    logits = saying(made, "module", "that search", "The import statement")
    scores = TASK.scores(made, logits)
    assert scores == {"f1": pytest.approx((1 + 2 / 3 + 0) / 3), "exact_match": pytest.approx(1 / 3)}
    for name, (low, high) in TASK.intervals(made, logits).items():
        assert low <= scores[name] <= high and low < high
    assert TASK.details(made, logits) == {"compared_by": "words"} and TASK.tuned(made, logits) == TASK


def test_the_threshold_is_tuned_on_questions_of_both_kinds(vocabulary):
    examples = [question("a module"), question(), question("a name"), question()]
    made = NULL.sequences(examples, vocabulary)
    logits = saying(made, "a module", "the scope", "a name", "", null=5.0)
    logits[np.isin(np.arange(len(logits)), made.starts[:-1][made.owners == 1])] = 3.5  # 7 against 8: almost none
    before = NULL.scores(made, logits)
    assert before == {"best_f1": 1.0, "f1": 0.75, "exact_match": 0.75}
    tuned = NULL.tuned(made, logits)
    assert tuned.threshold == pytest.approx(-2.0)  # between -3 and -1
    assert tuned.scores(made, logits) == {"best_f1": 1.0, "f1": 1.0, "exact_match": 1.0}
    assert [answer["answer"] for answer in tuned.answers(made, logits)] == ["a module", "", "a name", ""]
    assert tuned.details(made, logits)["without_answer"] == {"examples": 2, "f1": 1.0, "exact_match": 1.0}
    assert NULL.details(made, logits)["without_answer"]["f1"] == 0.5
    alike = NULL.sequences(examples[::2], vocabulary)
    assert NULL.tuned(alike, saying(alike, "a module", "a name")) == NULL


def test_without_such_training_data_a_question_without_answer_is_wrong(vocabulary):
    made = TASK.sequences([question("a module"), question()], vocabulary)
    logits = saying(made, "a module", "a name")
    assert TASK.scores(made, logits) == {"f1": 0.5, "exact_match": 0.5}
    assert TASK.details(made, logits)["without_answer"] == {"examples": 1, "f1": 0.0, "exact_match": 0.0}


def test_the_task_follows_from_its_data():
    data = DataOptions(task="question-answering", stride=50)
    task = QuestionAnswering.of(data, [question("a name")])
    assert task == QuestionAnswering((), ("f1", "exact_match"), 384, stride=50, shared=30)
    task = QuestionAnswering.of(data, [question("a name"), question()])
    assert task.no_answer and task.measures == ("best_f1", "f1", "exact_match")
    task = QuestionAnswering.of(data, [question("北京大学", context="他在北京大学学习。")])
    assert task.by == "characters"
    with pytest.raises(UserError, match="no question of the training data has an answer"):
        QuestionAnswering.of(data, [question()])
    with pytest.raises(UserError, match="--longest 64 leaves no room for a passage beside questions"):
        QuestionAnswering.of(dataclasses.replace(data, longest=64), [question("a name")])


def test_options_that_are_given_take_the_place_of_those_of_a_model():
    """Also where they are what is usual, which a model's own may not be."""

    def asked(**given) -> QuestionAnswering:
        return NULL.with_options(DataOptions(task="question-answering", **given))

    assert asked() == NULL
    assert asked(stride=128) == dataclasses.replace(NULL, stride=128)
    older = dataclasses.replace(NULL, longest_answer=30, longest=99, shared=0)  # its run.json has what was usual
    assert older.with_options(DataOptions(task="question-answering", longest_answer=30, stride=6)) == older
    assert asked(longest_answer=30) == dataclasses.replace(NULL, longest_answer=30, shared=30)
    assert asked(longest=99, longest_question=64) == dataclasses.replace(NULL, longest=99, longest_question=64)
    with pytest.raises(UserError, match="--longest 24 leaves no room for a passage beside questions"):
        asked(longest_question=64)


def options(tmp_path, **given) -> PredictOptions:
    return PredictOptions(tmp_path, **given)


def test_questions_come_with_a_passage_or_from_a_file_with_passages(tmp_path):
    (tmp_path / "passage.txt").write_bytes("\ufefffirst line\r\nsecond line".encode())
    (tmp_path / "questions.txt").write_text("One?\nTwo?\n")
    (tmp_path / "both.jsonl").write_text(json.dumps({"question": "Who?", "context": "She.", "id": "a"}) + "\n")
    found = TASK.asked(options(tmp_path, texts=("Who?", "When?"), context="She."))
    assert [(e.question, e.context, e.answers) for e in found] == [("Who?", "She.", None), ("When?", "She.", None)]
    found = TASK.asked(options(tmp_path, input=str(tmp_path / "questions.txt"), context_file=tmp_path / "passage.txt"))
    assert [(e.question, e.context) for e in found] == [(q, "first line\r\nsecond line") for q in ("One?", "Two?")]
    (found,) = TASK.asked(options(tmp_path, input=str(tmp_path / "both.jsonl")))
    assert (found.question, found.context, found.id) == ("Who?", "She.", "a")


def test_a_pipe_gives_questions_with_their_passages(tmp_path, monkeypatch):
    lines = b'{"question": "Who?", "context": "She."}\n{"question": "When?", "context": "In 1905."}\n'
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(lines)))
    found = TASK.asked(options(tmp_path, input="-"))
    assert [(e.question, e.context) for e in found] == [("Who?", "She."), ("When?", "In 1905.")]
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(b"Who?\n")))
    with pytest.raises(UserError, match="the pipe cannot be read as JSON .*; write an object of JSON a line to it"):
        TASK.asked(options(tmp_path, input="-"))
    with pytest.raises(UserError, match="'-'"):  # a run could not read it again
        squad.read("-")


def test_what_cannot_be_asked_is_one_sentence(tmp_path):
    (tmp_path / "latin.txt").write_bytes("d\xe9j\xe0 vu".encode("latin-1"))
    (tmp_path / "both.jsonl").write_text('{"question": "Who?", "context": "She."}\n')
    (tmp_path / "one.jsonl").write_text('{"question": "Who?"}\n')
    for given, words in (
        ({"texts": ("Who?",)}, "a question needs a passage; give it with --context"),
        ({"context": "She."}, "no text was given"),
        ({"texts": ("Who?",), "context_file": tmp_path / "none.txt"}, "none.txt cannot be read"),
        ({"texts": ("Who?",), "context_file": tmp_path}, "cannot be read"),
        ({"texts": ("Who?",), "context_file": tmp_path / "latin.txt"}, "is not UTF-8 text"),
        ({"input": str(tmp_path / "both.jsonl"), "context": "She."}, "--input has passages of its own"),
        ({"input": str(tmp_path / "one.jsonl")}, "known as context"),
    ):
        with pytest.raises(UserError, match=words):
            TASK.asked(options(tmp_path, **given))
    with pytest.raises(UserError, match="by --context and by --context-file"):
        options(tmp_path, texts=("Who?",), context="She.", context_file=tmp_path / "latin.txt")


def test_python_gives_pairs_or_objects():
    assert TASK.example(("Who?", "She.")) == TASK.example({"question": "Who?", "context": "She."})
    for given in ("Who?", ("Who?",), ("a", "b", "c"), ("Who?", None), {"question": "Who?"}):
        with pytest.raises(UserError, match=r"is no question about a passage; give \(question, context\)"):
            TASK.example(given)


def test_answers_are_shown_as_lines_objects_and_rows(vocabulary):
    made = NULL.sequences([question("a module"), question()], vocabulary)
    found = NULL.answers(made, saying(made, "a module", ""))
    first, second = made.examples
    assert NULL.plain(first, found[0]).startswith("a module ") and NULL.plain(first, found[0]).endswith(
        "%\t" + first.question
    )
    assert NULL.plain(second, found[1]).startswith("(no answer) ")
    assert NULL.inputs(first) == {"id": "q", "question": first.question}
    assert NULL.gold(first) == [{"answer": "a module", "start": 27, "end": 35}] and NULL.gold(second) == []
    header, row, none = NULL.table(made.examples, found)
    assert header == ["id", "question", "answer", "score", "start", "end"]
    assert row[2] == "a module" and row[4:] == [27, 35] and none[2] == "" and none[4:] == [None, None]


def test_answers_are_drawn_by_their_length_and_those_of_none_last(vocabulary):
    long = "a module, and then"
    questions = [
        question("it", "a name in the scope"),
        question(),
        question(long),
        question("a module"),
        question(long),
    ]
    made = NULL.sequences(questions, vocabulary)
    task = dataclasses.replace(NULL, threshold=0.0)
    by_length, by_passage = task.drawings(made, saying(made, "it", "", "a module", "a module", ""))
    assert drawings.bars(by_length) == {
        "1 (1)": [1.0, 1.0],
        "2 (1)": [1.0, 1.0],
        "3–4 (2)": [0.0, pytest.approx(0.25)],  # of one 2 * 1 / (1 + 3) without the article, of the other nothing
        "(no answer) (1)": [1.0, 1.0],
    }
    axes = drawings.axes_of(by_length)
    assert axes.get_ylabel() == "words" and [text.get_text() for text in axes.get_legend().texts] == [
        "exact match",
        "F1",
    ]
    tokens = len(vocabulary.tokenizer.encode(CONTEXT, add_special_tokens=False).ids)
    (line,) = drawings.axes_of(by_passage).get_lines()[:1]
    assert line.get_xdata() == [tokens] and line.get_ydata() == [pytest.approx(0.7)]
    assert drawn([by_length, by_passage]).startswith(b"\x89PNG")


def test_chinese_answers_are_drawn_by_their_characters(vocabulary):
    task = dataclasses.replace(TASK, by="characters")
    asked = Question("什么？", "模块的名字", (Answer("名字", 3),), "", "")
    made = task.sequences([asked], vocabulary)
    by_length, _ = task.drawings(made, np.zeros((len(made.ids), 2), np.float32))
    assert list(drawings.bars(by_length)) == ["2 (1)"] and drawings.axes_of(by_length).get_ylabel() == "characters"
