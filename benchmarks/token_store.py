"""How fast does text become a token store, and how much memory does that take, at 100 MB and at 1 GB, and in shards?

The text is the built-in corpus, written out as plain text again and again in shuffled order of its documents; the
vocabulary is given. Shards are four files of a quarter of it, made one after the other here and then merged. Memory is
the resident memory of all processes together, sampled ten times a second; pages shared by several of them count several
times.
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
from ms_bert.data.store import open_part, open_store
from ms_bert.options import TextOptions

SHARDS = 4


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
        shards = _in_shards(dataclasses.replace(options, cache=Path(folder) / "shards"), vocabulary, documents)
        print(shards, flush=True)
    return {
        "runs": results,
        "shards": shards,
        "processes": options.processes,
        "required_megabytes_per_minute": 30,
        "required_peak_memory_gb": 1.5,
    }


def _in_shards(options: TextOptions, vocabulary: tokenizer.Vocabulary, documents: list[str]) -> dict:
    """Seconds of each part of 1 GB and of merging them."""
    text = options.cache / "text"
    text.mkdir(parents=True)
    for number in range(SHARDS):
        _write(text / f"{number}.txt", documents, 1_000_000_000 // SHARDS, seed=number)
    options = dataclasses.replace(options, corpus=(str(text),))
    corpus, seconds = Corpus(options), []
    for shard in range(1, SHARDS + 1):
        begun = time.perf_counter()
        open_part(options, corpus, vocabulary, shard, SHARDS)
        seconds.append(round(time.perf_counter() - begun, 1))
    with _Memory() as memory:
        begun = time.perf_counter()
        store, _ = open_store(options, corpus, vocabulary, SHARDS)
        merging = time.perf_counter() - begun
    return {
        "megabytes": corpus.megabytes(),
        "part_seconds": seconds,
        "merge_seconds": round(merging, 1),
        "merged_megabytes_per_minute": round(corpus.megabytes() / merging * 60),
        "merge_peak_memory_gb": round(memory.peak / 1e9, 3),
        "bytes": sum(path.stat().st_size for path in store.folder.iterdir()),
    }


def _write(path: Path, documents: list[str], size: int, seed: int = 1) -> None:
    order, shuffle = list(range(len(documents))), random.Random(seed)
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
