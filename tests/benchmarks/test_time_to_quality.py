"""Each recipe of pre-training is trained and fine-tuned as it says, goes on where it was interrupted, and stands in a
table."""

import json

import numpy as np
import pytest

from benchmarks import report, runs, time_to_quality
from tests.runs import small_run, write_config

SENTENCES = ["sentence\tlabel", *(f"{word} film , it is {word}\t{label}" for word, label in (("good", 1), ("bad", 0)))]
JUDGED = ["w\t1\t\tThe film is good .", "w\t0\t*\tFilm the good is ."]
FILES = {
    "sst2/train.tsv": SENTENCES,
    "sst2/dev.tsv": SENTENCES,
    "cola/in_domain_train.tsv": JUDGED,
    "cola/in_domain_dev.tsv": JUDGED,
    "cola/out_of_domain_dev.tsv": JUDGED,
}


@pytest.fixture
def data(tmp_path):
    for name, lines in FILES.items():
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines))
    (tmp_path / "corpus.txt").write_text("The film is good. It is not bad.\nSo they say. They know.\n\n" * 40)
    return tmp_path / "data"


def test_all_is_trained_as_it_says(data, tmp_path, in_this_process):
    """The whole measurement at a tiny size, by PyTorch and in this process, interrupted once."""
    lines = in_this_process(4)
    options = small_run(tmp_path / "corpus.txt", tmp_path / "cache", write_config(tmp_path, vocab_size=100))
    options[options.index("--vocab-size") + 1] = "100"
    few = (*options, "--steps", "2", "--warmup-steps", "1")
    recipes = {time_to_quality.PAPER: few, "without dropout": (*few, "--dropout", "0")}
    size = time_to_quality.Size(recipes, ("--longest", "16", "--epochs", "1", "--learning-rate", "1e-3"), (1, 2))
    work = tmp_path / "work"

    def measure():
        return list(time_to_quality.measure(tmp_path, data, size, work))

    with pytest.raises(SystemExit, match="ended with exit code 137; the next call goes on with it"):
        measure()
    found = measure()
    assert len(found) == 2 + 2 * 2 * 2 and len([line for line in lines if "--resume" not in line]) == len(found) + 1
    pretrained, tuned = found[:2], found[2:]
    paper, without = (one["held_out"]["held_out_mlm_loss"] for one in pretrained)
    assert paper != without and all(one["training_seconds"] >= 0 for one in pretrained)
    assert {tuple(one["metrics"]) for one in tuned if one["task"] == "cola"} == {("matthews_correlation",)}
    assert all(np.isfinite(list(one["metrics"].values())).all() for one in tuned)
    assert not any(str(place) in json.dumps(found) for place in (data, work))
    assert {one["command"].split(" --model ")[1].split()[0] for one in tuned} == {
        f"WORK/{runs.named(recipe)}" for recipe in recipes
    }

    machine = {"cores": 2, "cpu": "processor"}
    (tmp_path / "time_to_quality.json").write_text(
        json.dumps({"date": "2026-11-29", "machine": machine, "result": found})
    )
    rows = report._time_to_quality(tmp_path).splitlines()[4:]
    assert [row.split(" | ")[0] for row in rows] == [f"| {recipe}" for recipe in recipes]
    assert all(f" | {loss:.3f} | " in row for row, loss in zip(rows, (paper, without)))


def test_the_data_that_is_missing_is_named(tmp_path):
    with pytest.raises(SystemExit, match="train.tsv is missing; name the folder"):
        time_to_quality.measure(tmp_path, tmp_path)
