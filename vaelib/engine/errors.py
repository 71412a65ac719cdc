"""The exception that `vaelib` raises for bad input, and its kinds that have a name of their own."""

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # as GPUs, and as CPUs, say it


class InputError(ValueError):
    """Something that came from outside (a file, a folder, an option) cannot be used.

    The message is one line: it names the file, says what was found, and what to do about it.
    The command line prints it after ``vaelib: error:`` and exits with status 2.
    """

    def __str__(self) -> str:
        """Keep it one line that can be shown: it may quote a header, which may hold anything."""
        said = " ".join(super().__str__().split())
        return "".join(c if c.isprintable() or "\udc80" <= c <= "\udcff" else "?" for c in said)


class NotFinite(InputError, FloatingPointError):
    """NaN or Inf where a number is needed: in data, a loss, a gradient, or a prediction."""


class WorkersStopped(SystemExit, InputError):
    """Workers that were killed, or that a script without a main guard keeps from starting; uncaught, it is one line."""
