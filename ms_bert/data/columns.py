"""Columns of numbers in Arrow files, memory-mapped: as long as the disk is large, read by index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from ms_bert.data.cache import Damaged

BLOCK_BITS = 20  # 2^20 values a record batch: a value's place follows from its index


class Column:
    """A column of an Arrow file, memory-mapped, read by NumPy index arrays without reading the rest.

    All record batches but the last have 2^20 values, so value i lies in batch i >> 20, and every batch's place in
    the file is known: the file itself is the array.
    """

    def __init__(self, path: Path):
        try:
            self._map = pa.memory_map(str(path))
            file = pa.ipc.open_file(self._map)
            batches = [file.get_batch(i) for i in range(file.num_record_batches)]
            # Not by to_pandas_dtype, which takes a second to import pandas.
            kind = np.dtype(str(file.schema.field(0).type))
        except (OSError, pa.ArrowInvalid, TypeError) as error:
            raise Damaged(f"{path} of the token store cannot be read ({error})") from None
        self._length = sum(len(batch) for batch in batches)
        whole = self._map.read_buffer()
        self._values = np.frombuffer(whole, kind, count=len(whole) // kind.itemsize)
        # Buffers lie on multiples of 8 bytes in the file, hence on whole items.
        self._base = np.array(
            [(b.column(0).buffers()[1].address - whole.address) // kind.itemsize for b in batches], np.int64
        )

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        index = np.asarray(index)
        return self._values[self._base[index >> BLOCK_BITS] + (index & ((1 << BLOCK_BITS) - 1))]

    def slice(self, first: int, end: int) -> np.ndarray:
        """A copy of the values from index `first` up to `end`."""
        parts = []
        while first < end:
            number = first >> BLOCK_BITS
            stop = min(end, (number + 1) << BLOCK_BITS)
            place = self._base[number] + first - (number << BLOCK_BITS)
            parts.append(self._values[place : place + stop - first])
            first = stop
        return np.concatenate(parts) if parts else self._values[:0].copy()

    def last_not_above(self, values: np.ndarray) -> np.ndarray:
        """For an ascending column: the largest index whose value is <= each of values (at least 0)."""
        low, high = np.zeros(values.shape, np.int64), np.full(values.shape, self._length, np.int64)
        for _ in range(self._length.bit_length()):
            middle = (low + high) >> 1
            below = self[np.minimum(middle, self._length - 1)] <= values
            low, high = np.where(below & (middle > low), middle, low), np.where(below, high, middle)
        return low


class ColumnWriter:
    """Writes a column in record batches of exactly 2^20 values and a shorter last one."""

    def __init__(self, path: Path, name: str, kind: np.dtype):
        self.length = 0
        self._kind, self._count = kind, 0
        self._waiting: list[np.ndarray] = []
        schema = pa.schema([(name, pa.from_numpy_dtype(kind))])
        self._schema, self._file = schema, pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._file, schema)

    def append(self, values: np.ndarray) -> None:
        self._waiting.append(np.asarray(values, self._kind))
        self._count += len(values)
        self.length += len(values)
        if self._count >= 1 << BLOCK_BITS:
            self._write(whole_blocks=True)

    def _write(self, whole_blocks: bool) -> None:
        values, block = np.concatenate(self._waiting or [np.empty(0, self._kind)]), 1 << BLOCK_BITS
        end = len(values) // block * block if whole_blocks else len(values)
        for first in range(0, end, block):
            self._writer.write_batch(pa.record_batch([pa.array(values[first : min(first + block, end)])], self._schema))
        self._waiting, self._count = [values[end:]], len(values) - end

    def close(self) -> None:
        self._write(whole_blocks=False)
        self._writer.close()
        self._file.flush()
        self._file.close()
