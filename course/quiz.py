"""The questions at the end of the lessons: `quiz.toml` becomes a cell of each notebook, before "Key points".

Each answer is folded (``<details>``), which works on a code host, in JupyterLab, in the pages and in the book, with no
script. Numbers come from `results/`, and so does the key where a question asks for a number.
"""

import html
import re
import tomllib
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_markdown_cell

import studies
from course.book.link_terms import LINKED
from course.places import NOTEBOOKS, read_notebook
from vaelib.engine.errors import InputError
from vaelib.engine.files import write_file

DATA = Path(__file__).with_name("quiz.toml")
ID, BEFORE = "check-yourself", "## Key points"
HEAD = (
    "## Check yourself\n\nOne of four answers is right. Choose one, then open it: it says whether it is right, and why."
)
FIGURE = re.compile(r"\{([^{}|]+)\|([^{}|]+)\}")
HEADING = re.compile(r"^#{2,} (.+)$", re.MULTILINE)


def questions() -> dict[str, list[dict]]:
    """Read the questions by lesson, in order."""
    found: dict[str, list[dict]] = {}
    for question in tomllib.loads(DATA.read_text(encoding="utf-8"))["question"]:
        found.setdefault(question["lesson"], []).append(question)
    return found


def result(path: str) -> float:
    """Look up a number in the results by its path, such as ``ladder/methods/empty mask/64/dice/mean``."""
    name, *keys = path.split("/")
    value: Any = studies.read(name)
    try:
        for key in keys:
            value = value[int(key)] if isinstance(value, list) else value[key]
        return float(value)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(f"{DATA.name}: {path}: no such number in results/ ({error!r})") from error


def figures(text: str) -> str:
    """Put numbers of the results in the place of their paths."""
    return FIGURE.sub(lambda match: f"{result(match[1]):{match[2]}}", text).replace("-0.000", "+0.000")


def key(question: dict) -> int:
    """Find which of the answers is right: by the results, where the question names a number of theirs.

    Raises
    ------
    InputError
        If it is not exactly one.
    """
    answers, right = question["answer"], []
    for n, answer in enumerate(answers):
        if "key" in question:
            decimals = len(answer["text"].partition(".")[2])
            if round(abs(result(question["key"]) - answer["value"]), 9) <= 0.5 * 10**-decimals:
                right.append(n)
        elif answer.get("right"):
            right.append(n)
    if len(right) != 1:
        raise InputError(f"{DATA.name}: {question['ask']}: {len(right)} of {len(answers)} answers are right")
    return right[0]


def as_html(text: str) -> str:
    """Turn the little Markdown of a question, `code` and *stress*, into HTML."""
    text = html.escape(figures(text), quote=False)
    return re.sub(r"\*([^*]+)\*", r"<em>\1</em>", re.sub(r"`([^`]+)`", r"<code>\1</code>", text))


def link(heading: str) -> str:
    """Link a heading of the same notebook, by the anchor that Jupyter gives it."""
    anchor = re.sub(r"[`*]", "", heading).replace(" ", "-")
    return f'<a href="#{html.escape(anchor)}">{as_html(heading)}</a>'


def folded(question: dict) -> str:
    """Write the four answers of a question as HTML, each folded."""
    right, lines = key(question), []
    for n, answer in enumerate(question["answer"]):
        verdict = "Right." if n == right else "Not this one."
        where = "" if n == right else f" See: {link(answer.get('see', question['shown']))}."
        lines.append(
            f"<details><summary>{'ABCD'[n]}. {as_html(answer['text'])}</summary>"
            f"<p><strong>{verdict}</strong> {as_html(answer['says'])}{where}</p></details>"
        )
    return "\n".join(lines)


def cell(asked: list[dict]) -> nbformat.NotebookNode:
    """Make the cell of a lesson."""
    parts = [HEAD]
    for n, question in enumerate(asked, 1):
        parts += [f"**{n}.** {figures(question['ask'])}", folded(question)]
    return new_markdown_cell("\n\n".join(parts), id=ID)


def headings(nb: nbformat.NotebookNode) -> set[str]:
    """Find the headings of a notebook, below its title."""
    return {h for c in nb.cells if c.cell_type == "markdown" for h in HEADING.findall(c.source)}


def put(nb: nbformat.NotebookNode, asked: list[dict]) -> bool:
    """Put the questions into a notebook, in the place of older ones; say whether that changed it.

    Links to the glossary in a question are left as they are.

    Raises
    ------
    InputError
        If a question leads to a heading that is not there, or there are no key points.
    """
    for question in asked:
        for heading in [question["shown"], *(a["see"] for a in question["answer"] if "see" in a)]:
            if heading not in headings(nb):
                raise InputError(f"{DATA.name}: lesson {question['lesson']} has no heading {heading!r}")
    new = cell(asked)
    rest = [c for c in nb.cells if c.get("id") != ID]
    place = [n for n, c in enumerate(rest) if c.source.startswith(BEFORE)]
    if not place:
        raise InputError(f"{DATA.name}: lesson {asked[0]['lesson']} has no cell that begins with {BEFORE!r}")
    old = nb.cells[place[0]] if len(rest) < len(nb.cells) else None
    if old and old.get("id") == ID and LINKED.sub(r"\1", old.source) == new.source:
        return False
    nb.cells = [*rest[: place[0]], new, *rest[place[0] :]]
    return True


def run(folder: Path = NOTEBOOKS) -> None:
    """Write the questions into every lesson where they are missing or have changed."""
    asked = questions()
    for path in sorted(folder.glob("[0-9]*.ipynb")):
        nb = read_notebook(path)
        if put(nb, asked[path.name[:2]]):
            write_file(path, nbformat.v4.writes(nb) + "\n")
