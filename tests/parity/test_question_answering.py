"""Question answering: both frameworks learn it, and others load the folder."""

import csv
import json
import random

import numpy as np
import pytest
import transformers

from ms_bert.commands import finetuning, prediction
from ms_bert.framework import MindSpore
from ms_bert.predict import load
from pt_reference import predict as reference
from pt_reference.framework import PyTorch

pytestmark = pytest.mark.slow
FILLING = "the of a class in is an object with that and to statement value function expression".split()
NAMES = {"module": "import", "name": "bind", "type": "instance"}  # what is asked, and what stands before the answer
ANSWERS = ("list", "string", "method", "code")


def entry(rng: random.Random, number: int) -> dict:
    """A question about the word behind a marker, which every third passage lacks."""
    asked, marker = rng.choice(list(NAMES.items()))
    words = rng.choices(FILLING, k=rng.randint(4, 12))
    place, answer = rng.randrange(len(words)), rng.choice(ANSWERS)
    words[place:place] = [marker, answer] if number % 3 else []
    context = " ".join(words)
    answers = [{"text": answer, "answer_start": context.index(f"{marker} ") + len(marker) + 1}] if number % 3 else []
    return {"id": f"q{number}", "question": f"the {asked}", "context": context, "answers": answers}


def squad(entries) -> dict:
    paragraphs = [{"context": e["context"], "qas": [{k: e[k] for k in ("id", "question", "answers")}]} for e in entries]
    return {"version": "v2.0", "data": [{"title": "t", "paragraphs": paragraphs}]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("squad"), random.Random(4)
    for name, count in (("train", 120), ("dev", 30)):
        (folder / f"{name}.json").write_text(json.dumps(squad(entry(rng, number) for number in range(count))))
    return folder


@pytest.fixture(scope="module")
def command(data, undisturbed, cache) -> list[str]:
    line = [
        *("--task", "question-answering", "--model", undisturbed, "--cache", cache),
        *("--train", data / "train.json", "--dev", data / "dev.json", "--longest", 16, "--longest-question", 3),
        *("--stride", 4, "--batch-size", 4, "--steps", 40, "--learning-rate", 1e-2, "--threads", 1),
    ]
    return [*map(str, line)]


@pytest.fixture(scope="module")
def tuned(command, tmp_path_factory) -> dict:
    """The folder of a run in each framework."""
    folder = tmp_path_factory.mktemp("answering")
    for name, framework in (("ms_bert", MindSpore()), ("pt_reference", PyTorch())):
        given = [*command, "--output", str(folder / name)]
        assert finetuning.main(framework, "finetune", "", given) == 0
    return {name: folder / name for name in ("ms_bert", "pt_reference")}


@pytest.fixture(scope="module")
def models(tuned) -> dict:
    return {"ms_bert": load(tuned["ms_bert"]), "pt_reference": reference.load(tuned["pt_reference"])}


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_both_frameworks_learn_it_alike(tuned):
    one, other = (lines(folder / "metrics.jsonl") for folder in tuned.values())
    assert len(one) == len(other) and one[0]["held_out_exact_match"] < 0.5 < 0.9 < one[-1]["held_out_exact_match"]
    for mine, theirs in zip(one, other):
        assert mine.keys() == theirs.keys()
        for name in mine.keys() & {"loss", "held_out_loss", "gradient_norm"}:
            assert mine[name] == pytest.approx(theirs[name], rel=5e-3, abs=1e-6), name


def test_a_folder_tells_its_answers_and_their_scores_at_its_threshold(tuned, data):
    for folder in tuned.values():
        told, results = lines(folder / "predictions.jsonl"), json.loads((folder / "results.json").read_text())
        assert [line["id"] for line in told] == [f"q{number}" for number in range(30)]
        right = [line["answer"] in ([gold["answer"] for gold in line["gold"]] or [""]) for line in told]
        assert np.mean(right) == results["metrics"]["exact_match"]["value"]
        assert results["metrics"]["best_f1"] == results["metrics"]["f1"]  # on what the threshold was chosen
        task = json.loads((folder / "task.json").read_text())
        assert results["threshold"] == task["threshold"] and task["no_answer"] and task["longest"] == 16
        assert results["with_answer"]["examples"] == 20 and results["without_answer"]["examples"] == 10


def test_a_model_is_scored_without_training_by_its_own_options_or_others(tuned, data, tmp_path, capsys):
    run, dev = tuned["pt_reference"], data / "dev.json"
    own = json.loads((run / "results.json").read_text())

    def scored(folder, *options) -> dict:
        given = ["--evaluate", run, "--test", dev, "--threads", 1, "--output", folder]
        assert finetuning.main(PyTorch(), "finetune", "", [*map(str, (*given, *options))]) == 0
        return json.loads((folder / "results.json").read_text())["test"][str(dev)]

    found = scored(tmp_path / "own")
    assert found["metrics"] == own["metrics"] and found["threshold"] == own["threshold"]
    told = lines(tmp_path / "own" / "predictions-dev.jsonl")
    assert [one["answer"] for one in told] == [one["answer"] for one in lines(run / "predictions.jsonl")]
    short = scored(tmp_path / "short", "--longest-answer", 1, "--longest", 32)
    assert 0 < short["metrics"]["exact_match"]["value"] <= 1
    assert all(" " not in one["answer"] for one in lines(tmp_path / "short" / "predictions-dev.jsonl"))
    given = ["--evaluate", str(run), "--test", str(dev), "--longest-question", "30"]
    capsys.readouterr()
    assert finetuning.main(PyTorch(), "finetune", "", given) == 2
    assert "--longest 16 leaves no room for a passage beside questions of --longest-question 30" in (
        capsys.readouterr().err
    )


def test_a_prediction_is_that_of_the_run_whatever_stands_beside_it(models, tuned, data):
    given = [entry(random.Random(seed), seed) for seed in range(12)]
    pairs = [(e["question"], e["context"]) for e in given]
    pairs.append((pairs[0][0] * 9, " ".join(context for _, context in pairs)))  # of many windows
    for model in models.values():
        together = model(pairs)
        assert [model([pair])[0] for pair in pairs[::4]] == together[::4]  # to the last bit
        assert model(pairs[::-1]) == together[::-1] and model([]) == []
        assert "truncated" not in together[0] and together[-1]["truncated"]
        for (_, context), answer in zip(pairs, together):
            for told in answer["n_best"]:
                assert told["answer"] == ("" if told["start"] is None else context[told["start"] : told["end"]])
    kept = lines(tuned["pt_reference"] / "predictions.jsonl")
    paragraphs = json.loads((data / "dev.json").read_text())["data"][0]["paragraphs"]
    told = model([(p["qas"][0]["question"], p["context"]) for p in paragraphs])
    for line, answer in zip(kept, told, strict=True):
        assert line["answer"] == answer["answer"] and line["score"] == pytest.approx(answer["score"], abs=1e-5)


def test_transformers_loads_the_folder_and_computes_the_same(models, tuned):
    """The scores of the answers of a passage that one window shows are those of its logits."""
    folder = tuned["ms_bert"]
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    question, context = "the name", "a bind list in the value"
    (answer,) = models["ms_bert"]([(question, context)])
    given = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
    offsets = given.pop("offset_mapping")[0].tolist()
    assert len(offsets) <= 16
    found = model(**given)
    start, end = (logits[0].detach().double().numpy() for logits in (found.start_logits, found.end_logits))
    first = given["token_type_ids"][0].tolist().index(1)
    scores = {
        (offsets[i][0], offsets[j][1]): start[i] + end[j]
        for i in range(first, len(offsets) - 1)
        for j in range(i, len(offsets) - 1)
    }
    scores[None, None] = start[0] + end[0] - json.loads((folder / "task.json").read_text())["threshold"]
    shares = dict(zip(scores, np.exp(list(scores.values())) / np.exp(list(scores.values())).sum()))
    for told in answer["n_best"]:
        assert told["score"] == pytest.approx(shares[told["start"], told["end"]], rel=1e-4)
    assert answer["score"] == pytest.approx(max(shares.values()), rel=1e-4)


def test_a_student_learns_answers_from_a_teacher_alone(command, tuned, tmp_path):
    line = [*command, "--teacher", str(tuned["ms_bert"]), "--teacher-share", "1", "--output", str(tmp_path / "run")]
    assert finetuning.main(PyTorch(), "finetune", "", line) == 0
    found = lines(tmp_path / "run" / "metrics.jsonl")
    assert found[0]["held_out_exact_match"] < 0.5 < 0.9 < found[-1]["held_out_exact_match"]


def test_the_command_answers_about_passages_and_files(tuned, data, tmp_path, capsys):
    folder = str(tuned["pt_reference"])

    def predict(*arguments) -> str:
        assert prediction.main(PyTorch(), "predict", "", [folder, *map(str, arguments)]) == 0
        return capsys.readouterr().out

    context = "a value of the import method in a class"
    (tmp_path / "passage.txt").write_text(context)
    told = predict("the module", "the name", "--context", context)
    assert [line.split("\t")[1] for line in told.splitlines()] == ["the module", "the name"]
    assert predict("the module", "the name", "--context-file", tmp_path / "passage.txt") == told
    (line,) = predict("the module", "--context", context, "--format", "jsonl", "--top", 2).splitlines()
    assert len(json.loads(line)["n_best"]) == 2 and json.loads(line)["question"] == "the module"
    predict("--input", data / "dev.json", "--output", tmp_path / "answers.csv")
    header, *rows = csv.reader((tmp_path / "answers.csv").read_text().splitlines())
    assert header == ["id", "question", "answer", "score", "start", "end"] and [row[0] for row in rows][:2] == [
        "q0",
        "q1",
    ]
    assert prediction.main(PyTorch(), "predict", "", [folder, "the module"]) == 2
    assert "a question needs a passage; give it with --context" in capsys.readouterr().err


def test_what_cannot_be_trained_is_one_sentence_before_a_folder_is_made(data, undisturbed, tmp_path, capsys):
    moved = squad([{**entry(random.Random(1), 1), "answers": [{"text": "list", "answer_start": 10_000}]}])
    (tmp_path / "moved.json").write_text(json.dumps(moved))
    usual = ["--longest", "16", "--longest-question", "3"]
    for train, more, words in (
        (tmp_path / "moved.json", usual, "question 'q1': the answer 'list' does not stand at character 10000"),
        (tmp_path / "moved.json", [*usual, "--skip-bad"], "no question of"),
        (data / "train.json", ["--longest", "400"], "40 positions"),
        (data / "train.json", ["--longest", "40"], "leaves no room for a passage"),
        (data / "train.json", [*usual, "--class-weights", "balanced"], "is for classification"),
    ):
        given = ["--task", "question-answering", "--model", str(undisturbed), "--train", str(train), *more]
        assert finetuning.main(PyTorch(), "finetune", "", [*given, "--output", str(tmp_path / "run")]) == 2
        (told,) = [line for line in capsys.readouterr().err.splitlines() if line]
        assert told.startswith("finetune: ") and words in told
        assert not (tmp_path / "run").exists()
