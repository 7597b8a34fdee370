"""MindSpore's checkpoints (.ckpt), read and written without MindSpore.

The file is one message of protobuf without header, version or end; none but these fields are in it:

Checkpoint    1 value: repeated Value
Value         1 tag: the name; 2 tensor: TensorProto; or 3 maptensor: of a MapParameter, which is not read
TensorProto   1 dims: repeated int64, none for a scalar and [0] for one that a MindSpore 1 or early 2 wrote;
              2 tensor_type: "Float32"; 3 tensor_content: the values, little-endian, row-major

A tensor of more than 512 MiB is in several values one after another, each with the whole tag, dims and type and with a
part of the content. save_checkpoint(..., crc_check=True) ends the file with "crc_num" and the CRC-32 of what is before
it, 10 bytes big-endian. This is all that guards the values; and where it is missing, a file that ends between two
values is a sound one of fewer tensors. An encrypted file begins with one of three numbers.

Sources: in MindSpore's repository mindspore/train/serialization.py (_exec_save, _parse_ckpt_proto,
_load_ckpt_into_param_dict), mindspore/train/checkpoint.proto and mindspore/core/utils/crypto.cc, of 2.10. The writer
makes of the same tensors the bytes that save_checkpoint makes. MindSpore loads no file above protobuf's 2 GiB.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from conversion.formats import wire
from conversion.formats.faults import Damaged, Refused
from conversion.tensors import DTYPES, Tensor, Tensors
from ms_bert.errors import UserError

SLICE = 512 << 20  # bytes of content of one value
_PROTOBUF_LIMIT = 1 << 31  # bytes: from here on MindSpore reads no file

_DTYPES = {
    "Float64": "float64",
    "Float32": "float32",
    "Float16": "float16",
    "BFloat16": "bfloat16",
    "Int64": "int64",
    "Int32": "int32",
    "Int16": "int16",
    "Int8": "int8",
    "UInt64": "uint64",
    "UInt32": "uint32",
    "UInt16": "uint16",
    "UInt8": "uint8",
    "Bool": "bool",
}
_TYPES = {DTYPES[name]: kind for kind, name in _DTYPES.items()}

# Tags of fields.
_VALUE = wire.tag(1)
_NAME, _TENSOR, _MAP = wire.tag(1), wire.tag(2), wire.tag(3)
_DIM, _PACKED_DIMS, _TYPE, _CONTENT = wire.tag(1, wire.VARINT), wire.tag(1), wire.tag(2), wire.tag(3)

_CRC_MARK, _CRC_BYTES = b"crc_num", 10
_TRAILER = len(_CRC_MARK) + _CRC_BYTES
_ENCRYPTED = tuple(number.to_bytes(4, "little") for number in (0x7F3A5ED8, 0x7F3A5ED9, 0x7F3A5EDA))

# Bounds of what is believed: BERT with its optimizer has some 600 values.
_MOST_VALUES = 100_000
_LONGEST_NAME = 1024  # characters; MindSpore's own limit
_LONGEST_TYPE = 64
_MOST_DIMENSIONS = 32  # NumPy's limit
_MOST_ELEMENTS = (1 << 60) - 1

_BLOCK = 1 << 20
_COPY_AGAIN = "copy or download the file again"
_RESAVE = "save it again: mindspore.save_checkpoint(list(mindspore.load_checkpoint(OLD{}).values()), NEW)"
_WITHOUT = _RESAVE.format(", choice_func=lambda n: n != NAME")


@dataclasses.dataclass(frozen=True)
class _Value:
    """A tensor or a slice of one: its content is `size` bytes from byte `at` on."""

    name: str
    kind: str  # tensor_type
    dims: tuple[int, ...]
    at: int
    size: int


def recognises(path: Path) -> bool:
    """Whether a file begins with a value as checkpoints have them, or as an encrypted one does."""
    try:
        with open(path, "rb") as file:
            return file.read(4) in _ENCRYPTED or any(
                True for _ in _values(wire.FileBytes(file), file.seek(0, os.SEEK_END))
            )
    except (OSError, Damaged):
        return False
    except Refused:
        return True


def read(path: Path) -> Tensors:
    """The tensors of a checkpoint, by name; where it has a checksum, this is checked.

    Texts and the generator's "random_op", which are no weights, are left out with a warning.

    Raises:
        UserError: there is no such file, it is no checkpoint or damaged, or it has what is not read: encryption,
            MapParameters, other dtypes.
    """
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            return _tensors(path, _values(wire.FileBytes(file), _checked_end(file, size)))
    except FileNotFoundError:
        raise UserError(f"there is no {path}; name a MindSpore checkpoint.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); name a MindSpore checkpoint.") from None
    except Damaged as fault:
        raise UserError(f"{path} is damaged or not a MindSpore checkpoint: {fault}; {_COPY_AGAIN}.") from None
    except Refused as reason:
        raise UserError(f"{path}: {reason}.") from None


def write(path: Path, tensors: Tensors) -> list[str]:
    """Write a checkpoint, fsynced; holds one tensor's values at a time. Says so where MindSpore cannot read it.

    Raises:
        UserError: a name that the format has no place for, or a tensor without values. MindSpore's writer leaves these
            out without a word, and its reader takes a shape of (0,) for a scalar's.
    """
    names = {name: _encoded(path, name) for name in tensors}
    for name, tensor in tensors.items():
        if not tensor.size:
            raise UserError(
                f"{path} cannot hold {name!r}, whose shape {tensor.shape} has no values, because MindSpore's "
                "checkpoints have no empty tensors; leave it out."
            )
    with open(path, "wb") as file:
        for name, tensor in tensors.items():
            _append(file, names[name], tensor)  # a function, because what it holds is free before the next
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    if size < _PROTOBUF_LIMIT:
        return []
    return ["the file is over 2 GiB, and MindSpore cannot read such a .ckpt: use .safetensors with --to"]


# Writing


def _encoded(path: Path, name: str) -> bytes:
    try:
        if 0 < len(name) <= _LONGEST_NAME:
            return name.encode("utf-8")
    except UnicodeEncodeError:
        pass
    raise UserError(
        f"{path} cannot hold a tensor named {name[:100]!r}, because a name has 1 to {_LONGEST_NAME} characters of "
        "UTF-8; rename the tensor."
    )


def _append(file: BinaryIO, name: bytes, tensor: Tensor) -> None:
    values = np.ascontiguousarray(tensor.read()).reshape(-1).view(np.uint8)
    for start in range(0, values.size, SLICE):
        content = values[start : start + SLICE]
        file.write(_header(name, tensor, content.size))
        file.write(memoryview(content))


def _header(name: bytes, tensor: Tensor, size: int) -> bytes:
    """What is before the `size` bytes of content of a value."""
    dims = b"".join(wire.number(_DIM, length) for length in tensor.shape)
    tensor_proto = dims + wire.sized(_TYPE, _TYPES[tensor.dtype].encode()) + wire.begin(_CONTENT, size)
    value = wire.sized(_NAME, name) + wire.begin(_TENSOR, len(tensor_proto) + size) + tensor_proto
    return wire.begin(_VALUE, len(value) + size) + value


# From values to tensors


def _tensors(path: Path, values: Iterator[_Value]) -> Tensors:
    tensors: Tensors = {}
    left_out: list[str] = []
    seen: set[str] = set()
    for name, group in itertools.groupby(values, key=lambda value: value.name):
        if name in seen:
            raise Refused(
                f"it has {_quoted(name)} twice with others between, of which MindSpore uses the last; "
                f"{_RESAVE.format('')}"
            )
        seen.add(name)
        slices = list(group)
        if slices[0].kind == "str" or name == "random_op":
            left_out.append(name)
        else:
            tensors[name] = _tensor(path, name, slices)
    if not seen:
        raise Damaged("it has no tensors")
    if left_out:
        warnings.warn(
            f"{path}: left out what is not a weight: {', '.join(map(_quoted, left_out[:10]))}"
            f"{f' and {len(left_out) - 10} more' if len(left_out) > 10 else ''}.",
            stacklevel=3,
        )
    return tensors


def _tensor(path: Path, name: str, slices: list[_Value]) -> Tensor:
    kind, dims = slices[0].kind, slices[0].dims
    for other in slices:
        if (other.kind, other.dims) != (kind, dims):
            raise Damaged(f"a part of {_quoted(name)} is {other.kind!r} {other.dims}, but the first is {kind!r} {dims}")
    if kind not in _DTYPES:
        raise Refused(f"{_quoted(name)} has the type {kind!r}, but only {', '.join(_DTYPES)} can be read; {_WITHOUT}")
    dtype, shape = DTYPES[_DTYPES[kind]], () if dims == (0,) else dims
    # NumPy refuses too large a product even where a size of 0 makes the tensor empty.
    if min(shape, default=0) < 0 or math.prod(max(size, 1) for size in shape) > _MOST_ELEMENTS:
        raise Damaged(f"{_quoted(name)} has the impossible shape {shape}")
    found, expected = sum(part.size for part in slices), math.prod(shape) * dtype.itemsize
    if found != expected:
        raise Damaged(f"{_quoted(name)} has {found} bytes, but {dtype} {shape} needs {expected}")
    ranges = [(part.at, part.size) for part in slices]
    return Tensor(dtype, shape, lambda: _read_values(path, ranges).view(dtype).reshape(shape))


def _read_values(path: Path, ranges: list[tuple[int, int]]) -> np.ndarray:
    """The bytes of the ranges, joined."""
    values = np.empty(sum(size for _, size in ranges), np.uint8)
    done = 0
    try:
        with open(path, "rb") as file:
            for at, size in ranges:
                file.seek(at)
                if file.readinto(values[done : done + size]) != size:
                    raise UserError(f"{path} ends before byte {at + size}, but did not when opened; {_COPY_AGAIN}.")
                done += size
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {_COPY_AGAIN}.") from None
    return values


def _quoted(name: str) -> str:
    return repr(name[:100])


# The file


def _checked_end(file: BinaryIO, size: int) -> int:
    """Where the message ends: at the end of the file or before the checksum, which is checked."""
    file.seek(0)
    if file.read(4) in _ENCRYPTED:
        raise Refused(f"it is encrypted; {_RESAVE.format(', dec_key=KEY, dec_mode=MODE')}")
    end = max(0, size - _TRAILER)
    file.seek(end)
    trailer = file.read(_TRAILER)
    if not trailer.startswith(_CRC_MARK):
        return size
    stored, checksum = int.from_bytes(trailer[len(_CRC_MARK) :], "big"), 0
    file.seek(0)
    for start in range(0, end, _BLOCK):
        checksum = zlib.crc32(file.read(min(_BLOCK, end - start)), checksum)
    if checksum != stored:
        raise Damaged(f"its {end} bytes have the checksum {checksum:08x} instead of {stored:08x}, as stored at its end")
    return end


def _values(data: wire.FileBytes, end: int) -> Iterator[_Value]:
    """Values from the beginning of a file up to `end`; passes over their contents."""
    for count, (_, place) in enumerate(wire.places(data, 0, end, (_VALUE,))):
        if count >= _MOST_VALUES:
            raise Damaged(f"it has more than {_MOST_VALUES} values, but a checkpoint of BERT has about 600")
        yield _value(data, place)


def _value(data: wire.FileBytes, place: slice) -> _Value:
    fields = _message(data, place, (_NAME, _TENSOR, _MAP))
    name = _text(data, _one(fields, _NAME, place, "name"), 4 * _LONGEST_NAME)
    if fields[_MAP]:
        raise Refused(f"{_quoted(name)} is a MapParameter, but only tensors can be read; {_WITHOUT}")
    tensor = _one(fields, _TENSOR, place, "tensor")
    fields = _message(data, tensor, (_DIM, _PACKED_DIMS, _TYPE, _CONTENT))
    dims = fields[_DIM]
    for packed in fields[_PACKED_DIMS]:  # protobuf reads both forms, MindSpore writes the other
        at = packed.start
        while at < packed.stop and len(dims) <= _MOST_DIMENSIONS:
            size, at = wire.read_varint(data, at, packed.stop)
            dims.append(size)
    if len(dims) > _MOST_DIMENSIONS:
        raise Damaged(f"{_quoted(name)} has more than {_MOST_DIMENSIONS} dimensions")
    kind = _text(data, _one(fields, _TYPE, tensor, "type"), _LONGEST_TYPE)
    content = _one(fields, _CONTENT, tensor, "content")
    return _Value(name, kind, tuple(map(wire.signed, dims)), content.start, content.stop - content.start)


def _message(data: wire.FileBytes, place: slice, known: tuple[int, ...]) -> dict[int, list]:
    """The fields of a message by tag."""
    fields: dict[int, list] = {tag: [] for tag in known}
    for tag, value in wire.places(data, place.start, place.stop, known):
        fields[tag].append(value)
        if len(fields[tag]) > _MOST_DIMENSIONS:
            raise Damaged(f"the message at byte {place.start} has a field more than {_MOST_DIMENSIONS} times")
    return fields


def _one(fields: dict[int, list], tag: int, message: slice, what: str) -> slice:
    if len(fields[tag]) != 1:
        raise Damaged(f"the message at byte {message.start} has the field {what} {len(fields[tag])} times, not once")
    return fields[tag][0]


def _text(data: wire.FileBytes, place: slice, longest: int) -> str:
    size = place.stop - place.start
    if not 0 < size <= longest:
        raise Damaged(f"the text at byte {place.start} has {size} bytes instead of 1 to {longest}")
    try:
        return data[place].decode("utf-8")
    except UnicodeDecodeError:
        raise Damaged(f"the text at byte {place.start} is not UTF-8") from None
