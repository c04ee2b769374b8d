"""What the user can mend, told in one line."""


class UserError(Exception):
    """A fault in the input, not in the program.

    The message says what is wrong, where, and how to mend it, in one line. The command line
    prints it without a traceback and exits with code 2.
    """


class DivergenceError(UserError):
    """The training loss became NaN or infinite."""
