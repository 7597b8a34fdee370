"""Answers go out as they come: what is answered already is not lost, and a file is whole or is not there."""

import csv
import io
import json
import os
import types
from pathlib import Path

import numpy as np
import pytest

from ms_bert.commands import delivery, embedding, prediction
from ms_bert.commands.embedding import Embedded
from ms_bert.data import labelled
from ms_bert.errors import UserError
from ms_bert.tasks.answer_selection import AnswerSelection
from ms_bert.tasks.classification import Classification


class Answering:
    """A model that says how long texts are, and can take no empty one."""

    task = property(lambda self: self, lambda self, value: None)
    longest = 3

    def __init__(self, *_, **__):
        self.asked_for = []

    def showing(self, top):
        return self

    def asked(self, options):
        return list(options.texts)

    def answers(self, examples):
        self.asked_for.append(list(examples))
        if "" in examples:
            raise UserError("an empty text; write something.")
        return [{"length": len(text), **({"truncated": True} if len(text) > 3 else {})} for text in examples]

    def inputs(self, example):
        return {"text": example}

    def plain(self, example, answer):
        return f"{answer['length']} {example}"

    def table(self, examples, answers):
        return [["text"], *([example] for example in examples)]


@pytest.fixture
def predict(monkeypatch):
    """The command, asked about texts, two at a time."""
    monkeypatch.setattr(prediction, "Predictor", Answering)
    monkeypatch.setattr(prediction, "CHUNK", 2)
    return lambda *arguments: prediction.main(None, "predict", "", ["model", *map(str, arguments)])


def test_lines_are_written_before_the_next_texts_are_answered(predict, capsys):
    assert predict("a", "bb", "cccc", "", "e") == 2
    told = capsys.readouterr()
    assert told.out == "1 a\n2 bb\n" and told.err == "predict: an empty text; write something.\n"


@pytest.mark.parametrize("form", ["text", "jsonl", "csv"])
def test_parts_are_what_the_whole_is(form, predict, tmp_path, monkeypatch, capsys):
    texts = ("a", "bb", "cccc", "d", "eeeee")
    assert predict(*texts, "--format", form) == 0
    told = capsys.readouterr()
    assert "2 of 5 texts were too long" in told.err
    monkeypatch.setattr(prediction, "CHUNK", 100)
    assert predict(*texts, "--format", form, "--output", tmp_path / "new" / "answers") == 0
    assert (tmp_path / "new" / "answers").read_text() == told.out
    assert told.out.count("\n") == len(texts) + (form == "csv")


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_file_is_whole_or_stays_as_it_was(form, predict, tmp_path):
    path = tmp_path / f"answers.{form}"
    for before in ("", "of yesterday\n"):
        path.write_text(before)
        assert predict("a", "bb", "", "--output", path) == 2
        assert path.read_text() == before and [*tmp_path.iterdir()] == [path]


def test_the_bar_is_not_drawn_between_the_lines_of_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(delivery.sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(delivery.sys.stdout, "isatty", lambda: True)
    drawn = []
    for between_lines in (True, False):
        assert [*delivery.chunked("abc", 2, len, between_lines)] == [("ab", 2), ("c", 1)]
        drawn.append("3/3" in capsys.readouterr().err)
    assert drawn == [False, True]


def test_vectors_are_written_as_they_come(monkeypatch, capsys):
    class Vectors(Answering):
        def embedded(self, texts):
            self.answers(texts)
            return Embedded([np.ones(2, np.float32)] * len(texts), [[]] * len(texts), [len(t) > 3 for t in texts])

    monkeypatch.setattr(embedding, "Embedder", Vectors)
    monkeypatch.setattr(embedding, "CHUNK", 2)
    for texts, code in ((("a", "bb", ""), 2), (("a", "bb", "cccc"), 0)):
        assert embedding.main(None, "embed", "", ["model", *texts, "--format", "jsonl"]) == code
        told = capsys.readouterr()
        assert [json.loads(line)["text"] for line in told.out.splitlines()] == [*texts[: 3 - (code == 2)]]
    assert "1 of 3 texts were too long for 3 tokens" in told.err


def test_nothing_to_predict_about_is_told(predict, tmp_path, capsys):
    assert predict("--format", "csv", "--output", tmp_path / "answers.csv") == 2
    assert "holds nothing to predict about" in capsys.readouterr().err and not [*tmp_path.iterdir()]


def test_a_text_is_no_list_of_texts():
    for ask in (prediction.Predictor.__call__, prediction.MaskFiller.__call__, prediction.NextSentence.__call__):
        with pytest.raises(UserError, match="a list is expected, not the text 'dreadful'; write \\[text\\]"):
            ask(types.SimpleNamespace(answers=None), "dreadful")
        with pytest.raises(UserError, match="a list is expected, not NoneType; give a list of texts"):
            ask(types.SimpleNamespace(answers=None), None)


def test_a_link_stays_and_a_pipe_takes_what_comes(predict, tmp_path):
    (tmp_path / "link.csv").symlink_to("real.csv")
    for before in (False, True):  # whether what the link leads to is there
        assert (tmp_path / "real.csv").exists() == before
        assert predict("a", "--output", tmp_path / "link.csv") == 0
        assert (tmp_path / "link.csv").is_symlink() and (tmp_path / "real.csv").read_text() == "text\na\n"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert predict("a", "--output", tmp_path / "pipe") == 0
    assert os.read(reader, 100) == b"1 a\n"
    os.close(reader)


def test_a_text_of_several_lines_is_shown_in_one():
    text = "a\nb\r\nc"
    task = Classification(("no", "yes"), ("accuracy",), 16)
    answer = {"label": "no", "probabilities": {"no": 1.0, "yes": 0.0}}
    assert task.plain(task.example(text), answer) == "no 100.0%\ta b c"
    ranked = AnswerSelection(("irrelevant", "relevant"), ("map",), 16)
    answer = {"ranking": [{"score": 0.9, "text": "one"}, {"score": 0.1, "text": "other\ncandidate"}]}
    told = ranked.plain(ranked.example((text, ["one", "other"])), answer)
    assert told == "90.0%\tone\ta b c\n10.0%\tother candidate\ta b c"  # a line for each candidate


@pytest.mark.parametrize("name", ["a.csv.gz", "a.tsv", "a.npy", "a.jsonl.xz"])
def test_an_ending_that_tells_no_format_is_refused(name, predict, tmp_path, capsys):
    assert predict("a", "--output", tmp_path / name) == 2
    assert (
        "which is no format of answers; name a file that ends in .jsonl, .json, .csv, .txt" in capsys.readouterr().err
    )
    assert predict("a", "--output", tmp_path / name, "--format", "csv") == 0
    assert (tmp_path / name).read_text() == "text\na\n"


def test_a_named_pipe_gets_what_its_ending_says(predict, tmp_path):
    os.mkfifo(tmp_path / "p.csv")
    read = os.open(tmp_path / "p.csv", os.O_RDONLY | os.O_NONBLOCK)
    assert predict("a", "--output", tmp_path / "p.csv") == 0 and os.read(read, 100) == b"text\na\n"
    os.close(read)


def test_endings_may_be_capitals(predict, tmp_path):
    assert predict("a", "--output", tmp_path / "A.CSV") == 0 and (tmp_path / "A.CSV").read_text() == "text\na\n"


def test_a_table_holds_every_character(tmp_path):
    rows = [["text", "n"], ["a\rb", 1], ["c\nd", 2], ['"e", f', 3], ["", 4]]
    content = delivery.table(rows)
    assert [row for row in csv.reader(io.StringIO(content, newline=""))] == [[*map(str, row)] for row in rows]
    assert content.count("\r") == 1 and content.endswith(",4\n")
    (tmp_path / "a.csv").write_text(content, newline="")
    assert [row.values["text"] for row in labelled.read(str(tmp_path / "a.csv"))] == [row[0] for row in rows[1:]]


def test_options_without_effect_are_refused(predict, capsys):
    assert predict("a", "--top", 3) == 2 and "--top is for --fill-mask and for models that" in capsys.readouterr().err


def test_a_link_that_leads_nowhere_is_one_sentence(predict, tmp_path, capsys):
    (tmp_path / "loop").symlink_to("loop")
    assert predict("a", "--output", tmp_path / "loop" / "answers") == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert "Traceback" not in told


def test_an_open_pipe_takes_answers(tmp_path, monkeypatch):
    reader, writer = os.pipe()
    with delivery.writing(Path(f"/proc/self/fd/{writer}")) as write:
        write("at once\n")
        assert os.read(reader, 100) == b"at once\n"
    os.close(reader)
    os.close(writer)
