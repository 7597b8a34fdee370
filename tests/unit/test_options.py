"""Every option is of its type and within finite bounds, on the command line and in run.json, or it is a sentence."""

import dataclasses
import json
import math
import typing

import numpy as np
import pytest

from ms_bert import fields
from ms_bert.commands import pretraining
from ms_bert.errors import UserError
from ms_bert.framework import MindSpore
from ms_bert.options import Options, TextOptions, TrainingOptions
from ms_bert.randomness import ORDER, PAIRS, generator, permuted
from ms_bert.run.recipe import learning_rate

GROUPS = {group.name: group.default_factory for group in dataclasses.fields(Options)}
NUMBERS = [
    (group, field.name, fields.hints(kind)[field.name])
    for group, kind in GROUPS.items()
    for field in dataclasses.fields(kind)
    if fields._kinds(fields.hints(kind)[field.name]) & {int, float}
]
EXTREMES = [
    *(math.inf, -math.inf, math.nan, -1, -1.0, -0.0, 0, 0.0, 1, 1e-320, 5e-324, 1e308, 1.7e308),
    *(2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**20, 10**400, -(2**63)),
]
STRANGE = [None, True, False, "", "12", "nan", "\ud800", [], [1], {}, {"a": 1}, [[[]]], "\0"]


def defaults() -> dict:
    return json.loads(json.dumps(Options().to_dict()))


def bounds(hint) -> fields.Range:
    return typing.get_args(hint)[1]


def test_every_number_has_finite_bounds():
    assert len(NUMBERS) >= 28
    for group, name, hint in NUMBERS:
        assert isinstance(bounds(hint), fields.Range), f"{group}.{name}"
        assert math.isfinite(bounds(hint).least) and math.isfinite(bounds(hint).most)


@pytest.mark.parametrize("group, name, hint", NUMBERS, ids=[name for _, name, _ in NUMBERS])
def test_an_extreme_number_is_taken_within_the_bounds_and_is_a_sentence_beyond(group, name, hint):
    for value in EXTREMES:
        groups = defaults()
        groups[group][name] = value
        if name == "cooldown_steps":
            groups[group]["schedule"] = "wsd"  # or it would have no effect
        within = not isinstance(value, bool) and value in bounds(hint)
        whole = int not in fields._kinds(hint) or isinstance(value, int) or (math.isfinite(value) and value % 1 == 0)
        try:
            made = Options.from_dict(groups, "run.json")
        except UserError as error:
            assert str(error).startswith("run.json: --") and len(str(error)) < 300
            told_apart = name in ("batch_size", "accumulate", "max_predictions", "seq_length")  # see the next test
            assert not (within and whole) or told_apart, f"{name} {value}: {error}"
        else:
            assert within and whole, f"{name} {value}"
            taken = getattr(getattr(made, group), name)
            assert taken in (value, float(value)) and isinstance(taken, tuple(fields._kinds(hint)))
            assert json.loads(json.dumps(made.to_dict(), allow_nan=False)) == made.to_dict()


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"training": {"batch_size": 2**20}, "examples": {"seq_length": 512}}, "is 536870912 tokens"),
        ({"training": {"batch_size": 32, "accumulate": 5}}, "cannot be divided"),
        ({"examples": {"seq_length": 64, "max_predictions": 62}}, "the sequence length minus 3"),
        ({"examples": {"phases": ("16x4x9",), "max_predictions": 14}}, "from 1 to 13, the shortest sequence length"),
        ({"examples": {"phases": ("128x256",)}}, "SEQ_LENGTHxBATCH_SIZExSTEPS"),
        ({"examples": {"phases": ("128x256x9x9",)}}, "SEQ_LENGTHxBATCH_SIZExSTEPS"),
        ({"examples": {"phases": ("128x-2x9",)}}, "SEQ_LENGTHxBATCH_SIZExSTEPS"),
        ({"examples": {"phases": ("4x32x9",)}}, "seq_length is 4; choose a whole number from 8 to 65536"),
        ({"examples": {"phases": ("128x32x0",)}}, "steps is 0; choose a whole number from 1"),
        ({"examples": {"phases": ("128x32x2000", "64x32x2000")}}, "--phases takes 4000 steps, but --steps is 4000"),
        ({"examples": {"phases": ("65536x2048x9",)}}, "134217728 tokens"),
        ({"examples": {"phases": ("128x33x9",)}, "training": {"accumulate": 2}}, "--phases 128x33x9 cannot be divided"),
        (
            {"training": {"cooldown_steps": 9}},
            "--cooldown-steps is 9, but --schedule is linear; leave --cooldown-steps out, or give --schedule wsd",
        ),
        ({"training": {"schedule": "constant", "decay_steps": 9}}, "--decay-steps is 9, but --schedule is constant"),
        ({"training": {"schedule": "constant", "decay_power": 2.0}}, "--decay-power is 2.0, but --schedule is"),
    ],
)
def test_options_that_do_not_go_together_are_a_sentence(changes, words):
    with pytest.raises(UserError, match="run.json: --") as caught:
        Options.from_dict(changes, "run.json")
    assert words in str(caught.value)


@pytest.mark.parametrize("kind", GROUPS.values(), ids=GROUPS)
def test_what_is_of_another_type_is_a_sentence(kind):
    """Or it fits: null where there may be nothing, a text for a text or a path."""
    group = next(name for name, other in GROUPS.items() if other is kind)
    for name, hint in fields.hints(kind).items():
        for value in [*STRANGE, 0.5]:
            groups = defaults()
            groups[group][name] = value
            try:
                made = Options.from_dict(groups, "run.json")
            except UserError as error:
                assert str(error).startswith("run.json: --") and "\0" not in str(error)
                str(error).encode()
            else:
                assert fields.fits(getattr(getattr(made, group), name), hint)


@pytest.mark.parametrize(
    "groups, words",
    [
        ([], "found [] where options were expected"),
        ({"text": None}, "found null where options were expected"),
        ({"text": [1]}, "found [1] where options were expected"),
        ({"x\x1b": {}}, "unknown option 'x\\x1b'"),
        ({"run": {"x" * 10_000: 1}}, "unknown option 'xxx"),
        ({"training": {"precision": "float8"}}, "--precision is 'float8'; choose float32 or float16 or"),
        ({"text": {"corpus": "builtin"}}, "--corpus is 'builtin'; choose a list of texts"),
        ({"text": {"corpus": [3]}}, "--corpus is [3]"),
        ({"training": {"steps": "100"}}, "--steps is '100'; choose a whole number from 1 to 1000000000"),
        ({"mindspore": {"graph_cache": 1}}, "--graph-cache is 1; choose true or false"),
    ],
)
def test_damage_to_saved_options_is_a_sentence(groups, words):
    with pytest.raises(UserError, match="^run.json: ") as caught:
        Options.from_dict(groups, "run.json")
    assert words in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--corpus", ""), "--corpus names nothing"),
        (("--corpus", "a.txt", ""), "--corpus names nothing"),
        (("--held-out", "1e-320"), "--held-out is 1e-320; choose a number from 1e-09 to 0.5, or 0"),
        (("--seed", str(10**20)), "--seed is 100000000000000000000"),
        (("--processes", "257"), "--processes is 257; choose a whole number from 1 to 256"),
        (("--steps", str(2**31)), "--steps is 2147483648"),
        (("--epsilon", "inf"), "--epsilon is inf"),
        (("--decay-power", "nan"), "--decay-power is nan"),
        (("--loss-scale", "1e400"), "--loss-scale is inf"),
        (("--output", "caf\udce9"), "--output is 'caf\\udce9'; choose a path in UTF-8"),
        (("--corpus", "caf\udce9.txt"), "choose a list of texts in UTF-8"),
        (("--text-field", "\udcff"), "--text-field is '\\udcff'"),
    ],
)
def test_the_command_line_takes_no_value_that_nothing_can_be_made_of(arguments, words):
    with pytest.raises(UserError) as caught:
        pretraining.parse(MindSpore, "pretrain", "", arguments)
    assert words in str(caught.value)
    str(caught.value).encode()


def test_a_number_beyond_pythons_own_limit_of_digits_is_a_sentence(capsys):
    with pytest.raises(SystemExit) as stop:
        pretraining.parse(MindSpore, "pretrain", "", ("--seed", "9" * 5000))
    assert stop.value.code == 2 and "Traceback" not in capsys.readouterr().err


def test_a_cache_of_the_environment_that_is_no_utf8_is_a_sentence(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/tmp/caf\udce9")
    with pytest.raises(UserError, match="--cache is"):
        TextOptions()


def test_a_machine_of_a_thousand_processors_has_a_default_within_the_bounds(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(1000)))
    assert TextOptions().processes == 256


def test_whole_numbers_of_a_file_are_taken_for_floats():
    options = Options.from_dict({"training": {"weight_decay": 0, "steps": 7.0}}, "run.json")
    assert isinstance(options.training.weight_decay, float) and options.training.steps == 7


def ends(group: str, name: str) -> tuple:
    hint = fields.hints(GROUPS[group])[name]
    return bounds(hint).least, bounds(hint).most


def test_the_learning_rate_is_finite_at_the_ends_of_all_bounds():
    most = ends("training", "steps")[1]
    for rate in ends("training", "learning_rate"):
        for power in ends("training", "decay_power"):
            for warmup in ends("training", "warmup_steps"):
                schedule = "wsd" if power > 1 else "linear"
                options = TrainingOptions(
                    steps=most, learning_rate=rate, decay_power=power, warmup_steps=warmup, schedule=schedule
                )
                for step in (1, 2, most // 2, most - 1, most, most + 1):
                    assert 0 <= learning_rate(options, step) <= rate * 1.0001


def test_the_ends_of_the_bounds_stay_numbers_in_float32():
    for name in ("beta1", "beta2"):
        assert np.float32(ends("training", name)[1]) < 1
    for name in ("epsilon", "clip_norm", "learning_rate", "loss_scale", "decay_power"):
        for end in np.float32(ends("training", name)):
            assert np.isfinite(end) and end > np.finfo(np.float32).tiny
    assert np.float32(1) / (1 - np.float32(ends("model", "dropout")[1])) < 1e4


def test_seeds_and_steps_at_the_ends_of_the_bounds_draw_numbers():
    seed, last = ends("training", "seed")[1], ends("training", "steps")[1]
    assert (
        generator(seed, PAIRS, last, 1023).random(2).tolist()
        != generator(seed - 1, PAIRS, last, 1023).random(2).tolist()
    )
    rows, pack = ends("training", "batch_size")[1], ends("examples", "pack")[1]
    assert (last * pack + pack) * rows + rows < 2**63  # what BatchMaker counts examples by
    assert permuted(np.array([5]), 100, seed, ORDER, np.array([2**40])) < 100
