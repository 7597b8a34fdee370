"""What two checkpoints are run on: real text, random tokens, and rows of several sequences."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from conversion.agreement import cases
from conversion.agreement.cases import Case
from ms_bert.config import BertConfig
from ms_bert.data import tokenizer
from ms_bert.data.batches import Batch
from ms_bert.data.tokenizer import Vocabulary
from ms_bert.errors import UserError

TOKENS, SLOTS = 64, 8  # of a row of real text
MASKED = 2  # tokens of a row of real text that a model with an MLM head is asked for
MOST_LINES = 16
REAL_TEXT = "real text"
# Pairs of sentences, where no text is given.
TEXT = (
    "The cat sits on the mat. It has been there since the early morning, and nobody knows why.",
    "MindSpore compiles the whole training step into one graph; PyTorch runs it operation by operation.",
    "Déjà vu: naïve café owners in Zürich, São Paulo and Kraków recognise 東京, emoji and e-mail addresses alike.",
    "语言模型在大量文本上进行预训练。然后在具体任务上微调。",
    "In 1905, Einstein published four papers (on light, atoms, motion and energy) that changed physics forever!",
)


@dataclasses.dataclass(frozen=True)
class Texts:
    """Lines of text as a model takes them.

    Attributes:
        lines: of which each is a row of the batch. where: they are from, for people.
    """

    lines: tuple[str, ...]
    where: str
    vocabulary: Vocabulary
    batch: Batch


def read_lines(path: Path | None) -> tuple[str, ...]:
    """The first lines of a file that are not blank; TEXT where there is none.

    Raises:
        UserError: it cannot be read, or holds no text.
    """
    if path is None:
        return TEXT
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); name a file of UTF-8 text.") from None
    if not lines:
        raise UserError(f"{path} holds no text; name a file with a few lines.")
    return tuple(lines[:MOST_LINES])


def read_texts(
    path: Path | None, homes: Sequence[Path], config: BertConfig, tokens: int, masked: bool, notes: list[str]
) -> Texts | None:
    """The text by the tokenizer of the first of these folders; None where there is no tokenizer that fits.

    Args:
        path: of a file; None: TEXT. tokens: of a row. masked: whether some are replaced by [MASK].
        notes: takes why there is no text, and that the tokenizers differ.

    Raises:
        UserError: the file cannot be used.
    """
    lines = read_lines(path)
    vocabularies = [tokenizer.load(home) for home in dict.fromkeys(homes)]
    why = None
    if not homes:
        why = "no tokenizer was found beside A or B"
    elif vocabularies[0].size > config.vocab_size:
        why = f"the tokenizer in {homes[0]} has more entries than the model"
    if why and path:
        raise UserError(f"{why}, so {path} cannot be used; put the model's tokenizer there, or leave out --text.")
    if why:
        notes.append(f"{why}, so no real text was used")
        return None
    if len(vocabularies) == 2 and not _alike(*vocabularies, lines):
        notes.append("the tokenizers of A and B give different tokens: both models were run on those of A's tokenizer")
    batch = text_batch(vocabularies[0], lines, tokens, min(1, config.type_vocab_size - 1), masked)
    where = (
        f"{len(lines)} lines of {path}"
        if path
        else f"{len(lines)} built-in lines of English, Chinese and other languages"
    )
    return Texts(lines, where, vocabularies[0], batch)


def _alike(one: Vocabulary, other: Vocabulary, lines: Sequence[str]) -> bool:
    """Whether two tokenizers give the same tokens."""
    if one.tokenizer.get_vocab() != other.tokenizer.get_vocab():
        return False
    return all(one.tokenizer.encode(line).ids == other.tokenizer.encode(line).ids for line in (*TEXT, *lines))


def text_batch(
    vocabulary: Vocabulary, lines: Sequence[str], tokens: int, second: int = 1, masked: bool = False
) -> Batch:
    """Rows [CLS] half of a line [SEP] the other half [SEP], as `ms_bert.data.batches.FIELDS`.

    Args:
        second: token type of the other half: 0 where the model knows but one.
        masked: whether MASKED tokens of a row are [MASK]; they are in the first slots, which alone have a weight.
    """
    rng = np.random.default_rng(12)
    rows = len(lines)
    batch = {name: np.zeros((rows, tokens), np.int32) for name in ("input_ids", "token_type_ids", "sequence_ids")}
    batch["input_ids"][:] = vocabulary.pad
    batch["position_ids"] = np.tile(np.arange(tokens, dtype=np.int32), (rows, 1))
    batch["cls_positions"] = np.zeros((rows, 1), np.int32)
    batch["masked_positions"] = np.zeros((rows, SLOTS), np.int32)
    batch["masked_labels"] = np.zeros((rows, SLOTS), np.int32)
    batch["masked_weights"] = np.full((rows, SLOTS), not masked, np.float32)
    for row, line in enumerate(lines):
        ids = vocabulary.tokenizer.encode(line, add_special_tokens=False).ids[: tokens - 3]
        half = len(ids) // 2
        first = [vocabulary.cls, *ids[:half], vocabulary.sep]
        ids = np.array([*first, *ids[half:], vocabulary.sep])
        batch["masked_positions"][row] = rng.integers(0, len(ids), SLOTS)
        if masked:
            words = np.flatnonzero(~np.isin(ids, (vocabulary.cls, vocabulary.sep)))
            chosen = np.sort(rng.choice(words, min(MASKED, len(words)), replace=False))
            slots = slice(0, len(chosen))
            batch["masked_positions"][row, slots], batch["masked_labels"][row, slots] = chosen, ids[chosen]
            batch["masked_weights"][row, slots] = 1.0
            ids[chosen] = vocabulary.mask
        batch["input_ids"][row, : len(ids)] = ids
        batch["token_type_ids"][row, len(first) : len(ids)] = second
        batch["sequence_ids"][row, : len(ids)] = 1
    batch["next_sentence_labels"] = np.zeros((rows, 1), np.int32)
    batch["next_sentence_weights"] = np.ones((rows, 1), np.float32)
    return batch


def longest(config: BertConfig) -> int:
    return min(config.max_position_embeddings, 512)


def random_tokens(config: BertConfig, tokens: int) -> Case:
    """Two rows, the one full, as all programs take them: one sequence each."""
    return Case("random tokens", cases.make_batch(config, ((tokens,), (max(tokens * 2 // 3, 3),)), tokens, seed=9))


def packed_rows(config: BertConfig) -> Case:
    """Two rows of several sequences each."""
    short = min(longest(config), TOKENS)
    third = short // 3
    packed = ((third + 1, third, short - 2 * third - 1), (short // 2, short // 4))
    return Case("packed rows", cases.make_batch(config, packed, short, seed=10))
