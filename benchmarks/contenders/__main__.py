"""The process of one contender; see `benchmarks.contenders`."""

import json
import re
import sys
import time
from pathlib import Path

from benchmarks.contenders import Work, made


def peak_memory_gb() -> float:
    """The most that was resident of this process; getrusage would count what its parent held before it began."""
    status = Path("/proc/self/status").read_text()
    return round(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024 / 1e9, 2)


def main(name: str, work: str) -> None:
    def tell(seconds: float, **more) -> None:
        print(json.dumps({"seconds": seconds, "peak_memory_gb": peak_memory_gb(), **more}), flush=True)

    once = made(name, Work(**json.loads(work)))
    begun = time.perf_counter()
    loss = once()
    tell(time.perf_counter() - begun, loss=round(loss, 5))
    for line in sys.stdin:
        once()  # brings back to the caches what others have driven out
        begun = time.perf_counter()
        for _ in range(int(line)):
            once()
        tell(time.perf_counter() - begun)


if __name__ == "__main__":
    main(*sys.argv[1:])
