"""The one exception for what a user can mend, and how its sentence quotes what was found."""

import reprlib
from collections.abc import Collection

# Strings are cut in the middle, so that an end that tells files apart stays.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist = 3, 4, 6
_JSON = {"True": "true", "False": "false", "None": "null"}
_LONGEST_LINE = 900  # characters


class UserError(Exception):
    """A mistake in the input, the options or the machine, told without a traceback.

    `exit_code` is 2 for what is wrong before any work is done (options, files, devices) and 1 for what
    goes wrong while a run is under way (a full disk, a loss that is not finite). The message is made `printable`, and
    one line; `details` are further lines.
    """

    def __init__(self, message: str, exit_code: int = 2, details: Collection[str] = ()):
        super().__init__("\n".join(printable(line.replace("\n", "\\n")) for line in (message, *details)))
        self.exit_code = exit_code


def missing(package: str, needed_by: str) -> UserError:
    """What is told where an optional package is not installed: which one, what for, and how to get it."""
    extra = {"onnxruntime": "onnx"}.get(package, package)
    return UserError(f"{needed_by} needs {package}, which is not installed; pip install 'ms-bert[{extra}]'.")


def not_utf8(what: str, error: UnicodeDecodeError) -> UserError:
    """That a text is in another encoding."""
    return UserError(
        f"{what} is not UTF-8 text ({error.reason} at byte {error.start}); convert it, for example with iconv."
    )


def shown(value) -> str:
    """A value as a message quotes it: at most some 100 characters of a string, without control characters."""
    text = _SHORT.repr(value)
    return _JSON.get(text, text)


def one_line(text: str) -> str:
    """For the terminal: a text may have line breaks."""
    return " ".join(text.splitlines())


def listed(names: Collection, most: int = 10) -> str:
    """The first names, quoted where they are no plain words, and how many more there are: `a, b and 3 more`."""
    first = [name if name.isidentifier() and len(name) <= 100 else shown(name) for name in list(names)[:most]]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(first) + more


def printable(text: str) -> str:
    """A text as a terminal may be given it, whatever files said in it.

    All but the ends of its lines that is not printable (colours, movements of the cursor, changes of the direction of
    writing) is escaped, and what is over 900 characters of a line is left out.
    """
    lines = []
    for line in text.split("\n"):
        cut = f"... ({len(line) - _LONGEST_LINE:,} more characters)" if len(line) > _LONGEST_LINE else ""
        shown = line[:_LONGEST_LINE]
        if not shown.isprintable():
            shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
        lines.append(shown + cut)
    return "\n".join(lines)
