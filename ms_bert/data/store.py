"""The token store: a corpus as token ids in memory-mapped Arrow files, made once in parallel processes.

A store is a folder with, for each of the splits `train` and `held_out`, three Arrow files of one column:

    SPLIT.tokens.arrow      id       the ids of all sentences, end to end (uint16 or uint32)
    SPLIT.sentences.arrow   start    where each sentence begins in tokens, and where the last ends (int64)
    SPLIT.documents.arrow   start    which sentence each document begins with, and their number (int64)

and store.json: what it was made from, how often each id occurs in each split, and each file's length and CRC-32C. All
is checked when a store is opened, and one that is damaged is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from ms_bert.data.cache import Damaged, checksum, kept_or_made, locked, read_sealed, write_sealed
from ms_bert.data.corpus import Corpus
from ms_bert.data.tokenizer import Vocabulary
from ms_bert.data.tokenizing import tokenized
from ms_bert.errors import UserError
from ms_bert.options import TextOptions

FORMAT = 2  # of the folder
TEXT_FORMAT = 1  # of the way from text to ids: runs know a store by a fingerprint of which it is a part
DESCRIPTION = "store.json"
SPLITS = ("train", "held_out")
_BLOCK_BITS = 20  # 2^20 values a record batch: a value's place follows from its index
_MAKING = ".making-"  # what a store is called until it is whole
_CHUNK = 1_000_000  # characters of text handed to a worker at a time


class Column:
    """A column of an Arrow file, memory-mapped, read by NumPy index arrays without reading the rest.

    All record batches but the last have 2^20 values, so value i lies in batch i >> 20, and every batch's place in
    the file is known: the file itself is the array.
    """

    def __init__(self, path: Path):
        try:
            self._map = pa.memory_map(str(path))
            file = pa.ipc.open_file(self._map)
            batches = [file.get_batch(i) for i in range(file.num_record_batches)]
            # Not by to_pandas_dtype, which takes a second to import pandas.
            kind = np.dtype(str(file.schema.field(0).type))
        except (OSError, pa.ArrowInvalid, TypeError) as error:
            raise Damaged(f"{path} of the token store cannot be read ({error})") from None
        self._length = sum(len(batch) for batch in batches)
        whole = self._map.read_buffer()
        self._values = np.frombuffer(whole, kind, count=len(whole) // kind.itemsize)
        # Buffers lie on multiples of 8 bytes in the file, hence on whole items.
        self._base = np.array(
            [(b.column(0).buffers()[1].address - whole.address) // kind.itemsize for b in batches], np.int64
        )

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        index = np.asarray(index)
        return self._values[self._base[index >> _BLOCK_BITS] + (index & ((1 << _BLOCK_BITS) - 1))]

    def last_not_above(self, values: np.ndarray) -> np.ndarray:
        """For an ascending column: the largest index whose value is <= each of values (at least 0)."""
        low, high = np.zeros(values.shape, np.int64), np.full(values.shape, self._length, np.int64)
        for _ in range(self._length.bit_length()):
            middle = (low + high) >> 1
            below = self[np.minimum(middle, self._length - 1)] <= values
            low, high = np.where(below & (middle > low), middle, low), np.where(below, high, middle)
        return low


class _ColumnWriter:
    """Writes a column in record batches of exactly 2^20 values and a shorter last one."""

    def __init__(self, path: Path, name: str, kind: np.dtype):
        self.length = 0
        self._kind, self._count = kind, 0
        self._waiting: list[np.ndarray] = []
        schema = pa.schema([(name, pa.from_numpy_dtype(kind))])
        self._schema, self._file = schema, pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._file, schema)

    def append(self, values: np.ndarray) -> None:
        self._waiting.append(np.asarray(values, self._kind))
        self._count += len(values)
        self.length += len(values)
        if self._count >= 1 << _BLOCK_BITS:
            self._write(whole_blocks=True)

    def _write(self, whole_blocks: bool) -> None:
        values, block = np.concatenate(self._waiting or [np.empty(0, self._kind)]), 1 << _BLOCK_BITS
        end = len(values) // block * block if whole_blocks else len(values)
        for first in range(0, end, block):
            self._writer.write_batch(pa.record_batch([pa.array(values[first : min(first + block, end)])], self._schema))
        self._waiting, self._count = [values[end:]], len(values) - end

    def close(self) -> None:
        self._write(whole_blocks=False)
        self._writer.close()
        self._file.flush()
        self._file.close()


class _SplitWriter:
    def __init__(self, folder: Path, split: str, kind: np.dtype):
        self.tokens = _ColumnWriter(folder / f"{split}.tokens.arrow", "id", kind)
        self.sentences = _ColumnWriter(folder / f"{split}.sentences.arrow", "start", np.dtype(np.int64))
        self.documents = _ColumnWriter(folder / f"{split}.documents.arrow", "start", np.dtype(np.int64))

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


class TokenStore:
    """A store that is there.

    Attributes:
        train, held_out: the splits.
        token_counts: for each split, (vocabulary size,) int64, the occurrences of each id.
        fingerprint: differs when any id of the store may differ.

    Raises:
        FileNotFoundError: there is none. Damaged: it is not what was written.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        description = read_sealed(folder / DESCRIPTION)
        if description.get("format") != FORMAT:
            raise Damaged(f"another version wrote the token store {folder}")
        for name, written in description["files"].items():
            if not (folder / name).is_file() or checksum(folder / name) != written:
                raise Damaged(f"{folder / name} of the token store is damaged")
        self.fingerprint = description["fingerprint"]
        self.token_counts = {split: np.array(description["token_counts"][split], np.int64) for split in SPLITS}
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


def open_store(options: TextOptions, corpus: Corpus, vocabulary: Vocabulary) -> tuple[TokenStore, bool]:
    """The store of a corpus under a vocabulary, made unless the cache holds it whole; and whether it was made.

    Raises:
        UserError: the corpus cannot be read or holds no text, or a process that made the store was killed.
    """
    made_from = {
        "format": TEXT_FORMAT,
        "corpus": corpus.fingerprint(),
        "vocabulary": vocabulary.fingerprint(),
        "text_field": options.text_field,
        "documents": options.documents,
        "sentences": options.sentences,
        "held_out": options.held_out,
    }
    fingerprint = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()
    description = {"format": FORMAT, "fingerprint": fingerprint, "made_from": made_from}
    name = fingerprint[:16]
    folder, locks = options.cache / "stores" / name, options.cache / "locks"

    def read() -> TokenStore:
        store = TokenStore(folder)
        if store.fingerprint != fingerprint:
            raise Damaged(f"the token store {folder} does not match its name")
        return store

    def make(alone: bool) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder.parent, locks, name if alone else None)
        beside = folder.parent / f"{_MAKING}{name}-{secrets.token_hex(4)}"
        beside.mkdir()
        try:
            _make(beside, options, corpus, vocabulary, description)
            if not alone:  # another process may have been faster
                with contextlib.suppress(FileNotFoundError, Damaged):
                    read()
                    return
            shutil.rmtree(folder, ignore_errors=True)
            os.rename(beside, folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    return kept_or_made(locks / f"store-{name}", f"the token store {folder}", read, make)


def _remove_abandoned(stores: Path, locks: Path, own: str | None) -> None:
    """Remove what killed processes left half made: nobody holds the lock of such a store, or this process does."""
    for folder in stores.glob(f"{_MAKING}*"):
        name = folder.name.removeprefix(_MAKING).partition("-")[0]
        if name == own:
            shutil.rmtree(folder, ignore_errors=True)
            continue
        with locked(locks / f"store-{name}", waiting=None) as held:
            if held:
                shutil.rmtree(folder, ignore_errors=True)


def _make(folder: Path, options: TextOptions, corpus: Corpus, vocabulary: Vocabulary, description: dict) -> None:
    kind = np.dtype(np.uint16 if vocabulary.size <= 2**16 else np.uint32)
    writers = {split: _SplitWriter(folder, split, kind) for split in SPLITS}
    token_counts = {split: np.zeros(vocabulary.size, np.int64) for split in SPLITS}
    # Two documents of every 2 / held_out: at least two are held out as soon as there are four, so that evaluation
    # can draw a random next sentence too.
    period = max(4, round(2 / options.held_out)) if options.held_out else None
    number = 0
    chunks = tqdm(_chunks(corpus.documents()), desc="token store", unit=" million characters", disable=None)
    setup = vocabulary.tokenizer.to_str(), options.sentences, kind
    for tokens, lengths, sentences in tokenized(chunks, *setup, options.processes):
        numbers = number + np.arange(len(sentences))
        number += len(sentences)
        held_out = np.isin(numbers % period, (1, 3)) if period else np.zeros(len(sentences), bool)
        for split, documents in zip(SPLITS, (~held_out, held_out)):
            chosen = np.repeat(documents, sentences)
            ids = tokens[np.repeat(chosen, lengths)]
            writers[split].append(ids, lengths[chosen], sentences[documents])
            token_counts[split] += np.bincount(ids, minlength=vocabulary.size)
    if number == 0:
        raise UserError(f"the corpus {' '.join(options.corpus)} holds no text; name one that does.")
    for writer in writers.values():
        writer.close()
    description["token_counts"] = {split: counts.tolist() for split, counts in token_counts.items()}
    description["files"] = {path.name: checksum(path) for path in sorted(folder.iterdir())}
    write_sealed(folder / DESCRIPTION, description)


def _chunks(documents: Iterator[list[str]]) -> Iterator[list[list[str]]]:
    chunk, size = [], 0
    for document in documents:
        chunk.append(document)
        size += sum(map(len, document))
        if size >= _CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
