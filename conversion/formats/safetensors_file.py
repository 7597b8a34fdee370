"""safetensors: the header is checked by the library, the bytes are moved by us.

The library's own reading and writing hold whole files in memory; a tensor at a time is enough for a conversion.
The format: a little-endian uint64 n, n bytes of JSON {name: {dtype, shape, data_offsets}}, the tensors' bytes.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from conversion.tensors import DTYPES, Place, Tensor, Tensors
from ms_bert.errors import UserError

_CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
_DTYPES = {code: DTYPES[name] for name, code in _CODES.items()}


def recognises(path: Path) -> bool:
    """Whether a file begins as safetensors does: a header length that fits, and an opening brace."""
    with open(path, "rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and 2 <= struct.unpack("<Q", start[:8])[0] <= path.stat().st_size - 8


def read(path: Path) -> Tensors:
    """The tensors of a file, in the order of their names.

    Raises:
        UserError: it is damaged, or holds a dtype that no BERT has.
    """
    try:
        with safe_open(path, "np") as file:  # checks the header: sizes, overlaps, gaps, bounds
            names = list(file.keys())
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a complete safetensors file ({error}); fetch or write it again.") from None
    header, begin = _header(path)
    tensors = {}
    for name in names:
        code, shape, (first, last) = (header[name][key] for key in ("dtype", "shape", "data_offsets"))
        if code not in _DTYPES:
            raise UserError(f"{path}: {name[:100]!r} has the dtype {code}; only {', '.join(_DTYPES)} are supported.")
        tensors[name] = _tensor(path, _DTYPES[code], tuple(shape), begin + first, last - first)
    return tensors


def _header(path: Path) -> tuple[dict, int]:
    """The header of a file that was checked, and where the tensors' bytes begin."""
    with open(path, "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        return json.loads(file.read(length)), 8 + length


def _tensor(path: Path, dtype: np.dtype, shape: tuple[int, ...], offset: int, size: int) -> Tensor:
    def load() -> np.ndarray:
        values = np.fromfile(path, np.uint8, size, offset=offset)
        if values.nbytes != size:
            raise UserError(f"{path} is shorter than when it was opened; fetch or write it again.")
        return values.view(dtype).reshape(shape)

    return Tensor(dtype, shape, load, Place(path, offset, size))


def write(path: Path, tensors: Tensors, metadata: dict[str, str]) -> list[str]:
    """Write a file, one tensor in memory at a time; the same layout as the library's: largest dtype first, then name.

    It is for the caller to make it durable.

    Raises:
        OSError: it cannot be written.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict = {"__metadata__": metadata}
    offset = 0
    for name in order:
        tensor = tensors[name]
        header[name] = {
            "dtype": _CODES[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin aligned
    start = Tensor.of(np.frombuffer(struct.pack("<Q", len(text)) + text, np.uint8))
    with open(path, "wb", buffering=0) as file:
        for tensor in (start, *(tensors[name] for name in order)):
            tensor.copy_to(file)
    return []


def write_shards(folder: Path, tensors: Tensors, metadata: dict[str, str], limit: int) -> None:
    """Write model-00001-of-0000N.safetensors of at most `limit` bytes of tensors each, and their index."""
    shards: list[Tensors] = [{}]
    for name, tensor in tensors.items():
        if shards[-1] and sum(t.nbytes for t in shards[-1].values()) + tensor.nbytes > limit:
            shards.append({})
        shards[-1][name] = tensor
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write(folder / file, shard, metadata)
        places |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
