"""Pre-training: masked language model and next-sentence prediction (Devlin et al., 2019, 3.1).

Or, to compare with, a left-to-right language model (ibid., 5.1).
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, Literal

from ms_bert.data.batches import FIELDS
from ms_bert.tasks import Added, Curve, Metrics, Panel, Sums


@dataclasses.dataclass(frozen=True)
class PreTraining:
    """See `ms_bert.tasks.Task`. Batches are made by `ms_bert.data.batches.BatchMaker`.

    Attributes:
        unigram_entropy: of the held-out text, nats, which the MLM loss is drawn beside; None: it is not known.
        objective: as in ExampleOptions. The metrics of a left-to-right language model are called lm_loss and so on,
            for they cannot be compared with those of a masked one.
    """

    unigram_entropy: float | None = None
    objective: Literal["masked", "left-to-right"] = "masked"

    name: ClassVar[str] = "pre-training"
    architecture: ClassVar[str] = "BertForPreTraining"
    fields: ClassVar[tuple[str, ...]] = FIELDS
    weights: ClassVar[tuple[str, ...]] = ("masked_weights", "next_sentence_weights")
    sums: ClassVar[tuple[str, ...]] = (
        "masked_loss",
        "masked_correct",
        "masked_count",
        "next_sentence_loss",
        "next_sentence_correct",
        "next_sentence_count",
    )
    count: ClassVar[str] = "masked_count"
    measure: ClassVar[None] = None

    @property
    def head(self) -> str:
        """What the predictions of tokens are called."""
        return "mlm" if self.objective == "masked" else "lm"

    def metrics(self, sums: Sums) -> Metrics:
        """mlm_loss (nats), mlm_accuracy (0..1) and, where there is NSP, nsp_loss and nsp_accuracy."""
        means = {
            f"{self.head}_loss": sums["masked_loss"] / sums["masked_count"],
            f"{self.head}_accuracy": sums["masked_correct"] / sums["masked_count"],
        }
        if sums["next_sentence_count"]:
            means["nsp_loss"] = sums["next_sentence_loss"] / sums["next_sentence_count"]
            means["nsp_accuracy"] = sums["next_sentence_correct"] / sums["next_sentence_count"]
        return means

    def shown(self, metrics: Metrics) -> str:
        parts = [
            f"{head.upper()} {metrics[f'{head}_loss']:.3f} {metrics[f'{head}_accuracy']:.1%}"
            for head in (self.head, "nsp")
            if f"{head}_loss" in metrics
        ]
        return " ".join(parts)

    def evaluation(self, held_out) -> Added:
        loss, name = f"{self.head}_loss", f"{self.head}_perplexity"
        return Added(lambda sums: {**self.metrics(sums), name: perplexity(self.metrics(sums)[loss])})

    def told(self, metrics: Metrics) -> str:
        nsp = ""
        if "nsp_loss" in metrics:
            nsp = f", NSP loss {metrics['nsp_loss']:.3f} accuracy {metrics['nsp_accuracy']:.1%}"
        loss, accuracy, found = (metrics[f"{self.head}_{what}"] for what in ("loss", "accuracy", "perplexity"))
        return f"{self.head.upper()} loss {loss:.3f} accuracy {accuracy:.1%} perplexity {found:.1f}{nsp}"

    def panels(self) -> tuple[Panel, ...]:
        entropy = None if self.unigram_entropy is None else (self.unigram_entropy, "unigram entropy")
        title = "Masked language model" if self.objective == "masked" else "Left-to-right language model"
        return (
            Panel(title, "loss (nats)", (Curve(f"{self.head}_loss", "tab:blue"),), entropy),
            Panel("Next sentence", "loss (nats)", (Curve("nsp_loss", "tab:orange"),), (math.log(2), "chance")),
            Panel(
                "Accuracy",
                "share of predictions",
                (
                    Curve(f"{self.head}_accuracy", "tab:blue", self.head.upper()),
                    Curve("nsp_accuracy", "tab:orange", "NSP"),
                ),
                limits=(0, 1),
            ),
        )


PRETRAINING = PreTraining()  # where the entropy of the text is of no interest


def perplexity(loss: float) -> float:
    """e to the power of a loss in nats, or a number near the largest that float64 holds."""
    return math.exp(min(loss, 700.0))
