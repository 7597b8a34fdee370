"""Tokenizing in several processes.

The processes are plain children that read chunks of text from a pipe and write ids into another. So they begin without
the parent's threads, need nothing of its main script, end when it ends, and their own end is noticed at once.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import pickle
import queue
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO

import numpy as np

from ms_bert.errors import UserError

Chunk = list[list[str]]  # documents, each as its lines
Tokens = tuple[np.ndarray, np.ndarray, np.ndarray]  # ids of all sentences, length of each, sentences of each document
_CODE = "import sys; sys.path[:] = {path!r}; from ms_bert.data.tokenizing import serve; serve()"
_WINDOW = 20_000  # characters that are split into sentences at a time


def tokenized(
    chunks: Iterable[Chunk], tokenizer: str, sentences: str, kind: np.dtype, processes: int
) -> Iterator[Tokens]:
    """What `Tokenizing` makes of chunk after chunk, in their order.

    Raises:
        UserError: a process was killed.
    """
    workers: list[_Process] = []
    with ThreadPoolExecutor(processes) as threads:
        try:
            idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
            for _ in range(processes):
                workers.append(_Process((tokenizer, sentences, kind)))
                idle.put(workers[-1])

            def ask(chunk: Chunk) -> Tokens:
                worker = idle.get()
                try:
                    return worker(chunk)
                finally:
                    idle.put(worker)

            # As many chunks as keep all workers busy, so that memory stays bounded.
            running: collections.deque[Future[Tokens]] = collections.deque()
            for chunk in chunks:
                running.append(threads.submit(ask, chunk))
                if len(running) > 2 * processes:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            for worker in workers:
                worker.end()


class _Process:
    def __init__(self, setup: tuple[str, str, np.dtype]):
        # In a session of its own: Ctrl-C is for the parent.
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CODE.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._to: IO[bytes] = self._process.stdin
        self._from: IO[bytes] = self._process.stdout
        self._setup: tuple[str, str, np.dtype] | None = setup

    def __call__(self, chunk: Chunk) -> Tokens:
        try:
            pickle.dump((self._setup, chunk), self._to)
            self._to.flush()
            self._setup = None  # it is sent once
            return pickle.load(self._from)
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):
            code = self._process.wait()
        how = (
            f"was killed by signal {-code}, perhaps because memory ran out" if code < 0 else f"exited with code {code}"
        )
        raise UserError(
            f"a process that was making the token store {how}; free some memory or choose fewer --processes, and try "
            "again.",
            exit_code=1,
        )

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._to, self._from):
            with contextlib.suppress(OSError):  # what was not yet sent
                pipe.close()


def serve() -> None:
    """What a process does: for each chunk from standard input its tokens to standard output, to the end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent decides
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library may print is no result
    with contextlib.suppress(EOFError, BrokenPipeError, pickle.UnpicklingError):  # the parent is gone
        setup, chunk = pickle.load(sys.stdin.buffer)
        tokenizing = Tokenizing(*setup)
        while True:
            pickle.dump(tokenizing(chunk), results, pickle.HIGHEST_PROTOCOL)
            results.flush()
            _, chunk = pickle.load(sys.stdin.buffer)
    os._exit(0)  # nothing is left to be flushed


class Tokenizing:
    """Makes ids of documents.

    Args:
        tokenizer: the text of a tokenizer.json. sentences: "split" or "line". kind: of the ids.
    """

    def __init__(self, tokenizer: str, sentences: str, kind: np.dtype):
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # this process is one of many
        from tokenizers import Tokenizer

        self._tokenizer, self._sentences, self._kind = Tokenizer.from_str(tokenizer), sentences, kind

    def __call__(self, chunk: Chunk) -> Tokens:
        """Ids of all sentences; sentences and documents without any id are left out."""
        sentences, owner = [], []
        for number, document in enumerate(chunk):
            found = document if self._sentences == "line" else split_sentences(document)
            sentences += found
            owner += [number] * len(found)
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(sentences, add_special_tokens=False)]
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        tokens = np.fromiter(itertools.chain.from_iterable(ids), self._kind, int(lengths.sum()))
        counts = np.bincount(np.array(owner, np.int64)[lengths > 0], minlength=1)
        return tokens, lengths[lengths > 0], counts[counts > 0]


def split_sentences(lines: list[str]) -> list[str]:
    """The sentences of running text, whatever its language: Wikimedia's `sentencex` knows the abbreviations."""
    return [sentence.strip() for line in lines for sentence in _segments(line)]


def _segments(line: str) -> Iterator[str]:
    import sentencex

    start, width = 0, _WINDOW
    while start + width < len(line):
        # sentencex takes time by the square of the length. A window's last sentence may go on in the next one.
        *found, last = sentencex.segment("en", line[start : start + width])
        yield from found
        if found:
            start, width = start + sum(map(len, found)), _WINDOW
        else:
            width *= 2
    # Its rules for English also end sentences at full-width Chinese punctuation.
    yield from sentencex.segment("en", line[start:])
