"""Small checkpoints whose every byte can expose a fault, for the tests of conversion."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np

from conversion.formats import safetensors_file
from conversion.parameters import ARCHITECTURES, BACKBONE, shapes
from conversion.tensors import Tensor
from ms_bert.config import BertConfig

# Sizes pairwise different, so that no transposed or exchanged tensor can pass for the right one.
CONFIG = BertConfig(
    vocab_size=61,
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=20,
    max_position_embeddings=17,
    type_vocab_size=3,
    hidden_dropout_prob=0.25,
    attention_probs_dropout_prob=0.125,
    initializer_range=0.5,
    id2label={str(i): f"LABEL_{i}" for i in range(5)},
)
BITS = {"float32": np.uint32, "float16": np.uint16, "bfloat16": np.uint16, "float64": np.uint64}
# Negative zero, infinities, the smallest subnormal, quiet and signalling NaNs with a payload and a sign.
SPECIAL = {
    "float32": [0x80000000, 0x7F800000, 0xFF800000, 1, 0x7FC12345, 0xFFA54321],
    "float16": [0x8000, 0x7C00, 0xFC00, 1, 0x7E12, 0xFD21],
    "bfloat16": [0x8000, 0x7F80, 0xFF80, 1, 0x7FD1, 0xFFA5],
    "float64": [1 << 63, 0x7FF << 52, 0xFFF << 52, 1, 0x7FF8000000012345, 0xFFF4000000054321],
}


def random_array(rng: np.random.Generator, shape: tuple, dtype: str, special: bool = True) -> np.ndarray:
    """Random values, with every special one among them if there is room."""
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    values = rng.normal(size=shape).astype(kind)
    flat = values.reshape(-1).view(BITS[dtype])
    if special and flat.size >= 8:
        flat[: len(SPECIAL[dtype])] = SPECIAL[dtype]
    return values


def random_weights(
    config: BertConfig = CONFIG, architecture: str = "BertForPreTraining", dtype: str = "float32", special: bool = True
) -> dict[str, np.ndarray]:
    """Weights of an architecture by canonical names."""
    rng = np.random.default_rng(3)
    parts = (
        (*BACKBONE, "pooler", *ARCHITECTURES[architecture].parts)
        if "Token" not in architecture
        else (*BACKBONE, "classifier")
    )
    if architecture == "BertForQuestionAnswering":
        parts = (*BACKBONE, "qa")
    return {name: random_array(rng, shape, dtype, special) for name, shape in shapes(config, parts).items()}


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: Tensor.of(value) for name, value in arrays.items()}


def write_folder(
    folder: Path,
    arrays: dict[str, np.ndarray],
    config: BertConfig = CONFIG,
    architecture: str | None = "BertForPreTraining",
) -> Path:
    """A Hugging Face folder with these tensors as they are."""
    folder.mkdir(parents=True)
    fields = config.to_dict() | ({"architectures": [architecture]} if architecture else {})
    (folder / "config.json").write_text(json.dumps(fields))
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    safetensors_file.write(folder / "model.safetensors", tensors(arrays), {"format": "pt"})
    return folder


def same_files(a: Path, b: Path) -> bool:
    return a.read_bytes() == b.read_bytes()
