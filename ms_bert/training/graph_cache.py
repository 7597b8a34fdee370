"""Compiled training steps, kept for the next run, by MindSpore's own compile cache.

MindSpore keeps graphs by the order in which a process compiles them and looks at nothing but the text of the script
that was started: another size of model would get the graph of the first. So every training step gets a folder of its
own, named after all that its graph depends on, and MindSpore is told of it only while that step compiles. It asks for
the place once, so that only the first step of a process is kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import mindspore

import ms_bert
from ms_bert.config import BertConfig
from ms_bert.data.files import file_hash
from ms_bert.kernels import native
from ms_bert.options import Options

KEPT = 16  # folders, the last used ones; each holds 0.1 MB a layer
SWITCH, PLACE = "MS_COMPILER_CACHE_ENABLE", "MS_COMPILER_CACHE_PATH"
NOT_IN_THE_GRAPH = ("steps", "decay_steps", "decay_power", "warmup_steps", "learning_rate", "seed")
HASHES = "hashes.json"
told = False  # whether this process has told MindSpore its place
DAY = 24 * 3600  # after which a folder that is being made belongs to a process that was killed


def key(config: BertConfig, options: Options) -> str:
    """A name for the training step of these options, by this code on this MindSpore."""
    training = {k: v for k, v in dataclasses.asdict(options.training).items() if k not in NOT_IN_THE_GRAPH}
    package = Path(ms_bert.__file__).parent
    sources = sorted(package.rglob("*.py"))
    library = [native.LIBRARY] if not native.why_not() else []
    whole = {
        "config": config.to_dict(),
        "training": training,
        "examples": dataclasses.asdict(options.examples),
        "device": options.run.device,
        "versions": [mindspore.__version__, sys.version],
        # Whole paths, for a graph holds that of the library.
        "sources": [[str(path), file_hash(path)] for path in (*sources, *library)],
    }
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:24]


@contextlib.contextmanager
def kept(root: Path, name: str) -> Iterator[None]:
    """Within it, MindSpore takes the graphs that it compiles from the folder `name` of `root`, or puts them there.

    A folder that does not hold what was written to it is thrown away. That nothing can be kept is no error.
    """
    global told
    folder = root / name
    # MindSpore reads the script that was started, which must be a file.
    if told or SWITCH in os.environ or not Path(sys.argv[0]).is_file():
        yield
        return
    if not _whole(folder):
        shutil.rmtree(folder, ignore_errors=True)
        try:
            root.mkdir(parents=True, exist_ok=True)
            beside = Path(tempfile.mkdtemp(dir=root, prefix=".making-"))
        except OSError:
            yield
            return
    else:
        os.utime(folder)
        beside = None
    told = True
    os.environ.update({SWITCH: "1", PLACE: str(beside or folder)})
    try:
        yield
        if beside is not None:
            _publish(beside, folder)
    finally:
        del os.environ[SWITCH], os.environ[PLACE]
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)


def _publish(beside: Path, folder: Path) -> None:
    with contextlib.suppress(OSError):  # the disk is full, or another process was faster
        hashes = _hashes(beside)
        if hashes:
            (beside / HASHES).write_text(json.dumps(hashes))
            os.replace(beside, folder)
    with contextlib.suppress(OSError):
        folders = [path for path in folder.parent.iterdir() if not path.name.startswith(".")]
        left = [path for path in folder.parent.glob(".making-*") if time.time() - path.stat().st_mtime > DAY]
        for old in (*left, *sorted(folders, key=lambda path: path.stat().st_mtime)[:-KEPT]):
            shutil.rmtree(old, ignore_errors=True)


def _whole(folder: Path) -> bool:
    try:
        return json.loads((folder / HASHES).read_text()) == _hashes(folder)
    except (OSError, ValueError):
        return False


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != HASHES)
    return {str(path.relative_to(folder)): file_hash(path) for path in files}
