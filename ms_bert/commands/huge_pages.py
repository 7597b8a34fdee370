"""Memory in pages of 2 MiB instead of 4 KiB for commands that train, by which a step is faster on Linux.

glibc asks the kernel for them where its tunable glibc.malloc.hugetlb says so, which it reads as a process starts.
"""

import os
import platform
import sys
from pathlib import Path

TUNABLES, WITH_HUGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def environment() -> dict[str, str]:
    """The environment variables by which a process gets huge pages; {} where they change nothing.

    That is where the kernel gives them unasked or never, where glibc is older than 2.35, and where GLIBC_TUNABLES is
    set already: it is the user's.
    """
    name, version = platform.libc_ver()
    if TUNABLES in os.environ or name != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, 35):
        return {}
    try:
        given = KERNEL.read_text()
    except OSError:
        return {}
    return {TUNABLES: WITH_HUGE_PAGES} if "[madvise]" in given else {}


def restart_with() -> None:
    """Start the program of this process anew with huge pages, in the same process; return where they change nothing.

    To be called first, for what was imported is imported again.
    """
    if (more := environment()) and sys.gettrace() is None:  # a debugger would lose its program
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **more})
