"""From one checkpoint to another: written beside, read back, compared byte by byte, and then renamed."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from conversion import checkpoint, configs
from conversion.checkpoint import Checkpoint, transposed
from conversion.formats import mindspore_ckpt, safetensors_file, tensorflow_bundle
from conversion.names import FAMILIES, Spelling, count_layers, written
from conversion.parameters import PARTS
from conversion.targets import TARGETS, target_of
from conversion.tensors import DTYPES, Tensor, Tensors, same_bytes
from ms_bert.config import BertConfig
from ms_bert.data.files import sync_folder, umask, write_atomically
from ms_bert.errors import UserError
from ms_bert.run import checkpoints

_NO_CONFIG = "there is no config beside the source, and so none beside the target; name one with --config"
FLOATS = ("float32", "float16", "bfloat16", "float64")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a checkpoint is written.

    Attributes:
        dtype: of the weights; None: as they are. overwrite: replace what is there.
        shard_size: bytes of a shard of a folder; None: one file. optimize: ONNX Runtime's fusions.
        batch_size, seq_length: of a MindIR graph.
    """

    dtype: str | None = None
    overwrite: bool = False
    shard_size: int | None = None
    optimize: bool = False
    batch_size: int = 1
    seq_length: int = 128


@dataclasses.dataclass(frozen=True)
class Result:
    """What a conversion did.

    Attributes:
        kind: a key of TARGETS. notes: what the target has no place for, and what else is to be known.
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
            self.notes.append(f"left out the optimizer's state: {where} has no place for it")
            self.moments.clear()


def convert(source: Checkpoint, path: Path, kind: str | None = None, settings: Settings | None = None) -> Result:
    """Write a checkpoint in another format.

    Args:
        kind: a key of TARGETS; None: by the ending of the path.

    Raises:
        UserError: the format cannot hold the checkpoint, or the target is there already.
        OSError: it cannot be written; then nothing is there that was not there before.
    """
    settings = settings or Settings()
    kind, path = target_of(path, kind)
    _check_free(source, path, TARGETS[kind].container, settings)
    notes = [f"left out {name}: {why}" for name, why in source.left_out]
    weights = {name: _cast(name, tensor, settings.dtype) for name, tensor in source.weights.items()}
    result = Result(source, path, kind, weights, dict(source.moments), notes)
    with _staging(path) as staging:
        _WRITERS[TARGETS[kind].container](result, staging, settings)
        _place(staging, path, TARGETS[kind].container, settings.overwrite)
    return result


def _cast(name: str, tensor: Tensor, dtype: str | None) -> Tensor:
    """The tensor in another dtype, rounded to nearest even; finite values must stay finite."""
    if dtype is None or tensor.dtype == DTYPES[dtype]:
        return tensor
    if tensor.dtype.name not in FLOATS:
        raise UserError(f"{name} is {tensor.dtype.name}; --dtype is for floating-point weights.")

    def load() -> np.ndarray:
        values = tensor.read()
        with np.errstate(over="ignore", invalid="ignore"):
            cast = values.astype(DTYPES[dtype])
        lost = int((np.isfinite(values) & ~np.isfinite(cast)).sum())
        if lost:
            raise UserError(f"{name}: {lost} values are too large for {dtype}; use bfloat16 or float32.")
        return cast

    return Tensor(DTYPES[dtype], tensor.shape, load)


# Where it goes


def _check_free(source: Checkpoint, path: Path, container: str, settings: Settings) -> None:
    """Raise unless the target may be written."""
    main = path.with_name(path.name + ".index") if container == "tensorflow" else path
    if main.resolve() in (source.source.path.resolve(), source.source.home.resolve()):
        raise UserError(f"{path} is the source itself; name another target.")
    if not main.exists() or (main.is_dir() and container == "folder" and not any(main.iterdir())):
        return
    if not settings.overwrite:
        raise UserError(f"{main} is there already; name another target, or replace it with --overwrite.")
    if main.is_dir():
        if (main / "run.json").exists():
            raise UserError(f"{main} is the folder of a run, which --overwrite does not replace; name another target.")
        if container != "folder" or not (main / configs.HUGGING_FACE).exists():
            raise UserError(f"{main} is a folder, and not one of a checkpoint; name another target.")


@contextlib.contextmanager
def _staging(path: Path) -> Iterator[Path]:
    """A folder beside the target, gone at the end; and so is the target's own folder if it was made for nothing."""
    made = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.writing-"))
    os.chmod(folder, 0o777 & ~umask())
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if made and not any(path.parent.iterdir()):
            path.parent.rmdir()


def _place(staging: Path, path: Path, container: str, overwrite: bool) -> None:
    """Move what was written to its place: a folder at once; files with the one that makes it a checkpoint last."""
    if container == "folder":
        aside = path.with_name(f".{path.name}.replaced-{os.getpid()}")
        if path.exists():
            os.rename(path, aside)
        try:
            os.rename(staging, path)
        except OSError:
            if aside.exists():
                os.rename(aside, path)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    else:
        files = sorted(staging.iterdir(), key=lambda file: (file.name in (path.name, f"{path.name}.index"), file.name))
        for file in files:
            other = path.parent / file.name
            companion = not file.name.startswith(path.name)
            if companion and other.exists() and other.read_bytes() != file.read_bytes() and not overwrite:
                raise UserError(
                    f"{other} is there already and says something else; choose a folder of its own for {path.name}, "
                    "or replace both with --overwrite."
                )
        for file in files:
            os.replace(file, path.parent / file.name)
    sync_folder(path.parent)


# How it is written: each writes to a staging folder, reads back and compares.


def _own_names(result: Result, spelling: Spelling) -> Tensors:
    """The weights by the names, and in the orientation, of a family."""
    names = spelling.names(count_layers(result.weights), result.source.parts)
    homeless = [name for name in result.weights if name not in names]
    if homeless:
        raise UserError(f"{result.kind} checkpoints have no place for {', '.join(homeless)}; leave it out with --drop.")
    return {
        names[name]: transposed(tensor) if spelling.transposed(name) else tensor
        for name, tensor in result.weights.items()
    }


def _own_moments(result: Result, spelling: Spelling) -> Tensors:
    """The moments and scalars by the names of a family; counters as its own optimizers keep them."""
    if not result.moments:
        return {}
    names = spelling.names(count_layers(result.weights), result.source.parts)
    own: Tensors = {}
    for moment, pattern in zip("mv", FAMILIES[spelling.family].moments[0]):
        for name in result.weights:
            tensor = result.moments[f"{moment}.{name}"]
            own[pattern.format(name=names[name])] = transposed(tensor) if spelling.transposed(name) else tensor
    scalars = result.source.scalars
    if TARGETS[result.kind].container == "tensorflow":
        own["global_step"] = Tensor.of(np.array(scalars["step"], np.int64))
    else:
        own["global_step"] = Tensor.of(np.array([scalars["step"]], np.int32))
    # Only float16 training has other values than these, and other tools know none of them.
    usual = {"updates": scalars["step"], "loss_scale": 1.0, "good_steps": 0}
    for name, value in usual.items():
        if scalars.get(name, value) != value:
            kind = np.float32 if name == "loss_scale" else np.int32
            own[name] = Tensor.of(np.array(scalars[name], kind))
    return own


def _copy_companions(result: Result, staging: Path) -> None:
    for file in result.source.companions:
        shutil.copyfile(file, staging / file.name)


def _write_config(result: Result, staging: Path) -> None:
    if result.source.config is None:
        result.notes.append(_NO_CONFIG)
        return
    dtype = next(iter(result.weights.values())).dtype.name
    text = configs.hugging_face(result.source.config, result.source.architecture, dtype)
    write_atomically(staging / configs.HUGGING_FACE, text)


def _compare(result: Result, weights: Tensors, moments: Tensors) -> None:
    """Raise unless what was read back is what was to be written, byte for byte."""
    for kind, wanted, found in (("weights", result.weights, weights), ("moments", result.moments, moments)):
        if wanted.keys() != found.keys():
            raise OSError(f"read back, the {kind} are others: {sorted(wanted.keys() ^ found.keys())[:3]}")
        for name, tensor in wanted.items():
            if not same_bytes(tensor, found[name]):
                raise OSError(f"read back, {name} has other bytes than were written; the disk or memory is failing")


def _read_back(result: Result, path: Path, family: str) -> None:
    """Read a checkpoint of the staging folder again and compare, while the disk takes what was written."""
    source, folder = result.source, path if path.is_dir() else path.parent
    missing = set(PARTS) - set(source.parts)
    with ThreadPoolExecutor(1) as pool:
        synced = pool.submit(_sync_files, folder)
        back = checkpoint.read(path, family, source.config, source.architecture, allow_missing=missing)
        _compare(result, back.weights, back.moments)
        synced.result()


def _sync_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def _write_folder(result: Result, staging: Path, settings: Settings) -> None:
    """Hugging Face's folder; with moments, a checkpoint of a run in it as well."""
    if result.source.config is None:
        raise UserError(f"there is no config beside {result.source.source.path}, and a folder needs one; use --config.")
    _write_config(result, staging)
    _copy_companions(result, staging)
    spelling = written("hugging-face", result.source.architecture)
    weights = _own_names(result, spelling)
    if settings.shard_size is not None:
        safetensors_file.write_shards(staging, weights, {"format": "pt"}, settings.shard_size)
        result.leave_out_moments("a folder of shards")
    else:
        safetensors_file.write(staging / checkpoints.MODEL, weights, {"format": "pt"})
        if result.moments:
            _write_training_state(result, staging, spelling)
    _read_back(result, staging, "hugging-face")


def _write_training_state(result: Result, staging: Path, spelling: Spelling) -> None:
    scalars = dict(result.source.scalars)
    step = scalars.pop("step")
    folder = checkpoints.folder_of(staging, step)
    folder.mkdir(parents=True)
    os.link(staging / checkpoints.MODEL, folder / checkpoints.MODEL)
    names = spelling.names(count_layers(result.weights), result.source.parts)
    moments = {f"{k}.{names[name]}": result.moments[f"{k}.{name}"] for k in "mv" for name in result.weights}
    safetensors_file.write(folder / checkpoints.OPTIMIZER, moments, {"format": "pt"})
    checkpoints.write_state(folder, step, scalars, {"window": {}})
    sync_folder(folder)


def _write_file(result: Result, staging: Path, settings: Settings) -> None:
    """One .safetensors or MindSpore .ckpt, its config and tokenizer beside it."""
    family = TARGETS[result.kind].family
    spelling = written(family, result.source.architecture)
    if family in ("hugging-face", "hugging-face-old"):
        result.leave_out_moments("a single file for transformers")
    tensors = _own_names(result, spelling) | _own_moments(result, spelling)
    path = staging / result.target.name
    if path.suffix == ".ckpt":
        mindspore_ckpt.write(path, tensors)
    else:
        # mindnlp and transformers refuse MindSpore's own mark, and MindSpore reads any.
        native = family in ("mindspore", "mindspore-models", "mindspore-models-old")
        safetensors_file.write(path, tensors, {"format": "ms" if native else "pt"})
    _write_config(result, staging)
    _copy_companions(result, staging)
    if family.startswith("mindspore-models"):
        result.notes.append(
            "mindspore-ai/models computes with layer_norm_eps 1e-7 and the tanh GELU unless its code is told otherwise"
        )
    _read_back(result, path, family)


def _write_tensorflow(result: Result, staging: Path, settings: Settings) -> None:
    if result.source.config is None:
        result.notes.append(_NO_CONFIG)
    else:
        text, left_out = configs.google(result.source.config)
        write_atomically(staging / configs.GOOGLE, text)
        result.notes.extend(f"left out {name} of the config: {configs.GOOGLE} has no place for it" for name in left_out)
    _copy_companions(result, staging)
    spelling = written("tensorflow", result.source.architecture)
    prefix = staging / result.target.name
    tensorflow_bundle.write(prefix, _own_names(result, spelling) | _own_moments(result, spelling))
    _read_back(result, prefix, "tensorflow")


def _graph_config(result: Result) -> BertConfig:
    """The config, which a graph cannot do without; the moments, which it has no place for, are left out."""
    if result.source.config is None:
        raise UserError(f"there is no config beside {result.source.source.path}, and a graph needs one; use --config.")
    result.leave_out_moments("a graph")
    return result.source.config


def _write_onnx(result: Result, staging: Path, settings: Settings) -> None:
    from conversion.formats import onnx_graph

    config = _graph_config(result)
    path = staging / result.target.name
    plain = staging / f"plain.{path.name}" if settings.optimize else path
    onnx_graph.write(plain, config, result.source.architecture, result.weights)
    _compare(result, onnx_graph.read(plain), {})
    if settings.optimize:
        counts = onnx_graph.optimize(plain, config, path)
        difference = onnx_graph.difference(plain, path, config)
        if difference > (1e-4 if next(iter(result.weights.values())).dtype == np.float32 else 2e-2):
            raise OSError(f"the fused graph computes something else ({difference:.1e} of the largest output)")
        fused = ", ".join(f"{n} {name}" for name, n in counts.items())
        result.notes.append(f"fused {fused}; computes the same to {difference:.1e} of the largest output")
        for file in staging.glob(f"{plain.name}*"):
            file.unlink()
    _copy_companions(result, staging)
    _write_config(result, staging)


def _write_mindir(result: Result, staging: Path, settings: Settings) -> None:
    from conversion.formats import mindir

    config = _graph_config(result)
    path = staging / result.target.name
    mindir.write(path, config, result.source.architecture, result.weights, settings.batch_size, settings.seq_length)
    _copy_companions(result, staging)
    _write_config(result, staging)


_WRITERS: dict[str, Callable[[Result, Path, Settings], None]] = {
    "folder": _write_folder,
    "file": _write_file,
    "tensorflow": _write_tensorflow,
    "onnx": _write_onnx,
    "mindir": _write_mindir,
}
