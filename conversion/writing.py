"""A checkpoint written into an empty folder, by the names of a family and in a format, and read back from there."""

from __future__ import annotations

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from conversion import checkpoint, companions
from conversion.checkpoint import Checkpoint
from conversion.families import FAMILIES
from conversion.formats import safetensors_file
from conversion.names import WORD_EMBEDDINGS, Spelling, count_layers, written
from conversion.parameters import PARTS
from conversion.targets import TARGETS
from conversion.tensors import Tensor, Tensors, check_same
from ms_bert.data.files import sync_folder
from ms_bert.errors import UserError, listed
from ms_bert.run import checkpoints


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a checkpoint is written; None is the default, and what a target does not know must be None or False.

    Attributes:
        dtype: of the weights; None: as they are. overwrite: replace a target that is there.
        shard_size: of a folder: bytes of a shard; None: one file. optimize: of ONNX: ONNX Runtime's fusions.
        batch_size, seq_length: of a MindIR graph; None: 1 and 128.
    """

    dtype: str | None = None
    overwrite: bool = False
    shard_size: int | None = None
    optimize: bool = False
    batch_size: int | None = None
    seq_length: int | None = None


@dataclasses.dataclass(frozen=True)
class Result:
    """What a conversion does, and in the end has done.

    Attributes:
        target: its path. kind: a key of TARGETS. weights, moments: what is written, by canonical names.
        notes: what the target has no place for, and what else is to be known.
    """

    source: Checkpoint
    target: Path
    kind: str
    weights: Tensors
    moments: Tensors
    notes: list[str]

    def leave_out_moments(self, where: str) -> None:
        """Write no optimizer state, and say so if there is any."""
        if self.moments:
            self.notes.append(f"left out the optimizer's state: there is no place for it {where}")
            self.moments.clear()


def write(result: Result, folder: Path, settings: Settings) -> None:
    """Write a checkpoint and what belongs to it, read it back and compare; then it is on the disk.

    Raises:
        UserError: the target cannot hold this checkpoint. OSError: it cannot be written, or has become another one.
    """
    if TARGETS[result.kind].is_folder:
        _write_folder(result, folder, settings)
    else:
        _write_file(result, folder, settings)
    _sync_files(folder)


def _write_folder(result: Result, folder: Path, settings: Settings) -> None:
    """Hugging Face's folder; with moments, a checkpoint of a run in it as well."""
    _check_config(result, "a folder")
    spelling = written(TARGETS[result.kind].family, result.source.architecture)
    weights = _own_names(result, spelling)
    if settings.shard_size is not None:
        result.leave_out_moments("in a folder of shards")
    elif {tensor.dtype.name for tensor in weights.values()} != {"float32"}:
        result.leave_out_moments("in a folder whose weights are not float32")
    _write_companions(result, folder)
    companions.write_modules(result.source, folder)
    if settings.shard_size is not None:
        safetensors_file.write_shards(folder, weights, {"format": "pt"}, settings.shard_size)
    else:
        safetensors_file.write(folder / checkpoints.MODEL, weights, {"format": "pt"})
        if result.moments:
            _write_training_state(result, folder, spelling)
    _read_back(result, folder)


def _write_file(result: Result, folder: Path, settings: Settings) -> None:
    """A checkpoint of one of FORMATS."""
    target, path = TARGETS[result.kind], folder / result.target.name
    format = target.format_of(path)
    if target.without_moments:
        result.leave_out_moments(target.without_moments)
    if format.graph:
        _check_config(result, "a graph")
        tensors = result.weights
    else:
        spelling = written(target.family, result.source.architecture)
        tensors = _own_names(result, spelling) | _own_moments(result, spelling)
        _note_rows(result)
    _write_companions(result, folder)
    if modules := companions.modules_of(result.source.source.home):
        result.notes.append(
            f"left out {listed(modules)}: a file has no place for what sentence-transformers adds, such as its pooling"
        )
    known = {
        "config": result.source.config,
        "architecture": result.source.architecture,
        "metadata": {"format": "ms" if target.native else "pt"},
        "under": target.under,
        **vars(settings),
    }
    taken = {name: known[name] for name in format.takes}
    result.notes.extend(format.module.write(path=path, tensors=tensors, **taken))
    if not format.graph:
        _read_back(result, path)


def _check_config(result: Result, what: str) -> None:
    if result.source.config is None:
        raise UserError(
            f"no config was found beside {result.source.source.path}, but {what} needs one; name it with --config."
        )


def _write_companions(result: Result, folder: Path) -> None:
    dtypes = {tensor.dtype.name for tensor in result.weights.values()}
    with_run = bool(result.moments)
    result.notes.extend(companions.write(result.source, folder, TARGETS[result.kind].config, dtypes, with_run))


def _note_rows(result: Result) -> None:
    family = TARGETS[result.kind].family
    rows, multiple = result.weights[WORD_EMBEDDINGS].shape[0], FAMILIES[family].rows_multiple
    if rows % multiple:
        result.notes.append(
            f"the code of {family} needs a vocab_size that is a multiple of {multiple}, but it is {rows}"
        )


# By the names of a family


def _own_names(result: Result, spelling: Spelling) -> Tensors:
    """The weights by the names, and in the orientation, of a family."""
    names = spelling.names(count_layers(result.weights), result.source.parts)
    homeless = [name for name in result.weights if name not in names]
    if homeless:
        raise UserError(
            f"{result.kind} checkpoints have no place for {', '.join(homeless)}; leave that part out with --drop."
        )
    own = {names[name]: _stored(spelling, name, tensor) for name, tensor in result.weights.items()}
    if FAMILIES[spelling.family].stores_tied and "mlm" in result.source.parts:
        own |= {name: own[names[canonical]] for name, canonical in spelling.tied().items()}
    return own


def _stored(spelling: Spelling, canonical: str, tensor: Tensor) -> Tensor:
    """A tensor as a family stores it."""
    layout = spelling.layout(canonical)
    return layout.made(tensor) if layout and layout.made else tensor


def _own_moments(result: Result, spelling: Spelling) -> Tensors:
    """The moments and scalars by the names of a family; counters as its own optimizers keep them."""
    family = FAMILIES[spelling.family]
    if not family.moments:
        result.leave_out_moments(f"in the naming scheme of {spelling.family}")
    if not result.moments:
        return {}
    names = spelling.names(count_layers(result.weights), result.source.parts)
    own: Tensors = {}
    for moment, pattern in zip("mv", family.moments[0]):
        for name in result.weights:
            tensor = result.moments[f"{moment}.{name}"]
            own[pattern.format(name=names[name])] = _stored(spelling, name, tensor)
    scalars = result.source.scalars
    dtype, shape = family.step
    own["global_step"] = Tensor.of(np.full(shape, scalars["step"], dtype))
    # Only float16 training has other values than these, and other tools know none of them.
    usual = {"updates": scalars["step"], "loss_scale": 1.0, "good_steps": 0}
    for name, value in usual.items():
        if scalars.get(name, value) != value:
            kind = np.float32 if name == "loss_scale" else np.int32
            own[name] = Tensor.of(np.array(scalars[name], kind))
    return own


def _write_training_state(result: Result, folder: Path, spelling: Spelling) -> None:
    scalars = dict(result.source.scalars)
    step = scalars.pop("step")
    state = checkpoints.folder_of(folder, step)
    state.mkdir(parents=True)
    checkpoints.link_or_copy(folder / checkpoints.MODEL, state / checkpoints.MODEL)
    names = spelling.names(count_layers(result.weights), result.source.parts)
    moments = {f"{k}.{names[name]}": result.moments[f"{k}.{name}"] for k in "mv" for name in result.weights}
    safetensors_file.write(state / checkpoints.OPTIMIZER, moments, {"format": "pt"})
    checkpoints.write_state(state, step, scalars, result.source.source.position or {"window": {}})
    sync_folder(state)


# Read back


def _read_back(result: Result, path: Path) -> None:
    """Read what was written and compare, while the disk takes it."""
    source, folder = result.source, path if path.is_dir() else path.parent
    missing = set(PARTS) - set(source.parts)
    with ThreadPoolExecutor(1) as pool:
        synced = pool.submit(_sync_files, folder)
        back = checkpoint.read(path, TARGETS[result.kind].family, None, source.architecture, allow_missing=missing)
        check_same("weights", result.weights, back.weights)
        check_same("moments", result.moments, back.moments)
        if result.moments and back.scalars != source.scalars:
            raise OSError(f"read back, the counters are {back.scalars} instead of {source.scalars}")
        synced.result()


def _sync_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
