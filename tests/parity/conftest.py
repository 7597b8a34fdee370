"""The problems of the agreement suite and what the oracle computes of them, shared by all its tests."""

import pytest

from conversion.agreement import cases
from conversion.agreement.suite import Reference


@pytest.fixture(scope="session")
def small():
    problem = cases.small_problem()
    return problem, Reference(problem)


@pytest.fixture(scope="session")
def quiet():
    problem = cases.quiet_problem()
    return problem, Reference(problem)
