"""Commands that train restart themselves with huge pages where these are to be had, and nowhere else."""

import os
import platform
import subprocess
import sys

import pytest

from ms_bert.commands import huge_pages
from ms_bert.commands.huge_pages import KERNEL, TUNABLES, WITH_HUGE_PAGES

SCRIPT = """
import os, sys
from ms_bert.commands import huge_pages
huge_pages.restart_with()
import numpy as np
array = np.ones(1 << 24)
pages = [line.split()[1] for line in open("/proc/self/smaps_rollup") if line.startswith("AnonHugePages")]
print(os.environ.get("GLIBC_TUNABLES"), sys.argv[1:], int(pages[0]) > 100_000, os.getpid())
"""


@pytest.fixture
def able(monkeypatch, tmp_path):
    """A machine where huge pages are to be had when they are asked for."""
    kernel = tmp_path / "enabled"
    kernel.write_text("always [madvise] never\n")
    monkeypatch.setattr(huge_pages, "KERNEL", kernel)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.35"))
    monkeypatch.delenv(TUNABLES, raising=False)
    return kernel


def test_they_are_asked_for_where_that_gives_them(able):
    assert huge_pages.environment() == {TUNABLES: WITH_HUGE_PAGES}


@pytest.mark.parametrize("given", ["[always] madvise never", "always madvise [never]", None])
def test_a_kernel_that_gives_them_always_or_never_is_not_asked(able, given):
    able.write_text(given) if given else able.unlink()
    assert huge_pages.environment() == {}


@pytest.mark.parametrize("libc", [("glibc", "2.34"), ("", ""), ("libc", "1.2")])
def test_another_library_is_not_asked(able, monkeypatch, libc):
    monkeypatch.setattr(platform, "libc_ver", lambda: libc)
    assert huge_pages.environment() == {}


def test_tunables_of_the_user_stay(able, monkeypatch):
    monkeypatch.setenv(TUNABLES, "")
    assert huge_pages.environment() == {}


def test_a_debugger_keeps_its_program(able, monkeypatch):
    monkeypatch.setattr(sys, "gettrace", lambda: print)
    huge_pages.restart_with()


def available():
    return KERNEL.exists() and "[madvise]" in KERNEL.read_text() and platform.libc_ver()[1] >= "2.35"


@pytest.mark.skipif(not available(), reason="this kernel gives huge pages always or never")
def test_a_restarted_process_is_the_same_with_the_same_arguments_and_has_them():
    environment = {name: value for name, value in os.environ.items() if name != TUNABLES}
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "a b", "--c"], env=environment, stdout=subprocess.PIPE, text=True
    )
    told = child.communicate(timeout=100)[0]
    assert told == f"{WITH_HUGE_PAGES} ['a b', '--c'] True {child.pid}\n"
