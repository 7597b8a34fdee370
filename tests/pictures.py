"""Whether figures are drawn: it takes a second each, and in hundreds of runs nobody looks at them.

Where they are not, one is saved as a picture of one pixel. They are drawn in tests that are marked as `drawn`, and by
commands in processes that import all anew.
"""

import base64
import contextlib
from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
_save = Figure.savefig


def _save_pixel(figure, target, format=None, **options) -> None:
    if format == "svg":
        target.write('<svg width="1" height="1"></svg>')
    elif isinstance(target, (str, Path)):
        Path(target).write_bytes(PIXEL)
    else:
        target.write(PIXEL)


def draw(really: bool) -> None:
    """From now on figures are drawn, or not."""
    Figure.savefig = _save if really else _save_pixel


def are_drawn() -> bool:
    return Figure.savefig is _save


@contextlib.contextmanager
def drawn() -> Iterator[None]:
    """Figures are drawn within it."""
    before = are_drawn()
    draw(True)
    try:
        yield
    finally:
        draw(before)
