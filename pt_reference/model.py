"""BERT (Devlin et al., 2019) as nn.Modules, in reading order: embeddings, encoder layer, encoder, pooler, pre-training.

Parameters bear Hugging Face's names, order and shapes (`weight` is (out, in)), so a checkpoint needs no translation.
Shapes: B rows, S tokens a row, P masked slots, N sequences a row, H hidden, V vocabulary. Inside the encoder an
activation is (B * S, H): every linear layer is then one plain matrix product.

Docstrings say what is computed; how, the `pt_reference.kernels.Operations` that the numerics bring. An operation may
take the parameters of several parts and compute all of it at once.

Dropout is on exactly when `dropout_keys` are given (see `ms_bert.randomness`); there is no training flag.
"""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ms_bert.config import BertConfig
from ms_bert.randomness import DropoutColumns, initial_weights
from pt_reference.kernels import Operations, operations


class Numerics:
    """How a model computes: in which dtype, by which operations, what it recomputes.

    Args:
        dtype: of the activations and matrix products: 'float32', 'float16', 'bfloat16' or 'float64'. Parameters are
            float32; the oracle in float64 is `BertModel(config, Numerics("float64")).double()`.
        recompute: compute each encoder layer again in the backward pass instead of keeping its activations.
        probabilities: form the attention probabilities, which the fused attention never does.
        kernels: `Operations` of one's own instead.
    """

    def __init__(
        self,
        dtype: str = "float32",
        recompute: bool = False,
        probabilities: bool = False,
        kernels: Operations | None = None,
    ):
        self.operations = kernels or operations(dtype, probabilities)
        self.recompute = recompute


def _parameter(*shape: int, value: float = 0.0) -> nn.Parameter:
    return nn.Parameter(torch.full(shape, value, dtype=torch.float32))


class Linear(nn.Module):
    """x (rows, in) -> (rows, out): x weight^T + bias."""

    def __init__(self, inputs: int, outputs: int, numerics: Numerics):
        super().__init__()
        self.weight = _parameter(outputs, inputs)
        self.bias = _parameter(outputs)
        self.linear = numerics.operations.linear

    def forward(self, x):
        return self.linear(x, self.weight, self.bias)


class Embedding(nn.Module):
    """A table (entries, width), float32."""

    def __init__(self, entries: int, width: int):
        super().__init__()
        self.weight = _parameter(entries, width)


class LayerNorm(nn.Module):
    """Normalisation of the last axis, with the config's epsilon."""

    def __init__(self, config: BertConfig, numerics: Numerics):
        super().__init__()
        self.weight = _parameter(config.hidden_size, value=1.0)
        self.bias = _parameter(config.hidden_size)
        self.epsilon = config.layer_norm_eps
        self.layer_norm = numerics.operations.layer_norm

    def forward(self, x):
        return self.layer_norm(x, self.weight, self.bias, self.epsilon)


class BertEmbeddings(nn.Module):
    """dropout(LayerNorm(word + position + token type)) -> (B * S, H)."""

    def __init__(self, config: BertConfig, numerics: Numerics):
        super().__init__()
        self.word_embeddings = Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = LayerNorm(config, numerics)
        self.rate, self.end = config.hidden_dropout_prob, config.hidden_size
        self.embed = numerics.operations.embed

    def forward(self, input_ids, token_type_ids, position_ids, dropout_keys):
        rate, row_keys, column_keys = in_force(self.rate, 0, self.end, dropout_keys)
        return self.embed(
            input_ids,
            token_type_ids,
            position_ids,
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


class BertSelfAttention(nn.Module):
    """softmax(Q K^T / sqrt(d)) V in each head and within each sequence, Q, K and V being query(x), key(x) and value(x).

    Without the output projection.
    """

    def __init__(self, config: BertConfig, numerics: Numerics, first_column: int):
        super().__init__()
        # Three projections: slicing one fused projection costs more on every backend seen than it saves.
        self.query = Linear(config.hidden_size, config.hidden_size, numerics)
        self.key = Linear(config.hidden_size, config.hidden_size, numerics)
        self.value = Linear(config.hidden_size, config.hidden_size, numerics)
        self.heads = config.num_attention_heads
        self.rate = config.attention_probs_dropout_prob
        self.first_column = first_column
        self.projections = numerics.operations.projections
        self.attention = numerics.operations.attention(self.heads, config.is_decoder)

    def forward(self, hidden_states, sequence_ids, dropout_keys):
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
        return self.attention(query, key, value, sequence_ids, rate, row_keys, column_keys)


class BertSelfOutput(nn.Module):
    """LayerNorm(residual + dropout(dense(x))): the end of the attention and of the feed-forward sublayer."""

    def __init__(self, config: BertConfig, numerics: Numerics, inputs: int, first_column: int):
        super().__init__()
        self.dense = Linear(inputs, config.hidden_size, numerics)
        self.LayerNorm = LayerNorm(config, numerics)
        self.rate, self.begin, self.end = config.hidden_dropout_prob, first_column, first_column + config.hidden_size
        self.linear_dropout_add_norm = numerics.operations.linear_dropout_add_norm

    def forward(self, x, residual, dropout_keys):
        rate, row_keys, column_keys = in_force(self.rate, self.begin, self.end, dropout_keys)
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


class BertAttention(nn.Module):
    """Self-attention and its output projection, the latter of the tokens at some positions only; None: of all."""

    def __init__(self, config: BertConfig, numerics: Numerics, first_column: int, first_output_column: int):
        super().__init__()
        self.self = BertSelfAttention(config, numerics, first_column)  # Hugging Face's name for it
        self.output = BertSelfOutput(config, numerics, config.hidden_size, first_output_column)

    def forward(self, hidden_states, sequence_ids, dropout_keys, positions=None):
        context, probabilities = self.self(hidden_states, sequence_ids, dropout_keys)
        tokens = sequence_ids.shape[1]
        if positions is not None:
            context = gather_positions(context, positions, tokens)
            hidden_states = gather_positions(hidden_states, positions, tokens)
        dropout_keys = keys_at(dropout_keys, positions, tokens)
        return self.output(context, hidden_states, dropout_keys), probabilities


class BertIntermediate(nn.Module):
    """activation(dense(x)): the widening half of the feed-forward sublayer."""

    def __init__(self, config: BertConfig, numerics: Numerics):
        super().__init__()
        self.dense = Linear(config.hidden_size, config.intermediate_size, numerics)
        self.linear_activation = numerics.operations.linear_activation(config.hidden_act)

    def forward(self, hidden_states):
        return self.linear_activation(hidden_states, self.dense.weight, self.dense.bias)


class BertLayer(nn.Module):
    """One encoder layer (post-LayerNorm): attention, then feed-forward.

    With positions (B, K) all tokens are attended to, and what follows the attention is computed for these alone, in
    their order: all that the call returns but the probabilities is (B * K, H).
    """

    def __init__(self, config: BertConfig, numerics: Numerics, index: int):
        super().__init__()
        columns = DropoutColumns(config)
        self.attention = BertAttention(config, numerics, columns.attention(index), columns.hidden(2 * index + 1))
        self.intermediate = BertIntermediate(config, numerics)
        self.output = BertSelfOutput(config, numerics, config.intermediate_size, columns.hidden(2 * index + 2))

    def forward(self, hidden_states, sequence_ids, dropout_keys, positions=None):
        attended, probabilities = self.attention(hidden_states, sequence_ids, dropout_keys, positions)
        dropout_keys = keys_at(dropout_keys, positions, sequence_ids.shape[1])
        output = self.output(self.intermediate(attended), attended, dropout_keys)
        return output, (probabilities, attended)


class BertEncoder(nn.Module):
    """The stack of layers, the last one at some positions only; None: at all."""

    def __init__(self, config: BertConfig, numerics: Numerics):
        super().__init__()
        self.layer = nn.ModuleList([BertLayer(config, numerics, i) for i in range(config.num_hidden_layers)])
        self.recompute = numerics.recompute

    def forward(self, hidden_states, sequence_ids, dropout_keys, positions=None):
        intermediates = ()
        for i, layer in enumerate(self.layer):
            inputs = (hidden_states, sequence_ids, dropout_keys, positions if i == len(self.layer) - 1 else None)
            hidden_states, (probabilities, attended) = (
                checkpoint(layer, *inputs, use_reentrant=False) if self.recompute else layer(*inputs)
            )
            intermediates += ((probabilities, attended, hidden_states),)
        return hidden_states, intermediates


class BertPooler(nn.Module):
    """tanh(dense([CLS])) for each sequence: the last hidden states of its first token (B * N, H) -> (B * N, H)."""

    def __init__(self, config: BertConfig, numerics: Numerics):
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size, numerics)
        self.tanh = numerics.operations.tanh

    def forward(self, first):
        return self.tanh(self.dense(first))


class BertModel(nn.Module):
    """Embeddings, encoder and pooler.

    Args:
        pooler: False leaves the pooler out, as Hugging Face does under heads on tokens; pooled_output is then ().

    Args of the call:
        input_ids: (B, S) int32. All that follows may be left out; the first four stand in transformers' order.
        attention_mask: (B, S) int32; 0 is padding, and 1 a token, as in transformers. Where a row holds several
        sequences, 1..N say which, and a token attends to its own: the `sequence_ids` of a batch. By default all are 1.
        token_type_ids: (B, S) int32; by default 0. position_ids: (B, S) int32; by default 0..S-1.
        cls_positions: (B, N) int32, where each sequence begins; by default at 0.
        dropout_keys: row keys (B * S, 1) and column keys (C,), odd int32; None turns dropout off.
        read_positions: (B, K) int32, the tokens whose last hidden states are read, or () for none; by default all.
        After its attention the last layer computes these and those at cls_positions alone, to the same numbers.

    Returns:
        sequence_output (B * S, H), with read_positions (B * K, H) or (); pooled_output (B * N, H); the intermediates:
        embeddings (B * S, H) and for each layer (attention probabilities (B, heads, S, S), attention output (B * S, H),
        feed-forward output (B * S, H)), in the last layer of what it computes.
        The probabilities are () unless the numerics ask for them.
    """

    def __init__(self, config: BertConfig, numerics: Numerics, pooler: bool = True):
        super().__init__()
        self.numerics = numerics
        self.embeddings = BertEmbeddings(config, numerics)
        self.encoder = BertEncoder(config, numerics)
        self.pooler = BertPooler(config, numerics) if pooler else None

    def forward(
        self,
        input_ids,
        attention_mask=None,
        token_type_ids=None,
        position_ids=None,
        cls_positions=None,
        dropout_keys=None,
        read_positions=None,
    ):
        attention_mask, token_type_ids, position_ids, cls_positions = filled_in(
            input_ids, attention_mask, token_type_ids, position_ids, cls_positions
        )
        embeddings = self.embeddings(input_ids, token_type_ids, position_ids, dropout_keys)
        positions = together(read_positions, cls_positions)
        hidden, layers = self.encoder(embeddings, attention_mask, dropout_keys, positions)
        if positions is None:
            read, first = hidden, gather_positions(hidden, cls_positions, input_ids.shape[1])
        else:
            read, first = parted(hidden, positions.shape[1], cls_positions.shape[1])
        return read, () if self.pooler is None else self.pooler(first), (embeddings, layers)


class BertPredictionHeadTransform(nn.Module):
    """LayerNorm(activation(dense(x))), the MLM head's own hidden layer."""

    def __init__(self, config: BertConfig, numerics: Numerics):
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size, numerics)
        self.linear_activation = numerics.operations.linear_activation(config.hidden_act)
        self.LayerNorm = LayerNorm(config, numerics)

    def forward(self, x):
        return self.LayerNorm(self.linear_activation(x, self.dense.weight, self.dense.bias))


class BertLMPredictionHead(nn.Module):
    """Scores over the vocabulary; the output matrix is the word embedding (tied)."""

    def __init__(self, config: BertConfig, numerics: Numerics):
        super().__init__()
        self.bias = _parameter(config.vocab_size)
        self.transform = BertPredictionHeadTransform(config, numerics)
        self.scores = numerics.operations.scores

    def forward(self, x, word_embeddings):
        return self.scores(self.transform(x), word_embeddings, self.bias)


class BertPreTrainingHeads(nn.Module):
    """The MLM head and the NSP head."""

    def __init__(self, config: BertConfig, numerics: Numerics):
        super().__init__()
        self.predictions = BertLMPredictionHead(config, numerics)
        self.seq_relationship = Linear(config.hidden_size, 2, numerics)


class BertWithMaskedHead(nn.Module):
    """A BertModel, `bert`, and a head on masked tokens; a subclass makes both and says what `head` computes.

    Call as BertModel, with masked_positions (B, P) int32 before dropout_keys; by default they are all S positions. The
    last layer computes these and [CLS] alone.
    """

    def forward(
        self,
        input_ids,
        attention_mask=None,
        token_type_ids=None,
        position_ids=None,
        cls_positions=None,
        masked_positions=None,
        dropout_keys=None,
    ):
        hidden, pooled, _ = self.bert(
            input_ids, attention_mask, token_type_ids, position_ids, cls_positions, dropout_keys, masked_positions
        )
        return self.head(hidden, pooled, input_ids.shape[1], dropout_keys)

    def head(self, hidden, pooled, tokens, dropout_keys=None):
        """hidden (B * P, H), pooled (B * N, H), or () without a pooler, and `tokens` = S -> the logits."""
        raise NotImplementedError


class BertForPreTraining(BertWithMaskedHead):
    """BERT with its two pre-training heads.

    The MLM head runs on the P masked positions of a row only.

    Returns:
        MLM logits (B * P, V) and NSP logits (B * N, 2); class 0 is "is next", as in Google's code and Hugging Face.
    """

    def __init__(self, config: BertConfig, numerics: Numerics):
        super().__init__()
        self.bert = BertModel(config, numerics)
        self.cls = BertPreTrainingHeads(config, numerics)

    def head(self, hidden, pooled, tokens, dropout_keys=None):
        return (
            self.cls.predictions(hidden, self.bert.embeddings.word_embeddings.weight),
            self.cls.seq_relationship(pooled),
        )


def in_force(rate, begin, end, dropout_keys):
    """The rate, row keys and column keys begin..end of the dropout at a place; 0 and none where there is none."""
    if dropout_keys is None or rate == 0.0:
        return 0.0, None, None
    return rate, dropout_keys[0], dropout_keys[1][begin:end]


def filled_in(input_ids, attention_mask, token_type_ids, position_ids, cls_positions):
    """The inputs of BertModel after input_ids (B, S), those that are None by their defaults.

    Raises:
        ValueError: one has another shape than input_ids, or cls_positions another number of rows.
    """
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    if token_type_ids is None:
        token_type_ids = torch.zeros_like(input_ids)
    if position_ids is None:
        position_ids = torch.arange(input_ids.shape[1], device=input_ids.device).expand(input_ids.shape)
    if cls_positions is None:
        cls_positions = input_ids.new_zeros((len(input_ids), 1))
    require_shape("attention_mask", attention_mask.shape, input_ids.shape)
    require_shape("token_type_ids", token_type_ids.shape, input_ids.shape)
    require_shape("position_ids", position_ids.shape, input_ids.shape)
    require_shape("cls_positions", cls_positions.shape[:1], input_ids.shape[:1])
    return attention_mask, token_type_ids, position_ids, cls_positions


def require_shape(name, found, expected):
    """For a kernel may read beyond an array that is too small, or repeat it."""
    if found != expected:
        raise ValueError(
            f"{name} begins with the shape {tuple(found)}, but input_ids with {tuple(expected)}; give both the same."
        )


def keys_at(dropout_keys, positions, tokens):
    """The dropout keys of all tokens, or those at positions (B, K) of each row of `tokens` = S: they drop the same."""
    if dropout_keys is None or positions is None:
        return dropout_keys
    return gather_positions(dropout_keys[0], positions, tokens), dropout_keys[1]


def together(read_positions, cls_positions):
    """What BertModel's last layer computes: (B, K), or () for none, and (B, N) -> (B, K + N); None: all."""
    if read_positions is None:
        return None
    return cls_positions if isinstance(read_positions, tuple) else torch.cat((read_positions, cls_positions), 1)


def parted(hidden, computed, count):
    """(B * computed, H) -> of each row all but the last `count` = N, or () where these are all, and the last N."""
    hidden = hidden.view(-1, computed, hidden.shape[-1])
    read = () if computed == count else hidden[:, : computed - count].flatten(0, 1)
    return read, hidden[:, computed - count :].flatten(0, 1)


def gather_positions(sequence_output, positions, tokens):
    """Rows of (B * S, H) at positions (B, K) of each row of `tokens` = S tokens -> (B * K, H)."""
    first = torch.arange(0, len(positions) * tokens, tokens, dtype=torch.int32, device=positions.device)[:, None]
    return sequence_output.index_select(0, (positions + first).flatten())


def named_intermediates(embeddings_and_layers) -> dict:
    """The intermediates of a BertModel call by name: `embeddings`, `layer.0.attention.probabilities`, ..."""
    embeddings, layers = embeddings_and_layers
    named = {"embeddings": embeddings}
    for i, (probabilities, attended, output) in enumerate(layers):
        named[f"layer.{i}.attention.probabilities"] = probabilities
        named[f"layer.{i}.attention.output"] = attended
        named[f"layer.{i}.output"] = output
    return named


def initialize(model: nn.Module, config: BertConfig, seed: int, truncated: bool = False) -> None:
    """Draw every weight from normal(0, initializer_range) and set biases to 0, LayerNorm weights to 1.

    Each parameter has its own stream, keyed by the seed and its name, so that a model with another head has the same
    encoder. The padding row of the word embedding is drawn as well: it is trained like any other, as in Google's code.

    Args:
        truncated: redraw what is beyond two standard deviations, as Google's code does; Hugging Face does not.
    """
    for name, parameter in model.named_parameters():
        value = initial_weights(name, tuple(parameter.shape), config.initializer_range, seed, truncated)
        parameter.data.copy_(torch.from_numpy(value))
