"""Checkpoints: folders written beside, checksummed, fsynced and renamed, so that a kill at any moment loses nothing.

checkpoints/step-00001000/
  model.safetensors        weights by Hugging Face's names, float32
  optimizer.safetensors    first and second moments as m.NAME and v.NAME, float32
  state.json               step, the scalars of training, the loop's position, SHA-256 of all three
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ms_bert.data.files import file_hash, sync_folder, umask

Arrays = dict[str, np.ndarray]
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"


@dataclasses.dataclass(frozen=True)
class TrainingState:
    """All that a run needs to go on.

    Attributes:
        step: optimizer steps done. model, optimizer: arrays by name. scalars: of the trainer (updates, loss scale).
        position: of the loop (sums since the last logged line).
    """

    step: int
    model: Arrays
    optimizer: Arrays
    scalars: dict
    position: dict


def save(run_folder: Path, state: TrainingState) -> Path:
    """Write a checkpoint and make its weights the run's newest; returns its folder."""
    folder = folder_of(run_folder, state.step)
    beside = folder.with_name(f".{folder.name}.writing")
    if not run_folder.is_dir():
        raise FileNotFoundError(2, "the folder is gone", str(run_folder))
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        # Transformers asks for the format of the tensors it loads.
        for name, arrays in ((MODEL, state.model), (OPTIMIZER, state.optimizer)):
            _write_arrays(beside / name, arrays)
        write_state(beside, state.step, state.scalars, state.position)
        sync_folder(beside)
        if folder.exists():  # the same step, saved once more after a resume
            shutil.rmtree(folder)
        os.rename(beside, folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    publish(run_folder, state.step)
    return folder


def write_state(folder: Path, step: int, scalars: dict, position: dict) -> None:
    """Write the state.json of a checkpoint's folder, whose other files are there."""
    description = {
        "step": step,
        "scalars": scalars,
        "position": position,
        "sha256": {name: file_hash(folder / name) for name in (MODEL, OPTIMIZER)},
    }
    description["sha256"][STATE] = _own_hash(description)
    (folder / STATE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    _sync(folder / STATE)


def publish(run_folder: Path, step: int) -> None:
    """Let the run's model.safetensors be that of a checkpoint."""
    source, target = folder_of(run_folder, step) / MODEL, run_folder / MODEL
    beside = target.with_name(f".{target.name}.writing")
    beside.unlink(missing_ok=True)
    link_or_copy(source, beside)
    os.replace(beside, target)


def link_or_copy(source: Path, target: Path) -> None:
    """Let a file be there under a second name, or a copy of it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def steps(run_folder: Path) -> list[int]:
    """The steps of which a checkpoint is there, ascending."""
    found = (run_folder / "checkpoints").glob("step-*")
    return sorted(int(p.name.removeprefix("step-")) for p in found if p.name.removeprefix("step-").isdigit())


def load_newest(run_folder: Path, warn) -> TrainingState | None:
    """The newest checkpoint whose checksums hold, or None; `warn(sentence)` is called for each that is passed over."""
    for step in reversed(steps(run_folder)):
        folder = folder_of(run_folder, step)
        found = fault(folder)
        if found is None:
            description = json.loads((folder / STATE).read_text(encoding="utf-8"))
            return TrainingState(
                step,
                load_file(folder / MODEL),
                load_file(folder / OPTIMIZER),
                description["scalars"],
                description["position"],
            )
        warn(f"checkpoint {folder} is damaged ({found}) and is passed over.")
    return None


def set_aside(run_folder: Path, step: int) -> None:
    """Rename the checkpoints after a step: they are damaged, and must not count among the newest that are kept."""
    for later in steps(run_folder):
        if later > step:
            folder = folder_of(run_folder, later)
            aside = folder.with_name(f"damaged-{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(folder, aside)


def prune(run_folder: Path, keep: int, keep_every: int) -> None:
    """Remove all checkpoints but the newest `keep` and those of multiples of `keep_every` (0: none of these)."""
    for step in steps(run_folder)[:-keep]:
        if not keep_every or step % keep_every:
            shutil.rmtree(folder_of(run_folder, step))


def folder_of(run_folder: Path, step: int) -> Path:
    """The folder of a step's checkpoint."""
    return run_folder / "checkpoints" / f"step-{step:08d}"


def fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint's folder, or None."""
    try:
        description = json.loads((folder / STATE).read_text(encoding="utf-8"))
        expected = dict(description["sha256"])
        if expected.pop(STATE) != _own_hash({**description, "sha256": expected}):
            return f"{STATE} was altered"
        for name, digest in expected.items():
            if file_hash(folder / name) != digest:
                return f"{name} is not what was written"
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"{STATE} or a file it names cannot be read: {error}"
    return None


def _own_hash(description: dict) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _write_arrays(path: Path, arrays: Arrays) -> None:
    try:
        save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, path, {"format": "pt"})
    except SafetensorError as error:  # the library's own wrapping of what the system said
        raise OSError(f"{path}: {error}") from None
    os.chmod(path, 0o666 & ~umask())  # the library makes it private
    _sync(path)


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
