"""The file: a ModelProto, written a tensor at a time, with the weights beside it where one file cannot hold them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from conversion.formats import wire
from conversion.formats.onnx_graph import initializers
from conversion.formats.onnx_graph.initializers import REMEDY, quoted, text_of
from conversion.parameters import ARCHITECTURES
from conversion.tensors import Tensor, Tensors
from ms_bert.errors import UserError

PROTOBUF_LIMIT = 2**31 - 1  # bytes of one protobuf, data in it included
ALIGNMENT = 4096  # of offsets in external data: a page, so that it can be mapped

PRODUCER = "ms_bert.conversion"
ARCHITECTURE, CONFIG, FUSED = "architecture", "config", "fused"  # of metadata_props

_GRAPH = wire.tag(onnx.ModelProto.GRAPH_FIELD_NUMBER)
_INITIALIZER = wire.tag(onnx.GraphProto.INITIALIZER_FIELD_NUMBER)


def write(path: Path, model: onnx.ModelProto, weights: Tensors, external_data: bool | None = None) -> None:
    """Write a model with these initializers, which its graph does not hold yet, and have it checked."""
    within = [initializers.header(name, tensor) for name, tensor in weights.items()]
    sizes = [len(header) + tensor.nbytes for header, tensor in zip(within, weights.values())]
    key_and_length = 6  # of a field, at most
    size = model.ByteSize() + key_and_length + sum(key_and_length + length for length in sizes)
    if external_data is False and size > PROTOBUF_LIMIT:
        raise UserError(
            f"{path}: the model takes {size} bytes, and one ONNX file holds {PROTOBUF_LIMIT} at most; "
            "allow external data, or use --dtype float16."
        )
    if external_data or (external_data is None and size > PROTOBUF_LIMIT):
        location = f"{path.name}.data"
        headers, offset = [], 0
        with open(path.with_name(location), "wb") as file:
            for name, tensor in weights.items():
                offset += -offset % ALIGNMENT
                headers.append(initializers.external(name, tensor, location, offset))
                file.seek(offset)
                _write_values(file, tensor)
                offset += tensor.nbytes
            _sync(file)
        _write_protobuf(path, model, headers, sizes=[len(header) for header in headers], values=())
    else:
        _write_protobuf(path, model, within, sizes, weights.values())
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise UserError(f"{path}: ONNX's checker rejects the written file ({_one_line(error)}).") from None


def parse(path: Path) -> onnx.ModelProto:
    """The protobuf of a file of `write`, its external data not loaded."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path} is not a file; name an ONNX model.")
        if status.st_size > PROTOBUF_LIMIT:
            raise UserError(
                f"{path}: found {status.st_size} bytes, expected {PROTOBUF_LIMIT} at most for ONNX; {REMEDY}"
            )
        model = onnx.ModelProto.FromString(path.read_bytes())
        properties = {text_of(entry.key): text_of(entry.value) for entry in model.metadata_props}
        producer, architecture = text_of(model.producer_name), properties.get(ARCHITECTURE)
    except FileNotFoundError:
        raise UserError(f"there is no {path}; name an ONNX model.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}); name an ONNX model.") from None
    except (DecodeError, UnicodeError):
        raise UserError(f"{path}: found something that is not ONNX, or only a part of a file; {REMEDY}") from None
    if FUSED in properties:
        raise UserError(
            f"{path}: found a model fused by ONNX Runtime, whose weights have lost their names; "
            "name the file that it was made from."
        )
    if architecture not in ARCHITECTURES:
        raise UserError(
            f"{path}: found an ONNX file of {quoted(producer) or 'an unnamed producer'}, expected a BERT that was "
            "converted by ms_bert; convert the model that it was exported from."
        )
    return model


def _write_protobuf(
    path: Path, model: onnx.ModelProto, headers: list[bytes], sizes: list[int], values: Iterable[Tensor]
) -> None:
    """Write a ModelProto whose graph ends with these initializers: each a header and, within its size, values.

    By hand, since protobuf would hold all values twice. The graph is last, so that a truncated file is no ModelProto.
    """
    graph = model.graph.SerializeToString()
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    rest.ClearField("graph")
    starts = [wire.begin(_INITIALIZER, size) for size in sizes]
    length = len(graph) + sum(map(len, starts)) + sum(sizes)
    values = iter(values)
    with open(path, "wb") as file:
        file.write(rest.SerializeToString())
        file.write(wire.begin(_GRAPH, length) + graph)
        for start, header, size in zip(starts, headers, sizes):
            file.write(start + header)
            if size > len(header):
                _write_values(file, next(values))
        _sync(file)


def _write_values(file: BinaryIO, tensor: Tensor) -> None:
    file.write(tensor.read().reshape(-1).view(np.uint8))


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
