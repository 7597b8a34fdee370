"""How long do sentence vectors of many texts take, from the texts to the vectors, beside sentence-transformers?

all-MiniLM-L6-v2 in one call of `ms_bert.embed.load(...)` and of `SentenceTransformer.encode`, on sentences of SST-2 and
on passages of PolicyQA, cut at the model's 256 tokens; contenders take turns.
"""

import contextlib
import json
import tempfile
from pathlib import Path

from benchmarks import runs
from benchmarks.contenders import Work, embedding, measured, minilm
from ms_bert.data import labelled, tokenizer

TEXTS = {"sst2": 2000, "policyqa": 200}
FILES = {"sst2": "sst2/dev.tsv", "policyqa": "policyqa/dev.json"}
LONGEST, ROUNDS, TOGETHER = 256, 7, 4


def measure(output, data: Path | None = None):
    folder = runs.with_files(data, FILES.values())
    encoder = tokenizer.load(minilm()).tokenizer
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name, read in {"sst2": sentences, "policyqa": passages}.items():
            texts = read(folder / FILES[name])[: TEXTS[name]]
            lengths = [min(len(one.ids), LONGEST) for one in encoder.encode_batch(texts)]
            embedding.saved(home / f"{name}.npz", texts, lengths)
            work = Work("embedding", "minilm", rows=len(texts), tokens=0, file=str(home / f"{name}.npz"))
            yield {"texts": name, **measured(work, ROUNDS, TOGETHER)}


def sentences(path: Path) -> list[str]:
    return [row.values["sentence"] for row in labelled.read(str(path), quoted=False)]


def passages(path: Path) -> list[str]:
    articles = json.loads(path.read_text())["data"]
    return list(dict.fromkeys(part["context"] for article in articles for part in article["paragraphs"]))
