"""The teachers' page, `notebooks/README.md`: its tables are made of what the lessons say and how long they take.

`make tutorial` leaves the seconds of each notebook in build/times.json. From there `python -m course` brings them,
with the minutes that reading takes, into `notebooks/times.json`, and puts the table into the page.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

from course.places import BRANCH, NOTEBOOKS, ROOT, address, read_notebook
from studies import into_page
from vaelib.engine.errors import InputError
from vaelib.engine.files import write_file

PAGE, TIMES, BUILD = NOTEBOOKS / "README.md", NOTEBOOKS / "times.json", ROOT / "build" / "times.json"
WORDS, CELL = 150, 0.25  # words of prose read in a minute, and minutes for a cell of code and what comes out of it
ABOUT = {  # the question of each lesson, what its main figure shows, and the file where that is committed
    "00": ("is everything in place?", "the idea in one picture, the organs by name", None),
    "01": ("does the mask lie where it should?", "the slice browser", "01_slice_browser"),
    "02": ("what is lost at 64 × 64 pixels?", "a perfect map by its threshold", None),
    "03": ("how does a VAE learn, and how does it fail?", "one picture for all: a collapse", None),
    "04": ("what do the latent's numbers mean?", "the latent explorer", "04_latent_explorer"),
    "05": ("how good a mask is in there?", "scan and truth, picture and mask", "05_two_rows"),
    "06": ("do skips cost generalization?", "who drops how much under a shift", "06_drops"),
    "07": ("what do more pixels cost, and bring?", "one number moved, in two latents", "07_one_number"),
    "08": ("what does the third dimension bring?", "the pancreas as a surface", "08_surfaces"),
    "09": ("how does it run on the real cohort?", "a sheet of all patients", None),
    "10": ("which faults does no score show?", "what each fault does to the score", "10_alone"),
    "11": ("what does a VAE say beyond a mask, and do its rivals?", "are its probabilities right?", "11_reliability"),
}


class Lesson(NamedTuple):
    """A notebook: its file without the ending, its name in the series, the earlier ones it asks for, its exercises."""

    stem: str
    name: str
    needs: tuple[str, ...]
    exercises: int
    minutes: int


def lessons(folder: Path = NOTEBOOKS) -> dict[str, Lesson]:
    """Read the lessons by number, as they describe themselves: one needs what its "Before you start" links to."""
    found, paths = {}, {path.stem[:2]: path for path in sorted(folder.glob("[0-9]*.ipynb"))}
    opening = read_notebook(paths["00"]).cells[0].source
    names = dict(re.findall(r"[*\[](\d\d) ([^\]*\n]+)(?:\]\(|\*\*)", opening))
    for number, path in paths.items():
        cells = read_notebook(path).cells
        prose = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        before = prose.partition("## Before you start")[2].partition("\n## ")[0]
        needs = {link for link in re.findall(r"\]\((\d\d)_\w+\.ipynb\)", before) if link < number}
        drill = folder / "exercises" / path.name
        count = 0
        if drill.exists():
            count = sum(cell.source.startswith(f"# Exercise {number}.") for cell in read_notebook(drill).cells)
        minutes = len(prose.split()) / WORDS + CELL * sum(cell.cell_type == "code" for cell in cells)
        found[number] = Lesson(path.stem, names[number], tuple(sorted(needs)), count, 5 * max(1, round(minutes / 5)))
    return found


def builds_on(found: dict[str, Lesson]) -> list[tuple[str, str]]:
    """Pair each lesson with those it builds on, (earlier, later), without what follows from other pairs."""
    above = {}
    for number, lesson in found.items():
        above[number] = {*lesson.needs}.union(*(above[need] for need in lesson.needs))
    return [
        (need, number)
        for number, lesson in found.items()
        for need in lesson.needs
        if not any(need in above[other] for other in lesson.needs)
    ]


def colab(stem: str) -> str:
    """Build the address that opens a notebook on Colab."""
    owner = address().removeprefix("https://github.com/")
    return f"https://colab.research.google.com/github/{owner}/blob/{BRANCH}/notebooks/{stem}.ipynb"


def binder(stem: str) -> str:
    """Build the address that opens a notebook on Binder."""
    owner = address().removeprefix("https://github.com/")
    return f"https://mybinder.org/v2/gh/{owner}/{BRANCH}?labpath=notebooks/{stem}.ipynb"


def table(found: dict[str, Lesson], times: dict[str, dict]) -> str:
    """Write one line for each lesson, in Markdown."""
    head = ["", "notebook", "its question", "main figure", "exercises", "minutes to read", "seconds to run"]
    head += ["open it"] if address() else []
    lines = [f"| {' | '.join(head)} |".replace("|  |", "| |"), "|" + len(head) * "---|"]
    for number, lesson in found.items():
        question, shows, file = ABOUT[number]
        figure = f"[{shows}](figures/{file}.png)" if file else shows
        at = f"{lesson.stem}.ipynb"
        drill = "in the lesson"
        if lesson.exercises:
            drill = f"[{lesson.exercises}](exercises/{at}), [solved](solutions/{at})"
        time = times[lesson.stem]
        cells = [number, f"[{lesson.name}]({at})", question, figure, drill, time["read"], time["run"]]
        if address():
            cells.append(f"[![Colab][colab]]({colab(lesson.stem)}) [![Binder][binder]]({binder(lesson.stem)})")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def measure(found: dict[str, Lesson], build: Path = BUILD, file: Path = TIMES) -> dict[str, dict]:
    """Collect the seconds that lessons run and the minutes that they are read, write them to `file`, and return them.

    The seconds come from the last `make tutorial`, or else from before.

    Raises
    ------
    InputError
        If a lesson has been measured neither now nor before.
    """
    old = json.loads(file.read_text()) if file.exists() else {}
    seconds = {stem: time["run"] for stem, time in old.items()}
    if build.exists():
        seconds |= {stem: round(value) for stem, value in json.loads(build.read_text()).items()}
    if missing := [lesson.stem for lesson in found.values() if lesson.stem not in seconds]:
        raise InputError(f"{build}: no time of {', '.join(missing)}; run `make tutorial`, which measures all")
    times = {lesson.stem: {"read": lesson.minutes, "run": seconds[lesson.stem]} for lesson in found.values()}
    write_file(file, json.dumps(times, indent=1) + "\n")
    return times


def run() -> None:
    """Bring `notebooks/times.json` and the tables of the teachers' page up to date."""
    found = lessons()
    into_page(table(found, measure(found)), "times", PAGE)
    cell = (ROOT / "binder" / "colab.py").read_text(encoding="utf-8")
    into_page(f"```python\n{cell}```", "colab", PAGE)
