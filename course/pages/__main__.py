"""Make the pages: ``python -m course.pages build/notebooks build/html``."""

import sys
from pathlib import Path

from course.pages import write
from vaelib.engine.errors import InputError

if __name__ == "__main__":
    try:
        made = write(*map(Path, sys.argv[1:3]))
    except InputError as error:
        sys.exit(f"course.pages: error: {error}")
    print(f"{len(made)} pages. Open {Path(sys.argv[2]) / '00_start_here.html'}, or `make lab`.")
