"""TensorFlow's V2 checkpoints ("tensor bundles"), read and written without TensorFlow.

PREFIX.index                  a table of the tensors: name -> dtype, shape, place and checksum of the values
PREFIX.data-0000k-of-0000n    shard k of n: the values one tensor after another, little-endian, row-major

The index is a LevelDB table (see `conversion.formats.leveldb`): the key "" has a BundleHeaderProto, a name has a
BundleEntryProto.

TensorFlow 2's object-based checkpoints are such tables, too. A tensor is called there by the path through the Python
objects that leads to it; the text _CHECKPOINTABLE_OBJECT_GRAPH, a TrackableObjectGraph, says the name of its variable,
which is what it is called here, and a moment is called NAME/SLOT.

Sources: in TensorFlow's repository core/util/tensor_bundle/tensor_bundle.cc, core/protobuf/{tensor_bundle,
trackable_object_graph}.proto and core/framework/{types,tensor_shape,versions}.proto. The writer follows these to the
byte: it makes of the same tensors the files that SaveV2 makes when it is given the names sorted, which Saver does and
the kernel itself did for years.
"""

from __future__ import annotations

import dataclasses
import math
import os
import struct
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import numpy as np

from conversion.formats import leveldb, wire
from conversion.formats.faults import Damaged, Refused
from conversion.formats.leveldb import LONGEST_KEY, masked, quoted
from conversion.tensors import DTYPES, Tensor, Tensors
from ms_bert.errors import UserError

_VERSION = 1  # kTensorBundleVersion

# Bounds of what is believed: a large model's index has some 100 KB.
_LARGEST_INDEX = 16 << 20
_LARGEST_GRAPH = 64 << 20  # of objects; a large model's with its optimizer has some 200 KB
_MOST_DIMENSIONS = 32  # NumPy's limit
_MOST_VALUES = (1 << 60) - 1

_CHUNK = 1 << 20

_COUNTERS = (
    "global_step",
    "save_counter",
)  # of a trainer and of tf.train.Checkpoint, whatever their variables are called

# DataType of types.proto.
_STRING = 7
_DTYPES = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    9: "int64",
    10: "bool",
    14: "bfloat16",
    17: "uint16",
    19: "float16",
    22: "uint32",
    23: "uint64",
}
_NUMBERS = {DTYPES[name]: number for number, name in _DTYPES.items()}

_OBJECT_GRAPH = b"_CHECKPOINTABLE_OBJECT_GRAPH"
_OBJECT_VALUE, _OBJECT_SLOT = "/.ATTRIBUTES/VARIABLE_VALUE", "/.OPTIMIZER_SLOT/"

# Works for all that TensorFlow reads and this module does not: V1, partitioned, compressed, big-endian.
_RESAVE = (
    "write it again with TensorFlow: r = tf.train.load_checkpoint(OLD); n = sorted(r.get_variable_to_shape_map()); "
    "t = [r.get_tensor(i) for i in n]; "
    "tf.raw_ops.SaveV2(prefix=NEW, tensor_names=n, shape_and_slices=[''] * len(n), tensors=t)"
)
_COPY_AGAIN = "copy or download the checkpoint again"


def recognises(prefix: Path) -> bool:
    """Whether PREFIX.index is there and ends as a table does."""
    return leveldb.recognises(_index(prefix))


def read(prefix: Path) -> Tensors:
    """The tensors of a checkpoint, by name; a tensor's checksum is checked when its values are read.

    Tensors of text, which are no weights, are left out with a warning.

    Raises:
        UserError: there is no such checkpoint, it is damaged, or it is of a kind that is not read: V1, partitioned,
            compressed, big-endian, of other dtypes.
    """
    index = _index(prefix)
    try:
        return _tensors(prefix, _entries(prefix))
    except Damaged as fault:
        raise UserError(f"{index} is damaged: {fault}; {_COPY_AGAIN}.") from None
    except Refused as reason:
        raise UserError(f"{index}: {reason}.") from None


def prefix_of(path: Path) -> Path | None:
    """The prefix of a checkpoint from itself, its .index, its .meta or one of its .data files; None for other files."""
    name = path.name.split(".data-")[0]
    for ending in (".index", ".meta"):
        name = name.removesuffix(ending)
    prefix = path.with_name(name) if name else path
    given_as_prefix = not path.exists() or path != prefix
    return prefix if given_as_prefix and _index(prefix).is_file() and recognises(prefix) else None


def write(path: Path, tensors: Tensors) -> list[str]:
    """Write PREFIX.data-00000-of-00001 and PREFIX.index, fsynced; holds one tensor's values at a time.

    Args:
        path: the prefix.

    Raises:
        UserError: a name that the format has no place for.
    """
    entries, offset = [(b"", _encode_header())], 0
    with open(_shard(path, 0, 1), "wb") as file:
        for key, name in sorted((_key(path, name), name) for name in tensors):
            tensor = tensors[name]
            size, checksum = _append_values(file, tensor)
            entry = _Entry(_NUMBERS[tensor.dtype], tensor.shape, 0, offset, size, checksum)
            entries.append((key, entry.encode()))
            offset += size
        _sync(file)
    with open(_index(path), "wb") as file:
        file.write(leveldb.written(entries))
        _sync(file)
    return []


# Names and places


def _index(prefix: Path) -> Path:
    return Path(f"{prefix}.index")


def _shard(prefix: Path, shard: int, shards: int) -> Path:
    return Path(f"{prefix}.data-{shard:05d}-of-{shards:05d}")


def _key(prefix: Path, name: str) -> bytes:
    try:
        key = name.encode("utf-8")
    except UnicodeEncodeError:
        key = b""
    if not 0 < len(key) <= LONGEST_KEY:
        raise UserError(
            f"{_index(prefix)} cannot hold a tensor named {name[:100]!r}, because a name has 1 to {LONGEST_KEY} bytes "
            "of UTF-8; rename the tensor."
        )
    return key


def _sync(file) -> None:
    file.flush()
    os.fsync(file.fileno())


# Values


def _chunks(values: np.ndarray) -> Iterator[bytes]:
    """The bytes of a contiguous array, a little at a time."""
    values = values.reshape(-1).view(np.uint8)
    return (values[start : start + _CHUNK].tobytes() for start in range(0, values.size, _CHUNK))


def _append_values(file, tensor: Tensor) -> tuple[int, int]:
    """Append a tensor's values to a file; returns their bytes' number and checksum."""
    size = checksum = 0
    for chunk in _chunks(np.ascontiguousarray(tensor.read())):
        checksum = google_crc32c.extend(checksum, chunk)
        size += file.write(chunk)
    return size, masked(checksum)


def _read_values(path: Path, name: str, entry: _Entry) -> np.ndarray:
    values = np.empty(entry.size, np.uint8)
    try:
        with open(path, "rb") as file:
            file.seek(entry.offset)
            found = file.readinto(values)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {_COPY_AGAIN}.") from None
    if found != entry.size:
        raise UserError(f"{path} ends before byte {entry.offset + entry.size}, where {name!r} ends; {_COPY_AGAIN}.")
    checksum = 0
    for chunk in _chunks(values):
        checksum = google_crc32c.extend(checksum, chunk)
    if masked(checksum) != entry.checksum:
        raise UserError(
            f"{path}: the {entry.size} bytes of {name!r} from byte {entry.offset} on have the checksum "
            f"{masked(checksum):08x}, but the index says {entry.checksum:08x}; {_COPY_AGAIN}."
        )
    return values.view(DTYPES[_DTYPES[entry.dtype]]).reshape(entry.shape)


# Entries of the table: two messages of protobuf


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A BundleEntryProto; the tags are (field << 3) + wire type."""

    dtype: int = 0
    shape: tuple[int, ...] = ()
    shard: int = 0
    offset: int = 0
    size: int = 0
    checksum: int = 0  # masked
    partitioned: bool = False
    unknown_rank: bool = False

    @classmethod
    def decode(cls, message: bytes) -> _Entry:
        """As protobuf does: what is not there is 0, what is not known is passed over."""
        numbers, shape, flags = {}, [], {}
        for tag, value in wire.fields(message):
            if tag == 0x12:  # TensorShapeProto
                for shape_tag, dimension in wire.fields(value):
                    if shape_tag == 0x12:  # Dim
                        shape.append(wire.signed(dict(wire.fields(dimension)).get(0x08, 0)))
                    elif shape_tag == 0x18:
                        flags["unknown_rank"] = bool(dimension)
            elif tag == 0x3A:  # TensorSliceProto
                flags["partitioned"] = True
            else:
                numbers[tag] = value
        dtype, shard, offset, size = (wire.signed(numbers.get(tag, 0)) for tag in (0x08, 0x18, 0x20, 0x28))
        return cls(dtype, tuple(shape), shard, offset, size, numbers.get(0x35, 0), **flags)

    def encode(self) -> bytes:
        """In the one way that protobuf's C++ does it: fields ascending, those that are 0 left out."""
        shape = b"".join(wire.sized(0x12, _number(0x08, size)) for size in self.shape)
        fields = _number(0x08, self.dtype) + wire.sized(0x12, shape) + _number(0x18, self.shard)
        fields += _number(0x20, self.offset) + _number(0x28, self.size)
        return fields + (wire.fixed32(0x35, self.checksum) if self.checksum else b"")


def _encode_header() -> bytes:
    """A BundleHeaderProto: one shard, little-endian (0, so left out), the version that made it."""
    return _number(0x08, 1) + wire.sized(0x1A, _number(0x08, _VERSION))


def _decode_header(message: bytes) -> int:
    """The number of shards."""
    fields = dict(wire.fields(message))
    shards, big_endian = wire.signed(fields.get(0x08, 0)), fields.get(0x10, 0)
    consumer = dict(wire.fields(fields.get(0x1A, b""))).get(0x10, 0)
    if big_endian:
        raise Refused(f"its values are big-endian, but only little-endian ones can be read; {_RESAVE}")
    if consumer > _VERSION:
        raise Refused(f"it needs a reader of version {consumer}, but this one has version {_VERSION}; {_RESAVE}")
    if not 1 <= shards < 1 << 31:
        raise Damaged(f"its header says {shards} data files instead of at least 1")
    return shards


def _number(tag: int, value: int) -> bytes:
    """A number as protobuf writes it: one of 0 is left out."""
    return wire.number(tag, value) if value else b""


# From entries to tensors


def _tensors(prefix: Path, table: list[tuple[bytes, bytes]]) -> Tensors:
    """Tensors of a table's entries, each checked against the size of its data file."""
    if not table or table[0][0] != b"":
        raise Damaged("its first entry is not the header, whose name is empty")
    shards = _decode_header(table[0][1])
    entries = {}
    for key, message in table[1:]:
        try:
            entries[key] = _Entry.decode(message)
        except Damaged as fault:
            raise Damaged(f"in the entry of {quoted(key)}, {fault}") from None
    for key, entry in entries.items():
        if entry.partitioned:
            raise Refused(f"{quoted(key)} is partitioned, but only whole tensors can be read; {_RESAVE}")
    sizes: dict[int, int] = {}
    graph = entries.pop(_OBJECT_GRAPH, None)
    names = _variables(_text(_place(prefix, _OBJECT_GRAPH, graph, shards, sizes), graph)) if graph else {}
    texts = [key for key, entry in entries.items() if entry.dtype == _STRING]
    if texts:
        warnings.warn(
            f"{_index(prefix)}: left out text, which is not a weight: {', '.join(map(quoted, texts[:10]))}"
            f"{f' and {len(texts) - 10} more' if len(texts) > 10 else ''}.",
            stacklevel=3,
        )
    tensors = dict(
        _tensor(prefix, key, entry, shards, sizes) for key, entry in entries.items() if entry.dtype != _STRING
    )
    return _by_variables(tensors, names) if graph else tensors


def _by_variables(tensors: Tensors, names: dict[str, str]) -> Tensors:
    """The tensors of an object-based checkpoint by the names of their variables; by their paths where two are alike."""
    called = {}
    for key in tensors:
        path = key.removesuffix(_OBJECT_VALUE)
        variable, _, slot = path.partition(_OBJECT_SLOT)
        own = None if path in _COUNTERS else names.get(f"{variable}{_OBJECT_VALUE}")
        called[key] = f"{own}/{slot.rpartition('/')[2]}" if own and slot else own or path
    counts = Counter(called.values())
    return {
        name if counts[name] == 1 else key.removesuffix(_OBJECT_VALUE): tensors[key] for key, name in called.items()
    }


def _variables(graph: bytes) -> dict[str, str]:
    """Names of variables by the keys of their tensors, of a TrackableObjectGraph."""
    names = {}
    for tag, node in wire.fields(graph):
        for inner, attribute in wire.fields(node) if tag == 0x0A else ():
            if inner == 0x12:  # SerializedTensor: name, full_name, checkpoint_key
                values = {tag: value for tag, value in wire.fields(attribute) if isinstance(value, bytes)}
                key, name = (values.get(tag, b"").decode("utf-8", "replace") for tag in (0x1A, 0x12))
                if key and name:
                    names[key] = name
    return names


def _text(path: Path, entry: _Entry) -> bytes:
    """A scalar of text: its length (a varint), the checksum of that, the text."""
    if entry.shape != () or not 0 < entry.size <= _LARGEST_GRAPH:
        raise Damaged(f"its object graph has the shape {entry.shape} and {entry.size} bytes")
    with open(path, "rb") as file:
        file.seek(entry.offset)
        content = file.read(entry.size)
    length, at = wire.read_varint(content, 0, len(content))
    begin = at + 4
    checksum = google_crc32c.extend(0, struct.pack("<I" if length >> 32 == 0 else "<Q", length))
    checksum = google_crc32c.extend(checksum, content[at:])
    if length != len(content) - begin or masked(checksum) != entry.checksum:
        raise Damaged(f"its object graph, {length} bytes in {path.name}, does not match its checksum")
    return content[begin:]


def _tensor(prefix: Path, key: bytes, entry: _Entry, shards: int, sizes: dict[int, int]) -> tuple[str, Tensor]:
    """A tensor and its name."""
    try:
        name = key.decode("utf-8")
    except UnicodeDecodeError:
        raise Damaged(f"the name {quoted(key)} is not UTF-8") from None
    dtype, shape = _dtype(key, entry), _shape(key, entry)
    expected = math.prod(shape) * dtype.itemsize
    if entry.size != expected:
        raise Damaged(f"{quoted(key)} has {entry.size} bytes, but {dtype} {shape} needs {expected}")
    path = _place(prefix, key, entry, shards, sizes)
    return name, Tensor(dtype, shape, lambda: _read_values(path, name, entry))


def _place(prefix: Path, key: bytes, entry: _Entry, shards: int, sizes: dict[int, int]) -> Path:
    """The data file that an entry's bytes are in, if they are; `sizes` of data files by shard are found once."""
    if not 0 <= entry.shard < shards:
        raise Damaged(f"{quoted(key)} is in data file {entry.shard}, but there are only {shards}, counted from 0")
    path = _shard(prefix, entry.shard, shards)
    if entry.shard not in sizes:
        try:
            sizes[entry.shard] = path.stat().st_size
        except FileNotFoundError:
            raise UserError(f"there is no {path}, but {_index(prefix)} names it; {_COPY_AGAIN}.") from None
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); {_COPY_AGAIN}.") from None
    if entry.offset < 0 or entry.offset + entry.size > sizes[entry.shard]:
        raise UserError(
            f"{path} has {sizes[entry.shard]} bytes, but {quoted(key)} has {entry.size} bytes from byte {entry.offset} "
            f"on; {_COPY_AGAIN}."
        )
    return path


def _dtype(key: bytes, entry: _Entry) -> np.dtype:
    if entry.dtype not in _DTYPES:
        raise Refused(
            f"{quoted(key)} has TensorFlow's DataType number {entry.dtype}, but only {', '.join(_DTYPES.values())} can "
            "be read; cast or leave out this variable and save the checkpoint again"
        )
    return DTYPES[_DTYPES[entry.dtype]]


def _shape(key: bytes, entry: _Entry) -> tuple[int, ...]:
    shape = entry.shape
    if entry.unknown_rank or len(shape) > _MOST_DIMENSIONS:
        found = "unknown" if entry.unknown_rank else len(shape)
        raise Damaged(f"the number of dimensions of {quoted(key)} is {found} instead of 0 to {_MOST_DIMENSIONS}")
    # NumPy refuses too large a product even where a size of 0 makes the tensor empty.
    if min(shape, default=0) < 0 or math.prod(max(size, 1) for size in shape) > _MOST_VALUES:
        raise Damaged(f"{quoted(key)} has the impossible shape {shape}")
    return shape


# The index


def _entries(prefix: Path) -> list[tuple[bytes, bytes]]:
    try:
        return leveldb.read(_index_bytes(prefix))
    except Refused as reason:
        raise Refused(f"{reason}; {_RESAVE}") from None


def _index_bytes(prefix: Path) -> bytes:
    index = _index(prefix)
    try:
        with open(index, "rb") as file:
            content = file.read(_LARGEST_INDEX + 1)
    except FileNotFoundError:
        if leveldb.recognises(prefix) and prefix.suffix != ".index":
            raise UserError(
                f"{prefix} is a V1 checkpoint, which is one file and has no {index.name}; {_RESAVE}."
            ) from None
        raise UserError(
            f"there is no {index}; name a TensorFlow checkpoint by what its files have in common, without .index and "
            ".data-00000-of-00001."
        ) from None
    except OSError as error:
        raise UserError(f"{index} cannot be read ({error.strerror}); name a TensorFlow checkpoint.") from None
    if len(content) > _LARGEST_INDEX:
        raise Damaged(f"it has more than {_LARGEST_INDEX} bytes, but an index of weights has about 100000")
    return content
