"""The problems of the agreement suite and what the oracle computes of them, shared by all its tests."""

import pytest

from conversion.agreement import cases
from conversion.agreement.suite import Reference
from ms_bert.data import packing


@pytest.fixture(scope="module", autouse=True)
def few_graphs():
    """Packed batches of one shape, so that MindSpore compiles one graph of a run; runs in processes of their own have
    as many as usual."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "SHAPES", 1)
        yield


@pytest.fixture(scope="session")
def small():
    problem = cases.small_problem()
    return problem, Reference(problem)


@pytest.fixture(scope="session")
def quiet():
    problem = cases.quiet_problem()
    return problem, Reference(problem)
