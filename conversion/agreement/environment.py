"""What a comparison ran on: the machine and the versions, for its report."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from pathlib import Path

from ms_bert.errors import missing

PACKAGES = ("ms-bert", "mindspore", "torch", "onnxruntime", "transformers", "numpy")


def is_installed(name: str) -> bool:
    """Whether a package can be imported here."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def check_installed(*names: str) -> None:
    """Raise UserError where a package that the comparison needs is not installed."""
    for name in names:
        if not is_installed(name):
            raise missing(name, "this comparison")


def environment(device: str) -> dict[str, str]:
    """Names and values, for people."""
    described = {"MindSpore's device": device, "processor": _processor(), "cores": str(len(os.sched_getaffinity(0)))}
    described |= {"system": platform.platform(), "python": platform.python_version()}
    for name in PACKAGES:
        try:
            described[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            described[name] = "not installed"
    return described


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
