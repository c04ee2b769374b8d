"""What the user can fix or should know of, in one line."""

import warnings


class UserError(Exception):
    """A fault in the input, not in the program.

    The message says what is wrong, where, and how to fix it, in one line. The command line
    prints it without a traceback and exits with code 2.
    """


class InputError(UserError, ValueError):
    """Logits, targets or a number of a wrong type, shape or value, given to a part."""


class DivergenceError(UserError):
    """The training loss became NaN or infinite."""


class Notice(UserWarning):
    """What a user should know of although nothing failed, in one line.

    The command line prints it without the place in the code that it comes from.
    """


def notice(line: str) -> None:
    """Warn with a line, as a `Notice`."""
    warnings.warn(line, Notice, stacklevel=3)
