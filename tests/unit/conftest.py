"""What tests of several modules are given."""

import pytest

from ms_bert.kernels import native


@pytest.fixture(params=native.INSTRUCTIONS)
def instructions(request):
    """Each instruction set that this processor has; the widest is in use again afterwards, and all threads."""
    if not native.use(request.param):
        pytest.skip(f"this processor has no {request.param}")
    yield request.param
    native.set_threads(0)
    next(filter(native.use, native.INSTRUCTIONS))
