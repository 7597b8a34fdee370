"""From one checkpoint to another: written beside, read back, compared byte by byte, and then renamed."""

from __future__ import annotations

import dataclasses
import glob
import json
import os
import shutil
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from conversion import checkpoint, configs, placing
from conversion.checkpoint import FLOATS, TOKENIZER, Checkpoint
from conversion.formats import mindspore_ckpt, safetensors_file, tensorflow_bundle, torch_bin
from conversion.names import FAMILIES, WORD_EMBEDDINGS, Spelling, count_layers, written
from conversion.parameters import PARTS
from conversion.sources import OWN_COMPANIONS
from conversion.targets import TARGETS, target_of
from conversion.tensors import DTYPES, Tensor, Tensors, same_bytes
from ms_bert.config import BertConfig
from ms_bert.data.files import sync_folder, write_atomically
from ms_bert.errors import UserError
from ms_bert.run import checkpoints
from ms_bert.run.folder import RUN

_PROTOBUF_LIMIT = 2**31  # bytes
_NO_CONFIG = "there is no config beside the source, and so none beside the target; name one with --config"


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


# Which targets know a setting, by their containers.
_KNOWN_TO = {"shard_size": "folder", "optimize": "onnx", "batch_size": "mindir", "seq_length": "mindir"}


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
            self.notes.append(f"left out the optimizer's state: there is no place for it {where}")
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
    container = TARGETS[kind].container
    for name, known in _KNOWN_TO.items():
        if getattr(settings, name) != getattr(Settings, name) and container != known:
            raise UserError(f"--{name.replace('_', '-')} is nothing to a {kind} target; leave it out.")
    notes = [*_tokenizer_notes(source), *source.notes]
    notes += [f"left out {name}: {why}" for name, why in source.left_out]
    for family in dict.fromkeys((source.spelling.family, TARGETS[kind].family)):
        if FAMILIES[family].computes:
            fixed = " and ".join(FAMILIES[family].computes)
            notes.append(f"the code of {family} computes with {fixed}, whatever the config says")
    weights = {name: _cast(name, tensor, settings.dtype) for name, tensor in source.weights.items()}
    result = Result(source, path, kind, weights, dict(source.moments), notes)
    if any(weights[name].dtype != tensor.dtype for name, tensor in source.weights.items()):
        result.leave_out_moments("beside weights of another dtype than they were trained in")
    with placing.workplace(path) as place:
        _check_free(source, path, container, settings.overwrite)
        _WRITERS[container](result, place.new, settings)
        _sync_files(place.new)
        if container == "folder":
            place.place({path.name: place.new}, _replaced_folder(path, settings.overwrite))
        else:
            _place_files(result, place, container, settings.overwrite)
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
            if dtype == "bfloat16" and values.dtype == np.float64:
                values = _to_odd_float32(values)  # ml_dtypes goes by float32 and would round twice
            cast = values.astype(DTYPES[dtype])
        lost = int((np.isfinite(values) & ~np.isfinite(cast)).sum())
        if lost:
            raise UserError(f"{name}: {lost} values are too large for {dtype}; use bfloat16 or float32.")
        return cast

    return Tensor(DTYPES[dtype], tensor.shape, load)


def _to_odd_float32(values: np.ndarray) -> np.ndarray:
    """float64 to float32, what is inexact rounded to an odd last bit, so that rounding once more is right."""
    nearest = values.astype(np.float32)
    inexact = np.isfinite(nearest) & (nearest != values)
    bits = nearest.view(np.uint32)
    bits[inexact & (np.abs(nearest) > np.abs(values))] -= 1
    bits[inexact] |= 1
    return nearest


# The tokenizer


def _tokenizer_notes(source: Checkpoint) -> list[str]:
    """What is odd about the tokenizer beside the source, of whatever kind it is.

    Raises:
        UserError: one of its files is damaged: it would travel along, and nothing could load the target with it.
    """
    sizes = {}
    for file in source.tokenizer:
        try:
            sizes[file.name] = _vocabulary_size(file)
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(
                f"{file} is damaged ({error}); fetch it again, or move it away to convert without it."
            ) from None
    table = source.weights["bert.embeddings.word_embeddings.weight"].shape[0]
    notes = [
        f"{name} has ids up to {size - 1}, and the model has word embeddings up to {table - 1}"
        for name, size in sizes.items()
        if size > table
    ]
    lines, entries = (sizes.get(name, 0) for name in ("vocab.txt", "tokenizer.json"))
    if lines and entries and lines != entries:
        notes.append(f"vocab.txt has ids up to {lines - 1}, and tokenizer.json up to {entries - 1}")
    return notes


def _vocabulary_size(file: Path) -> int:
    """One more than the largest id that a file of a tokenizer tells, 0 where it tells none; of whatever kind it is.

    Raises:
        ValueError: it is not the text that it must be, or the `tokenizers` library does not load it.
    """
    text = file.read_bytes().decode("utf-8")
    if not text.strip(" \t\r\n\0"):
        raise ValueError("it is empty")
    if file.suffix != ".json":
        return len(text.rstrip("\n").split("\n"))
    if file.name == "tokenizer.json":
        try:
            entries = Tokenizer.from_str(text).get_vocab(with_added_tokens=True)
        except Exception as error:  # `tokenizers` raises nothing narrower
            raise ValueError(str(error)[:200]) from None
        return max(entries.values(), default=-1) + 1
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError(f"it is a JSON {type(content).__name__} instead of an object")
    return 0


# Where it goes


# What may lie beside a checkpoint and says what it is.
_COMPANIONS = {configs.HUGGING_FACE, configs.GOOGLE, *TOKENIZER, RUN}
# What a conversion writes into a folder, as patterns of names: only such a folder is ever replaced.
_OF_A_FOLDER = (
    configs.HUGGING_FACE,
    *TOKENIZER,
    checkpoints.MODEL,
    "model.safetensors.index.json",
    "model-*.safetensors",
)


def _own_files(path: Path, container: str) -> set[str]:
    """Names of the files of a target that are there, and of its own folder of companions."""
    own = glob.escape(path.name)
    patterns = {"tensorflow": (f"{own}.index", f"{own}.data-*"), "onnx": (own, f"{own}.data")}.get(container, (own,))
    patterns += (own + OWN_COMPANIONS,)
    return {name for name in _names_in(path.parent) if any(fnmatch(name, pattern) for pattern in patterns)}


def _names_in(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()} if folder.is_dir() else set()


def _check_free(source: Checkpoint, path: Path, container: str, overwrite: bool) -> None:
    """Raise unless the target may be written: nothing but a checkpoint is ever replaced, and that only if asked."""
    read = source.source.path.resolve()
    if container == "folder":
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file, and a folder is to be written; name another target.")
        if read.is_relative_to(os.path.realpath(path)):
            raise UserError(f"{path} holds the source itself; name another target.")
        if _replaced_folder(path, overwrite=True) and not overwrite:
            raise UserError(f"{path} is there already; name another target, or replace it with --overwrite.")
        if not path.is_symlink():  # of a link nothing but itself is replaced
            _check_foreign(path, _OF_A_FOLDER)
        return
    if path.is_dir():
        raise UserError(f"{path} is a folder, and a file is to be written; name another target.")
    own = _own_files(path, container)
    if read.parent == path.parent.resolve() and (read.name in own or f"{read.name}.index" in own):
        raise UserError(f"{path} is the source itself; name another target.")
    if own and not overwrite:
        raise UserError(
            f"{path.parent / min(own)} is there already; name another target, or replace it with --overwrite."
        )
    _check_foreign(path.with_name(path.name + OWN_COMPANIONS), _COMPANIONS)
    run = path.parent / RUN
    of_a_run = run.exists() and (path.parent / "checkpoints").is_dir() and not _is_companion(source, run)
    if of_a_run or (run.exists() and path.name == checkpoints.MODEL):
        raise UserError(f"{path.parent} is the folder of a run, whose files are its own; name another target.")
    _companions_go(source, path, container, overwrite, _COMPANIONS if source.config or source.tokenizer else set())


def _check_foreign(folder: Path, patterns: Collection[str]) -> None:
    foreign = [name for name in sorted(_names_in(folder)) if not any(fnmatch(name, pattern) for pattern in patterns)]
    if foreign:
        raise UserError(
            f"{folder} holds {foreign[0]}, which no conversion would write again, so --overwrite does not replace "
            "it; name another target."
        )


def _replaced_folder(path: Path, overwrite: bool) -> set[str]:
    """The name of a folder that is to be replaced; an empty one needs not be."""
    return {path.name} if overwrite and (path.is_symlink() or _names_in(path)) else set()


def _companions_go(source: Checkpoint, path: Path, container: str, overwrite: bool, brought: set[str]) -> str:
    """Where the config, the tokenizer and the description of the run of a file go.

    `beside` it where nothing else lies there, or those of the same model; `instead` of those there where they are of
    the checkpoint that is replaced and of no other; else `apart`, into a folder of the file's own.

    Args:
        brought: the names of those that are to be written.

    Raises:
        UserError: there are none, and what lies there would be taken for them.
    """
    own = _own_files(path, container)
    names = _names_in(path.parent) - own - {placing.folder_of(path).name}
    companions, others = names & _COMPANIONS, names - _COMPANIONS
    told = companions & {configs.HUGGING_FACE, configs.GOOGLE}
    if all(_is_companion(source, path.parent / name) for name in companions) and (told or not others):
        return "beside"
    if overwrite and own and not others and companions <= brought:
        return "instead"
    if not brought:
        if not companions:
            return "beside"
        raise UserError(
            f"{path.parent / min(companions)} is there already and is not that of this model; choose a folder of its "
            f"own for {path.name}."
        )
    return "apart"


def _is_companion(source: Checkpoint, there: Path) -> bool:
    """Whether a file beside the target says of the source what the source's own says."""
    own = source.source.home / there.name
    same = own.exists() and there.samefile(own)
    if there.name not in (configs.HUGGING_FACE, configs.GOOGLE):
        return same or (own.exists() and there.read_bytes() == own.read_bytes())
    if source.config is None:
        return False
    try:
        found = configs.read(there)
        if there.name == configs.GOOGLE:
            return configs.google(found.config)[0] == configs.google(source.config)[0]
    except UserError:
        return False
    if same:  # labels that it does not name are counted in the weights
        return found.config in (source.config, source.config.replace(id2label=None))
    return (found.config, found.architecture) == (source.config, source.architecture)


def _place_files(result: Result, place: placing.Workplace, container: str, overwrite: bool) -> None:
    """Move the files to their places, the one that makes them a checkpoint last."""
    path, old = result.target, _own_files(result.target, container)
    if old and not overwrite:
        raise UserError(f"{path.parent / min(old)} came to be there meanwhile; name another target.")
    written = _names_in(place.new)
    companions = written & _COMPANIONS
    where = _companions_go(result.source, path, container, overwrite, companions)
    entries = {name: place.new / name for name in companions}
    if where == "beside":
        entries = {name: file for name, file in entries.items() if not (path.parent / name).exists()}
    elif where == "instead":
        old |= _names_in(path.parent) & _COMPANIONS
    elif where == "apart":
        apart = place.new / (path.name + OWN_COMPANIONS)
        apart.mkdir()
        for file in entries.values():
            os.rename(file, apart / file.name)
        entries = {apart.name: apart}
        result.notes.append(
            f"{', '.join(sorted(companions))} {'lies' if len(companions) == 1 else 'lie'} in {apart.name}, for "
            f"{path.parent.resolve()} is not this model's alone"
        )
    last = (path.name, f"{path.name}.index")
    entries |= {name: place.new / name for name in sorted(written - companions, key=lambda name: name in last)}
    place.place(entries, old)


# How it is written: each writes to a staging folder, reads back and compares.


def _own_names(result: Result, spelling: Spelling) -> Tensors:
    """The weights by the names, and in the orientation, of a family."""
    names = spelling.names(count_layers(result.weights), result.source.parts)
    homeless = [name for name in result.weights if name not in names]
    if homeless:
        raise UserError(f"{result.kind} checkpoints have no place for {', '.join(homeless)}; leave it out with --drop.")
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
    if not FAMILIES[spelling.family].moments:
        result.leave_out_moments(f"by the names of {spelling.family}")
    if not result.moments:
        return {}
    names = spelling.names(count_layers(result.weights), result.source.parts)
    own: Tensors = {}
    for moment, pattern in zip("mv", FAMILIES[spelling.family].moments[0]):
        for name in result.weights:
            tensor = result.moments[f"{moment}.{name}"]
            own[pattern.format(name=names[name])] = _stored(spelling, name, tensor)
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
    """The tokenizer; and the description of the run, where its optimizer's state goes too."""
    run = result.source.source.home / RUN
    for file in (*result.source.tokenizer, *([run] if result.moments and run.is_file() else [])):
        shutil.copyfile(file, staging / file.name)


def _write_config(result: Result, staging: Path) -> None:
    if result.source.config is None:
        result.notes.append(_NO_CONFIG)
        return
    dtypes = {tensor.dtype.name for tensor in result.weights.values()}
    text = configs.hugging_face(result.source.config, result.source.architecture, dtypes)
    write_atomically(staging / configs.HUGGING_FACE, text)


def _compare(result: Result, weights: Tensors, moments: Tensors) -> None:
    """Raise unless what was read back is what was to be written, byte for byte."""
    for kind, wanted, found in (("weights", result.weights, weights), ("moments", result.moments, moments)):
        if wanted.keys() != found.keys():
            raise OSError(f"read back, the {kind} are others: {sorted(wanted.keys() ^ found.keys())[:3]}")
        with ThreadPoolExecutor(2) as pool:
            equal = pool.map(same_bytes, wanted.values(), [found[name] for name in wanted])
            for name, same in zip(wanted, equal):
                if not same:
                    raise OSError(f"read back, {name} has other bytes than were written; the disk or memory is failing")


def _read_back(result: Result, path: Path, family: str) -> None:
    """Read a checkpoint of the staging folder again and compare, while the disk takes what was written."""
    source, folder = result.source, path if path.is_dir() else path.parent
    missing = set(PARTS) - set(source.parts)
    with ThreadPoolExecutor(1) as pool:
        synced = pool.submit(_sync_files, folder)
        back = checkpoint.read(path, family, None, source.architecture, allow_missing=missing)
        _compare(result, back.weights, back.moments)
        if result.moments and back.scalars != source.scalars:
            raise OSError(f"read back, the counters are {back.scalars} and not {source.scalars}")
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
    spelling = written("hugging-face", result.source.architecture)
    weights = _own_names(result, spelling)
    if settings.shard_size is not None:
        result.leave_out_moments("in a folder of shards")
        safetensors_file.write_shards(staging, weights, {"format": "pt"}, settings.shard_size)
    else:
        if {tensor.dtype.name for tensor in weights.values()} != {"float32"}:
            result.leave_out_moments("in a run's folder, whose weights are float32,")
        safetensors_file.write(staging / checkpoints.MODEL, weights, {"format": "pt"})
        if result.moments:
            _write_training_state(result, staging, spelling)
    _copy_companions(result, staging)
    _read_back(result, staging, "hugging-face")


def _write_training_state(result: Result, staging: Path, spelling: Spelling) -> None:
    scalars = dict(result.source.scalars)
    step = scalars.pop("step")
    folder = checkpoints.folder_of(staging, step)
    folder.mkdir(parents=True)
    checkpoints.link_or_copy(staging / checkpoints.MODEL, folder / checkpoints.MODEL)
    names = spelling.names(count_layers(result.weights), result.source.parts)
    moments = {f"{k}.{names[name]}": result.moments[f"{k}.{name}"] for k in "mv" for name in result.weights}
    safetensors_file.write(folder / checkpoints.OPTIMIZER, moments, {"format": "pt"})
    checkpoints.write_state(folder, step, scalars, result.source.source.position or {"window": {}})
    sync_folder(folder)


def _write_file(result: Result, staging: Path, settings: Settings) -> None:
    """One .safetensors, MindSpore .ckpt or PyTorch file, its config and tokenizer beside it."""
    family = TARGETS[result.kind].family
    spelling = written(family, result.source.architecture)
    if result.kind in ("safetensors", "hugging-face-old"):
        result.leave_out_moments("in a single file for transformers")
    tensors = _own_names(result, spelling) | _own_moments(result, spelling)
    rows, multiple = result.weights[WORD_EMBEDDINGS].shape[0], FAMILIES[family].rows_multiple
    if rows % multiple:
        result.notes.append(
            f"the code of {family} wants a vocabulary of a multiple of {multiple}, and this one has {rows}"
        )
    path = staging / result.target.name
    if path.suffix == ".ckpt":
        mindspore_ckpt.write(path, tensors)
        if path.stat().st_size >= _PROTOBUF_LIMIT:
            result.notes.append("over 2 GiB, and MindSpore reads a .ckpt as one protobuf: take .safetensors with --to")
    elif path.suffix in (".bin", ".pt"):
        torch_bin.write(path, tensors, TARGETS[result.kind].under)
    else:
        # mindnlp and transformers refuse MindSpore's own mark, and MindSpore reads any.
        native = result.kind in ("ms_bert", "mindspore", "mindspore-models", "mindspore-models-old")
        safetensors_file.write(path, tensors, {"format": "ms" if native else "pt"})
    _write_config(result, staging)
    _copy_companions(result, staging)
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
    result.leave_out_moments("in a graph")
    return result.source.config


def _write_onnx(result: Result, staging: Path, settings: Settings) -> None:
    from conversion.formats import onnx_graph

    config = _graph_config(result)
    path = staging / result.target.name
    plain = staging / "plain" / path.name if settings.optimize else path
    plain.parent.mkdir(exist_ok=True)
    onnx_graph.write(plain, config, result.source.architecture, result.weights)
    _compare(result, onnx_graph.read(plain), {})
    if settings.optimize:
        counts = onnx_graph.optimize(plain, config, path)
        difference = onnx_graph.difference(plain, path, config)
        if difference > (1e-4 if next(iter(result.weights.values())).dtype == np.float32 else 2e-2):
            raise OSError(f"the fused graph computes something else ({difference:.1e} of the largest output)")
        fused = ", ".join(f"{n} {name}" for name, n in counts.items())
        result.notes.append(f"fused {fused}; computes the same to {difference:.1e} of the largest output")
        shutil.rmtree(plain.parent)
    _copy_companions(result, staging)
    _write_config(result, staging)


def _write_mindir(result: Result, staging: Path, settings: Settings) -> None:
    from conversion.formats import mindir

    config = _graph_config(result)
    path = staging / result.target.name
    rows = 1 if settings.batch_size is None else settings.batch_size
    tokens = min(128, config.max_position_embeddings) if settings.seq_length is None else settings.seq_length
    mindir.write(path, config, result.source.architecture, result.weights, rows, tokens)
    result.notes.append(
        f"its inputs, by position: {', '.join(mindir.INPUTS)}, int32 of shape ({rows}, {tokens}) each; load it with "
        f"mindspore.nn.GraphCell(mindspore.load({path.name!r}))"
    )
    _copy_companions(result, staging)
    _write_config(result, staging)


_WRITERS: dict[str, Callable[[Result, Path, Settings], None]] = {
    "folder": _write_folder,
    "file": _write_file,
    "tensorflow": _write_tensorflow,
    "onnx": _write_onnx,
    "mindir": _write_mindir,
}
