"""Files of CoNLL in the forms that are about, and what is told of those that cannot be read."""

import gzip
from collections import Counter
from pathlib import Path

import pytest

from ms_bert.data import conll
from ms_bert.errors import UserError
from ms_bert.tasks import sentences


@pytest.fixture
def write(tmp_path):
    def written(content: str | bytes, name: str = "a.conll") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return written


def read(path: Path, **options) -> list[tuple]:
    return [(sentence.words, sentence.tags) for sentence in conll.read("a", path, **options)[0]]


TWO = [(("Jim", "#"), ("B-PER", "O")), (("Rome",), ("B-LOC",))]


@pytest.mark.parametrize(
    "content",
    [
        "Jim\tB-PER\n#\tO\n\nRome\tB-LOC\n",
        "-DOCSTART- O\n\nJim\tB-PER\n#\tO\n\t\n\n\nRome\tB-LOC",  # a line of a tab only
        "Jim B-PER\r\n# O\r\n\r\nRome B-LOC\r\n",
        "\ufeff-DOCSTART- O\n\nJim  NNP B-NP B-PER\n# X  Y O \n-DOCSTART- -X- O O\nRome NNP B-NP B-LOC\n",
        "# a comment\n# sent_id = 1\nJim B-PER\n# O\n# text = Jim #\n# id b domain=en\n\n#comment\nRome B-LOC\n",
        "# newdoc\nJim\tNNP\tB-PER\n#\tX\tO\n\n# newpar\nRome\tNNP\tB-LOC\n",
    ],
)
def test_words_and_tags_are_read_however_the_columns_are_separated(content, write):
    assert read(write(content)) == TWO


def test_a_word_may_be_any_character_that_is_no_space_or_tab(write):
    words = ("\u00a0", "\u3000", "\u2028", "\ufe0f", "\x85", "𝒳", "a b")
    content = "".join(f"{word}\tO\n" for word in words)
    assert read(write(content)) == [(words, ("O",) * 7)]


def test_columns_are_named_by_number_and_compressed_files_are_read(write):
    path = write(gzip.compress(b"1 Jim NNP B-PER\n2 # X O\n\n1 Rome NNP B-LOC\n"), "a.conll.gz")
    assert read(path, named={"text": "2"}) == TWO
    assert read(path, named={"text": "2", "label": "3"})[0][1] == ("NNP", "X")
    assert conll.read("a", path, {"text": "2"})[1] == "words from column 2 of 4, tags from column 4 of 4"


UNIVERSAL = """# text = Vámonos al mar
1-2\tVámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tVamos\tir\tVERB\t_\tMood=Imp|Number=Plur\t0\troot\t_\t_
2\tnos\tnosotros\tPRON\t_\t_\t1\tobj\t_\t_
3.1\tx\tx\tX\t_\t_\t_\t_\t_\t_

"""


def test_universal_dependencies_are_known_by_their_columns(write):
    path = write(UNIVERSAL, "es.conllu")
    assert read(path) == [(("Vamos", "nos"), ("VERB", "PRON"))]
    assert read(path, named={"label": "LEMMA"}) == [(("Vamos", "nos"), ("ir", "nosotros"))]
    assert read(write(UNIVERSAL, "es.conllx")) == read(path) == read(write(UNIVERSAL, "es.txt"))
    counted = "2026\t" * 9 + "O\n"  # words, not their numbers
    assert read(write(counted, "a.txt")) == [(("2026",), ("O",))]
    firsts = read(write(UNIVERSAL.replace("_\n", "O\n"), "a.txt"), named={"text": "1", "label": "10"})
    assert firsts == [(("1-2", "1", "2", "3.1"), ("O",) * 4)]
    plus = write("# global.columns = FORM NER\n" + "Jim\tB-PER\n")
    assert read(plus, named={"label": "NER"}) == [(("Jim",), ("B-PER",))]


def test_words_alone_are_enough_where_no_tags_are_wanted(write):
    assert read(write("Jim\n#x\n\nRome O\n"), labels=False) == [(("Jim", "#x"), None), (("Rome",), None)]


@pytest.mark.parametrize(
    "rows, reason, words",
    [
        (["Jim B-PER", "Rome"], "a row with too few columns", "line 2 has 1 column, but the first row has 2"),
        (["Jim B-PER", "Rome is O"], "a row with too many columns", "line 2 has 3 columns, but the first row has 2"),
        (["Jim\tB-PER", "Rome\t"], "a row with too few columns", "line 2 has 1 column"),
        (["Jim\tB-PER\tx", "Rome\t\tx"], "a row without a tag", "line 2 has no tag"),
    ],
)
def test_a_row_that_is_not_like_the_others_is_told_or_its_whole_sentence_left_out(rows, reason, words, write):
    path, named = write("\n".join([*rows, "", rows[0]])), {"label": "2"}
    with pytest.raises(UserError, match=f"^a, {words}.*--skip-bad"):
        conll.read("a", path, named)
    skipped: Counter[str] = Counter()
    assert [one.words for one in conll.read("a", path, named, skipped=skipped)[0]] == [("Jim",)]
    assert skipped == {reason: 1}
    path = write("\n".join(rows))
    with pytest.raises(UserError, match=rf"no sentence of a can be used \({reason}: 1\)"):
        conll.read("a", path, named, skipped=Counter())


@pytest.mark.parametrize(
    "content, named, words",
    [
        ("", {}, "a holds no sentences"),
        ("\n\n# a comment\n-DOCSTART- -X- O\n", {}, "a holds no sentences"),
        ("Jim\nRome\n", {}, "line 1 has no tag, but one column only"),
        ("Jim O\n", {"label": "3"}, "a has no column '3'; name one with --columns label=N, N from 1 to 2"),
        ("Jim O\n", {"text": "0"}, "a has no column '0'; name one with --columns text=N"),
        ("Jim O\n", {"text": "tokens"}, "a has no column 'tokens'"),
        ("Caf\xe9 O\n".encode("latin-1"), {}, "a, line 1 is not UTF-8 text"),
        ("Jim O\n".encode("utf-16"), {}, "a is UTF-16 text"),
        ("Jim O\n".encode("utf-16-le"), {}, "a, line 1 holds a NUL byte"),
        ("# global.columns = ID FORM UPOS\nJim O\n", {}, r"line 2 has 2 columns, but names are given to 3 \(ID, FORM"),
    ],
)
def test_what_is_no_such_file_is_told_in_a_sentence(content, named, words, write):
    with pytest.raises(UserError, match=words):
        conll.read("a", write(content), named)


@pytest.mark.parametrize(
    "header, row, told",
    [
        ("word\ttag", "{0}\t{1}", "words from word, tags from tag"),
        ("Token POS NER", "{0} X {1}", "words from Token, tags from NER"),
        ("Sentence #\tWord\tPOS\tTag", "1\t{0}\tX\t{1}", "words from Word, tags from Tag"),
    ],
)
def test_a_first_row_of_names_is_no_sentence(header, row, told, write):
    rows = [row.format(word, tag) for word, tag in (("Jim", "B-PER"), ("#", "O"))]
    path = write("\n".join([header, *rows, "", row.format("Rome", "B-LOC")]))
    assert read(path) == TWO and conll.read("a", path)[1] == told
    names = header.split("\t" if "\t" in header else " ")
    assert read(path, named={"label": names[-2]})[0][1] != TWO[0][1]
    assert [words for words, _ in read(path, labels=False)] == [words for words, _ in TWO]


def test_words_that_could_be_names_are_words(write):
    content = "word\tNN\nof\tIN\n\nlabel\tNN\n"
    assert read(write(content)) == [(("word", "of"), ("NN", "IN")), (("label",), ("NN",))]


# Tagged sentences of any source


def test_records_have_a_list_of_words_and_a_list_of_tags(write):
    path = write('{"id": 1, "tokens": ["Jim", "#"], "ner_tags": ["B-PER", "O"]}\n{"tokens": ["a"], "ner_tags": [1]}\n')
    source = str(path.rename(path.with_name("a.jsonl")))
    found, skipped, told = sentences.read(source)
    assert [(one.words, one.tags) for one in found] == [TWO[0], (("a",), ("1",))] and not skipped
    assert told == "words from tokens, tags from ner_tags" and found[1].place == f"{source}, record 2"
    assert sentences.read(source, {"label": "tokens"})[0][0].tags == ("Jim", "#")


@pytest.mark.parametrize(
    "record, reason, words",
    [
        ('{"tokens": ["a", "b"], "tags": ["O"]}', "another number of tags than of words", "has 2 words and 1 tags"),
        ('{"tokens": ["a", "b"], "tags": [1, -100]}', "the tag -100", "has the tag -100, by which transformers leaves"),
        ('{"tokens": "a b", "tags": ["O"]}', "no list of words", "has in 'tokens' no list of words but a string"),
        ('{"tokens": ["a"], "tags": null}', "no list of tags", "has in 'tags' no list of tags but null"),
        ('{"tokens": ["a"], "tags": [null]}', "no label", "has no label"),
        ('{"tokens": [1], "tags": ["O"]}', "a word that is no text", "has in 'tokens' a number as a word"),
    ],
)
def test_a_record_that_cannot_be_used_is_told_with_its_place_or_counted(record, reason, words, write):
    path = write('{"tokens": ["Jim"], "tags": ["O"]}\n' + record + "\n", "a.jsonl")
    with pytest.raises(UserError, match=f"record 2 {words}.*--skip-bad"):
        sentences.read(str(path))
    found, skipped, _ = sentences.read(str(path), skip_bad=True)
    assert len(found) == 1 and skipped == {reason: 1}


def test_records_without_any_word_are_told(write):
    path = write('{"tokens": [], "tags": []}\n{"tokens": ["a"], "tags": []}\n', "a.jsonl")
    with pytest.raises(
        UserError, match=r"no row of .* has words with tags \(another number of tags than of words: 1\)"
    ):
        sentences.read(str(path), skip_bad=True)


def test_what_is_asked_may_be_texts_or_words(write):
    assert [one.words for one in sentences.asked(str(write("Jim O\n# O\n\nRome O\n")), {})] == [("Jim", "#"), ("Rome",)]
    asked = sentences.asked(str(write("id,text\n1,Jim is here\n2,\n", "a.csv")), {})
    assert [(one.words, one.text) for one in asked] == [((), "Jim is here"), ((), "")]
    asked = sentences.asked(str(write('{"words": ["Jim"]}\n{"words": "Jim is"}', "a.jsonl")), {})
    assert [(one.words, one.text) for one in asked] == [(("Jim",), None), ((), "Jim is")]
    with pytest.raises(UserError, match="'txt', which is no role"):
        sentences.asked(str(write("Jim O\n")), {"txt": "1"})


@pytest.mark.parametrize(
    "name, named, words",
    [
        ("a.csv", {}, "is a .csv file; expected a word and its tag a line"),
        ("a.conll", {"txt": "1"}, "'txt', which is no role; expected text, label"),
        ("a.jsonl", {}, "has no column that is known as label"),
        ("a.jsonl", {"label": "b"}, "has no column 'b', only tokens; name one with --columns label=NAME"),
    ],
)
def test_a_source_that_does_not_fit_is_told(name, named, words, write):
    with pytest.raises(UserError, match=words):
        sentences.read(str(write('{"tokens": ["a"]}\n', name)), named)
