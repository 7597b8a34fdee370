"""The ablations train what they say, go on where they were interrupted, and stand in a table beside the paper's."""

import importlib
import json
import lzma
import types

import numpy as np
import pytest
from safetensors.numpy import load_file

from benchmarks import ablations, report, runs
from ms_bert.run.folder import METRICS, RUN, THROUGHPUT
from tests.runs import small_run, write_config

SIZE = ablations.Size(
    ("--steps", "4"), ("--warmup-share", "0"), ("--epochs", "1"), dict.fromkeys(ablations.TUNED, 1), (1, 2), 6
)
RUNS = {"fine-tuned": 2 * 6 + 4, "on features": 2 * 5}  # of a seed


@pytest.fixture
def data(tmp_path):
    pair = "1\t1\t2\ta good film\tthis film is good\n0\t3\t4\ta bad film\ta good one\n"
    words = "Ann\tB-person\nsaw\tO\nLos\tB-location\nAngeles\tI-location\n\nit\tO\nis\tO\nParis\tB-location\n\n"
    sentences = "a good film\t1\na bad film\t0\n"
    files = {
        ablations.CORPUS: lzma.compress("a good film\nthis film is bad\nit is Paris\n\n".encode() * 60),
        "mrpc/msr_paraphrase_train.txt": f"Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n{pair * 4}",
        "mrpc/msr_paraphrase_test.txt": f"Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n{pair}",
        "sst2/train.tsv": f"sentence\tlabel\n{sentences * 4}",
        "sst2/dev.tsv": f"sentence\tlabel\n{sentences}",
        "wnut17/wnut17train.conll": words * 4,
        "wnut17/emerging.dev.conll": words,
    }
    for name, content in files.items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(content if isinstance(content, bytes) else content.encode())
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
        if "ms_bert.pretrain" not in line:
            scores = {name: {"value": 0.8, "low": 0.7, "high": 0.9} for name in ("accuracy", "f1")}
            (folder / "results.json").write_text(json.dumps({"metrics": scores}))
        return types.SimpleNamespace(returncode=0)

    def load(path, pooling, layers):
        return lambda texts: np.array([[len(text) + layer for layer in layers] for text in texts], float)

    monkeypatch.setattr(runs, "subprocess", types.SimpleNamespace(run=run))
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
    kinds = [one["kind"] for one in found]
    assert [kinds.count(kind) for kind in ("finetuning", "features")] == [len(SIZE.seeds) * n for n in RUNS.values()]
    tuned = [line for line in ran if line[1] != "ms_bert.pretrain"]
    assert len(tuned) == len({line[-1] for line in tuned}) == len(SIZE.seeds) * sum(RUNS.values())
    assert measure() == found and [line for line in ran if line[1] != "ms_bert.pretrain"] == tuned
    # A left-to-right model is never asked by its [CLS]; no path of this machine is kept.
    left = [line for line in tuned if any(part.endswith("ltr-no-nsp") for part in line)]
    assert left and all("tagging" in line or line[line.index("--pooling") + 1] == "mean" for line in left)
    assert str(tmp_path) not in json.dumps(found)


def test_the_data_that_is_missing_is_named(tmp_path):
    with pytest.raises(SystemExit, match="corpus.txt.xz is missing; name the folder"):
        ablations.measure(tmp_path, tmp_path)


def test_the_tables_have_the_papers_numbers_beside_ours(data, ran, tmp_path):
    ran.append([])  # nothing is interrupted
    ran.append([])
    result = list(ablations.measure(tmp_path, data, SIZE, tmp_path / "work"))
    machine = {"cores": 2, "cpu": "processor"}
    (tmp_path / "ablations.json").write_text(json.dumps({"date": "2026-11-29", "machine": machine, "result": result}))
    lines = report._ablations(tmp_path).splitlines()
    ours = "80.0 ± 0.0 (2)"
    assert f"| no NSP | MLM 3.000 | cls | {ours} | 86.5 | {ours} | 92.6 | {ours} | 83.9 | 84.9 | 87.9 |" in lines
    name = "LTR & no NSP + BiLSTM"
    assert f"| {name} | LM 3.000 | mean | {ours} | 75.7 | {ours} | 91.6 | {ours} | 82.1 | 84.1 | 84.9 |" in lines
    (last,) = [line for line in lines if line.startswith("| last layer | ")]
    assert last.endswith(f" | {ours} | {ours} | 94.9 |") and last.count("(1)") == 3
    assert lines[-1] == f"| all, fine-tuned | {ours} | {ours} | {ours} |  | {ours} | 96.4 |"
    assert set(report._PAPERS_MODELS) == set(ablations.POOLINGS)
    assert set(report._PAPERS_FEATURES) == set(ablations.FEATURES)


def test_all_is_trained_as_it_says(data, tmp_path, monkeypatch):
    """The whole measurement at a tiny size, by PyTorch and in this process."""

    def run(line):
        twin = importlib.import_module(line[2].replace("ms_bert.", "pt_reference."))
        return types.SimpleNamespace(returncode=twin.main([*line[3:], "--threads", "1"]))

    config = write_config(tmp_path, num_hidden_layers=4)
    options = small_run(data / ablations.CORPUS, tmp_path / "cache", config)[2:]
    options[options.index("--vocab-size") + 1] = "120"
    size = ablations.Size(
        (*options, "--steps", "2", "--warmup-steps", "1", "--seq-length", "16", "--eval-every", "0"),
        ("--longest", "16", "--learning-rate", "1e-3"),
        ("--longest", "16", "--learning-rate", "1e-2", "--epochs", "1"),
        dict.fromkeys(ablations.TUNED, 1),
        seeds=(1,),
        sentences=6,
    )
    monkeypatch.setattr(runs, "subprocess", types.SimpleNamespace(run=run))
    monkeypatch.setattr(ablations, "load", importlib.import_module("pt_reference.embed").load)
    work = tmp_path / "work"
    found = list(ablations.measure(tmp_path, data, size, work))
    assert len(found) == 3 + sum(RUNS.values()) + 3 * 5
    assert all(np.isfinite(list(one["metrics"].values())).all() for one in found if one["kind"] != "pretraining")

    def weights(folder):
        return load_file(work / folder / "model.safetensors")

    with_bilstm, below = weights("wnut17-ltr-no-nsp-bilstm-1"), weights("ltr-no-nsp")
    assert any(name.startswith("lstm.") for name in with_bilstm)
    assert (
        with_bilstm["bert.encoder.layer.0.output.dense.weight"] != below["bert.encoder.layer.0.output.dense.weight"]
    ).any()
    frozen, default = weights("wnut17-default-sum-of-the-last-four-layers-1"), weights("default")
    own = {name for name in frozen if name.startswith("bert.")}
    assert len(own) > 50 and all((frozen[name] == default[name]).all() for name in own)
    assert frozen["shares"].shape == (4,) and (frozen["shares"] != 0).all()
    command = ["--depth", "2", "--features", "-1", "-2", "-3", "-4", "--added"]
    assert any(
        one.get("command", "").startswith(f"python -m {ablations.WITH_BILSTM} {' '.join(command)}") for one in found
    )


def test_the_page_says_how_much_is_trained():
    full, page = ablations.FULL, " ".join((report.DOCS / "results.md").read_text(encoding="utf-8").split())
    steps = int(full.pretraining[full.pretraining.index("--steps") + 1])
    rate, epochs = (full.features[full.features.index(name) + 1] for name in ("--learning-rate", "--epochs"))
    for said in (
        f"for {steps:,} steps of 4,096 tokens, the first half",
        f"fine-tuned with {('no', 'one', 'two', 'three')[len(full.seeds)]} seeds",
        f"MRPC, {full.epochs['mrpc']} epochs",
        f"{full.sentences:,} sentences of SST-2, {full.epochs['sst2']} epochs",
        f"WNUT-17, {full.epochs['wnut17']} epochs",
        f"{epochs} epochs at a rate of {rate}",
    ):
        assert said in page, said
