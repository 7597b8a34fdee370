"""MindIR: MindSpore's exported graph of the nn.Cell BERT, of a fixed batch size and length; written only.

The graph is called with its inputs by position, in the order of INPUTS:

    graph = mindspore.nn.GraphCell(mindspore.load("model.mindir"))
    outputs = graph(input_ids, attention_mask, token_type_ids)  # mindspore.Tensor, int32, (B, S)
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from conversion.parameters import ARCHITECTURES
from conversion.tensors import Tensors
from ms_bert.config import BertConfig
from ms_bert.data.files import umask
from ms_bert.device import quiet_logs, use_device
from ms_bert.errors import UserError, missing

INPUTS = ("input_ids", "attention_mask", "token_type_ids")

_MOST = 1 << 30  # bytes: above it MindSpore's export makes a graph and a folder of parameters


def write(
    path: Path,
    config: BertConfig,
    architecture: str,
    tensors: Tensors,
    batch_size: int | None = None,
    seq_length: int | None = None,
) -> list[str]:
    """Export a model, load it again, and compare what both compute; returns how it is loaded and called.

    The graph takes INPUTS, (B, S) int32 each, and gives the outputs of its row of ARCHITECTURES.

    Args:
        tensors: the weights by canonical names, float32. batch_size, seq_length: of the inputs, by default 1 and 128,
            or as many as the model takes; for multiple choice the rows are the choices.

    Raises:
        UserError: MindSpore is missing, or the weights, the sizes or the architecture cannot be exported.
    """
    if architecture not in ARCHITECTURES:
        raise UserError(f"there is no MindIR graph for {architecture}; choose one of {', '.join(ARCHITECTURES)}.")
    batch_size = 1 if batch_size is None else batch_size
    seq_length = min(128, config.max_position_embeddings) if seq_length is None else seq_length
    if batch_size < 1 or not 1 <= seq_length <= config.max_position_embeddings:
        raise UserError(
            f"--batch-size {batch_size} and --seq-length {seq_length} do not fit this model; choose at least 1 for "
            f"both, and at most {config.max_position_embeddings} tokens."
        )
    others = sorted({tensor.dtype.name for tensor in tensors.values()} - {"float32"})
    if others:
        raise UserError(f"a MindIR graph needs float32 weights, found {', '.join(others)}; use --dtype float32.")
    if sum(tensor.nbytes for tensor in tensors.values()) >= _MOST:
        raise UserError(
            f"a MindIR graph is one file, into which MindSpore writes less than {_MOST} bytes of weights; leave heads "
            "out with --drop, or convert to ONNX."
        )
    quiet_logs()
    try:
        import mindspore
    except ModuleNotFoundError:
        raise missing("mindspore", "a MindIR graph") from None
    from conversion.formats.mindir_cell import Inference

    use_device("CPU")
    cell = Inference(config, architecture, "bert.pooler.dense.weight" in tensors, choices=batch_size)
    parameters = {parameter.name: parameter for parameter in cell.get_parameters()}
    if parameters.keys() != tensors.keys():
        raise UserError(
            f"the weights are not those of {architecture}; unexpected or missing: "
            f"{', '.join(sorted(parameters.keys() ^ tensors.keys()))}."
        )
    for name, parameter in parameters.items():
        parameter.set_data(mindspore.Tensor(tensors[name].read()))
    rng = np.random.default_rng(0)
    inputs = [
        rng.integers(0, config.vocab_size, (batch_size, seq_length)),
        np.arange(seq_length) < rng.integers(1, seq_length + 1, (batch_size, 1)),
        rng.integers(0, config.type_vocab_size, (batch_size, seq_length)),
    ]
    inputs = [mindspore.Tensor(value.astype(np.int32)) for value in inputs]
    mindspore.export(cell, *inputs, file_name=str(path), file_format="MINDIR")
    os.chmod(path, 0o666 & ~umask())  # MindSpore lets nobody but its owner read it, and nobody write it
    back = mindspore.nn.GraphCell(mindspore.load(str(path)))
    expected, found = cell(*inputs), back(*inputs)
    for value, other in zip(*(x if isinstance(x, tuple) else (x,) for x in (expected, found))):
        if not np.array_equal(value.asnumpy(), other.asnumpy()):
            raise OSError(f"{path}: the exported graph computes something else; MindSpore's export failed")
    return [
        f"its inputs, by position: {', '.join(INPUTS)}, int32 of shape ({batch_size}, {seq_length}) each; load it with "
        f"mindspore.nn.GraphCell(mindspore.load({path.name!r}))"
    ]
