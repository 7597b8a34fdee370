"""Ways to damage a file: functions of a random generator and the bytes that are there.

BYTES is for any file; FORMS has, by what a file is, those that know its inner structure, so that a mutant gets past the
checks of the container. Whatever random choices they make are the generator's: the same seed gives the same mutant.
"""

from __future__ import annotations

import functools
import gzip
import io
import json
import lzma
import os
import pickle
import pickletools
import random
import struct
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
from safetensors.numpy import save

from tests.conversion.test_tensorflow_bundle import table as bundle_table

Mutation = Callable[[random.Random, bytes], bytes]

CANARY = "canary"  # the file that a mutant's code would write, if anything executed it
SECRET = "outside/secret.txt"  # beside the folder that a mutant is in; nothing may read it
TEXTS = (
    "\x1b[2J\x1b]0;title\x07",
    "two\nlines",
    "back\r\x08\x7f",
    "\u202eright to left\u2066",
    "\x00",
    "",
    "é" * 300,
    "x" * 100_000,
    f"../{SECRET}",
    f"$(touch {CANARY})",
    "%s %n {0} {name}",
    "\U0001f600",
    "\ufeff",
    "__class__",
)
NUMBERS = (0, 1, -1, 7, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**400, -(10**20))
REALS = (0.5, -0.0, 1e-320, 1e308, 1e39, float("inf"), float("-inf"), float("nan"))
VALUES = (None, True, False, "", "text", [], {}, [[]], {"a": 1}, "3", *NUMBERS, *REALS)


# Any file


def cut(rng: random.Random, data: bytes) -> bytes:
    """The file up to any place, often one where something begins or ends."""
    places = (0, 1, 8, len(data) - 1, len(data) // 2, data.rfind(b"PK\x01\x02"), data.rfind(b"\n"), data.rfind(b"}"))
    return data[: max(0, rng.choice((rng.randrange(len(data) + 1), rng.choice(places))))]


def flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8, 64)) if data else 0):
        changed[_place(rng, data)] ^= rng.choice((1, 1 << rng.randrange(8), rng.randrange(1, 256)))
    return bytes(changed)


def overwrite(rng: random.Random, data: bytes) -> bytes:
    begin, end = _range(rng, data)
    filler = rng.choice((b"\0", b"\xff", None))
    return data[:begin] + (filler * (end - begin) if filler else rng.randbytes(end - begin)) + data[end:]


def duplicate(rng: random.Random, data: bytes) -> bytes:
    begin, end = _range(rng, data)
    return data[:end] + data[begin:]


def delete(rng: random.Random, data: bytes) -> bytes:
    begin, end = _range(rng, data)
    return data[:begin] + data[end:]


def swap(rng: random.Random, data: bytes) -> bytes:
    a, b, c = sorted(_place(rng, data) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def enlarge(rng: random.Random, data: bytes) -> bytes:
    """A number that may be a length or an offset is another: of 4 or 8 bytes, or a varint."""
    place = _place(rng, data)
    if rng.random() < 0.3:
        return data[:place] + rng.choice((b"\xff" * 9 + b"\x01", b"\xff\xff\xff\xff\x07", b"\x80")) + data[place + 1 :]
    for _ in range(300):
        place, size = _place(rng, data), rng.choice((4, 8))
        found = int.from_bytes(data[place : place + size], "little")
        if 0 < found <= len(data):
            other = rng.choice((found + 1, 2 * found, found - 1, 0, len(data), 2**31 - 1, 2**32 - 1, 2**63 - 1, -1))
            return data[:place] + (other % (1 << 8 * size)).to_bytes(size, "little") + data[place + size :]
    return data[:place] + b"\xff" * 8 + data[place + 8 :]


def insert(rng: random.Random, data: bytes) -> bytes:
    place = _place(rng, data)
    text = rng.choice((*(text.encode() for text in TEXTS), b"\xed\xa0\x80", b"\xff\xfe", calling(rng)))
    return data[:place] + text + data[place:]


def append(rng: random.Random, data: bytes) -> bytes:
    return data + rng.choice((b"\0", b"\n", b"}", data, rng.randbytes(100), b"\0" * 100_000))


def replace(rng: random.Random, data: bytes) -> bytes:
    """Something else altogether."""
    return rng.choice((b"", b"{}", b"[]", b"null", b"\0" * len(data), rng.randbytes(len(data)), _gzip(data)))


def _place(rng: random.Random, data: bytes) -> int:
    """Any, but half of them near the beginning or the end, where headers and directories are."""
    near = rng.choice((len(data), len(data), 64, 512))
    place = rng.randrange(min(len(data), near) or 1)
    return len(data) - 1 - place if data and rng.random() < 0.25 else place


def _range(rng: random.Random, data: bytes) -> tuple[int, int]:
    begin = _place(rng, data)
    return begin, min(len(data), begin + rng.choice((1, 2, 4, 8, 16, 100, 1000, len(data))))


BYTES: tuple[Mutation, ...] = (cut, flip, overwrite, duplicate, delete, swap, enlarge, insert, append, replace)


# What a file is, rather than what it holds


def folder(path: Path) -> None:
    path.mkdir()


def fifo(path: Path) -> None:
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def missing(path: Path) -> None:
    pass


NATURES: tuple[Callable[[Path], None], ...] = (folder, fifo, loop, dangling, missing)


# JSON

_NESTED = "@nested@"


def value(rng: random.Random, data: bytes) -> bytes:
    """Another type or size of a value."""
    return _edited(rng, data, lambda container, key: container.__setitem__(key, rng.choice(VALUES)))


def hostile_text(rng: random.Random, data: bytes) -> bytes:
    text = rng.choice((*TEXTS, "\ud800"))
    return _edited(rng, data, lambda container, key: container.__setitem__(key, text))


def hostile_key(rng: random.Random, data: bytes) -> bytes:
    """An entry under another name, or one more."""

    def edit(container, key):
        if isinstance(container, dict):
            name = rng.choice((*TEXTS, "\ud800", "__metadata__", "unknown", key.upper(), f"{key} "))
            container[name] = container.pop(key) if rng.random() < 0.5 else container[key]
        else:
            container[key] = dict.fromkeys(TEXTS[:3], container[key])

    return _edited(rng, data, edit)


def missing_key(rng: random.Random, data: bytes) -> bytes:
    return _edited(rng, data, lambda container, key: container.pop(key))


def wrapped(rng: random.Random, data: bytes) -> bytes:
    """A value one level too deep, or many."""

    def edit(container, key):
        container[key] = rng.choice(([container[key]], {"a": container[key]}, _NESTED))

    return _edited(rng, data, edit)


def exchanged(rng: random.Random, data: bytes) -> bytes:
    """Two values exchanged."""

    def edit(container, key):
        other = rng.choice(list(container) if isinstance(container, dict) else range(len(container)))
        container[key], container[other] = container[other], container[key]

    return _edited(rng, data, edit)


def repeated_key(rng: random.Random, data: bytes) -> bytes:
    """A key that is there twice."""
    text = data.decode(errors="replace")
    key = rng.choice([part for part in text.split('"')[1::2] if part] or ["a"])
    at = text.find("{") + 1
    return (text[:at] + f'"{key}": {json.dumps(rng.choice(VALUES[:12]))}, ' + text[at:]).encode()


def coded_otherwise(rng: random.Random, data: bytes) -> bytes:
    text = data.decode(errors="replace")
    return text.encode(rng.choice(("utf-16", "utf-8-sig", "utf-32", "utf-7")), "replace")


def _edited(rng: random.Random, data: bytes, edit: Callable) -> bytes:
    """JSON with one place edited, which each depth has an equal chance to be in."""
    document = json.loads(data)
    container, key = {"": document}, ""
    while isinstance(container[key], (dict, list)) and container[key] and (key == "" or rng.random() < 0.75):
        container = container[key]
        key = rng.choice(list(container)) if isinstance(container, dict) else rng.randrange(len(container))
    edit(container, key)
    if key == "":
        document = container.get("", None)
    depth = rng.choice((50, 1000, 100_000))
    return json.dumps(document).replace(f'"{_NESTED}"', "[" * depth + "]" * depth).encode()


_JSON: tuple[Mutation, ...] = (
    *(value, value, value, hostile_text, hostile_key, missing_key, wrapped, exchanged, repeated_key, coded_otherwise),
)


def json_line(rng: random.Random, data: bytes) -> bytes:
    """One line of JSON lines by the mutations of JSON."""
    lines = data.splitlines(keepends=True)
    place = rng.randrange(len(lines))
    lines[place] = rng.choice(_JSON)(rng, lines[place]) + b"\n"
    return b"".join(lines)


# Lines of text


def lines_moved(rng: random.Random, data: bytes) -> bytes:
    """Lines left out, twice there or in another order."""
    lines = data.splitlines(keepends=True)
    for _ in range(rng.choice((1, 1, 5))):
        place = rng.randrange(len(lines))
        edit = rng.choice(("out", "twice", "first"))
        line = lines.pop(place) if edit != "twice" and len(lines) > 1 else lines[place]
        if edit != "out":
            lines.insert(rng.choice((0, place)), line)
    return b"".join(lines)


def hostile_line(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    lines[rng.randrange(len(lines))] = rng.choice(
        (b"", b" ", b"\xff\xfe", b"[UNK]", b"a\rb", b"\x85\xe2\x80\xa8", b"\0", *(text.encode() for text in TEXTS))
    )
    return rng.choice((b"\n", b"\n", b"\r\n")).join(lines)


def long_line(rng: random.Random, data: bytes) -> bytes:
    return data + rng.choice((b"a", b"a ", "字".encode(), b"[")) * rng.choice((100_000, 3_000_000)) + b"\n"


_LINES: tuple[Mutation, ...] = (lines_moved, hostile_line, long_line, coded_otherwise)


def compressed(opened: Callable, closed: Callable, inner: tuple[Mutation, ...]) -> Mutation:
    """Mutations of what is compressed, compressed again."""

    def compressed_mutation(rng: random.Random, data: bytes) -> bytes:
        return closed(rng.choice(inner)(rng, opened(data)))

    return compressed_mutation


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def bomb(rng: random.Random, data: bytes) -> bytes:
    """A megabyte that becomes one line of 200."""
    return _bomb(rng.choice((b"a", b"a ", b"[", b"\0")))


@functools.cache
def _bomb(text: bytes) -> bytes:
    return gzip.compress(text * (200_000_000 // len(text)), 1, mtime=0)


# Formats of checkpoints


def calling(rng: random.Random) -> bytes:
    """A pickle that would write the canary."""
    way = rng.randrange(4)
    argument = f"touch {CANARY}".encode()
    if way == 0:
        return b"cposix\nsystem\n(V" + argument + b"\ntR."
    if way == 1:
        return b"(V" + argument + b"\niposix\nsystem\n."
    if way == 2:
        return pickle.dumps(_Calling(os.system, argument.decode()), rng.choice((2, 4)))
    return pickle.dumps(_Calling(exec, f"open({CANARY!r}, 'w')"), rng.choice((2, 4)))


class _Calling:
    def __init__(self, function: Callable, argument: str):
        self.call = function, (argument,)

    def __reduce__(self):
        return self.call


def safetensors_header(rng: random.Random, data: bytes) -> bytes:
    size = struct.unpack("<Q", data[:8])[0]
    header = rng.choice(_JSON)(rng, data[8 : 8 + size])
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def other_tensors(rng: random.Random, data: bytes) -> bytes:
    """A sound file of no tensors, or of one by an odd name."""
    import numpy as np

    name = rng.choice(TEXTS)
    return save(rng.choice(({}, {name: np.zeros(3, np.float32)}, {name: np.zeros((0, 2), np.int8)})))


def pickle_edited(rng: random.Random, data: bytes) -> bytes:
    """A pickle with one operation left out, repeated, replaced, or a hostile one before it."""
    places = [place for _, _, place in pickletools.genops(data)] + [len(data)]
    which = rng.randrange(len(places) - 1)
    begin, end = places[which], places[which + 1]
    other = rng.randrange(len(places) - 1)
    new = rng.choice(
        (
            b"",
            2 * data[begin:end],
            data[places[other] : places[other + 1]],
            calling(rng)[:-1] + data[begin:end],
            b"\x8a\x09" + b"\xff" * 8 + b"\x00",  # a number of 64 bits
            b"J\xff\xff\xff\x7f",
            *((b"X" + struct.pack("<I", len(text)) + text) for text in (t.encode() for t in TEXTS)),
            b"N",
            b"]",
            b"}",
            b"(" * 1000,
            b"\x85" * 50_000,
        )
    )
    return data[:begin] + new + data[end:]


def zip_member(rng: random.Random, data: bytes) -> bytes:
    """A member of a zip by any mutation, the directory and the checksums made anew."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(member.filename, archive.read(member)) for member in archive.infolist()]
    at = 0 if rng.random() < 0.6 else rng.randrange(len(members))
    name, content = members[at]
    if name.endswith(".pkl"):
        content = rng.choice((pickle_edited, pickle_edited, flip, insert, lambda rng, _: calling(rng)))(rng, content)
    elif rng.random() < 0.3:
        name = rng.choice((*TEXTS[:7], f"../{SECRET}", members[0][0])) or "a"
    else:
        content = rng.choice(BYTES)(rng, content)
    members[at] = (name, content)
    return zipped(members, zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED)


def zipped(members: list[tuple[str, bytes]], how: int = zipfile.ZIP_STORED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", how) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that is there twice
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, how)
    return made.getvalue()


def legacy_pickle(rng: random.Random, data: bytes) -> bytes:
    """One of the pickles with which PyTorch's old format begins."""
    file, places = io.BytesIO(data), [0]
    for _ in range(5):
        for _ in pickletools.genops(file):
            pass
        places.append(file.tell())
    which = rng.choice((0, 1, 2, 3, 3, 3, 4))
    begin, end = places[which], places[which + 1]
    return data[:begin] + pickle_edited(rng, data[begin:end]) + data[end:]


def bundle_block(rng: random.Random, data: bytes) -> bytes:
    """The entries of a TensorFlow index of one block, sealed again by a checksum that holds."""
    _, _, index, _ = _varints(data[-48:], 4)
    _, key, _ = _varints(data[index:], 3)
    begin, size = _varints(data[index + 3 + key :], 2)
    block = data[begin : begin + size]
    edit = rng.choice((flip, flip, overwrite, delete, duplicate, swap, enlarge, insert, _varint_edited, _varint_edited))
    return bundle_table(edit(rng, block))


def _varint_edited(rng: random.Random, data: bytes) -> bytes:
    """A byte that may be a field's number, its length or its value is another, or a large one."""
    place = rng.randrange(len(data))
    new = rng.choice((b"\0", b"\x01", b"\x7f", b"\xff" * 9 + b"\x01", b"\xff" * 4 + b"\x07", b"\x80\x80\x04"))
    return data[:place] + new + data[place + 1 :]


def _varints(data: bytes, count: int) -> list[int]:
    found, value, shift = [], 0, 0
    for byte in data:
        value, shift = value | (byte & 127) << shift, shift + 7
        if byte < 128:
            found, value, shift = [*found, value], 0, 0
            if len(found) == count:
                break
    return found


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + _varint(value >> 7)


def mindspore_value(rng: random.Random, data: bytes) -> bytes:
    """One value of a MindSpore checkpoint damaged inside, all lengths around it made to fit."""
    values, at = [], 0
    while at < len(data):
        (size,) = _varints(data[at + 1 :], 1)
        at += 1 + len(_varint(size))
        values.append(data[at : at + size])
        at += size
    which = rng.randrange(len(values))
    (name,) = _varints(values[which][1:], 1)
    tag, rest = values[which][2 : 2 + name], values[which][2 + name :]
    edit = rng.choice(("name", "name", "tensor", "tensor", "again", "out", "bytes"))
    if edit == "name":
        tag = rng.choice(TEXTS).encode()
    elif edit == "tensor":  # dims and type come before the content
        begin = rng.randrange(min(24, len(rest)))
        rest = rest[:begin] + _varint_edited(rng, rest[begin : begin + 1]) + rest[begin + 1 :]
    values[which] = b"\x0a" + _varint(len(tag)) + tag + rest
    if edit == "bytes":
        values[which] = rng.choice(BYTES)(rng, values[which])
    elif edit == "again":
        values.insert(rng.randrange(len(values)), values[which])
    elif edit == "out":
        del values[which]
    return b"".join(b"\x0a" + _varint(len(value)) + value for value in values)


def onnx_tensor(rng: random.Random, data: bytes) -> bytes:
    """One tensor of an ONNX graph with another name, shape, type, place or content."""
    model = onnx.ModelProto.FromString(data)
    tensor = rng.choice(model.graph.initializer)
    edit = rng.choice(("name", "dims", "type", "content", "place", "place", "again", "out"))
    if edit == "name":
        tensor.name = rng.choice(TEXTS)
    elif edit == "dims":
        tensor.dims.extend([rng.choice((0, -1, 2, 2**31, 2**62))] * rng.choice((1, 1, 40)))
    elif edit == "type":
        tensor.data_type = rng.choice((0, 2, 7, 8, 10, 14, 16, 17, 22, 23, 99))
    elif edit == "content":
        tensor.raw_data = rng.choice(BYTES)(rng, tensor.raw_data or b"\0" * 8)
    elif edit == "place":
        _placed_elsewhere(rng, tensor)
    elif edit == "again":
        model.graph.initializer.append(tensor)
    else:
        model.graph.initializer.remove(tensor)
    return model.SerializeToString()


def _placed_elsewhere(rng: random.Random, tensor) -> None:
    tensor.data_location = onnx.TensorProto.EXTERNAL
    places = (f"../{SECRET}", "/etc/passwd", "", "model.onnx", "config.json", "nowhere", *TEXTS[:5])
    numbers = ("0", "1", "-1", "x", "", str(2**62), str(2**70), "1e3", "²")
    values = {"location": rng.choice(places), "offset": rng.choice(numbers), "length": rng.choice(numbers)}
    found = {entry.key: entry for entry in tensor.external_data}
    for key in rng.sample(sorted(values), rng.randint(1, 3)):
        entry = found[key] if key in found else tensor.external_data.add(key=key)
        entry.value = values[key]


# Tables


def _other_column(rng: random.Random, column: pa.ChunkedArray) -> pa.Array:
    """A column of as many values of another type; or with a type whose metadata is a pickle, which is not to be run."""
    count, first = len(column), [value.as_py() for value in column]
    made = rng.choice(
        (
            lambda: pa.array(range(count)),
            lambda: pa.array([None] * count),
            lambda: pa.array([None, *first[1:]], column.type),
            lambda: pa.array([[1, 2]] * count),
            lambda: pa.array([{"a": "b"}] * count),
            lambda: pa.array([b"\xff\xfe"] * count),
            lambda: pa.array([0] * count, pa.timestamp("us")),
            lambda: pa.array([0] * count, pa.date32()),
            lambda: pa.array([0.5] * count),
            lambda: pa.array([True] * count),
            lambda: pa.array([str(value) for value in first], pa.large_string()),
            lambda: pa.array([str(value) for value in first]).dictionary_encode(),
            lambda: pa.array([*first[:-1], first[-1]][::-1], column.type),
            lambda: pa.array(first[: count // 2], column.type),
        )
    )
    return made()


def _other_table(rng: random.Random, table: pa.Table) -> pa.Table:
    name = table.column_names[0] if rng.random() < 0.8 else rng.choice(TEXTS)
    metadata = {
        b"ARROW:extension:name": rng.choice((b"arrow.py_extension_type", b"arrow.json", b"x")),
        b"ARROW:extension:metadata": calling(rng),
    }
    column = _other_column(rng, table.column(0))
    field = pa.field(name, column.type, metadata=metadata if rng.random() < 0.3 else None)
    columns, fields = [column], [field]
    if rng.random() < 0.15:  # two of a name, or none
        columns, fields = (columns * 2, fields * 2) if rng.random() < 0.5 else ([], [])
    whole = {b"huggingface": rng.choice((b'{"info": {"features": 3}}', b"{", calling(rng)))}
    return pa.table(columns, pa.schema(fields, whole if rng.random() < 0.3 else None))


def arrow_column(rng: random.Random, data: bytes) -> bytes:
    table = _other_table(rng, pa.ipc.open_file(data).read_all())
    made = pa.BufferOutputStream()
    with pa.ipc.new_file(made, table.schema) as writer:
        writer.write_table(table, max_chunksize=rng.choice((None, 1, 3)))
    return made.getvalue().to_pybytes()


def parquet_column(rng: random.Random, data: bytes) -> bytes:
    made = pa.BufferOutputStream()
    pa.parquet.write_table(_other_table(rng, pa.parquet.read_table(pa.BufferReader(data))), made)
    return made.getvalue().to_pybytes()


FORMS: dict[str, tuple[Mutation, ...]] = {
    "json": _JSON,
    "json lines": (json_line, json_line, json_line, lines_moved),
    "lines": _LINES,
    "gzip of lines": (*12 * (compressed(gzip.decompress, _gzip, (*_LINES, *BYTES)),), bomb),
    "gzip of json lines": (*12 * (compressed(gzip.decompress, _gzip, (json_line, *BYTES)),), bomb),
    "xz of lines": (compressed(lzma.decompress, lzma.compress, (*_LINES, *BYTES)),),
    "safetensors": (safetensors_header, safetensors_header, other_tensors),
    "torch zip": (zip_member,),
    "torch legacy": (legacy_pickle,),
    "bundle": (bundle_block,),
    "MindSpore": (mindspore_value,),
    "onnx": (onnx_tensor,),
    "arrow": (arrow_column,),
    "parquet": (parquet_column,),
    "bytes": (),
}


def mutate(rng: random.Random, path: Path, form: str, natures: Sequence[Callable[[Path], None]] = NATURES) -> str:
    """Damage a file, mostly by what knows its form, or let it be something else; returns what was done."""
    if natures and rng.random() < 0.04:
        nature = rng.choice(natures)
        path.unlink()
        nature(path)
        return f"{path.name}: {nature.__name__}"
    data = path.read_bytes()
    mutation = rng.choice(FORMS[form] if FORMS[form] and rng.random() < 0.6 else BYTES)
    path.write_bytes(mutation(rng, data))
    return f"{path.name}: {mutation.__name__}"
