"""Build the book: the notebooks with their committed outputs, glossary and reference, as static pages.

Run it from the root of the project, ``python -m course.book.build [FOLDER]``; ``make site`` does. Nothing is executed
and nothing is fetched but MathJax, by `package.json`, once. The sources are laid out in a folder as in the
repository, so that a link from one page to another is the same in both.
"""

import html
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import nbformat

from course import live
from course.book import reference
from course.places import BRANCH, ROOT, address, read_notebook

HERE = Path(__file__).resolve().parent
NPM = ROOT / "build" / "npm"
PAGES = (
    "[A-Z]*.md data/README.md results/*.md benchmarks/README.md benchmarks/*.png "
    "notebooks/[0-9]*.ipynb notebooks/*.md "
    "notebooks/figures/*.png notebooks/figures/*/*.svg "
    "notebooks/exercises/[0-9]* notebooks/solutions/[0-9]* notebooks/checkpoints/README.md"
).split()
EXECUTED = ROOT / "build"  # `make tutorial` leaves notebooks there that keep the state of their sliders
SLIDERS = "<p>Here a running notebook has sliders.{}</p>"
EXPLORER = ' Those of the <a href="../explorer/index.html">explorer</a> work in the browser, with no kernel.'
TARGET = re.compile(r"(?<=\]\()([\w./-]+)(?=(#[\w-]+)?\))")
NOWHERE = "nowhere:"  # a target that is left as the words of its link
LOST = re.compile(rf"\[([^\]]*)\]\({NOWHERE}(?:#[\w-]+)?\)")
TABLE = re.compile(r"\S {3,}\S")
BADGE = re.compile(r"!\[([^\]]+)\](?:\(https?://[^)]*\)|\[[^\]]*\])")
WITHIN = re.compile(r'(?<=href="#)[^"]+')  # of an answer of a quiz: a heading by the anchor that Jupyter gives it
ANCHOR = re.compile(r'^<a id="[\w-]+"></a>\n+', re.MULTILINE)


@cache
def held() -> frozenset[Path]:
    """Find every file of the project that the book shows or hands out."""
    return frozenset(path for pattern in PAGES for path in ROOT.glob(pattern))


def relink(text: str, page: Path) -> str:
    """Make a page whole by itself: what the book does not hold is linked in the repository, a badge is its words.

    As long as the project has no address, a link to what the book does not hold is its words too.
    """

    def absolute(match: re.Match) -> str:
        path = (page.parent / match[0]).resolve()
        if path in held() or not (path.exists() and path.is_relative_to(ROOT)):
            return match[0]
        if not address():
            return NOWHERE
        return f"{address()}/{'tree' if path.is_dir() else 'blob'}/{BRANCH}/{path.relative_to(ROOT).as_posix()}"

    return LOST.sub(r"\1", TARGET.sub(absolute, BADGE.sub(r"\1", text)))


def notebook(path: Path) -> str:
    """Make a notebook as the book wants it.

    The words of each picture stand where Sphinx looks for them. Sliders work with no kernel where `make tutorial` has
    left their state, and are words else.
    """
    nb = read_notebook(path)
    nb.metadata.setdefault("language_info", {"name": "python", "pygments_lexer": "ipython3"})
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = relink(
                WITHIN.sub(lambda m: re.sub(r"[^\w-]", "", html.unescape(m[0])).lower(), cell.source), path
            )
        words = [o.metadata.get("image/png", {}).get("alt", "") for o in cell.get("outputs", []) if "metadata" in o]
        if any(words):
            cell.metadata["mystnb"] = {"image": {"alt": " ".join(filter(None, words))}}
        for output in cell.get("outputs", []):
            if any(len(line) > 95 and not TABLE.search(line) for line in output.get("text", "").splitlines()):
                cell.metadata["tags"] = [*cell.metadata.get("tags", []), "wrap"]  # a message, and no table
    executed = EXECUTED / path.relative_to(ROOT)
    states = read_notebook(executed) if executed.exists() else None
    places = live.replaced(nb, lambda c: SLIDERS.format(EXPLORER if "latent_explorer" in c.source else ""), states)
    for output in (o for cell in nb.cells for o in cell.get("outputs", []) if "text/html" in o.get("data", {})):
        output.data["text/html"] = live.put_in(output.data["text/html"], places)
    return nbformat.v4.writes(nb) + "\n"


def lay_out(source: Path) -> None:
    """Put everything that Sphinx reads into one folder."""
    shutil.rmtree(source, ignore_errors=True)
    for path in sorted(held()):
        target = source / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".ipynb":
            target.write_text(notebook(path), encoding="utf-8")
        elif path.suffix == ".md":  # a heading is an anchor by itself there
            target.write_text(relink(ANCHOR.sub("", path.read_text(encoding="utf-8")), path), encoding="utf-8")
        else:
            shutil.copy(path, target)
    for path in HERE.glob("*.md"):
        shutil.copy(path, source)
    reference.write(source)


def packages() -> Path:
    """Fetch the packages of `package.json` if they are not there yet, and return the folder that they are in.

    Raises
    ------
    SystemExit
        If they can't be fetched.
    """
    names = ("package.json", "package-lock.json")
    if not all((NPM / n).exists() and (NPM / n).read_bytes() == (HERE / n).read_bytes() for n in names):
        if not shutil.which("npm"):
            raise SystemExit(
                "site: no 'npm' here, which fetches MathJax. Install Node.js (nodejs.org), and start again."
            )
        shutil.rmtree(NPM, ignore_errors=True)
        NPM.mkdir(parents=True)
        for name in names:
            shutil.copy(HERE / name, NPM)
        if subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=NPM).returncode:
            shutil.rmtree(NPM)
            raise SystemExit("site: npm could not fetch MathJax; the site needs a network once. Start again with one.")
    return NPM / "node_modules"


def build(site: Path) -> None:
    """Build the book into the folder `site`; end with an error if Sphinx warns of anything."""
    mathjax = packages() / "mathjax"
    work = site.parent / f"{site.name}-work"
    lay_out(work / "source")
    shutil.rmtree(work / "pages", ignore_errors=True)
    options = ["-W", "--keep-going", "-q", "-j", "2", "-E", "-c", str(HERE), "-d", str(work / "trees")]
    sphinx = [sys.executable, "-m", "sphinx", *options, str(work / "source"), str(work / "pages")]
    if subprocess.run(sphinx, cwd=ROOT).returncode:
        raise SystemExit("site: Sphinx warned, see above; nothing was published")
    target = work / "pages" / "_static" / "mathjax"
    target.mkdir()
    shutil.copy(mathjax / "es5" / "tex-svg.js", target)
    shutil.copy(mathjax / "LICENSE", target)
    shutil.rmtree(site, ignore_errors=True)
    shutil.move(work / "pages", site)


if __name__ == "__main__":
    build(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "site").resolve())
