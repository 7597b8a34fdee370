"""Labelled files of every kind give the same rows, and what is wrong with one is told with its place."""

import gzip
import json
import lzma
from collections import Counter

import pyarrow as pa
import pytest
from pyarrow import parquet

from ms_bert.data import hub, labelled
from ms_bert.errors import UserError

ROWS = [
    {"text": 'She said "no", twice', "label": "1"},
    {"text": "一行\n下一行", "label": "0"},
    {"text": "", "label": "0"},
]
CSV = 'text,label\r\n"She said ""no"", twice",1\r\n\r\n"一行\n下一行",0\r\n,0\r\n'
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)


def told(path, **options) -> str:
    with pytest.raises(UserError) as caught:
        labelled.read(str(path), **options)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.csv", CSV.encode()),
        ("bom.csv", b"\xef\xbb\xbf" + CSV.encode()),
        ("a.csv.gz", gzip.compress(CSV.encode(), mtime=0)),
        ("a.tsv.xz", CSV.replace(',"', '\t"').replace(",label", "\tlabel").replace(",0", "\t0").replace(",1", "\t1")),
        ("a.jsonl", JSONL.encode()),
        ("a.jsonl.gz", gzip.compress(JSONL.encode(), mtime=0)),
        ("array.json", json.dumps(ROWS, indent=1).encode()),
        ("within.json", json.dumps({"version": 1, "data": ROWS, "notes": []}).encode()),
        ("lines.json", JSONL.encode()),
    ],
)
def test_every_kind_of_file_gives_the_same_rows(tmp_path, name, content):
    content = lzma.compress(content.encode()) if isinstance(content, str) else content
    (tmp_path / name).write_bytes(content)
    rows = labelled.read(str(tmp_path / name))
    assert [row.values for row in rows] == ROWS
    assert labelled.columns(rows) == ["text", "label"]


def test_a_row_knows_the_line_on_which_it_begins(tmp_path):
    (tmp_path / "a.csv").write_text(CSV, newline="")
    lines = [row.place.removeprefix(f"{tmp_path}/a.csv, ") for row in labelled.read(str(tmp_path / "a.csv"))]
    assert lines == ["line 2", "line 4", "line 6"]


def test_values_of_json_and_parquet_keep_their_types(tmp_path):
    values = [{"text": "a", "label": 1, "score": 2.5, "tags": ["x"], "good": True, "none": None}]
    (tmp_path / "a.jsonl").write_text(json.dumps(values[0]))
    parquet.write_table(pa.Table.from_pylist(values), tmp_path / "a.parquet")
    for name, place in (("a.jsonl", "record 1"), ("a.parquet", "row 1")):
        (row,) = labelled.read(str(tmp_path / name))
        assert row.values == values[0] and row.place == f"{tmp_path / name}, {place}"


def test_without_quotes_a_quote_is_a_character_like_others(tmp_path):
    (tmp_path / "a.tsv").write_text('text\tlabel\n"Open\t1\nan "inner" one\t0\n')
    rows = labelled.read(str(tmp_path / "a.tsv"), quoted=False)
    assert [row.values["text"] for row in rows] == ['"Open', 'an "inner" one']


def test_a_file_without_a_header_takes_the_given_one(tmp_path):
    (tmp_path / "a.tsv").write_text("one\t1\n \ntwo\t0\n\n")
    rows = labelled.read(str(tmp_path / "a.tsv"), header=("text", "label"))
    assert [(row.values["text"], row.place[-6:]) for row in rows] == [("one", "line 1"), ("two", "line 3")]
    assert labelled.first_fields(str(tmp_path / "a.tsv")) == ["one", "1"]


def test_lines_with_too_few_or_too_many_fields_are_left_out_and_counted(tmp_path):
    (tmp_path / "a.tsv").write_text("text\tlabel\none\t1\ntwo\nthree\t0\tmore\nfour\t0\n")
    skipped = Counter()
    rows = labelled.read(str(tmp_path / "a.tsv"), skipped=skipped)
    assert [row.values["text"] for row in rows] == ["one", "four"]
    assert skipped == {"too few fields": 1, "too many fields": 1}
    assert "line 3 has 1 field, but there are 2 columns (text, label)" in told(tmp_path / "a.tsv")


def test_half_a_character_of_json_becomes_the_replacement_character(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800", "tags": ["\\udc00b"]}')
    (row,) = labelled.read(str(tmp_path / "a.jsonl"))
    assert row.values == {"text": "a\ufffd", "tags": ["\ufffdb"]}


# By name: compressed bytes hold the time, and pytest's workers must name a test alike.
DAMAGED = {
    "empty.tsv": (b"", "is empty"),
    "empty.csv.gz": (gzip.compress(b""), "holds no rows"),
    "blank.csv": (b"\n\n \n", "holds no rows"),
    "header.csv": (b"text,label\n", "holds no rows below its header line"),
    "none.json": (b"[]", "holds no rows"),
    "a.pdf": (b"%PDF", "unknown kind; expected .tsv"),
    "twice.csv": (b"text,label, text\n1,2,3\n", "line 1 names the column 'text' twice"),
    "long.csv": (b"text,label\na,b,c\n", "line 2 has 3 fields, but there are 2 columns"),
    "latin.csv": ("text,label\nok,1\ncaf\xe9,0\n".encode("latin-1"), "line 3 is not UTF-8 text (byte 0xe9"),
    "latin.jsonl": ('{"text": "ok"}\n{"text": "caf\xe9"}\n'.encode("latin-1"), "line 2 is not UTF-8 text (byte 0xe9"),
    "cut.tsv": ("text\n\u4e00".encode()[:-1], "line 2 is not UTF-8 text"),
    "utf16.csv": ("text,label\na,1\n".encode("utf-16"), "is UTF-16 text; convert it to UTF-8, with iconv -f UTF-16"),
    "utf16-no-mark.csv": ("text,label\na,1\n".encode("utf-16-le"), "line 1 holds a NUL byte"),
    "nul.tsv": (b"text\tlabel\na\t1\nb\0\t0\n", "line 3 holds a NUL byte"),
    "open.tsv": (b'text\tlabel\na\t1\n"b\t0\nc\t1\n', "line 3: a double quote opens a field that is not closed"),
    "half.tsv": (b'text\tlabel\n"a" b\t1\nc\t0\n', "line 2: a double quote opens a field that is not closed"),
    "cut.csv.gz": (gzip.compress(bytes(range(1, 200)) * 200)[:-20], "cannot be read to its end"),
    "cut.csv.xz": (lzma.compress(b"text,label\n" * 1000)[:-20], "cannot be read to its end"),
    "plain.csv.gz": (b"text,label\na,1\n", "cannot be read to its end"),
    "numbers.jsonl": (b'{"text": "a"}\n1\n', "numbers.jsonl: record 2 is a number, not an object; make each"),
    "strings.json": (b'["a"]', "record 1 is a string, not an object"),
    "broken.jsonl": (b'{"text": "a"}\n{"text": \n', "line 3"),
    "deep.json": (b"[" * 100_000, "nested too deeply"),
    "broken.parquet": (b"PAR1 nothing", "cannot be read to its end"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_wrong_with_a_file_is_one_sentence_with_its_place(tmp_path, name):
    content, words = DAMAGED[name]
    (tmp_path / name).write_bytes(content)
    assert words in told(tmp_path / name)


def test_a_quote_that_is_read_as_text_proposes_the_option(tmp_path):
    (tmp_path / "glue.tsv").write_text('text\tlabel\n"Never closed\t1\nanother\t0\n')
    assert "use --no-quotes" in told(tmp_path / "glue.tsv")
    assert len(labelled.read(str(tmp_path / "glue.tsv"), quoted=False)) == 2


@pytest.mark.parametrize("name", ["glue.tsv", "glue.txt"])
def test_quotes_in_two_rows_do_not_swallow_those_between(name, tmp_path):
    """Of what is inside two quotes that have nothing to do with each other, tabs and ends of lines tell."""
    (tmp_path / name).write_text('text\tlabel\n"great movie\t1\nit was bad"\t0\nnice\t1\n')
    assert "line 2: a field in double quotes holds whole rows" in told(tmp_path / name)
    assert len(labelled.read(str(tmp_path / name), quoted=False)) == 3
    texts = ["great\nmovie", "a\ttab", "def f():\n\treturn 1"]
    lines = "".join(f'"{text}"\t1\n' for text in texts)
    (tmp_path / name).write_text(f"text\tlabel\n{lines}")
    assert [row.values["text"] for row in labelled.read(str(tmp_path / name))] == texts


def test_an_array_is_its_elements_though_it_has_one(tmp_path):
    post = {"text": "the post", "comments": [{"text": "a comment"}, {"text": "another"}]}
    for content in ([post], [post, post]):
        (tmp_path / "a.json").write_text(json.dumps(content))
        assert [row.values for row in labelled.read(str(tmp_path / "a.json"))] == content


def test_a_quote_that_is_never_closed_does_not_take_the_whole_of_a_large_file(tmp_path, monkeypatch):
    monkeypatch.setattr(labelled, "LONGEST_FIELD", 1000)
    (tmp_path / "a.csv").write_text('text,label\n"open,1\n' + "some text,0\n" * 1000)
    assert "line 2: a double quote opens" in told(tmp_path / "a.csv")
    monkeypatch.setattr(labelled, "LONGEST_LINE", 100)
    (tmp_path / "a.csv").write_text("text,label\n" + "x" * 200)
    assert "line 2 has more than 100 characters" in told(tmp_path / "a.csv", quoted=False)


def test_the_limit_of_the_csv_module_is_what_it_was(tmp_path):
    import csv

    before = csv.field_size_limit()
    (tmp_path / "a.csv").write_text('text\n"' + "x" * 200_000 + '"\n')
    assert len(labelled.read(str(tmp_path / "a.csv"))[0].values["text"]) == 200_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("column", ["List", "Sequence", "list"])
def test_class_labels_of_parquet_have_the_names_that_datasets_wrote(column, tmp_path):
    label = {"names": ["O", "B-PER"], "_type": "ClassLabel"}
    tags = [label] if column == "list" else {"feature": label, "_type": column}
    features = {"text": {"dtype": "string", "_type": "Value"}, "label": label, "tags": tags, "gone": label}
    table = pa.Table.from_pylist([{"text": "a", "label": 1, "tags": [0, 1]}, {"text": "b", "label": -1, "tags": None}])
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    parquet.write_table(table.replace_schema_metadata(metadata), tmp_path / "a.parquet")
    rows = [row.values for row in labelled.read(str(tmp_path / "a.parquet"))]
    assert rows[0] == {"text": "a", "label": "B-PER", "tags": ["O", "B-PER"]}
    assert rows[1] == {"text": "b", "label": None, "tags": None}


@pytest.mark.parametrize("said", ["{", "[]", '{"info": {"features": 3}}', '{"info": {"features": {"label": []}}}'])
def test_what_else_the_metadata_of_parquet_may_say_names_nothing(said, tmp_path):
    table = pa.Table.from_pylist([{"label": 1}]).replace_schema_metadata({"huggingface": said})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert labelled.read(str(tmp_path / "a.parquet"))[0].values == {"label": 1}


def test_columns_of_parquet_with_one_name_are_refused(tmp_path):
    table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    parquet.write_table(table, tmp_path / "a.parquet")
    assert "several columns are called 'text'" in told(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    "name, words",
    [
        ("", "has an empty name"),
        ("missing.tsv", "there is no file 'missing.tsv'"),
        ("no/such/folder/a.csv.gz", "there is no file"),
        ("folder", "is a folder; name a file in it"),
        ("/dev/null", "is a device"),
        ("a\x1b[31m.tsv", "\\x1b[31m"),
        ("no-such-dataset", "no Hugging Face dataset of this name"),
    ],
)
def test_a_name_that_is_no_file_is_told(tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "answers", lambda: False)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError) as caught:
        labelled.read(name)
    assert words in str(caught.value) and "\x1b" not in str(caught.value)


def test_a_dataset_of_the_hub_gives_the_names_of_its_classes(monkeypatch):
    import datasets

    names = datasets.ClassLabel(names=["bad", "good"])
    features = datasets.Features(text=datasets.Value("string"), label=names, tags=datasets.List(names))
    columns = {"text": ["a", "b"], "label": [1, -1], "tags": [[0, 1], []]}
    made = datasets.DatasetDict(validation=datasets.Dataset.from_dict(columns, features=features))
    monkeypatch.setattr(hub, "answers", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: made)
    rows = labelled.read("org/name:config", split="validation")
    assert [row.values for row in rows] == [
        {"text": "a", "label": "good", "tags": ["bad", "good"]},
        {"text": "b", "label": None, "tags": []},
    ]
    assert rows[1].place == "org/name:config, validation row 2"
    assert [row.place for row in labelled.read("org/name:config@validation", split="train")] == [
        f"org/name:config, validation row {number}" for number in (1, 2)
    ]
    for name in ("org/name:config", "org/name:config@test"):
        with pytest.raises(UserError, match="no split '(train|test)', only validation; .* org/name:config@validation"):
            labelled.read(name)


def test_a_missing_column_lists_those_there_are_and_proposes_the_option():
    error = labelled.no_column("a.csv", [f"column {i}" for i in range(30)], "'text'", "text")
    assert "only 'column 0'" in str(error) and "20 more" in str(error) and "--columns text=NAME" in str(error)


def test_an_empty_text_of_a_single_column_is_a_row(tmp_path):
    """As pandas writes it, so that answers stand beside their rows; a line that holds nothing is none."""
    path = tmp_path / "a.csv"
    path.write_text('text\ngood\n""\n" "\n\nbad\n')
    assert [row.values["text"] for row in labelled.read(str(path))] == ["good", "", " ", "bad"]


def test_files_of_spreadsheets(tmp_path):
    content = 'text;label;;\na, b and c;1;;\n"d; e";0;;\n'
    for name in ("SHEET.CSV", "sheet.csv"):
        (tmp_path / name).write_bytes("\ufeff".encode() + content.replace("\n", "\r\n").encode())
        rows = labelled.read(str(tmp_path / name))
        assert [row.values for row in rows] == [{"text": "a, b and c", "label": "1"}, {"text": "d; e", "label": "0"}]
        assert labelled.first_fields(str(tmp_path / name))[:2] == ["text", "label"]
    (tmp_path / "quoted.csv").write_text('\n"text, cleaned";"label"\na;1\n')
    assert [row.values for row in labelled.read(str(tmp_path / "quoted.csv"))] == [{"text, cleaned": "a", "label": "1"}]
    (tmp_path / "set.csv").write_text("sep=;\r\ntext;label\r\na, b;1\r\n")
    (row,) = labelled.read(str(tmp_path / "set.csv"))
    assert (row.values, row.place[-6:]) == ({"text": "a, b", "label": "1"}, "line 3")
    (tmp_path / "tabs.csv").write_text("text\tlabel\na, b; c\t1\n")
    assert [row.values for row in labelled.read(str(tmp_path / "tabs.csv"))] == [{"text": "a, b; c", "label": "1"}]
    (tmp_path / "commas.csv").write_text("text;more,label\na;b,1\n")
    assert [row.values for row in labelled.read(str(tmp_path / "commas.csv"))] == [{"text;more": "a;b", "label": "1"}]


def test_a_saved_dataset_is_read_from_its_folder(tmp_path):
    import datasets

    parts = {name: datasets.Dataset.from_dict({"text": [name], "label": ["x"]}) for name in ("train", "test")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "all")
    parts["test"].save_to_disk(tmp_path / "one")
    for source, split, expected in (("all", "train", "train"), ("all@test", "train", "test"), ("one", "dev", "test")):
        (row,) = labelled.read(str(tmp_path / source), split=split)
        assert row.values == {"text": expected, "label": "x"}
    with pytest.raises(UserError, match="no split 'validation', only "):
        labelled.read(str(tmp_path / "all"), split="validation")
    (tmp_path / "all@test.csv").write_text("text,label\na,x\n")
    assert labelled.read(str(tmp_path / "all@test.csv"))[0].values == {"text": "a", "label": "x"}
    parts["test"].save_to_disk(tmp_path / "me@host" / "data")
    assert labelled.read(f"{tmp_path}/me@host/data@train")[0].values["text"] == "test"
    (tmp_path / "one" / "state.json").write_text("{")
    with pytest.raises(UserError, match="cannot be loaded as a dataset"):
        labelled.read(str(tmp_path / "one"))
