"""The graph: BERT as nodes of ONNX, in the pattern that the fusions of ONNX Runtime look for."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from conversion.formats.onnx_graph import file
from conversion.formats.onnx_graph.initializers import CODES
from conversion.parameters import ARCHITECTURES, CHOICE, Output, projection, shapes
from conversion.tensors import Tensors
from ms_bert import __version__
from ms_bert.config import BertConfig
from ms_bert.errors import UserError

INPUTS = ("input_ids", "attention_mask", "token_type_ids")  # int64, (batch, sequence) or (batch, choices, sequence)

# The first opset with LayerNormalization, so that the most runtimes take it; the fusions of ONNX Runtime 1.23 and 1.31
# find the same nodes in it as in 18 to 22. IR 8 came with it.
OPSET, IR_VERSION = 17, 8

# Added to the scores of padding. In float32 what transformers adds. In float16 half of that: a score under -16 would
# take the lowest number to -inf, and a row without any token to NaN.
_MASK_VALUES = {
    np.dtype("float32"): np.finfo(np.float32).min,
    np.dtype("float16"): np.finfo(np.float16).min / np.float16(2),
}


def graph_of(config: BertConfig, architecture: str, tensors: Tensors) -> onnx.ModelProto:
    """The model that computes with these weights, yet without them, from INPUTS to the outputs of its class.

    Raises:
        UserError: the architecture is unknown; attention is causal; weights are missing, too many, or of the wrong
            shape or dtype.
    """
    if architecture not in ARCHITECTURES:
        raise UserError(f"there is no ONNX graph for {architecture}; choose one of {', '.join(ARCHITECTURES)}.")
    if config.is_decoder:
        raise UserError("the ONNX graph has no causal attention, which is_decoder asks for; choose another format.")
    dtype = _common_dtype(tensors)
    builder = _GraphBuilder(config, dtype, tensors)
    outputs = _build(builder, architecture)
    faults = builder.faults + [f"{name} is unexpected" for name in tensors if name not in builder.used]
    if faults:
        raise UserError(f"the weights do not fit {architecture} with this config: {'; '.join(faults)}.")
    choices = ("choices",) if ARCHITECTURES[architecture].choices else ()
    axes = ("batch", *choices, "sequence")
    model = helper.make_model(
        helper.make_graph(
            builder.nodes,
            architecture,
            [helper.make_tensor_value_info(name, TensorProto.INT64, axes) for name in INPUTS],
            [helper.make_tensor_value_info(name, CODES[dtype], shape) for name, shape in outputs.items()],
        ),
        producer_name=file.PRODUCER,
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    helper.set_model_props(model, {file.ARCHITECTURE: architecture, file.CONFIG: config.to_json()})
    return model


def _common_dtype(tensors: Tensors) -> np.dtype:
    """The dtype of all weights, in which the graph then computes."""
    dtypes = sorted({str(tensor.dtype) for tensor in tensors.values()})
    if len(dtypes) != 1 or np.dtype(dtypes[0]) not in CODES:
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
    config, described = builder.config, ARCHITECTURES[architecture]
    # The encoder takes (B, S); choices are rows of their own.
    input_ids, attention_mask, token_type_ids = INPUTS
    if described.choices:
        rows = builder.node("Concat", builder.constant([-1]), builder.node("Shape", INPUTS[0], start=2), axis=0)
        input_ids, attention_mask, token_type_ids = (builder.node("Reshape", name, rows) for name in INPUTS)

    by_part: dict[str, list[Output]] = {}
    for output in described.outputs:
        by_part.setdefault(output.part, []).append(output)
    shapes_of = {}
    x = _embeddings(builder, input_ids, token_type_ids)
    mask = _additive_mask(builder, attention_mask)
    last = config.num_hidden_layers - 1
    for i in range(config.num_hidden_layers):
        name = by_part["encoder"][0].name if i == last and "encoder" in by_part else None
        x = _encoder_layer(builder, x, mask, f"bert.encoder.layer.{i}", output=name)
    if "encoder" in by_part:
        shapes_of[x] = ("batch", "sequence", config.hidden_size)
    pooled = None
    if "pooler" in by_part and any(name.startswith("bert.pooler.") for name in builder.tensors):
        pooled = _pooler(builder, x, output=by_part["pooler"][0].name)
        shapes_of[pooled] = ("batch", config.hidden_size)
    elif described.pooled:
        pooled = _pooler(builder, x)
    for part, outputs in by_part.items():
        if outputs[0] in described.heads:
            rows = pooled if outputs[0].pooled else x
            shapes_of |= _head(builder, architecture, part, outputs, rows, input_ids)
    return shapes_of


def _head(
    builder: _GraphBuilder, architecture: str, part: str, outputs: list[Output], x: str, input_ids: str
) -> dict[str, tuple]:
    """Add the nodes of a head and its outputs; returns their shapes.

    Args:
        x: the hidden states, or the pooler's output where the outputs are of sequences.
    """
    module, kind = projection(part), outputs[0]
    rows = ("batch",) if kind.pooled else ("batch", "sequence")
    if part in _HEADS:
        return {kind.name: (*rows, _HEADS[part](builder, x, input_ids, output=kind.name))}
    width, inputs = shapes(builder.config, [part], architecture)[f"{module}.weight"]
    if kind.row == CHOICE:
        scores = builder.linear(x, module, inputs, width)  # (B * C, 1)
        builder.node("Reshape", scores, builder.node("Shape", INPUTS[0], end=2), scope=module, output=kind.name)
        return {kind.name: ("batch", "choices")}
    if kind.column is None:
        builder.linear(x, module, inputs, width, output=kind.name)
        return {kind.name: (*rows, width)}
    scores = builder.linear(x, module, inputs, width)
    for output in outputs:
        column = builder.constant(output.column)
        builder.node("Gather", scores, column, scope=module, output=output.name, axis=len(rows))
    return {output.name: rows for output in outputs}


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
    mask = builder.node("Cast", mask, to=CODES[builder.dtype])
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


def _mlm_head(builder: _GraphBuilder, x: str, input_ids: str, output: str) -> int:
    """(B, S, H) -> (B, S, V); returns V."""
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
    return config.vocab_size


_HEADS = {"mlm": _mlm_head}  # the parts whose head is more than one projection
