"""What a run shows: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

_FORMAT = "{l_bar}{bar:12}| {n_fmt}/{total_fmt} {postfix} [{elapsed}<{remaining}]"
_SMOOTHING = 0.9  # of the shown averages: about the last ten steps


class Progress:
    """The bar of one run; a context manager that closes it.

    Args:
        plain: seconds between two lines where there is no terminal.
    """

    def __init__(self, plain: float = 10.0):
        self._bar = None
        self._plain, self._shown = plain, 0.0
        self._average: dict[str, float] = {}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._bar is not None:
            self._bar.close()

    def start(self, step: int, steps: int) -> None:
        """Show the bar, at a step."""
        self._bar = tqdm(
            total=steps,
            initial=step,
            desc="pre-training",
            bar_format=_FORMAT,
            dynamic_ncols=True,
            file=sys.stderr,
            disable=not sys.stderr.isatty(),
        )
        self._last, self._steps_done, self._training_seconds = steps, 0, 0.0

    def say(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()

    def step(self, step: int, result, rate: float, size: tuple[int, int], seconds: float) -> None:
        """A step is done: its StepResult, the sequences and tokens of its batch, and how long it took."""
        if self._steps_done == 0:
            # It is reported apart and not counted in the speed.
            self.say(f"first step after {seconds:.1f} s, compilation included")
        else:
            self._training_seconds += seconds
            self._show("sequences", size[0] / seconds)
            self._show("tokens", size[1] / seconds)
        self._steps_done += 1
        sums = result.sums
        if not result.skipped:
            self._show("mlm_loss", sums["masked_loss"] / sums["masked_count"])
            self._show("mlm_accuracy", sums["masked_correct"] / sums["masked_count"])
            if sums["next_sentence_count"]:
                self._show("nsp_loss", sums["next_sentence_loss"] / sums["next_sentence_count"])
                self._show("nsp_accuracy", sums["next_sentence_correct"] / sums["next_sentence_count"])
        text = self._text(rate)
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(1)
        now = time.perf_counter()
        due = self._steps_done > 1 and now - self._shown > self._plain
        if self._bar.disable and (due or step == self._last):
            self._shown = now
            left = self._training_seconds / max(1, self._steps_done - 1) * (self._last - step)
            self.say(f"step {step}/{self._last} {text} left {tqdm.format_interval(left)}")

    def evaluated(self, step: int, evaluation: dict[str, float]) -> None:
        """Print the metrics of an evaluation."""
        self.say(f"step {step} held-out: {evaluation_text(evaluation)}")

    def _show(self, name: str, value: float) -> None:
        old = self._average.get(name, value)
        self._average[name] = _SMOOTHING * old + (1 - _SMOOTHING) * value

    def _text(self, rate: float) -> str:
        shown = self._average
        parts = []
        if "mlm_loss" in shown:
            parts.append(f"MLM {shown['mlm_loss']:.3f} {shown['mlm_accuracy']:.1%}")
        if "nsp_loss" in shown:
            parts.append(f"NSP {shown['nsp_loss']:.3f} {shown['nsp_accuracy']:.1%}")
        parts.append(f"lr {rate:.1e}")
        if "sequences" in shown:
            parts.append(f"{shown['sequences']:.0f} seq/s {_thousands(shown['tokens'])} tok/s")
        return " ".join(parts)


def _thousands(value: float) -> str:
    return f"{value / 1000:.1f}k" if value >= 1000 else f"{value:.0f}"


def evaluation_text(evaluation: dict[str, float]) -> str:
    """The metrics of an evaluation in a line."""
    nsp = ""
    if "nsp_loss" in evaluation:
        nsp = f", NSP loss {evaluation['nsp_loss']:.3f} accuracy {evaluation['nsp_accuracy']:.1%}"
    return (
        f"MLM loss {evaluation['mlm_loss']:.3f} accuracy {evaluation['mlm_accuracy']:.1%} "
        f"perplexity {evaluation['mlm_perplexity']:.1f}{nsp}"
    )
