"""The options of a prediction. A field's docstring is its `--help`. Both frameworks share these options."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal, Optional

from tyro.conf import Positional

from ms_bert.errors import UserError
from ms_bert.fields import Range
from ms_bert.options import check


@dataclasses.dataclass(frozen=True)
class PredictOptions:
    """What is asked of a model, and where the answers go."""

    model: Positional[Path]
    """A model: the folder of a run, one of Hugging Face, or a checkpoint of any format."""
    texts: Positional[tuple[str, ...]] = ()
    """The texts."""
    choices: tuple[str, ...] = ()
    """Choices of the question that the texts ask (multiple choice), or its candidates (answer selection)."""
    fill_mask: bool = False
    """Guess the words behind each [MASK] of the texts, with a pre-trained model, instead of a fine-tuned task."""
    top: Annotated[int, Range(1, 1000)] = 5
    """How many guesses for each [MASK], or answers to each question."""
    context: Optional[str] = None
    """The passage in which the answers to the questions stand, for a model of question answering."""
    context_file: Optional[Path] = None
    """The same from a file of text."""
    input: Optional[str] = None
    """Read the texts from a file: .txt with one text per line, .tsv .csv .jsonl .json .parquet (also .gz and .xz);
    or from a pipe with -, one text per line. For tagging, files of other names are in the form of CoNLL."""
    columns: tuple[str, ...] = ()
    """Columns of --input as ROLE=NAME; the roles are text and text2 (the second text of a pair).
    For roles that are not given, columns with usual names are used."""
    quotes: bool = True
    """Whether double quotes enclose a field in .tsv and .csv files; GLUE's files have none."""
    output: Optional[Path] = None
    """Write the answers to this file instead of the terminal."""
    format: Optional[Literal["text", "jsonl", "csv"]] = None
    """Format of the answers (default: text, or the one that the name of --output ends with)."""
    device: Literal["CPU", "GPU", "Ascend"] = "CPU"
    """Device to compute on."""
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    """Precision of activations and matrix products."""
    threads: Annotated[Optional[int], Range(1, 10**6)] = None
    """Threads to compute with (default: as many as the processor has)."""

    def __post_init__(self):
        check(self)
        if (self.texts or self.choices) and self.input is not None:
            raise UserError("texts are given as arguments and by --input; leave one of them out.")
        if self.context is not None and self.context_file is not None:
            raise UserError("a passage is given by --context and by --context-file; leave one of them out.")
