"""The exception that `vaelib` raises for bad input, and its one kind that has a name of its own."""


class InputError(ValueError):
    """Something that came from outside (a file, a folder, an option) cannot be used.

    The message is one line: it names the file, says what was found, and what to do about it.
    The command line prints it after ``vaelib: error:`` and exits with status 2.
    """


class NotFinite(InputError, FloatingPointError):
    """NaN or Inf where a number is needed: in data, a loss, a gradient, or a prediction."""


class UnguardedScript(InputError, SystemExit):
    """A script without a main guard, of which every worker would run all; it ends with the message alone."""

    def __init__(self, script: str):
        super().__init__(
            f'{script}: put what the script does under `if __name__ == "__main__":`, since each of its '
            "worker processes begins by running the script; or pass workers=1"
        )
        self.code = str(self)
