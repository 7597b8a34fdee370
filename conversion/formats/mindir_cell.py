"""The cell that a MindIR file holds: one of Hugging Face's classes, with the inputs and outputs of transformers."""

from mindspore import nn, ops

from conversion.parameters import ARCHITECTURES
from ms_bert import heads
from ms_bert.config import BertConfig
from ms_bert.model import Numerics


class Inference(nn.Cell):
    """input_ids, attention_mask, token_type_ids (B, S) int32 -> the outputs of a row of ARCHITECTURES.

    Args:
        pooler: whether there is one. choices: how many rows are those of one question, where they are choices.
    """

    def __init__(self, config: BertConfig, architecture: str, pooler: bool, choices: int):
        super().__init__(auto_prefix=False)
        described = ARCHITECTURES[architecture]
        self.model = heads.named(architecture)(config, Numerics(), **described.arguments(pooler, choices))
        self.model.update_parameters_name(described.prefix)
        outputs = [output for output in described.outputs if pooler or output.part != "pooler"]
        # The cells give rows of tokens one below the other, where they are not a column each.
        self.by_token = tuple(not output.pooled and output.column is None for output in outputs)

    def construct(self, input_ids, attention_mask, token_type_ids):
        given = self.model(input_ids, attention_mask, token_type_ids)
        given = given if isinstance(given, tuple) else (given,)
        outputs = ()
        for value, by_token in zip(given, self.by_token):
            outputs += (ops.reshape(value, (*input_ids.shape, -1)) if by_token else value,)
        return outputs if len(outputs) > 1 else outputs[0]
