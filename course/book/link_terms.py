"""Link the first use of each word of the glossary, in every lesson.

A maintainer's tool: ``python -m course.book.link_terms [NOTEBOOK ...]``. It takes every link to the glossary out of a
notebook and puts the right ones in, so that a second run changes nothing; a test asks for just that. The first cell,
headings, tables, code, mathematics, links and what is folded away keep their words as they are.
"""

import re
import sys
import tomllib
from pathlib import Path

import nbformat

from course.places import NOTEBOOKS, read_notebook

TERMS: dict[str, str] = tomllib.loads(Path(__file__).with_name("terms.toml").read_text(encoding="utf-8"))
SPELLINGS = {
    anchor: re.compile(rf"(?<![\w/-])(?:{words.replace(' ', chr(92) + 's+')})(?![\w/]|-\w)")
    for anchor, words in TERMS.items()
}
LINKED = re.compile(r"\[([^\]]+)\]\(glossary\.md#[\w-]+\)")
CODE = r"(`+)(?!`)[\s\S]+?(?<!`)\1(?!`)"
KEPT = re.compile(
    r"```[\s\S]*?```|<details[\s\S]*?</details>|<!--[\s\S]*?-->|<[^<>\n]+>"  # blocks, what is folded, tags
    r"|^[ \t]*#+ .*$|^[ \t]*\|.*$"  # headings and tables
    r"|\$\$[\s\S]+?\$\$|\$[^$\n]+(?:\n[^$\n]+)?\$"
    rf"|!?\[[^\]]*\]\([^)]*\)|https?://\S+|{CODE}",
    re.MULTILINE,
)


def first_use(text: str, spelling: re.Pattern) -> re.Match | None:
    """Find the first use of a word in the text of a cell, outside of what is kept as it is."""
    kept = [match.span() for match in KEPT.finditer(text)]
    for found in spelling.finditer(text):
        if all(found.end() <= start or found.start() >= end or found.span() == (start, end) for start, end in kept):
            return found
    return None


def link(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Link the first use of each word in a notebook, in place, and nothing else to the glossary."""
    cells = [cell for cell in nb.cells[1:] if cell.cell_type == "markdown"]
    for cell in cells:
        cell.source = LINKED.sub(r"\1", cell.source)
    missing = dict(SPELLINGS)
    for cell in cells:
        found = {anchor: use for anchor, spelling in missing.items() if (use := first_use(cell.source, spelling))}
        for anchor, use in sorted(found.items(), key=lambda item: -item[1].start()):
            start, end = use.span()
            cell.source = f"{cell.source[:start]}[{use[0]}](glossary.md#{anchor}){cell.source[end:]}"
            del missing[anchor]
    return nb


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]) if sys.argv[1:] else sorted(NOTEBOOKS.glob("[0-9]*.ipynb")):
        path.write_text(nbformat.v4.writes(link(read_notebook(path))) + "\n", encoding="utf-8")
