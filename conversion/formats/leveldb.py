"""LevelDB's tables of keys and values, of which the index of TensorFlow's checkpoints is one.

Keys ascend by their bytes. A table is

data blocks   each of at most about 256 KiB of entries: what a key shares with the one before it, how many bytes of key
              and of value follow (varints), these bytes. Every 16th key is whole; the places of these (restarts) and
              their number end the block.
metaindex     a block without entries
index         a block with an entry for each data block: a key from its last one up to before the next block's first,
              and the block's offset and size (varints)
footer        48 bytes: offset and size of metaindex and of index, zeros, the magic

After each block are a byte for its compression (0: none) and the masked CRC-32C of block and byte.

Sources: core/lib/io/{table_builder,block_builder,format}.cc in TensorFlow's repository, and LevelDB's table_format.md.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import google_crc32c

from conversion.formats import wire
from conversion.formats.faults import Damaged, Refused

_MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
_FOOTER = 48
_TRAILER = 5  # of a block: compression, checksum
_BLOCK_SIZE = 256 * 1024
_RESTART_INTERVAL = 16

# Bounds of what is believed: few hostile bytes can make long keys.
LONGEST_KEY = 64 << 10
_MOST_KEYS = 16 << 20  # bytes of all keys together


def recognises(path: Path) -> bool:
    """Whether a file is there and ends as a table does."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - len(_MAGIC)))
            return file.read() == _MAGIC
    except OSError:
        return False


def read(table: bytes) -> list[tuple[bytes, bytes]]:
    """Keys and values of a table; keys ascend.

    Raises:
        Damaged: it is none, or a part of one, or its checksums are wrong. Refused: it is compressed.
    """
    if len(table) < _FOOTER or not table.endswith(_MAGIC):
        raise Damaged(f"its {len(table)} bytes do not end with the {_FOOTER} bytes of a table's footer")
    footer = table[-_FOOTER:]
    _, at = _handle(footer, 0)  # of the metaindex, which has nothing
    handle, _ = _handle(footer, at)
    entries: list[tuple[bytes, bytes]] = []
    end = last = total = 0
    for _, value in _block_entries(_block(table, *handle)):
        (offset, size), _ = _handle(value, 0)
        if offset < end:  # else a few bytes could name a large block many times
            raise Damaged(f"a block begins at byte {offset}, within the one before it, which ends at {end}")
        end = offset + size + _TRAILER
        for key, message in _block_entries(_block(table, offset, size)):
            if entries and key <= last:
                raise Damaged(f"the name {quoted(key)} comes after {quoted(last)}, but names must be sorted")
            total += len(key)
            if total > _MOST_KEYS:
                raise Damaged(f"its names have more than {_MOST_KEYS} bytes in total")
            entries.append((key, message))
            last = key
    return entries


def written(entries: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A table of at least one entry; keys ascend."""
    table = bytearray()

    def append(block: _BlockBuilder) -> bytes:
        content = block.finish() + b"\0"
        handle = wire.varint(len(table)) + wire.varint(len(content) - 1)
        table.extend(content + struct.pack("<I", masked(google_crc32c.value(content))))
        return handle

    index, block = _BlockBuilder(1), _BlockBuilder(_RESTART_INTERVAL)
    handle, last = None, b""  # of the block before, which the index names when the next key is known
    for key, value in entries:
        if handle is not None:
            index.add(_separator(last, key), handle)
            handle = None
        block.add(key, value)
        last = key
        if block.size >= _BLOCK_SIZE:
            handle, block = append(block), _BlockBuilder(_RESTART_INTERVAL)
    if handle is None:
        handle = append(block)
    metaindex = append(_BlockBuilder(_RESTART_INTERVAL))
    index.add(_successor(last), handle)
    footer = (metaindex + append(index)).ljust(_FOOTER - len(_MAGIC), b"\0") + _MAGIC
    return bytes(table) + footer


def masked(checksum: int) -> int:
    """As LevelDB stores a CRC: rotated and moved, so that the CRC of what contains CRCs is sound."""
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def quoted(key: bytes) -> str:
    """A key within a sentence."""
    return repr(key[:100].decode("utf-8", "replace"))


# Blocks, read


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Offset and size of a block, and where the next thing begins."""
    offset, at = wire.read_varint(data, at, len(data))
    size, at = wire.read_varint(data, at, len(data))
    return (offset, size), at


def _block(table: bytes, offset: int, size: int) -> bytes:
    """A block's content, its checksum checked."""
    end = offset + size
    if end + _TRAILER > len(table) - _FOOTER:
        raise Damaged(f"a block of {size} bytes from byte {offset} on does not fit into its {len(table)} bytes")
    compression, stored = struct.unpack_from("<BI", table, end)
    checksum = masked(google_crc32c.value(table[offset : end + 1]))
    if checksum != stored:
        raise Damaged(
            f"the block of {size} bytes from byte {offset} on has the checksum {checksum:08x}, not {stored:08x}"
        )
    if compression == 1:
        raise Refused("it is compressed with Snappy, which TensorFlow's checkpoints are not by default")
    if compression:
        raise Damaged(f"the block at byte {offset} has compression type {compression} instead of 0 (none)")
    return table[offset:end]


def _block_entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block, read from its beginning; so the restarts only tell where the entries end."""
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)
    if restarts < 1 or end < 0:
        raise Damaged(f"a block of {len(block)} bytes claims {restarts} restart points")
    key, at = b"", 0
    while at < end:
        shared, at = wire.read_varint(block, at, end)
        added, at = wire.read_varint(block, at, end)
        size, at = wire.read_varint(block, at, end)
        if shared > len(key) or at + added + size > end or shared + added > LONGEST_KEY:
            raise Damaged(
                f"the entry after {quoted(key)} claims a name of {shared} shared and {added} own bytes and a value of "
                f"{size} bytes, but {max(0, end - at)} bytes are left and a name has at most {LONGEST_KEY}"
            )
        key = key[:shared] + block[at : at + added]
        at += added + size
        yield key, block[at - size : at]


# Blocks, written


class _BlockBuilder:
    """A block under way."""

    def __init__(self, restart_interval: int):
        self._interval = restart_interval
        self._entries, self._restarts, self._count, self._last = bytearray(), [0], 0, b""

    def add(self, key: bytes, value: bytes) -> None:
        """Append an entry; keys ascend."""
        if self._count == self._interval:
            self._restarts.append(len(self._entries))
            self._count, self._last = 0, b""
        shared = _common(self._last, key)
        for number in (shared, len(key) - shared, len(value)):
            self._entries += wire.varint(number)
        self._entries += key[shared:] + value
        self._count, self._last = self._count + 1, key

    @property
    def size(self) -> int:
        """Bytes of what `finish` would return."""
        return len(self._entries) + 4 * (len(self._restarts) + 1)

    def finish(self) -> bytes:
        """The block."""
        return bytes(self._entries) + struct.pack(f"<{len(self._restarts) + 1}I", *self._restarts, len(self._restarts))


def _common(a: bytes, b: bytes) -> int:
    """Bytes that two keys have in common at their beginning."""
    return len(os.path.commonprefix([a, b]))


def _separator(key: bytes, following: bytes) -> bytes:
    """A short key from `key` up to before `following`."""
    at = _common(key, following)
    if at < min(len(key), len(following)) and key[at] + 1 < following[at]:
        return key[:at] + bytes([key[at] + 1])
    return key


def _successor(key: bytes) -> bytes:
    """A short key not before `key`."""
    for at, byte in enumerate(key):
        if byte != 0xFF:
            return key[:at] + bytes([byte + 1])
    return key
