"""The ablations train what they say, go on where they were interrupted, and stand in a table beside the paper's."""

import json
import types

import numpy as np
import pytest

from benchmarks import ablations, report
from ms_bert.run.folder import METRICS, RUN, THROUGHPUT

SIZE = ablations.Size(("--steps", "4"), ("--epochs", "1"), seeds=(1, 2), sentences=2)


@pytest.fixture
def data(tmp_path):
    files = {
        ablations.CORPUS: "",
        "mrpc/msr_paraphrase_train.txt": "",
        "mrpc/msr_paraphrase_test.txt": "",
        "sst2/train.tsv": "sentence\tlabel\n" + 'a "good film\t1\na bad film\t0\n' * 3,
        "sst2/dev.tsv": "sentence\tlabel\ngood\t1\nbad\t0\n",
    }
    for name, text in files.items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_text(text)
    return tmp_path / "data"


@pytest.fixture
def ran(monkeypatch):
    """The command lines of the runs that were begun or went on."""
    lines = []

    def run(line):
        lines.append(line[1:])
        folder = ablations.Path(line[-1])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RUN).write_text("{}")
        if len(lines) == 2:  # a machine that is switched off
            return types.SimpleNamespace(returncode=137)
        name = "lm" if folder.name.startswith("ltr") else "mlm"
        (folder / METRICS).write_text(json.dumps({"step": 4, f"held_out_{name}_loss": 3.0}) + "\n")
        (folder / THROUGHPUT).write_text('{"step": 2, "seconds": 1.5}\n{"step": 4, "seconds": 1.5}\n')
        if "ms_bert.finetune" in line:
            scores = {"accuracy": {"value": 0.8, "low": 0.7, "high": 0.9}}
            (folder / "results.json").write_text(json.dumps({"metrics": scores}))
        return types.SimpleNamespace(returncode=0)

    def load(path, pooling, layers):
        return lambda texts: np.array([[len(text) + layer for layer in layers] for text in texts], float)

    monkeypatch.setattr(ablations.subprocess, "run", run)
    monkeypatch.setattr(ablations, "load", load)
    return lines


def test_what_was_interrupted_goes_on_and_what_is_there_is_not_measured_again(data, ran, tmp_path, monkeypatch):
    monkeypatch.setattr(ablations, "_features", lambda *_: [])

    def measure():
        return list(ablations.measure(tmp_path, data, SIZE, tmp_path / "work"))

    with pytest.raises(SystemExit, match="no-nsp ended with exit code 137"):
        measure()
    found = measure()
    resumed = tmp_path / "work" / "no-nsp"
    assert ["-m", "ms_bert.pretrain", "--resume", str(resumed)] in ran
    assert len([one for one in found if one["kind"] == "finetuning"]) == len(SIZE.seeds) * 2 * 5
    tuned = [line for line in ran if line[1] == "ms_bert.finetune"]
    assert len(tuned) == len(SIZE.seeds) * 2 * 5 and measure() == found
    assert [line for line in ran if line[1] == "ms_bert.finetune"] == tuned
    # A left-to-right model is never asked by its [CLS]; no path of this machine is kept.
    left = [line for line in tuned if any(part.endswith("ltr-no-nsp") for part in line)]
    assert left and all(line[line.index("--pooling") + 1] == "mean" for line in left)
    assert str(tmp_path) not in json.dumps(found)


def test_the_data_that_is_missing_is_named(tmp_path):
    with pytest.raises(SystemExit, match="corpus.txt.xz is missing; name the folder"):
        ablations.measure(tmp_path, tmp_path)


def test_the_tables_have_the_papers_numbers_beside_ours(data, ran, tmp_path):
    ran.append([])  # nothing is interrupted
    ran.append([])
    result = list(ablations.measure(tmp_path, data, SIZE, tmp_path / "work"))
    machine = {"cores": 2, "cpu": "processor"}
    (tmp_path / "ablations.json").write_text(json.dumps({"machine": machine, "result": result}))
    lines = report._ablations(tmp_path).splitlines()
    assert "| no NSP | MLM 3.000 | cls | 80.0 ± 0.0 (2) | 80.0 ± 0.0 (2) | 86.5 | 92.6 |" in lines
    assert "| LTR & no NSP | LM 3.000 | mean | 80.0 ± 0.0 (2) | 80.0 ± 0.0 (2) | 77.5 | 92.1 |" in lines
    assert any(line.startswith("| concatenation of the last four layers | ") for line in lines)
    assert set(report._PAPERS_MODELS) == set(ablations.MODELS)
    assert set(report._PAPERS_FEATURES) == set(ablations.FEATURES)
