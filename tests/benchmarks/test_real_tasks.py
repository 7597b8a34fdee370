"""Results on real data come together run by run, and transformers' Trainer contends with the same data and measures."""

import functools
import json
import shlex
import types
from pathlib import Path

import pytest
import torch
import transformers

from benchmarks import real_tasks, runs
from benchmarks.contenders import trainer
from ms_bert.commands import finetuning
from pt_reference.framework import PyTorch

DEV = "cola/in_domain_dev.tsv", "cola/out_of_domain_dev.tsv"


@pytest.fixture
def data(tmp_path):
    """CoLA's folder; a dev file without a last line break, as the others have."""
    for number, name in enumerate(("cola/in_domain_train.tsv", *DEV)):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"gj04\t1\t\tA sentence of file {number}.")
    return tmp_path / "data"


@pytest.fixture
def command(data, tmp_path, monkeypatch):
    """A function that measures, where each run scores its seed in hundredths; `ran` has the runs' command lines."""
    ran = []

    def run(line):
        given = dict(zip(line, line[1:]))
        ran.append(line)
        folder = Path(given.get("--output") or given["--resume"])
        if folder.name == "9":
            return types.SimpleNamespace(returncode=3)
        folder.mkdir(parents=True, exist_ok="--resume" in given or runs.checkpoint(folder) is not None)
        metrics = {"matthews_correlation": {"value": int(folder.name) / 100, "low": 0.0, "high": 1.0}}
        (folder / "results.json").write_text(json.dumps({"step": 5, "examples": 2, "loss": 0.5, "metrics": metrics}))
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setattr(real_tasks.subprocess, "run", run)
    monkeypatch.setattr(real_tasks, "describe", lambda: {"machine": "this", "versions": {}, "commit": "c"})

    def measure(*arguments):
        places = ("--data", data, "--work", tmp_path / "work", "--results", tmp_path / "results.json")
        return real_tasks.main([*map(str, places), "--tasks", "cola", *map(str, arguments)])

    measure.ran, measure.results, measure.work = ran, tmp_path / "results.json", tmp_path / "work"
    return measure


def test_results_of_several_sessions_add_up_and_none_is_measured_twice(command, capsys):
    command("--contenders", "pt_reference", "--seeds", 2)
    command("--contenders", "transformers", "pt_reference", "--seeds", 1, 2)
    assert [(line[2], line[line.index("--seed") + 1]) for line in command.ran] == [
        ("pt_reference.finetune", "2"),
        ("benchmarks.contenders.trainer", "1"),
        ("pt_reference.finetune", "1"),
        ("benchmarks.contenders.trainer", "2"),
    ]
    assert "cola/usual/pt_reference/2: there already" in capsys.readouterr().out
    found = real_tasks.read(command.results)
    assert list(found) == sorted(f"cola/usual/{who}/{n}" for who in ("pt_reference", "transformers") for n in (1, 2))
    assert [run["metrics"]["matthews_correlation"] for run in found.values()] == [0.01, 0.02] * 2
    assert all(run["machine"] == "this" and run["commit"] == "c" for run in found.values())
    assert len(command.results.read_text().splitlines()) == len(found) + 5  # a line each, for merges


def test_a_command_names_no_place_of_this_machine(command):
    command("--contenders", "ms_bert", "--seeds", 1, "--threads", 1)
    (run,) = real_tasks.read(command.results).values()
    line = "python -m ms_bert.finetune --task cola --model minilm --train DATA/cola/in_domain_train.tsv --dev "
    line += "WORK/cola/in_domain_dev-out_of_domain_dev.tsv --epochs 3 --learning-rate 5e-05 --threads 1 --seed 1 "
    assert run["command"] == line + "--output WORK/cola/usual/ms_bert/1"


def test_development_files_are_put_one_after_the_other(command):
    command("--contenders", "ms_bert", "--seeds", 1)
    (line,) = command.ran
    lines = open(line[line.index("--dev") + 1]).read().splitlines()
    assert [text.split("\t")[-1] for text in lines] == ["A sentence of file 1.", "A sentence of file 2."]


def test_articles_without_a_division_are_divided_and_none_is_lost(tmp_path):
    def saved(name, first, count):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"data": [{"title": str(i)} for i in range(first, first + count)]}))

    def titles(path):
        return [article["title"] for article in json.loads(path.read_text())["data"]]

    saved("policyqa/dev.json", 0, 3)
    saved("xquad/xquad.en.json", 10, 9)
    train, dev = real_tasks.files_of(real_tasks.TASKS["xquad"], tmp_path, tmp_path / "work")
    assert titles(dev) == ["13", "17"]
    assert titles(train) == ["0", "1", "2", "10", "11", "12", "14", "15", "16", "18"]


def test_transformers_goes_on_from_its_newest_checkpoint(command):
    left = command.work / "c/cola/usual/transformers/1/checkpoint-500"
    left.mkdir(parents=True)
    (left / "trainer_state.json").write_text("{}")
    command("--contenders", "transformers", "--seeds", 1)
    assert left.exists() and "--resume" not in command.ran[0]
    (found,) = real_tasks.read(command.results).values()
    assert found["seconds"] is None


def test_what_an_interrupted_run_left_is_in_nobodys_way(command):
    for contender in ("ms_bert", "transformers"):
        (command.work / "c/cola/usual" / contender / "1/checkpoints").mkdir(parents=True)
    command("--contenders", "ms_bert", "transformers", "--seeds", 1)
    assert len(real_tasks.read(command.results)) == 2 and not any("--resume" in line for line in command.ran)


def test_an_interrupted_run_goes_on_with_the_code_that_began_it(command, monkeypatch):
    for commit in ("b", "c"):
        left = command.work / commit / "cola/usual/ms_bert/1"
        left.mkdir(parents=True)
        (left / "run.json").write_text("{}")
    command("--contenders", "ms_bert", "--seeds", 1, 2)
    resumed, new = command.ran
    assert resumed[1:] == ["-m", "ms_bert.finetune", "--resume", str(left)] and "--resume" not in new
    first, second = real_tasks.read(command.results).values()
    assert first["seconds"] is None and second["seconds"] is not None
    assert first["command"] == second["command"].replace("--seed 2", "--seed 1").replace("ms_bert/2", "ms_bert/1")


def test_a_run_that_fails_is_named_and_what_was_measured_is_kept(command):
    with pytest.raises(SystemExit, match="cola/usual/ms_bert/9 ended with exit code 3"):
        command("--contenders", "ms_bert", "--seeds", 1, 9)
    assert list(real_tasks.read(command.results)) == ["cola/usual/ms_bert/1"]


@pytest.mark.parametrize("recipe", real_tasks.RECIPES)
def test_the_command_knows_the_options_of_a_recipe(recipe, tmp_path):
    run = real_tasks.Run("mrpc", recipe, "pt_reference", 1)
    line = run.arguments(tmp_path, tmp_path / "train.tsv", None, tmp_path / "run", threads=1)
    given = finetuning.parse(PyTorch(), "finetune", "", line)
    assert given.training.learning_rate == real_tasks.RECIPES[recipe].learning_rate
    assert bool(given.training.augment) == ("augmented" in recipe)
    assert (given.data.pooling == "mean") == ("mean" in line)


def test_a_model_is_taught_by_that_of_its_seed(command):
    for recipe in ("mean-2e-4-decay", "self-distilled"):
        if recipe == "self-distilled":
            with pytest.raises(
                SystemExit, match="ms_bert/2 is taught by the recipe mean-2e-4-decay; measure that before"
            ):
                command("--contenders", "ms_bert", "--seeds", 2, "--recipe", recipe)
        command("--contenders", "ms_bert", "--seeds", 1, "--recipe", recipe)
    before, after = command.ran
    teacher = after[after.index("--teacher") + 1]
    assert teacher == before[before.index("--output") + 1] and "--teacher" not in before
    told = real_tasks.read(command.results)["cola/self-distilled/ms_bert/1"]["command"]
    assert "--teacher WORK/cola/mean-2e-4-decay/ms_bert/1 " in told


@pytest.mark.parametrize("commit", ["c with uncommitted changes", None])
def test_what_other_code_may_have_begun_is_begun_anew(commit, command, monkeypatch):
    monkeypatch.setattr(real_tasks, "describe", lambda: {"commit": commit})
    left = command.work / str(commit)[:12] / "cola/usual/ms_bert/1"
    left.mkdir(parents=True)
    (left / "run.json").write_text("{}")
    command("--contenders", "ms_bert", "--seeds", 1)
    assert "--resume" not in command.ran[0] and not (left / "run.json").exists()


@pytest.mark.parametrize("contender", real_tasks.CONTENDERS)
def test_no_checkpoint_is_chosen_by_test_data(contender, tmp_path):
    line = real_tasks.Run("mrpc", "usual", contender, 1).arguments(tmp_path, tmp_path, tmp_path, tmp_path, None)
    if contender == "transformers":
        assert trainer.parse(line).last
    else:
        given = finetuning.parse(PyTorch(), "finetune", "", line)
        assert given.run.eval_every > 10_000 and given.run.checkpoint_every < 1_000
    chosen = real_tasks.Run("cola", "usual", contender, 1).arguments(tmp_path, tmp_path, tmp_path, tmp_path, None)
    assert not {"--last", "--eval-every"} & set(chosen)


def test_missing_data_and_models_are_named_before_anything_runs(command, data, capsys):
    with pytest.raises(SystemExit, match="begins with the model chinese; give --model chinese=FOLDER"):
        command("--recipe", "chinese")
    (data / DEV[1]).unlink()
    with pytest.raises(SystemExit, match=r"out_of_domain_dev.tsv is missing; name the folder of the data with --data"):
        command()
    with pytest.raises(SystemExit, match="2"):
        command("--model", "nowhere")
    assert "nowhere is not NAME=FOLDER of a model" in capsys.readouterr().err and not command.ran


@pytest.fixture
def of_trainer(tmp_path, request):
    """The command line of a run on sentences with a good word or a bad one, which even this model tells apart."""
    request.addfinalizer(functools.partial(torch.set_num_threads, torch.get_num_threads()))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", *(f"w{i}" for i in range(20))]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "model")
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "model")
    rows = [f"w{i % 20} {('good', 'bad')[i % 2]} w{i % 7}\t{1 - i % 2}" for i in range(80)]
    for name, part in (("train", rows[:64]), ("dev", rows[64:])):
        (tmp_path / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *part]))
    line = f"--task sst2 --model {tmp_path}/model --train {tmp_path}/train.tsv --dev {tmp_path}/dev.tsv --epochs 4 "
    line += "--learning-rate 3e-2 --batch-size 16 --longest 16 --threads 1 --seed 1"
    return shlex.split(line)


def trained(line, output, *more) -> dict:
    trainer.main([*line, "--output", str(output), *more])
    assert [path.name for path in output.iterdir()] == ["results.json"]
    return json.loads((output / "results.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("last", [False, True])
def test_the_trainer_writes_the_measures_of_the_task_and_goes_on_where_it_was(last, of_trainer, tmp_path, monkeypatch):
    more = ["--last"] * last
    results = trained(of_trainer, tmp_path / "run", *more)
    assert results["examples"] == 16 and results["metrics"] == {"accuracy": {"value": 1.0}}
    assert results["step"] in ((16,) if last else (4, 8, 12, 16))
    # Killed within an epoch, after a checkpoint and while another is written; the whole one counts.
    step, steps = transformers.Trainer.training_step, []

    def dying(self, *arguments, **named):
        steps.append(self.state.global_step)
        if len(steps) == 7:
            raise KeyboardInterrupt
        return step(self, *arguments, **named)

    monkeypatch.setattr(trainer, "SECONDS", 0)
    with monkeypatch.context() as dies, pytest.raises(KeyboardInterrupt):
        dies.setattr(transformers.Trainer, "training_step", dying)
        trained(of_trainer, tmp_path / "killed", *more)
    (tmp_path / "killed" / "checkpoint-7").mkdir()
    assert runs.checkpoint(tmp_path / "killed") == str(tmp_path / "killed" / "checkpoint-6")
    assert trained(of_trainer, tmp_path / "killed", *more) == results
