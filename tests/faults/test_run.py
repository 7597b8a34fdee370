"""A run of the real command: what it leaves, and that kills, signals and damage cost nothing."""

import json
import os
import shutil
import signal
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ms_bert.framework import MindSpore
from ms_bert.options import Options
from tests import runs
from tests.cases import some

torch = pytest.importorskip("torch")


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "it did not come so far"
        time.sleep(0.005)


def checkpoint(folder, step):
    return folder / "checkpoints" / f"step-{step:08d}"


def test_the_run_folder_holds_what_it_should(undisturbed):
    assert {p.name for p in undisturbed.iterdir()} == {
        ".lock",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
        "model.safetensors",
        "run.json",
        "metrics.jsonl",
        "throughput.jsonl",
        "curves.png",
        "checkpoints",
    }
    assert [p.name for p in sorted((undisturbed / "checkpoints").iterdir())] == ["step-00000009", "step-00000012"]
    assert (undisturbed / "model.safetensors").stat().st_mode & 0o044
    lines = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "mlm_loss" in line] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in lines if "held_out_mlm_loss" in line] == [0, 5, 10, 12]
    assert {"mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy", "gradient_norm", "learning_rate"} <= set(lines[1])
    description = json.loads((undisturbed / "run.json").read_text())
    trained_by = description["trained_by"][0]
    assert description["options"]["training"]["steps"] == 12 and trained_by["versions"]["mindspore"]
    assert trained_by["kernels"] == MindSpore().kernels(Options())
    assert (undisturbed / "curves.png").stat().st_size > 10_000


def test_transformers_loads_the_run_folder(undisturbed):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    model, report = transformers.BertForPreTraining.from_pretrained(undisturbed, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    weights = load_file(undisturbed / "model.safetensors")
    assert all(np.array_equal(value.detach().numpy(), weights[name]) for name, value in model.named_parameters())
    tokenizer = transformers.AutoTokenizer.from_pretrained(undisturbed)
    assert tokenizer.model_max_length == model.config.max_position_embeddings == 40  # not the run's --seq-length
    from ms_bert.data.tokenizer import load

    text = "Objects of different types, except different numeric types, never compare equal: café!"
    assert tokenizer(text)["input_ids"] == load(undisturbed).tokenizer.encode(text).ids
    with torch.no_grad():
        assert model(**tokenizer("A test.", return_tensors="pt")).prediction_logits.isfinite().all()


def test_other_ids_of_the_same_text_are_noticed_when_a_run_is_resumed(undisturbed, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    description = json.loads((folder / "run.json").read_text())
    description["text"]["train"]["sentences"] += 1
    (folder / "run.json").write_text(json.dumps(description))
    runs.assert_refused(runs.run("--resume", folder, "--steps", 14), "is not the one")


def test_the_same_command_gives_the_same_run(undisturbed, tmp_path):
    result = runs.run("--repeat", undisturbed / "run.json", "--output", tmp_path / "again")
    assert result.returncode == 0, result.stderr
    assert runs.content(tmp_path / "again") == runs.content(undisturbed)


MOMENTS = ("before the first checkpoint", "while one is written", "between checkpoints")


@pytest.mark.parametrize("moment", some(MOMENTS, MOMENTS[1]))
def test_a_killed_run_resumes_to_the_same_bytes(options, undisturbed, tmp_path, moment):
    folder = tmp_path / "run"
    process = runs.start(*options, "--output", folder)
    metrics = folder / "metrics.jsonl"
    wait_for(
        {
            "before the first checkpoint": lambda: (folder / "run.json").exists(),
            "between checkpoints": lambda: metrics.exists() and metrics.read_text().count("\n") >= 4,
            "while one is written": lambda: (
                (folder / "checkpoints" / ".step-00000006.writing").exists() or checkpoint(folder, 6).exists()
            ),
        }[moment],
        process,
    )
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not checkpoint(folder, 12).exists()
    resumed = runs.run("--resume", folder)
    assert resumed.returncode == 0, resumed.stderr
    assert runs.content(folder) == runs.content(undisturbed)


@pytest.mark.parametrize("package", some(["ms_bert", "pt_reference"], "ms_bert"))
def test_a_run_in_phases_resumes_within_one_to_the_same_bytes(options, tmp_path, package):
    """Short rows in small batches first, then longer ones, then those of --seq-length and --batch-size."""
    folder = tmp_path / "run"
    phases = ["--phases", "16x2x3", "24x8x6", "--keep", 9, "--log-every", 1]
    begun = runs.run(*options, *phases, "--output", folder, package=package)
    assert begun.returncode == 0, begun.stderr
    whole = runs.content(folder)
    lines = [json.loads(line) for line in (folder / "throughput.jsonl").read_text().splitlines()]
    sequences = [line["sequences_per_second"] * line["seconds"] for line in lines if "seconds" in line]
    assert [round(number) for number in sequences] == [2] * 3 + [8] * 6 + [4] * 3
    for step in (9, 12):
        shutil.rmtree(checkpoint(folder, step))
    resumed = runs.run("--resume", folder, package=package)
    assert resumed.returncode == 0, resumed.stderr
    assert runs.content(folder) == whole
    runs.assert_refused(runs.run("--resume", folder, "--phases", "16x2x6", package=package), "--phases cannot be chang")


@pytest.mark.parametrize("package", some(["ms_bert", "pt_reference"], "pt_reference"))
def test_dropout_is_that_of_the_run_and_not_of_the_model(options, undisturbed, tmp_path, package):
    """A model that is pre-trained without it is fine-tuned with it all the same; a resumed run goes on without."""
    folder = tmp_path / "run"
    without = runs.run(*options, "--dropout", 0, "--steps", 4, "--decay-steps", 12, "--output", folder, package=package)
    assert without.returncode == 0, without.stderr
    for file in ("config.json", "run.json"):
        described = json.loads((folder / file).read_text())
        assert described.get("config", described)["hidden_dropout_prob"] == 0.1
    resumed = runs.run("--resume", folder, "--steps", 12, package=package)
    assert resumed.returncode == 0, resumed.stderr
    whole = runs.run(*options, "--dropout", 0, "--output", tmp_path / "whole", package=package)
    assert whole.returncode == 0, whole.stderr
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    usual = undisturbed
    if package == "pt_reference":
        usual = tmp_path / "usual"
        assert runs.run(*options, "--output", usual, package=package).returncode == 0
    assert (folder / "model.safetensors").read_bytes() != (usual / "model.safetensors").read_bytes()


@pytest.mark.parametrize("number", some([signal.SIGINT, signal.SIGTERM], signal.SIGINT))
def test_a_signal_saves_and_stops_and_the_run_goes_on(options, undisturbed, tmp_path, number):
    folder = tmp_path / "run"
    process = runs.start(*options, "--steps", "400", "--decay-steps", "12", "--output", folder)
    wait_for(lambda: checkpoint(folder, 3).exists(), process)
    process.send_signal(number)
    out, err = process.communicate()
    # A SIGINT that arrives while a graph runs comes through MindSpore, as SIGTERM.
    assert process.returncode in (128 + number, 128 + signal.SIGTERM) and "Traceback" not in err
    stopped = max(int(p.name[5:]) for p in (folder / "checkpoints").glob("step-*"))
    assert f"after step {stopped} and saved; continue with --resume {folder}" in out
    if stopped <= 12:
        resumed = runs.run("--resume", folder, "--steps", 12)
        assert resumed.returncode == 0, resumed.stderr
        assert runs.content(folder) == runs.content(undisturbed)


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 2] ^= 1
    path.unlink()  # model.safetensors of the run folder may be the same file
    path.write_bytes(content)


@pytest.mark.parametrize(
    "file, how", [("model.safetensors", "altered"), ("optimizer.safetensors", "truncated"), ("state.json", "altered")]
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(undisturbed, tmp_path, file, how):
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    damage(checkpoint(folder, 12) / file, how)
    result = runs.run("--resume", folder)
    assert result.returncode == 0 and f"{checkpoint(folder, 12)} is damaged" in result.stderr
    assert "step 9 of 12" in result.stdout
    assert runs.content(folder) == runs.content(undisturbed)


def test_a_finished_run_says_so_and_goes_further_when_asked(undisturbed, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    result = runs.run("--resume", folder)
    assert result.returncode == 0 and "complete at step 12" in result.stdout
    result = runs.run("--resume", folder, "--steps", 14, "--keep-every", 9)
    assert result.returncode == 0, result.stderr
    assert "the learning rate rises from" in result.stdout and "of a run of 14 steps" in result.stdout
    assert [p.name for p in sorted((folder / "checkpoints").iterdir())] == [
        "step-00000009",
        "step-00000012",
        "step-00000014",
    ]


def test_a_full_disk_is_one_message_and_the_last_checkpoint_stays(undisturbed, tmp_path):
    import resource

    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    intact = runs.content(folder)
    # No file may grow beyond this: the system refuses the write as it does when the disk is full.
    limit = (folder / "model.safetensors").stat().st_size // 2
    result = runs.run(
        "--resume", folder, "--steps", 20, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    )
    runs.assert_refused(result, "the checkpoint of step 12 is intact", code=1)
    assert "File too large" in result.stderr
    for name, value in runs.content(folder).items():
        if name != "metrics.jsonl":
            assert value == intact[name]
    assert not list((folder / "checkpoints").glob(".*"))


@pytest.mark.parametrize("package", some(["ms_bert", "pt_reference"], "pt_reference"))
def test_a_vanished_output_folder_is_one_message(options, tmp_path, package):
    folder = tmp_path / "run"
    process = runs.start(*options, "--steps", "4000", "--output", folder, package=package)
    wait_for(lambda: (folder / "metrics.jsonl").exists(), process)
    os.rename(folder, tmp_path / "elsewhere")
    _, err = process.communicate()
    assert process.returncode == 1 and "Traceback" not in err
    assert f"writing the run folder {folder} failed" in err and not folder.exists()
    assert runs.run("--resume", tmp_path / "elsewhere", "--steps", 8, package=package).returncode == 0


def test_a_loss_that_is_not_finite_stops_before_anything_is_overwritten(options, tmp_path):
    result = runs.run(*options, "--learning-rate", "1e30", "--warmup-steps", "0", "--output", tmp_path / "run")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "both must be finite" in result.stderr and "--learning-rate" in result.stderr
    assert not (tmp_path / "run" / "model.safetensors").exists()


# A user's mistakes: one sentence, exit code 2


def test_another_runs_folder_is_not_overwritten(options, undisturbed, tmp_path):
    before = runs.content(undisturbed)
    runs.assert_refused(runs.run(*options, "--output", undisturbed), "already holds a run; continue it with --resume")
    assert runs.content(undisturbed) == before
    (tmp_path / "notes.txt").write_text("mine")
    runs.assert_refused(runs.run(*options, "--output", tmp_path), "not an empty folder")


@pytest.mark.parametrize("option", ["--output", "--cache"])
def test_a_folder_that_cannot_be_made_is_one_sentence(options, tmp_path, option):
    (tmp_path / "file").write_text("")
    result = runs.run(*options, "--output", tmp_path / "run", option, tmp_path / "file" / "folder")
    runs.assert_refused(result, "check that the path is right", code=1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("device, words", [("Ascend", "npu-smi info"), ("GPU", "nvidia-smi")])
def test_a_missing_device_is_one_sentence(options, tmp_path, device, words):
    if shutil.which(words.split()[0]):
        pytest.skip(f"there may be a usable {device}")
    runs.assert_refused(runs.run(*options, "--device", device, "--output", tmp_path / "run"), words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("package", ["ms_bert", "pt_reference"])
def test_more_threads_than_processors_are_refused(package, options, tmp_path):
    runs.assert_refused(
        runs.run(*options, "--threads", "99999", "--output", tmp_path / "run", package=package),
        "--threads is 99999, more than the number of processors that this process may use; choose at most "
        f"{len(os.sched_getaffinity(0))}.",
    )
    assert not (tmp_path / "run").exists()


def test_a_vocabulary_that_does_not_fit_is_refused(options, tmp_path):
    config = runs.write_config(tmp_path, vocab_size=500)
    runs.assert_refused(
        runs.run(*options, "--config", config, "--output", tmp_path / "run"),
        "the vocabulary has 600 entries and the config's vocab_size is 500",
    )


def test_a_config_of_an_mlm_head_with_a_matrix_of_its_own_is_refused(options, tmp_path):
    config = runs.write_config(tmp_path, tie_word_embeddings=False)
    runs.assert_refused(
        runs.run(*options, "--config", config, "--output", tmp_path / "run"),
        "tie_word_embeddings is false, but the MLM head that is trained here uses the word embeddings; set it to true.",
    )


def test_a_sequence_longer_than_the_position_table_is_refused(options, tmp_path):
    runs.assert_refused(
        runs.run(*options, "--seq-length", "64", "--output", tmp_path / "run"),
        "--seq-length is 64, but the position table has 40",
    )
    runs.assert_refused(
        runs.run(*options, "--phases", "48x4x2", "--output", tmp_path / "run"),
        "--phases has a sequence length of 48, but the position table has 40",
    )


@pytest.mark.parametrize(
    "text, words", [("", "holds no text"), ("One sentence here. And another one.\nA third.\n", "1 training document")]
)
def test_a_corpus_too_small_is_refused(options, tmp_path, text, words):
    (tmp_path / "a.txt").write_text(text)
    runs.assert_refused(
        runs.run(*options, "--corpus", tmp_path / "a.txt", "--vocab-size", "100", "--output", tmp_path / "run"), words
    )


def test_a_changed_corpus_is_noticed_when_a_run_is_resumed(options, undisturbed, tmp_path):
    corpus = tmp_path / "a.txt"
    corpus.write_bytes(open(options[1], "rb").read())
    config = runs.write_config(tmp_path)
    result = runs.run(*options, "--corpus", corpus, "--config", config, "--steps", 3, "--output", tmp_path / "run")
    assert result.returncode == 0, result.stderr
    config.unlink()  # the folder has its own
    corpus.write_text(corpus.read_text() + "\n\nOne more document. It has two sentences.\n")
    runs.assert_refused(
        runs.run("--resume", tmp_path / "run", "--steps", 6), "the corpus or the vocabulary is not the one"
    )


def test_a_run_begins_from_the_weights_of_another(options, undisturbed, tmp_path):
    result = runs.run(
        *options,
        "--init",
        undisturbed,
        "--steps",
        1,
        "--learning-rate",
        "1e-9",
        "--held-out",
        "0",
        "--no-nsp",
        "--output",
        tmp_path / "run",
    )
    assert result.returncode == 0, result.stderr
    before, after = (load_file(folder / "model.safetensors") for folder in (undisturbed, tmp_path / "run"))
    assert max(np.abs(before[name] - after[name]).max() for name in before) < 1e-8


def test_a_run_begins_from_a_checkpoint_of_another_tool(options, undisturbed, tmp_path):
    weights = {name: torch.from_numpy(value) for name, value in load_file(undisturbed / "model.safetensors").items()}
    encoder = {name.removeprefix("bert."): value for name, value in weights.items() if name.startswith("bert.")}
    home = tmp_path / "theirs"
    home.mkdir()
    torch.save(encoder, home / "pytorch_model.bin")
    for name in ("config.json", "vocab.txt"):
        shutil.copy(undisturbed / name, home)
    more = ("--steps", 1, "--learning-rate", "1e-9", "--output", tmp_path / "run")
    result = runs.run(*options, "--config", home, "--init", home / "pytorch_model.bin", *more, package="pt_reference")
    assert result.returncode == 0, result.stderr
    assert (
        "weights of" in result.stdout
        and "initialised at random, because the checkpoint lacks them: mlm, nsp" in result.stdout
    )
    after = load_file(tmp_path / "run" / "model.safetensors")
    assert all(np.abs(after[f"bert.{name}"] - value.numpy()).max() < 1e-8 for name, value in encoder.items())


@pytest.mark.parametrize(
    "arguments, words",
    [
        (
            ("--init", "{undisturbed}", "--config", "{other}"),
            "word_embeddings.weight: found (600, 32), expected (600, 48)",
        ),
        (("--init", "{bare}"), "no vocabulary was found beside"),
        (("--init", "nothing"), "there is no nothing"),
    ],
)
def test_a_checkpoint_that_does_not_serve_is_refused_before_the_text_is_read(
    options, undisturbed, tmp_path, arguments, words
):
    (tmp_path / "bare").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(undisturbed / name, tmp_path / "bare")
    places = {
        "undisturbed": undisturbed,
        "other": runs.write_config(tmp_path, hidden_size=48),
        "bare": tmp_path / "bare" / "model.safetensors",
    }
    given = [argument.format(**places) for argument in arguments]
    cache = ("--cache", tmp_path / "cache", "--output", tmp_path / "run")
    result = runs.run(*options, *given, *cache, package="pt_reference")
    assert result.returncode == 2 and words in result.stderr and "Traceback" not in result.stderr, result.stderr
    assert len(result.stderr.splitlines()) <= 2
    assert not (tmp_path / "run").exists() and not (tmp_path / "cache" / "stores").exists()


@pytest.mark.parametrize("package", ["ms_bert", "pt_reference"])
def test_a_checkpoint_is_evaluated_as_its_run_was_and_nothing_is_written(undisturbed, tmp_path, package):
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    result = runs.run("--evaluate", undisturbed, package=package, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "held_out_mlm_loss" in line][-1]
    told = result.stdout.splitlines()[-1]
    assert f"MLM loss {last['held_out_mlm_loss']:.3f} " in told and f"NSP loss {last['held_out_nsp_loss']:.3f} " in told
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")} == before
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_is_evaluated_on_another_corpus_and_needs_its_heads(options, undisturbed, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("\n\n".join(f"A sentence of document {i}. And a second one.\nA third." for i in range(40)))
    given = ("--evaluate", undisturbed, "--corpus", other)
    whole = runs.run(*given, "--held-out", "0", package="pt_reference")
    assert f"on 8 sequences of {other}: " in whole.stdout and "MLM loss" in whole.stdout, whole.stderr
    classifier = {"classifier.weight": np.zeros((2, 32), np.float32), "classifier.bias": np.zeros(2, np.float32)}
    below = {n: v for n, v in load_file(undisturbed / "model.safetensors").items() if n.startswith("bert.")}
    home = tmp_path / "classifier"
    home.mkdir()
    save_file(below | classifier, home / "model.safetensors")
    for name in ("config.json", "vocab.txt"):
        shutil.copy(undisturbed / name, home)
    runs.assert_refused(
        runs.run(*options, "--config", home, "--evaluate", home, package="pt_reference"),
        "lacks mlm and nsp, which the evaluation needs",
    )
