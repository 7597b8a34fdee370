"""What ONNX Runtime makes of a graph: the transformer fusions, and a check that they compute the same."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from conversion.formats.onnx_graph import file, initializers
from ms_bert.config import BertConfig
from ms_bert.errors import UserError

_RUNTIME_DOMAIN = "com.microsoft"  # of ONNX Runtime's own operators


def optimize(path: Path, config: BertConfig, target: Path) -> dict[str, int]:
    """Fuse a file of `write` by ONNX Runtime's transformer optimizer; the result needs ONNX Runtime to run.

    The fusions are those for attention, skip and embedding LayerNorm, and GELU; none approximates.

    Args:
        target: the fused model; weights go to TARGET.data where it would pass 2 GB.

    Returns:
        The number of nodes by name, of the operators that are ONNX Runtime's own.

    Raises:
        UserError: onnxruntime is missing, or `path` is not a file that `read` takes.
    """
    try:
        from onnxruntime.transformers.fusion_options import FusionOptions
        from onnxruntime.transformers.optimizer import optimize_by_fusion
    except ImportError as error:
        raise UserError(
            f"fusing an ONNX model needs a package that is missing ({error}); pip install 'ms-bert[onnx]'."
        ) from None
    model = file.parse(path)
    for initializer in model.graph.initializer:
        _, tensor = initializers.weight(path, initializer)
        if initializer.data_location == TensorProto.EXTERNAL:
            initializer.raw_data = tensor.read().tobytes()
            initializer.ClearField("data_location")
            initializer.ClearField("external_data")
    properties = {entry.key: entry.value for entry in model.metadata_props}
    model.producer_name = ""  # a name other than pytorch's would be warned of
    options = FusionOptions("bert")
    # The default takes the mask for a count of tokens, which is wrong where padding is not at the right.
    options.use_raw_attention_mask(True)
    # It only guards against graphs of another pattern, needs sympy, and copies the model, which fails over 2 GB.
    options.enable_shape_inference = False
    # Without the runtime's own pass before it: the graph has nothing to fold, and on a CPU the pass splits float16 by
    # casts, which hides the pattern.
    silenced = logging.root.manager.disable
    logging.disable(logging.WARNING)  # among others, that there is no shape inference
    try:
        fused = optimize_by_fusion(model, "bert", config.num_attention_heads, config.hidden_size, options).model
    finally:
        logging.disable(silenced)
    if not any(opset.domain == _RUNTIME_DOMAIN for opset in fused.opset_import):
        fused.opset_import.append(helper.make_opsetid(_RUNTIME_DOMAIN, 1))
    counts = Counter(node.op_type for node in fused.graph.node if node.domain == _RUNTIME_DOMAIN)
    nodes = ", ".join(f"{count} {operator}" for operator, count in sorted(counts.items()))
    helper.set_model_props(fused, {**properties, file.FUSED: nodes})
    entries = fused.graph.initializer
    weights = {entry.name: initializers.in_memory(entry) for entry in entries if entry.HasField("raw_data")}
    others = [entry for entry in entries if entry.name not in weights]
    del fused.graph.initializer[:]
    fused.graph.initializer.extend(others)
    file.write(target, fused, weights)
    return dict(sorted(counts.items()))


def difference(path: Path, other: Path, config: BertConfig) -> float:
    """Run two models in ONNX Runtime on the same random inputs; the largest difference over the largest output.

    Raises:
        UserError: onnxruntime is missing.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"running an ONNX model needs a package that is missing ({error}); pip install 'ms-bert[onnx]'."
        ) from None
    outputs = []
    for model in (path, other):
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        rng, rows, tokens = np.random.default_rng(0), 3, min(24, config.max_position_embeddings)
        mask = np.arange(tokens) < rng.integers(1, tokens + 1, (rows, 1))
        inputs = {
            "input_ids": rng.integers(0, config.vocab_size, (rows, tokens)) * mask,
            "attention_mask": mask.astype(np.int64),
            "token_type_ids": rng.integers(0, config.type_vocab_size, (rows, tokens)) * mask,
        }
        if len(session.get_inputs()[0].shape) == 3:  # multiple choice
            inputs = {name: value[None] for name, value in inputs.items()}
        outputs.append([value.astype(np.float64) for value in session.run(None, inputs)])
    return max(
        float(np.nanmax(np.abs(a - b), initial=0.0) / max(np.nanmax(np.abs(a), initial=0.0), 1e-30))
        for a, b in zip(*outputs, strict=True)
    )
