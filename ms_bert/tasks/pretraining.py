"""Pre-training: masked language model and next-sentence prediction (Devlin et al., 2019, 3.1)."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from ms_bert.data.batches import FIELDS
from ms_bert.tasks import Added, Curve, Metrics, Panel, Sums


@dataclasses.dataclass(frozen=True)
class PreTraining:
    """See `ms_bert.tasks.Task`. Batches are made by `ms_bert.data.batches.BatchMaker`.

    Attributes:
        unigram_entropy: of the held-out text, nats, which the MLM loss is drawn beside; None: it is not known.
    """

    unigram_entropy: float | None = None

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

    def metrics(self, sums: Sums) -> Metrics:
        """mlm_loss (nats), mlm_accuracy (0..1) and, where there is NSP, nsp_loss and nsp_accuracy."""
        means = {
            "mlm_loss": sums["masked_loss"] / sums["masked_count"],
            "mlm_accuracy": sums["masked_correct"] / sums["masked_count"],
        }
        if sums["next_sentence_count"]:
            means["nsp_loss"] = sums["next_sentence_loss"] / sums["next_sentence_count"]
            means["nsp_accuracy"] = sums["next_sentence_correct"] / sums["next_sentence_count"]
        return means

    def shown(self, metrics: Metrics) -> str:
        parts = [
            f"{head.upper()} {metrics[f'{head}_loss']:.3f} {metrics[f'{head}_accuracy']:.1%}"
            for head in ("mlm", "nsp")
            if f"{head}_loss" in metrics
        ]
        return " ".join(parts)

    def evaluation(self, held_out) -> Added:
        return Added(lambda sums: {**self.metrics(sums), "mlm_perplexity": perplexity(self.metrics(sums)["mlm_loss"])})

    def told(self, metrics: Metrics) -> str:
        nsp = ""
        if "nsp_loss" in metrics:
            nsp = f", NSP loss {metrics['nsp_loss']:.3f} accuracy {metrics['nsp_accuracy']:.1%}"
        return (
            f"MLM loss {metrics['mlm_loss']:.3f} accuracy {metrics['mlm_accuracy']:.1%} "
            f"perplexity {metrics['mlm_perplexity']:.1f}{nsp}"
        )

    def panels(self) -> tuple[Panel, ...]:
        entropy = None if self.unigram_entropy is None else (self.unigram_entropy, "unigram entropy")
        return (
            Panel("Masked language model", "loss (nats)", (Curve("mlm_loss", "tab:blue"),), entropy),
            Panel("Next sentence", "loss (nats)", (Curve("nsp_loss", "tab:orange"),), (math.log(2), "chance")),
            Panel(
                "Accuracy",
                "share of predictions",
                (Curve("mlm_accuracy", "tab:blue", "MLM"), Curve("nsp_accuracy", "tab:orange", "NSP")),
                limits=(0, 1),
            ),
        )


PRETRAINING = PreTraining()  # where the entropy of the text is of no interest


def perplexity(loss: float) -> float:
    """e to the power of a loss in nats, or a number near the largest that float64 holds."""
    return math.exp(min(loss, 700.0))
