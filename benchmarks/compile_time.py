"""How long does the first training step compile, with nothing kept and with what an earlier run has kept?

The first step less the fastest of the later ones, each in a process of its own; MindSpore's graphs and torch.compile's
code in a folder that is empty, then in the same folder.
"""

import tempfile

from benchmarks.contenders import Process, Work, spread
from benchmarks.contenders.pretraining import GRAPHS

WORKS = (Work("pretraining", "base", rows=8, tokens=128, slots=20),)
CONTENDERS = ("ms_bert fused", "ms_bert stock", "pt_reference --compile")
REPEATS, LATER = 3, 2


def measure(output):
    for work in WORKS:
        seconds = {name: {"cold": [], "warm": []} for name in CONTENDERS}
        for _ in range(REPEATS):
            for name in CONTENDERS:
                with tempfile.TemporaryDirectory() as folder:
                    for state in ("cold", "warm"):
                        seconds[name][state].append(compiled(name, work, folder))
                        print(work.preset, name, state, round(seconds[name][state][-1], 2), flush=True)
        found = {name: {state: spread(times) for state, times in both.items()} for name, both in seconds.items()}
        yield {"preset": work.preset, "rows": work.rows, "tokens": work.tokens, "compile_seconds": found}


def compiled(name: str, work: Work, folder: str) -> float:
    process = Process(name, work, {GRAPHS: f"{folder}/mindspore", "TORCHINDUCTOR_CACHE_DIR": f"{folder}/torch"})
    try:
        return process.first_seconds - min(process.run(1) for _ in range(LATER))
    finally:
        process.close()
