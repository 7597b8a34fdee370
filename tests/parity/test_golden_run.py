"""A short run in each framework logs the numbers on file: a change of the code that alters training is seen.

The bytes of a run depend on the processor's instructions, so the numbers are compared as closely as rounding allows.
`python -m tests.parity.test_golden_run` writes the file anew, where a run is meant to change.
"""

import json
import random
import tempfile
from pathlib import Path

import pytest

from ms_bert.run.folder import METRICS, read_log
from tests import runs

FILE = Path(__file__).with_name("golden_run.json")
WAYS = {
    "plain": (),
    "lamb, in parts": ("--optimizer", "lamb", "--learning-rate", "0.01", "--accumulate", "2"),
    "packed whole words": ("--pack", "3", "--masking", "whole-word", "--optimizer", "adam-weight-decay"),
}


def corpus(path: Path) -> Path:
    """A text that is the same everywhere: sixty documents of a small language of its own."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 7))) for _ in range(300)]
    documents = [
        "\n".join(" ".join(rng.choices(words, k=rng.randint(3, 12))) + "." for _ in range(rng.randint(4, 12)))
        for _ in range(60)
    ]
    path.write_text("\n\n".join(documents))
    return path


def logged(folder: Path, package: str, way: str) -> list[dict]:
    """What a run of twelve steps in a framework logs."""
    options = runs.small_run(corpus(folder / "text.txt"), folder / "cache", runs.write_config(folder))
    output = folder / f"{package}-{way}".replace(" ", "-")
    done = runs.run(*options, "--sentences", "line", *WAYS[way], "--output", output, package=package)
    assert done.returncode == 0, done.stderr
    return read_log(output, METRICS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("golden")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("package", ["ms_bert", "pt_reference"])
def test_a_run_computes_what_it_did(package, way, folder):
    for line, golden in zip(logged(folder, package, way), json.loads(FILE.read_text())[way], strict=True):
        assert line.keys() == golden.keys()
        for name, value in golden.items():
            assert line[name] == pytest.approx(value, rel=1e-4), f"{name} at step {golden['step']}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        made = {way: logged(Path(place), "pt_reference", way) for way in WAYS}
    FILE.write_text(json.dumps(made, indent=1) + "\n")
