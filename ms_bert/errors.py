"""The one exception for what a user can mend: its text is the whole message, a sentence and a way out."""


class UserError(Exception):
    """A mistake in the input, the options or the machine, told without a traceback.

    `exit_code` is 2 for what is wrong before any work is done (options, files, devices) and 1 for what
    goes wrong while a run is under way (a full disk, a loss that is not finite). The message is made `printable`.
    """

    def __init__(self, message: str, exit_code: int = 2):
        super().__init__(printable(message))
        self.exit_code = exit_code


_LONGEST_LINE = 1000  # characters


def printable(text: str) -> str:
    """A text as a terminal may be given it, whatever files said in it.

    All but the ends of its lines that is not printable (colours, movements of the cursor, changes of the direction of
    writing) is escaped, and what is over 1,000 characters of a line is left out.
    """
    lines = []
    for line in text.split("\n"):
        cut = f"... ({len(line) - _LONGEST_LINE:,} more characters)" if len(line) > _LONGEST_LINE else ""
        shown = line[:_LONGEST_LINE]
        if not shown.isprintable():
            shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
        lines.append(shown + cut)
    return "\n".join(lines)
