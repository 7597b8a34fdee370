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
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import mindspore

import ms_bert
from ms_bert.config import BertConfig
from ms_bert.data.files import file_hash
from ms_bert.kernels import native, operations
from ms_bert.options import TrainerOptions
from ms_bert.tasks import Task

KEPT = 16  # folders, the last used ones; each holds 0.1 MB a layer
SWITCH, PLACE = "MS_COMPILER_CACHE_ENABLE", "MS_COMPILER_CACHE_PATH"
NOT_IN_THE_GRAPH = (
    "steps",
    "schedule",
    "cooldown_steps",
    "decay_steps",
    "decay_power",
    "warmup_steps",
    "learning_rate",
    "seed",
    "epochs",
    "warmup_share",
    "teacher",  # only what is learned from it, which the fields of a batch and other options tell
    "augment",
    "augment_share",
    "augment_model",
)
HASHES = "hashes.json"
told = False  # whether this process has told MindSpore its place
MAKING, COPY = ".making-", "ms_bert-graphs-"  # what folders in work are called, in the cache and among temporary files
DAY = 24 * 3600  # after which such a folder belongs to a process that was killed


def key(config: BertConfig, options: TrainerOptions, task: Task, shapes: Sequence[dict]) -> str:
    """A name for the training steps of a task with these options, by this code on this MindSpore.

    Args:
        shapes: of the fields of a batch, for each graph.
    """
    training = {k: v for k, v in dataclasses.asdict(options.training).items() if k not in NOT_IN_THE_GRAPH}
    package = Path(ms_bert.__file__).parent
    sources = [path for path in sorted(package.rglob("*.py")) if path.is_file()]
    library = [native.LIBRARY] if not native.why_not() else []
    device, precision = options.run.device, options.training.precision
    whole = {
        "config": config.to_dict(),
        "training": training,
        # Those that compute here: whether products in bfloat16 are a gain is timed, on each machine.
        "kernels": operations(device, precision, options.mindspore.kernels).name,
        "task": [task.name, task.architecture],
        "shapes": shapes,
        "device": device,
        "versions": [mindspore.__version__, sys.version],
        # Whole paths, for a graph holds that of the library.
        "sources": [[str(path), file_hash(path)] for path in (*sources, *library)],
        # MindSpore compares the script that was started and what it imports from outside sys.path.
        "script": [_script(), [path for path in sys.path if str(package).startswith(path)]],
    }
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:24]


def _script() -> list[str] | None:
    """The path and the hash of the script that was started; MindSpore reads it as Python."""
    path = Path(sys.argv[0]).absolute()
    return [str(path), file_hash(path)] if path.suffix == ".py" and path.is_file() else None


@contextlib.contextmanager
def kept(root: Path, name: str) -> Iterator[None]:
    """Within it, MindSpore takes the graphs that it compiles from the folder `name` of `root`, or puts them there.

    A folder that does not hold what was written to it, or from which MindSpore took nothing, or with which the step
    failed, is thrown away. That nothing can be kept or read is no error.
    """
    global told
    folder = root / name
    before = place = None
    if not told and SWITCH not in os.environ and _script():
        before = _whole(folder)
        with contextlib.suppress(OSError):
            place = _copy(folder, before) if before else _beside(folder)
    if place is None:
        yield
        return
    told = True
    os.environ.update({SWITCH: "1", PLACE: str(place)})
    try:
        yield
        if not before:
            _publish(place, folder)
        elif _hashes(place) != before:
            shutil.rmtree(folder, ignore_errors=True)
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        del os.environ[SWITCH], os.environ[PLACE]
        shutil.rmtree(place, ignore_errors=True)


def _copy(folder: Path, hashes: dict[str, str]) -> Path | None:
    """A copy to work with, for MindSpore writes where it does not like what it finds; None: it was not to be had."""
    _sweep(Path(tempfile.gettempdir()).glob(f"{COPY}*"))
    place = Path(tempfile.mkdtemp(prefix=COPY))
    with contextlib.suppress(OSError):  # another process may throw the folder away meanwhile
        shutil.copytree(folder, place, dirs_exist_ok=True)
        if _hashes(place) == hashes:
            with contextlib.suppress(OSError):  # the cache may be for reading only
                os.utime(folder)
            return place
    shutil.rmtree(place, ignore_errors=True)
    return None


def _beside(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=folder.parent, prefix=MAKING))


def _publish(place: Path, folder: Path) -> None:
    with contextlib.suppress(OSError):  # the disk is full, or another process was faster
        hashes = _hashes(place)
        if hashes:
            (place / HASHES).write_text(json.dumps(hashes))
            os.replace(place, folder)
    with contextlib.suppress(OSError):
        folders = [path for path in folder.parent.iterdir() if not path.name.startswith(".")]
        for old in sorted(folders, key=lambda path: path.stat().st_mtime)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        _sweep(folder.parent.glob(f"{MAKING}*"))


def _sweep(folders: Iterable[Path]) -> None:
    """Remove those of processes that were killed."""
    for path in folders:
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > DAY:
                shutil.rmtree(path, ignore_errors=True)


def _whole(folder: Path) -> dict[str, str] | None:
    """The hashes of the files of a folder that holds what was written to it, else None."""
    try:
        hashes = json.loads((folder / HASHES).read_text())
        return hashes if hashes == _hashes(folder) else None
    except (OSError, ValueError, RecursionError):
        return None


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != HASHES)
    return {str(path.relative_to(folder)): file_hash(path) for path in files}
