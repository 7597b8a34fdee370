"""How fast does text become a token store, and how much memory does that take, at 100 MB and at 1 GB?

The text is the built-in corpus, written out as plain text again and again in shuffled order of its documents; the
vocabulary is given. Memory is the resident memory of all processes together, sampled ten times a second; pages shared
by several of them count several times.
"""

import dataclasses
import os
import random
import tempfile
import threading
import time
from pathlib import Path

import psutil

from ms_bert.data import builtin, tokenizer
from ms_bert.data.corpus import Corpus
from ms_bert.data.store import open_store
from ms_bert.options import TextOptions


def measure(output):
    options = TextOptions()
    vocabulary = tokenizer.vocabulary(options, Corpus(options))
    documents = ["\n".join(document) for document in builtin.documents()]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for megabytes in (100, 1000):
            path = Path(folder) / f"{megabytes}.txt"
            _write(path, documents, megabytes * 1_000_000)
            made = dataclasses.replace(options, corpus=(str(path),), cache=Path(folder) / "cache")
            with _Memory() as memory:
                begun = time.perf_counter()
                store, _ = open_store(made, Corpus(made), vocabulary)
                seconds = time.perf_counter() - begun
            begun = time.perf_counter()
            open_store(made, Corpus(made), vocabulary)
            results.append(
                {
                    "megabytes": path.stat().st_size / 1e6,
                    "seconds": round(seconds, 1),
                    "megabytes_per_minute": round(path.stat().st_size / 1e6 / seconds * 60),
                    "peak_memory_gb": round(memory.peak / 1e9, 3),
                    "tokens": store.train.counts["tokens"],
                    "seconds_to_open_again": round(time.perf_counter() - begun, 2),
                }
            )
            print(results[-1], flush=True)
            path.unlink()
    return {
        "runs": results,
        "processes": options.processes,
        "required_megabytes_per_minute": 30,
        "required_peak_memory_gb": 1.5,
    }


def _write(path: Path, documents: list[str], size: int) -> None:
    order, shuffle = list(range(len(documents))), random.Random(1)
    with open(path, "w", encoding="utf-8") as file:
        while file.tell() < size:
            shuffle.shuffle(order)
            for number in order:
                file.write(documents[number] + "\n\n")
                if file.tell() >= size:
                    break


class _Memory:
    """The highest resident memory of this process and its children while the block runs."""

    def __enter__(self):
        self.peak, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        own = psutil.Process(os.getpid())
        while not self._stop.wait(0.1):
            total = 0
            for process in [own, *own.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    pass
            self.peak = max(self.peak, total)

    def __exit__(self, *error):
        self._stop.set()
        self._thread.join()
