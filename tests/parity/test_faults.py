"""The proof that the agreement suite can fail: whatever is planted, it finds."""

import dataclasses

import pytest

from conversion.agreement import faults, suite
from conversion.agreement.findings import worst
from conversion.agreement.in_mindspore import MindSpore
from ms_bert.kernels import native
from tests.cases import some


@pytest.fixture(scope="module")
def healthy():
    return MindSpore()


@pytest.mark.parametrize("name", some(faults.FAULTS, *list(faults.FAULTS)[::3]))
def test_the_fault_is_caught(name, healthy, small, quiet):
    fault = faults.FAULTS[name]
    found = faults.planted(fault, healthy, *(quiet if fault.quiet else small))
    assert found and worst(found).share > 10, worst(found)


@pytest.mark.skipif(native.why_not("bfloat16") is not None, reason="no products in bfloat16 here")
def test_faults_are_caught_in_bfloat16_too(small):
    """But for one that is smaller than what bfloat16 rounds away."""
    healthy = MindSpore("bfloat16", fused=True)
    names = [name for name, fault in faults.FAULTS.items() if fault.of_numbers]
    missed = [name for name in names if not _share(name, healthy, small) > 3]
    assert len(names) >= 20 and missed == ["one-weight-in-float16"]


def _share(name, contender, problem) -> float:
    found = faults.planted(faults.FAULTS[name], contender, *problem)
    return max(finding.share for finding in found if finding.judged)


def test_a_fault_is_added_from_outside(healthy, small):
    """By another function among the operations, with no other change of what stands: here no tanh in the pooler."""

    def straight(x):
        return 1.0 * x

    fault = faults.Fault("no tanh in the pooler", operations=lambda right: dataclasses.replace(right, tanh=straight))
    found = faults.planted(fault, healthy, *small)
    assert worst(found).share > 10 and not any("layer" in finding.name for finding in found if not finding.agrees)


def test_there_are_many_faults_and_every_kind_of_check_catches_one():
    assert len(faults.FAULTS) >= 20
    caught = {group for fault in faults.FAULTS.values() for group in fault.groups}
    assert caught == set(suite.CHECKS)
