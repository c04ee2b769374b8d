"""What the user can fix, in one line each."""


class UserError(Exception):
    """A fault in the input, not in the program.

    The message says what is wrong, where, and how to fix it, in one line. The command line
    prints it without a traceback and exits with code 2.
    """


class InputError(UserError, ValueError):
    """Logits or targets of a wrong shape or value, given to a loss or a temperature source."""


class DivergenceError(UserError):
    """The training loss became NaN or infinite."""
