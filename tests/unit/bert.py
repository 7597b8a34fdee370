"""A small BERT and inputs that expose faults, shared by the tests of both models."""

import json
from pathlib import Path

import numpy as np

from conversion.formats import safetensors_file
from conversion.parameters import ARCHITECTURES, BACKBONE, shapes
from conversion.tensors import Tensor
from ms_bert.config import BertConfig
from ms_bert.data.tokenizer import Vocabulary

# Sizes pairwise different, so that no transposed or exchanged tensor can pass for the right one.
CONFIG = BertConfig(
    vocab_size=97,
    hidden_size=48,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=80,
    max_position_embeddings=24,
    type_vocab_size=2,
    id2label={str(i): str(i) for i in range(5)},
)
B, S = 4, 21
LENGTHS = (21, 13, 7, 2)
MASKED_POSITIONS = np.array([[1, 3, 20], [2, 12, 0], [6, 0, 1], [0, 1, 1]], np.int32)


def ragged_inputs() -> dict[str, np.ndarray]:
    """The arrays of a BertModel call: rows of four lengths, both segments."""
    rng = np.random.default_rng(5)
    inside = np.arange(S) < np.array(LENGTHS)[:, None]
    return {
        "input_ids": rng.integers(0, 97, (B, S)).astype(np.int32) * inside,
        "sequence_ids": inside.astype(np.int32),
        "token_type_ids": (rng.integers(0, 2, (B, S)) * inside).astype(np.int32),
        "position_ids": np.tile(np.arange(S, dtype=np.int32), (B, 1)),
        "cls_positions": np.zeros((B, 1), np.int32),
    }


def random_weights(shapes: dict[str, tuple]) -> dict[str, np.ndarray]:
    """Every parameter random, biases and LayerNorm too: their usual first values hide mistakes. float32."""
    rng = np.random.default_rng(7)
    return {name: rng.normal(0.0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def write_random(home: Path, config: BertConfig, vocabulary: Vocabulary, architecture: str = "BertForPreTraining"):
    """The folder of a random BERT, as Hugging Face writes one."""
    weights = random_weights(shapes(config, (*BACKBONE, *ARCHITECTURES[architecture].parts)))
    (home / "config.json").write_text(json.dumps(config.to_dict() | {"architectures": [architecture]}))
    (home / "tokenizer.json").write_text(vocabulary.to_json())
    (home / "vocab.txt").write_text(vocabulary.to_vocab_txt())
    (home / "tokenizer_config.json").write_text(json.dumps(vocabulary.description()))
    safetensors_file.write(
        home / "model.safetensors", {name: Tensor.of(value) for name, value in weights.items()}, {"format": "pt"}
    )
