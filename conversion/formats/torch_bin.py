"""PyTorch's files of weights (.bin, .pt, .pth, Lightning's .ckpt), read as torch.save writes them, without PyTorch.

zip      since PyTorch 1.6, members stored and not compressed: NAME/data.pkl, the pickled object, in which a tensor is a
         view of a storage; NAME/data/KEY, the bytes of a storage; and some small ones. TorchScript's archives have
         NAME/constants.pkl too.
legacy   pickles one after another: magic number, version, description of the machine, the object, keys of the storages;
         then of each storage the size and the bytes.

Nothing of a file is executed (see `conversion.formats.torch_pickle`). What a pickle asks for besides dense tensors is
let be beside the weights and refused among them. The CRC-32 of each member of a zip is checked;
torch.serialization.set_crc32_options(False) leaves all of them 0. The legacy format has no checksum.

Source: in PyTorch's repository torch/serialization.py, of 2.13.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import numpy as np

from conversion.formats.faults import Damaged, Refused
from conversion.formats.torch_pickle import Named, Storage, View, unpickled
from conversion.tensors import DTYPES, Place, Tensor, Tensors
from ms_bert.errors import UserError

# Where a dict of tensors is looked for first in a dict that is none itself.
WRAPPERS = ("state_dict", "model_state_dict", "model", "module")

_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip's member: lengths of its name and of what is added

# Bounds of what is believed.
_MOST_REPEATS = 1000  # bytes of an expanded tensor by those of the file
_DEEPEST = 3  # dicts around the weights
_MOST_BESIDE = 1000  # entries of such a dict
_MOST_VALUES = 1 << 60

# What damaged bytes raise in zipfile, pickletools and here.
_FAULTS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)

_READ = ", ".join(DTYPES)
_COPY_AGAIN = "copy or download the file again"
_RESAVE = "save it again with PyTorch: torch.save(model.state_dict(), NEW)"


def recognises(path: Path) -> bool:
    """Whether a file is a zip with FOLDER/data.pkl, or begins with the magic number as torch pickles it."""
    try:
        if _magic(path) == _LEGACY_MAGIC:
            return True
        if not _magic(path).startswith(_ZIP_MAGIC):
            return False
        with zipfile.ZipFile(path) as archive:
            return any(_inner(name) == "data.pkl" for name in archive.namelist())
    except _FAULTS:
        return False


def read(path: Path) -> Tensors:
    """The tensors of a file, by name: a dict of them, or one within dicts, as training checkpoints have it.

    Values stay in the file until they are asked for. What lies beside the weights is left out with a warning.

    Raises:
        UserError: there is no such file, it is damaged or no such file, or among the weights are other things than
            dense tensors, or other dtypes.
    """
    try:
        magic = _magic(path)
    except FileNotFoundError:
        raise UserError(f"there is no {path}; name a file that torch.save wrote.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); name a file that torch.save wrote.") from None
    try:
        if magic.startswith(_ZIP_MAGIC):
            loaded, bytes_of = _open_zip(path)
        elif magic == _LEGACY_MAGIC:
            loaded, bytes_of = _open_legacy(path)
        else:
            raise Damaged(
                f"it begins with {magic[:4]!r}, neither with a zip's {_ZIP_MAGIC!r} nor with torch.save's number"
            )
        weights, beside = _state(loaded)
        tensors = {name: _tensor(name, view, bytes_of) for name, view in weights.items()}
    except Damaged as fault:
        raise UserError(f"{path} is damaged or not what torch.save writes: {fault}; {_COPY_AGAIN}.") from None
    except Refused as reason:
        raise UserError(f"{path}: {reason}.") from None
    except _FAULTS as error:
        text = (str(error).strip().splitlines() or [""])[0][:300]
        raise UserError(
            f"{path} is damaged or not what torch.save writes: reading it fails with {type(error).__name__} {text!r}; "
            f"{_COPY_AGAIN}."
        ) from None
    if beside:
        more = f" and {len(beside) - 8} more" if len(beside) > 8 else ""
        warnings.warn(f"{path}: left out what is not a weight: {', '.join(beside[:8])}{more}.", stacklevel=2)
    return tensors


def write(path: Path, tensors: Tensors, under: str = "") -> list[str]:
    """Write what torch.save writes of a dict of tensors, or of one under a key; all of them are held at once.

    Raises:
        UserError: PyTorch, which does it, is missing.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(f"writing {path} needs PyTorch ({error}); pip install 'ms-bert[torch]'.") from None
    made: dict[int, torch.Tensor] = {}  # what is tied is stored once

    def of(tensor: Tensor) -> torch.Tensor:
        if id(tensor) not in made:
            values = tensor.read()
            bits = torch.from_numpy(values.view(np.int16) if tensor.dtype == DTYPES["bfloat16"] else values)
            made[id(tensor)] = bits.view(torch.bfloat16) if tensor.dtype == DTYPES["bfloat16"] else bits
        return made[id(tensor)]

    state = {name: of(tensor) for name, tensor in tensors.items()}
    with open(path, "wb") as file:
        torch.save({under: state} if under else state, file)
        file.flush()
        os.fsync(file.fileno())
    return []


def _magic(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(len(_LEGACY_MAGIC))


def _inner(name: str) -> str:
    """A member's name without the folder, which is named as the file was when it was written."""
    return name.partition("/")[2]


# The two containers: the pickled object, and where the bytes of its storages lie


@dataclasses.dataclass(frozen=True)
class _Bytes:
    """The bytes of the storages of a file; `places` by key: offset and size."""

    path: Path
    places: Mapping[str, tuple[int, int]]
    swapped: bool  # big-endian


def _open_zip(path: Path) -> tuple[object, _Bytes]:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        pickles = [member for member in members if _inner(member.filename) == "data.pkl"]
        if any(_inner(member.filename) == "constants.pkl" for member in members):
            raise Refused(
                "it is a TorchScript archive, a program with its weights, but only weights can be read; save them: "
                "torch.save(torch.jit.load(OLD, map_location='cpu').state_dict(), NEW)"
            )
        if len(pickles) != 1 or len({member.filename.lower() for member in members}) != len(members):
            raise Damaged(
                f"{len(pickles)} of its {len(members)} members are a data.pkl instead of one, or a name occurs twice "
                "(PyTorch's reader ignores case)"
            )
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                raise Refused(f"its member {member.filename[:100]!r} is compressed, unlike PyTorch's; {_RESAVE}")
        if any(member.CRC for member in members) and (name := archive.testzip()) is not None:
            raise Damaged(f"its member {name[:100]!r} does not match the checksum in the zip's directory")
        for member in members:
            member.CRC = None  # checked, or missing; else zipfile would check it here
        with archive.open(pickles[0]) as file:
            loaded = unpickled(file)
        places = {}
        with open(path, "rb") as file:
            for member in members:
                if _inner(member.filename).startswith("data/"):
                    file.seek(member.header_offset)
                    lengths = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
                    begin = member.header_offset + _LOCAL_HEADER.size + sum(lengths)
                    places[_inner(member.filename)[len("data/") :]] = (begin, member.file_size)
        orders = [member for member in members if _inner(member.filename) == "byteorder"]
        return loaded, _Bytes(path, places, any(archive.read(member) == b"big" for member in orders))


def _open_legacy(path: Path) -> tuple[object, _Bytes]:
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        storages: dict[str, Storage] = {}
        _, version, machine, loaded, keys = (unpickled(file, storages) for _ in range(5))
        if version != 1001 or not isinstance(machine, dict) or not isinstance(keys, list):
            raise Damaged("the part before its weights is not what torch.save writes there")
        places = {}
        for key in keys:
            count = int.from_bytes(file.read(8), "little")
            storage = storages.get(key) if isinstance(key, str) else None
            if storage is None:
                raise Damaged(f"no tensor uses the storage {str(key)[:100]!r}")
            if storage.itemsize == 0:
                raise _foreign(storage.dtype)
            places[key] = (file.tell(), count * storage.itemsize)
            if file.tell() + count * storage.itemsize > size:
                raise Damaged(f"a storage has {count} elements and goes beyond the file's {size} bytes")
            file.seek(count * storage.itemsize, os.SEEK_CUR)
        return loaded, _Bytes(path, places, machine.get("little_endian") is False)


# From the object to the tensors


def _state(loaded: object) -> tuple[dict[str, View], list[str]]:
    """The dict of tensors, and the names of what lies beside it."""
    if isinstance(loaded, Named):
        raise _foreign(loaded.name)
    if not isinstance(loaded, dict):
        raise Refused(f"it has a {_kind(loaded)} instead of a dict of tensors; {_RESAVE}")
    entries, beside, where = loaded, [], ""
    for _ in range(_DEEPEST):
        inner = [name for name in WRAPPERS if isinstance(entries.get(name), dict)]
        if not inner:
            some = islice(entries.items(), _MOST_BESIDE)
            inner = [name for name, value in some if isinstance(value, dict) and _is_state(value)]
        if len(inner) > 1:
            listed = " and ".join(repr(str(name)[:100]) for name in inner[:5])
            raise Refused(f"it has dicts under {listed}, but only one is expected; {_RESAVE}")
        if not inner or any(isinstance(value, View) for value in entries.values()):
            break
        beside += [repr(str(name)[:100]) for name in entries if name != inner[0]]
        entries, where = entries[inner[0]], f"under {str(inner[0])[:100]!r} "
    others = [(name, value) for name, value in entries.items() if type(name) is not str or not isinstance(value, View)]
    if foreign := [value for _, value in others if isinstance(value, Named)]:
        raise _foreign(foreign[0].name)
    if others or not entries:
        listed = ", ".join(f"{str(name)[:100]!r} ({_kind(value)})" for name, value in others[:5])
        raise Refused(
            f"{where}it has {len(entries)} entries, of which {len(others)} are not "
            f"named tensors{f': {listed}' if others else ''}{' and more' if len(others) > 5 else ''}; expected a dict "
            f"of names and tensors, or such a dict under {', '.join(map(repr, WRAPPERS))}; {_RESAVE}"
        )
    return entries, beside


def _is_state(value: dict) -> bool:
    return bool(value) and all(type(name) is str and isinstance(view, View) for name, view in value.items())


def _foreign(name: str) -> Refused:
    return Refused(
        f"it asks for {name[:100]!r}, but only a dict of dense tensors of {_READ} can be read, without executing code; "
        f"if you trust it, load it with PyTorch and {_RESAVE}"
    )


def _kind(value: object) -> str:
    return {View: "Tensor", Storage: "storage"}.get(type(value), type(value).__name__)


def _tensor(name: str, view: View, bytes_of: _Bytes) -> Tensor:
    dtype, storage = DTYPES.get(view.dtype), view.storage
    if dtype is None or (storage.dtype and storage.dtype != view.dtype):
        raise Refused(
            f"{name[:100]!r} has the dtype {view.dtype[:100]}, but only {_READ} can be read; cast it or leave it out, "
            f"and {_RESAVE}"
        )
    begin, available = bytes_of.places.get(storage.key, (0, 0))
    elements = storage.elements if storage.dtype else storage.elements // dtype.itemsize
    if (storage.begin + elements) * dtype.itemsize > available:
        stored = (storage.begin + elements) * dtype.itemsize
        raise Damaged(f"{name[:100]!r} has a storage of {stored} bytes, but the file has {available}")
    size, empty = math.prod(view.shape), 0 in view.shape
    if math.prod(max(1, n) for n in view.shape) > _MOST_VALUES:
        raise Damaged(f"{name[:100]!r} has the impossible shape {view.shape}")
    span = 0 if empty else 1 + sum((n - 1) * stride for n, stride in zip(view.shape, view.strides))
    if not empty and view.offset + span > elements:
        raise Damaged(f"{name[:100]!r} of shape {view.shape} goes beyond its storage of {elements} elements")
    if size * dtype.itemsize > _MOST_REPEATS * max(1, available):
        raise Refused(f"{name[:100]!r} of shape {view.shape} repeats few values too often for a weight; {_RESAVE}")
    place = Place(bytes_of.path, begin + (storage.begin + view.offset) * dtype.itemsize, span * dtype.itemsize)

    def read() -> np.ndarray:
        # As integers: no copy of a float may touch the bits of a NaN.
        bits = np.dtype(f"u{dtype.itemsize}")
        flat, filled = np.empty(span, bits), 0
        for block in place.blocks():
            flat.view(np.uint8)[filled : filled + len(block)] = block
            filled += len(block)
        if bytes_of.swapped:
            flat = flat.byteswap()
        strides = [stride * dtype.itemsize for stride in view.strides]
        values = np.lib.stride_tricks.as_strided(flat, view.shape, strides).copy()
        if view.negative and dtype.name in ("float64", "float32", "float16", "bfloat16"):
            values ^= bits.type(1 << (8 * dtype.itemsize - 1))
        elif view.negative:
            values = bits.type(0) - values
        return values.view(dtype)

    plain = _contiguous(view) and not bytes_of.swapped and not view.negative
    return Tensor(dtype, view.shape, read, place if plain else None)


def _contiguous(view: View) -> bool:
    """Whether the values lie as the shape has them, one after another."""
    expected = 1
    for size, stride in zip(reversed(view.shape), reversed(view.strides)):
        if size != 1 and stride != expected:
            return 0 in view.shape
        expected *= size
    return True
