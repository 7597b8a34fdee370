"""Checkpoints: folders written beside, checksummed, fsynced and renamed, so that a kill at any moment loses nothing.

checkpoints/step-00001000/
  model.safetensors        weights by Hugging Face's names, float32 (float64 of a run in that precision)
  optimizer.safetensors    first and second moments as m.NAME and v.NAME, likewise
  state.json               step, the scalars of training, the loop's position, what metrics.jsonl was, SHA-256 of all
                           three files
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ms_bert.data.files import file_hash, read_bytes, remove, sync_folder, umask
from ms_bert.errors import UserError

Arrays = dict[str, np.ndarray]
FOLDER = "checkpoints"
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"


@dataclasses.dataclass(frozen=True)
class TrainingState:
    """All that a run needs to go on.

    Attributes:
        step: optimizer steps done. model, optimizer: arrays by name. scalars: of the trainer (updates, loss_scale,
            good_steps). position: of the loop (sums since the last logged line, the best evaluation).
        metrics: what `RunFolder.sync_logs` returned; None where it is not known.
    """

    step: int
    model: Arrays
    optimizer: Arrays
    scalars: dict
    position: dict
    metrics: dict | None = None


def save(run_folder: Path, state: TrainingState) -> Path:
    """Write a checkpoint; returns its folder."""
    folder = folder_of(run_folder, state.step)
    beside = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(beside, ignore_errors=True)
    folder.parent.mkdir(exist_ok=True)  # not its parents: a run folder that was removed is not made again
    beside.mkdir()
    try:
        # Transformers asks for the format of the tensors it loads.
        for name, arrays in ((MODEL, state.model), (OPTIMIZER, state.optimizer)):
            _write_arrays(beside / name, arrays)
        write_state(beside, state.step, state.scalars, state.position, state.metrics)
        sync_folder(beside)
        if os.path.lexists(folder):  # the same step, saved once more after a resume
            remove(folder)
        os.rename(beside, folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def write_state(folder: Path, step: int, scalars: dict, position: dict, metrics: dict | None = None) -> None:
    """Write the state.json of a checkpoint's folder, whose other files are there."""
    description: dict[str, Any] = {
        "step": step,
        "scalars": scalars,
        "position": position,
        **({} if metrics is None else {"metrics": metrics}),
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
    if target.exists() and target.samefile(source):
        return  # and renaming one name of a file to another would leave both
    try:
        link_or_copy(source, beside)
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Let a file be there under a second name, or a copy of it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def steps(run_folder: Path) -> list[int]:
    """The steps of which a checkpoint is there, whole or not, ascending."""
    try:
        names = set(os.listdir(run_folder / FOLDER))  # unlike glob, it tells of a folder that may not be read
    except (FileNotFoundError, NotADirectoryError):
        return []
    numbers = [name.removeprefix("step-") for name in names if name.startswith("step-")]
    steps = {int(number) for number in numbers if number.isascii() and number.isdigit()}
    return sorted(step for step in steps if folder_of(run_folder, step).name in names)


def check_begun(run_folder: Path) -> None:
    """Raise UserError unless there are checkpoints to go on from, or none was written yet."""
    if not (run_folder / FOLDER).is_dir() or (not steps(run_folder) and (run_folder / MODEL).exists()):
        raise UserError(
            f"{run_folder} holds no checkpoints to continue from; restore them, or begin a new run from its weights "
            f"with --init {run_folder} and another --output."
        )


def load_newest(run_folder: Path, warn) -> TrainingState | None:
    """The newest checkpoint whose checksums hold, or None; `warn(sentence)` is called for each that is passed over."""
    for step in reversed(steps(run_folder)):
        folder = folder_of(run_folder, step)
        try:
            return _loaded(folder, step)
        except ValueError as error:
            warn(f"checkpoint {folder} is damaged ({error}); skipping it.")
    return None


def _loaded(folder: Path, step: int) -> TrainingState:
    """The checkpoint of a folder; a ValueError says what is wrong with it."""
    state = verified(folder)
    if state["step"] != step:
        raise ValueError(f"{STATE} is for step {state['step']}")
    try:
        model, optimizer = (load_file(folder / name) for name in (MODEL, OPTIMIZER))
    except (SafetensorError, OSError, KeyError, TypeError, AttributeError) as error:  # some for types that NumPy lacks
        raise ValueError(f"its tensors cannot be read: {error}") from None
    return TrainingState(step, model, optimizer, state["scalars"], state["position"], state.get("metrics"))


def misfit(state: TrainingState, shapes: dict[str, tuple[int, ...]], kind: str) -> str | None:
    """What of a checkpoint's tensors is not as a model of these shapes and this dtype has them, or None."""
    moments = {f"{moment}.{name}": shape for moment in "mv" for name, shape in shapes.items()}
    for file, wanted, found in ((MODEL, shapes, state.model), (OPTIMIZER, moments, state.optimizer)):
        if others := wanted.keys() ^ found.keys():
            name = min(others)
            return f"{file} {'lacks' if name in wanted else 'has'} {name[:100]!r}"
        for name, shape in wanted.items():
            if (found[name].shape, found[name].dtype) != (shape, kind):
                return f"{name} of {file} is {found[name].dtype} {found[name].shape} instead of {kind} {shape}"
    return None


def set_aside(run_folder: Path, step: int) -> None:
    """Rename the checkpoints after a step: they are damaged, and must not count among the newest that are kept."""
    for later in steps(run_folder):
        if later > step:
            folder = folder_of(run_folder, later)
            aside = folder.with_name(f"damaged-{folder.name}")
            remove(aside)
            os.rename(folder, aside)


def prune(run_folder: Path, keep: int, keep_every: int, shown: int) -> None:
    """Remove all checkpoints but the newest `keep`, those of multiples of `keep_every` (0: none of these), and the one
    of step `shown`, whose weights are the run's."""
    for step in steps(run_folder)[:-keep]:
        if step != shown and (not keep_every or step % keep_every):
            folder = folder_of(run_folder, step)
            hidden = folder.with_name(f".{folder.name}.removing")  # so that a kill leaves no half of a checkpoint
            os.rename(folder, hidden)
            remove(hidden)


def sweep(run_folder: Path) -> None:
    """Remove what a killed process left half written or half removed."""
    (run_folder / f".{MODEL}.writing").unlink(missing_ok=True)
    for left in (run_folder / FOLDER).glob(".step-*"):
        remove(left)


def folder_of(run_folder: Path, step: int) -> Path:
    """The folder of a step's checkpoint."""
    return run_folder / FOLDER / f"step-{step:08d}"


def verified(folder: Path) -> dict:
    """The state.json of a checkpoint whose checksums hold; a ValueError says what is wrong with it."""
    try:
        state = json.loads(read_bytes(folder / STATE))
        expected = dict(state["sha256"])
        altered = expected.pop(STATE) != _own_hash({**state, "sha256": expected})
        others = [name for name in (MODEL, OPTIMIZER) if file_hash(folder / name) != expected[name]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{STATE} or a file it names cannot be read: {error}") from None
    if altered:
        raise ValueError(f"{STATE} was altered")
    if others:
        raise ValueError(f"{others[0]} does not match its checksum")
    if odd := _odd(state):
        raise ValueError(f"{STATE} is invalid: {odd}")
    return state


def _odd(state: dict) -> str | None:
    """What of a state.json no run can have written, although its hash holds; None: all of it is possible."""
    scalars, metrics = state.get("scalars"), state.get("metrics")
    if not isinstance(scalars, dict) or not isinstance(state.get("position"), dict):
        return "it lacks the scalars of training or the position of the loop"
    counters = {"step": state.get("step"), **{name: scalars.get(name) for name in ("updates", "good_steps")}}
    for name, value in counters.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
            return f"its {name} is not a number of steps"
    scale = scalars.get("loss_scale")
    if not isinstance(scale, (int, float)) or isinstance(scale, bool) or not 0 < scale < 2.0**127:
        return "its loss_scale is not a positive number"
    if metrics is not None and not (isinstance(metrics, dict) and type(metrics.get("bytes")) is int):
        return "its metrics is not the size and hash of a file"
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
