"""What a reader finds wrong with a file; its `read` says of which file, and what to do."""


class Damaged(Exception):
    """What was found where, and what was expected."""


class Refused(Exception):
    """Sound, or hostile, but not for this reader: why, and what to do."""
