"""Vectors of texts by all-MiniLM-L6-v2, from the texts to the vectors: tokenizer, encoder, pooling, normalisation.

The "loss" of a run is the mean square of what the vectors have beside their mean. The backends of sentence-transformers
by ONNX Runtime and OpenVINO do not contend: `inference` has the encoder by both.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np

from benchmarks.contenders import THREADS, Work, minilm


def saved(path, texts: list[str], lengths: list[int]) -> None:
    """Write what the contenders read: texts (n,), and where each would begin among the tokens of all (n + 1,)."""
    np.savez(path, texts=np.array(texts), starts=np.cumsum([0, *lengths]))


def texts_of(work: Work) -> list[str]:
    with np.load(work.file) as held:
        return held["texts"][: work.rows].tolist()


def _spread(vectors: np.ndarray) -> float:
    return float(np.square(vectors - vectors.mean(0)).mean())


def _twin(package: str, precision: str = "float32"):
    def make(work: Work) -> Callable[[], float]:
        load = importlib.import_module(f"{package}.embed").load
        embed, texts = load(minilm(), precision=precision, threads=THREADS), texts_of(work)
        return lambda: _spread(embed(texts))

    return make


def _sentence_transformers(precision: str):
    def make(work: Work) -> Callable[[], float]:
        import sentence_transformers
        import torch

        torch.set_num_threads(THREADS)
        settings = {"dtype": getattr(torch, precision)}
        model = sentence_transformers.SentenceTransformer(str(minilm()), device="cpu", model_kwargs=settings)
        texts = texts_of(work)
        # As it is: 32 texts at a time, sorted by length.
        return lambda: _spread(model.encode(texts, show_progress_bar=False).astype(np.float32))

    return make


MAKERS = {
    "ms_bert fused": _twin("ms_bert"),
    "ms_bert fused bfloat16": _twin("ms_bert", "bfloat16"),
    "ms_bert fused int8": _twin("ms_bert", "int8"),
    "pt_reference": _twin("pt_reference"),
    "sentence-transformers": _sentence_transformers("float32"),
    "sentence-transformers bfloat16": _sentence_transformers("bfloat16"),
}
