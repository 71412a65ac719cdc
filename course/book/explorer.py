"""The explorer of the lessons' networks, for the book: ``python -m course.book.explorer FOLDER``."""

import sys

from vaelib import recipes
from vaelib.cohort import open_cohort
from vaelib.pictures.explorer import note_on, write_explorer

if __name__ == "__main__":
    lab = open_cohort(level=6)
    print(write_explorer(sys.argv[1], *recipes.trained(lab), lab.train, lab.test, note=note_on(lab)))
