import importlib
import types

import pytest

from benchmarks import runs


@pytest.fixture
def in_this_process(monkeypatch):
    """Has a benchmark's runs of ms_bert computed by PyTorch in this process; the run of some number does not even
    begin, as on a machine that is switched off. The command lines so far, without the interpreter:
    in_this_process(number of that run)."""

    def lines_of(interrupted: int) -> list[list[str]]:
        lines = []

        def run(line):
            lines.append(line[1:])
            if len(lines) == interrupted:
                return types.SimpleNamespace(returncode=137)
            twin = importlib.import_module(line[2].replace("ms_bert.", "pt_reference."))
            return types.SimpleNamespace(returncode=twin.main([*line[3:], "--threads", "1"]))

        monkeypatch.setattr(runs, "subprocess", types.SimpleNamespace(run=run))
        return lines

    return lines_of
