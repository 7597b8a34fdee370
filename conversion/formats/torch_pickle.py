"""What a pickle of torch.save builds, found without executing anything of it.

The pickle is gone through opcode by opcode: what it builds here is dicts, lists, tuples, text, numbers, and
descriptions of dense tensors. Nothing that it names is imported, called or changed; whatever else it asks for becomes a
name without any effect.

Sources: torch/_utils.py and torch/serialization.py of PyTorch 2.13; CPython's Lib/pickletools.py.
"""

from __future__ import annotations

import dataclasses
import pickletools
from collections.abc import Callable
from typing import BinaryIO

from conversion.formats.faults import Damaged
from conversion.tensors import DTYPES

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
_MOST_COPIED = 1 << 22  # things in lists that calls of a pickle are given: few bytes can give one list many times
_MOST_OPCODES = 4_000_000


@dataclasses.dataclass(frozen=True)
class Named:
    """A class or function that a pickle names, or anything that is made by one which is not known here."""

    name: str


@dataclasses.dataclass(frozen=True)
class Storage:
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
class View:
    """A dense tensor: a view of a storage, sizes in elements."""

    storage: Storage
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
    "EMPTY_SET": lambda: Named("a set"),
    "MARK": _Mark,
}
_PLAIN = (str, int, float, bool, type(None))


def unpickled(file: BinaryIO, storages: dict[str, Storage] | None = None) -> object:
    """What the pickle at this place of a file builds; the storages that it names are added to `storages`."""
    stack: list = []
    memo: dict[int, object] = {}
    copied = 0
    storages = {} if storages is None else storages

    def marked() -> list:
        at = next((i for i in range(len(stack) - 1, -1, -1) if type(stack[i]) is _Mark), None)
        if at is None:
            raise Damaged("its pickle ends a list that it did not begin")
        items = stack[at + 1 :]
        del stack[at:]
        return items

    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        name = opcode.name
        if number > _MOST_OPCODES:
            raise Damaged(f"its pickle has more than {_MOST_OPCODES} opcodes, but a tensor has about 30")
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
            stack.append(_dict_of(items[::2], items[1::2]) if name == "DICT" else Named("a set"))
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):
            items = [stack.pop()] if name == "APPEND" else marked()
            if type(stack[-1]) is list:
                stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else marked()
            if type(stack[-1]) is dict:
                stack[-1].update(_dict_of(items[::2], items[1::2]))
        elif name == "GLOBAL":
            stack.append(Named(argument.replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(Named(f"{module}.{attribute}" if isinstance(module, str) else "something"))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, called = stack.pop(), stack.pop()
            if isinstance(arguments, tuple) and arguments and isinstance(arguments[0], (list, tuple)):
                copied += len(arguments[0])
            if copied > _MOST_COPIED:
                raise Damaged(f"its pickle passes more than {_MOST_COPIED} items to calls")
            stack.append(_made(called, arguments))
        elif name == "NEWOBJ_EX":
            del stack[-2:]
            stack.append(_made(stack.pop(), None))
        elif name in ("OBJ", "INST"):
            items = marked()
            stack.append(Named(argument.replace(" ", ".")) if name == "INST" else _made(items[0], None))
        elif name == "BUILD":  # attributes of an object: a dict of weights has some that are no weights
            stack.pop()
        elif name == "BINPERSID":
            stack.append(_storage_of(stack.pop(), storages))
        elif name in ("EXT1", "EXT2", "EXT4"):
            stack.append(Named(f"copyreg extension {argument}"))
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
        raise Damaged("its pickle takes more from the stack than there is")
    return tuple(stack[-count:])


def _dict_of(keys: list, values: list) -> dict:
    """Keys that are text or numbers, and their values; others, whose hash may be anything, are no names of weights."""
    if len(keys) != len(values):
        raise Damaged("its pickle has a key without a value")
    return {key: value for key, value in zip(keys, values) if type(key) in _PLAIN}


def _made(called: object, arguments: object) -> object:
    """What a call makes, where it is one of those that make weights; of any other only the name stays."""
    name = called.name if isinstance(called, Named) else "something"
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
        dtype = given[6].name if isinstance(given[6], Named) else "something"
        return _view(*given[:4], dtype.removeprefix("torch."), given[7] if len(given) > 7 else None)
    return Named(name)


def _storage_of(described: object, storages: dict[str, Storage]) -> object:
    """A storage from what torch.save gives instead of it: ('storage', class, key, device, elements[, view])."""
    if not isinstance(described, tuple) or len(described) not in (5, 6) or described[0] != "storage":
        return Named("something")
    _, kind, key, _, elements, *view = described
    if not isinstance(kind, Named) or not isinstance(key, str) or not _are_counts((elements,)):
        raise Damaged(f"a storage is described by {len(described)} items of wrong types")
    dtype = "" if kind.name == _UNTYPED else _STORAGES.get(kind.name.removeprefix("torch."), kind.name)
    storage = Storage(key, dtype, elements)
    if storages.setdefault(key, storage).itemsize != storage.itemsize:
        raise Damaged(f"the storage {key[:100]!r} has two types")
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
    if not isinstance(storage, Storage):
        return Named(storage.name if isinstance(storage, Named) else "something")
    if not _are_counts((offset,)) or not _are_counts(shape) or not _are_counts(strides) or len(shape) != len(strides):
        raise Damaged("a tensor's offset, sizes and strides are not all non-negative integers")
    if len(shape) > _MOST_DIMENSIONS:
        raise Damaged(f"a tensor has {len(shape)} dimensions")
    negative = isinstance(metadata, dict) and metadata.get("neg") is True
    return View(storage, dtype or storage.dtype, offset, tuple(shape), tuple(strides), negative)
