"""The cell that a MindIR file holds: BERT with one of Hugging Face's heads, and the inputs that transformers takes."""

from mindspore import nn, ops

from ms_bert.config import BertConfig
from ms_bert.model import BertLMPredictionHead, BertModel, Linear, Numerics


class Heads(nn.Cell):
    """The MLM head, the NSP head, or both, by Hugging Face's names."""

    def __init__(self, config: BertConfig, numerics: Numerics, mlm: bool, nsp: bool):
        super().__init__()
        if mlm:
            self.predictions = BertLMPredictionHead(config, numerics)
        if nsp:
            self.seq_relationship = Linear(config.hidden_size, 2, numerics)


class Inference(nn.Cell):
    """input_ids, attention_mask, token_type_ids (B, S) int32 -> the outputs of `conversion.parameters.OUTPUTS`."""

    def __init__(self, config: BertConfig, architecture: str, pooler: bool):
        super().__init__()
        numerics = Numerics()
        self.bert = BertModel(config, numerics, pooler)
        self.architecture, self.pooler = architecture, pooler
        self.mlm = architecture in ("BertForPreTraining", "BertForMaskedLM")
        self.nsp = architecture in ("BertForPreTraining", "BertForNextSentencePrediction")
        if self.mlm or self.nsp:
            self.cls = Heads(config, numerics, self.mlm, self.nsp)
        if architecture == "BertForMultipleChoice":
            self.classifier = Linear(config.hidden_size, 1, numerics)
        elif architecture in ("BertForSequenceClassification", "BertForTokenClassification"):
            self.classifier = Linear(config.hidden_size, config.num_labels, numerics)
        elif architecture == "BertForQuestionAnswering":
            self.qa_outputs = Linear(config.hidden_size, 2, numerics)

    def construct(self, input_ids, attention_mask, token_type_ids):
        b, s = input_ids.shape
        hidden, pooled, _ = self.bert(input_ids, attention_mask, token_type_ids)
        if self.architecture == "BertModel":
            hidden = ops.reshape(hidden, (b, s, -1))
            return (hidden, pooled) if self.pooler else hidden
        outputs = ()
        if self.mlm:
            scores = self.cls.predictions(hidden, self.bert.embeddings.word_embeddings.weight)
            outputs += (ops.reshape(scores, (b, s, -1)),)
        if self.nsp:
            outputs += (self.cls.seq_relationship(pooled),)
        if self.architecture == "BertForSequenceClassification":
            outputs += (self.classifier(pooled),)
        if self.architecture == "BertForMultipleChoice":
            outputs += (ops.reshape(self.classifier(pooled), (1, b)),)
        if self.architecture == "BertForTokenClassification":
            outputs += (ops.reshape(self.classifier(hidden), (b, s, -1)),)
        if self.architecture == "BertForQuestionAnswering":
            both = ops.reshape(self.qa_outputs(hidden), (b, s, 2))
            outputs += (both[:, :, 0], both[:, :, 1])
        return outputs if len(outputs) > 1 else outputs[0]
