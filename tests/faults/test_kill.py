"""SIGKILL at every single write of a run, one after the other."""

import subprocess
import sys


def test_a_kill_at_any_write_loses_nothing(store, vocabulary, tmp_path):
    (tmp_path / "tokenizer.json").write_text(vocabulary.to_json(), encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "tests.faults.killed_everywhere", store.folder, tmp_path, tmp_path],
        text=True,
        capture_output=True,
        timeout=250,
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 80
