"""Protobuf's wire format, of which ONNX, MindSpore's .ckpt and the index of TensorFlow's checkpoints are made.

A message is its fields one after another. A field is a tag, (number << 3) + kind, and a value: a varint, 8 bytes, 4
bytes, or a varint that says how many bytes follow: text, a message, packed numbers. A varint is an unsigned integer of
64 bits, seven bits a byte, the lowest first, the top bit set where more follow.

What is read is believed in nothing: a number ends after 10 bytes, and a field ends within the message that it is in.

Source: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from typing import BinaryIO, Protocol

from conversion.formats.faults import Damaged

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # kinds

_FIXED = {FIXED64: 8, FIXED32: 4}
_LONGEST = 10  # bytes of a varint
_WINDOW = 512  # bytes: what stands before the values of a tensor, at the least


# Writing


def tag(number: int, kind: int = BYTES) -> int:
    """The tag of a field."""
    return number << 3 | kind


def varint(value: int) -> bytes:
    """A number from 0 to 2^64 - 1 as it is stored."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def number(tag: int, value: int) -> bytes:
    """A field of a varint."""
    return varint(tag) + varint(value)


def fixed32(tag: int, value: int) -> bytes:
    """A field of 4 bytes."""
    return varint(tag) + struct.pack("<I", value)


def begin(tag: int, size: int) -> bytes:
    """What stands before the `size` bytes of a field of bytes."""
    return varint(tag) + varint(size)


def sized(tag: int, content: bytes) -> bytes:
    """A field of bytes."""
    return begin(tag, len(content)) + content


# Reading


class Readable(Protocol):
    """What can be asked for a range of its bytes, and gives fewer beyond its end: `bytes`, or a FileBytes."""

    def __getitem__(self, place: slice, /) -> bytes: ...


class FileBytes:
    """The bytes of an open file, read when they are asked for, with some that follow, for they are asked for next."""

    def __init__(self, file: BinaryIO):
        self._file, self._window, self._begin = file, b"", 0

    def __getitem__(self, place: slice) -> bytes:
        if place.start < self._begin or place.stop > self._begin + len(self._window):
            self._file.seek(place.start)
            self._window, self._begin = self._file.read(max(_WINDOW, place.stop - place.start)), place.start
        return self._window[place.start - self._begin : place.stop - self._begin]


def read_varint(data: Readable, at: int, end: int) -> tuple[int, int]:
    """A number, and where the next thing begins.

    Raises:
        Damaged: it has more than 64 bits, or goes on after `end`.
    """
    found = data[at : min(at + _LONGEST, end)]
    if found and found[0] < 0x80:  # nearly all are so short
        return found[0], at + 1
    value = 0
    for shift, byte in enumerate(found):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80 and not value >> 64:
            return value, at + shift + 1
    if len(found) == _LONGEST:
        raise Damaged(f"the number at byte {at} has more than 64 bits")
    raise Damaged(f"the number at byte {at} continues after the end of its field or block")


def signed(value: int) -> int:
    """A number read as protobuf's int64."""
    return value - (1 << 64) if value >> 63 else value


def places(
    data: Readable, at: int, end: int, known: Collection[int] | None = None
) -> Iterator[tuple[int, int | slice]]:
    """Tags of the message between `at` and `end`, each with its number or with where its bytes are.

    Args:
        known: the tags that may be there; None: any.

    Raises:
        Damaged: it ends within a field, or another tag is there.
    """
    while at < end:
        start = at
        tag, at = read_varint(data, at, end)
        number, kind = tag >> 3, tag & 7
        if known is not None and tag not in known:
            raise Damaged(
                f"the field at byte {start} has number {number} and wire type {kind}, which do not belong there"
            )
        if kind == VARINT:
            value, at = read_varint(data, at, end)
            yield tag, value
            continue
        if kind == BYTES:
            size, at = read_varint(data, at, end)
        elif kind in _FIXED:
            size = _FIXED[kind]
        else:
            raise Damaged(f"the field at byte {start} has wire type {kind} instead of 0, 1, 2 or 5")
        if size > end - at:
            raise Damaged(f"the field at byte {start} claims {size} bytes, but {end - at} are left")
        place = slice(at, at + size)
        yield tag, place if kind == BYTES else int.from_bytes(data[place], "little")
        at += size


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Tags of a message in memory, each with its number or its bytes; see `places`."""
    for tag, value in places(message, 0, len(message)):
        yield tag, message[value] if isinstance(value, slice) else value
