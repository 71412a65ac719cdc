"""The lessons as pages that need nothing else: ``python -m course.pages build/notebooks build/html``.

No kernel, no network: formulas are MathML, sliders carry their module and their numbers in the page. Cells that only
guard numbers are left out, and code that only draws is folded. Where a notebook keeps no state, the picture beside
stands in for its sliders.
Exercises, solutions, the glossary and the page for teachers become pages too, so that links lead to them.
"""

import html
import re
import shutil
from pathlib import Path
from string import Template

import nbformat
from nbconvert.exporters import HTMLExporter
from nbformat.v4 import new_markdown_cell, new_notebook

from course import live
from course.pages.mathml import formulas
from course.places import read_notebook
from vaelib.engine.files import write_file

HERE = Path(__file__).resolve().parent
GUARD, FOLDED = "hide-cell", "hide-input"  # tags of a cell that is left out, and of one whose code is folded
KINDS = ("[0-9]*.ipynb", "exercises/[0-9]*.ipynb", "solutions/[0-9]*.ipynb", "*.md")
SLIDERS = "<p class='note'>Here a running notebook has sliders; the picture below shows what they set.</p>"
LEFT_OUT = "<p class='note'>{} that only check the numbers above are left out of this page; the notebook has them.</p>"
SCRIPT = re.compile(r"<script\b[\s\S]*?</script>")
CODE = re.compile(rf'(<div class="[^"]*_{FOLDED}\b[^>]*>\n)(<div class="input">[\s\S]*?)(?=<div class="output_wr)')
SHUT = r'\1<details class="code"><summary>Show the code</summary>\2</details>'
PICTURE = re.compile(r'<img\b[^>]*?\balt="([^"]+)"[^>]*>')  # its words are read out, and stand below it
CAPTION = r'\g<0><span class="caption" aria-hidden="true">\1</span>'
TABLE = re.compile(r"<table[\s\S]*?</table>")
LINK = re.compile(r'<a\b([^>]*?)href="([^"#:]+)((?:#[^"]*)?)"([^>]*)>([\s\S]*?)</a>')


def opened(path: Path) -> nbformat.NotebookNode:
    """Read a notebook for a page, without guards. Of Markdown a notebook is made."""
    if path.suffix == ".md":
        return new_notebook(cells=[new_markdown_cell(path.read_text(encoding="utf-8"))])
    nb = read_notebook(path)
    guards = [cell for cell in nb.cells if GUARD in cell.metadata.get("tags", [])]
    nb.cells = [cell for cell in nb.cells if GUARD not in cell.metadata.get("tags", [])]
    if guards:
        cells = f"{len(guards)} cell{'s' * (len(guards) > 1)}"
        nb.cells.append(new_markdown_cell(LEFT_OUT.format(cells)))
    return nb


def relink(text: str, at: Path, pages: set[Path], target: Path) -> str:
    """Make links lead from page to page; one to a file that is not beside the pages becomes its words."""

    def to_page(match: re.Match) -> str:
        before, where, anchor, after, words = match.groups()
        page = (at.parent / where).with_suffix(".html")
        if page.resolve() in pages:
            return f'<a{before}href="{where.rpartition(".")[0]}.html{anchor}"{after}>{words}</a>'
        return match[0] if (target / at.parent / where).exists() else words

    return LINK.sub(to_page, text)


def menu(pages: dict[Path, Path], at: Path, up: str) -> str:
    """Link every lesson by its number, the glossary and the sheet of formulas, for the head of a page."""
    lessons = {page: page.name[:2] for page in pages if re.match(r"\d\d_\w+\.html", page.as_posix())}
    said = lessons | {page: page.stem for page in pages if page.name == "glossary.html"}
    here = ' aria-current="page"'
    links = [f'<a href="{up}{page}"{here * (page == at)}>{name}</a>' for page, name in said.items()]
    return " ".join([*links, f'<a href="{up}formulas.pdf">formulas</a>'])


def page(nb: nbformat.NotebookNode, title: str, menu: str) -> str:
    """Make one page of a notebook, whole in itself."""
    exporter = HTMLExporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    body, _ = exporter.from_notebook_node(nb)
    shell, style = Template((HERE / "page.html").read_text("utf-8")), (HERE / "page.css").read_text("utf-8")
    body = PICTURE.sub(CAPTION, CODE.sub(SHUT, SCRIPT.sub("", body)))
    body = TABLE.sub(r'<div class="wide">\g<0></div>', formulas(body))
    return shell.substitute(title=html.escape(title), style=style, menu=menu, body=body)


def write(source: Path, target: Path) -> list[Path]:
    """Make a page of each lesson, exercise, solution and text in `source`, in `target`, beside figures and formulas."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source / "figures", target / "figures")
    shutil.move(target / "figures" / "formulas.pdf", target / "formulas.pdf")
    paths = [path for kind in KINDS for path in sorted(source.glob(kind))]
    found = {path.relative_to(source).with_suffix(".html"): path for path in paths}
    whole = {path.resolve() for path in found}
    for at, path in found.items():
        nb = opened(path)
        sliders = live.replaced(nb, lambda _: SLIDERS)
        title = re.sub(r"[`*]", "", (re.findall(r"^# (.+)", nb.cells[0].source, re.MULTILINE) or [path.stem])[0])
        text = page(nb, title, menu(found, at, "../" * (len(at.parts) - 1)))
        write_file(target / at, live.put_in(relink(text, at, whole, target), sliders))
    return list(found)
