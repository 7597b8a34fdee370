"""ONNX: a graph built from the weights, its weights read back, and ONNX Runtime's fusions of it.

The graph is what an exporter of PyTorch makes of Hugging Face's BERT with eager attention. Its initializers are exactly
the weights and bear Hugging Face's names; every other constant is a Constant node.

bert.py            the nodes
initializers.py    the weights, within the file or beside it
file.py            the file
runtime.py         what ONNX Runtime makes of it
"""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from types import ModuleType

from conversion.tensors import Tensors, check_same
from ms_bert.config import BertConfig
from ms_bert.errors import UserError

# How far the outputs of a fused graph may be from those of the plain one, over the largest.
_TOLERANCES = {"float32": 1e-4, "float16": 2e-2}


def recognises(path: Path) -> bool:
    """Whether a file is called as ONNX's are: a protobuf says of itself no more than that it is one."""
    return path.suffix == ".onnx"


def write(
    path: Path,
    config: BertConfig,
    architecture: str,
    tensors: Tensors,
    external_data: bool | None = None,
    optimize: bool = False,
) -> list[str]:
    """Write a model as ONNX, checked by ONNX's own checker and read back; holds one tensor at a time.

    Args:
        architecture: a key of `conversion.parameters.ARCHITECTURES`.
        tensors: its weights, float32 or float16, by Hugging Face's names with the prefix `bert.`; no tied decoder.
        external_data: weights in PATH.data beside it instead of within; None: where the file would pass 2 GB.
        optimize: fuse it for ONNX Runtime, and compare what both compute.

    Raises:
        UserError: the onnx package is missing; the architecture is unknown; weights are missing, too many, or of the
            wrong shape or dtype; the model is over 2 GB and external_data is False; the checker refuses the file.
        OSError: it cannot be written, or has become another one.
    """
    bert, file, initializers = map(_needing_onnx, ("bert", "file", "initializers"))
    plain = path.with_name("plain") / path.name if optimize else path
    plain.parent.mkdir(exist_ok=True)
    model = bert.graph_of(config, architecture, tensors)
    stored = {name: initializers.turned(name, tensor) for name, tensor in tensors.items()}
    file.write(plain, model, stored, external_data)
    check_same("weights", tensors, read(plain))
    if not optimize:
        return []
    counts = fuse(plain, config, path)
    difference = _needing_onnx("runtime").difference(plain, path, config)
    if difference > _TOLERANCES[next(iter(tensors.values())).dtype.name]:
        raise OSError(f"the fused graph computes something else ({difference:.1e} of the largest output)")
    shutil.rmtree(plain.parent)
    nodes = ", ".join(f"{number} {name}" for name, number in counts.items())
    return [f"fused {nodes}; the outputs agree to {difference:.1e} of the largest"]


def read(path: Path) -> Tensors:
    """The weights of a file of `write`, by Hugging Face's names, shapes and orientation, in the order of the file.

    What lies within the protobuf is held, since that is parsed as a whole; external data is read when it is asked for.

    Raises:
        UserError: the onnx package is missing; the file, or its external data, is missing, damaged, or not of `write`;
            external data that is not a plain file of the same folder is not opened.
    """
    return _needing_onnx("initializers").read(path, _needing_onnx("file").parse(path))


def fuse(path: Path, config: BertConfig, target: Path) -> dict[str, int]:
    """Fuse a file of `write` for ONNX Runtime; see `runtime.optimize`."""
    return _needing_onnx("runtime").optimize(path, config, target)


def _needing_onnx(name: str) -> ModuleType:
    """A module of this package; they need one that is optional, and is imported when it is used."""
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ImportError as error:
        raise UserError(f"ONNX files need a package that is missing ({error}); pip install 'ms-bert[onnx]'.") from None
