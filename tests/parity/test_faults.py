"""The proof that the agreement suite can fail: whatever is planted, it finds."""

import pytest

from conversion.agreement import faults, suite
from conversion.agreement.findings import worst
from conversion.agreement.in_mindspore import MindSpore


@pytest.fixture(scope="module")
def healthy():
    return MindSpore()


@pytest.mark.parametrize("name", faults.FAULTS)
def test_the_fault_is_caught(name, healthy, small, quiet):
    fault = faults.FAULTS[name]
    found = faults.planted(fault, healthy, *(quiet if fault.quiet else small))
    assert found and worst(found).share > 10, worst(found)


def test_no_fault_is_left_behind_by_those_that_were_planted(healthy, small):
    """What was patched is as it was, in a graph that is compiled anew."""
    for group in ("forward", "step adamw", "schedule"):
        assert all(finding.agrees for finding in suite.findings(MindSpore(), *small, [group]))


def test_there_are_many_faults_and_every_kind_of_check_catches_one():
    assert len(faults.FAULTS) >= 20
    caught = {group for fault in faults.FAULTS.values() for group in fault.groups}
    assert caught == set(suite.CHECKS)
