"""The sublayers of `ms_bert.model`, each as one of the fused operations of `ms_bert.kernels.fused`.

`model.py` says what is computed; `fuse` replaces how, in a model that is made already. Parameters and their names stay,
and so do numbers, up to rounding. Attention probabilities are then never formed: () stands for them. For inference
alone, a layer is one operation, and () stands for all that it would give besides its output.
"""

import mindspore as ms
from mindspore import nn, ops

from ms_bert import kernels, model


def fuse(cell: nn.Cell, inference: bool = False) -> nn.Cell:
    """Let the sublayers of a model compute by fused operations, where there are any for its device and dtype.

    Args:
        cell: a BertModel, or what holds one. inference: nobody will ask for gradients, dropout or intermediates: whole
        layers become one operation.

    Raises:
        ValueError: there is no BertModel in it.
    """
    cells = [inner for _, inner in cell.cells_and_names()]
    found = [inner.numerics for inner in cells if isinstance(inner, model.BertModel)]
    if not found:
        raise ValueError(f"{type(cell).__name__} holds no BertModel, whose sublayers could be fused.")
    operations = kernels.sublayers(found[0].device, found[0].precision)
    if operations is not None:
        replaced = {**FUSED, **INFERENCE} if inference else FUSED
        for inner in cells:
            fused = replaced.get(type(inner))
            if fused is not None:
                object.__setattr__(inner, "__class__", fused)  # nn.Cell keeps other attributes in places of its own
                inner.use(operations)
    return cell


def int32(ids):
    """The kernels' type of integer; a Tensor that was made of a list has another."""
    return ops.cast(ids, ms.int32)


class LayerNorm(model.LayerNorm):
    def use(self, operations):
        self.layer_norm = operations.layer_norm

    def construct(self, x):
        return self.layer_norm(x, self.weight, self.bias, self.epsilon)


class BertEmbeddings(model.BertEmbeddings):
    def use(self, operations):
        self.embed = operations.embed

    def construct(self, input_ids, token_type_ids, position_ids, dropout_keys):
        dropout = self.dropout
        rate, row_keys, column_keys = in_force(dropout.rate, dropout.begin, dropout.end, dropout_keys)
        return self.embed(
            int32(input_ids),
            int32(token_type_ids),
            int32(position_ids),
            self.word_embeddings.weight,
            self.token_type_embeddings.weight,
            self.position_embeddings.weight,
            self.LayerNorm.weight,
            self.LayerNorm.bias,
            self.LayerNorm.epsilon,
            rate,
            row_keys,
            column_keys,
        )


class BertSelfAttention(model.BertSelfAttention):
    def use(self, operations):
        self.projections, self.fused_attention = operations.projections, operations.Attention(self.heads)

    def construct(self, hidden_states, sequence_ids, dropout_keys):
        end = self.first_column + self.heads * sequence_ids.shape[1]
        rate, row_keys, column_keys = in_force(self.rate, self.first_column, end, dropout_keys)
        query, key, value = self.projections(
            hidden_states,
            self.query.weight,
            self.query.bias,
            self.key.weight,
            self.key.bias,
            self.value.weight,
            self.value.bias,
        )
        return self.fused_attention(query, key, value, int32(sequence_ids), rate, row_keys, column_keys), ()


class BertSelfOutput(model.BertSelfOutput):
    def use(self, operations):
        self.linear_dropout_add_norm = operations.linear_dropout_add_norm

    def construct(self, x, residual, dropout_keys):
        dropout = self.dropout
        rate, row_keys, column_keys = in_force(dropout.rate, dropout.begin, dropout.end, dropout_keys)
        return self.linear_dropout_add_norm(
            x,
            self.dense.weight,
            self.dense.bias,
            residual,
            self.LayerNorm.weight,
            self.LayerNorm.bias,
            self.LayerNorm.epsilon,
            rate,
            row_keys,
            column_keys,
        )


class BertIntermediate(model.BertIntermediate):
    def use(self, operations):
        self.linear_activation = operations.of_activation(self.activation)

    def construct(self, hidden_states):
        return self.linear_activation(hidden_states, self.dense.weight, self.dense.bias)


class BertLayer(model.BertLayer):
    """For inference."""

    def use(self, operations):
        epsilon, activation = self.output.LayerNorm.epsilon, self.intermediate.activation
        self.encoder_layer = operations.EncoderLayer(self.attention.self.heads, epsilon, activation)

    def construct(self, hidden_states, sequence_ids, dropout_keys):
        attention, output = self.attention, self.output
        hidden_states = self.encoder_layer(
            hidden_states,
            sequence_ids,
            attention.self.query.weight,
            attention.self.query.bias,
            attention.self.key.weight,
            attention.self.key.bias,
            attention.self.value.weight,
            attention.self.value.bias,
            attention.output.dense.weight,
            attention.output.dense.bias,
            attention.output.LayerNorm.weight,
            attention.output.LayerNorm.bias,
            self.intermediate.dense.weight,
            self.intermediate.dense.bias,
            output.dense.weight,
            output.dense.bias,
            output.LayerNorm.weight,
            output.LayerNorm.bias,
        )
        return hidden_states, ((), ())


class BertEncoder(model.BertEncoder):
    """For inference."""

    def use(self, operations):
        pass

    # MindSpore sets this on a cell and all within it at each call, 7 us a cell; those here need it when it changes.
    @property
    def compile_phase(self):
        return nn.Cell.compile_phase.fget(self)

    @compile_phase.setter
    def compile_phase(self, value):
        if value != self.compile_phase:
            nn.Cell.compile_phase.fset(self, value)

    def construct(self, hidden_states, sequence_ids, dropout_keys):
        if dropout_keys is not None:
            raise ValueError("a model that was fused for inference has no dropout; fuse it without inference=True.")
        ids = int32(sequence_ids)
        for layer in self.layer:
            hidden_states, _ = layer(hidden_states, ids, dropout_keys)
        return hidden_states, ()


class BertPredictionHeadTransform(model.BertPredictionHeadTransform):
    def use(self, operations):
        self.linear_activation = operations.of_activation(self.activation)

    def construct(self, x):
        return self.LayerNorm(self.linear_activation(x, self.dense.weight, self.dense.bias))


class BertLMPredictionHead(model.BertLMPredictionHead):
    def use(self, operations):
        self.linear = operations.linear

    def construct(self, x, word_embeddings):
        return self.linear(self.transform(x), word_embeddings, self.bias)


def in_force(rate, begin, end, dropout_keys):
    """The rate, the row keys and the column keys from begin to end; 0 and none where there is no dropout."""
    if dropout_keys is None or rate == 0.0:
        return 0.0, None, None
    return rate, dropout_keys[0], dropout_keys[1][begin:end]


FUSED = {
    getattr(model, cell.__name__): cell
    for cell in (
        LayerNorm,
        BertEmbeddings,
        BertSelfAttention,
        BertSelfOutput,
        BertIntermediate,
        BertPredictionHeadTransform,
        BertLMPredictionHead,
    )
}
INFERENCE = {model.BertLayer: BertLayer, model.BertEncoder: BertEncoder}
