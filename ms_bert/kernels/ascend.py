"""What the Ascend NPU computes by other operations: attention, and the embeddings of token types."""

import mindspore as ms
from mindspore import ops
from mindspore.ops.auto_generate import DropoutGenMaskExt

from ms_bert.kernels import stock
from ms_bert.kernels.operations import Operations

ATTENTION_DTYPES = ("float16", "bfloat16")
ATTENTION_MULTIPLE = 16  # of which head size and sequence length must be multiples

_generate_mask = DropoutGenMaskExt()


def attention(query, key, value, sequence_ids, heads, rate, row_keys, column_keys, causal=False):
    """`stock.attention` as one `flash_attention_score`; the probabilities are never formed, so () stands for them.

    The NPU draws its dropout bits itself, from a seed and an offset taken from the keys: they are as repeatable
    as the stock form's, though not the same. MindSpore reads both on the host, so that each such layer waits for all
    before it.
    """
    b, s = sequence_ids.shape
    width = query.shape[-1]
    # flash_attention_score's mask says what to discard.
    discard = ops.logical_not(stock.attended(sequence_ids, causal))  # (B, S, S)
    drop_mask = None
    if rate > 0.0:
        # Neither may be negative.
        seed = ops.cast(ops.bitwise_and(ops.reshape(row_keys, (-1,))[0], 0x7FFFFFFF), ms.int64)
        offset = ops.cast(ops.bitwise_and(column_keys[0], 0x7FFFFFFF), ms.int64)
        bits = _generate_mask((b * heads * s * s,), rate, seed, offset, ms.float16)
        drop_mask = ops.reshape(bits, (b, heads, s, s // 8))
    context = ops.flash_attention_score(
        ops.reshape(query, (b, s, width)),
        ops.reshape(key, (b, s, width)),
        ops.reshape(value, (b, s, width)),
        head_num=heads,
        drop_mask=drop_mask,
        attn_mask=ops.cast(ops.expand_dims(discard, 1), ms.uint8),
        keep_prob=1.0 - rate,
        scalar_value=1.0 / (width // heads) ** 0.5,
        input_layout="BSH",
    )
    return ops.reshape(context, (b * s, width)), ()


def rows_of_few(table, numbers):
    """`stock.rows` as a product with a one-hot matrix, as in Google's BERT: its gradient is a product, too, where that
    of a gather adds all tokens of a step to the same few rows, one after the other."""
    few = ops.arange(0, table.shape[0], 1, dtype=ms.int32)
    return ops.matmul(ops.cast(ops.equal(ops.reshape(numbers, (-1, 1)), few), table.dtype), table)


def operations(dtype: str) -> Operations:
    """The stock operations with the NPU's attention, which float32 has not."""
    if dtype not in ATTENTION_DTYPES:
        return stock.composed(dtype, rows_of_few=rows_of_few)
    name = "stock kernels, its fused attention among them"
    return stock.composed(
        dtype, rows_of_few=rows_of_few, attention=attention, name=name, probabilities=False, own_dropout=True
    )
