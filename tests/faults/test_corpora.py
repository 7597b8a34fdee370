"""Whatever a corpus holds, it gives documents or one sentence that says what is wrong with it."""

import contextlib
import datetime
import gzip
import io
import itertools
import json
import lzma
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
from pyarrow import parquet

from ms_bert.data import corpus as module
from ms_bert.data import hub, records, store, tokenizing
from ms_bert.data.corpus import Corpus
from ms_bert.data.store import open_store
from ms_bert.errors import UserError
from ms_bert.options import TextOptions

LINES = "One line of text.\nAnother one.\n\nA third here.\n"
GZ, XZ = gzip.compress(LINES.encode() * 200, mtime=0), lzma.compress(LINES.encode() * 200)
RECORDS = "".join(json.dumps({"text": LINES, "n": i}) + "\n" for i in range(50)).encode()


def flipped(content: bytes, place: float) -> bytes:
    changed = bytearray(content)
    changed[int(len(content) * place)] ^= 0x55
    return bytes(changed)


def of_parquet(column, name="text") -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table({name: column}), file)
    return file.getvalue()


PARQUET = of_parquet([LINES] * 500)

# A file's name, its content, and either the documents that it must give or words of the sentence.
FILES = {
    # Text
    "empty": ("a.txt", b"", []),
    "white space": ("a.txt", b" \n\t\n\n", []),
    "no line end": ("a.txt", b"one", [["one"]]),
    "CR only": ("a.txt", b"one\rtwo\r\rthree", [["one", "two"], ["three"]]),
    "CRLF": ("a.txt", b"one\r\ntwo\r\n\r\nthree", [["one", "two"], ["three"]]),
    "NUL bytes": ("a.txt", b"on\0e\n\0\n", [["on\0e", "\0"]]),
    "control characters": ("a.txt", b"on\x1b[31me", [["on\x1b[31me"]]),
    "a BOM in the middle": ("a.txt", "\ufeffone\n\ufefftwo".encode(), [["one", "\ufefftwo"]]),
    "line separator": ("a.txt", "one\u2028two".encode(), [["one\u2028two"]]),
    "UTF-16": ("a.txt", LINES.encode("utf-16"), "is not UTF-8 text"),
    "UTF-32": ("a.txt", LINES.encode("utf-32"), "is not UTF-8 text"),
    "Latin-1": ("a.txt", "café".encode("latin-1"), "is not UTF-8 text"),
    "encoded surrogates": ("a.txt", b"a\xed\xa0\x80b", "is not UTF-8 text"),
    "binary": ("a.txt", bytes(range(256)) * 50, "is not UTF-8 text"),
    "gzip named text": ("a.txt", GZ, "is not UTF-8 text"),
    "another kind": ("a.pdf", b"%PDF-1.7", "has an unknown ending"),
    "another compression": ("a.txt.bz2", b"BZh9", "has an unknown ending"),
    # Compressed
    "empty gzip": ("a.txt.gz", b"", []),
    "empty xz": ("a.txt.xz", b"", "cannot be read to its end"),
    "text named gzip": ("a.txt.gz", LINES.encode(), "cannot be read to its end"),
    "text named xz": ("a.txt.xz", LINES.encode(), "cannot be read to its end"),
    "cut gzip": ("a.txt.gz", GZ[:-9], "cannot be read to its end"),
    "gzip cut in its header": ("a.txt.gz", GZ[:5], "cannot be read to its end"),
    "damaged gzip": ("a.txt.gz", flipped(GZ, 0.5), "cannot be read to its end"),
    "gzip with a wrong checksum": ("a.txt.gz", flipped(GZ, 0.95), "cannot be read to its end"),
    "gzip and more": ("a.txt.gz", GZ + b"more", "cannot be read to its end"),
    "cut xz": ("a.txt.xz", XZ[:-9], "cannot be read to its end"),
    "damaged xz": ("a.txt.xz", flipped(XZ, 0.5), "cannot be read to its end"),
    "xz with a damaged header": ("a.txt.xz", flipped(XZ, 0.03), "cannot be read to its end"),
    "cut gzip of records": ("a.jsonl.gz", gzip.compress(RECORDS)[:-9], "cannot be read to its end"),
    "damaged gzip of records": ("a.jsonl.gz", flipped(gzip.compress(RECORDS, mtime=0), 0.5), "a.jsonl.gz"),
    "cut xz of records": ("a.jsonl.xz", lzma.compress(RECORDS)[:-9], "cannot be read to its end"),
    "damaged xz of records": ("a.json.xz", flipped(lzma.compress(RECORDS), 0.5), "cannot be read to its end"),
    "records named gzip": ("a.jsonl.gz", RECORDS, "cannot be read to its end"),
    "Parquet in gzip": ("a.parquet.gz", gzip.compress(of_parquet(["one\ntwo"])), [["one", "two"]]),
    "cut gzip of Parquet": ("a.parquet.gz", gzip.compress(PARQUET)[:-9], "cannot be read to its end"),
    # JSON
    "no records": ("a.jsonl", b"", []),
    "no records but lines": ("a.jsonl", b"\n \n", []),
    "an array": ("a.json", b'\n[{"text": "one\\ntwo"}, {"text": "three"}]', [["one", "two"], ["three"]]),
    "an empty array": ("a.json", b"[]", []),
    "an array of strings": ("a.json", b'["one", "two"]', [["one"], ["two"]]),
    "pretty records": ("a.json", b'{\n "text": "one"\n}\n{\n "text": "two"\n}', [["one"], ["two"]]),
    "records on a line": (
        "a.jsonl",
        b'{"text": "one"} {"text": "two"}{"text": "three"}',
        [["one"], ["two"], ["three"]],
    ),
    "CR between records": ("a.jsonl", b'{"text": "one"}\r{"text": "two"}\r', [["one"], ["two"]]),
    "records after a BOM": ("a.jsonl", b'\xef\xbb\xbf{"text": "one"}', [["one"]]),
    "line separators in a record": ("a.jsonl", '{"text": "one\u2028two"}'.encode(), [["one", "two"]]),
    "dates": ("a.jsonl", b'{"text": "2020-01-01"}\n{"text": "2020-01-01T00:00:00Z"}', None),
    "null": ("a.jsonl", b'{"text": null}\n{"text": "one"}', [["one"]]),
    "a field that is sometimes there": ("a.jsonl", b'{"n": 1}\n{"text": "one"}\n{"n": 1}', [["one"]]),
    "half a surrogate pair": (
        "a.jsonl",
        b'{"text": "a\\ud800b \\ude00\\ud83d\\ude00"}',
        [["a\ufffdb \ufffd\U0001f600"]],
    ),
    "NUL in a string": ("a.jsonl", b'{"text": "a\\u0000b"}', [["a\0b"]]),
    "varying fields": ("a.jsonl", b'{"text": "one", "m": 1}\n{"text": "two", "m": [{}]}', [["one"], ["two"]]),
    "what datasets takes for a trace": (
        "a.jsonl",
        b'{"text": "one", "type": "x", "id": "y", "version": 1, "cwd": "z"}',
        [["one"]],
    ),
    "a number": (
        "a.jsonl",
        b'{"text": "one"}\n{"text": 1}',
        r"'text' is a number \(record 2\), not text; name a field",
    ),
    "not a number": ("a.jsonl", b'{"text": NaN}', "is a number"),
    "true": ("a.jsonl", b'{"text": true}', "is true"),
    "a list": ("a.jsonl", b'{"text": ["one"]}', "is a list"),
    "an object": ("a.jsonl", b'{"text": {"a": "b"}}', "is an object"),
    "columns": ("a.json", b'{"text": ["one", "two"], "n": [1, 2]}', "is a list"),
    "another field": ("a.jsonl", b'{"body": "one", "n": 1}', "no field 'text' (its fields: body, n); name one of them"),
    "many other fields": (
        "a.jsonl",
        json.dumps({f"field {i}": i for i in range(1000)}).encode(),
        "field 9' and 990 more); name one",
    ),
    "a field with control characters": ("a.jsonl", b'{"\\u001b[31m": 1}', r"\(its fields: '\\x1b\[31m'\); name one"),
    "records without fields": ("a.jsonl", b"{}\n{}", "no field 'text' (its fields: none)"),
    "an array of arrays": ("a.json", b'[["one"]]', "record 1 is a list, not an object"),
    "numbers": ("a.jsonl", b"1\n2\n", "record 1 is a number, not an object"),
    "null for a record": ("a.jsonl", b'null\n{"text": "one"}', "record 1 is null, not an object"),
    "two arrays": ("a.json", b'[{"text": "one"}]\n[]', "line 2: there is more text after the array"),
    "an array that does not end": ("a.json", b'[{"text": "one"}', "an element is followed by ''"),
    "an array without a comma": ("a.json", b'[{"text": "one"} {}]', "an element is followed by '{'"),
    "a cut record": ("a.jsonl", b'{"text": "one"}\n{"text": "tw', "line 2: Unterminated string"),
    "no JSON": ("a.jsonl", b"\n\nhello\n", "line 3: Expecting value"),
    "Python": ("a.jsonl", b"{'text': 'one'}", "line 1: Expecting property name"),
    "records that are not UTF-8": ("a.jsonl", b'{"text": "caf\xe9"}', "is not UTF-8 text"),
    "UTF-16 records": ("a.jsonl", RECORDS.decode().encode("utf-16"), "is not UTF-8 text"),
    "a huge number": ("a.jsonl", b'{"n": ' + b"9" * 10_000 + b"}", "cannot be read to its end"),
    "nested arrays": ("a.jsonl", b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    "nested objects": ("a.jsonl", b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
    "nothing but brackets": ("a.json", b"[" * 100_000, "nested too deeply"),
    # Parquet
    "large strings": ("a.parquet", of_parquet(pa.array(["one", None], pa.large_string())), [["one"]]),
    "a dictionary": ("a.parquet", of_parquet(pa.array(["one", "one"]).dictionary_encode()), [["one"], ["one"]]),
    "nulls": ("a.parquet", of_parquet(pa.nulls(3)), []),
    "no rows": ("a.parquet", of_parquet(pa.array([], pa.string())), []),
    "a name with a dot": ("a.parquet", of_parquet(["one"], "a.b"), "no field 'text' (its fields: 'a.b')"),
    "integers": ("a.parquet", of_parquet([1]), "is a column of type 'int64', not text; name a field"),
    "bools": ("a.parquet", of_parquet([True]), "is a column of type 'bool'"),
    "lists": ("a.parquet", of_parquet([["one"]]), "is a column of type 'list"),
    "structs": ("a.parquet", of_parquet([{"a": "b"}]), "is a column of type 'struct"),
    "times": ("a.parquet", of_parquet([datetime.datetime(2020, 1, 1)]), "is a column of type 'timestamp"),
    "bytes": ("a.parquet", of_parquet([b"one"]), "is a column of type 'binary'"),
    "an empty Parquet": ("a.parquet", b"", "cannot be read to its end"),
    "text named Parquet": ("a.parquet", LINES.encode(), "cannot be read to its end"),
    "a cut Parquet": ("a.parquet", PARQUET[:-50], "cannot be read to its end"),
    "a Parquet without its beginning": ("a.parquet", PARQUET[100:], None),
    "a Parquet with a damaged page": ("a.parquet", flipped(PARQUET, 0.05), None),
    "a Parquet with damaged metadata": ("a.parquet", flipped(PARQUET, 0.7), None),
    "a Parquet with a damaged length": ("a.parquet", flipped(PARQUET, 0.99), None),
}


def outcome(cache: Path, *names, **options):
    """The documents, or the sentence that says why there are none."""
    try:
        corpus = Corpus(TextOptions(corpus=tuple(map(str, names)), cache=cache, processes=1, **options))
        corpus.fingerprint(), corpus.megabytes()
        return list(corpus.documents())
    except UserError as error:
        sentence = str(error)
        assert sentence.isprintable() and sentence.endswith(".") and len(sentence) < 500
        return sentence


@pytest.fixture
def in_process(monkeypatch):
    def here(chunks, tokenizer, sentences, kind, processes):
        return map(tokenizing.Tokenizing(tokenizer, sentences, kind), chunks)

    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setattr(store, "tokenized", here)


@pytest.mark.parametrize("case", FILES)
def test_a_file_gives_documents_or_one_sentence(case, tmp_path, vocabulary, in_process):
    name, content, expected = FILES[case]
    (tmp_path / name).write_bytes(content)
    found = outcome(tmp_path / "cache", tmp_path / name)
    if isinstance(expected, str):
        assert isinstance(found, str) and name in found
        assert expected in found or re.search(expected, found), found
    elif expected is not None:
        assert found == expected
    options = TextOptions(corpus=(str(tmp_path / name),), cache=tmp_path / "cache", processes=1)
    with contextlib.suppress(UserError):
        opened, made = open_store(options, Corpus(options), vocabulary)
        assert made and isinstance(found, list) and opened.train.counts["documents"]
    stores = tmp_path / "cache" / "stores"
    assert not stores.exists() or not list(stores.glob(".*"))


# Names


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo.txt")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.txt"))
    (tmp_path / "broken.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    (tmp_path / "device.txt").symlink_to("/dev/zero")
    for name in ("fifo.txt", "socket.txt", "broken.txt", "loop.txt", "device.txt"):
        assert "is a device, a pipe or a broken link" in outcome(tmp_path / "cache", tmp_path / name), name
    assert "holds no file" in outcome(tmp_path / "cache", tmp_path)
    assert "no file matches" in outcome(tmp_path / "cache", f"{tmp_path}/*.txt")
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "link.txt").symlink_to(tmp_path / "a.txt")
    assert outcome(tmp_path / "cache", tmp_path) == [["one"], ["one"]]
    assert outcome(tmp_path / "cache", tmp_path / "link.txt") == [["one"]]


@pytest.mark.parametrize("name", ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0", "/proc/kmsg"])
def test_what_can_be_read_only_once_is_refused(tmp_path, name):
    assert "can be read only once" in outcome(tmp_path, name)


@pytest.mark.parametrize(
    "name, words",
    [
        ("", "names nothing"),
        (" ", "names an empty path"),
        ("~nobody-of-this-name/a.txt", "no file matches"),
        ("a\0b", "choose a list of texts in UTF-8"),
        ("x" * 300, "no Hugging Face dataset"),
        ("x" * 300 + ".txt", "no file matches"),
        ("[", "no file matches"),
        ("**/[!", "no file matches"),
        ("no\nsuch", "no file matches"),
        ("no/../such.txt", "no file matches"),
        ("file:///etc/passwd", "no file matches"),
        ("/dev/null", "is a device, a pipe or a broken link"),
    ],
)
def test_a_name_without_files_is_one_sentence(tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("one")
    monkeypatch.setattr(hub, "answers", lambda: False)
    assert words in outcome(tmp_path / "cache", name)


def test_folders_that_hold_nothing_of_use(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / ".a.txt").write_text("one")
    (tmp_path / "folders.txt" / "b.txt").mkdir(parents=True)
    for name in ("empty", "hidden", "folders.txt"):
        assert "holds no file" in outcome(tmp_path / "cache", tmp_path / name)
    assert "no file matches" in outcome(tmp_path / "cache", f"{tmp_path}/f*.txt")


def test_a_name_that_is_not_utf8_is_read_in_a_folder_and_one_with_control_characters_is_escaped(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/texts/\xff.txt"))
    path.parent.mkdir()
    path.write_text("one")
    assert outcome(tmp_path / "cache", path.parent) == [["one"]]
    assert "choose a list of texts in UTF-8" in outcome(tmp_path / "cache", path)  # else run.json could not say it
    path = tmp_path / "a\x1b[31m\n.txt.gz"
    path.write_text("one")
    assert "x1b[31m" in outcome(tmp_path / "cache", path)


def test_a_file_that_may_not_be_read_is_one_sentence(tmp_path):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        cache = Path(folder, "cache")
        cache.mkdir(mode=0o777)
        for place in ("a.txt", "closed/a.jsonl", "open/a.parquet"):
            path = Path(folder, place)
            path.parent.mkdir(exist_ok=True)
            path.write_text("one")
            path.chmod(0)
        Path(folder, "closed").chmod(0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            assert "Permission denied" in outcome(cache, f"{folder}/a.txt")
            assert "no file matches" in outcome(cache, f"{folder}/closed/a.jsonl")
            assert "holds no file" in outcome(cache, f"{folder}/closed")
            assert "Permission denied" in outcome(cache, f"{folder}/open")
        finally:
            os.seteuid(user)
            Path(folder, "closed").chmod(0o700)


def test_a_dataset_without_the_hub_fails_at_once(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")
    begun = time.monotonic()
    assert "(the hub cannot be reached)" in outcome(tmp_path, "no-such-corpus")
    assert time.monotonic() - begun < 10 and not datasets.config.HF_HUB_OFFLINE


def test_a_dataset_whose_field_is_no_text_is_one_sentence(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(hub, "answers", lambda: True)
    rows = datasets.Dataset.from_dict({"text": [datetime.datetime(2020, 1, 1)], "n": [1]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: {"train": rows})
    assert "is a value of type datetime" in outcome(tmp_path, "some-text")
    assert "is a value of type int" in outcome(tmp_path, "some-text", text_field="n")
    assert "no field 'body' (its fields: text, n)" in outcome(tmp_path, "some-text", text_field="body")


def test_many_small_files_take_no_file_each_in_the_cache(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(1000):
        (folder / f"{number:04}.txt").write_text(str(number))
    assert outcome(tmp_path / "cache", folder) == [[str(number)] for number in range(1000)]
    assert not (tmp_path / "cache").exists()


def test_a_file_that_only_its_compression_tells_from_a_cached_one_is_read(tmp_path, vocabulary, in_process):
    (tmp_path / "x.txt").write_text(LINES)
    (tmp_path / "x.txt.gz").write_text(LINES)
    for name, works in (("x.txt", True), ("x.txt.gz", False)):
        options = TextOptions(corpus=(str(tmp_path / name),), cache=tmp_path / "cache", held_out=0.0)
        with contextlib.nullcontext() if works else pytest.raises(UserError, match="cannot be read to its end"):
            open_store(options, Corpus(options), vocabulary)


# Sizes


def test_a_long_line_comes_in_parts_that_are_cut_at_white_space(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LONGEST_LINE", 1000)
    monkeypatch.setattr(module, "LONGEST_DOCUMENT", 1000)
    words = [f"word{i}" for i in range(2000)]
    (tmp_path / "a.txt").write_text(" ".join(words) + "\nnext\n\n" + "y" * 2500 + " z\n")
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"text": " ".join(words) + "\nnext"}) + json.dumps({"text": "y" * 2500 + " z"})
    )
    found = outcome(tmp_path / "cache", tmp_path / "a.txt")
    lines = list(itertools.chain(*found))
    assert max(map(len, lines)) <= 1000 and max(sum(map(len, document)) for document in found) <= 2000
    text = " ".join(lines)
    assert text.split()[:2001] == [*words, "next"]
    assert lines[-3:] == ["y" * 1000, "y" * 1000, "y" * 500 + " z"]
    assert list(itertools.chain(*outcome(tmp_path / "cache", tmp_path / "a.jsonl"))) == lines
    assert list(itertools.chain(*outcome(tmp_path / "cache", tmp_path / "a.txt", documents="line"))) == lines


def test_white_space_longer_than_a_line_may_be_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LONGEST_LINE", 10)
    for text in ("a" + " " * 35 + "b", " " * 12 + "a b", " " * 8 + "abcdefg b", "\t" * 10 + "a" + " " * 10):
        (tmp_path / "a.txt").write_text(text + "\nnext line\n")
        found = list(itertools.chain(*outcome(tmp_path / "cache", tmp_path / "a.txt")))
        assert "".join(found).replace(" ", "") == "".join(text.split()) + "nextline", text


def test_a_record_that_no_memory_holds_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "LONGEST_RECORD", 10_000)
    monkeypatch.setattr(records, "_BLOCK", 64)
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n' + json.dumps({"text": "x" * 30_000}))
    assert "line 2: a record of more than 10,000 characters" in outcome(tmp_path / "cache", tmp_path / "a.jsonl")


def test_records_are_the_same_wherever_a_block_ends(monkeypatch):
    values = [{"text": 'a "quoted" \\ \n text', "n": [1, {"m": None}]}, {"text": "\U0001f600", "n": -1.5e3}] * 3
    texts = [value["text"] for value in values]
    for content in (json.dumps(values), json.dumps(values, indent=2), "\n".join(map(json.dumps, values))):
        for block in range(1, 40):
            monkeypatch.setattr(records, "_BLOCK", block)
            assert list(records.json_texts(io.StringIO(content), "text")) == texts


def test_long_lines_are_split_into_sentences_as_short_ones_are(monkeypatch):
    sentences = [f"This is sentence {i}." for i in range(200)] + [f"这是第{i}句。" for i in range(200)]
    line = " ".join(sentences)
    whole = tokenizing.split_sentences([line])
    assert whole == sentences
    monkeypatch.setattr(tokenizing, "_WINDOW", 100)
    assert tokenizing.split_sentences([line]) == whole
    assert tokenizing.split_sentences(["x" * 1000]) == ["x" * 1000]


# Preparation that is stopped

COMMAND = """
import signal, sys
from ms_bert.commands import pretraining
from ms_bert.options import Options

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it

class Framework:
    name, without = "none", "pytorch"
    def check(self, options):
        pass
    def scheduled(self, options):
        return False
    shares = lambda self: False

sys.exit(pretraining.main(Framework(), "pretrain", "", sys.argv[1:]))
"""


def prepare(folder, vocabulary) -> subprocess.Popen:
    """The command, while it makes a token store in two processes."""
    (folder / "tokenizer.json").write_text(vocabulary.to_json())
    (folder / "a.txt").write_text(LINES * 1_000_000)
    options = {"--corpus": "a.txt", "--vocab": "tokenizer.json", "--cache": "cache", "--processes": "2"}
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *itertools.chain(*options.items())],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    while (
        not list((folder / "cache").glob("stores/.making-*/train.tokens.arrow"))
        or not psutil.Process(process.pid).children()
    ):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_preparation_in_one_line_and_leaves_nothing_half_made(tmp_path, vocabulary, number):
    process = prepare(tmp_path, vocabulary)
    workers = psutil.Process(process.pid).children()
    if number == signal.SIGTERM:  # a service manager sends it to all processes
        for worker in workers:
            worker.send_signal(number)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + number, told
    assert told == "pretrain: interrupted outside of training, or a second time; nothing new was saved.\n"
    assert not list((tmp_path / "cache" / "stores").iterdir())
    assert not psutil.wait_procs(workers, timeout=30)[1]


def test_a_kill_leaves_no_process_and_the_next_run_sweeps(tmp_path, vocabulary, in_process):
    process = prepare(tmp_path, vocabulary)
    workers = psutil.Process(process.pid).children()
    process.kill()
    assert process.communicate(timeout=60)[1] == ""
    assert not psutil.wait_procs(workers, timeout=30)[1]
    assert len(list((tmp_path / "cache" / "stores").iterdir())) == 1
    (tmp_path / "a.txt").write_text(LINES)
    options = TextOptions(corpus=(str(tmp_path / "a.txt"),), cache=tmp_path / "cache", held_out=0.0)
    opened, _ = open_store(options, Corpus(options), vocabulary)
    assert list((tmp_path / "cache" / "stores").iterdir()) == [opened.folder]
