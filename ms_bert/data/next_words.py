"""Targets of a left-to-right language model: each token predicts the one after it, of its own sequence.

The ablation LTR & No NSP of BERT's paper (Devlin et al., 2019, 5.1), which is trained as GPT is (Radford et al., 2018).
"""

from __future__ import annotations

import numpy as np


def next_words(input_ids: np.ndarray, sequence_ids: np.ndarray) -> dict[str, np.ndarray]:
    """What `masking.mask` gives, for a model that sees the tokens as they are: [CLS] predicts the first word, the last
    one predicts [SEP], which predicts nothing.

    Args:
        input_ids, sequence_ids: (B, S) int32.

    Returns:
        masked_positions and masked_labels (B, S) int32, ascending and padded with 0, masked_weights (B, S) float32, 1
        for a slot in use.
    """
    rows, tokens = input_ids.shape
    predicts = np.zeros((rows, tokens), bool)
    predicts[:, :-1] = (sequence_ids[:, :-1] > 0) & (sequence_ids[:, :-1] == sequence_ids[:, 1:])
    positions = np.argsort(~predicts, axis=1, kind="stable")
    used = np.arange(tokens) < predicts.sum(1)[:, None]
    positions = np.where(used, positions, 0)
    labels = np.where(used, np.take_along_axis(np.roll(input_ids, -1, 1), positions, 1), 0)
    return {
        "masked_positions": positions.astype(np.int32),
        "masked_labels": labels.astype(np.int32),
        "masked_weights": used.astype(np.float32),
    }
