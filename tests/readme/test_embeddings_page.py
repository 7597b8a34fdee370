"""The page about vectors of texts has the numbers that were measured, and says of them what is so."""

import json

from benchmarks import report, sentence_vectors

PAGE = (report.README.parent / "docs" / "embeddings.md").read_text(encoding="utf-8")
RESULT = json.loads((report.RESULTS / "sentence_vectors.json").read_text())["result"]
AREA, STRANGERS = (
    {(model, one["layer"], one["pooling"]): one[field] for model, found in RESULT["models"].items() for one in found}
    for field in ("area", "mean_cosine_of_strangers")
)
TRAINED, RANDOM = RESULT["models"]


def test_the_table_is_that_of_the_result_on_file():
    assert sentence_vectors.table(RESULT) in PAGE


def test_what_is_said_of_it_is_so():
    layers = range(7)
    assert all(AREA[model, i, "mean"] > AREA[model, i, "cls"] for model in (TRAINED, RANDOM) for i in layers)
    assert AREA[TRAINED, 6, "mean"] > AREA[TRAINED, 6, "pooler"] and AREA[RANDOM, 6, "mean"] > AREA[RANDOM, 6, "pooler"]
    assert AREA[RANDOM, 6, "mean"] > max(AREA[TRAINED, i, "cls"] for i in layers)
    assert all(STRANGERS[TRAINED, i, "cls"] > 0.99 for i in layers[:-1])
    assert max(AREA[TRAINED, i, "mean"] for i in layers[:-1]) > AREA[TRAINED, 6, "mean"]
    without = "mean without [CLS] and [SEP]"
    assert all(abs(AREA[TRAINED, i, "mean"] - AREA[TRAINED, i, without]) < 0.01 for i in layers)
