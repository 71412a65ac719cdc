"""What the lessons need beside the library: exercises' checks, slides, the explorer, the book, the teachers' page."""
