"""Which layer and which pooling of a BERT make a good vector of a sentence, and how good is [CLS] alone?

Of the pairs of MRPC's test file, by all-MiniLM-L6-v2 and by the same model with random weights. The score is the area
under the ROC curve of the cosine: how often a pair of paraphrases is more alike than a pair that is none, 0.5 being
chance. Beside it stands how alike two sentences are that have nothing to do with each other.
"""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from benchmarks import runs
from benchmarks.sentence_embeddings import minilm
from conversion.formats import safetensors_file
from conversion.parameters import BACKBONE, shapes
from conversion.tensors import Tensor
from ms_bert.config import BertConfig
from ms_bert.data import labelled
from ms_bert.randomness import initial_weights
from ms_bert.tasks.embedding import Pooling, cosines

FILE = "mrpc/msr_paraphrase_test.txt"
POOLINGS = {
    "cls": Pooling(("cls",)),
    "mean": Pooling(("mean",)),
    "mean without [CLS] and [SEP]": Pooling(("mean",), special_tokens=False),
    "max": Pooling(("max",)),
}
DRAWS = 1000  # of the bootstrap


def measure(output, data: Path | None = None):
    rows = labelled.read(str(runs.with_files(data, [FILE]) / FILE), quoted=False)
    pairs = [(row.values["#1 String"], row.values["#2 String"]) for row in rows]
    labels = np.array([int(row.values["Quality"]) for row in rows])
    with tempfile.TemporaryDirectory() as name:
        models = {"all-MiniLM-L6-v2": minilm(), "random weights": random_twin(Path(name))}
        return {
            "pairs": len(pairs),
            "paraphrases": int(labels.sum()),
            "models": {model: of_model(path, pairs, labels) for model, path in models.items()},
        }


def random_twin(home: Path) -> Path:
    """A folder with a freshly initialised model of the same size."""
    for name in ("tokenizer.json", "config.json"):
        shutil.copy(minilm() / name, home)
    config = BertConfig.from_json(home)
    values = {
        name: Tensor.of(initial_weights(name, shape, config.initializer_range, seed=1, truncated=False))
        for name, shape in shapes(config, (*BACKBONE, "pooler")).items()
    }
    safetensors_file.write(home / "model.safetensors", values, {"format": "pt"})
    return home


def of_model(path: Path, pairs: list[tuple[str, str]], labels: np.ndarray) -> list[dict]:
    from pt_reference.embed import load

    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    layers = json.loads((path / "config.json").read_text())["num_hidden_layers"] + 1
    states = load(path, pooling="tokens", layers=tuple(range(layers)), threads=1)(
        texts
    )  # (tokens, layers * H) of each text
    found = []
    for layer in range(layers):
        own = [np.split(each, layers, axis=1)[layer] for each in states]
        for name, pooling in POOLINGS.items():
            vectors = [pooling(each) for each in own]
            found.append({"layer": layer, "pooling": name, **scored(dict(zip(texts, vectors)), pairs, labels)})
    pooled = load(path, pooling="pooler", threads=1)(texts)
    return [*found, {"layer": layers - 1, "pooling": "pooler", **scored(dict(zip(texts, pooled)), pairs, labels)}]


def area_under_roc(labels: np.ndarray, scores: np.ndarray) -> float:
    """By the ranks (Mann & Whitney, 1947): scikit-learn's roc_auc_score, which takes too long for each of the draws."""
    positive = labels.sum()
    return (rankdata(scores)[labels == 1].sum() - positive * (positive + 1) / 2) / (positive * (len(labels) - positive))


def scored(vectors: dict[str, np.ndarray], pairs: list[tuple[str, str]], labels: np.ndarray) -> dict:
    alike = np.array([cosines(vectors[one], vectors[other][None])[0] for one, other in pairs])
    rng = np.random.default_rng(1)
    draws = [rng.integers(0, len(pairs), len(pairs)) for _ in range(DRAWS)]
    areas = [area_under_roc(labels[draw], alike[draw]) for draw in draws]
    low, high = np.percentile(areas, [2.5, 97.5])
    strangers = [(one, other) for (one, _), (_, other) in zip(pairs, pairs[len(pairs) // 2 :] + pairs)]
    unrelated = np.mean([cosines(vectors[one], vectors[other][None])[0] for one, other in strangers])
    area = area_under_roc(labels, alike)
    return {
        "area": float(area),
        "low": float(low),
        "high": float(high),
        "mean_cosine": float(alike.mean()),
        "mean_cosine_of_strangers": float(unrelated),
    }


def table(result: dict) -> str:
    """The areas of docs/embeddings.md: a row for each layer, a column for each pooling, in Markdown."""
    made = []
    for model, found in result["models"].items():
        areas = {(one["layer"], one["pooling"]): one for one in found}
        layers = sorted({layer for layer, _ in areas})
        rows = [(f"{model}, layer", *POOLINGS, "pooler"), ("---",) * (2 + len(POOLINGS))]
        for layer in layers:
            told = (areas.get((layer, name)) for name in (*POOLINGS, "pooler"))
            cells = (
                "" if one is None else f"{one['area']:.3f} ({one['mean_cosine_of_strangers']:.2f})" for one in told
            )
            rows.append((f"{layer}{' (embeddings)' if not layer else ''}", *cells))
        made.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    return "\n\n".join(made)
