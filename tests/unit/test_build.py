"""The wheel: what it holds, its C++ library by either compiler, and that it can be built where there is none."""

import math
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from conversion.agreement import goldens
from ms_bert import __version__
from ms_bert.kernels import native
from tests.cases import some

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
import numpy as np
from ms_bert.kernels import native
x = np.load(sys.argv[1])
y, w, b = np.empty((60, 70), "f4"), np.ones((70, 50), "f4"), np.zeros(70, "f4")
for precision in ("float32", "bfloat16"):
    kept = native.kept_of([y] if precision == "float32" else [y, x], precision)
    for name in native.INSTRUCTIONS[precision]:
        if native.use(name, precision):
            native.call("linear_gelu", [x, w, b], [y, *kept], precision)
            np.save(f"{sys.argv[1]}-{precision}-{name}.npy", y)
print(native.why_not())
print(native.LIBRARY)
"""
PACKAGES = ("ms_bert", "pt_reference", "conversion")
# Compiles nothing, and links the library that the checkout has: an environment compiles it from the same sources.
COPIER = """#!/bin/bash
from=/dev/null
[[ " $* " == *" -shared "* ]] && from=$LIBRARY
while [[ $1 != -o ]]; do shift; done
cp "$from" "$2"
"""


def build(folder: Path, **environment) -> tuple[Path, subprocess.CompletedProcess]:
    """The wheel of this tree, and what its building printed."""
    done = subprocess.run(
        [
            *(sys.executable, "setup.py", "egg_info", "--egg-base", folder, "build", "--build-base", folder / "build"),
            *("bdist_wheel", "--dist-dir", folder, "--bdist-dir", folder / "wheel"),
        ],
        cwd=ROOT,
        env={**os.environ, **environment},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel, done


@pytest.fixture
def copier(tmp_path) -> str:
    path = tmp_path / "c++"
    path.write_text(COPIER)
    path.chmod(0o755)
    return str(path)


COMPILERS = ("copier", "g++", "clang++")


@pytest.mark.parametrize("compiler", some(COMPILERS, "copier"))
def test_a_wheel_of_any_compiler_works_outside_the_checkout(compiler, copier, tmp_path):
    if compiler == "copier":
        assert native.LIBRARY.exists()
        wheel, done = build(tmp_path, CC=copier, CXX=copier, LIBRARY=str(native.LIBRARY))
    elif shutil.which(compiler):
        c = {"g++": "gcc", "clang++": "clang"}[compiler]
        wheel, done = build(tmp_path, CC=c, CXX=compiler, CXXFLAGS="-O1")  # compiles in half of the time
    else:
        pytest.skip(f"there is no {compiler}")
    assert wheel.name.startswith(f"ms_bert-{__version__}-py3-none-linux")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    library = tmp_path / "site" / "ms_bert" / "kernels" / "native" / native.LIBRARY.name
    assert library.exists(), done.stderr
    x = np.random.default_rng(0).standard_normal((60, 50), np.float32)
    np.save(tmp_path / "x.npy", x)
    environment = {name: value for name, value in os.environ.items() if name != "MS_BERT_KERNELS"}
    told = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path / "x.npy"],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(tmp_path / "site")},
        text=True,
        capture_output=True,
    )
    assert told.stdout.split() == ["None", str(library)], told.stderr
    z = np.repeat(x.astype(np.float64).sum(1, keepdims=True), 70, 1)
    found = {path.name: np.load(path) for path in tmp_path.glob("x.npy-*.npy")}
    exact = z * 0.5 * (1 + np.vectorize(math.erf)(z / 2**0.5))
    assert len(found) >= 2
    for name, y in found.items():
        assert np.abs(y - exact).max() < (0.1 if "bfloat16" in name else 1e-5), name


def test_without_a_compiler_a_wheel_is_built_without_the_library_and_lacks_nothing_else(tmp_path):
    wheel, done = build(tmp_path, CC="/no/compiler", CXX="/no/compiler")
    assert "failed" in done.stderr
    held = set(zipfile.ZipFile(wheel).namelist())
    sources = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert sources <= held
    data = {f"{package}/py.typed" for package in PACKAGES} | {str(goldens.FILE.relative_to(ROOT))}
    headers = {str(path.relative_to(ROOT)) for path in native.LIBRARY.parent.glob("*.h")}
    about = f"ms_bert-{__version__}.dist-info"
    assert headers and headers | data | {f"{about}/licenses/LICENSE", f"{about}/entry_points.txt"} <= held
    assert {name.split("/")[0] for name in held} == {*PACKAGES, about}
    assert not [name for name in held if name.endswith(".so")]
