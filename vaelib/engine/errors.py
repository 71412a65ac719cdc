"""The exception that `vaelib` raises for bad input, and its one kind that has a name of its own."""


class InputError(ValueError):
    """Something that came from outside (a file, a folder, an option) cannot be used.

    The message is one line: it names the file, says what was found, and what to do about it.
    The command line prints it after ``vaelib: error:`` and exits with status 2.
    """


class NotFinite(InputError, FloatingPointError):
    """NaN or Inf where a number is needed: in data, a loss, a gradient, or a prediction."""


class UnguardedScript(SystemExit, InputError):
    """A script without a main guard, which each of its workers would run; where nobody catches it, its line is all."""
