"""What a teacher's hidden states become before a model learns from them: which layers, how wide, how long."""

import numpy as np
import pytest

from ms_bert.errors import UserError
from ms_bert.finetuning_options import FinetuningOptions
from ms_bert.tasks.distillation import matched_layers, narrowed, narrowing


@pytest.mark.parametrize(
    "student, teacher, layers",
    [
        (6, 12, (2, 4, 6, 8, 10)),  # as in the paper
        (3, 12, (4, 8)),
        (4, 4, (1, 2, 3)),  # a model that is its own teacher
        (4, 6, (2, 3, 5)),  # 1.5 and 4.5: halves go up, where Python's round would give 2 and 4
        (5, 12, (2, 5, 7, 10)),
        (2, 3, (2,)),
        (1, 12, ()),
    ],
)
def test_the_layers_of_a_student_are_spread_over_those_of_its_teacher(student, teacher, layers):
    assert matched_layers(student, teacher) == layers


@pytest.mark.parametrize("teacher", range(1, 25))
def test_a_student_sees_layers_of_its_teacher_each_once_and_neither_embeddings_nor_the_last(teacher):
    for student in range(2, teacher + 1):
        layers = matched_layers(student, teacher)
        assert len(layers) == student - 1 and list(layers) == sorted(set(layers))
        assert 1 <= layers[0] and layers[-1] < teacher


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def around_a_mean(rng, count: int = 200, width: int = 12) -> np.ndarray:
    """As hidden states are: unevenly spread, far from the origin."""
    return unit(rng.normal(size=(count, width)) * np.geomspace(1, 0.01, width) + rng.normal(size=width))


def lost(vectors: np.ndarray, projection: np.ndarray) -> float:
    return float(np.square(vectors - vectors @ projection @ projection.T).sum())


def test_a_narrowing_is_orthonormal_and_no_other_loses_less():
    rng = np.random.default_rng(1)
    vectors = around_a_mean(rng)
    projection = narrowing(vectors, 4)
    assert projection.shape == (12, 4) and projection.dtype == np.float64
    assert projection.T @ projection == pytest.approx(np.eye(4), abs=1e-12)
    least = lost(vectors, projection)
    for size in (1e-3, 1e-1, 10):
        other = np.linalg.qr(projection + size * rng.normal(size=projection.shape))[0]
        assert least < lost(vectors, other)
    centred = np.linalg.svd(vectors - vectors.mean(0))[2][:4].T
    assert least < lost(vectors, centred)


def test_a_narrowing_of_vectors_that_need_no_more_dimensions_keeps_their_distances():
    rng = np.random.default_rng(2)
    flat = unit(rng.normal(size=(30, 3)) @ np.linalg.qr(rng.normal(size=(9, 3)))[0].T)
    (made,) = np.moveaxis(narrowed(flat[:, None], [narrowing(flat, 3)]), 1, 0)
    assert made.dtype == np.float32 and made.shape == (30, 3)
    assert made @ made.T == pytest.approx(flat @ flat.T, abs=1e-6)


def test_a_narrowing_has_one_sign_and_takes_fewer_vectors_than_dimensions():
    vectors = around_a_mean(np.random.default_rng(3))
    projection = narrowing(vectors, 5)
    assert (projection[np.abs(projection).argmax(0), range(5)] > 0).all()
    assert narrowing(-vectors[::-1], 5) == pytest.approx(projection, abs=1e-6)
    few = narrowing(vectors[:2], 5)
    assert few.T @ few == pytest.approx(np.eye(5), abs=1e-12) and lost(vectors[:2], few) < 1e-10


def test_narrowed_vectors_have_length_1_and_each_layer_its_own_axes():
    vectors = np.stack([around_a_mean(np.random.default_rng(seed)) for seed in (4, 5)], 1)
    projections = [narrowing(vectors[:, layer], 4) for layer in (0, 1)]
    made = narrowed(vectors, projections)
    assert np.linalg.norm(made, axis=-1) == pytest.approx(1, abs=1e-6)
    for layer in (0, 1):
        alone = narrowed(vectors[:, layer : layer + 1], projections[layer : layer + 1])
        assert np.array_equal(made[:, layer], alone[:, 0])
    assert not np.allclose(made[:, 0], narrowed(vectors, projections[::-1])[:, 0])


def test_states_of_no_teacher_are_refused():
    with pytest.raises(UserError, match="--teacher-states is 0.5, but there is no --teacher"):
        FinetuningOptions(teacher_states=0.5)
