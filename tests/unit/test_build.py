"""The C++ library as it is built: by either compiler, and not at all where there is none."""

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ms_bert.kernels import native

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
import numpy as np
from ms_bert.kernels import native
x = np.load(sys.argv[1])
outputs = [np.empty((60, 70), "f4") for _ in range(2)]
for kind in native.INSTRUCTIONS:
    if native.use(kind):
        native.call("linear_gelu", [x, np.ones((70, 50), "f4"), np.zeros(70, "f4")], outputs)
        np.save(f"{sys.argv[1]}-{kind}.npy", outputs[0])
print(native.why_not())
"""


def build(folder: Path, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--build-lib", folder, "--build-temp", folder / "temporary"],
        cwd=ROOT,
        env={**os.environ, **environment},
        text=True,
        capture_output=True,
    )


@pytest.mark.parametrize("c, compiler", [("gcc", "g++"), ("clang", "clang++")])
def test_either_compiler_builds_it(c, compiler, tmp_path):
    if not shutil.which(compiler):
        pytest.skip(f"there is no {compiler}")
    done = build(tmp_path, CC=c, CXX=compiler)
    library = tmp_path / "ms_bert" / "kernels" / "native" / native.LIBRARY.name
    assert library.exists(), done.stderr
    x = np.random.default_rng(0).standard_normal((60, 50), np.float32)
    np.save(tmp_path / "x.npy", x)
    environment = {**os.environ, "MS_BERT_KERNELS": str(library), "PYTHONPATH": str(ROOT)}
    told = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path / "x.npy"], env=environment, text=True, capture_output=True
    )
    assert told.stdout.strip() == "None", told.stderr
    z = np.repeat(x.astype(np.float64).sum(1, keepdims=True), 70, 1)
    found = [np.load(path) for path in tmp_path.glob("x.npy-*.npy")]
    erf = np.vectorize(math.erf)
    assert found and all(np.abs(y - z * 0.5 * (1 + erf(z / 2**0.5))).max() < 1e-5 for y in found)


def test_without_a_compiler_the_package_is_built_without_it(tmp_path):
    done = build(tmp_path, CC="/no/compiler", CXX="/no/compiler")
    assert done.returncode == 0 and not list(tmp_path.rglob("*.so"))
    assert "failed" in done.stderr
