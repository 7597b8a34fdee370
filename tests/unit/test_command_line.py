"""The command line: its options are a promise, a mistake is one sentence, a run repeats from its run.json."""

import json
import re
import subprocess
import sys

import pytest

from ms_bert.commands import preparation, pretraining, training
from ms_bert.errors import UserError
from ms_bert.framework import MindSpore
from ms_bert.options import MindSporeOptions, Options
from ms_bert.run.progress import Progress
from ms_bert.run.workers import ALONE
from pt_reference.framework import PyTorch
from tests import runs

PROMISED = """--corpus --preset --config --init --vocab --seq-length --batch-size --accumulate --steps --learning-rate
    --warmup-steps --optimizer --precision --masking --seed --device --output --resume --log-every --eval-every
    --checkpoint-every --keep --nsp --no-nsp""".split()


def parse(*arguments) -> Options:
    return pretraining.parse(MindSpore, "pretrain", "", arguments)


def test_every_promised_option_is_in_the_help(capsys):
    with pytest.raises(SystemExit) as stop:
        parse("--help")
    assert stop.value.code == 0
    offered = set(re.findall(r"--[a-z][a-z0-9-]*", capsys.readouterr().out))
    assert not set(PROMISED) - offered


def test_help_and_mistakes_import_no_framework():
    script = (
        "import sys; from ms_bert.commands import pretraining; from ms_bert.framework import MindSpore\n"
        "try: pretraining.parse(MindSpore, 'pretrain', '', ['--help'])\n"
        "except SystemExit: pass\n"
        "import ms_bert.config, ms_bert.data.batches, ms_bert.run.loop, ms_bert.pretrain\n"
        "sys.exit(bool({'mindspore', 'torch', 'datasets', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], stdout=subprocess.DEVNULL).returncode == 0


def test_the_readmes_long_command_is_understood():
    options = parse(
        "--corpus",
        "wiki/a.txt",
        "wiki/b.txt",
        "--preset",
        "base",
        "--seq-length",
        "128",
        "--batch-size",
        "256",
        "--steps",
        "1000000",
        "--precision",
        "float16",
        "--device",
        "Ascend",
        "--output",
        "runs/base",
    )
    assert options.text.corpus == ("wiki/a.txt", "wiki/b.txt")
    assert (options.training.batch_size, options.run.device, str(options.run.output)) == (256, "Ascend", "runs/base")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--steps", "0"), "--steps is 0"),
        (("--batch-size", "32", "--accumulate", "5"), "cannot be divided"),
        (("--learning-rate", "-1"), "choose a number from 1e-12 to 1e+30"),
        (("--mask-rate", "1.5"), "--mask-rate"),
        (("--max-predictions", "500"), "--max-predictions"),
        (("--held-out", "0.9"), "--held-out"),
        (("--keep", "0"), "--keep"),
        (("--pack", "0"), "--pack is 0"),
        (("--threads", "0"), "--threads is 0"),
        (("--dropout", "1"), "--dropout"),
        (("--resume", "runs/a", "--output", "runs/b"), "leave out --output"),
        (("--resume", "no/such/run"), "there is no no/such/run"),
        (("--repeat", "no/run.json"), "there is no no/run.json"),
    ],
)
def test_a_mistaken_value_is_one_sentence(arguments, words):
    with pytest.raises(UserError) as caught:
        parse(*arguments)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [("--stepz", "5"), ("--preset", "huge"), ("--device", "TPU"), ("--steps", "many"), ("--kernels", "fast")],
)
def test_an_unknown_option_or_value_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(*arguments)
    assert stop.value.code == 2
    assert arguments[0] in capsys.readouterr().err


@pytest.fixture
def saved(tmp_path):
    options = parse(
        "--preset",
        "tiny",
        "--steps",
        "7",
        "--vocab",
        "v.txt",
        "--no-nsp",
        "--seq-length",
        "32",
        "--output",
        str(tmp_path),
    )
    (tmp_path / "run.json").write_text(json.dumps({"options": options.to_dict(), "trained_by": []}))
    return tmp_path


def test_a_resumed_run_knows_its_options(saved):
    options = parse("--resume", str(saved))
    assert (options.model.preset, options.training.steps, options.examples.nsp) == ("tiny", 7, False)
    assert str(options.text.vocab) == "v.txt" and options.run.output is None


def test_a_resumed_run_may_go_further_but_not_become_another(saved):
    assert parse("--resume", str(saved), "--steps", "20", "--checkpoint-every", "3").training.steps == 20
    assert parse("--resume", str(saved), "--corpus", "there.txt").text.corpus == ("there.txt",)
    with pytest.raises(UserError, match="--vocab cannot be changed"):
        parse("--resume", str(saved), "--vocab", "there/v.txt")
    with pytest.raises(UserError, match="--seq-length cannot be changed"):
        parse("--resume", str(saved), "--seq-length", "64")
    with pytest.raises(UserError, match="--nsp cannot be changed"):
        parse("--resume", str(saved), "--nsp")


def test_the_same_command_again_resumes_what_it_has_begun(saved, tmp_path_factory):
    given = ("--preset", "tiny", "--steps", "7", "--no-nsp", "--seq-length", "32", "--auto-resume")
    options = parse(*given, "--output", str(saved))
    assert (options.run.resume, options.run.output) == (saved, None) and str(options.text.vocab) == "v.txt"
    other = tmp_path_factory.mktemp("other") / "run"
    options = parse(*given, "--output", str(other))
    assert (options.run.resume, options.run.output) == (None, other)
    options = parse("--repeat", str(saved), "--output", str(saved), "--auto-resume")
    assert (options.run.resume, options.run.repeat) == (saved, None)
    with pytest.raises(UserError, match="--seq-length cannot be changed"):
        parse("--seq-length", "64", "--output", str(saved), "--auto-resume")
    with pytest.raises(UserError, match="--auto-resume is given without --output"):
        parse(*given)


def test_options_that_have_moved_are_taken_from_where_a_run_has_them(saved):
    """Before run.json had a format, options that one framework alone has stood among those of both."""
    description = json.loads((saved / "run.json").read_text())
    options = description["options"]
    del options["mindspore"], options["pytorch"]
    options["training"] |= {"kernels": "stock", "compile": True}
    options["run"]["graph_cache"] = False
    (saved / "run.json").write_text(json.dumps(description))
    options = parse("--resume", str(saved), "--steps", "9")
    assert options.mindspore == MindSporeOptions(kernels="stock", graph_cache=False) and options.pytorch.compile
    assert parse("--resume", str(saved), "--kernels", "fused").mindspore.kernels == "fused"


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"format": 2}, "format 2, which a newer version of ms_bert wrote"),
        ({"format": "1"}, "is damaged"),
        ({"format": 1}, "is damaged"),
        ({"format": 1, "task": "tagging"}, "is a run of tagging, not of pre-training"),
    ],
)
def test_a_run_json_of_another_kind_is_refused(changed, words, saved):
    description = json.loads((saved / "run.json").read_text())
    (saved / "run.json").write_text(json.dumps(description | changed))
    with pytest.raises(UserError, match=words):
        parse("--resume", str(saved))


@pytest.mark.parametrize(
    "framework, other", [(MindSpore, "--compile"), (PyTorch, "--kernels"), (PyTorch, "--graph-cache")]
)
def test_a_framework_offers_no_option_that_only_the_other_has(framework, other, capsys):
    for arguments in (["--help"], [other, "fused"] if other == "--kernels" else [other]):
        with pytest.raises(SystemExit) as stop:
            pretraining.parse(framework, "pretrain", "", arguments)
        assert (stop.value.code == 0) == (arguments == ["--help"])
    assert other not in capsys.readouterr().out


def test_repeat_takes_the_options_of_a_run_as_defaults(saved):
    options = parse("--repeat", str(saved / "run.json"), "--seq-length", "64")
    assert (options.examples.seq_length, options.training.steps, options.run.output) == (64, 7, None)


def test_a_run_of_another_version_is_refused(saved):
    description = json.loads((saved / "run.json").read_text())
    description["options"]["training"]["momentum"] = 1
    (saved / "run.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match="unknown option 'momentum'"):
        parse("--resume", str(saved))
    (saved / "run.json").write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        parse("--resume", str(saved))


def test_what_is_odd_about_a_config_is_told_when_a_run_begins(tmp_path, vocabulary, capsys):
    config = runs.write_config(tmp_path, output_past=True, adapters={})
    options = parse("--config", str(config), "--seq-length", "32")
    assert preparation._config(options, None, vocabulary, Progress()).hidden_size == 32
    assert capsys.readouterr().out.splitlines() == [
        f"{config}: left out of the config, without effect on the results: output_past",
        f"{config}: the config has unknown fields, which were left out: adapters",
    ]


def test_a_run_tells_from_where_on_other_kernels_computed_it():
    class Framework:
        name, words = "MindSpore", "fused kernels (avx512)"

        def versions(self):
            return {}

        def kernels(self, options):
            return self.words

    framework, options = Framework(), Options()
    begun = training._trained_by([], framework, options, 0, ALONE)
    assert training._trained_by(begun, framework, options, 50, ALONE) == begun
    framework.words = "stock kernels"
    entries = training._trained_by(begun, framework, options, 50, ALONE)
    assert [(entry["from_step"], entry["kernels"]) for entry in entries] == [
        (0, "fused kernels (avx512)"),
        (50, "stock kernels"),
    ]
    assert not training._told_of_others(begun) and training._told_of_others(entries) == (
        "until step 50 computed by MindSpore on CPU by fused kernels (avx512), from there on by MindSpore on CPU by "
        "stock kernels: the same run, but not to the last bit"
    )
