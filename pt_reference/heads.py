"""The downstream heads of the paper (Devlin et al., 2019, 4): modules that give logits; names as in Hugging Face.

All are called as BertModel: input_ids, attention_mask, token_type_ids, position_ids (B, S), cls_positions (B, N) and
dropout_keys, of which all but input_ids may be left out. Dropout before a classifier has the rate `classifier_dropout`,
or that of the hidden states. A head on tokens needs no pooler; with pooler=True its BertModel has one all the same.
"""

import torch
from torch import nn

from ms_bert.config import BertConfig
from ms_bert.randomness import DropoutColumns
from pt_reference import model
from pt_reference.model import (
    BertLMPredictionHead,
    BertModel,
    BertWithMaskedHead,
    Linear,
    Numerics,
    filled_in,
    gather_positions,
    in_force,
)


def named(architecture: str) -> type[nn.Module]:
    """What stands here for Hugging Face's class of this name."""
    return globals().get(architecture) or getattr(model, architecture)


class BertWithHead(nn.Module):
    """A BertModel, `bert`, and a head on it; a subclass makes both and says what `head` computes.

    Where the head takes the pooled output alone, reads_tokens = False saves the rest of the last layer: hidden is ().
    """

    reads_tokens = True

    def forward(
        self,
        input_ids,
        attention_mask=None,
        token_type_ids=None,
        position_ids=None,
        cls_positions=None,
        dropout_keys=None,
    ):
        read = None if self.reads_tokens else ()
        hidden, pooled, _ = self.bert(
            input_ids, attention_mask, token_type_ids, position_ids, cls_positions, dropout_keys, read
        )
        return self.head(hidden, pooled, input_ids.shape[1], dropout_keys)

    def head(self, hidden, pooled, tokens, dropout_keys=None):
        """hidden (B * S, H), pooled (B * N, H), or () without a pooler, and `tokens` = S -> the logits."""
        raise NotImplementedError


class _HeadDropout(nn.Module):
    """Dropout of the input of a head, (B * K, H): K = S tokens or N sequences a row of `tokens` = S.

    Row by row the first K keys of its tokens: the same rows, computed in parts, drop the very same units.
    """

    def __init__(self, config: BertConfig, numerics: Numerics):
        super().__init__()
        rate = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
        first = DropoutColumns(config).hidden(2 * config.num_hidden_layers + 1)
        self.rate, self.begin, self.end = rate, first, first + config.hidden_size
        self.dropout = numerics.operations.dropout

    def forward(self, x, tokens, dropout_keys):
        rate, row_keys, column_keys = in_force(self.rate, self.begin, self.end, dropout_keys)
        if rate == 0.0:
            return x
        row_keys = row_keys.view(-1, tokens)
        row_keys = torch.reshape(row_keys[:, : x.shape[0] // row_keys.shape[0]], (-1, 1))
        return self.dropout(x, rate, row_keys, column_keys)


class BertOnlyMLMHead(nn.Module):
    """The MLM head."""

    def __init__(self, config: BertConfig, numerics: Numerics):
        super().__init__()
        self.predictions = BertLMPredictionHead(config, numerics)


class BertForMaskedLM(BertWithMaskedHead):
    """The words of masked tokens: logits (B * P, V)."""

    def __init__(self, config: BertConfig, numerics: Numerics, pooler: bool = False):
        super().__init__()
        self.bert = BertModel(config, numerics, pooler)
        self.cls = BertOnlyMLMHead(config, numerics)

    def head(self, hidden, pooled, tokens, dropout_keys=None):
        return self.cls.predictions(hidden, self.bert.embeddings.word_embeddings.weight)


class BertOnlyNSPHead(nn.Module):
    """The NSP head."""

    def __init__(self, config: BertConfig, numerics: Numerics):
        super().__init__()
        self.seq_relationship = Linear(config.hidden_size, 2, numerics)


class BertForNextSentencePrediction(BertWithHead):
    """Whether the second sentence follows the first: logits (B * N, 2); class 0 is "is next"."""

    reads_tokens = False

    def __init__(self, config: BertConfig, numerics: Numerics):
        super().__init__()
        self.bert = BertModel(config, numerics)
        self.cls = BertOnlyNSPHead(config, numerics)

    def head(self, hidden, pooled, tokens, dropout_keys=None):
        return self.cls.seq_relationship(pooled)


class BertForSequenceClassification(BertWithHead):
    """Classification of a sentence or a pair, or regression with one label: logits (B * N, num_labels)."""

    reads_tokens = False

    def __init__(self, config: BertConfig, numerics: Numerics):
        super().__init__()
        self.bert = BertModel(config, numerics)
        self.dropout = _HeadDropout(config, numerics)
        self.classifier = Linear(config.hidden_size, config.num_labels, numerics)

    def head(self, hidden, pooled, tokens, dropout_keys=None):
        return self.classifier(self.dropout(pooled, tokens, dropout_keys))


class BertForTokenClassification(BertWithHead):
    """Tagging of each token: logits (B, S, num_labels)."""

    def __init__(self, config: BertConfig, numerics: Numerics, pooler: bool = False):
        super().__init__()
        self.bert = BertModel(config, numerics, pooler)
        self.dropout = _HeadDropout(config, numerics)
        self.classifier = Linear(config.hidden_size, config.num_labels, numerics)

    def head(self, hidden, pooled, tokens, dropout_keys=None):
        logits = self.classifier(self.dropout(hidden, tokens, dropout_keys))
        return logits.view(-1, tokens, logits.shape[-1])


class BertForQuestionAnswering(BertWithHead):
    """An answer's span in a passage: start logits and end logits, each (B, S)."""

    def __init__(self, config: BertConfig, numerics: Numerics, pooler: bool = False):
        super().__init__()
        self.bert = BertModel(config, numerics, pooler)
        self.qa_outputs = Linear(config.hidden_size, 2, numerics)

    def head(self, hidden, pooled, tokens, dropout_keys=None):
        logits = self.qa_outputs(hidden).view(-1, tokens, 2)
        return logits[:, :, 0], logits[:, :, 1]


class BertForMultipleChoice(BertWithHead):
    """One of C choices, each a row of its own: inputs (B * C, S) with N = 1, logits (B, C).

    Args:
        choices: C. With 1 each sequence is scored by itself, (B * N, 1), so that rows may hold choices of any number.
    """

    reads_tokens = False

    def __init__(self, config: BertConfig, numerics: Numerics, choices: int = 1):
        super().__init__()
        self.bert = BertModel(config, numerics)
        self.dropout = _HeadDropout(config, numerics)
        self.classifier = Linear(config.hidden_size, 1, numerics)
        self.choices = choices

    def head(self, hidden, pooled, tokens, dropout_keys=None):
        return self.classifier(self.dropout(pooled, tokens, dropout_keys)).view(-1, self.choices)


class BertHiddenStates(nn.Module):
    """A BertModel, `bert`, that gives the hidden states of some of its layers, without a head.

    Args:
        layers: which, 0 being the embeddings and 1 the first layer. pooled: give the pooler's output instead.

    Returns:
        (B, S, K * H), the K layers side by side in the order given, or pooled (B * N, H).
    """

    def __init__(self, config: BertConfig, numerics: Numerics, layers: tuple[int, ...], pooled: bool = False):
        super().__init__()
        self.bert = BertModel(config, numerics, pooler=pooled)
        self.layers, self.pooled = layers, pooled

    def forward(self, input_ids, attention_mask=None, token_type_ids=None, position_ids=None, cls_positions=None):
        attention_mask, token_type_ids, position_ids, cls_positions = filled_in(
            input_ids, attention_mask, token_type_ids, position_ids, cls_positions
        )
        hidden = self.bert.embeddings(input_ids, token_type_ids, position_ids, None)
        states = (hidden,)
        for layer in self.bert.encoder.layer:
            hidden, _ = layer(hidden, attention_mask, None)
            states += (hidden,)
        if self.pooled:
            return self.bert.pooler(gather_positions(hidden, cls_positions, input_ids.shape[1]))
        chosen = torch.concat([states[i] for i in self.layers], -1)
        return chosen.view(input_ids.shape[0], input_ids.shape[1], -1)
