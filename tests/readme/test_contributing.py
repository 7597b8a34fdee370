"""CONTRIBUTING names files and commands that are there, and a changelog that has a place for what is new."""

import re
from pathlib import Path

import pytest

from ms_bert import __version__

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
CODE = re.findall(r"`([^`\n]+)`", TEXT)
PATHS = sorted({code for code in CODE if re.fullmatch(r"\.?[\w.]+(/[\w.]*)+|\w+\.(md|txt|toml)", code)})


def test_there_are_paths():
    assert len(PATHS) > 20 and ".ci/run" in PATHS


@pytest.mark.parametrize("path", [path for path in PATHS if "QUESTION" not in path and not path.startswith(".venv")])
def test_every_path_is_there(path):
    assert (ROOT / path).exists()


def test_every_target_of_make_is_there_and_told():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split())
    assert {code.split()[1] for code in CODE if code.startswith("make ")} == targets - {"clean"}


def test_every_table_is_in_the_file_that_it_is_said_to_be_in():
    rows = [line.split(" | ", 1) for line in TEXT.splitlines() if line.startswith("| `")]
    said = [
        (path, table)
        for files, what in rows
        for path in re.findall(r"`([^`]+)`", files)
        for table in re.findall(r"(?:rows? of|name in) ([A-Z_]+)", what)
    ]
    assert len(said) >= 9
    for path, table in said:
        assert re.search(rf"\b{table}\b", (ROOT / path).read_text(encoding="utf-8")), (path, table)


def test_the_changelog_has_this_version_and_a_place_for_what_is_new():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[(.*?)\]", changes, re.M)[:2] == ["Unreleased", __version__]
