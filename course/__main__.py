"""Draw slides and the sheet of formulas, write the questions into the lessons, make the teachers' tables.

``python -m course`` does all of it.
"""

import sys

from course import quiz, sheet, slides, teaching
from vaelib.engine.errors import InputError


def main() -> int:
    """Write all of it, and return the exit status: 2, and one line, where something is missing."""
    try:
        slides.run()
        sheet.run()
        quiz.run()
        teaching.run()
    except InputError as error:
        print(f"course: error: {error}", file=sys.stderr)
        return 2
    print(f"{slides.FOLDER}, {sheet.FILE}, the questions of the lessons and {teaching.PAGE}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
