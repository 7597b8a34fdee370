"""The measurements of several workers, at a size that shows no more than that they can be made."""

import pytest

from benchmarks import workers
from benchmarks.workers import Size


@pytest.mark.full
def test_it_measures_throughput_memory_exchange_and_restart(tmp_path, corpus_file):
    text = ("--corpus", corpus_file, "--vocab-size", 600, "--cache", tmp_path / "cache", "--seq-length", 32)
    small = Size((("tiny", 16, 2, 2, 1),), ("tiny", 16, (2,)), ((2**20, 2**21), 2), text)
    throughput, parts, memory, exchange, restart = workers.measure(tmp_path, small)
    assert throughput["two_to_one"] > 0.0 and set(throughput["turns"]) == {"1 worker", "2 workers"}
    assert parts["leaf_seconds"] > 0.0 and parts["parameters"] > 10**5
    assert len(memory["peak_memory_gb"]) == 2 and min(memory["peak_memory_gb"]) > 0.1
    assert [size["megabytes"] for size in exchange["sizes"]] == [4.19, 8.39]
    assert all(size["milliseconds"] > 0.0 for size in exchange["sizes"])
    assert restart["seconds"] > 1.0
