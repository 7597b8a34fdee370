"""A model begins from any checkpoint: what is missing is initialised and named, and nothing is taken by halves."""

import json
import logging

import numpy as np
import pytest

from conversion import checkpoint, pretrained
from conversion.convert import convert
from conversion.parameters import ARCHITECTURES, BACKBONE, shapes
from conversion.targets import TARGETS
from ms_bert.errors import UserError
from ms_bert.randomness import initial_weights

from .bert import CONFIG, random_weights, write_folder

torch = pytest.importorskip("torch")

PRETRAINING = shapes(CONFIG, (*BACKBONE, *ARCHITECTURES["BertForPreTraining"].parts))


def plain(architecture="BertForPreTraining", **changes):
    return random_weights(architecture=architecture, special=False, **changes)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


@pytest.fixture(scope="module")
def weights():
    return plain()


@pytest.fixture(scope="module")
def folder(weights, tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("source") / "folder", weights)


READ_AGAIN = [kind for kind in TARGETS if kind not in ("onnx", "mindir")]


@pytest.mark.parametrize("kind", READ_AGAIN)
def test_weights_come_from_every_format_that_is_written(kind, weights, folder, tmp_path):
    ending = (*TARGETS[kind].endings, "")[0]
    target = tmp_path / "place" / f"model{ending}"
    convert(checkpoint.read(folder), target, kind)
    fit = pretrained.read(target).fit(PRETRAINING, "BertForPreTraining")
    assert fit.told() is None
    assert_same(fit.values(seed=1), weights)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("old_names", [True, False])
def test_weights_come_from_pytorch_files_of_any_age(zipped, old_names, weights, tmp_path):
    def named(name):
        old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        return next((name.replace(a, b) for a, b in old.items() if old_names and name.endswith(a)), name)

    home = write_folder(tmp_path / "home", weights)
    (home / "model.safetensors").unlink()
    state = {named(name): torch.from_numpy(value) for name, value in weights.items()}
    state["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"]
    torch.save(state, home / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    for place in (home, home / "pytorch_model.bin"):  # a bare file has its config beside it
        assert_same(pretrained.read(place).fit(PRETRAINING, "BertForPreTraining").values(seed=1), weights)


@pytest.mark.parametrize(
    "architecture, told",
    [
        ("BertModel", "initialised at random, because the checkpoint lacks them: mlm, nsp"),
        ("BertForMaskedLM", "initialised at random, because the checkpoint lacks them: pooler, nsp"),
        (
            "BertForSequenceClassification",
            "initialised at random, because the checkpoint lacks them: mlm, nsp; not used: classifier",
        ),
        (
            "BertForQuestionAnswering",
            "initialised at random, because the checkpoint lacks them: pooler, mlm, nsp; not used: qa",
        ),
    ],
)
def test_heads_that_are_missing_are_drawn_as_a_new_model_has_them_and_named(architecture, told, tmp_path):
    given = {
        name: value
        for name, value in plain(architecture).items()
        if not name.startswith("bert.pooler") or "pooler" in ARCHITECTURES[architecture].parts
    }
    fit = pretrained.read(write_folder(tmp_path / "source", given, architecture=architecture)).fit(PRETRAINING)
    assert fit.told() == told
    for name, value in fit.values(seed=7).items():
        drawn = initial_weights(name, value.shape, CONFIG.initializer_range, 7, truncated=False)
        assert np.array_equal(value, given.get(name, drawn)), name
        assert value.dtype == np.float32


def test_heads_of_no_class_together_are_no_hindrance(weights, tmp_path):
    both = {**weights, **{name: v for name, v in plain("BertForQuestionAnswering").items() if "qa" in name}}
    fit = pretrained.read(write_folder(tmp_path / "source", both)).fit(PRETRAINING)
    assert fit.told() is None and fit.unused == ("qa",)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_weights_of_another_dtype_become_float32(dtype, tmp_path):
    given = plain(dtype=dtype)
    values = pretrained.read(write_folder(tmp_path / "source", given)).fit(PRETRAINING).values(seed=1)
    assert all(np.array_equal(values[name], given[name].astype(np.float32)) for name in given)


@pytest.mark.parametrize("prefix", ["bert.", "", "encoder.", "towers.text.bert."])
def test_a_model_of_ones_own_may_hold_its_bert_under_any_name(prefix, weights, folder):
    wanted = {
        f"{prefix}{name.removeprefix('bert.')}": value for name, value in weights.items() if name.startswith("bert.")
    }
    wanted |= {"my_head.weight": np.zeros((3, 12)), "my_head.bias": np.zeros(3)}
    fit = pretrained.read(folder).fit({name: value.shape for name, value in wanted.items()}, "MyModel")
    assert fit.drawn == ("my_head.weight", "my_head.bias") and fit.unused == ("mlm", "nsp")
    values = fit.values(seed=1)
    assert all(np.array_equal(values[name], wanted[name]) for name in wanted if "my_head" not in name)


@pytest.mark.parametrize("count", [0, 2])
def test_a_model_without_one_bert_is_refused(count, folder):
    names = [f"{i}.embeddings.word_embeddings.weight" for i in range(count)]
    with pytest.raises(UserError, match=f"holds {count} BertModels"):
        pretrained.read(folder).fit(dict.fromkeys(names, (61, 12)))


def test_a_classifier_of_another_task_or_with_other_labels_is_drawn_anew(tmp_path):
    given = plain("BertForSequenceClassification")
    folder = write_folder(tmp_path / "source", given, architecture="BertForSequenceClassification")
    wanted = shapes(CONFIG, (*BACKBONE, "pooler", "classifier"))
    assert pretrained.read(folder).fit(wanted, "BertForSequenceClassification").drawn == ()
    assert pretrained.read(folder).fit(wanted, "OfMyOwn").drawn == ()
    other = pretrained.read(folder).fit(wanted, "BertForTokenClassification")
    assert (other.drawn, other.unused) == (("classifier",), ("classifier",))
    found = pretrained.read(folder, num_labels=3)
    assert found.config.num_labels == 3 and list(found.config.id2label.values()) == ["LABEL_0", "LABEL_1", "LABEL_2"]
    fit = found.fit(shapes(found.config, (*BACKBONE, "pooler", "classifier")), "BertForSequenceClassification")
    assert fit.drawn == ("classifier",) and fit.values(seed=1)["classifier.weight"].shape == (3, 12)
    assert pretrained.read(folder, num_labels=5).config == pretrained.read(folder).config


def test_another_shape_than_the_models_is_told_in_a_sentence(folder):
    other = CONFIG.replace(hidden_size=15, num_attention_heads=5)
    with pytest.raises(UserError) as told:
        pretrained.read(folder).fit(shapes(other, (*BACKBONE, "pooler")))
    assert "bert.embeddings.word_embeddings.weight is (61, 12) instead of (61, 15)" in str(told.value)
    assert "more; use the config that belongs to it" in str(told.value) and len(str(told.value)) < 500


def test_a_model_of_some_layers_has_their_weights_in_their_order_and_all_else(tmp_path):
    config = CONFIG.replace(num_hidden_layers=12)
    given = random_weights(config, special=False)
    made = pretrained.read(write_folder(tmp_path / "source", given, config)).with_layers([1, 4, 11])
    assert made.config.num_hidden_layers == made.checkpoint.config.num_hidden_layers == 3
    fit = made.fit(shapes(made.config, (*BACKBONE, *ARCHITECTURES["BertForPreTraining"].parts)), "BertForPreTraining")
    assert fit.told() is None and not fit.unused
    kept = {"0": "1", "1": "4", "2": "11"}
    for name, value in fit.values(seed=1).items():
        layer, dot, rest = name.removeprefix("bert.encoder.layer.").partition(".")
        was = f"bert.encoder.layer.{kept[layer]}.{rest}" if name.startswith("bert.encoder.layer.") else name
        assert np.array_equal(value, given[was]), name


@pytest.mark.parametrize("lost", ["bert.encoder.layer.1.output.dense.bias", "cls.predictions.bias"])
def test_half_a_part_is_refused(lost, weights, tmp_path):
    half = {name: value for name, value in weights.items() if name != lost}
    with pytest.raises(checkpoint.NotWhole, match=f"missing +{lost}"):
        pretrained.read(write_folder(tmp_path / "source", half))


def test_a_checkpoint_of_hundreds_of_faults_is_refused_in_a_few_lines(tmp_path):
    strange = {f"strange.{i}.weight": np.zeros(3, np.float32) for i in range(300)}
    only = {"bert.embeddings.word_embeddings.weight": np.zeros((61, 12), np.float32)}
    with pytest.raises(checkpoint.NotWhole) as told:
        pretrained.read(write_folder(tmp_path / "source", only | strange))
    assert len(str(told.value)) < 1500 and len(str(told.value).splitlines()) <= 4
    assert "conversion inspect" in str(told.value) and len(told.value.faults) > 300


def test_a_config_is_needed_and_can_be_named(folder, weights, tmp_path):
    bare = tmp_path / "bare" / "model.safetensors"
    bare.parent.mkdir()
    bare.write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match="no config was found beside"):
        pretrained.read(bare)
    assert_same(pretrained.read(bare, config=folder).fit(PRETRAINING).values(seed=1), weights)


@pytest.mark.parametrize("num_labels", [0, -1])
def test_labels_are_positive(num_labels, folder):
    with pytest.raises(UserError, match="num_labels is"):
        pretrained.read(folder, num_labels=num_labels)


def in_torch():
    from pt_reference import heads, model
    from pt_reference.pretrained import load

    return load, model, heads, lambda made: {name: p.detach().numpy() for name, p in made.named_parameters()}


def in_mindspore():
    from ms_bert import heads, model
    from ms_bert.device import use_device
    from ms_bert.pretrained import load

    use_device("CPU")
    return load, model, heads, lambda made: {p.name: p.asnumpy() for p in made.get_parameters()}


@pytest.mark.parametrize("framework", [in_torch, in_mindspore])
def test_both_frameworks_load_any_head_from_a_pretrained_checkpoint(framework, folder, weights, caplog):
    load, model, heads, values = framework()
    with caplog.at_level(logging.WARNING):
        assert_same(values(load(model.BertForPreTraining, folder)), weights)
        encoder = values(load(model.BertModel, str(folder)))
    assert not caplog.records
    assert_same(encoder, {n.removeprefix("bert."): v for n, v in weights.items() if n.startswith("bert.")})
    kinds = {
        heads.BertForSequenceClassification: {"num_labels": 3},
        heads.BertForTokenClassification: {"num_labels": 4},
        heads.BertForQuestionAnswering: {},
        heads.BertForMultipleChoice: {"choices": 2},
    }
    for kind, arguments in kinds.items():
        caplog.clear()
        made = values(load(kind, folder, **arguments))
        (record,) = caplog.records
        assert "initialised at random" in record.getMessage() and "not used: " in record.getMessage()
        head = [name for name in made if not name.startswith("bert.")]
        assert len(head) == 2 and made[head[0]].shape[0] == arguments.get("num_labels", made[head[0]].shape[0])
        below = {name: value for name, value in made.items() if name.startswith("bert.")}
        assert_same(below, {name: weights[name] for name in below})


@pytest.mark.parametrize("framework", [in_torch, in_mindspore])
def test_a_classifier_of_another_name_and_one_model_of_several_are_loaded(framework, tmp_path, caplog):
    load, _, heads, values = framework()
    given = plain("BertForSequenceClassification")
    odd = {f"student.{name.replace('classifier', 'fc')}": value for name, value in given.items()}
    odd |= {f"teacher.{name}": -value for name, value in given.items()}
    folder = write_folder(tmp_path / "source", odd, architecture="BertForSequenceClassification")
    kind = heads.BertForSequenceClassification
    assert_same(values(load(kind, folder, prefix="student.", rename={"fc": "classifier"})), given)
    assert not caplog.records
    with pytest.raises(UserError, match="--prefix"):
        load(kind, folder)
    with pytest.raises(checkpoint.NotWhole, match="--rename"):
        load(kind, folder, prefix="student.")


def test_both_frameworks_draw_the_same(folder, caplog):
    drawn = []
    for framework in (in_torch, in_mindspore):
        load, _, heads, values = framework()
        drawn.append(values(load(heads.BertForSequenceClassification, folder, num_labels=3, seed=5)))
    assert_same(*drawn)


@pytest.mark.parametrize("saved", [True, False])
def test_an_mlm_head_with_a_matrix_of_its_own_is_left_out_where_no_such_head_is_needed(saved, tmp_path):
    weights = random_weights(special=False)
    own = {"cls.predictions.decoder.weight": weights["bert.embeddings.word_embeddings.weight"] + 1} if saved else {}
    folder = write_folder(tmp_path / "model", {**weights, **own})
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, "tie_word_embeddings": False}))
    found = pretrained.read(folder)
    assert {"mlm", "nsp"} & set(found.checkpoint.parts) == {"nsp"}
    assert ("mlm", "it has a matrix of its own, not the word embeddings") in found.checkpoint.left_out
    with pytest.raises(UserError, match=r"cls.predictions.decoder.weight: .* \(see --drop mlm\)"):
        checkpoint.read(folder)
