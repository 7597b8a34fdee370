"""The Chinese models are trained as it is said, go on where they were interrupted, and stand in a table."""

import json
import lzma

import numpy as np
import pytest
from safetensors.numpy import load_file

from benchmarks import chinese, report, runs
from ms_bert.data import labelled
from tests.runs import small_run, write_config

FINETUNING = ("--longest", "16", "--epochs", "1", "--learning-rate", "1e-3")
REVIEWS = [("房间很大，服务也好。", 1), ("房间太小\n很吵", 0), ('他说"不好"', 0), ("位置好，下次还来", 1)] * 6


@pytest.fixture
def data(tmp_path):
    lines = "".join(f'{label},"{text.replace(chr(34), chr(34) * 2)}"\n' for text, label in REVIEWS)
    books = "山上有一座庙。\n庙里有个和尚。\n和尚在讲故事。\n\n".encode() * 40
    for name, content in {
        chinese.CORPUS: lzma.compress(books),
        chinese.REVIEWS: f"\ufefflabel,review\n{lines}".encode(),
    }.items():
        (tmp_path / "data" / name).parent.mkdir(parents=True)
        (tmp_path / "data" / name).write_bytes(content)
    return tmp_path / "data"


def test_all_is_trained_as_it_says(data, tmp_path, in_this_process):
    """The whole measurement at a tiny size, by PyTorch and in this process, interrupted once."""
    lines = in_this_process(6)
    options = small_run(data / chinese.CORPUS, tmp_path / "cache", write_config(tmp_path, vocab_size=300))[2:]
    options[options.index("--vocab-size") + 1] = "300"
    few = ("--steps", "2", "--warmup-steps", "1", "--seq-length", "16", "--eval-every", "0")
    cache = ("--cache", str(tmp_path / "cache"), "--processes", "1", "--batch-size", "4", "--held-out", "0.2")
    size = chinese.Size((*options, *few), (*few, *cache), FINETUNING, FINETUNING, 4, (1,))
    work = tmp_path / "work"

    def measure():
        return list(chinese.measure(tmp_path, data, size, work))

    with pytest.raises(SystemExit, match="ended with exit code 137; the next call goes on with it"):
        measure()
    found = measure()
    tuned = [one for one in found if one["kind"] == "finetuning"]
    assert len(found) == 4 + len(tuned) and len(tuned) == 4 + 2 + 4
    assert all(np.isfinite(list(one["metrics"].values())).all() for one in tuned)
    assert not any(str(place) in json.dumps(found) for place in (data, work))
    begun = [line for line in lines if "--resume" not in line]
    assert len(begun) == len(found) + 1  # nothing but the one that was interrupted was begun twice

    # No review that is scored was read before, and none is lost.
    read = [[row.values["review"] for row in labelled.read(str(work / name))] for name in ("train.csv", "dev.csv")]
    assert read[1] == [text for text, _ in REVIEWS[::10]] and len(read[0]) + len(read[1]) == len(REVIEWS)
    assert (work / "texts.txt").read_text().splitlines() == [" ".join(text.split()) for text in read[0]]

    def weights(model):
        return load_file(work / runs.named(model) / "model.safetensors")["bert.encoder.layer.0.output.dense.weight"]

    none, characters, words, reviews = map(weights, chinese.MODELS)
    assert np.abs(none - characters).max() > 1e-4 < np.abs(words - reviews).max() and (words != characters).any()
    untrained = found[0]
    assert untrained["held_out"]["held_out_mlm_loss"] == pytest.approx(
        untrained["held_out_before"]["held_out_mlm_loss"], abs=1e-5
    )

    machine = {"cores": 2, "cpu": "processor"}
    (tmp_path / "chinese.json").write_text(json.dumps({"date": "2026-11-29", "machine": machine, "result": found}))
    rows = [line.split(" | ")[0] for line in report._chinese(tmp_path).splitlines()[4:]]
    assert rows == [f"| {model}" for model in (*chinese.MODELS, *[chinese.ON_REVIEWS] * 2, *chinese.MODELS)]


def test_the_data_that_is_missing_is_named(tmp_path):
    with pytest.raises(SystemExit, match="corpus.txt.xz is missing; name the folder"):
        chinese.measure(tmp_path, tmp_path)


def test_the_page_says_how_much_is_trained():
    full, page = chinese.FULL, " ".join((report.DOCS / "results.md").read_text(encoding="utf-8").split())

    def value(options, name):
        return int(options[options.index(name) + 1])

    seeds = ("no", "one", "two", "three")[len(full.seeds)]

    for said in (
        f"for {value(full.books, '--steps'):,} steps of 4,096 tokens, the first half of them in rows of 32",
        f"then for {value(full.reviews, '--steps')} steps on the texts",
        f"learns for {value(full.finetuning, '--epochs')} epochs, with {seeds} seeds",
        f"once more for {value(full.few, '--epochs')} epochs from 500 of the reviews",
    ):
        assert said in page, said
