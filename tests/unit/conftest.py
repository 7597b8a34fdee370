"""What tests of several modules are given."""

import pytest

from ms_bert.kernels import native

COMPUTING = [(precision, name) for precision, names in native.INSTRUCTIONS.items() for name in names]


@pytest.fixture(params=COMPUTING, ids="-".join)
def precision(request):
    """Each type that products multiply, by each instruction set that this processor has for it.

    The widest are in use again afterwards, and all threads.
    """
    precision, instructions = request.param
    if not native.use(instructions, precision):
        pytest.skip(f"this processor has no {instructions}")
    yield precision
    native.set_threads(0)
    next(name for name in native.INSTRUCTIONS[precision] if native.use(name, precision))
