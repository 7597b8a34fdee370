"""Where answers go: the format that they are written in, the file or the terminal, and a bar on the way."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from tqdm import tqdm

from ms_bert.data.files import opened_atomically
from ms_bert.errors import UserError, shown
from ms_bert.process import output_is_closed

INTERRUPTED = "interrupted; no file was written."

Given = TypeVar("Given")
Made = TypeVar("Made")


def form(output: Path | None, asked: str | None, endings: Mapping[str, str]) -> str:
    """The format that is asked for, or that the name of the file ends with, or text.

    Args:
        output, asked: the file and the format that the user names, if any.
        endings: the formats by the endings of names. Besides, there is text, whose files end in .txt or in nothing.

    Raises:
        UserError: the file is a folder, or its ending tells no format; or there is none and standard output is closed.
    """
    if output is None and output_is_closed():
        raise UserError("the answers go to standard output, which is closed; name a file with --output.")
    if output is not None and output.is_dir():
        raise UserError(f"--output {output} is a folder; name a file.")
    if asked is not None or output is None:
        return asked or "text"
    ending, known = output.suffix.lower(), {**endings, ".txt": "text", "": "text"}
    of_a_file = output.is_file() or not output.exists()  # not of a device or a pipe, such as /dev/fd/63
    if of_a_file and ending not in known:
        raise UserError(
            f"--output {output} ends in {shown(ending)}, which is no format of answers; name a file that ends in "
            f"{', '.join([*endings, '.txt'])}, or say which with --format."
        )
    return known.get(ending, "text")


def chunked(
    given: Sequence[Given], size: int, answer: Callable[[Sequence[Given]], Made], between_lines: bool = False
) -> Iterator[tuple[Sequence[Given], Made]]:
    """So many at a time, and what is answered to them; with a bar on a terminal, but not between lines of answers."""
    disable = not sys.stderr.isatty() or (between_lines and sys.stdout.isatty())
    with tqdm(total=len(given), unit="texts", file=sys.stderr, disable=disable) as bar:
        for begin in range(0, len(given), size):
            chunk = given[begin : begin + size]
            yield chunk, answer(chunk)
            bar.update(len(chunk))


@contextlib.contextmanager
def writing(output: Path | None) -> Iterator[Callable[[str | bytes], None]]:
    """A function that writes: to the terminal or a pipe at once, to a file that has its name when all is written."""
    with contextlib.nullcontext() if output is None else _opened(output) as file:

        def write(content: str | bytes) -> None:
            if file is not None:
                file.write(content if isinstance(content, bytes) else content.encode())
            elif isinstance(content, bytes):
                raise ValueError("no bytes for the terminal")
            else:
                sys.stdout.write(content)
                sys.stdout.flush()

        yield write


def _opened(output: Path) -> contextlib.AbstractContextManager[BinaryIO]:
    """What a link leads to is written, not the link; a device or a pipe takes what comes, and cannot be replaced."""
    if output.exists() and not output.is_file():
        return open(output, "wb", buffering=0)
    return opened_atomically(Path(os.path.realpath(output)))


def table(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as a csv file has them, each in a line that ends in \\n."""
    return "".join(map(_line_of_fields, rows))


def _line_of_fields(fields: Sequence[Any]) -> str:
    # A carriage return in a field is put into quotes only where lines end in one, which it would be taken for.
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\r\n").writerow(fields)
    return file.getvalue().removesuffix("\r\n") + "\n"


def tell_cut(program: str, cut: int, of: int, longest: Any = None) -> None:
    """Say how many texts lost tokens, if any did."""
    if cut:
        most = "the model" if longest is None else f"{longest} tokens"
        print(f"{program}: {cut:,} of {of:,} texts were too long for {most} and were truncated", file=sys.stderr)
