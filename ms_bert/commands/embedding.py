"""The vectors of texts, for the command and for one's own code."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import logging
import operator
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import normalizers

from conversion import pretrained
from ms_bert.commands import command, delivery, sentence_transformers, training
from ms_bert.commands.framework import Framework
from ms_bert.commands.inference import Inference, Loaded
from ms_bert.data.sequences import encoded, without_special_tokens
from ms_bert.errors import UserError, listed, one_line, shown
from ms_bert.prediction_options import EmbedOptions, VectorOptions
from ms_bert.tasks import asked
from ms_bert.tasks.embedding import (
    ARCHITECTURE,
    POOLER,
    STRATEGIES,
    TOKENS,
    Dense,
    Normalize,
    Pooling,
    Step,
    Truncate,
    layers_from_the_input,
)

CHUNK = 256  # texts whose hidden states are held at a time


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Texts as vectors.

    Attributes:
        vectors: (D,) float32 of each text, or (tokens, D) of its tokens. tokens: of each text, those that count.
        cut: whether each was too long, and lost tokens.
    """

    vectors: list[np.ndarray]
    tokens: list[list[str]]
    cut: list[bool]


class Embedder(Loaded):
    """A model as a function from texts to vectors.

    The vector of a text does not depend on the other texts of the call, to the last bit.

    Args:
        path: the folder of a run, of a hub or of sentence-transformers, or a checkpoint of any format.
        framework: computes. pooling, layers, special_tokens, normalize, prompt, longest: as the options of the command
            `embed`; None or () for what the folder says. If a pooling or layers are named, the folder's own pooling and
            what follows it are not used. device, precision, threads: as the options of the commands.

    Attributes:
        longest: tokens of a text. dimension: D, of a vector. per_token: whether each token has one.

    Raises:
        UserError: it cannot be read, or cannot give such vectors.
    """

    def __init__(
        self,
        path: str | Path,
        framework: Framework,
        pooling: str | None = None,
        layers: int | Sequence[int] | None = (),
        special_tokens: bool = True,
        normalize: bool = False,
        prompt: str | None = None,
        longest: int | None = None,
        device: str = "CPU",
        precision: str = "float32",
        threads: int | None = None,
    ):
        path, layers = Path(path), _several(layers)
        folder = sentence_transformers.read(path) if sentence_transformers.is_one(path) else None
        found = pretrained.read(path if folder is None else folder.model)
        config, positions = found.config, found.config.max_position_embeddings
        whole = folder is not None and pooling is None and not layers
        self._steps: tuple[Step, ...] = folder.steps if folder is not None and whole else ()
        self._steps += (Normalize(),) if normalize else ()
        strategies = folder.strategies if folder is not None and whole else _strategies(pooling)
        _check(path, strategies, layers, special_tokens, config.num_hidden_layers)
        if config.is_decoder and {"cls", POOLER} & set(strategies):
            raise UserError(f"{path} is read from left to right (is_decoder): [CLS] sees no word; use --pooling mean.")
        if longest is not None and not 3 <= longest <= positions:
            raise UserError(
                f"--longest is {longest}, but {path} takes from 3 to {positions} tokens; choose a number within."
            )
        self.longest: int = min(longest or (folder and folder.longest) or positions, positions)
        self.per_token, pooled = strategies == (TOKENS,), strategies == (POOLER,)
        numbers = layers_from_the_input(layers or (-1,), config.num_hidden_layers)
        if not pooled:
            found = found.first_layers(max(1, *numbers))
        self._model = Inference(
            found,
            path,
            framework,
            ARCHITECTURE,
            needed=("pooler",) if pooled else (),
            device=device,
            precision=precision,
            threads=threads,
            arguments={"layers": numbers, "pooled": pooled},
        )
        tokenizer = self._model.vocabulary.tokenizer
        if folder is not None and folder.lowercase:
            before = [normalizers.Lowercase(), tokenizer.normalizer]
            tokenizer.normalizer = normalizers.Sequence([each for each in before if each is not None])
        self._prompt = _prompt(path, folder, prompt)
        skipped = 0
        if folder is not None and self._prompt and not folder.prompt_counts:
            plain = without_special_tokens(tokenizer)
            skipped = 1 + len(plain.encode(self._prompt, add_special_tokens=False).ids)  # with [CLS]
        self._pooling = None if pooled else Pooling(strategies, special_tokens, skipped)
        width = config.hidden_size * len(numbers) * len(strategies)
        for step in self._steps:
            if isinstance(step, Dense):
                if step.weight.shape[1] != width:
                    raise UserError(
                        f"{path} has a Dense that takes {step.weight.shape[1]} numbers, but is given {width}; "
                        "fetch the folder again."
                    )
                width = len(step.weight)
            elif isinstance(step, Truncate):
                width = min(width, step.width)
        self.dimension: int = width

    def __call__(self, texts: Sequence[str]) -> Any:
        """The vectors (n, D) float32 of n texts, in their order; of `tokens` a list of n, each (its tokens, D).

        How many texts were too long, and lost tokens, the logger `ms_bert` tells in a warning.
        """
        texts = asked.several_texts(texts)
        made = [self.embedded(texts[begin : begin + CHUNK]) for begin in range(0, len(texts), CHUNK)]
        if cut := sum(sum(part.cut) for part in made):
            logging.getLogger("ms_bert").warning(
                "%d of %d texts were too long for %d tokens and were truncated", cut, len(texts), self.longest
            )
        vectors = [vector for part in made for vector in part.vectors]
        return vectors if self.per_token else np.array(vectors, np.float32).reshape(len(texts), self.dimension)

    def embedded(self, texts: Sequence[str]) -> Embedded:
        """The vectors of texts, and their tokens; so few texts at a time as memory takes."""
        vocabulary = self._model.vocabulary
        sequences = encoded([(self._prompt + text,) for text in texts], vocabulary, self.longest)
        if self._pooling is None:
            states = [*self._model.logits(sequences)]
            kept = [(0, 0)] * len(texts)
        else:
            states = np.split(self._model.logits(sequences, per_token=True), sequences.starts[1:-1])
            kept = [self._pooling.kept(length) for length in sequences.lengths.tolist()]
        vectors = []
        for of_text in states[: len(texts)]:
            vector = of_text.astype(np.float64) if self._pooling is None else self._pooling(of_text)
            for step in self._steps:
                vector = step(vector)
            vectors.append(vector.astype(np.float32))
        tokens = [
            [vocabulary.tokenizer.id_to_token(i) or "" for i in sequences.ids[start + first : start + end].tolist()]
            for start, (first, end) in zip(sequences.starts.tolist(), kept)
        ]
        return Embedded(vectors, tokens, sequences.cut.tolist())


def _strategies(pooling: str | None) -> tuple[str, ...]:
    return ("mean", "max") if pooling == "mean-max" else (pooling or "mean",)


def _check(path: Path, strategies: tuple[str, ...], layers: Sequence[int], special_tokens: bool, count: int) -> None:
    """Raise UserError where a model of so many layers gives no such vectors."""
    if unknown := [name for name in strategies if name not in (TOKENS, POOLER, *STRATEGIES)]:
        raise UserError(
            f"there is no pooling {shown(unknown[0])}; choose one of tokens, cls, pooler, mean, max, mean-max."
        )
    if strategies == (POOLER,) and layers:
        raise UserError("the pooler takes the last layer; leave out --layers, or choose another --pooling.")
    if not special_tokens and {"cls", POOLER} & set(strategies):
        raise UserError(
            f"--no-special-tokens leaves out [CLS], of which --pooling {strategies[0]} is made; leave one of them out."
        )
    try:
        layers_from_the_input(layers, count)
    except ValueError as error:
        raise UserError(
            f"--layers: {error} of {path}, which has {count}; choose from 0 to {count}, or from -1 to {-count - 1}."
        ) from None


def _several(layers: int | Sequence[int] | None) -> tuple[int, ...]:
    """Of one layer, which Python and NumPy write in their ways, or of several."""
    try:
        return () if layers is None else (operator.index(layers),)  # type: ignore[arg-type]
    except TypeError:
        return tuple(layers)  # type: ignore[arg-type]


def _prompt(path: Path, folder: sentence_transformers.Folder | None, name: str | None) -> str:
    """What is put before each text."""
    if name is None:
        name = None if folder is None else folder.prompt
    if name is None:
        return ""
    prompts = {} if folder is None else folder.prompts
    if name not in prompts:
        there = f"only {listed(prompts)}" if prompts else "and no other"
        raise UserError(f"{path} has no prompt {shown(name)}, {there}; choose one of these, or leave out --prompt.")
    return prompts[name]


_ARGUMENTS = ("pooling", "layers", "special_tokens", "normalize", "prompt", "longest", "device", "precision", "threads")


def arguments_of(options: VectorOptions) -> dict[str, Any]:
    """The arguments of an Embedder, besides path and framework, that the options give."""
    return {name: getattr(options, name) for name in _ARGUMENTS}


# The command `embed`


def main(framework: Framework, program: str, description: str, arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    run = functools.partial(embed, framework)
    return command.main_with(EmbedOptions, run, program, description, arguments, delivery.INTERRUPTED)


def embed(framework: Framework, options: EmbedOptions) -> int:
    """Write the vectors of the texts of the options; returns the exit code."""
    training.check_processors(options.threads)
    per_token = options.pooling == TOKENS
    form = delivery.form(options.output, options.format, ENDINGS)
    if form == "text" and per_token:
        form = "jsonl"
    if per_token and form not in ("jsonl", "npz"):
        raise UserError(f"{form} has no place for a vector of each token; write .jsonl or .npz.")
    if options.output is None and form in ("npy", "npz"):
        raise UserError(f"{form} is not for the terminal; name a file with --output.")
    texts = asked.texts(options)
    model = Embedder(options.model, framework, **arguments_of(options))
    cut = 0
    with delivery.writing(options.output) as write:
        parts = delivery.chunked(texts, CHUNK, model.embedded, between_lines=options.output is None)
        for chunk, made in parts if form in IN_PARTS else [(texts, whole(parts))]:
            write(FORMS[form](chunk, made))
            cut += sum(made.cut)
    delivery.tell_cut("embed", cut, len(texts), model.longest)
    return 0


def whole(parts: Iterable[tuple[Sequence[str], Embedded]]) -> Embedded:
    """What was made of all texts."""
    made = [of_part for _, of_part in parts]
    return Embedded(*([each for part in made for each in getattr(part, name)] for name in ("vectors", "tokens", "cut")))


def _numbers(vector: np.ndarray) -> list[float]:
    """With as many digits as float32 needs to be read again."""
    return [float(str(number)) for number in vector]


def _as_text(texts: Sequence[str], made: Embedded) -> str:
    def short(vector: np.ndarray) -> str:
        shown = [f"{number:.4f}" for number in vector]
        return " ".join([*shown[:4], "...", *shown[-1:]] if len(shown) > 6 else shown) + f" ({len(shown)})"

    return "".join(f"{short(vector)}\t{one_line(text)}\n" for text, vector in zip(texts, made.vectors))


def _as_jsonl(texts: Sequence[str], made: Embedded) -> str:
    lines = []
    for text, vector, tokens, cut in zip(texts, made.vectors, made.tokens, made.cut):
        line: dict[str, Any] = {"text": text}
        if vector.ndim > 1:
            line |= {"tokens": tokens, "vectors": [_numbers(row) for row in vector]}
        else:
            line |= {"vector": _numbers(vector)}
        lines.append(json.dumps(line | ({"truncated": True} if cut else {}), ensure_ascii=False) + "\n")
    return "".join(lines)


def _as_csv(texts: Sequence[str], made: Embedded) -> str:
    header = ["text", *range(len(made.vectors[0]) if made.vectors else 0)]
    return delivery.table([header, *([text, *_numbers(vector)] for text, vector in zip(texts, made.vectors))])


def _as_npy(texts: Sequence[str], made: Embedded) -> bytes:
    file = io.BytesIO()
    np.save(file, np.stack(made.vectors))
    return file.getvalue()


def _as_npz(texts: Sequence[str], made: Embedded) -> bytes:
    """vectors (n, D); of tokens vectors (T, D), tokens (T,), and starts (n + 1,), where each text begins."""
    file = io.BytesIO()
    if made.vectors[0].ndim > 1:
        starts = np.cumsum([0, *map(len, made.vectors)])
        tokens = np.array([token for tokens in made.tokens for token in tokens])
        np.savez(file, vectors=np.concatenate(made.vectors), tokens=tokens, starts=starts)
    else:
        np.savez(file, vectors=np.stack(made.vectors))
    return file.getvalue()


ENDINGS = {".jsonl": "jsonl", ".json": "jsonl", ".csv": "csv", ".npy": "npy", ".npz": "npz"}
FORMS: dict[str, Callable[[Sequence[str], Embedded], str | bytes]] = {
    "text": _as_text,
    "jsonl": _as_jsonl,
    "csv": _as_csv,
    "npy": _as_npy,
    "npz": _as_npz,
}
IN_PARTS = ("text", "jsonl")
