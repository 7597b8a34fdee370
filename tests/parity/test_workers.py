"""Any number of workers that share a batch come to the same bytes, in both frameworks; faults of theirs are seen.

And two processes make the store that one makes.
"""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from ms_bert.data import store as store_module
from ms_bert.data.batches import BatchMaker
from ms_bert.data.corpus import Corpus
from ms_bert.data.store import open_store
from ms_bert.run import supervisor
from tests.cases import some

from . import sharing
from .sharing import BASE, FAULTS, FRAMEWORKS, RIGHT, STEPS, WAYS

ROOT = Path(__file__).parents[2]
# Four workers go through all that two do.
KEPT = ("pt_reference 4", "ms_bert 4")
LAUNCHES = (*KEPT, "ms_bert-recompiled 4", "pt_reference 2", "ms_bert 2")


@pytest.fixture(scope="module")
def folder(store, vocabulary, tmp_path_factory) -> Path:
    """With the batches."""
    made, options = tmp_path_factory.mktemp("workers"), sharing.options()
    training = options.training
    make = BatchMaker(store.train, vocabulary, options.examples, training.batch_size, training.seed)
    for step in range(STEPS):
        np.savez(made / f"batch-{step}.npz", **make(step))
    return made


@pytest.fixture(scope="module")
def alone(folder) -> set[str]:
    """The kinds of which one worker has gone all ways."""
    return set()


@pytest.fixture(scope="module", params=some(LAUNCHES, *KEPT))
def found(request, folder, alone) -> tuple[str, int, dict]:
    """The kind, the number of workers, and what each of them and one alone found by each way, by the name of the
    way, their number and its rank."""
    kind, workers = request.param.split()
    workers = int(workers)
    if kind not in alone:
        launch(kind, folder, 1)
        alone.add(kind)
    launch(kind, folder, workers)
    results = {}
    for path in folder.glob(f"{kind} *.json"):
        way, count, rank = path.stem.removeprefix(f"{kind} ").rsplit(" ", 2)
        results[way, int(count), int(rank)] = json.loads(path.read_text())
    return kind, workers, results


def launch(kind: str, folder: Path, count: int) -> None:
    """So many workers of the script, under the supervisor."""

    def start(attempt):
        environments = FRAMEWORKS[kind].environments(count) if count > 1 else [{}]
        # MindSpore leaves its dumps where it runs, and sets OMP_NUM_THREADS behind os.environ's back.
        more = {"PYTHONPATH": str(ROOT), "GLOG_v": "3", "OMP_NUM_THREADS": "1"}
        environments = [{**more, **environment} for environment in environments]
        return supervisor.started(["tests.parity.sharing", kind, str(folder)], environments, count)

    before = os.getcwd()
    os.chdir(folder)
    try:
        assert supervisor.supervise(start, count, 0, print) == 0
    finally:
        os.chdir(before)


def test_any_number_of_workers_comes_to_the_same_bytes(found):
    kind, workers, results = found
    for way in WAYS[kind]:
        if way in RIGHT and way != "by the library":
            others = [results[way, workers, rank] for rank in range(workers)]
            assert [rank for rank, other in enumerate(others) if other != results[way, 1, 0]] == []


def test_the_ways_are_not_all_the_same(found):
    """Else the test before would show nothing."""
    kind, _, results = found
    ways = [way for way in WAYS[kind] if way in RIGHT]
    assert len({results[way, 1, 0]["sha256"] for way in ways if way != "by the library"}) >= len(ways) - 1
    norms = [step["gradient_norm"] for step in results[BASE[kind], 1, 0]["results"]]
    assert min(norms) < 1.4 < max(norms)  # clipping has an effect, and not always the same
    if "float16, overflowing" in WAYS[kind]:
        overflowing = results["float16, overflowing", 1, 0]
        assert overflowing["results"][0]["skipped"] and overflowing["scalars"]["loss_scale"] < 2.0**40


def test_the_librarys_own_sum_is_the_same_but_for_rounding(found):
    kind, workers, results = found
    if "by the library" not in WAYS[kind]:
        pytest.skip("shown by another launch")
    one, other = (results[way, workers, 0]["results"] for way in ("adamw", "by the library"))
    for mine, theirs in zip(one, other):
        assert mine["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-4)
        assert mine["sums"] == pytest.approx(theirs["sums"], rel=1e-3)


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_a_wrong_exchange_is_caught(found, fault):
    kind, workers, results = found
    if fault not in WAYS[kind] or workers < 4:
        pytest.skip("too few workers for it, or shown by another launch")
    right = results[BASE[kind], 1, 0]
    found = [results[fault, workers, rank] for rank in range(workers)]
    assert all(other != right for other in found)
    if fault == "a ring":  # wrong by rounding alone
        assert all(
            mine["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-4)
            for other in found
            for mine, theirs in zip(other["results"], right["results"])
        )


def test_two_processes_make_the_very_bytes_of_the_store_that_one_makes(text_options, vocabulary, tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "_CHUNK", 2000)  # characters, so that there is work for both
    made = []
    for processes in (1, 2):
        options = dataclasses.replace(text_options, processes=processes, cache=tmp_path / str(processes))
        folder = open_store(options, Corpus(options), vocabulary)[0].folder
        made.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert len(made[0]) == 7 and made[0] == made[1]
