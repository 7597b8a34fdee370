"""Vectors of texts: what each strategy pools, what follows it, and that no vector depends on those beside it."""

import numpy as np
import pytest

from ms_bert.tasks.embedding import ACTIVATIONS, Dense, Normalize, Pooling, cosines, layers_from_the_input

STATES = np.random.default_rng(3).normal(size=(5, 7)).astype(np.float32)  # [CLS], three words, [SEP]


@pytest.mark.parametrize(
    "strategies, expected",
    [
        (("cls",), STATES[0]),
        (("mean",), STATES.mean(0)),
        (("max",), STATES.max(0)),
        (("mean", "max"), np.concatenate([STATES.mean(0), STATES.max(0)])),
        (("lasttoken",), STATES[-1]),
        (("mean_sqrt_len_tokens",), STATES.sum(0) / np.sqrt(5)),
        (("weightedmean",), np.average(STATES, 0, weights=[1, 2, 3, 4, 5])),
        (("tokens",), STATES),
    ],
)
def test_each_strategy_pools_what_its_name_says(strategies, expected):
    found = Pooling(strategies)(STATES)
    assert found.dtype == np.float64 and found == pytest.approx(expected, abs=1e-6)


def test_special_tokens_are_left_out_where_asked_for():
    assert Pooling(("mean",), special_tokens=False)(STATES) == pytest.approx(STATES[1:4].mean(0), abs=1e-6)
    assert Pooling(("tokens",), special_tokens=False)(STATES) == pytest.approx(STATES[1:4])
    others = ("mean_sqrt_len_tokens", "weightedmean", "lasttoken")
    for strategies in (("mean",), ("max",), ("mean", "max"), *((name,) for name in others)):
        of_nothing = Pooling(strategies, special_tokens=False)(STATES[:2])  # of an empty text
        assert not of_nothing.any() and of_nothing.shape == (len(strategies) * STATES.shape[1],)


def test_a_prompt_is_left_out_with_the_cls_before_it():
    assert Pooling(("mean",), skipped=3)(STATES) == pytest.approx(STATES[3:].mean(0), abs=1e-6)
    assert Pooling(("cls",), skipped=3)(STATES) == pytest.approx(STATES[3])
    weights = np.array([4, 5])
    assert Pooling(("weightedmean",), skipped=3)(STATES) == pytest.approx(np.average(STATES[3:], 0, weights))
    assert Pooling(("mean",), skipped=9)(STATES) == pytest.approx(STATES[4])  # a text that was cut before it began


def test_a_normalized_vector_has_length_1_and_zero_stays_zero():
    vectors = Normalize()(np.stack([STATES[0], np.zeros(7)]).astype(np.float64))
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 0])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_dense_layer_is_that_of_torch(name):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    weight, bias, residual = rng.normal(size=(4, 7)), rng.normal(size=4), rng.normal(size=(4, 7))
    x = torch.from_numpy(STATES.astype(np.float64))
    expected = getattr(torch.nn, name)()(
        torch.nn.functional.linear(x, torch.from_numpy(weight), torch.from_numpy(bias))
    )
    dense = Dense(weight, bias, ACTIVATIONS[name])
    assert dense(STATES.astype(np.float64)) == pytest.approx(expected.numpy(), abs=1e-12)
    assert (dense(STATES.astype(np.float64))[2] == dense(STATES[2].astype(np.float64))).all()
    with_residual = Dense(weight, bias, ACTIVATIONS[name], residual)(STATES[0].astype(np.float64))
    assert with_residual == pytest.approx(expected[0].numpy() + residual @ STATES[0], abs=1e-6)


def test_a_cosine_depends_on_its_two_vectors_alone():
    rng = np.random.default_rng(7)
    one, others = rng.normal(size=384).astype(np.float32), rng.normal(size=(50, 384)).astype(np.float32)
    found = cosines(one, others)
    expected = [other @ one / np.linalg.norm(other) / np.linalg.norm(one) for other in others.astype(np.float64)]
    assert found == pytest.approx(expected, abs=1e-7)
    assert [float(cosines(one, other[None])[0]) for other in others] == found.tolist()  # to the last bit
    assert cosines(one, np.zeros((1, 384)))[0] == 0


def test_layers_are_counted_from_both_ends():
    assert layers_from_the_input((-1, -2, 0, 3, -7), 6) == (6, 5, 0, 3, 0)
    for wrong in (7, -8):
        with pytest.raises(ValueError, match=f"{wrong} is not a layer"):
            layers_from_the_input((1, wrong), 6)
