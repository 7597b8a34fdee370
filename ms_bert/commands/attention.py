"""Attention: how much each token of a text attends to each other one, for the command and for one's own code."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from conversion import pretrained
from ms_bert.commands import command, delivery, training
from ms_bert.commands.framework import Framework
from ms_bert.commands.inference import Loaded, check_finite, check_inputs, check_threads, vocabulary_of
from ms_bert.data.sequences import encoded
from ms_bert.errors import UserError, shown
from ms_bert.prediction_options import AttentionOptions
from ms_bert.tasks import asked, pictures

LARGE = 4  # so many heads are drawn large, with the tokens beside them
MOST_NAMED = 60  # tokens: the names of more cannot be read


class Attention(Loaded):
    """A model as a function from texts to their attention.

    Args:
        path: the folder of a run, one of Hugging Face, or a checkpoint of any format. framework: computes.
        device, threads: as the options of the commands.

    Raises:
        UserError: it cannot be read, or has no vocabulary; or threads is no number of them.
    """

    def __init__(self, path: str | Path, framework: Framework, device: str = "CPU", threads: int | None = None):
        check_threads(threads)
        self._path = Path(path)
        found = pretrained.read(self._path)
        self.vocabulary, self.config = vocabulary_of(found), found.config
        self._make = functools.partial(framework.attention, found, device, threads)

    @functools.cached_property
    def _probabilities(self) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """Made when it is needed: what a user asks is read before, and may be wrong."""
        return self._make()

    def __call__(self, texts: Sequence[str | tuple[str, str]]) -> list[dict[str, Any]]:
        """For each text or pair of texts, in their order: its S `tokens`, [CLS] and [SEP] among them, and `attention`,
        (L, heads, S, S) float32: by layer and head, how much the token of a row attends to that of a column.

        These are the probabilities of softmax(Q K^T / sqrt(d)) (Vaswani et al., 2017, 3.2.1); each row's sum is 1.

        Raises:
            UserError: a text has more tokens than the model takes.
        """
        given = asked.several(texts)
        if wrong := [one for one in given if not (isinstance(one, str) or asked.is_pair(one))]:
            raise UserError(f"{shown(wrong[0])} was given; expected a text or a pair of texts.")
        return [self._of((one,) if isinstance(one, str) else tuple(one)) for one in given]

    def _of(self, texts: tuple[str, ...]) -> dict[str, Any]:
        longest = self.config.max_position_embeddings
        sequences = encoded([texts], self.vocabulary, 2**31)  # whole
        ids, types = sequences.ids, sequences.types
        if len(ids) > longest:
            raise UserError(
                f"the text {shown(texts[0])} has {len(ids)} tokens, but {self._path} takes at most {longest}; "
                "shorten it."
            )
        check_inputs(sequences, self.vocabulary, self._path, self.config)
        found = self._probabilities(ids, types)
        check_finite(found, self._path)
        return {"tokens": [self.vocabulary.tokenizer.id_to_token(token) for token in ids.tolist()], "attention": found}


# The command `attention`


def main(framework: Framework, program: str, description: str, arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    run = functools.partial(attention, framework)
    return command.main_with(AttentionOptions, run, program, description, arguments, delivery.INTERRUPTED)


def attention(framework: Framework, options: AttentionOptions) -> int:
    """Write the attention that the options ask for; returns the exit code."""
    training.check_processors(options.threads)
    form = delivery.form(options.output, options.format, ENDINGS)
    if form != "text" and options.output is None:
        raise UserError(f"--format {form} is for a file; name one with --output.")
    model = Attention(options.model, framework, options.device, options.threads)
    layers = _chosen("--layers", options.layers, model.config.num_hidden_layers)
    heads = _chosen("--heads", options.heads, model.config.num_attention_heads)
    with delivery.writing(options.output) as write:
        (found,) = model([options.texts if len(options.texts) > 1 else options.texts[0]])
        kept = found["attention"][np.ix_([number - 1 for number in layers], [number - 1 for number in heads])]
        write(FORMS[form](found["tokens"], kept, layers, heads))
    return 0


def _chosen(option: str, given: Sequence[int], count: int) -> list[int]:
    """Those that are asked for, from 1 to count, each once; all, if none is named."""
    if wrong := [number for number in given if not 1 <= abs(number) <= count]:
        raise UserError(
            f"{option} names {wrong[0]}, but the model has {count} {option.strip('-')}; choose from 1 to {count}, or "
            f"from -{count} to -1."
        )
    return list(dict.fromkeys(number if number > 0 else count + 1 + number for number in given or range(1, count + 1)))


def _as_text(tokens: Sequence[str], attention: np.ndarray, layers: Sequence[int], heads: Sequence[int]) -> str:
    """A line for each head, with the token to which each token attends most below it."""
    most = attention.argmax(-1)
    rows = [["layer", "head", *tokens]]
    for (layer, head), found in zip(np.ndindex(most.shape[:2]), most.reshape(-1, len(tokens))):
        rows.append([str(layers[layer]), str(heads[head]), *(tokens[token] for token in found)])
    widths = [max(map(pictures.width, column)) for column in zip(*rows)]
    lines = ("  ".join(cell + " " * (width - pictures.width(cell)) for cell, width in zip(row, widths)) for row in rows)
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _as_png(tokens: Sequence[str], attention: np.ndarray, layers: Sequence[int], heads: Sequence[int]) -> bytes:
    """A square for each head, in a table of layers and heads; a few are large, with the tokens beside them."""
    large = len(layers) * len(heads) <= LARGE
    names = tokens if large and len(tokens) <= MOST_NAMED else ()
    drawings = []
    for row, layer in enumerate(layers):
        for column, head in enumerate(heads):
            if large:
                told = (f"layer {layer} head {head}", "attends", "attended to")
            else:
                told = (f"head {head}" * (row == 0), f"layer {layer}" * (column == 0), "")
            drawings.append(pictures.attention(attention[row, column], names, *told))
    side = max(4.6, 0.22 * len(names)) if large else 1.1
    return pictures.drawn(drawings, len(heads), (side, side))


def _as_npz(tokens: Sequence[str], attention: np.ndarray, layers: Sequence[int], heads: Sequence[int]) -> bytes:
    file = io.BytesIO()
    np.savez(file, attention=attention, tokens=np.array(tokens), layers=np.array(layers), heads=np.array(heads))
    return file.getvalue()


ENDINGS = {".png": "png", ".npz": "npz"}
FORMS: dict[str, Callable[[Sequence[str], np.ndarray, Sequence[int], Sequence[int]], str | bytes]] = {
    "text": _as_text,
    "png": _as_png,
    "npz": _as_npz,
}
