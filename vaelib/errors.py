"""The one exception that `vaelib` raises for bad input."""


class InputError(ValueError):
    """Something that came from outside (a file, a folder, an option) cannot be used.

    The message is one line: it names the file, says what was found, and what to do about it.
    The command line prints it after ``vaelib: error:`` and exits with status 2.
    """
