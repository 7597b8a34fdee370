"""Where answers go: the format that they are written in, the file or the terminal, and a bar on the way."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from ms_bert.data.files import write_atomically
from ms_bert.errors import UserError
from ms_bert.prediction_options import AskOptions

Given = TypeVar("Given")
Made = TypeVar("Made")


def form(options: AskOptions, endings: Mapping[str, str]) -> str:
    """The format that is asked for, or that the name of the file ends with, or text.

    Args:
        endings: the formats by the endings of names.

    Raises:
        UserError: the file is a folder.
    """
    if options.output is not None and options.output.is_dir():
        raise UserError(f"--output {options.output} is a folder; name a file.")
    return options.format or endings.get("" if options.output is None else options.output.suffix, "text")


def chunked(given: Sequence[Given], size: int, answer: Callable[[Sequence[Given]], Made]) -> list[Made]:
    """What is answered to so many at a time, with a bar on a terminal."""
    made = []
    with tqdm(total=len(given), unit="texts", file=sys.stderr, disable=not sys.stderr.isatty()) as bar:
        for begin in range(0, len(given), size):
            chunk = given[begin : begin + size]
            made.append(answer(chunk))
            bar.update(len(chunk))
    return made


def write(output: Path | None, content: str | bytes) -> None:
    """To the file, whole or not at all, or to the terminal."""
    if output is not None:
        write_atomically(output, content if isinstance(content, bytes) else content.encode())
    elif isinstance(content, bytes):
        raise ValueError("no bytes for the terminal")
    else:
        sys.stdout.write(content)


def tell_cut(program: str, cut: int, of: int, longest: Any = None) -> None:
    """Say how many texts lost tokens, if any did."""
    if cut:
        most = "the model" if longest is None else f"{longest} tokens"
        print(f"{program}: {cut:,} of {of:,} texts were too long for {most} and were truncated", file=sys.stderr)
