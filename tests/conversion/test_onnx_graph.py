"""ONNX: equal to transformers' models, fused by ONNX Runtime, read back to the bit, and safe against wrong files."""

import os

import numpy as np
import onnx
import onnx.reference
import onnxruntime
import pytest
import torch
import transformers

from conversion.formats import onnx_graph
from conversion.formats.onnx_graph import file as onnx_file
from conversion.parameters import OUTPUTS
from conversion.tensors import Tensor, same_bytes
from ms_bert.config import BertConfig
from ms_bert.errors import UserError

# Sizes that differ pairwise, so that no two axes can be taken for each other.
CONFIG = BertConfig(
    vocab_size=61,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=40,
    max_position_embeddings=19,
    type_vocab_size=2,
)
THREE_LABELS = {str(i): f"LABEL_{i}" for i in range(3)}
CHOICES = 4
SIZES = ((2, 7), (5, 19))  # batch and sequence; 19 is all positions
TOLERANCE = 2e-5  # of the largest output


def config_of(architecture: str, **changes) -> BertConfig:
    labelled = architecture in ("BertForSequenceClassification", "BertForTokenClassification")
    return CONFIG.replace(**({"id2label": THREE_LABELS} if labelled else {}), **changes)


def reference(config: BertConfig, architecture: str, **options) -> torch.nn.Module:
    """Transformers' model with every parameter drawn, biases and LayerNorm too."""
    model = getattr(transformers, architecture)(transformers.BertConfig(**config.to_dict()), **options).eval()
    generator = torch.Generator().manual_seed(len(architecture))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if name.endswith("LayerNorm.weight") else 0.0
            parameter.copy_(centre + 0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def weights(model: torch.nn.Module, dtype=np.float32) -> dict[str, Tensor]:
    """The weights by full names, the tied decoder left out."""
    prefix = "bert." if isinstance(model, transformers.BertModel) else ""
    return {
        prefix + name: Tensor.of(value.numpy().astype(dtype))
        for name, value in model.state_dict().items()
        if "decoder" not in name
    }


def feed(architecture: str, batch: int, sequence: int) -> dict[str, np.ndarray]:
    """Odd ids (the first and last of each table among them), both segments, masks with padding left, right, within."""
    shape = (batch, CHOICES, sequence) if architecture == "BertForMultipleChoice" else (batch, sequence)
    rng = np.random.default_rng(sequence)
    ids, segments = rng.integers(0, CONFIG.vocab_size, shape), rng.integers(0, 2, shape)
    ids[..., :2] = 0, CONFIG.vocab_size - 1
    mask = rng.integers(0, 2, shape)
    mask[..., 3] = 1
    mask[0] = 1
    mask[-1, ..., -2:] = 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}


def run(path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs)))


def expected(model: torch.nn.Module, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with torch.no_grad():
        outputs = model(**{name: torch.from_numpy(value) for name, value in inputs.items()})
    return {name: value.numpy() for name, value in outputs.items() if value is not None}


def assert_close(outputs: dict, wanted: dict, tolerance: float = TOLERANCE) -> None:
    assert list(outputs) == list(wanted)
    for name, value in outputs.items():
        assert value.shape == wanted[name].shape, name
        error = np.abs(value.astype(np.float32) - wanted[name]).max() / np.abs(wanted[name]).max()
        assert error <= tolerance, f"{name}: {error}"


@pytest.fixture(scope="module", params=OUTPUTS)
def converted(request, tmp_path_factory):
    """Each architecture: its name, config, transformers' model and ONNX file."""
    architecture = request.param
    config, path = config_of(architecture), tmp_path_factory.mktemp(architecture) / "model.onnx"
    model = reference(config, architecture)
    onnx_graph.write(path, config, architecture, weights(model))
    return architecture, config, model, path


@pytest.fixture(scope="module")
def masked_lm(tmp_path_factory):
    """Weights of a BertForMaskedLM, its file, and the same with external data."""
    folder = tmp_path_factory.mktemp("masked_lm")
    tensors = weights(reference(CONFIG, "BertForMaskedLM"))
    paths = folder / "within.onnx", folder / "beside.onnx"
    for path, external_data in zip(paths, (None, True)):
        onnx_graph.write(path, CONFIG, "BertForMaskedLM", tensors, external_data)
    return tensors, *paths


def test_outputs_are_those_of_transformers_for_any_size(converted):
    architecture, _, model, path = converted
    for size in SIZES:
        inputs = feed(architecture, *size)
        outputs = run(path, inputs)
        assert tuple(outputs) == OUTPUTS[architecture]
        assert_close(outputs, expected(model, inputs))


def test_fused_model_has_each_fusion_and_the_same_outputs(converted, tmp_path, capfd, caplog):
    architecture, config, model, path = converted
    counts = onnx_graph.fuse(path, config, tmp_path / "fused.onnx")
    mlm = architecture in ("BertForMaskedLM", "BertForPreTraining")
    assert counts == {"Attention": 2, "BiasGelu": 2 + mlm, "EmbedLayerNormalization": 1, "SkipLayerNormalization": 4}
    assert capfd.readouterr() == ("", "") and not caplog.records
    for size in SIZES:
        inputs = feed(architecture, *size)
        assert_close(run(tmp_path / "fused.onnx", inputs), expected(model, inputs))
    with pytest.raises(UserError, match="fused by ONNX Runtime"):
        onnx_graph.read(tmp_path / "fused.onnx")


@pytest.mark.parametrize(
    "changes, fused",
    [
        ({"hidden_act": "gelu_new", "layer_norm_eps": 1e-3}, {"FastGelu": 3}),
        ({"hidden_act": "relu", "layer_norm_eps": 0.3}, {}),
        ({"layer_norm_eps": 0.05}, {"BiasGelu": 3}),
    ],
)
def test_activation_and_epsilon_of_the_config(tmp_path, changes, fused):
    config, architecture = CONFIG.replace(**changes), "BertForPreTraining"
    model = reference(config, architecture)
    path, target = tmp_path / "model.onnx", tmp_path / "fused.onnx"
    onnx_graph.write(path, config, architecture, weights(model))
    others = {"Attention": 2, "EmbedLayerNormalization": 1, "SkipLayerNormalization": 4}
    assert onnx_graph.fuse(path, config, target) == others | fused
    inputs = feed(architecture, *SIZES[0])
    for file in (path, target):
        assert_close(run(file, inputs), expected(model, inputs))


def test_model_without_pooler_has_no_pooler_output(tmp_path):
    model = reference(CONFIG, "BertModel", add_pooling_layer=False)
    onnx_graph.write(tmp_path / "model.onnx", CONFIG, "BertModel", weights(model))
    inputs = feed("BertModel", *SIZES[0])
    outputs = run(tmp_path / "model.onnx", inputs)
    assert list(outputs) == ["last_hidden_state"]
    assert_close(outputs, expected(model, inputs))


def test_float16_computes_in_float16(tmp_path):
    architecture, path, target = "BertForPreTraining", tmp_path / "model.onnx", tmp_path / "fused.onnx"
    model = reference(CONFIG, architecture).half()
    tensors = weights(model, np.float16)
    onnx_graph.write(path, CONFIG, architecture, tensors)
    counts = onnx_graph.fuse(path, CONFIG, target)
    assert counts == {"Attention": 2, "BiasGelu": 3, "EmbedLayerNormalization": 1, "SkipLayerNormalization": 4}
    inputs = feed(architecture, *SIZES[0])
    wanted = expected(model.float(), inputs)
    for file in (path, target):
        outputs = run(file, inputs)
        assert {value.dtype for value in outputs.values()} == {np.dtype("float16")}
        assert_close(outputs, wanted, tolerance=4e-3)  # PyTorch's own float16 errs by 1.5e-3
    assert all(same_bytes(value.read(), tensors[name].read()) for name, value in onnx_graph.read(path).items())


def test_mask_does_not_overflow_in_float16(tmp_path):
    model = reference(CONFIG, "BertModel")
    with torch.no_grad():
        for layer in model.encoder.layer:  # all scores are then about -70
            layer.attention.self.query.bias.fill_(5.0)
            layer.attention.self.key.bias.fill_(-5.0)
    onnx_graph.write(tmp_path / "model.onnx", CONFIG, "BertModel", weights(model, np.float16))
    inputs = feed("BertModel", *SIZES[0])
    inputs["attention_mask"][0] = 0  # a row without any token
    # ONNX's own evaluator rounds each result to float16; ONNX Runtime on a CPU keeps the scores in float32.
    evaluator = onnx.reference.ReferenceEvaluator(str(tmp_path / "model.onnx"))
    assert all(np.isfinite(value).all() for value in evaluator.run(None, inputs))


def test_weights_are_read_back_to_the_bit(tmp_path):
    tensors = weights(reference(CONFIG, "BertForPreTraining"))
    odd = np.array([0x80000000, 0x7F800000, 0xFF800000, 0x7FC00001, 0xFFA12345, 0x7F800001], np.uint32)
    for tensor in tensors.values():  # -0.0, both infinities, and NaNs: quiet, signalling, with payloads
        bits = tensor.read().reshape(-1).view(np.uint32)
        bits[: odd.size] = odd[: bits.size]
    for external_data in (False, True):
        onnx_graph.write(tmp_path / "model.onnx", CONFIG, "BertForPreTraining", tensors, external_data)
        found = onnx_graph.read(tmp_path / "model.onnx")
        assert list(found) == list(tensors)
        for name, tensor in tensors.items():
            assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
            assert same_bytes(found[name].read(), tensor.read()), name


def test_external_data_holds_all_weights_at_aligned_offsets(masked_lm):
    tensors, within, beside = masked_lm
    inputs = feed("BertForMaskedLM", *SIZES[0])
    assert_close(run(beside, inputs), run(within, inputs), tolerance=0.0)
    model = onnx.load(beside, load_external_data=False)
    places = [{entry.key: entry.value for entry in tensor.external_data} for tensor in model.graph.initializer]
    assert {place["location"] for place in places} == {"beside.onnx.data"}
    assert all(int(place["offset"]) % 4096 == 0 for place in places)
    assert sum(int(place["length"]) for place in places) == sum(tensor.nbytes for tensor in tensors.values())
    assert not beside.with_name("within.onnx.data").exists()


def test_external_data_can_be_fused(masked_lm, tmp_path):
    _, within, beside = masked_lm
    assert onnx_graph.fuse(beside, CONFIG, tmp_path / "fused.onnx")["Attention"] == 2
    inputs = feed("BertForMaskedLM", *SIZES[0])
    assert_close(run(tmp_path / "fused.onnx", inputs), run(within, inputs))


def test_what_passes_the_limit_of_protobuf_goes_beside(masked_lm, tmp_path, monkeypatch):
    tensors, within, _ = masked_lm
    path = tmp_path / "model.onnx"
    monkeypatch.setattr(onnx_file, "PROTOBUF_LIMIT", within.stat().st_size - 1)
    with pytest.raises(UserError, match="allow external data"):
        onnx_graph.write(path, CONFIG, "BertForMaskedLM", tensors, external_data=False)
    assert not list(tmp_path.iterdir())
    onnx_graph.write(path, CONFIG, "BertForMaskedLM", tensors)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    onnx_graph.fuse(path, CONFIG, tmp_path / "fused.onnx")
    with pytest.raises(UserError, match="at most for ONNX"):
        onnx_graph.read(within)


def test_tied_table_is_there_once(tmp_path):
    config = CONFIG.replace(vocab_size=20000)
    model = reference(config, "BertForMaskedLM")
    path, target = tmp_path / "model.onnx", tmp_path / "fused.onnx"
    tensors = weights(model)
    onnx_graph.write(path, config, "BertForMaskedLM", tensors)
    onnx_graph.fuse(path, config, target)
    values = sum(tensor.nbytes for tensor in tensors.values())
    table = tensors["bert.embeddings.word_embeddings.weight"].nbytes
    for file in (path, target):
        assert values < file.stat().st_size < values + table // 10


def test_file_says_what_it_is(converted):
    architecture, config, _, path = converted
    model = onnx.load(path)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert model.producer_name == "ms_bert.conversion"
    assert properties == {"architecture": architecture, "config": config.to_json()}
    assert (model.ir_version, model.opset_import[0].version) == (8, 17)
    axes = ["batch", "sequence"] if architecture != "BertForMultipleChoice" else ["batch", "choices", "sequence"]
    for value, name in zip(model.graph.input, ("input_ids", "attention_mask", "token_type_ids"), strict=True):
        assert value.name == name and value.type.tensor_type.elem_type == onnx.TensorProto.INT64
        assert [axis.dim_param for axis in value.type.tensor_type.shape.dim] == axes


def test_weights_that_do_not_fit_are_all_named(tmp_path):
    tensors = weights(reference(CONFIG, "BertModel"))
    del tensors["bert.pooler.dense.bias"]
    tensors["bert.embeddings.LayerNorm.bias"] = Tensor.of(np.zeros(23, np.float32))
    tensors["classifier.weight"] = Tensor.of(np.zeros((2, 24), np.float32))
    with pytest.raises(UserError) as raised:
        onnx_graph.write(tmp_path / "model.onnx", CONFIG, "BertModel", tensors)
    for fault in (
        "bert.pooler.dense.bias is missing",
        "bert.embeddings.LayerNorm.bias is (23,) instead of (24,)",
        "classifier.weight is unexpected",
    ):
        assert fault in str(raised.value)


@pytest.mark.parametrize("dtypes", [("bfloat16",), ("float64",), ("float32", "float16"), ()])
def test_other_dtypes_are_refused(tmp_path, dtypes):
    names = ("bert.embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.bias")
    tensors = {name: Tensor.of(np.ones(24, dtype)) for name, dtype in zip(names, dtypes)}
    with pytest.raises(UserError, match="use --dtype float32"):
        onnx_graph.write(tmp_path / "model.onnx", CONFIG, "BertModel", tensors)


def test_unknown_architecture_is_refused(tmp_path):
    with pytest.raises(UserError, match="choose one of BertModel, "):
        onnx_graph.write(tmp_path / "model.onnx", CONFIG, "BertLMHeadModel", {})


def test_damaged_or_foreign_file_is_refused(masked_lm, tmp_path):
    _, within, _ = masked_lm
    content = within.read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "model.onnx"
    foreign = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []), producer_name="pytorch")
    cases = [content[:length] for length in (0, 1, 10, 500, 5000, len(content) // 2, len(content) - 1)]
    cases += [content + b"\x3a\xff", rng.integers(0, 256, 4000, np.uint8).tobytes(), foreign.SerializeToString()]
    for case in cases:
        path.write_bytes(case)
        for use in (onnx_graph.read, lambda file: onnx_graph.fuse(file, CONFIG, tmp_path / "fused.onnx")):
            with pytest.raises(UserError, match="model.onnx: found "):
                use(path)
    for missing in (tmp_path / "nothing.onnx", tmp_path):
        with pytest.raises(UserError, match="name an ONNX model"):
            onnx_graph.read(missing)
    for _ in range(300):  # whatever a changed byte makes of it, it is read or refused
        damaged = bytearray(content)
        damaged[rng.integers(len(content) // 2)] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            [tensor.read() for tensor in onnx_graph.read(path).values()]
        except UserError:
            pass


def edited(path, target, edit) -> None:
    """A copy of a file with its first initializer changed."""
    model = onnx.load(path, load_external_data=False)
    edit(model.graph.initializer[0])
    target.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("dims", [(2**62, 2**62), (-1, 24), (0, 24), (61, 25), (61, 24, 1), (), (2**63 - 1,)], ids=str)
@pytest.mark.parametrize("beside", [False, True], ids=["within", "beside"])
def test_absurd_dimensions_are_refused(masked_lm, dims, beside):
    source = masked_lm[1 + beside]
    path = source.with_name("edited.onnx")
    edited(source, path, lambda tensor: (tensor.ClearField("dims"), tensor.dims.extend(dims)))
    with pytest.raises(UserError, match="edited.onnx: weight .* convert the model to ONNX again"):
        onnx_graph.read(path)


@pytest.mark.parametrize(
    "location",
    ["../secret", "/etc/passwd", "../../etc/passwd", "sub/secret", "link", "folder", "none", "", "..", "a\0b"],
)
def test_external_data_elsewhere_is_not_opened(masked_lm, tmp_path, location):
    folder = tmp_path / "model"
    (folder / "folder").mkdir(parents=True)
    (folder / "sub").mkdir()
    for secret in (tmp_path / "secret", folder / "sub" / "secret"):
        secret.write_bytes(bytes(10**6))
    os.symlink(tmp_path / "secret", folder / "link")

    def relocate(tensor):
        next(entry for entry in tensor.external_data if entry.key == "location").value = location

    (folder / "beside.onnx.data").write_bytes(masked_lm[2].with_name("beside.onnx.data").read_bytes())
    edited(masked_lm[2], folder / "model.onnx", relocate)
    with pytest.raises(UserError, match="model.onnx: weight 'bert.embeddings.word_embeddings.weight' is in "):
        onnx_graph.read(folder / "model.onnx")


@pytest.mark.parametrize("key, value", [("offset", "-4096"), ("offset", "9" * 30), ("length", "1"), ("offset", "x")])
def test_absurd_places_in_external_data_are_refused(masked_lm, key, value):
    path = masked_lm[2].with_name("edited.onnx")

    def move(tensor):
        next(entry for entry in tensor.external_data if entry.key == key).value = value

    edited(masked_lm[2], path, move)
    with pytest.raises(UserError, match="edited.onnx: weight "):
        onnx_graph.read(path)


def test_missing_or_truncated_external_data_is_refused(tmp_path, masked_lm):
    path, data = tmp_path / "beside.onnx", tmp_path / "beside.onnx.data"
    path.write_bytes(masked_lm[2].read_bytes())
    with pytest.raises(UserError, match="cannot be read .No such file"):
        onnx_graph.read(path)
    content = masked_lm[2].with_name(data.name).read_bytes()
    data.write_bytes(content)
    tensors = onnx_graph.read(path)
    data.write_bytes(content[:-1])
    with pytest.raises(UserError, match="truncated"):
        onnx_graph.read(path)
    with pytest.raises(UserError, match="truncated"):  # as well where it shrank since
        [tensor.read() for tensor in tensors.values()]
