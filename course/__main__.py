"""Draw the slides, and make the tables of the teachers' page: ``python -m course``."""

import sys

from course import slides, teaching
from vaelib.engine.errors import InputError


def main() -> int:
    """Write both, and return the exit status: 2, and one line, where something is missing."""
    try:
        slides.run()
        teaching.run()
    except InputError as error:
        print(f"course: error: {error}", file=sys.stderr)
        return 2
    print(f"{slides.FOLDER} and {teaching.PAGE}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
