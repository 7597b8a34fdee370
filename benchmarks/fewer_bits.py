"""How near do hidden states come to those in float32 that are computed in bfloat16 or int8?

all-MiniLM-L6-v2 on sentences of SST-2's dev.tsv and MRPC's test file, each text by itself; of every token the cosine of
its last hidden state to that in float32 by transformers. ONNX Runtime's int8 is dynamic, with scales by output.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks import runs
from benchmarks.contenders import THREADS, minilm
from benchmarks.contenders.inference import onnx_session, openvino_model
from ms_bert.data import tokenizer
from ms_bert.kernels import native
from ms_bert.tasks import glue

FILES = {"sst2": "sst2/dev.tsv", "mrpc": "mrpc/msr_paraphrase_test.txt"}
TEXTS, LONGEST = 400, 128  # of each file; tokens of a text
States = Callable[[np.ndarray], np.ndarray]  # from ids (S,) to the last hidden states (S, H)


def measure(output, data: Path | None = None):
    folder = runs.with_files(data, FILES.values())
    encode = tokenizer.load(minilm()).tokenizer.encode
    texts = [np.array(encode(text).ids[:LONGEST]) for text in texts_of(folder)]
    reference = by_torch("float32")
    exact = [reference(text) for text in texts]
    return {
        "texts": len(texts),
        "tokens": sum(map(len, texts)),
        "contenders": {
            name: compared([states(text) for text in texts], exact) for name, states in contenders().items()
        },
    }


def texts_of(folder: Path) -> list[str]:
    found = []
    for name, file in FILES.items():
        examples, _ = glue.examples(glue.DATASETS[name], str(folder / file))
        found += [example.texts[0] for example in examples[:TEXTS]]
    return found


def compared(found: Sequence[np.ndarray], exact: Sequence[np.ndarray]) -> dict[str, float]:
    """Cosines of tokens, on average and the least, and of the means of texts; the error relative to the norm of all."""

    def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)

    ours, theirs = np.concatenate(found).astype(np.float64), np.concatenate(exact).astype(np.float64)
    of_tokens = cosines(ours, theirs)
    of_texts = cosines(*(np.stack([states.mean(0) for states in one]) for one in (found, exact)))
    return {
        "token_cosine_mean": round(float(of_tokens.mean()), 6),
        "token_cosine_least": round(float(of_tokens.min()), 6),
        "text_cosine_mean": round(float(of_texts.mean()), 6),
        "text_cosine_least": round(float(of_texts.min()), 6),
        "relative_error": round(float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)), 6),
    }


def contenders() -> dict[str, States]:
    made = {f"ms_bert {name}": by_library(name) for name in native.PRECISIONS if not native.why_not(name)}
    made |= {"torch bfloat16": by_torch("bfloat16")}
    for name, fused in (("ONNX Runtime int8", False), ("ONNX Runtime fused int8", True)):
        with tempfile.TemporaryDirectory() as folder:
            made |= {name: by_graph(onnx_session(Path(folder), fused, int8=True))}
    if importlib.util.find_spec("openvino"):
        with tempfile.TemporaryDirectory() as folder:
            made |= {"OpenVINO bfloat16": by_graph(openvino_model(Path(folder), "bf16"))}
    return made


def by_library(precision: str) -> States:
    from conversion import pretrained
    from ms_bert import native_model
    from ms_bert.data.sequences import Sequences

    found = pretrained.read(minilm())
    layers = (found.config.num_hidden_layers,)
    model = native_model.load("BertHiddenStates", found, precision, THREADS, layers=layers)

    def states(ids: np.ndarray) -> np.ndarray:
        zeros, starts = np.zeros(len(ids), np.int32), np.array([0, len(ids)])
        return model.logits(Sequences(ids.astype(np.int32), zeros, starts, np.zeros(1, bool)), per_token=True)

    return states


def by_torch(precision: str) -> States:
    import torch
    import transformers

    torch.set_num_threads(THREADS)
    model = transformers.BertModel.from_pretrained(minilm(), dtype=getattr(torch, precision)).eval()

    def states(ids: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(ids[None].astype(np.int64))).last_hidden_state[0].float().numpy()

    return states


def by_graph(run: Callable[[dict[str, np.ndarray]], np.ndarray]) -> States:
    def states(ids: np.ndarray) -> np.ndarray:
        given = ids[None].astype(np.int64)
        ones, zeros = np.ones_like(given), np.zeros_like(given)
        return run({"input_ids": given, "attention_mask": ones, "token_type_ids": zeros})[0]

    return states
