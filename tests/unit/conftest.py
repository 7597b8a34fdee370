"""What tests of several modules are given."""

import pytest

from ms_bert.kernels import native

OF_ENCODERS = [(precision, name) for precision, names in native.INSTRUCTIONS.items() for name in names]
OF_KERNELS = [(precision, name) for precision, name in OF_ENCODERS if precision != "int8"]


@pytest.fixture(params=OF_KERNELS, ids="-".join)
def precision(request):
    """Each type that the products of kernels multiply, by each instruction set that this processor has for it.

    The widest are in use again afterwards, and all threads.
    """
    yield from used(*request.param)


@pytest.fixture(params=OF_ENCODERS, ids="-".join)
def encoder_precision(request):
    """The same of encoders."""
    yield from used(*request.param)


def used(precision, instructions):
    if not native.use(instructions, precision):
        pytest.skip(f"this processor has no {instructions}")
    yield precision
    native.set_threads(0)
    next(name for name in native.INSTRUCTIONS[precision] if native.use(name, precision))
