"""The standards that every notebook keeps, and proof that each of them can be broken.

A rule takes a `Page` and yields what is wrong with it, one line each. Below the rules a small notebook that
keeps them all is broken in one way after another, and the rule that forbids it must say so.
"""

import ast
import base64
import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
PATHS = sorted(FOLDER.glob("[0-9]*.ipynb"))
# Tags of a cell whose output varies, of one that only guards, and of one that only draws: its code is folded.
IGNORE, GUARD, DRAWS = "nbval-ignore-output", "hide-cell", "hide-input"
WIDGETS = {"slice_browser", "latent_explorer", "threshold_explorer", "turntable"}
LONGEST, LONGEST_SHOWN, LONGEST_SETUP, LARGEST = 12, 25, 15, 1_000_000
PLACE = re.compile(r"\bNotebook (\d+) of (\d+)\b")
TIME = re.compile(r"^\W*Time\W+.*\d+(\.\d+)? (s|seconds|min|minutes)\b", re.MULTILINE)
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)[^)]*\)")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s#]+)[^)]*\)")
FIGURE = re.compile(r"figures/[\w./-]+\.png")
HEADING = re.compile(r"^(#+)\s+(.*)", re.MULTILINE)
# A folder of one machine, an installation, or the host of a registry of packages.
FOREIGN = re.compile(
    r"(?<![\w.~/])/(home|root|Users|work|tmp|var|opt|mnt|srv|usr|media|data)/|\b[A-Z]:\\"
    r"|\b(pip|conda|mamba) install\b|\bpypi\b|pythonhosted|anaconda\.|npmjs|--index-url|--find-links"
)
RULES = {}
DEFINES = (ast.FunctionDef, ast.ClassDef)
# What each lesson writes in a cell, under the library's name, and then holds against the library's.
TAUGHT: dict[str, tuple[str, ...]] = {
    "00_a": ("losses.kl",),  # the small notebook below
    "01_loading": ("volumes.read_ct", "volumes.read_mask"),
    "02_downscaling": ("levels.window", "levels.halve"),
    "03_vae_training": ("vae.Encoder", "vae.Decoder", "losses.l2", "losses.kl"),
    "04_latent_space": (
        "losses.kl_per_unit",
        "latent.active_units",
        "latent.pca",
        "latent.traverse",
        "latent.interpolate",
    ),
    "05_segmentation_decoding": (
        "vae.MaskDecoder",
        "losses.mask_loss",
        "metrics.dice",
        "metrics.sweep",
        "metrics.bootstrap",
    ),
    "07_full_size": ("spatial.ResidualEncoder", "spatial.doubling"),
    "11_only_a_vae": (
        "uncertainty.draw_latents",
        "uncertainty.entropy",
        "uncertainty.sample_masks",
        "uncertainty.reliability",
        "uncertainty.risk_coverage",
        "uncertainty.anomaly",
    ),
    "06_against_unet": ("spatial.Residual", "spatial.ResidualEncoder"),
    "08_volumes": ("spatial.neighbours", "sequence.smooth", "sequence.SequenceDecoder", "sequence.to_cube"),
}


@dataclass(frozen=True)
class Page:
    """One notebook, and where it lies."""

    path: Path
    nb: nbformat.NotebookNode

    @cached_property
    def cells(self):
        return self.nb.cells

    @cached_property
    def code(self):
        return [c for c in self.cells if c.cell_type == "code"]

    @cached_property
    def markdown(self):
        return [c for c in self.cells if c.cell_type == "markdown"]

    @cached_property
    def prose(self):
        return "\n\n".join(c.source for c in self.markdown)

    def section(self, title: str) -> str | None:
        """The markdown under the first heading with `title` in it, down to the next one as high, or None."""
        found = [m for m in HEADING.finditer(self.prose) if title.lower() in m[2].lower()]
        if not found:
            return None
        ends = [m.start() for m in HEADING.finditer(self.prose, found[0].end()) if len(m[1]) <= len(found[0][1])]
        return self.prose[found[0].end() : min(ends, default=None)]


def read(path: Path) -> Page:
    return Page(path, nbformat.v4.reads(path.read_text(encoding="utf-8")))  # nbformat.read would mend it


def rule(function):
    RULES[function.__name__] = function
    return function


def tree(cell) -> ast.Module:
    try:
        return ast.parse(cell.source)
    except SyntaxError:
        return ast.Module([], [])  # the rule `plain_python` reports it


def calls(cell, names) -> list[ast.Call]:
    """The calls in a cell of the functions or methods with these names."""
    found = [node for node in ast.walk(tree(cell)) if isinstance(node, ast.Call)]
    return [c for c in found if getattr(c.func, "id", getattr(c.func, "attr", None)) in names]


def has(cell, kind) -> bool:
    return any(isinstance(node, kind) for node in ast.walk(tree(cell)))


def ignored(cell) -> bool:
    return IGNORE in cell.metadata.get("tags", [])


def guards(cell) -> bool:
    return GUARD in cell.metadata.get("tags", [])


def draws(cell) -> bool:
    return DRAWS in cell.metadata.get("tags", [])


def first_line(cell) -> str:
    return next((line for line in cell.source.splitlines() if line.strip()), "")


@rule
def the_format_is_valid(page: Page) -> Iterator[str]:
    if (page.nb.nbformat, page.nb.nbformat_minor) != (4, 5):
        yield f"format {page.nb.nbformat}.{page.nb.nbformat_minor}, not 4.5"
    try:
        nbformat.validate(copy.deepcopy(page.nb))  # of a copy, since it mends what it can
    except nbformat.ValidationError as error:
        yield str(error).splitlines()[0]
    if not all("id" in cell for cell in page.cells):
        yield "a cell has no id"
    if page.nb.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "the kernel is not python3"


@rule
def it_opens_with_title_and_place(page: Page) -> Iterator[str]:
    first = page.cells[0]
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        yield "the first cell is no title (`# ...`)"
    place = PLACE.search(first.source)
    if not place:
        yield "the first cell does not say 'Notebook N of M'"
    else:
        series = sorted(p.name for p in page.path.parent.glob("[0-9]*.ipynb"))
        if (int(place[1]), int(place[2])) != (series.index(page.path.name) + 1, len(series)):
            yield f"'{place[0]}' does not fit {page.path.name}"


@rule
def its_sections_are_there(page: Page) -> Iterator[str]:
    order = []
    for title in ("What you will learn", "Before you start", "Broken on purpose", "Exercises", "Key points"):
        text = page.section(title)
        if text is None:
            yield f"no section '{title}'"
        elif not text.strip():
            yield f"section '{title}' is empty"
        else:
            order.append(page.prose.index(text))
    if order != sorted(order):
        yield "its sections are in another order than in the other notebooks"


@rule
def it_states_a_measured_time(page: Page) -> Iterator[str]:
    if not TIME.search(page.prose):
        yield "no line such as '**Time:** 2 min on two CPU cores'"


@rule
def it_has_one_setup_cell(page: Page) -> Iterator[str]:
    setups = [n for n, c in enumerate(page.code) if first_line(c).lower().startswith("# setup")]
    if setups != [0]:
        yield f"code cells {setups} begin with '# Setup'; the first should, and no other"
    for n, cell in enumerate(page.code[1:], 1):
        for node in ast.walk(tree(cell)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                if name.split(".")[0] not in ("vaelib", "course", "studies"):
                    yield f"code cell {n} imports {name}; that belongs in the setup cell"


@rule
def it_uses_the_library(page: Page) -> Iterator[str]:
    nodes = [node for c in page.code for node in ast.walk(tree(c))]
    names = [n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)]
    names += [alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names]
    if not any(name.split(".")[0] == "vaelib" for name in names):
        yield "imports nothing from vaelib"


@rule
def its_cells_are_short(page: Page) -> Iterator[str]:
    for n, cell in enumerate(page.code):
        lines, limit = len([s for s in cell.source.splitlines() if s.strip()]), LONGEST if n else LONGEST_SETUP
        if n and (has(cell, DEFINES) or draws(cell)):  # what is shown, and what is folded, may take its room
            limit = LONGEST_SHOWN
        if not 0 < lines <= limit:
            yield f"code cell {n} has {lines} lines; 1 to {limit} are allowed"


@rule
def its_code_is_plain_python(page: Page) -> Iterator[str]:
    for n, cell in enumerate(page.code):
        try:
            ast.parse(cell.source)
        except SyntaxError as error:
            yield f"code cell {n}: {error.msg}: {error.text}"


@rule
def an_ignored_output_is_asserted(page: Page) -> Iterator[str]:
    for n, cell in enumerate(page.code):
        for tag in cell.metadata.get("tags", []):
            if tag not in (IGNORE, GUARD, DRAWS):
                yield f"code cell {n} has the tag {tag!r}; {IGNORE!r}, {GUARD!r} and {DRAWS!r} are allowed"
        if "NBVAL" in cell.source:
            yield f"code cell {n} has a marker for nbval; use the tag {IGNORE!r}"
        if ignored(cell) and not any(has(c, ast.Assert) for c in page.code[n : n + 2]):
            yield f"code cell {n} ignores its output, and neither it nor the next asserts anything"


@rule
def its_guards_are_folded(page: Page) -> Iterator[str]:
    for n, cell in enumerate(page.code):
        folded = cell.metadata.get("jupyter", {}).get("source_hidden", False)
        if (guards(cell) or draws(cell)) != folded:
            yield f"code cell {n}: `source_hidden` goes together with the tag {GUARD!r} or {DRAWS!r}"
        if guards(cell) and (cell.outputs or not has(cell, ast.Assert)):
            yield f"code cell {n} is folded away, and says something or asserts nothing"


@rule
def what_is_taught_is_not_folded(page: Page) -> Iterator[str]:
    folded = [c for c in page.code if draws(c)]
    for cell in folded:
        if not cell.outputs or has(cell, DEFINES) or not calls(cell, {"show", "fold", *WIDGETS}):
            yield f"{first_line(cell)!r} is folded, and defines something, or shows no picture, widget or answer"
    if 2 * len(folded) > len(page.code):
        yield f"{len(folded)} of {len(page.code)} code cells are folded"


@rule
def few_visible_cells_are_silent(page: Page) -> Iterator[str]:
    seen = [c for c in page.code[1:] if not guards(c)]
    silent = [c for c in seen if not c.outputs]
    if 10 * len(silent) > len(seen):
        yield f"{len(silent)} of {len(seen)} visible cells print nothing: " + "; ".join(map(first_line, silent))


@rule
def few_outputs_are_ignored(page: Page) -> Iterator[str]:
    said = [c for c in page.code if c.outputs]
    varied = [c for c in said if ignored(c)]
    if 4 * len(varied) > len(said):
        yield f"{len(varied)} of {len(said)} outputs are ignored: " + "; ".join(map(first_line, varied))


@rule
def its_exercises_stand_in_notebooks_of_their_own(page: Page) -> Iterator[str]:
    text = page.section("Exercises") or ""
    for kind in ("exercises", "solutions"):
        if f"({kind}/{page.path.name})" not in text:
            yield f"the section 'Exercises' has no link to {kind}/{page.path.name}"
    if "```python" in text:
        yield "a solution that no test runs stands in the section 'Exercises'"


@rule
def it_asks_for_a_prediction_and_computes_the_answer(page: Page) -> Iterator[str]:
    asked = [n for n, c in enumerate(page.cells) if c.cell_type == "markdown" and "predict" in c.source.lower()]
    folds = [n for n, c in enumerate(page.cells) if c.cell_type == "code" for _ in calls(c, {"fold"})]
    if not any(n - 3 <= m < n for n in folds for m in asked):
        yield "no question to predict, with its answer computed and folded by checks.fold()"
    for n in folds:
        for call in calls(page.cells[n], {"fold"}):
            if not any(isinstance(part, ast.FormattedValue) for part in ast.walk(call)):
                yield f"cell {n}: what fold() hides is typed, not computed"


@rule
def its_links_lead_somewhere(page: Page) -> Iterator[str]:
    links = [link for c in page.markdown for link in LINK.findall(c.source) if "://" not in link]
    for link in links:
        if not (page.path.parent / link).exists():
            yield f"link to {link}, which does not exist"
    series = sorted(p.name for p in page.path.parent.glob("[0-9]*.ipynb"))
    here = series.index(page.path.name)
    last = LINK.findall(page.cells[-1].source) if page.cells[-1].cell_type == "markdown" else []
    for name in series[max(here - 1, 0) : here] + series[here + 1 : here + 2]:
        if name not in last:
            yield f"the last cell does not link to {name}"


@rule
def a_widget_stands_beside_a_picture(page: Page) -> Iterator[str]:
    for n, cell in enumerate(page.cells):
        if cell.cell_type == "code" and (used := calls(cell, WIDGETS)):
            near = "\n".join(c.source for c in page.cells[n : n + 2])
            if not any((page.path.parent / figure).is_file() for figure in FIGURE.findall(near)):
                name = getattr(used[0].func, "id", None) or used[0].func.attr
                yield f"cell {n}: {name} has no committed figures/*.png in its cell or the next"


@rule
def every_picture_has_words(page: Page) -> Iterator[str]:
    for alt, target in IMAGE.findall(page.prose):
        if not alt.strip():
            yield f"{target} has no alternative text"
        if "://" in target or not (page.path.parent / target).is_file():
            yield f"{target} is not a file beside the notebook"
    for tag in re.findall(r"<img\b[^>]*>", page.prose):
        if not re.search(r"""\balt=(["'])\s*(?!\1)\S""", tag):
            yield f"{tag} has no alternative text"
    for n, cell in enumerate(page.code):
        for call in calls(cell, {"show"}):
            alt = [*call.args[1:2], *(k.value for k in call.keywords if k.arg == "alt")]
            if not alt or (isinstance(alt[0], ast.Constant) and not str(alt[0].value or "").strip()):
                yield f"code cell {n}: show() without alternative text"
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                if not output.metadata.get("image/png", {}).get("alt", "").strip():
                    yield f"code cell {n}: a picture without alternative text; draw it with show(fig, alt)"


@rule
def it_is_small(page: Page) -> Iterator[str]:
    size = len(nbformat.writes(page.nb).encode())
    if size >= LARGEST:
        yield f"{size / 1e6:.1f} MB; {LARGEST / 1e6:.0f} MB is the limit"


@rule
def it_was_executed_in_order(page: Page) -> Iterator[str]:
    counts = [c.execution_count for c in page.code]
    if counts != list(range(1, len(counts) + 1)):
        yield f"its cells were executed as {counts}; run `make outputs`"
    for n, cell in enumerate(page.code):
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                yield f"code cell {n} ends in an error or a warning: {output.get('text', output.get('ename'))}"


@rule
def it_carries_nothing_of_one_machine(page: Page) -> Iterator[str]:
    for n, cell in enumerate(page.cells):
        texts = [cell.source]
        for output in cell.get("outputs", []):
            texts += [str(v) for k, v in output.get("data", {}).items() if k.startswith("text/")]
            texts.append(output.get("text", ""))
        for found in FOREIGN.finditer("\n".join(texts)):
            yield f"cell {n}: {found[0]!r}"
        if "execution" in cell.metadata:
            yield f"cell {n} keeps the time at which it ran; run `make outputs`"
    if "widgets" in page.nb.metadata:
        yield "the state of its widgets is saved; run `make outputs`"


@rule
def what_it_shows_is_held_against_the_library(page: Page) -> Iterator[str]:
    """Each class or function that a lesson writes under a name of the library is asserted equal to it, later on.

    And what the lesson is there to teach, by `TAUGHT`, is written in it.
    """
    shown = {}
    for n, cell in enumerate(page.code):
        for node in tree(cell).body:
            if isinstance(node, DEFINES):
                shown.setdefault(node.name, n)
    taught = TAUGHT.get(page.path.stem, ())
    for name in taught:
        module, _, short = name.rpartition(".")
        if short not in shown:
            yield f"no cell writes {short} of vaelib/{module}.py, which this lesson teaches"
    for short, n in shown.items():
        if short in {name.rpartition(".")[2] for name in taught}:
            asserted = [ast.unparse(a) for c in page.code[n:] for a in ast.walk(tree(c)) if isinstance(a, ast.Assert)]
            alike = [a for a in asserted if re.search(rf"(?<![.\w]){short}\b", a) and re.search(rf"\.{short}\b", a)]
            if not alike:
                yield f"{short} is written, and no assertion holds it against the library's, as in `module.{short}`"


# --- the notebooks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_keeps_the_rule(path, name):
    wrong = list(RULES[name](read(path)))
    assert not wrong, f"{path.name}: " + "; ".join(wrong)


def test_the_series_is_whole():
    numbers = [path.name[:2] for path in PATHS]
    assert {"00", "01", "02", "03", "04", "05", "09"} <= set(numbers)
    assert len(numbers) == len(set(numbers)), "a number is used twice"


# --- the rules themselves --------------------------------------------------------------------------------

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()


FOLDED = {"tags": [GUARD], "jupyter": {"source_hidden": True}}
DRAWN = FOLDED | {"tags": [DRAWS]}


def good() -> nbformat.NotebookNode:
    """A notebook that keeps every rule: 00 of a series of two."""
    title = "# A title\n\nNotebook 1 of 2\n\n## What you will learn\n\nIt.\n\n## Before you start\n\nNothing."
    picture = new_output("display_data", {"image/png": PNG}, metadata={"image/png": {"alt": "a scan"}})
    answer = "[To do](exercises/00_a.ipynb), [done](solutions/00_a.ipynb)."
    cells = [
        new_markdown_cell(f"{title}\n\n**Time:** 2 min on two CPU cores"),
        new_code_cell("# Setup\nimport torch\nfrom vaelib import plots"),
        new_code_cell('def kl(mu):\n    return 0 * mu\n\n\nplots.show(fig, "a scan")', outputs=[picture]),
        new_code_cell("slice_browser(scan)", outputs=stream("stdout", "a browser")),
        new_markdown_cell("![what the widget shows](figures/a.png)"),
        new_code_cell("print(loss)", outputs=stream("stdout", "0.5"), metadata={"tags": [IGNORE]}),
        new_code_cell("assert loss < 1 and kl(mu) == losses.kl(mu)", metadata=FOLDED),
        new_markdown_cell("## Broken on purpose: no activation"),
        new_code_cell("class Flat(torch.nn.Module):\n    pass", outputs=stream("stdout", "flat")),
        new_markdown_cell("Predict: how many?"),
        new_code_cell('checks.fold(f"{n} of them")', outputs=stream("stdout", "4 of them"), metadata=DRAWN),
        new_markdown_cell(f"What happened.\n\n## Exercises\n\n1. Try.\n\n{answer}"),
        new_markdown_cell("## Key points\n\n- It works.\n\nNext: [more](01_b.ipynb)"),
    ]
    for count, cell in enumerate((c for c in cells if c.cell_type == "code"), 1):
        cell.execution_count = count
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


@pytest.fixture
def path(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "a.png").write_bytes(b"")
    for kind in ("exercises", "solutions"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "00_a.ipynb").write_text("")
    for name in ("00_a.ipynb", "01_b.ipynb"):
        (tmp_path / name).write_text("")
    return tmp_path / "00_a.ipynb"


def swap(n, old, new):
    """A way to break a notebook: put `new` in place of `old` in the source of cell n."""

    def apply(nb):
        assert old in nb.cells[n].source
        nb.cells[n].source = nb.cells[n].source.replace(old, new)

    return apply


def put(n, **values):
    """Another: give cell n these values, such as outputs or metadata."""
    return lambda nb: nb.cells[n].update(nbformat.from_dict(values))


def stream(name, text):
    return [new_output("stream", name=name, text=text)]


BREAKS = {
    "the_format_is_valid": [
        lambda nb: nb.update(nbformat_minor=4),
        lambda nb: nb.cells[0].pop("id"),
        lambda nb: nb.metadata.pop("kernelspec"),
    ],
    "it_opens_with_title_and_place": [
        swap(0, "# A title", "A title"),
        swap(0, "Notebook 1 of 2", ""),
        swap(0, "Notebook 1 of 2", "Notebook 2 of 2"),
        swap(0, "Notebook 1 of 2", "Notebook 1 of 0"),
    ],
    "its_sections_are_there": [
        swap(0, "What you will learn", "Aims"),
        swap(0, "Before you start", "Prerequisites"),
        swap(7, "Broken on purpose", "Broken"),
        swap(11, "## Exercises", "## Try"),
        swap(12, "Key points", "Summary"),
        swap(0, "\n\nIt.", ""),
        lambda nb: nb.cells.insert(1, nb.cells.pop(12)),
    ],
    "it_states_a_measured_time": [swap(0, "**Time:** 2 min", "**Time:** a while"), swap(0, "**Time:** ", "")],
    "it_has_one_setup_cell": [
        swap(1, "# Setup\n", ""),
        swap(6, "assert", "# Setup\nassert"),
        swap(6, "assert", "import os\nassert"),
        swap(6, "assert", "from numpy import random\nassert"),
    ],
    "it_uses_the_library": [swap(1, "from vaelib", "from vaelibrary")],
    "its_cells_are_short": [
        swap(6, "assert loss < 1", "\n".join(13 * ["assert loss < 1"])),
        swap(8, "    pass", "\n".join(25 * ["    pass"])),
        swap(1, "import torch", "\n".join(15 * ["import torch"])),
        put(6, source=""),
    ],
    "its_code_is_plain_python": [swap(6, "assert", "%time assert"), swap(6, "assert", "!ls\nassert")],
    "an_ignored_output_is_asserted": [
        swap(6, "assert loss < 1", "loss"),
        swap(5, "print", "# NBVAL_IGNORE_OUTPUT\nprint"),
        swap(5, "print", "# NBVAL_SKIP\nprint"),
        put(5, metadata={"tags": ["nbval-skip"]}),
        put(5, metadata={"tags": ["raises-exception"]}),
    ],
    "its_guards_are_folded": [
        put(6, metadata={"tags": [GUARD]}),
        put(6, metadata={"jupyter": {"source_hidden": True}}),
        put(6, outputs=stream("stdout", "True")),
        swap(6, "assert loss < 1", "loss"),
    ],
    "what_is_taught_is_not_folded": [
        put(8, metadata=DRAWN),
        put(2, metadata=DRAWN),
        put(5, metadata=DRAWN),
        put(10, metadata=DRAWN, outputs=[]),
        lambda nb: [cell.metadata.update(DRAWN) for cell in nb.cells if cell.cell_type == "code"],
    ],
    "few_visible_cells_are_silent": [put(3, outputs=[]), put(6, metadata={})],
    "few_outputs_are_ignored": [put(2, metadata={"tags": [IGNORE]}), put(3, metadata={"tags": [IGNORE]})],
    "its_exercises_stand_in_notebooks_of_their_own": [
        swap(11, "exercises/00_a.ipynb", "exercises/00_b.ipynb"),
        swap(11, "[done](solutions/00_a.ipynb)", "```python\npass\n```"),
        swap(11, "1. Try.", "```python\npass\n```"),
    ],
    "it_asks_for_a_prediction_and_computes_the_answer": [
        swap(9, "Predict", "Behold"),
        swap(10, "checks.fold", "print"),
        swap(10, 'f"{n} of them"', '"3 of them"'),
    ],
    "its_links_lead_somewhere": [
        swap(12, "01_b.ipynb", "02_c.ipynb"),
        swap(12, "[more](01_b.ipynb)", "more"),
        swap(4, "![what", "[gone](../gone.md) ![what"),
    ],
    "a_widget_stands_beside_a_picture": [
        swap(4, "![what the widget shows](figures/a.png)", "Nothing."),
        swap(4, "figures/a.png", "figures/gone.png"),
        swap(5, "print(loss)", "widgets.threshold_explorer(scan)"),
    ],
    "every_picture_has_words": [
        swap(4, "what the widget shows", ""),
        swap(4, "figures/a.png", "figures/gone.png"),
        swap(4, "![what", '<img src="figures/a.png" alt=""> ![what'),
        swap(4, "![what", '<img src="figures/a.png"> ![what'),
        swap(2, '"a scan"', '""'),
        swap(2, ', "a scan"', ""),
        put(2, outputs=[new_output("display_data", {"image/png": PNG})]),
    ],
    "it_is_small": [put(2, outputs=stream("stdout", "x" * LARGEST))],
    "it_was_executed_in_order": [
        put(3, execution_count=None),
        put(3, execution_count=7),
        put(3, outputs=[new_output("error", ename="ValueError", evalue="", traceback=[])]),
        put(3, outputs=stream("stderr", "UserWarning")),
    ],
    "it_carries_nothing_of_one_machine": [
        swap(4, "![what", "In /home/someone/data. ![what"),
        put(6, outputs=stream("stdout", "saved /tmp/x.png")),
        put(6, outputs=[new_output("execute_result", {"text/plain": "Path('/root/data')"})]),
        swap(4, "![what", "C:\\data ![what"),
        swap(4, "![what", "First `pip install vaelib`. ![what"),
        put(6, metadata={"execution": {"iopub.execute_input": "2026-01-01"}}),
        lambda nb: nb.metadata.update(widgets={}),
    ],
    "what_it_shows_is_held_against_the_library": [
        swap(2, "def kl", "def divergence"),
        swap(6, "losses.kl", "abs"),
        swap(6, "kl(mu) == ", "0 == "),
    ],
}


@pytest.mark.parametrize("name", RULES)
def test_a_good_notebook_keeps_the_rule(name, path):
    assert list(RULES[name](Page(path, good()))) == []


@pytest.mark.parametrize(
    ("name", "damage"),
    [pytest.param(name, b, id=f"{name}-{n}") for name, breaks in BREAKS.items() for n, b in enumerate(breaks)],
)
@pytest.mark.filterwarnings("ignore::nbformat.validator.MissingIDFieldWarning")
def test_a_broken_notebook_breaks_the_rule(name, damage, path):
    nb = copy.deepcopy(good())
    damage(nb)
    assert list(RULES[name](Page(path, nb)))


def test_every_rule_can_be_broken():
    assert set(BREAKS) == set(RULES)
