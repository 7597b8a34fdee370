"""`conversion.agreement.roundings`: two roundings of one number are the same, and nothing else is."""

import ml_dtypes
import numpy as np
import pytest

from conversion.agreement.roundings import common

KINDS = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
# Numbers of every size that float16 has, its subnormal ones and 0 among them.
NUMBERS = np.concatenate(
    [np.random.default_rng(0).normal(size=4000) * np.exp2(np.arange(4000) % 36 - 26.0), [0.0, 1.0, -2.0]]
).astype(np.float32)


@pytest.mark.parametrize("one", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_what_was_rounded_from_one_tensor_is_the_same(one, other):
    a, b = common(NUMBERS.astype(KINDS[one]), NUMBERS.astype(KINDS[other]))
    assert a.dtype == b.dtype == np.float32 and np.array_equal(a, b)
    if one == other:
        assert np.array_equal(a, NUMBERS.astype(KINDS[one]).astype(np.float32))


@pytest.mark.parametrize("other", ["float16", "bfloat16"])
def test_what_no_rounding_explains_keeps_its_value(other):
    stored = NUMBERS.astype(KINDS[other])
    moved = (stored.astype(np.float64) * (1 + 2.0**-6)).astype(np.float32)
    a, b = common(moved, stored)
    large = np.abs(NUMBERS) > 1e-4  # below, float16 has so few bits that this is within half a step
    assert large.sum() > 1000 and (a != b)[large].all()
    assert np.array_equal(a[large], moved[large]) and np.array_equal(b, stored.astype(np.float32))


def test_two_tensors_of_one_dtype_are_left_alone():
    near = np.nextafter(NUMBERS, np.float32(9))
    a, b = common(NUMBERS, near)
    assert np.array_equal(a, NUMBERS) and np.array_equal(b, near)
