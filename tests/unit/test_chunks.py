"""What is done with some texts at a time, so that not all are held at once, is what it is for all at once."""

import random

import numpy as np
import pytest

from ms_bert.commands import embedding, prediction
from ms_bert.config import BertConfig
from ms_bert.data import sequences, windows
from ms_bert.tasks import distillation
from ms_bert.tasks.embedding import Normalize
from pt_reference import embed, predict
from tests.unit.bert import write_random

WORDS = "the module of a class in Python is an object with the name that import binds".split()
RNG = random.Random(1)
TEXTS = [" ".join(RNG.choices(WORDS, k=RNG.randint(1, 30))) for _ in range(10)]  # some of them too long
CONFIG = BertConfig(
    vocab_size=600,
    hidden_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=40,
    max_position_embeddings=24,
)


@pytest.fixture(scope="module")
def folder(vocabulary, tmp_path_factory):
    """A random BERT with both pre-training heads."""
    home = tmp_path_factory.mktemp("bert")
    write_random(home, CONFIG, vocabulary)
    return home


def test_texts_are_tokenized(vocabulary, monkeypatch):
    def made() -> list[np.ndarray]:
        pairs = [(text, TEXTS[-number] if number % 3 else "") for number, text in enumerate(TEXTS)]
        found = sequences.encoded(pairs, vocabulary, 24)
        shown = windows.windows(pairs, vocabulary, 16, 4, 3)
        return [found.ids, found.types, found.starts, found.cut, shown.ids, shown.starts, shown.owners, *shown.offsets]

    whole = made()
    monkeypatch.setattr(sequences, "_CHUNK", 3)
    monkeypatch.setattr(windows, "_CHUNK", 3)
    assert all(np.array_equal(one, other) for one, other in zip(whole, made(), strict=True))


def test_vectors_are_narrowed(monkeypatch):
    vectors = Normalize()(np.random.default_rng(2).normal(size=(10, 2, 8)).astype(np.float32)).astype(np.float32)

    def made() -> np.ndarray:
        return distillation.narrowed(vectors, [distillation.narrowing(vectors[:, layer], 3) for layer in (0, 1)])

    whole = made()
    monkeypatch.setattr(distillation, "_CHUNK", 3)
    assert made() == pytest.approx(whole, abs=1e-6)


@pytest.mark.slow
def test_texts_are_answered_about(folder, vocabulary, monkeypatch):
    def made() -> list:
        fill = predict.load_mask_filler(folder, top=2, threads=1)([f"[MASK] {text[:40]}" for text in TEXTS])
        vectors = embed.load(folder, threads=1)(TEXTS)
        return [fill, vectors.tobytes(), vectors.shape]

    whole = made()
    monkeypatch.setattr(prediction, "MASKED_CHUNK", 3)
    monkeypatch.setattr(embedding, "CHUNK", 3)
    assert made() == whole


@pytest.mark.slow
def test_texts_are_classified_and_those_that_are_too_long_told(vocabulary, tmp_path, monkeypatch):
    write_random(tmp_path, CONFIG, vocabulary, "BertForSequenceClassification")
    model = predict.load(tmp_path, threads=1)
    whole = model(TEXTS)
    cut = [answer.get("truncated", False) for answer in whole]
    assert cut == [len(vocabulary.tokenizer.encode(text).ids) > 24 for text in TEXTS] and 0 < sum(cut) < 10
    monkeypatch.setattr(prediction, "CHUNK", 3)
    assert model(TEXTS) == whole
