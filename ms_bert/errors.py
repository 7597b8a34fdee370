"""The one exception for what a user can mend: its text is the whole message, a sentence and a way out."""


class UserError(Exception):
    """A mistake in the input, the options or the machine, told without a traceback.

    `exit_code` is 2 for what is wrong before any work is done (options, files, devices) and 1 for what
    goes wrong while a run is under way (a full disk, a loss that is not finite).
    """

    def __init__(self, message: str, exit_code: int = 2):
        super().__init__(message)
        self.exit_code = exit_code
