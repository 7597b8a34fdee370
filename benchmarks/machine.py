"""What a result was measured on, and how a command is measured."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

from conversion.agreement.environment import Processor

PACKAGES = (
    "mindspore",
    "torch",
    "transformers",
    "accelerate",
    "onnxruntime",
    "openvino",
    "numpy",
    "tokenizers",
    "pyarrow",
    "datasets",
)


def describe() -> dict:
    """Machine, versions, commit and date. A result without `cpu_family` is older than the three keys beside it."""
    processor = Processor.here()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":!results")
    return {
        "machine": {
            "cpu": processor.name,
            "cpu_family": processor.family,
            "cpu_model": processor.model,
            "cpu_stepping": processor.stepping,
            "cpu_instructions": list(processor.instructions),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(memory / 2**30, 1),
            "system": platform.platform(),
        },
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
        },
        "commit": f"{commit} with uncommitted changes" if changed else commit,
        "date": datetime.date.today().isoformat(),
    }


def _git(*arguments: str) -> str | None:
    """What git says of this folder; None: there is no git, or this is no clone."""
    git = shutil.which("git")
    if git is None:
        return None
    told = subprocess.run([git, "-C", str(Path(__file__).parent), *arguments], text=True, capture_output=True)
    return told.stdout.strip() if told.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def run_pretraining(*arguments, watch: str | None = None, package: str = "ms_bert") -> dict:
    """Run `python -m PACKAGE.pretrain`; returns its seconds, peak resident memory, and when a line was printed.

    Args:
        watch: the beginning of a line of output; `watched_seconds` is when it appeared.
    """
    watched: float | None = None
    begun, lines = time.perf_counter(), []
    process = subprocess.Popen(
        [sys.executable, "-m", f"{package}.pretrain", *map(str, arguments)],
        text=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    for line in process.stdout:
        lines.append(line.rstrip())
        print(lines[-1], flush=True)
        if watch is not None and watched is None and line.startswith(watch):
            watched = time.perf_counter() - begun
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the measured command failed: {' '.join(map(str, arguments))}")
    result = {
        "seconds": round(time.perf_counter() - begun, 2),
        "peak_memory_gb": round(usage.ru_maxrss * 1024 / 1e9, 2),
    }
    if watched is not None:
        result["watched_seconds"] = round(watched, 2)
    return {**result, "lines": lines}
