"""From a path to the tensors of a checkpoint, by the file's own names; the format is recognised from the content."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from conversion import names, placing
from conversion.formats import FORMATS, Format, safetensors_file, tensorflow_bundle
from conversion.tensors import Tensors
from ms_bert.data.files import file_hash
from ms_bert.errors import UserError, listed
from ms_bert.run import checkpoints

_LONGEST_NAME = 500  # characters: those of BERT's parameters, optimizer and wrappers included, have up to 100


@dataclasses.dataclass(frozen=True)
class Source:
    """An opened checkpoint.

    Attributes:
        path: the file, or the prefix of a TensorFlow checkpoint. container: the kind of file.
        home: the folder in which its config and tokenizer would lie.
        tensors: by the file's own names. moments: of a run folder, `m.NAME` and `v.NAME`; else empty.
        scalars: of a run folder (step, updates, loss_scale, good_steps); else empty. position: of its loop.
        notes: what was done to the names, and what was left out with it.
    """

    path: Path
    container: str
    home: Path
    tensors: Tensors
    moments: Tensors = dataclasses.field(default_factory=dict)
    scalars: dict = dataclasses.field(default_factory=dict)
    position: dict = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def below(self, prefix: str) -> Source:
        """Only the tensors whose names begin with a prefix, without it; how many others there are is noted.

        Raises:
            UserError: no name begins with it.
        """
        tensors = {name[len(prefix) :]: tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}
        if not tensors:
            raise UserError(
                f"{self.path} has no tensor whose name begins with the --prefix {prefix[:100]!r}; inspect lists the "
                "names."
            )
        moments = {
            f"{name[:2]}{name[2 + len(prefix) :]}": tensor
            for name, tensor in self.moments.items()
            if name[2:].startswith(prefix)
        }
        count = len(self.tensors) + len(self.moments) - len(tensors) - len(moments)
        note = f"left out {count} tensors whose names do not begin with {prefix[:100]!r}, as asked"
        return dataclasses.replace(self, tensors=tensors, moments=moments, notes=(*self.notes, note))

    def renamed(self, rules: Mapping[str, str]) -> Source:
        """By other names; see `conversion.names.renamed`."""
        if not rules:
            return self
        new = names.renamed(self.tensors, rules)
        tensors = {new[name]: tensor for name, tensor in self.tensors.items()}
        moments = {f"{name[:2]}{new.get(name[2:], name[2:])}": tensor for name, tensor in self.moments.items()}
        count = sum(old != name for old, name in new.items())
        note = f"renamed {count} tensors, as asked: {', '.join(f'{old}={name}'[:100] for old, name in rules.items())}"
        return dataclasses.replace(self, tensors=tensors, moments=moments, notes=(*self.notes, note))

    def __post_init__(self) -> None:
        """No name that could do something to a terminal, or fill it, goes any further."""
        for name in (*self.tensors, *self.moments):
            if not name.isprintable() or len(name) > _LONGEST_NAME:
                raise UserError(
                    f"{self.path} has a tensor named {name[:100]!r} ({len(name)} characters); a name must be printable "
                    f"and have at most {_LONGEST_NAME} characters, so rename the tensor or leave it out."
                )


# NAME.ckpt.files is the home of NAME.ckpt, where several checkpoints lie in one folder.
OWN_COMPANIONS = ".files"

# What trainers save beside the weights.
_NO_WEIGHTS = {"training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth"}


def open_source(path: Path) -> Source:
    """Open a checkpoint: a file, a folder that holds one, a run folder, or the prefix of a TensorFlow checkpoint.

    Raises:
        UserError: there is none, or it is in no known format.
    """
    if path.is_dir():
        if (path / checkpoints.STATE).is_file():
            step = path.resolve()
            return _run(step, step.parents[1] if step.parent.name == "checkpoints" else step)
        if saved := checkpoints.steps(path):
            return _of_run(path, checkpoints.folder_of(path, saved[-1]))
        return open_source(_weights_of(path))
    if path.name.endswith(".index.json"):
        format = FORMATS["torch" if ".bin." in path.name else "safetensors"]
        return Source(path, f"sharded {format.name}", path.parent, _shards(path, format.module.read))
    prefix = tensorflow_bundle.prefix_of(path)
    if prefix is not None:
        return Source(prefix, FORMATS["tensorflow"].name, _home(prefix), tensorflow_bundle.read(prefix))
    if not path.is_file():
        target = path.name.removesuffix(".index")
        if target and placing.folder_of(path.with_name(target)).is_dir():
            raise UserError(f"a conversion to {path} is under way, or was killed before it finished; repeat it.")
        raise UserError(f"there is no {path}; name a checkpoint file, a folder with one, or a TensorFlow prefix.")
    for format in _read():
        if not format.is_prefix and format.module.recognises(path):
            return Source(path, format.name, _home(path), format.module.read(path))
    *names, last = (format.name for format in _read())
    raise UserError(
        f"{path} is not a checkpoint in a known format ({', '.join(names)} or {last}); check that the file is complete."
    )


def _read() -> list[Format]:
    """The formats that are read."""
    return [format for format in FORMATS.values() if format.is_read]


def _home(path: Path) -> Path:
    """Where the config and the tokenizer of a file lie: in a folder of its own, or beside it."""
    own = path.with_name(path.name + OWN_COMPANIONS)
    return own if own.is_dir() else path.parent


def _shards(path: Path, read: Callable[[Path], Tensors]) -> Tensors:
    """The tensors of the shards that an index file lists, all of them in its own folder."""
    try:
        places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted({str(shard) for shard in places.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is not an index of shards ({type(error).__name__}: {error}); fetch it again."
        ) from None
    tensors: Tensors = {}
    for shard in shards:
        if Path(shard).name != shard or not (path.parent / shard).is_file():
            raise UserError(f"{path} lists {shard!r}, but there is no such file beside it; fetch the missing shards.")
        found = read(path.parent / shard)
        listed = {name for name, place in places.items() if place == shard}
        if found.keys() != listed:
            other = sorted(found.keys() ^ listed)[0]
            raise UserError(f"{path} and {shard} disagree about {other[:100]!r}; fetch both again.")
        tensors.update(found)
    return tensors


def _of_run(folder: Path, step: Path) -> Source:
    """The newest checkpoint of a run, or the best one where it names one; the run's model.safetensors must be that."""
    source, published, which = _run(step, folder), folder / checkpoints.MODEL, "newest"
    best = source.position.get("best")
    if isinstance(best, dict) and type(best.get("step")) is int:
        better = checkpoints.folder_of(folder, best["step"])
        if better != step and better.is_dir():
            source, step, which = _run(better, folder), better, "best"
    if published.exists() and not published.samefile(step / checkpoints.MODEL):
        if file_hash(published) != file_hash(step / checkpoints.MODEL):
            raise UserError(
                f"{published} is not the model of {step}, the {which} checkpoint of the run; name one of the two."
            )
    return source


def _run(step: Path, home: Path) -> Source:
    """A checkpoint of a run, its checksums verified."""
    try:
        state = checkpoints.verified(step)
    except ValueError as fault:
        raise UserError(f"checkpoint {step} is damaged ({fault}); name the folder of another step.") from None
    return Source(
        step / checkpoints.MODEL,
        "run folder",
        home,
        safetensors_file.read(step / checkpoints.MODEL),
        safetensors_file.read(step / checkpoints.OPTIMIZER),
        {"step": state["step"], **state["scalars"]},
        state["position"],
    )


def _weights_of(folder: Path) -> Path:
    usual = [name for format in _read() for name in format.usual]
    patterns = [f"*{ending}" for format in _read() for ending in format.endings]
    for name in usual:
        if (folder / name).is_file():
            return folder / name
    found = sorted(path for pattern in patterns for path in folder.glob(pattern) if path.name not in _NO_WEIGHTS)
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:5])
        raise UserError(f"{folder} holds {len(found)} checkpoints ({names}); name one of them.")
    if found:
        return found[0]
    inner = sorted(path.name for path in folder.iterdir() if any((path / name).is_file() for name in usual))
    if inner:
        raise UserError(f"{folder} holds no checkpoint itself, but {listed(inner)} in it; name one.")
    raise UserError(f"{folder} holds no checkpoint (expected {', '.join((*usual, *patterns))}); name one.")
