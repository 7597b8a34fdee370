"""Models for inference by the C++ library alone: the numbers of the twins, whatever stands beside, without a framework.

For each instruction set, at sizes that are multiples of nothing.
"""

import subprocess
import sys
import threading

import numpy as np
import pytest

from conversion.parameters import BACKBONE, shapes
from ms_bert.config import BertConfig
from ms_bert.data.packing import INPUTS, ByRows, EvaluationBatches, filled
from ms_bert.data.sequences import Sequences
from ms_bert.kernels import native
from ms_bert.kernels.native.encoder import Encoder
from ms_bert.native_model import MASKED, PARTS, NativeModel, _linear
from tests.unit.bert import random_weights

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(native.why_not() is not None, reason=f"the C++ kernels: {native.why_not()}")

CONFIG = BertConfig(
    vocab_size=97,
    hidden_size=42,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=70,
    max_position_embeddings=320,
    type_vocab_size=2,
    id2label={str(i): str(i) for i in range(5)},
)
TOLERANCES = {"float32": 2e-5, "bfloat16": 2e-2, "int8": 6e-2}  # of the largest number
LENGTHS = (2, 31, 300, 7, 64, 3, 128, 19, 5)  # more tokens than are computed at a time


@pytest.fixture
def precision(encoder_precision):
    return encoder_precision


def weights(architecture, config=CONFIG, pooled=False) -> dict[str, np.ndarray]:
    parts = (*BACKBONE, *PARTS[architecture], *(["pooler"] if pooled else []))
    return random_weights(shapes(config, parts, architecture))


def model(architecture, config=CONFIG, precision="float32", **arguments) -> NativeModel:
    values = weights(architecture, config, arguments.get("pooled", False))
    return NativeModel(architecture, config, values, precision=precision, **arguments)


def exact(architecture, config, values, batch, **arguments) -> np.ndarray:
    """What the PyTorch twin gives in float64."""
    from pt_reference.heads import named
    from pt_reference.model import Numerics

    twin = named(architecture)(config, Numerics("float64"), **arguments).double().eval()
    twin.load_state_dict({name: torch.from_numpy(value).double() for name, value in values.items()})
    fields = [*INPUTS, *([MASKED] if architecture == "BertForMaskedLM" else [])]
    with torch.no_grad():
        found = twin(*(torch.from_numpy(batch[name]) for name in fields))
    return torch.stack(found, -1).numpy() if isinstance(found, tuple) else found.numpy()


def given(lengths=LENGTHS) -> Sequences:
    rng = np.random.default_rng(4)
    starts = np.cumsum([0, *lengths])
    ids = rng.integers(0, CONFIG.vocab_size, starts[-1]).astype(np.int32)
    types = rng.integers(0, 2, starts[-1]).astype(np.int32)
    return Sequences(ids, types, starts, np.zeros(len(lengths), bool))


def batch_of(rows) -> dict[str, np.ndarray]:
    """Sequences of these lengths packed in rows of 32 tokens, with something in the padding that must not matter."""
    numbers = iter(range(sum(map(len, rows))))
    batch = filled(
        given([length for row in rows for length in row]),
        [[next(numbers) for _ in row] for row in rows],
        (len(rows), 32),
        3,
    )
    batch["input_ids"][batch["sequence_ids"] == 0] = 5
    batch["position_ids"] += 7
    return batch


def part(sequences: Sequences, number: int) -> Sequences:
    first, last = sequences.starts[number : number + 2]
    of_sequences = {name: values[number : number + 1] for name, values in sequences.of_sequences.items()}
    one = np.array([0, last - first])
    return Sequences(
        sequences.ids[first:last], sequences.types[first:last], one, np.zeros(1, bool), of_sequences=of_sequences
    )


@pytest.mark.parametrize(
    "architecture, arguments",
    [*((name, {}) for name in PARTS if name != "BertHiddenStates")]
    + [("BertHiddenStates", {"layers": (2, 0)}), ("BertHiddenStates", {"layers": (2,), "pooled": True})],
)
def test_a_batch_gives_what_the_twin_gives_in_float64(architecture, arguments, precision):
    batch = batch_of(((20,), (31, 1), (9, 12, 3), (2,), ()))
    if architecture == "BertForMaskedLM":
        batch[MASKED] = np.array([[1, 19, 4], [0, 31, 31], [5, 20, 9], [1, 0, 0], [0, 0, 0]], np.int32)
    expected = exact(architecture, CONFIG, weights(architecture, pooled="pooled" in arguments), batch, **arguments)
    found = model(architecture, precision=precision, **arguments)(batch)
    expected = expected.reshape(found.shape)
    if architecture == "BertForMaskedLM":
        there = np.arange(15) < 12  # the last row is empty
    elif found.ndim == 3:
        there = batch["sequence_ids"] > 0
    else:
        there = (np.arange(batch["cls_positions"].shape[1]) < batch["sequence_ids"].max(1)[:, None]).reshape(-1)
    assert np.abs(found - expected)[there].max() < TOLERANCES[precision] * np.abs(expected[there]).max()
    assert not found[~there].any()


@pytest.mark.parametrize("activation, causal", [("gelu_new", False), ("relu", True)])
def test_an_activation_and_a_model_from_left_to_right(activation, causal, precision):
    config = CONFIG.replace(hidden_act=activation, is_decoder=causal)
    architecture = "BertForTokenClassification"
    batch = batch_of(((20,), (9, 12, 3)))
    found = model(architecture, config, precision)(batch)
    expected = exact(architecture, config, weights(architecture, config), batch).reshape(found.shape)
    there = batch["sequence_ids"] > 0
    assert np.abs(found - expected)[there].max() < TOLERANCES[precision] * np.abs(expected[there]).max()


@pytest.mark.parametrize(
    "architecture, per_token",
    [
        *(("BertForTokenClassification", True), ("BertForSequenceClassification", False)),
        *(("BertForMaskedLM", False), ("BertHiddenStates", True)),
    ],
)
def test_a_sequence_gives_the_same_bytes_alone_in_any_batch_and_by_any_threads(architecture, per_token, precision):
    sequences = given()
    if architecture == "BertForMaskedLM":
        sequences.of_sequences[MASKED] = np.array([length // 2 for length in LENGTHS], np.int32)
    arguments = {"layers": (1, 2)} if architecture == "BertHiddenStates" else {}
    made = model(architecture, precision=precision, **arguments)
    native.set_threads(1)
    together = made.logits(sequences, per_token)
    for number in range(len(LENGTHS)):
        rows = slice(*sequences.starts[number : number + 2]) if per_token else slice(number, number + 1)
        assert made.logits(part(sequences, number), per_token).tobytes() == together[rows].tobytes()
    for threads in (2, 3):
        native.set_threads(threads)
        assert made.logits(sequences, per_token).tobytes() == together.tobytes()
    if architecture != "BertForMaskedLM":
        packed = EvaluationBatches(sequences, CONFIG.max_position_embeddings)
        for number in range(len(packed)):
            batch = packed(number)
            found = made(batch).reshape(*batch["input_ids" if per_token else "cls_positions"].shape, -1)
            expected = ByRows(made, "CPU", head=True).logits(sequences, per_token)
            assert expected.tobytes() == together.tobytes() and np.isin(found[found != 0], together).all()


def test_tokens_that_are_read_are_those_of_all(precision):
    values = {name.removeprefix("bert."): value for name, value in weights("BertHiddenStates").items()}
    encoder, sequences = Encoder(CONFIG, values, precision), given()
    inputs = sequences.ids, sequences.types, sequences.starts
    (first, last), nothing = encoder(*inputs, layers=[0, 2])
    assert nothing.shape == (0, CONFIG.hidden_size)
    for read in ([], [0], [1, 2, 33, 34, 330], range(len(sequences.ids)), [len(sequences.ids) - 1]):
        states, found = encoder(*inputs, read=read)
        assert states.shape[0] == 0 and found.tobytes() == last[list(read)].tobytes()
        assert encoder(*inputs, layers=[2], read=read)[1].tobytes() == found.tobytes()
    assert encoder(*inputs, layers=[2, 0, 2])[0].tobytes() == np.stack([last, first, last]).tobytes()
    none = np.zeros(0, np.int32)
    assert encoder(none, none, [0], layers=[1])[0].shape == (1, 0, CONFIG.hidden_size)


def test_what_does_not_fit_is_refused_before_memory_is_read():
    values = {name.removeprefix("bert."): value for name, value in weights("BertHiddenStates").items()}
    with pytest.raises(ValueError, match="encoder.layer.1.output.dense.weight is .* the config says"):
        Encoder(CONFIG, {**values, "encoder.layer.1.output.dense.weight": np.zeros((42, 42), np.float32)})
    encoder, ids = Encoder(CONFIG, values), np.zeros(5, np.int32)
    for starts in ([0, 4], [0, 6], [1, 5], [0, 5, 3, 5]):
        with pytest.raises(ValueError, match="do not fit together"):
            encoder(ids, ids, starts)
    for read in ([5], [-1], [2, 2], [3, 1]):
        with pytest.raises(ValueError, match="must ascend"):
            encoder(ids, ids, [0, 5], read=read)
    for layer in (-1, 3):
        with pytest.raises(ValueError, match="was asked of 2"):
            encoder(ids, ids, [0, 5], layers=[layer])
    with pytest.raises(ValueError, match=r"no starts; of no sequences they are \[0\]"):
        encoder(ids[:0], ids[:0], [])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_no_rows_may_be_the_first_that_a_thread_multiplies(precision):
    """A thread's memory is allocated by its first product."""
    x, w, b = np.zeros((0, 7), np.float32), np.ones((3, 7), np.float32), np.ones(3, np.float32)
    found: list[np.ndarray] = []
    thread = threading.Thread(target=lambda: found.append(_linear(x, w, b, precision=precision)))
    thread.start()
    thread.join()
    assert [y.shape for y in found] == [(0, 3)]


def test_texts_are_embedded_where_neither_framework_is_installed():
    lines = (
        "import sys",
        "sys.modules['mindspore'] = sys.modules['torch'] = None",
        "from benchmarks.contenders import minilm",
        "from ms_bert.embed import load",
        "print(load(minilm())(['The file is closed.']).shape)",
    )
    found = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert found.stdout == "(1, 384)\n", found.stderr


def test_a_token_that_is_no_number_spoils_no_other_sequence(precision):
    """The first text has a word whose embedding is infinite."""
    values = {name.removeprefix("bert."): value for name, value in weights("BertHiddenStates").items()}
    table = "embeddings.word_embeddings.weight"
    broken = {**values, table: values[table].copy()}
    broken[table][96] = np.inf
    ids = np.array([1, 96, 2, 3, 4, 5], np.int32)
    inputs = ids, np.zeros_like(ids), np.array([0, 3, 6])
    whole, _ = Encoder(CONFIG, values, precision)(*inputs, layers=[2])
    found, _ = Encoder(CONFIG, broken, precision)(*inputs, layers=[2])
    assert np.isnan(found[0, :3]).all() and found[0, 3:].tobytes() == whole[0, 3:].tobytes()


def test_bytes_hold_rows_with_outliers_and_rows_of_nothing():
    """Of an encoder without layers' weights but one: what its products give in int8 beside float32."""
    config = CONFIG.replace(hidden_size=160, num_attention_heads=2, intermediate_size=300)
    values = {name.removeprefix("bert."): value for name, value in weights("BertHiddenStates", config).items()}
    values["embeddings.LayerNorm.weight"][7] = 40.0  # one large number in each row
    values["encoder.layer.0.intermediate.dense.weight"][:] = 0.0
    sequences = given((9, 130))
    inputs = sequences.ids, sequences.types, sequences.starts
    exact, found = (Encoder(config, values, one)(*inputs, layers=[1, 2])[0] for one in ("float32", "int8"))
    cosine = (exact * found).sum(-1) / np.linalg.norm(exact, axis=-1) / np.linalg.norm(found, axis=-1)
    assert cosine.min() > 0.99 and not (found == exact).all()
