"""Files of the CoNLL shared tasks: a line for each word with its tags in columns, an empty line after a sentence."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ms_bert.data.labelled import none_of, text_lines
from ms_bert.data.reading import endings
from ms_bert.errors import UserError, listed, shown

DOCUMENT = "-DOCSTART-"  # begins a line between two documents
_UNIVERSAL = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")  # of a .conllu
_NAMES = re.compile(r"#\s*global\.columns\s*=\s*(.*\S)\s*")  # of CoNLL-U Plus
_WORDS = ("word", "words", "token", "tokens", "form", "text")  # of a row of names
_TAGS = ("tag", "tags", "label", "labels", "ner", "ner_tag", "ner_tags", "pos", "pos_tag", "pos_tags", "upos")
_SPACE = re.compile(r"[ \t]+")  # no other: a no-break space may be a word
_ENDS = " \t\r\n"  # what is no part of a line
_FIRST = re.compile(r"1(-\d+)?|0\.1")  # of the first row of a sentence
_NO_WORD = re.compile(r"\d+[-.]\d+")  # the number of several words written as one (2-3) or of one left out (2.1)


@dataclasses.dataclass(frozen=True, slots=True)
class Sentence:
    """Attributes:
    words: of the sentence. tags: one for each word; None: they are not known. place: where it stands, for messages.
    text: a text that is not divided into words yet; there are no words then.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...] | None = None
    place: str = ""
    text: str | None = None


def read(
    source: str,
    path: Path,
    named: Mapping[str, str] | None = None,
    *,
    labels: bool = True,
    skipped: Counter[str] | None = None,
) -> tuple[list[Sentence], str]:
    """The sentences of a file, and from which columns they were read, in a few words.

    Columns are separated by a tab, or by spaces in a file whose first row has no tab. Lines that begin with # and are
    no row of as many columns are comments; -DOCSTART- begins a document. In a .conllu, in others whose first row has
    its ten columns, of which the first counts words, and in files that begin with `# global.columns = ...`, columns
    have names, and words that are parts of others or left out (2-3, 2.1) are passed over. A first row of names, such as
    word and tag, gives names too.

    Args:
        source: what the user calls the file. named: columns by role, text and label: a number, from 1, or a name where
            there are names; by default the first or FORM, and the last or UPOS, or those that such names mean.
        labels: whether tags are wanted; if not, rows may have any number of columns.
        skipped: takes the number of sentences that are left out because a row has too few or too many columns, by
            reason; without it such a row is an error.

    Raises:
        UserError: the file is not UTF-8, holds no sentence, lacks a column, or has such a row.
    """
    layout = _layout(source, path, named or {}, labels)
    found: list[Sentence] = []
    for block in _blocks(source, path, layout):
        try:
            found.append(_sentence(source, block, layout))
        except _Unfit as error:
            if skipped is None:
                raise UserError(f"{error}; mend the row, or leave such sentences out with --skip-bad.") from None
            skipped[error.reason] += 1
    if not found:
        raise none_of(f"no sentence of {source} can be used", skipped, "name another file")
    return found, layout.told


@dataclasses.dataclass(frozen=True)
class _Layout:
    """How a file is read, as its first row says.

    Attributes:
        tabs: columns are separated by tabs, not by spaces. columns: how many. names: of them, if they have any.
        word, tag: their columns, from 0; tag None: it is not wanted. header: the number of the line with the names;
        None: there is none.
    """

    tabs: bool
    columns: int
    names: Sequence[str]
    word: int
    tag: int | None
    header: int | None = None

    @property
    def told(self) -> str:
        def name(column: int) -> str:
            return self.names[column] if self.names else f"column {column + 1} of {self.columns}"

        return f"words from {name(self.word)}" + (f", tags from {name(self.tag)}" if self.tag is not None else "")

    def fields(self, line: str) -> list[str]:
        return line.split("\t") if self.tabs else _SPACE.split(line.lstrip(" \t"))

    def is_comment(self, line: str) -> bool:
        """A word may begin with # too."""
        if not line.startswith("#"):
            return False
        fields = self.fields(line)
        return self.numbered or len(fields) != self.columns or any("=" in field for field in fields[1:])

    @property
    def numbered(self) -> bool:
        """Whether rows begin with the number of the word, as in CoNLL-U."""
        return self.names[:1] == _UNIVERSAL[:1]


Block = list[tuple[int, list[str]]]  # the rows of a sentence, with the numbers of their lines


class _Unfit(Exception):
    """A row that makes no word with a tag; `reason`: by which its sentence is counted."""

    def __init__(self, reason: str, found: str):
        super().__init__(found)
        self.reason = reason


def _layout(source: str, path: Path, named: Mapping[str, str], labels: bool) -> _Layout:
    names: Sequence[str] = _UNIVERSAL if endings(path)[0] == ".conllu" else ()
    with contextlib.closing(text_lines(source, path)) as lines:
        for number, line in enumerate(lines, 1):  # noqa: B007
            line = line.rstrip(_ENDS)
            if not names and (match := _NAMES.fullmatch(line)):
                names = tuple(match[1].split())
            if line and not line.startswith(("#", DOCUMENT)):
                break
        else:
            raise UserError(f"{source} holds no sentences; name a file with a word and its tag in each line.")
    tabs = "\t" in line
    fields = _Layout(tabs, 0, (), 0, None).fields(line)
    count = len(fields)
    if not names and tabs and count == len(_UNIVERSAL) and _FIRST.fullmatch(fields[0]) and named.get("text") != "1":
        names = _UNIVERSAL  # CoNLL-U has other endings, too
    place = f"{source}, line {number}"
    word, tag = _named_by(fields)
    header = number if not names and word is not None and tag is not None else None
    if header is not None:
        names = tuple(fields)
    if names and len(names) != count:
        raise UserError(
            f"{place} has {_counted(count)}, but names are given to {len(names)} ({listed(names)}); mend it."
        )
    if labels and count == 1:
        raise UserError(f"{place} has no tag, but one column only; expected a word and its tag in each line.")

    def column(role: str, usual: str, otherwise: int) -> int:
        name = named.get(role, usual if usual in names else str(otherwise))
        if name in names:
            return names.index(name)
        if name.isdecimal() and 1 <= int(name) <= count:
            return int(name) - 1
        which = f"N from 1 to {count}" + (f", or one of {listed(names)}" if names else "")
        raise UserError(f"{source} has no column {shown(name)}; name one with --columns {role}=N, {which}.")

    usual = ("FORM", "UPOS") if header is None else (str(word), str(tag))
    tagged = column("label", usual[1], count) if labels else None
    return _Layout(tabs, count, names, column("text", usual[0], 1), tagged, header)


def _named_by(fields: Sequence[str]) -> tuple[str | None, str | None]:
    """Which fields of a first row are names of a column of words, and of one of tags: the first and the last."""
    words, tags = ([field for field in fields if field.strip().lower() in usual] for usual in (_WORDS, _TAGS))
    return (words[0] if words else None), (tags[-1] if tags else None)


def _blocks(source: str, path: Path, layout: _Layout) -> Iterator[Block]:
    """The rows of each sentence."""
    block: Block = []
    for number, line in enumerate(text_lines(source, path), 1):
        line = line.rstrip(_ENDS)
        if number == layout.header or layout.is_comment(line):
            continue
        fields = layout.fields(line)
        if line and not line.startswith(DOCUMENT):
            if not (layout.numbered and _NO_WORD.fullmatch(fields[0])):
                block.append((number, fields))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _sentence(source: str, block: Block, layout: _Layout) -> Sentence:
    """Raises _Unfit."""
    for number, fields in block:
        place, count = f"{source}, line {number}", len(fields)
        if layout.tag is None:
            if count <= layout.word:
                raise _Unfit(
                    "a row without a word", f"{place} has {_counted(count)} and no word in column {layout.word + 1}"
                )
        elif count != layout.columns:
            reason = f"a row with too {'few' if count < layout.columns else 'many'} columns"
            raise _Unfit(reason, f"{place} has {_counted(count)}, but the first row has {layout.columns}")
        elif not fields[layout.tag]:
            raise _Unfit("a row without a tag", f"{place} has no tag")
    words = tuple(fields[layout.word] for _, fields in block)
    tags = None if layout.tag is None else tuple(fields[layout.tag] for _, fields in block)
    return Sentence(words, tags, f"{source}, line {block[0][0]}")


def _counted(columns: int) -> str:
    return f"{columns} column{'' if columns == 1 else 's'}"
