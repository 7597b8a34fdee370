"""What works where a framework is not installed, and what is said of it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ms_bert.data import builtin
from tests.runs import assert_refused

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WITHOUT = """
import runpy, sys

without, module = sys.argv.pop(1), sys.argv.pop(1)

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == without:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Without())
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def run_without(package: str, module: str, *arguments) -> subprocess.CompletedProcess:
    """`python -m module arguments` on a machine that lacks a package."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, package, module, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        timeout=200,
    )


def test_the_pytorch_twin_trains_where_there_is_no_mindspore(options, tmp_path):
    done = run_without("mindspore", "pt_reference.pretrain", *options, "--output", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize(
    "package, module", [("mindspore", "ms_bert.pretrain"), ("torch", "pt_reference.pretrain")], ids=str
)
def test_a_framework_that_is_not_installed_is_one_sentence(package, module, options, tmp_path):
    done = run_without(package, module, *options, "--output", tmp_path / "run")
    assert_refused(done, f"needs {package}, which is not installed; pip install 'ms-bert[{package}]'.")
    assert not (tmp_path / "run").exists()


def test_the_builtin_corpus_is_made_of_the_libraries_that_are_there(monkeypatch):
    everywhere = builtin.versions()
    monkeypatch.setattr(builtin, "LIBRARIES", ("numpy", "no-such-library"))
    assert builtin.versions().items() < everywhere.items() and builtin.versions().keys() == {"python", "numpy"}
    assert next(builtin.documents())


def test_no_message_takes_a_checkout_for_granted():
    for package in ("ms_bert", "pt_reference", "conversion"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"pip install (-e|--editable|\.)|run `?make\b|\btests/", text), path
