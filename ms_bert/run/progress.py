"""What a run shows: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import collections
import sys
import time
from typing import Any

from tqdm import tqdm

from ms_bert.tasks import Metrics, Task

_FORMAT = "{l_bar}{bar:12}| {n_fmt}/{total_fmt} {postfix} [{elapsed}<{remaining}]"
_RECENT = 200  # steps by which the time left is told; in another phase they may take longer
_SMOOTHING = 0.9  # of the shown averages: about the last ten steps


class Progress:
    """The bar of one run; a context manager that closes it.

    Args:
        plain: seconds between two lines where there is no terminal. shown: whether anything is.
    """

    def __init__(self, plain: float = 10.0, shown: bool = True):
        self._visible = shown
        self._bar: Any = None
        self._plain, self._shown = plain, 0.0
        self._metrics: dict[str, float] = {}  # averages, as the speed
        self._speed: dict[str, float] = {}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._bar is not None:
            self._bar.close()

    def start(self, task: Task, step: int, steps: int) -> None:
        """Show the bar of a task, at a step."""
        self._task = task
        self._bar = tqdm(
            total=steps,
            initial=step,
            desc=task.name,
            bar_format=_FORMAT,
            dynamic_ncols=True,
            file=sys.stderr,
            disable=not self._visible or not sys.stderr.isatty(),
        )
        self._last, self._seconds = steps, collections.deque[float](maxlen=_RECENT)

    def say(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        if not self._visible:
            return
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()

    def step(self, step: int, result, rate: float, size: tuple[int, int], seconds: float) -> None:
        """A step is done: its StepResult, the sequences and tokens of its batch, and how long it took."""
        self._seconds.append(seconds)
        _average(self._speed, {"sequences": size[0] / seconds, "tokens": size[1] / seconds})
        if not result.skipped:
            _average(self._metrics, self._task.metrics(result.sums))
        text = self._text(rate)
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(1)
        now = time.perf_counter()
        due = now - self._shown > self._plain
        if self._bar.disable and (due or step == self._last):
            self._shown = now
            left = sum(self._seconds) / len(self._seconds) * (self._last - step)
            self.say(f"step {step}/{self._last} {text} left {tqdm.format_interval(left)}")

    def evaluated(self, step: int, metrics: Metrics) -> None:
        """Print the metrics of an evaluation."""
        self.say(f"step {step} held-out: {self._task.told(metrics)}")

    def _text(self, rate: float) -> str:
        metrics = [self._task.shown(self._metrics)] if self._metrics else []  # none where all steps were skipped
        speed = f"{self._speed['sequences']:.0f} seq/s {_thousands(self._speed['tokens'])} tok/s"
        return " ".join((*metrics, f"lr {rate:.1e}", speed))


def _average(averages: dict[str, float], values: dict[str, float]) -> None:
    for name, value in values.items():
        averages[name] = _SMOOTHING * averages.get(name, value) + (1 - _SMOOTHING) * value


def _thousands(value: float) -> str:
    return f"{value / 1000:.1f}k" if value >= 1000 else f"{value:.0f}"
