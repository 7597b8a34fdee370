"""What is asked of devices that are not here: of MindSpore's own functions, which are replaced where they need one."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, ops

from ms_bert import collectives, device
from ms_bert.config import BertConfig
from ms_bert.data.packing import ByRows
from ms_bert.errors import UserError
from ms_bert.framework import MindSpore
from ms_bert.kernels import ascend, stock
from ms_bert.training.trainer import _on_host
from tests.unit.test_packing import made


@pytest.fixture
def told(monkeypatch):
    """What MindSpore was told, as if it found every device."""
    calls = []

    def set_deterministic(value):
        calls.append(value)
        if len(calls) > 1:
            raise RuntimeError("The 'mindspore.set_deterministic' can not be set repeatedly.")

    monkeypatch.setattr(ms, "set_device", lambda name: None)
    monkeypatch.setattr(ms, "set_deterministic", set_deterministic)
    return calls


def test_devices_are_told_to_give_the_same_bytes_each_time(told):
    device.use_device("CPU")
    assert not told
    for name in ("Ascend", "GPU", "Ascend"):
        device.use_device(name, "float16")
    assert told == [True] * 3


def test_the_first_ascend_computes_in_float32_only(told, monkeypatch):
    monkeypatch.setattr(device, "_is_first_ascend", lambda: True)
    device.use_device("Ascend")
    for precision in ("float16", "bfloat16"):
        with pytest.raises(UserError, match=f"--precision {precision} needs an Ascend 910B or later"):
            device.use_device("Ascend", precision)


def test_which_ascend_it_is_can_be_asked():
    assert not device._is_first_ascend()


def saturating(x, rate, row_keys, column_keys):
    """Dropout on a device whose products of int32 stay at the largest one."""
    products = row_keys.asnumpy().astype(np.int64) * column_keys.asnumpy()
    kept = np.clip(products, -(2**31), 2**31 - 1) >= stock.dropout_threshold(rate)
    return Tensor(kept * x.asnumpy() / np.float32(1.0 - rate))


def test_dropout_is_tried_on_a_device_before_it_is_trusted(monkeypatch):
    stock.check_dropout("Ascend")
    monkeypatch.setattr(stock, "dropout", saturating)
    with pytest.raises(UserError, match="MindSpore on Ascend drops other units than the CPU.* use --dropout 0"):
        stock.check_dropout("Ascend")


@pytest.mark.parametrize("dtype", [ms.bfloat16, ms.float16, ms.float32])
def test_outputs_of_an_evaluation_are_of_numpys_own_dtypes(dtype):
    found = _on_host(Tensor([1.5, -np.inf, 3e-5], dtype))
    assert found.dtype == (np.float32 if dtype == ms.bfloat16 else ms.dtype_to_nptype(dtype))
    assert (np.where(True, found, -np.inf) - np.float64(1.0))[0] == 0.5


def test_ascends_token_types_are_those_of_a_gather_with_its_gradient():
    rng = np.random.default_rng(0)
    table, numbers = Tensor(rng.normal(size=(2, 5)), ms.float32), Tensor(rng.integers(0, 2, (3, 7)), ms.int32)
    weights = Tensor(rng.normal(size=(21, 5)), ms.float32)

    def gradient(rows):
        def loss(table):
            return (ops.tanh(rows(table, numbers)) * weights).sum()

        return ms.grad(loss)(table).asnumpy()

    assert (ascend.rows_of_few(table, numbers).asnumpy() == stock.rows(table, numbers).asnumpy()).all()
    np.testing.assert_allclose(gradient(ascend.rows_of_few), gradient(stock.rows), rtol=1e-5, atol=1e-6)


def test_workers_wait_for_each_other_on_ascend_too(monkeypatch):
    def init(backend):
        assert backend == "hccl"
        raise RuntimeError('"hccl" wheel was not installed correctly. For details, refer to ...')

    for name in collectives.TIMEOUTS:
        monkeypatch.setenv(name, "600")  # the user's own
    monkeypatch.delenv("MS_CPU_COMM_OP_TIMEOUT")
    monkeypatch.setattr(collectives, "init", init)
    with pytest.raises(UserError, match="need the Python package hccl"):
        collectives.MindSporeWorkers("Ascend")
    assert {name: collectives.os.environ[name] for name in collectives.TIMEOUTS} == {
        "MS_CPU_COMM_OP_TIMEOUT": "1800",
        "HCCL_CONNECT_TIMEOUT": "600",
    }


@pytest.mark.parametrize("per_token", [False, True])
def test_predictions_on_a_device_are_made_of_many_texts_at_once(per_token):
    sequences, found, shapes = made(count=300), {}, {}
    for name in ("CPU", "GPU", "Ascend"):
        shapes[name] = []

        def compute(batch, seen=shapes[name]):
            seen.append(batch["input_ids"].shape)
            values = np.stack([batch["input_ids"], batch["token_type_ids"]], -1).astype(np.float32)
            return values if per_token else values[:, 0]

        found[name] = ByRows(compute, name, head=True).logits(sequences, per_token)
    assert (found["Ascend"] == found["CPU"]).all() and (found["GPU"] == found["CPU"]).all()
    assert all(4096 - tokens < rows * tokens <= 4096 for rows, tokens in shapes["Ascend"] + shapes["GPU"])
    assert len(shapes["Ascend"]) < 10 and len(shapes["CPU"]) > 100


def test_a_model_that_ascends_attention_cannot_take_is_refused_before_it_is_loaded(told):
    found = type("Found", (), {"config": BertConfig(hidden_size=40, num_attention_heads=2)})
    with pytest.raises(UserError, match="multiples of 16, found 20 and 16"):
        MindSpore().compute("BertForTokenClassification", found, "Ascend", "float16", None, (), {})
