"""A result says what it was measured on: which generation of processor, which versions, which commit."""

import json
import platform
from pathlib import Path

import pytest

from benchmarks import machine
from conversion.agreement.environment import Processor, environment

ZEN_5 = """processor	: 0
vendor_id	: AuthenticAMD
cpu family	: 26
model		: 2
model name	: AMD EPYC
stepping	: 1
flags		: fpu sse2 sse4_2 fma avx avx2 avx512f avx512_vnni amx_tile hypervisor

processor	: 1
vendor_id	: AuthenticAMD
cpu family	: 99
model name	: another
"""
GRACE = """processor	: 0
BogoMIPS	: 2000.00
Features	: fp asimd aes sve2 sha3
CPU implementer	: 0x41
CPU architecture: 8
"""


@pytest.mark.parametrize(
    "text, family, model, stepping, name, instructions",
    [
        (ZEN_5, 26, 2, 1, "AMD EPYC", ("sse4_2", "avx", "fma", "avx2", "avx512f", "avx512_vnni", "amx_tile")),
        (GRACE, None, None, None, platform.machine(), ("asimd", "sve2")),
        ("cpu : POWER9\nmodel : IBM pSeries\n", None, None, None, platform.machine(), ()),
        (None, None, None, None, platform.machine(), ()),
    ],
    ids=["x86-64", "ARM", "POWER", "no cpuinfo"],
)
def test_a_processor_is_told_from_others_of_its_name(text, family, model, stepping, name, instructions, tmp_path):
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    found = Processor.here(tmp_path / "cpuinfo")
    assert found == Processor(name, family, model, stepping, instructions)
    assert name in str(found) and all(one in str(found) for one in instructions)
    assert ("family 26, model 2, stepping 1" in str(found)) == (family == 26)


def test_a_result_and_a_report_name_this_machines_processor():
    here, described = Processor.here(), machine.describe()["machine"]
    assert (described["cpu"], described["cpu_family"], described["cpu_model"]) == (here.name, here.family, here.model)
    assert json.loads(json.dumps(described))["cpu_instructions"] == list(here.instructions)
    assert environment("CPU")["processor"] == str(here)
    if Path("/proc/cpuinfo").exists() and platform.machine() == "x86_64":
        assert here.family and "sse4_2" in here.instructions


def test_a_machine_without_git_or_a_package_is_described(monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    monkeypatch.setattr(machine, "PACKAGES", ("numpy", "no-such-package"))
    described = machine.describe()
    assert described["commit"] is None and described["versions"]["no-such-package"] is None
