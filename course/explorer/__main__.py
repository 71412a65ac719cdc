"""Write the latent explorer: ``python -m course.explorer OUT.html [FOLDER] [--checkpoint FILE]``.

It is one HTML file that opens by a double click, with no Python, no server and no network behind it. Where OUT does not
end in .html it is a folder, which gets the page as index.html.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from course.explorer import explore
from vaelib.engine.errors import InputError


def _say(message: Any, *_: Any, **__: Any) -> None:
    print("explorer: warning:", " ".join(str(message).split()), file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page and return the exit status: 0, 2 for bad input (one line on stderr), 130 for Ctrl-C."""
    parser = argparse.ArgumentParser("python -m course.explorer", description=__doc__.partition("\n\n")[2])
    add = parser.add_argument
    add("out", type=Path, help="the page to write, or a folder for it; an older page is replaced")
    add("folder", type=Path, nargs="?", help="the cohort; by default $VAELIB_DATA, or else data/synthetic")
    add("--checkpoint", type=Path, help="the weights to show; by default those of notebooks 03 to 05, trained first "
        "where they are missing")  # fmt: skip
    asked = parser.parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _say
            page = explore(asked.folder, out=asked.out, checkpoint=asked.checkpoint)
    except (InputError, OSError) as error:
        message = str(error)
        if isinstance(error, OSError) and error.filename:
            message = f"{error.filename}: {error.strerror}"  # not its number
        print("explorer: error:", " ".join(message.split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(f"{page}: {page.stat().st_size / 1e6:.1f} MB; open it in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(main())
