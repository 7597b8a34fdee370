"""PyTorch's files of weights (.bin, .pt, .pth, Lightning's .ckpt), read as torch.save writes them, without PyTorch.

zip      since PyTorch 1.6, members stored and not compressed: NAME/data.pkl, the pickled object, in which a tensor is a
         view of a storage; NAME/data/KEY, the bytes of a storage; and some small ones. TorchScript's archives have
         NAME/constants.pkl too.
legacy   pickles one after another: magic number, version, description of the machine, the object, keys of the storages;
         then of each storage the size and the bytes.

Nothing of a file is executed: its pickles are gone through opcode by opcode, and what they build here is dicts, lists,
tuples, text, numbers, and descriptions of dense tensors. Whatever else a pickle asks for becomes a name without any
effect, which is let be beside the weights and refused among them. The CRC-32 of each member of a zip is checked;
torch.serialization.set_crc32_options(False) leaves all of them 0. The legacy format has no checksum.

Sources: in PyTorch's repository torch/serialization.py and torch/_utils.py, of 2.13; CPython's Lib/pickletools.py.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pickle
import pickletools
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from conversion.formats.faults import Damaged, Refused
from conversion.tensors import DTYPES, Place, Tensor, Tensors
from ms_bert.errors import UserError

# Where a dict of tensors is looked for first in a dict that is none itself.
WRAPPERS = ("state_dict", "model_state_dict", "model", "module")

_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip's member: lengths of its name and of what is added

_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_UNTYPED = "torch.storage.UntypedStorage"

# Bounds of what is believed.
_MOST_DIMENSIONS = 32  # NumPy's limit
_MOST_REPEATS = 1000  # bytes of an expanded tensor by those of the file
_DEEPEST = 3  # dicts around the weights
_MOST_BESIDE = 1000  # entries of such a dict
_MOST_COPIED = 1 << 22  # things in lists that calls of a pickle are given: few bytes can give one list many times
_MOST_OPCODES = 4_000_000
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
_RESAVE = "save it anew with PyTorch: torch.save(model.state_dict(), NEW)"


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
            raise Damaged(f"it begins with {magic[:4]!r}, neither with a zip's {_ZIP_MAGIC!r} nor with a magic number")
        weights, beside = _state(loaded)
        tensors = {name: _tensor(name, view, bytes_of) for name, view in weights.items()}
    except Damaged as fault:
        raise UserError(f"{path} is damaged or not what torch.save writes: {fault}; {_COPY_AGAIN}.") from None
    except Refused as reason:
        raise UserError(f"{path}: {reason}.") from None
    except _FAULTS as error:
        text = (str(error).strip().splitlines() or [""])[0][:300]
        raise UserError(
            f"{path} is damaged or not what torch.save writes: reading it ends with {type(error).__name__} {text!r}; "
            f"{_COPY_AGAIN}."
        ) from None
    if beside:
        more = f" and {len(beside) - 8} more" if len(beside) > 8 else ""
        warnings.warn(f"{path}: left out what is no weight: {', '.join(beside[:8])}{more}.", stacklevel=2)
    return tensors


def write(path: Path, tensors: Tensors, under: str = "") -> list[str]:
    """Write what torch.save writes of a dict of tensors, or of one under a key; all of them are held at once.

    Raises:
        UserError: PyTorch, which does it, is missing.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(f"{path} needs PyTorch to be written ({error}); pip install 'ms-bert[torch]'.") from None
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
                "it is a TorchScript archive, a program with its weights, and only weights are read; save them: "
                "torch.save(torch.jit.load(OLD, map_location='cpu').state_dict(), NEW)"
            )
        if len(pickles) != 1 or len({member.filename.lower() for member in members}) != len(members):
            raise Damaged(
                f"of its {len(members)} members {len(pickles)} are a data.pkl instead of one, or a name is there twice "
                "(PyTorch's reader ignores case)"
            )
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                raise Refused(f"{member.filename[:100]!r} in it is compressed, which PyTorch does not do; {_RESAVE}")
        if any(member.CRC for member in members) and (name := archive.testzip()) is not None:
            raise Damaged(f"{name[:100]!r} in it does not have the checksum that the zip's directory says")
        for member in members:
            member.CRC = None  # checked, or missing; else zipfile would check it here
        with archive.open(pickles[0]) as file:
            loaded = _unpickled(file)
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
        storages: dict[str, _Storage] = {}
        _, version, machine, loaded, keys = (_unpickled(file, storages) for _ in range(5))
        if version != 1001 or not isinstance(machine, dict) or not isinstance(keys, list):
            raise Damaged("what stands before its weights is not what torch.save writes there")
        places = {}
        for key in keys:
            count = int.from_bytes(file.read(8), "little")
            storage = storages.get(key) if isinstance(key, str) else None
            if storage is None:
                raise Damaged(f"no tensor says what is in the storage {str(key)[:100]!r}")
            if storage.itemsize == 0:
                raise _foreign(storage.dtype)
            places[key] = (file.tell(), count * storage.itemsize)
            if file.tell() + count * storage.itemsize > size:
                raise Damaged(f"a storage is of {count} elements and goes beyond its {size} bytes")
            file.seek(count * storage.itemsize, os.SEEK_CUR)
        return loaded, _Bytes(path, places, machine.get("little_endian") is False)


# A pickle gone through: nothing that it names is imported, called or changed


@dataclasses.dataclass(frozen=True)
class _Named:
    """A class or function that a pickle names, or anything that is made by one which is not known here."""

    name: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    """Where a tensor's values are: `dtype` is '' where the tensor says it; an unknown one is named as PyTorch does."""

    key: str
    dtype: str
    elements: int
    begin: int = 0  # of a view of a storage, in elements

    @property
    def itemsize(self) -> int:
        """Bytes of an element; 0 where it is not known."""
        return DTYPES[self.dtype].itemsize if self.dtype in DTYPES else int(self.dtype == "")


@dataclasses.dataclass(frozen=True)
class _View:
    """A dense tensor: a view of a storage, sizes in elements."""

    storage: _Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    negative: bool = False


class _Mark:
    """Where a list of arguments begins on the stack."""


_PUSHED = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)
_CONSTANTS: dict[str, Callable[[], object]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": lambda: _Named("a set"),
    "MARK": _Mark,
}
_PLAIN = (str, int, float, bool, type(None))


def _unpickled(file: BinaryIO, storages: dict[str, _Storage] | None = None) -> object:
    """What the pickle at this place of a file builds; the storages that it names are added to `storages`."""
    stack: list = []
    memo: dict[int, object] = {}
    copied = 0
    storages = {} if storages is None else storages

    def marked() -> list:
        at = next((i for i in range(len(stack) - 1, -1, -1) if type(stack[i]) is _Mark), None)
        if at is None:
            raise Damaged("its pickle ends a list that it has not begun")
        items = stack[at + 1 :]
        del stack[at:]
        return items

    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        name = opcode.name
        if number > _MOST_OPCODES:
            raise Damaged(f"its pickle has more than {_MOST_OPCODES} opcodes, and a tensor has about 30")
        if name in _PUSHED:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[argument])
        elif name in ("TUPLE", "LIST"):
            stack.append((tuple if name == "TUPLE" else list)(marked()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [_tuple_of(stack, count)]
        elif name in ("DICT", "FROZENSET"):
            items = marked()
            stack.append(_dict_of(items[::2], items[1::2]) if name == "DICT" else _Named("a set"))
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):
            items = [stack.pop()] if name == "APPEND" else marked()
            if type(stack[-1]) is list:
                stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else marked()
            if type(stack[-1]) is dict:
                stack[-1].update(_dict_of(items[::2], items[1::2]))
        elif name == "GLOBAL":
            stack.append(_Named(argument.replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_Named(f"{module}.{attribute}" if isinstance(module, str) else "something"))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, called = stack.pop(), stack.pop()
            if isinstance(arguments, tuple) and arguments and isinstance(arguments[0], (list, tuple)):
                copied += len(arguments[0])
            if copied > _MOST_COPIED:
                raise Damaged(f"its pickle gives more than {_MOST_COPIED} things to calls")
            stack.append(_made(called, arguments))
        elif name == "NEWOBJ_EX":
            del stack[-2:]
            stack.append(_made(stack.pop(), None))
        elif name in ("OBJ", "INST"):
            items = marked()
            stack.append(_Named(argument.replace(" ", ".")) if name == "INST" else _made(items[0], None))
        elif name == "BUILD":  # attributes of an object: a dict of weights has some that are no weights
            stack.pop()
        elif name == "BINPERSID":
            stack.append(_storage_of(stack.pop(), storages))
        elif name in ("EXT1", "EXT2", "EXT4"):
            stack.append(_Named(f"copyreg extension {argument}"))
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            marked()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise Damaged(f"its pickle has the opcode {name}, which torch.save does not write")
    raise Damaged("its pickle has no end")


def _tuple_of(stack: list, count: int) -> tuple:
    if len(stack) < count:
        raise Damaged("its pickle takes more from the stack than is there")
    return tuple(stack[-count:])


def _dict_of(keys: list, values: list) -> dict:
    """Keys that are text or numbers, and their values; others, whose hash may be anything, are no names of weights."""
    if len(keys) != len(values):
        raise Damaged("its pickle has a key without a value")
    return {key: value for key, value in zip(keys, values) if type(key) in _PLAIN}


def _made(called: object, arguments: object) -> object:
    """What a call makes, where it is one of those that make weights; of any other only the name stays."""
    name = called.name if isinstance(called, _Named) else "something"
    given = arguments if isinstance(arguments, tuple) else ()
    if name == "collections.OrderedDict":
        pairs = given[0] if given and isinstance(given[0], list) else []
        sound = [pair for pair in pairs if isinstance(pair, (list, tuple)) and len(pair) == 2]
        return _dict_of([key for key, _ in sound], [value for _, value in sound])
    if name == "torch.Size" and given and isinstance(given[0], (list, tuple)):
        return tuple(given[0])
    if name in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state") and given:
        return given[0]
    if name in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2") and len(given) >= 4:
        return _view(*given[:4], "", given[6] if len(given) > 6 else None)
    if name == "torch._utils._rebuild_tensor_v3" and len(given) >= 7:
        dtype = given[6].name if isinstance(given[6], _Named) else "something"
        return _view(*given[:4], dtype.removeprefix("torch."), given[7] if len(given) > 7 else None)
    return _Named(name)


def _storage_of(described: object, storages: dict[str, _Storage]) -> object:
    """A storage from what torch.save gives instead of it: ('storage', class, key, device, elements[, view])."""
    if not isinstance(described, tuple) or len(described) not in (5, 6) or described[0] != "storage":
        return _Named("something")
    _, kind, key, _, elements, *view = described
    if not isinstance(kind, _Named) or not isinstance(key, str) or not _are_counts((elements,)):
        raise Damaged(f"a storage is described by {len(described)} things of wrong kinds")
    dtype = "" if kind.name == _UNTYPED else _STORAGES.get(kind.name.removeprefix("torch."), kind.name)
    storage = _Storage(key, dtype, elements)
    if storages.setdefault(key, storage).itemsize != storage.itemsize:
        raise Damaged(f"the storage {key[:100]!r} is of two types")
    if view and view[0] is not None:
        if not isinstance(view[0], tuple) or len(view[0]) != 3 or not _are_counts(view[0][1:]):
            raise Damaged(f"a view of the storage {key[:100]!r} is not described by a key and two numbers")
        begin, size = view[0][1:]
        if begin + size > elements:
            raise Damaged(f"a view goes beyond the storage {key[:100]!r} of {elements} elements")
        storage = dataclasses.replace(storage, elements=size, begin=begin)
    return storage


def _are_counts(numbers: object) -> bool:
    return isinstance(numbers, (list, tuple)) and all(type(n) is int and 0 <= n < 1 << 60 for n in numbers)


def _view(storage: object, offset: object, shape: object, strides: object, dtype: str, metadata: object) -> object:
    if not isinstance(storage, _Storage):
        return _Named(storage.name if isinstance(storage, _Named) else "something")
    if not _are_counts((offset,)) or not _are_counts(shape) or not _are_counts(strides) or len(shape) != len(strides):
        raise Damaged("a tensor's offset, sizes and strides are not numbers from 0 on")
    if len(shape) > _MOST_DIMENSIONS:
        raise Damaged(f"a tensor has {len(shape)} dimensions")
    negative = isinstance(metadata, dict) and metadata.get("neg") is True
    return _View(storage, dtype or storage.dtype, offset, tuple(shape), tuple(strides), negative)


# From the object to the tensors


def _state(loaded: object) -> tuple[dict[str, _View], list[str]]:
    """The dict of tensors, and the names of what lies beside it."""
    if isinstance(loaded, _Named):
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
            raise Refused(f"it has dicts under {listed}, and one is expected; {_RESAVE}")
        if not inner or any(isinstance(value, _View) for value in entries.values()):
            break
        beside += [repr(str(name)[:100]) for name in entries if name != inner[0]]
        entries, where = entries[inner[0]], f"under {str(inner[0])[:100]!r} "
    others = [(name, value) for name, value in entries.items() if type(name) is not str or not isinstance(value, _View)]
    if foreign := [value for _, value in others if isinstance(value, _Named)]:
        raise _foreign(foreign[0].name)
    if others or not entries:
        listed = ", ".join(f"{str(name)[:100]!r} ({_kind(value)})" for name, value in others[:5])
        raise Refused(
            f"{where}it has {len(entries)} entries, of which {len(others)} are no "
            f"tensor with a name{f': {listed}' if others else ''}{' and more' if len(others) > 5 else ''}; expected is "
            f"a dict of names and tensors, or one under {', '.join(map(repr, WRAPPERS))}; {_RESAVE}"
        )
    return entries, beside


def _is_state(value: dict) -> bool:
    return bool(value) and all(type(name) is str and isinstance(view, _View) for name, view in value.items())


def _foreign(name: str) -> Refused:
    return Refused(
        f"it asks for {name[:100]!r}, and what is read is a dict of dense tensors of {_READ}, made without executing "
        f"anything; if you trust it, load it with PyTorch and {_RESAVE}"
    )


def _kind(value: object) -> str:
    return {_View: "Tensor", _Storage: "storage"}.get(type(value), type(value).__name__)


def _tensor(name: str, view: _View, bytes_of: _Bytes) -> Tensor:
    dtype, storage = DTYPES.get(view.dtype), view.storage
    if dtype is None or (storage.dtype and storage.dtype != view.dtype):
        raise Refused(
            f"{name[:100]!r} is of {view.dtype[:100]}, and what is read is {_READ}; cast it or leave it out and "
            f"{_RESAVE}"
        )
    begin, available = bytes_of.places.get(storage.key, (0, 0))
    elements = storage.elements if storage.dtype else storage.elements // dtype.itemsize
    if (storage.begin + elements) * dtype.itemsize > available:
        stored = (storage.begin + elements) * dtype.itemsize
        raise Damaged(f"{name[:100]!r} has a storage of {stored} bytes where the file has {available}")
    size, empty = math.prod(view.shape), 0 in view.shape
    if math.prod(max(1, n) for n in view.shape) > _MOST_VALUES:
        raise Damaged(f"{name[:100]!r} is of a shape {view.shape} that no tensor has")
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


def _contiguous(view: _View) -> bool:
    """Whether the values lie as the shape has them, one after another."""
    expected = 1
    for size, stride in zip(reversed(view.shape), reversed(view.strides)):
        if size != 1 and stride != expected:
            return 0 in view.shape
        expected *= size
    return True
