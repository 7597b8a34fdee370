"""Which cases of a test `make test` runs; the others show the same once more, and are left to `make full`."""

from collections.abc import Iterable

import pytest


def some(cases: Iterable, *kept) -> list:
    """The parameters of a test: those of `kept`, and the others marked as full."""
    cases = list(cases)
    assert set(kept) <= set(cases)
    values = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*value, marks=() if case in kept else pytest.mark.full) for case, value in zip(cases, values)]
