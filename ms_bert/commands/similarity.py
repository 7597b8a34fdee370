"""How alike texts are: the cosines of their vectors, for the command and for one's own code."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ms_bert.commands import command, delivery, training
from ms_bert.commands.embedding import CHUNK, Embedder, arguments_of, whole
from ms_bert.commands.framework import Framework
from ms_bert.errors import UserError, one_line, shown
from ms_bert.prediction_options import SimilarityOptions
from ms_bert.tasks import asked
from ms_bert.tasks.asked import Pair
from ms_bert.tasks.embedding import cosines
from ms_bert.tasks.metrics import METRICS, interval


class Similarity:
    """A model as a function from texts to their similarities.

    Args:
        path, framework, arguments: see `ms_bert.commands.embedding.Embedder`.
    """

    def __init__(self, path: str | Path, framework: Framework, **arguments):
        self.embed = Embedder(path, framework, **arguments)
        if self.embed.per_token:
            raise UserError("texts are compared by one vector each; choose another pooling than tokens.")

    def __call__(self, texts: Sequence[str], others: Sequence[str]) -> np.ndarray:
        """The cosines (n, m) float32, from -1 to 1, of n texts with m others; each depends on its two texts alone."""
        texts, others = asked.several(texts), asked.several(others)
        vectors, theirs = self.embed(texts), self.embed(others)
        rows = [cosines(vector, theirs) for vector in vectors]
        return np.array(rows, np.float32).reshape(len(texts), len(others))

    def pairs(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """The cosine of each of n pairs of texts, (n,) float32."""
        pairs = asked.several(pairs)
        if wrong := [pair for pair in pairs if not asked.is_pair(pair)]:
            raise UserError(f"{shown(wrong[0])} was given; expected a pair of texts.")
        vectors = self.embed([text for pair in pairs for text in pair])
        return np.array([cosines(one, other[None])[0] for one, other in zip(vectors[::2], vectors[1::2])], np.float32)


# The command `similarity`


def main(framework: Framework, program: str, description: str, arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    run = functools.partial(similarity, framework)
    return command.main_with(SimilarityOptions, run, program, description, arguments, delivery.INTERRUPTED)


def similarity(framework: Framework, options: SimilarityOptions) -> int:
    """Write the similarities that the options ask for; returns the exit code."""
    training.check_processors(options.threads)
    form = delivery.form(options.output, options.format, ENDINGS)
    if options.top and not options.texts:
        raise UserError("--top is for a text that is compared with others, not for pairs of --input; leave it out.")
    pairs, scores = _asked(options)
    model = Similarity(options.model, framework, **arguments_of(options))
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    made = whole(delivery.chunked(texts, CHUNK, model.embed.embedded))
    vector = dict(zip(texts, made.vectors))
    found = [float(np.float32(cosines(vector[one], vector[other][None])[0])) for one, other in pairs]
    order = list(range(len(pairs)))
    if options.texts:
        order = sorted(order, key=lambda number: -found[number])[: options.top or None]
    rows = [(pairs[number], found[number], None if scores is None else scores[number]) for number in order]
    with delivery.writing(options.output) as write:
        write(FORMS[form](rows, bool(options.texts)))
    if scores is not None:
        given, told = np.array(scores), np.array(found)
        low, high = interval("spearman", given, told, seed=0)
        value = METRICS["spearman"](given, told)
        print(f"similarity: Spearman {value:.4f} ({low:.4f} to {high:.4f}), {len(pairs):,} pairs", file=sys.stderr)
    delivery.tell_cut("similarity", sum(made.cut), len(texts), model.embed.longest)
    return 0


def _asked(options: SimilarityOptions) -> tuple[list[Pair], list[float] | None]:
    """Pairs, of the command line the first text with each of the others, and the scores that a file has for them.

    Raises:
        UserError: there are none, or they cannot be read.
    """
    if not options.texts and options.input is not None:
        return asked.scored_pairs(options)
    if not options.texts:
        raise UserError("no text was given; write two or more after the model, or name pairs with --input.")
    first, *others = options.texts
    if options.input is not None and others:
        raise UserError("texts to compare with are given as arguments and by --input; leave one of them out.")
    if options.input is not None:
        others = asked.texts(options)
    if not others:
        raise UserError(
            "one text alone was given; write those to compare it with behind it, or name a file with --input."
        )
    return [(first, other) for other in others], None


Row = tuple[Pair, float, float | None]


def _as_text(rows: Sequence[Row], one_with_all: bool) -> str:
    return "".join(
        f"{found:.4f}\t{one_line(pair[1] if one_with_all else ' | '.join(pair))}\n" for pair, found, _ in rows
    )


def _as_jsonl(rows: Sequence[Row], one_with_all: bool) -> str:
    lines = [
        {"texts": list(pair), "similarity": found} | ({} if score is None else {"score": score})
        for pair, found, score in rows
    ]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _as_csv(rows: Sequence[Row], one_with_all: bool) -> str:
    scored = any(score is not None for _, _, score in rows)
    header = ["text", "text2", "similarity", *(["score"] if scored else [])]
    return delivery.table([header, *([*pair, found, *([score] if scored else [])] for pair, found, score in rows)])


ENDINGS = {".jsonl": "jsonl", ".json": "jsonl", ".csv": "csv"}
FORMS: dict[str, Callable[[Sequence[Row], bool], str]] = {"text": _as_text, "jsonl": _as_jsonl, "csv": _as_csv}
