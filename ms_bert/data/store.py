"""The token store: a corpus as token ids in memory-mapped Arrow files, made once in parallel processes.

A store is a folder with, for each of the splits `train` and `held_out`, three Arrow files of one column:

    SPLIT.tokens.arrow      id       the ids of all sentences, end to end (uint16 or uint32)
    SPLIT.sentences.arrow   start    where each sentence begins in tokens, and where the last ends (int64)
    SPLIT.documents.arrow   start    which sentence each document begins with, and their number (int64)

and store.json: what it was made from, how often each id occurs in each split, and each file's length and CRC-32C. All
is checked when a store is opened, and one that is damaged is made again.

Several machines can make one store: each makes a part, a folder of the same kind with one split, `part`, from some of
the files. The parts of all shards are merged to the store that one machine would have made, byte for byte: only where
all are known is it known which documents are held out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from ms_bert.data.cache import Damaged, checksum, kept_or_made, locked, read_sealed, write_sealed
from ms_bert.data.columns import Column, ColumnWriter
from ms_bert.data.corpus import Corpus
from ms_bert.data.tokenizer import Vocabulary
from ms_bert.data.tokenizing import Tokens, tokenized
from ms_bert.errors import UserError
from ms_bert.options import TextOptions

FORMAT = 2  # of the folder
TEXT_FORMAT = 1  # of the way from text to ids: runs know a store by a fingerprint of which it is a part
DESCRIPTION = "store.json"
SPLITS = ("train", "held_out")
PART = "part"
_MAKING = ".making-"  # what a store is called until it is whole
_CHUNK = 1_000_000  # characters of text handed to a worker at a time
_PIECE = 1 << 22  # tokens, about, that are merged at a time


class _SplitWriter:
    def __init__(self, folder: Path, split: str, kind: np.dtype):
        self.tokens = ColumnWriter(folder / f"{split}.tokens.arrow", "id", kind)
        self.sentences = ColumnWriter(folder / f"{split}.sentences.arrow", "start", np.dtype(np.int64))
        self.documents = ColumnWriter(folder / f"{split}.documents.arrow", "start", np.dtype(np.int64))

    def append(self, tokens: np.ndarray, lengths: np.ndarray, sentences: np.ndarray) -> None:
        """Add documents: their ids, the ids of each sentence, the sentences of each document (numbers)."""
        self.documents.append(self.sentences.length + np.cumsum(sentences) - sentences)
        self.sentences.append(self.tokens.length + np.cumsum(lengths) - lengths)
        self.tokens.append(tokens)

    def close(self) -> None:
        self.documents.append(np.array([self.sentences.length]))
        self.sentences.append(np.array([self.tokens.length]))
        for column in (self.tokens, self.sentences, self.documents):
            column.close()


class Split:
    """One split of a store.

    Attributes:
        tokens, sentences, documents: the columns (see the module); the last two have one value more than items.
    """

    def __init__(self, folder: Path, split: str):
        self.tokens = Column(folder / f"{split}.tokens.arrow")
        self.sentences = Column(folder / f"{split}.sentences.arrow")
        self.documents = Column(folder / f"{split}.documents.arrow")

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of documents, sentences and tokens."""
        return {"documents": len(self.documents) - 1, "sentences": len(self.sentences) - 1, "tokens": len(self.tokens)}


class _Folder:
    """A folder of splits that is there, whole.

    Attributes:
        called: what it is, in words. place: the folder of the cache that holds those of its kind.
        folder: it. fingerprint: differs when any id may differ. description: what store.json says.

    Raises:
        FileNotFoundError: there is none. Damaged: it is not what was written.
    """

    called: str
    place: str

    def __init__(self, folder: Path):
        self.folder = folder
        self.description = read_sealed(folder / DESCRIPTION)
        if self.description.get("format") != FORMAT:
            raise Damaged(f"another version wrote the {self.called} {folder}")
        for name, written in self.description["files"].items():
            if not (folder / name).is_file() or checksum(folder / name) != written:
                raise Damaged(f"{folder / name} of the {self.called} is damaged")
        self.fingerprint = self.description["fingerprint"]


class TokenStore(_Folder):
    """A store that is there.

    Attributes:
        train, held_out: the splits. token_counts: for each split, (vocabulary size,) int64, the occurrences of each id.
    """

    called, place = "token store", "stores"

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.token_counts = {split: np.array(self.description["token_counts"][split], np.int64) for split in SPLITS}
        self.train, self.held_out = (Split(folder, split) for split in SPLITS)

    @property
    def unigram_entropy(self) -> float | None:
        """Mean of -log p(token) over the held-out tokens, in nats; None if there are none.

        p is the frequency in the training text with one added to each count. It is the MLM loss of a model that
        knows the frequencies and no context.
        """
        train, held_out = (self.token_counts[split] for split in SPLITS)
        if not held_out.sum():
            return None
        log_p = np.log(train + 1.0) - np.log(train.sum() + len(train))
        return float(-(held_out * log_p).sum() / held_out.sum())


class Part(_Folder):
    """The documents of a shard of a corpus, none of them held out yet.

    Attributes:
        split: them all.
    """

    called, place = "part of a token store", "parts"

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.split = Split(folder, PART)


Made = TypeVar("Made", bound=_Folder)


def open_store(
    options: TextOptions, corpus: Corpus, vocabulary: Vocabulary, shards: int | None = None
) -> tuple[TokenStore, bool]:
    """The store of a corpus under a vocabulary, made unless the cache holds it whole; and whether it was made.

    Args:
        shards: it is merged from the parts of so many; None: made from the text.

    Raises:
        UserError: the corpus cannot be read or holds no text, or a process that made the store was killed, or a part
            is not in the cache.
    """
    made_from = {**_made_from(options, corpus, vocabulary), "held_out": options.held_out}
    kind = _kind(vocabulary)

    def parts(count: int) -> list[Part]:
        numbered = enumerate(corpus.shards(count), 1)
        return [_find_part(options, own, vocabulary, f"{number}/{count}") for number, own in numbered]

    def write(folder: Path) -> dict:
        found = _read(options, corpus, vocabulary) if shards is None else _merged(parts(shards))
        return _write_splits(folder, found, options, vocabulary.size, kind)

    return _opened(TokenStore, options.cache, made_from, write)


def open_part(
    options: TextOptions, corpus: Corpus, vocabulary: Vocabulary, shard: int, shards: int
) -> tuple[Part, bool]:
    """The part of a shard, 1 to `shards`, of a corpus, made unless the cache holds it whole; and whether it was made.

    Raises:
        UserError: see `open_store`; or the corpus has fewer files.
    """
    own = corpus.shards(shards)[shard - 1]

    def write(folder: Path) -> dict:
        writer = _SplitWriter(folder, PART, _kind(vocabulary))
        for documents in _read(options, own, vocabulary):
            writer.append(*documents)
        writer.close()
        return {}

    return _opened(Part, options.cache, _made_from(options, own, vocabulary), write)


def _find_part(options: TextOptions, own: Corpus, vocabulary: Vocabulary, shard: str) -> Part:
    fingerprint, folder = _place(Part, options.cache, _made_from(options, own, vocabulary))
    try:
        return _checked(Part, folder, fingerprint)
    except FileNotFoundError:
        found = f"there is no {folder}"
    except Damaged as error:
        found = str(error)
    raise UserError(
        f"the part of shard {shard} is missing: {found}; make it with --shard {shard}, or copy the folder from the "
        "machine that made it."
    )


def _made_from(options: TextOptions, corpus: Corpus, vocabulary: Vocabulary) -> dict:
    return {
        "format": TEXT_FORMAT,
        "corpus": corpus.fingerprint(),
        "vocabulary": vocabulary.fingerprint(),
        "text_field": options.text_field,
        "documents": options.documents,
        "sentences": options.sentences,
    }


def _place(kind: type[_Folder], cache: Path, made_from: dict) -> tuple[str, Path]:
    """The fingerprint and the folder of what is made from this."""
    fingerprint = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()
    return fingerprint, cache / kind.place / fingerprint[:16]


def _checked(kind: type[Made], folder: Path, fingerprint: str) -> Made:
    found = kind(folder)
    if found.fingerprint != fingerprint:
        raise Damaged(f"the {kind.called} {folder} does not match its name")
    return found


def _opened(kind: type[Made], cache: Path, made_from: dict, write: Callable[[Path], dict]) -> tuple[Made, bool]:
    """A folder of the cache, written unless it is there whole; and whether it was written.

    Args:
        write: writes the columns into a folder, and returns more for its description.
    """
    fingerprint, folder = _place(kind, cache, made_from)
    description = {"format": FORMAT, "fingerprint": fingerprint, "made_from": made_from}
    name = folder.name

    def read() -> Made:
        return _checked(kind, folder, fingerprint)

    def make(alone: bool) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(kind, cache, name if alone else None)
        beside = folder.parent / f"{_MAKING}{name}-{secrets.token_hex(4)}"
        beside.mkdir()
        try:
            more = write(beside)
            files = {path.name: checksum(path) for path in sorted(beside.iterdir())}
            write_sealed(beside / DESCRIPTION, {**description, **more, "files": files})
            if not alone:  # another process may have been faster
                with contextlib.suppress(FileNotFoundError, Damaged):
                    read()
                    return
            shutil.rmtree(folder, ignore_errors=True)
            os.rename(beside, folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    return kept_or_made(_lock(kind, cache, name), f"the {kind.called} {folder}", read, make)


def _lock(kind: type[_Folder], cache: Path, name: str) -> Path:
    return cache / "locks" / f"{kind.place.removesuffix('s')}-{name}"


def _remove_abandoned(kind: type[_Folder], cache: Path, own: str | None) -> None:
    """Remove what killed processes left half made: nobody holds the lock of such a folder, or this process does."""
    for folder in (cache / kind.place).glob(f"{_MAKING}*"):
        name = folder.name.removeprefix(_MAKING).partition("-")[0]
        if name == own:
            shutil.rmtree(folder, ignore_errors=True)
            continue
        with locked(_lock(kind, cache, name), waiting=None) as held:
            if held:
                shutil.rmtree(folder, ignore_errors=True)


def _kind(vocabulary: Vocabulary) -> np.dtype:
    """Of ids in a file."""
    return np.dtype(np.uint16 if vocabulary.size <= 2**16 else np.uint32)


def _read(options: TextOptions, corpus: Corpus, vocabulary: Vocabulary) -> Iterator[Tokens]:
    """The documents of a corpus as ids, some at a time."""
    chunks = tqdm(_chunks(corpus.documents()), desc="token store", unit=" million characters", disable=None)
    setup = vocabulary.tokenizer.to_str(), options.sentences, _kind(vocabulary)
    return tokenized(chunks, *setup, options.processes)


def _chunks(documents: Iterable[list[str]]) -> Iterator[list[list[str]]]:
    chunk, size = [], 0
    for document in documents:
        chunk.append(document)
        size += sum(map(len, document))
        if size >= _CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _merged(parts: Sequence[Part]) -> Iterator[Tokens]:
    """The documents of all parts, some at a time."""
    total = sum(part.split.counts["tokens"] for part in parts)
    with tqdm(total=total, desc="merging", unit=" tokens", unit_scale=True, disable=None) as bar:
        for part in parts:
            split = part.split
            count, first = split.counts["documents"], 0
            while first < count:
                (begin,) = split.sentences[split.documents.slice(first, first + 1)]
                sentence = split.sentences.last_not_above(np.array([begin + _PIECE]))
                end = min(count, max(first + 1, int(split.documents.last_not_above(sentence)[0])))
                documents = split.documents.slice(first, end + 1)
                sentences = split.sentences.slice(int(documents[0]), int(documents[-1]) + 1)
                tokens = split.tokens.slice(int(sentences[0]), int(sentences[-1]))
                yield tokens, np.diff(sentences), np.diff(documents)
                bar.update(len(tokens))
                first = end


def _write_splits(
    folder: Path, found: Iterable[Tokens], options: TextOptions, vocabulary_size: int, kind: np.dtype
) -> dict:
    """Write all documents, of which some are held out; returns for the description how often each id occurs."""
    writers = {split: _SplitWriter(folder, split, kind) for split in SPLITS}
    token_counts = {split: np.zeros(vocabulary_size, np.int64) for split in SPLITS}
    # Two documents of every 2 / held_out: at least two are held out as soon as there are four, so that evaluation
    # can draw a random next sentence too.
    period = max(4, round(2 / options.held_out)) if options.held_out else None
    number = 0
    for tokens, lengths, sentences in found:
        numbers = number + np.arange(len(sentences))
        number += len(sentences)
        held_out = np.isin(numbers % period, (1, 3)) if period else np.zeros(len(sentences), bool)
        for split, documents in zip(SPLITS, (~held_out, held_out)):
            chosen = np.repeat(documents, sentences)
            ids = tokens[np.repeat(chosen, lengths)]
            writers[split].append(ids, lengths[chosen], sentences[documents])
            token_counts[split] += np.bincount(ids, minlength=vocabulary_size)
    if number == 0:
        raise UserError(f"the corpus {' '.join(options.corpus)} holds no text; name one that does.")
    for writer in writers.values():
        writer.close()
    return {"token_counts": {split: counts.tolist() for split, counts in token_counts.items()}}
