"""TensorFlow 2's object-based checkpoints of the official models: read by the names of their variables."""

import json

import numpy as np
import pytest

from conversion import checkpoint
from conversion.convert import convert
from conversion.formats import tensorflow_bundle
from conversion.tensors import Tensor, same_bytes
from ms_bert.errors import UserError

from .bert import CONFIG, random_weights

pytestmark = pytest.mark.slow

# Paths and names of variables as tf-models-official 2.20 (official/nlp/modeling) with tf_keras 2.21 writes them, of a
# BertEncoder with two layers: tf.train.Checkpoint(encoder=networks.BertEncoder(...)).
_LAYER = """
    layer_with_weights-{n}/_attention_layer/_query_dense/kernel transformer/layer_{i}/self_attention/query/kernel
    layer_with_weights-{n}/_attention_layer/_query_dense/bias transformer/layer_{i}/self_attention/query/bias
    layer_with_weights-{n}/_attention_layer/_key_dense/kernel transformer/layer_{i}/self_attention/key/kernel
    layer_with_weights-{n}/_attention_layer/_key_dense/bias transformer/layer_{i}/self_attention/key/bias
    layer_with_weights-{n}/_attention_layer/_value_dense/kernel transformer/layer_{i}/self_attention/value/kernel
    layer_with_weights-{n}/_attention_layer/_value_dense/bias transformer/layer_{i}/self_attention/value/bias
    layer_with_weights-{n}/_attention_layer/_output_dense/kernel
        transformer/layer_{i}/self_attention/attention_output/kernel
    layer_with_weights-{n}/_attention_layer/_output_dense/bias
        transformer/layer_{i}/self_attention/attention_output/bias
    layer_with_weights-{n}/_attention_layer_norm/gamma transformer/layer_{i}/self_attention_layer_norm/gamma
    layer_with_weights-{n}/_attention_layer_norm/beta transformer/layer_{i}/self_attention_layer_norm/beta
    layer_with_weights-{n}/_intermediate_dense/kernel transformer/layer_{i}/intermediate/kernel
    layer_with_weights-{n}/_intermediate_dense/bias transformer/layer_{i}/intermediate/bias
    layer_with_weights-{n}/_output_dense/kernel transformer/layer_{i}/output/kernel
    layer_with_weights-{n}/_output_dense/bias transformer/layer_{i}/output/bias
    layer_with_weights-{n}/_output_layer_norm/gamma transformer/layer_{i}/output_layer_norm/gamma
    layer_with_weights-{n}/_output_layer_norm/beta transformer/layer_{i}/output_layer_norm/beta"""
_ENCODER = f"""
    layer_with_weights-0/embeddings word_embeddings/embeddings
    layer_with_weights-1/embeddings position_embedding/embeddings
    layer_with_weights-2/embeddings type_embeddings/embeddings
    layer_with_weights-3/gamma embeddings/layer_norm/gamma
    layer_with_weights-3/beta embeddings/layer_norm/beta
    {_LAYER.format(n=4, i=0)} {_LAYER.format(n=5, i=1)}
    layer_with_weights-6/kernel pooler_transform/kernel
    layer_with_weights-6/bias pooler_transform/bias"""
_MLM = """
    masked_lm/output_bias bert/cls/predictions/output_bias/bias
    masked_lm/dense/kernel bert/cls/predictions/transform/dense/kernel
    masked_lm/dense/bias bert/cls/predictions/transform/dense/bias
    masked_lm/layer_norm/gamma bert/cls/predictions/transform/LayerNorm/gamma
    masked_lm/layer_norm/beta bert/cls/predictions/transform/LayerNorm/beta"""
# BertPretrainerV2 with a ClassificationHead called next_sentence, which has a pooler of its own.
_NEXT_SENTENCE = """
    next_sentence/pooler_dense/kernel bert/next_sentence/pooler_dense/kernel
    next_sentence/pooler_dense/bias bert/next_sentence/pooler_dense/bias
    model/classification_heads/0/out_proj/kernel bert/next_sentence/logits/kernel
    model/classification_heads/0/out_proj/bias bert/next_sentence/logits/bias"""
_CLASSIFIER = """
    model/layer_with_weights-1/out_proj/kernel sentence_prediction/logits/kernel
    model/layer_with_weights-1/out_proj/bias sentence_prediction/logits/bias"""
_LOGITS = """
    model/layer_with_weights-1/kernel predictions/transform/logits/kernel
    model/layer_with_weights-1/bias predictions/transform/logits/bias"""


def pairs(text: str) -> list[tuple[str, str]]:
    words = text.split()
    return list(zip(words[::2], words[1::2]))


@pytest.fixture
def tensorflow(monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    return pytest.importorskip("tensorflow")


def stored(name: str, values: np.ndarray) -> np.ndarray:
    """As tf.keras' layers have it: kernels (in, out), those of the attention with 3 heads of 4 in three dimensions."""
    attention = "self_attention/" in name
    if name.endswith("kernel"):
        turned = np.ascontiguousarray(values.view(np.uint32).T).view(np.float32)
        if attention:
            return turned.reshape((3, 4, 12) if "attention_output" in name else (12, 3, 4))
        return turned
    return values.reshape(3, 4) if attention and "attention_output" not in name else values


def save(tensorflow, prefix, variables: dict[str, tuple[str, np.ndarray]], **items) -> dict:
    """A checkpoint of a graph of objects with these paths to variables of these names; returns the variables."""
    root, inner = tensorflow.train.Checkpoint(**items), {}
    made = {}
    for path, (name, values) in variables.items():
        *above, last = path.split("/")
        at = root
        for i in range(len(above)):
            key = tuple(above[: i + 1])
            if key not in inner:
                inner[key] = tensorflow.train.Checkpoint()
                setattr(at, above[i], inner[key])
            at = inner[key]
        made[name] = tensorflow.Variable(values, name=name)
        setattr(at, last, made[name])
    root.write(str(prefix))
    return made


def model(text: str, weights: dict[str, np.ndarray], prefix: str = "") -> dict[str, tuple[str, np.ndarray]]:
    """Variables with these weights, in the order of Hugging Face."""
    names = pairs(text)
    assert len(names) == len(weights)
    return {
        path: (f"{'' if name.startswith('bert/') else prefix}{name}", stored(name, values))
        for (path, name), values in zip(names, weights.values())
    }


def assert_holds(path, weights: dict[str, np.ndarray], expected: str, **options) -> checkpoint.Checkpoint:
    found = checkpoint.read(path, **options)
    assert (found.architecture, found.spelling.family) == (expected, "tensorflow-2")
    assert list(found.weights) == list(weights)
    assert all(same_bytes(found.weights[name], Tensor.of(values)) for name, values in weights.items())
    return found


@pytest.mark.parametrize("prefix", ["", "bert_encoder_v2_1/"])
def test_an_encoder_is_read(tensorflow, tmp_path, prefix):
    weights = random_weights(architecture="BertModel")
    save(tensorflow, tmp_path / "bert_model.ckpt", model(_ENCODER, weights, prefix))
    (tmp_path / "bert_config.json").write_text(
        json.dumps({k: v for k, v in CONFIG.to_dict().items() if k != "id2label"})
    )
    found = assert_holds(tmp_path, weights, "BertModel")
    told = ["removed the prefix 'bert_encoder_v2_1/' that all names share"] if prefix else []
    assert list(found.notes) == told
    notes = convert(found, tmp_path / "folder").notes
    assert any("the tanh form of GELU" in note for note in notes)


@pytest.mark.parametrize("prefix", ["", "bert_encoder_v2/"])
def test_a_pretrainer_has_its_pooler_beside_that_of_the_encoder(tensorflow, tmp_path, prefix):
    weights = random_weights()
    own = {name: value for name, value in weights.items() if name.startswith(("bert.pooler", "cls.seq"))}
    mlm = {name: value for name, value in weights.items() if name.startswith("cls.predictions")}
    encoder = {name: value for name, value in weights.items() if name.startswith("bert.")}
    unused = {name: np.zeros_like(value) for name, value in encoder.items() if "pooler" in name}
    variables = model(_ENCODER, encoder | unused, prefix) | model(_MLM, mlm) | model(_NEXT_SENTENCE, own)
    save(tensorflow, tmp_path / "ckpt", variables)
    found = assert_holds(tmp_path / "ckpt", weights, "BertForPreTraining")
    left_out = {name for name, why in found.left_out if "a layer of their own" in why}
    assert left_out == {f"{prefix}pooler_transform/kernel", f"{prefix}pooler_transform/bias"}


def heads(text: str, architecture: str):
    weights = random_weights(architecture=architecture)
    if "Question" in architecture:
        weights = {**random_weights(architecture="BertModel"), **{n: v for n, v in weights.items() if "qa" in n}}
    return weights, model(_ENCODER + text, weights)


def test_a_classifier_is_read(tensorflow, tmp_path):
    weights, variables = heads(_CLASSIFIER, "BertForSequenceClassification")
    save(tensorflow, tmp_path / "ckpt", variables)
    assert_holds(tmp_path / "ckpt", weights, "BertForSequenceClassification")


def test_heads_that_are_called_alike_are_told_apart_by_the_user_only(tensorflow, tmp_path):
    weights, variables = heads(_LOGITS, "BertForQuestionAnswering")
    save(tensorflow, tmp_path / "ckpt", variables)
    with pytest.raises(UserError, match="say which with --architecture") as told:
        checkpoint.read(tmp_path / "ckpt")
    assert "BertForQuestionAnswering" in str(told.value) and "\n" not in str(told.value)
    assert_holds(tmp_path / "ckpt", weights, "BertForQuestionAnswering", architecture="BertForQuestionAnswering")
    weights, variables = heads(_LOGITS, "BertForSequenceClassification")  # five labels: no pair of anything
    save(tensorflow, tmp_path / "five", variables)
    assert_holds(tmp_path / "five", weights, "BertForSequenceClassification")


def test_moments_and_steps_come_along(tensorflow, tmp_path):
    """By an optimizer of TensorFlow itself, whose slots tf.keras' optimizers up to 2.10 have as well."""
    weights = random_weights(architecture="BertModel", special=False)
    optimizer = tensorflow.compat.v1.train.AdamOptimizer()
    variables = model(_ENCODER, weights)
    made = save(tensorflow, tmp_path / "unused", variables)
    step = tensorflow.Variable(7, dtype=tensorflow.int64, name="Adam/iter")
    optimizer.apply_gradients([(tensorflow.ones_like(variable) * 3, variable) for variable in made.values()])
    objects = tensorflow.train.Checkpoint(optimizer=optimizer, global_step=step)
    for number, variable in enumerate(made.values()):
        setattr(objects, f"layer_with_weights-{number}", variable)
    objects.write(str(tmp_path / "ckpt"))
    found = checkpoint.read(tmp_path / "ckpt")
    assert found.scalars == {"step": 7, "updates": 7, "loss_scale": 1.0, "good_steps": 0}
    assert len(found.moments) == 2 * len(found.weights)
    for name, moment in found.moments.items():
        assert moment.shape == weights[name[2:]].shape
        np.testing.assert_allclose(moment.read(), 0.3 if name.startswith("m.") else 0.009, rtol=1e-4)


def test_tensors_are_called_as_their_variables(tensorflow, tmp_path):
    """A name that two variables have is not used; the step is what the trainer calls so."""
    one, two = np.ones(1, np.float32), np.full(2, 2, np.float32)
    variables = {
        "model/layer_with_weights-0/kernel": ("a/kernel", one),
        "model/layer_with_weights-1/kernel": ("b/kernel", two),
        "model/metrics/0/total": ("total", one),
        "model/metrics/1/total": ("total", two),
        "global_step": ("Adam/iter", np.int64(5)),
    }
    save(tensorflow, tmp_path / "objects", variables)
    found = {name: tensor.read() for name, tensor in tensorflow_bundle.read(tmp_path / "objects").items()}
    expected = {"a/kernel": one, "b/kernel": two, "global_step": np.int64(5)}
    expected |= {"model/metrics/0/total": one, "model/metrics/1/total": two}
    assert found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in expected)


def test_a_damaged_graph_of_objects_is_told(tensorflow, tmp_path):
    save(tensorflow, tmp_path / "objects", {"a/b": ("name", np.ones(3, np.float32))})
    data = tmp_path / "objects.data-00000-of-00001"
    sound = data.read_bytes()
    at = sound.index(b"VARIABLE_VALUE")
    data.write_bytes(sound[:at] + b"X" + sound[at + 1 :])
    with pytest.raises(UserError, match="object graph, .* does not match its checksum"):
        tensorflow_bundle.read(tmp_path / "objects")
