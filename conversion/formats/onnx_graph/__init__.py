"""ONNX: a graph built from the weights, its weights read back, and ONNX Runtime's fusions of it.

The graph is what an exporter of PyTorch makes of Hugging Face's BERT with eager attention. Its initializers are exactly
the weights and bear Hugging Face's names; every other constant is a Constant node.

bert.py            the nodes
initializers.py    the weights, within the file or beside it
file.py            the file
runtime.py         what ONNX Runtime makes of it
"""

from __future__ import annotations

from pathlib import Path

from conversion.tensors import Tensors
from ms_bert.config import BertConfig
from ms_bert.errors import UserError

try:
    from conversion.formats.onnx_graph import bert, file, initializers
    from conversion.formats.onnx_graph.runtime import difference, optimize
except ImportError as error:
    raise UserError(f"ONNX files need a package that is missing ({error}); pip install -e '.[onnx]'.") from None

__all__ = ["difference", "optimize", "read", "write"]


def write(
    path: Path, config: BertConfig, architecture: str, tensors: Tensors, external_data: bool | None = None
) -> None:
    """Write a model as ONNX, checked by ONNX's own checker; holds one tensor at a time.

    Args:
        architecture: a key of `conversion.parameters.ARCHITECTURES`.
        tensors: its weights, float32 or float16, by Hugging Face's names with the prefix `bert.`; no tied decoder.
        external_data: weights in PATH.data beside it instead of within; None: where the file would pass 2 GB.

    Raises:
        UserError: the architecture is unknown; weights are missing, too many, or of the wrong shape or dtype; the model
            is over 2 GB and external_data is False; the checker refuses the file.
        OSError: it cannot be written.
    """
    model = bert.graph_of(config, architecture, tensors)
    stored = {name: initializers.turned(name, tensor) for name, tensor in tensors.items()}
    file.write(path, model, stored, external_data)


def read(path: Path) -> Tensors:
    """The weights of a file of `write`, by Hugging Face's names, shapes and orientation, in the order of the file.

    What lies within the protobuf is held, since that is parsed as a whole; external data is read when it is asked for.

    Raises:
        UserError: the file, or its external data, is missing, damaged, or not of `write`; external data that is not
            a plain file of the same folder is not opened.
    """
    return initializers.read(path, file.parse(path))
