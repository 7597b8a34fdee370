"""The downstream heads of the paper (Devlin et al., 2019, 4): modules that give logits; names as in Hugging Face.

All are called as BertModel: input_ids, attention_mask, token_type_ids, position_ids (B, S), cls_positions (B, N) and
dropout_keys, of which all but input_ids may be left out. Dropout before a classifier has the rate `classifier_dropout`,
or that of the hidden states.
"""

from torch import nn

from ms_bert.config import BertConfig
from ms_bert.randomness import DropoutColumns
from pt_reference.model import BertModel, Linear, Numerics, in_force


class _HeadDropout(nn.Module):
    """Dropout of the input of a head, (rows, H); rows may be fewer than there are tokens."""

    def __init__(self, config: BertConfig, numerics: Numerics):
        super().__init__()
        rate = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
        first = DropoutColumns(config).hidden(2 * config.num_hidden_layers + 1)
        self.rate, self.begin, self.end = rate, first, first + config.hidden_size
        self.dropout = numerics.operations.dropout

    def forward(self, x, dropout_keys):
        rate, row_keys, column_keys = in_force(self.rate, self.begin, self.end, dropout_keys)
        if rate == 0.0:
            return x
        return self.dropout(x, rate, row_keys[: x.shape[0]], column_keys)


class BertForSequenceClassification(nn.Module):
    """Classification of a sentence or a pair, or regression with one label: logits (B * N, num_labels)."""

    def __init__(self, config: BertConfig, numerics: Numerics):
        super().__init__()
        self.bert = BertModel(config, numerics)
        self.dropout = _HeadDropout(config, numerics)
        self.classifier = Linear(config.hidden_size, config.num_labels, numerics)

    def forward(
        self,
        input_ids,
        attention_mask=None,
        token_type_ids=None,
        position_ids=None,
        cls_positions=None,
        dropout_keys=None,
    ):
        _, pooled, _ = self.bert(input_ids, attention_mask, token_type_ids, position_ids, cls_positions, dropout_keys)
        return self.classifier(self.dropout(pooled, dropout_keys))


class BertForTokenClassification(nn.Module):
    """Tagging of each token: logits (B, S, num_labels)."""

    def __init__(self, config: BertConfig, numerics: Numerics):
        super().__init__()
        self.bert = BertModel(config, numerics, pooler=False)
        self.dropout = _HeadDropout(config, numerics)
        self.classifier = Linear(config.hidden_size, config.num_labels, numerics)

    def forward(
        self,
        input_ids,
        attention_mask=None,
        token_type_ids=None,
        position_ids=None,
        cls_positions=None,
        dropout_keys=None,
    ):
        hidden, _, _ = self.bert(input_ids, attention_mask, token_type_ids, position_ids, cls_positions, dropout_keys)
        logits = self.classifier(self.dropout(hidden, dropout_keys))
        return logits.view(*input_ids.shape, -1)


class BertForQuestionAnswering(nn.Module):
    """An answer's span in a passage: start logits and end logits, each (B, S)."""

    def __init__(self, config: BertConfig, numerics: Numerics):
        super().__init__()
        self.bert = BertModel(config, numerics, pooler=False)
        self.qa_outputs = Linear(config.hidden_size, 2, numerics)

    def forward(
        self,
        input_ids,
        attention_mask=None,
        token_type_ids=None,
        position_ids=None,
        cls_positions=None,
        dropout_keys=None,
    ):
        hidden, _, _ = self.bert(input_ids, attention_mask, token_type_ids, position_ids, cls_positions, dropout_keys)
        logits = self.qa_outputs(hidden).view(*input_ids.shape, 2)
        return logits[:, :, 0], logits[:, :, 1]


class BertForMultipleChoice(nn.Module):
    """One of C choices, each a row of its own: inputs (B * C, S) with N = 1, logits (B, C).

    Args:
        choices: C.
    """

    def __init__(self, config: BertConfig, numerics: Numerics, choices: int):
        super().__init__()
        self.bert = BertModel(config, numerics)
        self.dropout = _HeadDropout(config, numerics)
        self.classifier = Linear(config.hidden_size, 1, numerics)
        self.choices = choices

    def forward(
        self,
        input_ids,
        attention_mask=None,
        token_type_ids=None,
        position_ids=None,
        cls_positions=None,
        dropout_keys=None,
    ):
        _, pooled, _ = self.bert(input_ids, attention_mask, token_type_ids, position_ids, cls_positions, dropout_keys)
        return self.classifier(self.dropout(pooled, dropout_keys)).view(-1, self.choices)
