"""The options of what is asked of a model. A field's docstring is its `--help`. Both frameworks share these options."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal, Optional

from tyro.conf import Positional

from ms_bert.errors import UserError
from ms_bert.fields import Range
from ms_bert.options import check


@dataclasses.dataclass(frozen=True)
class AskOptions:
    """What is asked of a model, and where the answers go."""

    model: Positional[Path]
    """A model: the folder of a run, one of Hugging Face, or a checkpoint of any format."""
    texts: Positional[tuple[str, ...]] = ()
    """The texts."""
    input: Optional[str] = None
    """Read the texts from a file: .txt with one text per line, .tsv .csv .jsonl .json .parquet (also .gz and .xz);
    or from a pipe with -, one text per line. For tagging, files of other names are in the form of CoNLL."""
    columns: tuple[str, ...] = ()
    """Columns of --input as ROLE=NAME; the roles are text and text2 (the second text of a pair), or those of the task.
    By default those that were named in training, or else columns with usual names."""
    quotes: bool = True
    """Whether double quotes enclose a field in .tsv and .csv files; GLUE's files have none."""
    output: Optional[Path] = None
    """Write the answers to this file instead of the terminal."""
    format: Optional[Literal["text", "jsonl", "csv"]] = None
    """Format of the answers (default: text, or the one that the name of --output ends with)."""
    device: Literal["CPU", "GPU", "Ascend"] = "CPU"
    """Device to compute on."""
    precision: Literal["float32", "float16", "bfloat16", "int8"] = "float32"
    """Precision of activations and matrix products. ms_bert on the CPU rounds no more than what products multiply, and
    there alone are products in int8."""
    threads: Annotated[Optional[int], Range(1, 10**6)] = None
    """Threads to compute with (default: as many as the processor has)."""

    def __post_init__(self):
        check(self)
        if self.texts and self.input is not None:
            raise UserError("texts are given as arguments and by --input; leave one of them out.")
        if self.columns and self.input is None:
            raise UserError("--columns is for a file with columns; leave it out, or name the file with --input.")


@dataclasses.dataclass(frozen=True)
class PredictOptions(AskOptions):
    """What is asked of a model, and where the answers go."""

    choices: tuple[str, ...] = ()
    """Choices of the question that the texts ask (multiple choice), or its candidates (answer selection)."""
    context: Optional[str] = None
    """The passage in which the answers to the questions stand, for a model of question answering."""
    context_file: Optional[Path] = None
    """The same from a file of text."""
    pairs: bool = False
    """Classify pairs: each two texts, or in a line the two sides of a tab. Only a model that was fine-tuned elsewhere
    must be told."""
    fill_mask: bool = False
    """Guess the words behind each [MASK] of the texts, with a pre-trained model, instead of a fine-tuned task."""
    top: Annotated[int, Range(1, 1000)] = 5
    """How many guesses for each [MASK], or answers to each question."""
    pieces: Annotated[int, Range(1, 10)] = 1
    """With --fill-mask: also guess words of up to so many pieces.
    A word's probability is the geometric mean of those of its pieces."""
    candidates: tuple[str, ...] = ()
    """With --fill-mask: choose among these words only, each of any number of pieces."""
    next_sentence: bool = False
    """Say of pairs of texts whether the second follows the first, with a pre-trained model."""

    def __post_init__(self):
        super().__post_init__()
        if self.choices and self.input is not None:
            raise UserError("choices are given as arguments and by --input; leave one of them out.")
        if self.context is not None and self.context_file is not None:
            raise UserError("a passage is given by --context and by --context-file; leave one of them out.")
        if self.fill_mask and self.next_sentence:
            raise UserError("--fill-mask and --next-sentence ask different things; leave one of them out.")
        if self.pairs and (self.fill_mask or self.next_sentence):
            raise UserError("--pairs is for classification and regression; leave it out.")
        for name, given in (("--pieces", self.pieces > 1), ("--candidates", bool(self.candidates))):
            if given and not self.fill_mask:
                raise UserError(f"{name} is for --fill-mask; give that too, or leave {name} out.")
        if self.candidates and self.pieces > 1:
            raise UserError("--candidates are words of any number of pieces already; leave out --pieces.")


@dataclasses.dataclass(frozen=True)
class VectorOptions(AskOptions):
    """How a text becomes a vector."""

    pooling: Optional[Literal["tokens", "cls", "pooler", "mean", "max", "mean-max"]] = None
    """What the vector of a text is: of [CLS], what the model's pooler makes of it, the mean or the maximum over all
    tokens, or both one after the other; or (tokens) a vector of each token.
    (default: what a folder of sentence-transformers says; mean for other models)"""
    layers: tuple[int, ...] = ()
    """Of which layers: -1 is the last one, -2 the one before, 1 the first, 0 the embeddings.
    Those of several are put one after the other. (default: the last one)"""
    special_tokens: bool = True
    """Whether [CLS] and [SEP] count in a mean or maximum, and are among the tokens."""
    normalize: bool = False
    """Divide each vector by its length. By its own pooling, a folder of sentence-transformers may do so anyway."""
    prompt: Optional[str] = None
    """Name of one of the prompts of a folder of sentence-transformers, which is put before each text."""
    longest: Annotated[Optional[int], Range(3, 2**16)] = None
    """Most tokens of a text, including [CLS] and [SEP]; longer ones are truncated and counted.
    (default: what a folder of sentence-transformers says; else as many as the model takes)"""


@dataclasses.dataclass(frozen=True)
class EmbedOptions(VectorOptions):
    """What becomes a vector, and where the vectors go."""

    format: Optional[Literal["text", "jsonl", "csv", "npy", "npz"]] = None  # type: ignore[assignment]
    """Format of the vectors (default: text, which shows a few numbers, or the one that the name of --output ends with).
    Those of tokens are written as jsonl or npz."""


@dataclasses.dataclass(frozen=True)
class SimilarityOptions(VectorOptions):
    """What is compared, and where the similarities go."""

    texts: Positional[tuple[str, ...]] = ()
    """A text, and those that it is compared with; the latter may come from --input.
    Without any, the pairs of --input are compared."""
    columns: tuple[str, ...] = ()
    """Columns of --input as ROLE=NAME; the roles are text, text2 (the second text of a pair) and label
    (a number for each pair, with which the similarities are correlated).
    For roles that are not given, columns with usual names are used."""
    top: Annotated[int, Range(0, 10**9)] = 0
    """Only show so many of the most similar texts. 0: all."""

    def __post_init__(self):
        check(self)


@dataclasses.dataclass(frozen=True)
class AttentionOptions:
    """Whose attention is shown, and where it goes."""

    model: Positional[Path]
    """A model: the folder of a run, one of Hugging Face, or a checkpoint of any format."""
    texts: Positional[tuple[str, ...]] = ()
    """A text, or the two texts of a pair."""
    layers: tuple[int, ...] = ()
    """Of which layers: 1 is the first, -1 the last one. (default: all)"""
    heads: tuple[int, ...] = ()
    """Of which heads of each layer, counted in the same way. (default: all)"""
    output: Optional[Path] = None
    """Write the attention to this file instead of the terminal."""
    format: Optional[Literal["text", "png", "npz"]] = None
    """Format of the attention (default: text, which shows to which token each token attends most, or the one that the
    name of --output ends with). png is a picture; npz has the numbers and the tokens."""
    device: Literal["CPU", "GPU", "Ascend"] = "CPU"
    """Device to compute on."""
    threads: Annotated[Optional[int], Range(1, 10**6)] = None
    """Threads to compute with (default: as many as the processor has)."""

    def __post_init__(self):
        check(self)
        if not 1 <= len(self.texts) <= 2:
            raise UserError(f"{len(self.texts) or 'no'} texts were given; write one, or the two of a pair.")
