"""What a user asks about: texts or pairs, as the task was trained on, from arguments, files of any kind and a pipe."""

import dataclasses
import gzip
import io
import json
import lzma
import types

import numpy as np
import pytest

from ms_bert.errors import UserError
from ms_bert.finetuning_options import DataOptions
from ms_bert.prediction_options import PredictOptions
from ms_bert.tasks.answer_selection import AnswerSelection
from ms_bert.tasks.asked import scored_pairs, several
from ms_bert.tasks.classification import Classification
from ms_bert.tasks.examples import Example
from ms_bert.tasks.multiple_choice import MultipleChoice
from ms_bert.tasks.question_answering import QuestionAnswering
from ms_bert.tasks.tagging import Tagging

MRPC = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tone\tother\n"
COLA = "gj04\t1\t\tOne sentence.\ngj04\t0\t*\tOther sentence.\n"


def trained(texts=("a text",), task="classification", columns=()) -> Classification:
    """The task of training data with such texts."""
    examples = [Example(texts, label, "") for label in ("no", "yes")]
    return Classification.of(DataOptions(task=task, columns=columns), examples)


def asked(task, tmp_path, *texts, **given):
    return [example.texts for example in task.asked(PredictOptions(tmp_path, texts, **given))]


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_arguments_and_lines_are_texts_or_pairs_as_in_training(tmp_path):
    one, two = trained(), trained(("a", "b"))
    assert asked(one, tmp_path, "a", "b") == [("a",), ("b",)]
    assert asked(two, tmp_path, "a", "b", "c", "d") == [("a", "b"), ("c", "d")]
    lines = written(tmp_path / "lines.txt", "a\tb\r\nc\td\r\n")
    assert asked(one, tmp_path, input=lines) == [("a\tb",), ("c\td",)]
    assert asked(two, tmp_path, input=lines) == [("a", "b"), ("c", "d")]
    with pytest.raises(UserError, match="'c' stands alone"):
        asked(two, tmp_path, "a", "b", "c")


def test_a_model_from_elsewhere_is_told_that_it_takes_pairs(tmp_path):
    """Its config does not say so; half of a pair would be classified like a text."""
    task, lines = dataclasses.replace(trained(), pairs=None), written(tmp_path / "lines.txt", "a b\nc\td\n")
    assert asked(task, tmp_path, "a", "b") == [("a",), ("b",)]
    assert asked(task, tmp_path, "a", "b", pairs=True) == [("a", "b")]
    assert asked(task, tmp_path, "a\tb") == [("a\tb",)]
    with pytest.raises(UserError, match="has a tab, .* add --pairs if these are two texts"):
        asked(task, tmp_path, input=lines)
    with pytest.raises(UserError, match="line 1 has 1 texts"):
        asked(task, tmp_path, input=lines, pairs=True)
    lines = written(tmp_path / "pairs.txt", "a\tb\nc\td\n")
    assert asked(task, tmp_path, input=lines, pairs=True) == [("a", "b"), ("c", "d")]
    assert asked(trained(("a", "b")), tmp_path, input=lines, pairs=True) == [("a", "b"), ("c", "d")]
    with pytest.raises(UserError, match="--pairs was given, but the model was fine-tuned on single texts"):
        asked(trained(), tmp_path, input=lines, pairs=True)
    with pytest.raises(UserError, match="--pairs is for classification and regression"):
        PredictOptions(tmp_path, ("a", "b"), pairs=True, next_sentence=True)


def test_columns_that_were_named_for_training_are_read_again(tmp_path):
    path = written(tmp_path / "news.csv", "text,headline\nlong,short\n")
    task = trained(columns=("text=headline", "label=kind"))
    assert asked(task, tmp_path, input=path) == [("short",)]
    assert asked(task, tmp_path, input=path, columns=("text=text",)) == [("long",)]
    with pytest.raises(UserError, match="has no column 'headline'"):
        asked(task, tmp_path, input=written(tmp_path / "other.csv", "text\nlong\n"))
    remembered = Classification.from_remembered({**task.remembered(), "columns": list(task.columns)})
    assert asked(remembered, tmp_path, input=path) == [("short",)]


def test_every_task_reads_the_columns_that_it_was_trained_on(tmp_path):
    """Those of labels are not asked for."""

    def task_and_asked(kind, name, content, *columns):
        path = written(tmp_path / name, content)
        data = DataOptions(kind.name, columns=columns)
        task = kind.of(data, kind.examples(data, path, "train").examples)
        task = kind.from_remembered({**task.remembered(), "columns": list(task.columns)})
        return task, task.asked(PredictOptions(tmp_path, input=path))

    conll = "1\tJohn\tNNP\tB-PER\n2\tran\tVBD\tO\n\n1\tRome\tNNP\tB-LOC\n"
    _, found = task_and_asked(Tagging, "a.conll", conll, "text=2", "label=4")
    assert [sentence.words for sentence in found] == [("John", "ran"), ("Rome",)]
    record = {"question": "IGNORE", "ask": "2+2?", "choices": ["3", "4"], "right": 1}
    task, found = task_and_asked(MultipleChoice, "a.jsonl", json.dumps(record), "question=ask", "label=right")
    assert [one.question for one in found] == ["2+2?"] and task.columns == ("question=ask",)
    rows = "question,ask,reply,good\nIGNORE,q,a,1\nIGNORE,q,b,0\n"
    _, found = task_and_asked(AnswerSelection, "a.csv", rows, "question=ask", "candidate=reply", "label=good")
    assert [(one.question, one.candidates) for one in found] == [("q", ("a", "b"))]
    record = {"question": "IGNORE", "ask": "who?", "context": "Ann", "is": {"text": ["Ann"], "answer_start": [0]}}
    task, found = task_and_asked(QuestionAnswering, "b.jsonl", json.dumps(record), "question=ask", "answers=is")
    assert [one.question for one in found] == ["who?"] and task.columns == ("question=ask",)


def test_columns_of_one_form_of_files_are_not_looked_for_in_another(tmp_path):
    """Those of CoNLL have numbers, those of records names; a .csv file of words is none of both."""
    tags = dict(labels=("B-PER", "O"), measures=Tagging.span_measures, longest=16, scheme="bio")
    by_number, by_name = (Tagging(**tags, columns=(f"text={name}",)) for name in ("2", "toks"))
    conll = written(tmp_path / "a.conll", "1 John\n2 ran\n")
    records = written(tmp_path / "a.jsonl", '{"tokens": ["no"], "toks": ["John", "ran"]}\n')
    assert [one.words for one in asked_about(by_number, tmp_path, conll)] == [("John", "ran")]
    assert [one.words for one in asked_about(by_name, tmp_path, conll)] == [("1", "2")]
    assert [one.words for one in asked_about(by_name, tmp_path, records)] == [("John", "ran")]
    assert [one.words for one in asked_about(by_number, tmp_path, records)] == [("no",)]
    words = written(tmp_path / "a.csv", "id,toks\n1,John\n")
    with pytest.raises(UserError, match="no column that is known as text"):
        asked_about(by_name, tmp_path, words)


def test_questions_need_no_columns_of_answers(tmp_path):
    columns = ("question=ask", "is_impossible=no", "id=key", "answers=is")
    assert QuestionAnswering.input_columns(DataOptions("question-answering", columns=columns)) == ("question=ask",)


def test_of_several_columns_of_labels_scores_are_the_one_of_numbers(tmp_path):
    path = written(tmp_path / "a.csv", "sentence1,sentence2,score,label\na,b,4.5,x\nc,d,1,y\n")
    assert scored_pairs(PredictOptions(tmp_path, input=path)) == ([("a", "b"), ("c", "d")], [4.5, 1.0])


def test_rows_of_words_are_no_texts(tmp_path):
    """A table with a word a row has its sentences in several rows."""
    task = Tagging(("B-PER", "O"), Tagging.span_measures, 16, "", "bio")
    path = written(tmp_path / "a.csv", "Sentence #,Word,Tag\n1,John,B-PER\n1,ran,O\n")
    with pytest.raises(UserError, match="no column that is known as text \\(text, sentence\\)"):
        asked_about(task, tmp_path, path)
    assert [one.text for one in asked_about(task, tmp_path, written(tmp_path / "b.csv", "text\nJohn ran\n"))] == [
        "John ran"
    ]


def asked_about(task, tmp_path, path):
    return task.asked(PredictOptions(tmp_path, input=path))


def test_a_task_on_single_texts_takes_no_pairs_of_a_file(tmp_path):
    path = written(tmp_path / "pairs.csv", "question,sentence\na,b\n")
    with pytest.raises(UserError, match="single texts are asked for, but .* has pairs"):
        asked(trained(), tmp_path, input=path)
    assert asked(trained(("a", "b")), tmp_path, input=path) == [("a", "b")]


def test_a_task_of_glue_reads_its_own_files(tmp_path):
    mrpc, cola = trained(("a", "b"), "mrpc"), trained(task="cola")
    assert asked(mrpc, tmp_path, input=written(tmp_path / "test.txt", MRPC)) == [("one", "other")]
    assert asked(mrpc, tmp_path, input=written(tmp_path / "own.txt", "a\tb\n")) == [("a", "b")]
    found = [("One sentence.",), ("Other sentence.",)]
    assert asked(cola, tmp_path, input=written(tmp_path / "dev.tsv", COLA)) == found
    assert asked(cola, tmp_path, input=written(tmp_path / "own.txt", "One.\nTwo.\n")) == [("One.",), ("Two.",)]
    sst2 = 'sentence\tlabel\n"a masterpiece\t1\ndull\t0\nsimply awful"\t0\n'
    found = [('"a masterpiece',), ("dull",), ('simply awful"',)]
    assert asked(trained(task="sst2"), tmp_path, input=written(tmp_path / "sst2.tsv", sst2)) == found
    assert asked(trained(task="sst2"), tmp_path, input=written(tmp_path / "own.txt", "sentence\ngood\n")) == [
        ("sentence",),
        ("good",),
    ]


def test_a_line_ends_at_its_end_alone(tmp_path, monkeypatch):
    content = "good\u2028film\nbad\x0cfilm\x85\n\nlast"
    expected = [(line,) for line in content.split("\n")]
    assert asked(trained(), tmp_path, input=written(tmp_path / "texts.txt", content)) == expected
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(content.encode() + b"\r\n")))
    assert asked(trained(), tmp_path, input="-") == expected


def test_a_line_with_a_nul_byte_is_no_text(tmp_path):
    with pytest.raises(UserError, match="texts.txt, line 2 holds a NUL byte, which no text has"):
        asked(trained(), tmp_path, input=written(tmp_path / "texts.txt", "good\nbad\0\n"))


@pytest.mark.parametrize("ending, compress", [("gz", gzip.compress), ("xz", lzma.compress)])
def test_compressed_lines_are_lines(ending, compress, tmp_path):
    path = written(tmp_path / f"texts.txt.{ending}", compress("Barack spoke\nI slept\n".encode()))
    tagging = Tagging.of_labels(("O", "B-PER", "I-PER"), 16)
    assert [one.text for one in tagging.asked(PredictOptions(tmp_path, input=path))] == ["Barack spoke", "I slept"]
    assert asked(trained(), tmp_path, input=path) == [("Barack spoke",), ("I slept",)]
    with pytest.raises(UserError, match="cannot be read to its end"):
        asked(trained(), tmp_path, input=written(tmp_path / f"plain.txt.{ending}", "not compressed"))


@pytest.mark.parametrize("given", [("a", "b", "c"), (), ("a", None), 7, None, float("nan")])
def test_what_is_no_text_is_refused(given):
    unknown = Classification(("no", "yes"), ("accuracy",), 16)
    assert unknown.example("a").texts == ("a",) and unknown.example(["a", "b"]).texts == ("a", "b")
    for task in (unknown, trained(), trained(("a", "b"))):
        with pytest.raises(UserError, match="was given; expected a"):
            task.example(given)
    for task, other in ((trained(), ("a", "b")), (trained(("a", "b")), "a")):
        with pytest.raises(UserError, match="expected a (pair of texts|text)\\."):
            task.example(other)


def test_columns_of_what_has_none_are_refused(tmp_path):
    for source in ("-", written(tmp_path / "texts.txt", "text\ngood\n")):
        with pytest.raises(UserError, match="--columns is for a file with columns"):
            asked(trained(), tmp_path, input=source, columns=("text=text",))
    with pytest.raises(UserError, match="--columns is for a file with columns"):
        asked(trained(), tmp_path, "a text", columns=("text=text",))
    assert asked(trained(columns=("text=headline",)), tmp_path, input=str(tmp_path / "texts.txt")) == [
        ("text",),
        ("good",),
    ]


def test_a_missing_file_is_told_as_such(tmp_path):
    for name in ("texts.txt", "texts.csv"):
        with pytest.raises(UserError, match="there is no file"):
            asked(trained(), tmp_path, input=str(tmp_path / name))


def test_no_option_of_training_is_proposed_to_who_predicts(tmp_path):
    with pytest.raises(UserError) as told:
        asked(trained(), tmp_path, input=written(tmp_path / "a.jsonl", '{"text": 7}\n'))
    assert "--skip-bad" not in str(told.value)


@pytest.mark.parametrize("given", ["text", {"text": "good"}, types.SimpleNamespace(columns=["text"])])
def test_what_is_no_list_is_refused(given):
    with pytest.raises(UserError, match="a list is expected, not "):
        several(given)


def test_any_iterable_is_a_list():
    array = np.array(["Barack", "spoke"])
    assert several(text for text in ("a", "b")) == several(np.array(["a", "b"])) == ["a", "b"]
    assert several([array, ("c", "d")]) == [["Barack", "spoke"], ("c", "d")]


@pytest.mark.parametrize("given", ["a \ud83d b", ("a", "\udc00"), {"question": "q", "choices": ["a", "\ud83d"]}])
def test_half_a_character_is_told(given):
    with pytest.raises(UserError, match="has half a character, a lone surrogate, at [02]; replace it"):
        several(["good", given])


def test_a_file_of_ones_own_is_not_one_of_glue(tmp_path):
    cola, sst2 = trained(task="cola"), trained(task="sst2")
    own = written(tmp_path / "own.csv", "id,text,lang,date\n1,I like it,en,2024\n")
    assert asked(cola, tmp_path, input=own) == [("I like it",)]
    quoted = written(tmp_path / "quoted.csv", 'sentence,label\n"He said ""no""",1\n')
    assert asked(sst2, tmp_path, input=quoted) == [('He said "no"',)]
    pairs = written(tmp_path / "pairs.csv", "a,b,gold\none,two,entail\n")
    task = trained(("a", "b"))
    assert asked(task, tmp_path, input=pairs, columns=("text=a", "text2=b", "label=gold")) == [("one", "two")]
