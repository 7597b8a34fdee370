"""The fine-tuning step in MindSpore, as one graph."""

import mindspore as ms
from mindspore import ParameterTuple, nn

from ms_bert.heads import BertForSequenceClassification
from ms_bert.model import Numerics, initialize
from ms_bert.training.step import Update


class Loss(nn.Cell):
    def __init__(self, model):
        super().__init__(auto_prefix=False)
        self.model = model
        self.cross_entropy = model.bert.numerics.operations.cross_entropy

    def construct(self, input_ids, sequence_ids, token_type_ids, position_ids, cls_positions, labels, dropout_keys):
        logits = self.model(input_ids, sequence_ids, token_type_ids, position_ids, cls_positions, dropout_keys)
        return self.cross_entropy(logits, labels).mean()


class FineTuningStep(nn.Cell):
    """Loss, gradients and update; returns the loss and what `Update` does."""

    def __init__(self, config, training, kind):
        super().__init__(auto_prefix=False)
        numerics = Numerics("CPU", training.precision, kernels=kind)
        model = BertForSequenceClassification(config, numerics)
        initialize(model, config, training.seed)
        parameters = model.trainable_params()
        self.update = Update(parameters, training, numerics.operations)
        self.gradients = ms.value_and_grad(Loss(model), None, weights=ParameterTuple(parameters))

    def construct(self, *inputs):
        batch, rate, row_keys, column_keys = inputs[:6], inputs[6], inputs[7], inputs[8]
        loss, gradients = self.gradients(*batch, (row_keys, column_keys))
        return loss, self.update(gradients, rate)
