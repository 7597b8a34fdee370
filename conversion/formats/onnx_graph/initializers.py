"""Weights as initializers of a graph: how they lie there, within the protobuf or beside it, written and read."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper

from conversion.formats import wire
from conversion.parameters import MODULES
from conversion.tensors import Tensor, Tensors
from ms_bert.errors import UserError

REMEDY = "convert the model to ONNX again."
CODES = {np.dtype("float32"): TensorProto.FLOAT, np.dtype("float16"): TensorProto.FLOAT16}
_DTYPES = {code: dtype for dtype, code in CODES.items()}
_RAW_DATA = wire.tag(TensorProto.RAW_DATA_FIELD_NUMBER)


def read(path: Path, model: ModelProto) -> Tensors:
    """The weights of a model by their names, in Hugging Face's orientation; `path` is that of its file.

    Raises:
        UserError: there is none, or one is of another kind or incomplete.
    """
    tensors: Tensors = {}
    for initializer in model.graph.initializer:
        name, tensor = weight(path, initializer)
        if name in tensors:
            raise UserError(f"{path}: weight {quoted(name)} occurs twice; {REMEDY}")
        tensors[name] = turned(name, tensor)
    if not tensors:
        raise UserError(f"{path}: found no weights; {REMEDY}")
    return tensors


def is_transposed(name: str) -> bool:
    """Whether a weight is stored as (in, out) instead of Hugging Face's (out, in).

    The matrix of a linear layer is, as the right side of a MatMul: the fusions want a constant there, and a Transpose
    of (out, in) is none. Other tensors are stored as they are; the MLM decoder is the word embedding itself, by a Gemm
    with transB, so that the table is there once.
    """
    module, _, leaf = name.rpartition(".")
    kinds = {known.rpartition(".")[2]: described.kind for known, described in MODULES.items()}
    return leaf == "weight" and kinds.get(module.rpartition(".")[2]) in ("linear", "projection")


def turned(name: str, tensor: Tensor) -> Tensor:
    """A weight from Hugging Face's orientation to the stored one, or back."""
    return tensor.transposed() if is_transposed(name) else tensor


def header(name: str, tensor: Tensor) -> bytes:
    """A TensorProto up to where the values follow as raw_data."""
    proto = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(tensor.dtype), dims=tensor.shape)
    return proto.SerializeToString() + wire.begin(_RAW_DATA, tensor.nbytes)


def external(name: str, tensor: Tensor, location: str, offset: int) -> bytes:
    """A TensorProto that names the place of its values."""
    proto = TensorProto(
        name=name,
        data_type=helper.np_dtype_to_tensor_dtype(tensor.dtype),
        dims=tensor.shape,
        data_location=TensorProto.EXTERNAL,
    )
    for key, value in (("location", location), ("offset", offset), ("length", tensor.nbytes)):
        proto.external_data.add(key=key, value=str(value))
    return proto.SerializeToString()


def in_memory(initializer: TensorProto) -> Tensor:
    """An initializer with raw_data, as it is stored."""
    dtype, shape, data = helper.tensor_dtype_to_np_dtype(initializer.data_type), tuple(initializer.dims), initializer
    return Tensor(dtype, shape, lambda: np.frombuffer(data.raw_data, dtype).reshape(shape))


def text_of(field: str | bytes) -> str:
    """A text of a protobuf, which comes as bytes where it is not UTF-8."""
    return field.decode("utf-8") if isinstance(field, bytes) else field


def quoted(text: str) -> str:
    """Foreign text within a sentence."""
    return repr(text[:80]) if text else ""


def weight(path: Path, initializer: TensorProto) -> tuple[str, Tensor]:
    """The name of an initializer and its values as they are stored."""
    try:
        name = text_of(initializer.name)
        places = {text_of(entry.key): text_of(entry.value) for entry in initializer.external_data}
    except UnicodeError:
        raise UserError(f"{path}: the name of a weight, or of its file, is not text; {REMEDY}") from None
    shape = tuple(initializer.dims)
    what = f"{path}: weight {quoted(name) or 'without a name'}"
    if initializer.data_type not in _DTYPES:
        raise UserError(f"{what} has ONNX's data type {initializer.data_type}, expected 1 or 10; {REMEDY}")
    if len(shape) not in (1, 2) or min(shape) < 1 or (is_transposed(name) and len(shape) != 2):
        raise UserError(f"{what} has the shape {shape}, which no weight of a BERT has; {REMEDY}")
    dtype = _DTYPES[initializer.data_type]
    nbytes = math.prod(shape) * dtype.itemsize
    if initializer.data_location == TensorProto.EXTERNAL:
        return name, Tensor(dtype, shape, _external_reader(path, what, places, dtype, shape, nbytes))
    if len(initializer.raw_data) != nbytes:
        raise UserError(
            f"{what} holds {len(initializer.raw_data)} bytes, expected {nbytes} for {shape} {dtype}; {REMEDY}"
        )
    return name, in_memory(initializer)


def _external_reader(
    path: Path, what: str, places: dict[str, str], dtype: np.dtype, shape: tuple[int, ...], nbytes: int
) -> Callable[[], np.ndarray]:
    """What reads values of external data, whose place is checked now and at each call."""
    location = places.get("location", "")
    # A plain name: what has a folder in it, or is a link, may lead out of the model's own.
    if not location or location in (".", "..") or set(location) & set("/\\\0"):
        raise UserError(
            f"{what} is in external data {quoted(location) or 'without a name'}, expected the name of a file beside "
            f"the model; {REMEDY}"
        )
    data = path.with_name(location)
    numbers = [places.get("offset", "0"), places.get("length", str(nbytes))]
    if not all(number.isascii() and number.isdigit() and len(number) < 20 for number in numbers):
        found = " and ".join(map(quoted, numbers))
        raise UserError(f"{what} is at {found} of {data}, expected an offset and a length; {REMEDY}")
    offset, length = map(int, numbers)
    if length != nbytes:
        raise UserError(f"{what} holds {length} bytes, expected {nbytes} for {shape} {dtype}; {REMEDY}")

    def check() -> None:
        try:
            status = os.lstat(data)
        except OSError as error:
            raise UserError(f"{what} is in {data}, which cannot be read ({error.strerror}); {REMEDY}") from None
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{what} is in {data}, which is a link or not a file; put the file itself there.")
        if status.st_size < offset + nbytes:
            raise UserError(
                f"{what} ends at byte {offset + nbytes} of {data}, found {status.st_size} bytes; the file is "
                f"truncated: {REMEDY}"
            )

    def read() -> np.ndarray:
        check()
        try:
            return np.fromfile(data, dtype, count=math.prod(shape), offset=offset).reshape(shape)
        except OSError as error:
            raise UserError(f"{what} is in {data}, which cannot be read ({error.strerror}); {REMEDY}") from None

    check()
    return read
