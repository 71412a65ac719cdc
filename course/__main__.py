"""Bring the teacher's page up to date: ``python -m course`` draws the slides and makes the tables."""

import sys

from course import slides, teaching
from vaelib.engine.errors import InputError

if __name__ == "__main__":
    try:
        slides.run()
        teaching.run()
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
