"""The one exception for what a user can mend, and how its sentence quotes what was found."""

import reprlib
from collections.abc import Collection

# Strings are cut in the middle, so that an end that tells files apart stays.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist = 3, 4, 6
_JSON = {"True": "true", "False": "false", "None": "null"}


class UserError(Exception):
    """A mistake in the input, the options or the machine, told without a traceback.

    `exit_code` is 2 for what is wrong before any work is done (options, files, devices) and 1 for what
    goes wrong while a run is under way (a full disk, a loss that is not finite).
    """

    def __init__(self, message: str, exit_code: int = 2):
        super().__init__(message)
        self.exit_code = exit_code


def shown(value) -> str:
    """A value as a message quotes it: at most some 100 characters of a string, without control characters."""
    text = _SHORT.repr(value)
    return _JSON.get(text, text)


def listed(names: Collection, most: int = 10) -> str:
    """The first names, quoted where they are no plain words, and how many more there are: `a, b and 3 more`."""
    first = [name if name.isidentifier() and len(name) <= 100 else shown(name) for name in list(names)[:most]]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(first) + more


def printable(text: str) -> str:
    """The text with what a terminal does not show, control characters above all, escaped; line ends stay."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
