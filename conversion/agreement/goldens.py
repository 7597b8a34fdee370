"""The oracle's tensors on file, so that a machine without PyTorch can be checked against them.

`python -m conversion.agreement.goldens` makes the file anew. It holds the hash of this script and of the problems, and
a test holds its values to those that pt_reference computes. For its size, values are float64 rounded to 28 bits (2e-9),
and equal arrays are kept once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np

from conversion.agreement import cases, suite
from conversion.agreement.cases import Problem, Tensors
from conversion.agreement.suite import Key
from conversion.agreement.tolerances import Error
from ms_bert.data.files import write_atomically
from ms_bert.errors import UserError

FILE = Path(__file__).with_name("goldens.npz")
PRECISIONS = ("float32", "float16", "bfloat16")
GROUPS = ("forward", "gradients", *suite.STEPS, "evaluation")
_LEFT_OUT = ("short", "short, padded to 32")  # cases that a machine without PyTorch does without, for the file's size
_BITS = 24  # of the mantissa that are rounded away


def problems() -> dict[str, tuple[Problem, tuple[str, ...]]]:
    """The problems, each with the groups of checks that it is for."""
    small, quiet = cases.small_problem(), cases.quiet_problem()
    kept = tuple(case for case in small.cases if case.name not in _LEFT_OUT)
    return {
        "small": (dataclasses.replace(small, cases=kept), GROUPS),
        "quiet": (quiet, ("forward", "gradients")),
    }


def fingerprint() -> str:
    """A hash of this script and of the problems, as this NumPy draws them."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for problem, _ in problems().values():
        for tensors in (problem.weights, problem.moments, *(case.batch for case in problem.cases)):
            for name, value in sorted(tensors.items()):
                digest.update(name.encode() + value.tobytes())
    return digest.hexdigest()


def make(path: Path = FILE) -> None:
    """Compute the goldens with pt_reference and write the file."""
    import torch

    arrays: Tensors = {}
    same: dict[str, str] = {}
    by_tensor: dict[str, list[str]] = {}
    yardsticks: dict[str, dict[str, list[float]]] = {}
    for problem, groups in problems().values():
        reference = suite.Reference(problem)
        for group in groups:
            for (check, case), tensors in reference.exact(group).items():
                for name, value in tensors.items():
                    key, value = f"{check}|{case}|{name}", rounded(value)
                    others = by_tensor.setdefault(name, [])
                    twin = next((other for other in others if _equal(arrays[other], value)), None)
                    if twin is None:
                        arrays[key] = value
                        others.append(key)
                    else:
                        same[key] = twin
            for precision in PRECISIONS:
                for (check, case), errors in reference.yardsticks(group, precision).items():
                    told = {name: [error.norm, error.largest] for name, error in errors.items()}
                    yardsticks[f"{precision}|{check}|{case}"] = told
    about = {"fingerprint": fingerprint(), "torch": torch.__version__, "same": same, "yardsticks": yardsticks}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)
    write_atomically(path, buffer.getvalue())


def rounded(value: np.ndarray) -> np.ndarray:
    """float64 with the last bits of the mantissa rounded away."""
    bits = np.asarray(value, np.float64).view(np.uint64)
    return ((bits + np.uint64(1 << (_BITS - 1))) & ~np.uint64((1 << _BITS) - 1)).view(np.float64)


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Up to the last of the bits that are kept."""
    return a.shape == b.shape and np.allclose(a, b, rtol=2.0 ** (_BITS - 51), atol=0.0)


class Goldens:
    """An Oracle from the file, for all the problems of `problems`.

    Raises:
        UserError: the file is missing, or was made with another version of this package.
    """

    def __init__(self, path: Path = FILE):
        try:
            with np.load(path) as file:
                arrays = {name: file[name] for name in file.files}
            about = json.loads(arrays.pop("about").tobytes())
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{path} cannot be read ({error}); install the package again.") from None
        if about["fingerprint"] != fingerprint():
            raise UserError(
                f"{path} was made by another version of its script, or with other numbers than this NumPy draws; make "
                "it anew with python -m conversion.agreement.goldens, which needs PyTorch."
            )
        self._exact: dict[Key, Tensors] = {}
        for name in (*arrays, *about["same"]):
            check, case, tensor = name.split("|")
            self._exact.setdefault((check, case), {})[tensor] = arrays[about["same"].get(name, name)]
        self._yardsticks = {
            tuple(key.split("|")): {name: Error(*pair) for name, pair in told.items()}
            for key, told in about["yardsticks"].items()
        }

    def exact(self, group: str) -> dict[Key, Tensors]:
        return suite.known(group, cases.small_problem()) or {
            key: tensors for key, tensors in self._exact.items() if _in_group(key[0], group)
        }

    def yardsticks(self, group: str, precision: str) -> dict[Key, dict[str, Error]]:
        if group in suite.EXACT:
            none = {name: Error(0.0, 0.0) for tensors in self.exact(group).values() for name in tensors}
            return {key: none for key in self.exact(group)}
        return {
            (check, case): errors
            for (kind, check, case), errors in self._yardsticks.items()
            if kind == precision and _in_group(check, group)
        }


def _in_group(check: str, group: str) -> bool:
    return check == group or (group == "gradients" and check == "losses")


if __name__ == "__main__":
    make()
    print(f"{FILE}: {FILE.stat().st_size:,} bytes")
    sys.exit()
