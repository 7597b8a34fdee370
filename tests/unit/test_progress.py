"""What is shown: everything the README promises, live on a terminal and as lines in a file."""

import io
import sys

from ms_bert.run.loop import StepResult
from ms_bert.run.progress import Progress
from ms_bert.tasks.pretraining import PreTraining

RESULT = StepResult(dict(zip(PreTraining.sums, (50.0, 2.0, 10.0, 2.0, 3.0, 4.0))), gradient_norm=1.0)
EVALUATION = {"mlm_loss": 4.5, "mlm_accuracy": 0.25, "mlm_perplexity": 90.0, "nsp_loss": 0.5, "nsp_accuracy": 0.75}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def show(steps=3):
    with Progress(plain=0.0) as progress:
        progress.start(PreTraining(), 0, steps)
        for step in range(1, steps + 1):
            progress.step(step, RESULT, 1.5e-4, (32, 4000), 0.5)
        progress.evaluated(steps, EVALUATION)


def test_the_bar_shows_step_losses_accuracies_rate_speed_and_time_left(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "200")
    show()
    last = terminal.getvalue().split("\r")[-1]
    for part in ("3/3", "MLM 5.000 20.0%", "NSP 0.500 75.0%", "lr 1.5e-04", "64 seq/s", "8.0k tok/s", "<00:00"):
        assert part in last


def test_without_a_terminal_there_are_plain_lines(capsys):
    show()
    out = capsys.readouterr().out.splitlines()
    assert out[1] == "step 2/3 MLM 5.000 20.0% NSP 0.500 75.0% lr 1.5e-04 64 seq/s 8.0k tok/s left 00:00"
    assert out[-1] == "step 3 held-out: MLM loss 4.500 accuracy 25.0% perplexity 90.0, NSP loss 0.500 accuracy 75.0%"
