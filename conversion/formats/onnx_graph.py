"""ONNX: a graph built from the weights, its weights read back, and ONNX Runtime's fusions of it.

The graph is what an exporter of PyTorch makes of Hugging Face's BERT with eager attention: the nodes are in the pattern
that the fusions of onnxruntime.transformers look for (its fusion_*.py). Its initializers are exactly the weights and
bear Hugging Face's names; every other constant is a Constant node.
"""

from __future__ import annotations

import logging
import math
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from conversion.parameters import OUTPUTS
from conversion.tensors import Tensor, Tensors
from ms_bert import __version__
from ms_bert.config import BertConfig
from ms_bert.errors import UserError

try:
    import onnx
    from google.protobuf.message import DecodeError
    from onnx import TensorProto, helper, numpy_helper
except ImportError as error:
    raise UserError(f"ONNX files need a package that is missing ({error}); pip install -e '.[onnx]'.") from None

INPUTS = ("input_ids", "attention_mask", "token_type_ids")  # int64, (batch, sequence) or (batch, choices, sequence)

# The first opset with LayerNormalization, so that the most runtimes take it; the fusions of ONNX Runtime 1.23 and 1.31
# find the same nodes in it as in 18 to 22. IR 8 came with it.
OPSET, IR_VERSION = 17, 8

PROTOBUF_LIMIT = 2**31 - 1  # bytes of one protobuf, data in it included
ALIGNMENT = 4096  # of offsets in external data: a page, so that it can be mapped

# Modules whose `weight` is a matrix of a linear layer. ONNX stores it as (in, out), the right side of a MatMul: the
# fusions want a constant there, and a Transpose of (out, in) is none. Other tensors are stored as they are; the MLM
# decoder is the word embedding itself, by a Gemm with transB, so that the table is there once.
LINEAR_MODULES = {"query", "key", "value", "dense", "seq_relationship", "classifier", "qa_outputs"}

_PRODUCER = "ms_bert.conversion"
_RUNTIME_DOMAIN = "com.microsoft"  # of ONNX Runtime's own operators
_ARCHITECTURE_KEY, _CONFIG_KEY, _FUSED_KEY = "architecture", "config", "fused"  # of metadata_props
_REMEDY = "convert the model to ONNX again."
_DTYPES = {np.dtype("float32"): TensorProto.FLOAT, np.dtype("float16"): TensorProto.FLOAT16}
_DTYPES_BY_CODE = {code: dtype for dtype, code in _DTYPES.items()}

# Added to the scores of padding. In float32 what transformers adds. In float16 half of that: a score under -16 would
# take the lowest number to -inf, and a row without any token to NaN.
_MASK_VALUES = {
    np.dtype("float32"): np.finfo(np.float32).min,
    np.dtype("float16"): np.finfo(np.float16).min / np.float16(2),
}


def write(
    path: Path, config: BertConfig, architecture: str, tensors: Tensors, external_data: bool | None = None
) -> None:
    """Write a model as ONNX, checked by ONNX's own checker; holds one tensor at a time.

    Args:
        architecture: a key of OUTPUTS.
        tensors: its weights, float32 or float16, by Hugging Face's names with the prefix `bert.`; no tied decoder.
        external_data: weights in PATH.data beside it instead of within; None: where the file would pass 2 GB.

    Raises:
        UserError: the architecture is unknown; weights are missing, too many, or of the wrong shape or dtype; the model
            is over 2 GB and external_data is False; the checker refuses the file.
        OSError: it cannot be written.
    """
    if architecture not in OUTPUTS:
        raise UserError(f"there is no ONNX graph for {architecture}; choose one of {', '.join(OUTPUTS)}.")
    dtype = _common_dtype(tensors)
    builder = _GraphBuilder(config, dtype, tensors)
    outputs = _build(builder, architecture)
    faults = builder.faults + [f"{name} is unexpected" for name in tensors if name not in builder.used]
    if faults:
        raise UserError(f"the weights do not fit {architecture} of this config: {'; '.join(faults)}.")
    axes = ("batch", "choices", "sequence") if architecture == "BertForMultipleChoice" else ("batch", "sequence")
    model = helper.make_model(
        helper.make_graph(
            builder.nodes,
            architecture,
            [helper.make_tensor_value_info(name, TensorProto.INT64, axes) for name in INPUTS],
            [helper.make_tensor_value_info(name, _DTYPES[dtype], shape) for name, shape in outputs.items()],
        ),
        producer_name=_PRODUCER,
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    helper.set_model_props(model, {_ARCHITECTURE_KEY: architecture, _CONFIG_KEY: config.to_json()})
    _write_model(path, model, {name: _turned(name, tensor) for name, tensor in tensors.items()}, external_data)


def read(path: Path) -> Tensors:
    """The weights of a file of `write`, by Hugging Face's names, shapes and orientation, in the order of the file.

    What lies within the protobuf is held, since that is parsed as a whole; external data is read when it is asked for.

    Raises:
        UserError: the file, or its external data, is missing, damaged, or not of `write`; external data that is not
            a plain file of the same folder is not opened.
    """
    model = _parse(path)
    tensors = {}
    for initializer in model.graph.initializer:
        name, tensor = _weight(path, initializer)
        if name in tensors:
            raise UserError(f"{path}: weight {_shown(name)} is there twice; {_REMEDY}")
        tensors[name] = _turned(name, tensor)
    if not tensors:
        raise UserError(f"{path}: found no weights; {_REMEDY}")
    return tensors


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
            f"fusing an ONNX model needs a package that is missing ({error}); pip install -e '.[onnx]'."
        ) from None
    model = _parse(path)
    for initializer in model.graph.initializer:
        _, tensor = _weight(path, initializer)
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
    helper.set_model_props(fused, {**properties, _FUSED_KEY: nodes})
    weights = {entry.name: _in_memory(entry) for entry in fused.graph.initializer if entry.HasField("raw_data")}
    others = [entry for entry in fused.graph.initializer if entry.name not in weights]
    del fused.graph.initializer[:]
    fused.graph.initializer.extend(others)
    _write_model(target, fused, weights, external_data=None)
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
            f"running an ONNX model needs a package that is missing ({error}); pip install -e '.[onnx]'."
        ) from None
    outputs = []
    for file in (path, other):
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
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


def _is_transposed(name: str) -> bool:
    """Whether a weight is stored as (in, out) instead of Hugging Face's (out, in)."""
    module, _, kind = name.rpartition(".")
    return kind == "weight" and module.rpartition(".")[2] in LINEAR_MODULES


def _turned(name: str, tensor: Tensor) -> Tensor:
    """A weight from Hugging Face's orientation to the stored one, or back."""
    return tensor.transposed() if _is_transposed(name) else tensor


# --- the graph ---


def _common_dtype(tensors: Tensors) -> np.dtype:
    """The dtype of all weights, in which the graph then computes."""
    dtypes = sorted({str(tensor.dtype) for tensor in tensors.values()})
    if len(dtypes) != 1 or np.dtype(dtypes[0]) not in _DTYPES:
        raise UserError(
            f"the weights are {' and '.join(dtypes) or 'none at all'}; an ONNX graph computes in float32 or float16: "
            "use --dtype float32."
        )
    return np.dtype(dtypes[0])


class _GraphBuilder:
    """Nodes in order of execution, values by name, and what was found wrong with the weights.

    Attributes:
        used: names of the weights that the graph uses. faults: what is missing or of another shape.
    """

    def __init__(self, config: BertConfig, dtype: np.dtype, tensors: Tensors):
        self.config, self.dtype, self.tensors = config, dtype, tensors
        self.nodes: list[onnx.NodeProto] = []
        self.used: set[str] = set()
        self.faults: list[str] = []
        self.names: Counter[str] = Counter()
        self.constants: dict[tuple, str] = {}

    def node(self, operator: str, *inputs: str, scope: str = "", output: str | None = None, **attributes) -> str:
        """Add a node in a module's scope; returns its output."""
        name = f"{scope}/{operator}"
        self.names[name] += 1
        if self.names[name] > 1:
            name = f"{name}_{self.names[name] - 1}"
        output = output or name
        self.nodes.append(helper.make_node(operator, inputs, [output], name, **attributes))
        return output

    def constant(self, values, dtype: np.dtype | type = np.int64) -> str:
        """A Constant node, one for equal values."""
        array = np.asarray(values, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.constants:
            name = f"constant_{len(self.constants)}"
            self.nodes.append(helper.make_node("Constant", [], [name], name, value=numpy_helper.from_array(array)))
            self.constants[key] = name
        return self.constants[key]

    def number(self, value: float) -> str:
        """A scalar of the dtype of the graph."""
        return self.constant(value, self.dtype)

    def weight(self, name: str, *shape: int) -> str:
        """The initializer of a weight with Hugging Face's shape."""
        self.used.add(name)
        if name not in self.tensors:
            self.faults.append(f"{name} is missing")
        elif self.tensors[name].shape != shape:
            self.faults.append(f"{name} is {self.tensors[name].shape} instead of {shape}")
        return name

    def linear(self, x: str, scope: str, inputs: int, outputs: int, output: str | None = None) -> str:
        """x (..., inputs) -> (..., outputs)."""
        product = self.node("MatMul", x, self.weight(f"{scope}.weight", outputs, inputs), scope=scope)
        return self.node("Add", product, self.weight(f"{scope}.bias", outputs), scope=scope, output=output)

    def layer_norm(self, x: str, scope: str, output: str | None = None) -> str:
        """Mean and variance are of float32 in float16, too (stash_type 1), where 1e-12 would be 0."""
        weights = (self.weight(f"{scope}.{kind}", self.config.hidden_size) for kind in ("weight", "bias"))
        return self.node(
            "LayerNormalization",
            x,
            *weights,
            scope=scope,
            output=output,
            axis=-1,
            epsilon=self.config.layer_norm_eps,
            stash_type=1,
        )

    def activation(self, x: str, scope: str) -> str:
        """The config's hidden_act, each GELU in the nodes of its own fusion."""

        def node(operator: str, *inputs: str) -> str:
            return self.node(operator, *inputs, scope=scope)

        if self.config.hidden_act == "relu":
            return node("Relu", x)
        if self.config.hidden_act == "gelu":
            cumulative = node("Add", node("Erf", node("Div", x, self.number(math.sqrt(2.0)))), self.number(1.0))
        else:
            cubic = node("Mul", node("Pow", x, self.number(3.0)), self.number(0.044715))
            scaled = node("Mul", node("Add", x, cubic), self.number(math.sqrt(2.0 / math.pi)))
            cumulative = node("Add", node("Tanh", scaled), self.number(1.0))
        # Halved before the product: (1 + erf) x would overflow in float16 where gelu(x) does not.
        return node("Mul", node("Mul", x, self.number(0.5)), cumulative)


def _build(builder: _GraphBuilder, architecture: str) -> dict[str, tuple]:
    """Add the nodes of an architecture; returns the shapes of its outputs by name."""
    config = builder.config
    hidden = config.hidden_size
    labels = 1 if architecture == "BertForMultipleChoice" else config.num_labels
    names = OUTPUTS[architecture]
    # The encoder takes (B, S); choices are rows of their own.
    input_ids, attention_mask, token_type_ids = INPUTS
    if architecture == "BertForMultipleChoice":
        rows = builder.node("Concat", builder.constant([-1]), builder.node("Shape", INPUTS[0], start=2), axis=0)
        input_ids, attention_mask, token_type_ids = (builder.node("Reshape", name, rows) for name in INPUTS)

    x = _embeddings(builder, input_ids, token_type_ids)
    mask = _additive_mask(builder, attention_mask)
    for i in range(config.num_hidden_layers):
        is_output = architecture == "BertModel" and i + 1 == config.num_hidden_layers
        x = _encoder_layer(builder, x, mask, f"bert.encoder.layer.{i}", output=names[0] if is_output else None)

    tokens = ("batch", "sequence")
    if architecture == "BertModel":
        shapes = {names[0]: (*tokens, hidden)}
        if any(name.startswith("bert.pooler.") for name in builder.tensors):
            _pooler(builder, x, output=names[1])
            shapes[names[1]] = ("batch", hidden)
        return shapes
    if architecture == "BertForMaskedLM":
        _mlm_head(builder, x, input_ids, output=names[0])
        return {names[0]: (*tokens, config.vocab_size)}
    if architecture == "BertForTokenClassification":
        builder.linear(x, "classifier", hidden, labels, output=names[0])
        return {names[0]: (*tokens, labels)}
    if architecture == "BertForQuestionAnswering":
        logits = builder.linear(x, "qa_outputs", hidden, 2)
        for i, name in enumerate(names):
            builder.node("Gather", logits, builder.constant(i), scope="qa_outputs", output=name, axis=2)
        return {name: tokens for name in names}
    pooled = _pooler(builder, x)
    if architecture == "BertForPreTraining":
        _mlm_head(builder, x, input_ids, output=names[0])
        builder.linear(pooled, "cls.seq_relationship", hidden, 2, output=names[1])
        return {names[0]: (*tokens, config.vocab_size), names[1]: ("batch", 2)}
    if architecture == "BertForNextSentencePrediction":
        builder.linear(pooled, "cls.seq_relationship", hidden, 2, output=names[0])
        return {names[0]: ("batch", 2)}
    if architecture == "BertForSequenceClassification":
        builder.linear(pooled, "classifier", hidden, labels, output=names[0])
        return {names[0]: ("batch", labels)}
    scores = builder.linear(pooled, "classifier", hidden, 1)  # (B * C, 1)
    builder.node("Reshape", scores, builder.node("Shape", INPUTS[0], end=2), scope="classifier", output=names[0])
    return {names[0]: ("batch", "choices")}


def _embeddings(builder: _GraphBuilder, input_ids: str, token_type_ids: str) -> str:
    """LayerNorm((word + token type) + position), (B, S, H); positions are a slice of a constant as in PyTorch's."""
    config, scope = builder.config, "bert.embeddings"
    length = builder.node("Gather", builder.node("Shape", input_ids, scope=scope), builder.constant(1), scope=scope)
    zero, one = builder.constant([0]), builder.constant([1])
    position_ids = builder.node(
        "Slice",
        builder.constant(np.arange(config.max_position_embeddings)[None]),
        zero,
        builder.node("Unsqueeze", length, zero, scope=scope),
        one,
        one,
        scope=scope,
    )
    vectors = [
        builder.node("Gather", builder.weight(f"{scope}.{table}.weight", entries, config.hidden_size), ids, scope=scope)
        for table, entries, ids in (
            ("word_embeddings", config.vocab_size, input_ids),
            ("token_type_embeddings", config.type_vocab_size, token_type_ids),
            ("position_embeddings", config.max_position_embeddings, position_ids),
        )
    ]
    summed = builder.node("Add", builder.node("Add", *vectors[:2], scope=scope), vectors[2], scope=scope)
    return builder.layer_norm(summed, f"{scope}.LayerNorm")


def _additive_mask(builder: _GraphBuilder, attention_mask: str) -> str:
    """(B, S) of 0 and 1 -> (B, 1, 1, S): 0 for tokens, a large negative number for padding."""
    mask = attention_mask
    for axis in (1, 2):
        mask = builder.node("Unsqueeze", mask, builder.constant([axis]))
    mask = builder.node("Cast", mask, to=_DTYPES[builder.dtype])
    padding = builder.node("Sub", builder.number(1.0), mask)
    return builder.node("Mul", padding, builder.number(_MASK_VALUES[builder.dtype]))


def _encoder_layer(builder: _GraphBuilder, x: str, mask: str, scope: str, output: str | None) -> str:
    """x (B, S, H) -> (B, S, H)."""
    config = builder.config
    hidden, heads, width = config.hidden_size, config.num_attention_heads, config.intermediate_size
    attention = f"{scope}.attention.self"

    def node(operator: str, *inputs: str, **attributes) -> str:
        return builder.node(operator, *inputs, scope=attention, **attributes)

    split = builder.constant([0, 0, heads, config.head_size])  # 0: as in the input
    # (B, heads, S, head size), the key as (B, heads, head size, S)
    query, key, value = (
        node("Transpose", node("Reshape", builder.linear(x, f"{attention}.{part}", hidden, hidden), split), perm=order)
        for part, order in (("query", (0, 2, 1, 3)), ("key", (0, 2, 3, 1)), ("value", (0, 2, 1, 3)))
    )
    scores = node("Div", node("MatMul", query, key), builder.number(math.sqrt(config.head_size)))
    probabilities = node("Softmax", node("Add", scores, mask), axis=-1)
    context = node("Transpose", node("MatMul", probabilities, value), perm=(0, 2, 1, 3))
    context = node("Reshape", context, builder.constant([0, 0, hidden]))
    context = builder.linear(context, f"{scope}.attention.output.dense", hidden, hidden)
    residual = builder.node("Add", context, x, scope=f"{scope}.attention.output")
    x = builder.layer_norm(residual, f"{scope}.attention.output.LayerNorm")

    widened = builder.linear(x, f"{scope}.intermediate.dense", hidden, width)
    widened = builder.activation(widened, f"{scope}.intermediate")
    residual = builder.node(
        "Add", builder.linear(widened, f"{scope}.output.dense", width, hidden), x, scope=f"{scope}.output"
    )
    return builder.layer_norm(residual, f"{scope}.output.LayerNorm", output)


def _pooler(builder: _GraphBuilder, x: str, output: str | None = None) -> str:
    """tanh(dense([CLS])): (B, S, H) -> (B, H)."""
    hidden = builder.config.hidden_size
    first = builder.node("Gather", x, builder.constant(0), scope="bert.pooler", axis=1)
    dense = builder.linear(first, "bert.pooler.dense", hidden, hidden)
    return builder.node("Tanh", dense, scope="bert.pooler", output=output)


def _mlm_head(builder: _GraphBuilder, x: str, input_ids: str, output: str) -> None:
    """(B, S, H) -> (B, S, V)."""
    config, scope = builder.config, "cls.predictions"
    x = builder.linear(x, f"{scope}.transform.dense", config.hidden_size, config.hidden_size)
    x = builder.layer_norm(builder.activation(x, f"{scope}.transform"), f"{scope}.transform.LayerNorm")
    table = builder.weight("bert.embeddings.word_embeddings.weight", config.vocab_size, config.hidden_size)
    bias = builder.weight(f"{scope}.bias", config.vocab_size)
    rows = builder.node("Reshape", x, builder.constant([-1, config.hidden_size]), scope=scope)  # Gemm takes matrices
    logits = builder.node("Gemm", rows, table, bias, scope=scope, transB=1)
    shape = builder.node(
        "Concat", builder.node("Shape", input_ids, scope=scope), builder.constant([config.vocab_size]), axis=0
    )
    builder.node("Reshape", logits, shape, scope=scope, output=output)


# --- the file ---


def _write_model(path: Path, model: onnx.ModelProto, weights: Tensors, external_data: bool | None) -> None:
    """Write a model with these initializers, which its graph does not hold yet, and have it checked."""
    within = [_initializer_header(name, tensor) for name, tensor in weights.items()]
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
                headers.append(_external_initializer(name, tensor, location, offset))
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
        raise UserError(f"{path}: ONNX's checker refuses what was written ({_one_line(error)}).") from None


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
    length = len(graph) + sum(1 + len(_varint(size)) + size for size in sizes)
    values = iter(values)
    with open(path, "wb") as file:
        file.write(rest.SerializeToString())
        file.write(_tag(onnx.ModelProto.GRAPH_FIELD_NUMBER) + _varint(length) + graph)
        for header, size in zip(headers, sizes):
            file.write(_tag(onnx.GraphProto.INITIALIZER_FIELD_NUMBER) + _varint(size) + header)
            if size > len(header):
                _write_values(file, next(values))
        _sync(file)


def _initializer_header(name: str, tensor: Tensor) -> bytes:
    """A TensorProto up to where the values follow as raw_data."""
    proto = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(tensor.dtype), dims=tensor.shape)
    return proto.SerializeToString() + _tag(TensorProto.RAW_DATA_FIELD_NUMBER) + _varint(tensor.nbytes)


def _external_initializer(name: str, tensor: Tensor, location: str, offset: int) -> bytes:
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


def _tag(field: int) -> bytes:
    """The key of a length-delimited field; all used here are under 16."""
    return bytes([field << 3 | 2])


def _varint(value: int) -> bytes:
    """Protobuf's encoding of a length: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _write_values(file: BinaryIO, tensor: Tensor) -> None:
    file.write(tensor.read().reshape(-1).view(np.uint8))


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _in_memory(initializer: TensorProto) -> Tensor:
    """An initializer with raw_data, as it is stored."""
    dtype, shape, data = helper.tensor_dtype_to_np_dtype(initializer.data_type), tuple(initializer.dims), initializer
    return Tensor(dtype, shape, lambda: np.frombuffer(data.raw_data, dtype).reshape(shape))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _parse(path: Path) -> onnx.ModelProto:
    """The protobuf of a file of `write`, its external data not loaded."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path} is not a file; name an ONNX model.")
        if status.st_size > PROTOBUF_LIMIT:
            raise UserError(
                f"{path}: found {status.st_size} bytes, expected {PROTOBUF_LIMIT} at most for ONNX; {_REMEDY}"
            )
        model = onnx.ModelProto.FromString(path.read_bytes())
        properties = {_text(entry.key): _text(entry.value) for entry in model.metadata_props}
        producer, architecture = _text(model.producer_name), properties.get(_ARCHITECTURE_KEY)
    except FileNotFoundError:
        raise UserError(f"there is no {path}; name an ONNX model.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}); name an ONNX model.") from None
    except (DecodeError, UnicodeError):
        raise UserError(f"{path}: found something that is not ONNX, or a part of it; {_REMEDY}") from None
    if _FUSED_KEY in properties:
        raise UserError(
            f"{path}: found a model fused by ONNX Runtime, whose weights have lost their names; "
            "name the file that it was made from."
        )
    if architecture not in OUTPUTS:
        raise UserError(
            f"{path}: found ONNX of {_shown(producer) or 'an unnamed producer'}, expected a BERT that was converted "
            "here; convert the model that it was exported from."
        )
    return model


def _text(field: str | bytes) -> str:
    """A text of a protobuf, which comes as bytes where it is not UTF-8."""
    return field.decode("utf-8") if isinstance(field, bytes) else field


def _shown(text: str) -> str:
    """Foreign text within a sentence."""
    return repr(text[:80]) if text else ""


def _weight(path: Path, initializer: TensorProto) -> tuple[str, Tensor]:
    """The name of an initializer and its values as they are stored."""
    try:
        name = _text(initializer.name)
        places = {_text(entry.key): _text(entry.value) for entry in initializer.external_data}
    except UnicodeError:
        raise UserError(f"{path}: the name of a weight, or of its file, is not text; {_REMEDY}") from None
    shape = tuple(initializer.dims)
    what = f"{path}: weight {_shown(name) or 'without a name'}"
    if initializer.data_type not in _DTYPES_BY_CODE:
        raise UserError(f"{what} is of ONNX's data type {initializer.data_type}, expected 1 or 10; {_REMEDY}")
    if len(shape) not in (1, 2) or min(shape) < 1 or (_is_transposed(name) and len(shape) != 2):
        raise UserError(f"{what} has the shape {shape}, which no weight of a BERT has; {_REMEDY}")
    dtype = _DTYPES_BY_CODE[initializer.data_type]
    nbytes = math.prod(shape) * dtype.itemsize
    if initializer.data_location == TensorProto.EXTERNAL:
        return name, Tensor(dtype, shape, _external_reader(path, what, places, dtype, shape, nbytes))
    if len(initializer.raw_data) != nbytes:
        raise UserError(
            f"{what} holds {len(initializer.raw_data)} bytes, expected {nbytes} for {shape} {dtype}; {_REMEDY}"
        )
    return name, _in_memory(initializer)


def _external_reader(
    path: Path, what: str, places: dict[str, str], dtype: np.dtype, shape: tuple[int, ...], nbytes: int
) -> Callable[[], np.ndarray]:
    """What reads values of external data, whose place is checked now and at each call."""
    location = places.get("location", "")
    # A plain name: what has a folder in it, or is a link, may lead out of the model's own.
    if not location or location in (".", "..") or set(location) & set("/\\\0"):
        raise UserError(
            f"{what} is in external data {_shown(location) or 'without a name'}, expected the name of a file beside "
            f"the model; {_REMEDY}"
        )
    data = path.with_name(location)
    numbers = [places.get("offset", "0"), places.get("length", str(nbytes))]
    if not all(number.isascii() and number.isdigit() and len(number) < 20 for number in numbers):
        found = " and ".join(map(_shown, numbers))
        raise UserError(f"{what} is at {found} of {data}, expected an offset and a length; {_REMEDY}")
    offset, length = map(int, numbers)
    if length != nbytes:
        raise UserError(f"{what} holds {length} bytes, expected {nbytes} for {shape} {dtype}; {_REMEDY}")

    def check() -> None:
        try:
            status = os.lstat(data)
        except OSError as error:
            raise UserError(f"{what} is in {data}, which cannot be read ({error.strerror}); {_REMEDY}") from None
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{what} is in {data}, which is a link or no file at all; put the file itself there.")
        if status.st_size < offset + nbytes:
            raise UserError(
                f"{what} ends at byte {offset + nbytes} of {data}, found {status.st_size} bytes; the file is "
                f"truncated: {_REMEDY}"
            )

    def read() -> np.ndarray:
        check()
        try:
            return np.fromfile(data, dtype, count=math.prod(shape), offset=offset).reshape(shape)
        except OSError as error:
            raise UserError(f"{what} is in {data}, which cannot be read ({error.strerror}); {_REMEDY}") from None

    check()
    return read
