"""The book as it is built: whole, with nothing fetched from elsewhere, and found fit by `course.book.check`.

It is built once, into a folder of the tests' own. Below, a small site that is in order is spoilt in one way after
another, and the check that forbids it must say so.
"""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
from browser import serve
from nbformat.v4 import new_notebook

import vaelib
from course import quiz, rooms
from course.book import build, check, reference
from course.places import BRANCH, NOTEBOOKS, ROOT, address, read_notebook

SHOWN = sorted(NOTEBOOKS.glob("[0-9]*.ipynb")) + sorted(NOTEBOOKS.glob("*/[0-9]*.ipynb"))
MODULES = [m.name for m in pkgutil.walk_packages(vaelib.__path__, "vaelib.") if "._" not in m.name]


@pytest.fixture(scope="module")
def site(tmp_path_factory, npm):
    folder = tmp_path_factory.mktemp("book") / "site"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "EXECUTED", folder.with_name("nothing"))  # also where `make tutorial` has left the sliders
        try:
            build.build(folder)
        except SystemExit as error:
            pytest.fail(str(error))
    (folder / "explorer").mkdir()  # it is made after the book, and has tests of its own
    (folder / "explorer" / "index.html").write_text("<title>the explorer</title>")
    return folder


def page(site: Path, path: Path) -> str:
    """The page of a notebook."""
    return (site / path.relative_to(ROOT).with_suffix(".html")).read_text(encoding="utf-8")


def test_it_is_as_it_should_be(site):
    assert check.problems(site) == []


def test_a_link_elsewhere_is_listed(site):
    assert {"https://doi.org/10.7937/K9/TCIA.2016.tNB1kqBU", *filter(None, [address()])} <= set(check.outside(site))


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_notebook_is_shown_with_its_committed_outputs(site, path):
    html = page(site, path)
    outputs = [o for cell in read_notebook(path).cells for o in cell.get("outputs", [])]
    words = [o.metadata["image/png"]["alt"] for o in outputs if "image/png" in o.get("data", {})]
    pictures = check.Page(html).pictures
    assert not set(words) - {alt for _, alt in pictures}
    assert len([src for src, _ in pictures if re.search(r"/[0-9a-f]{64}\.png$", src)]) == len(words)
    said = [line for o in outputs for line in o.get("text", "").splitlines() if line.isascii() and line.isalpha()]
    assert all(line in html for line in said)
    assert "Board(" not in html and "widget-view" not in html


def test_sliders_without_a_kernel_say_so(site):
    html = page(site, NOTEBOOKS / "04_latent_space.ipynb")
    assert "Here a running notebook has sliders." in html and 'href="../explorer/index.html"' in html


def test_a_lesson_can_be_launched_once_the_project_has_an_address(site):
    html = page(site, NOTEBOOKS / "01_loading.ipynb")
    if not address():
        assert not [link for link in check.Page(html).links if "mybinder" in link or "colab" in link]
        return
    where = address().removeprefix("https://github.com/")
    for place in (f"mybinder.org/v2/gh/{where}/{BRANCH}", f"colab.research.google.com/github/{where}/blob/"):
        links = [link for link in check.Page(html).links if place in link]
        assert links and all(link.endswith("notebooks/01_loading.ipynb") for link in links)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_in_the_reference_with_all_that_is_public(site, name):
    module = importlib.import_module(name)
    room = name.split(".")[1]
    anchors = check.Page((site / "api" / f"{room}.html").read_text(encoding="utf-8")).anchors
    public = [
        f"{name}.{key}"
        for key, value in vars(module).items()
        if not key.startswith("_") and getattr(value, "__module__", None) == name
        if inspect.isclass(value) or inspect.isfunction(value)
    ]
    assert {f"module-{name}", *public} <= anchors
    assert f"api/{room}.html" in check.Page((site / "api.html").read_text(encoding="utf-8")).links


def test_a_room_without_a_place_stops_the_build(tmp_path, monkeypatch):
    monkeypatch.setattr(rooms, "TAUGHT", {name: said for name, said in rooms.TAUGHT.items() if name != "levels"})
    with pytest.raises(SystemExit, match=r"differ in \['levels'\]"):
        reference.write(tmp_path)


def test_without_npm_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "NPM", tmp_path / "npm")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="Install Node.js"):
        build.packages()


def test_a_link_out_of_the_book_leads_to_the_repository_or_is_its_words(monkeypatch):
    lesson, readme = NOTEBOOKS / "00_start_here.ipynb", ROOT / "README.md"
    kept = "[a](01_loading.ipynb) [b](../data/README.md) [c](gone.md) `x[0](y)` [d](glossary.md#beta)"
    assert build.relink(kept, lesson) == kept
    assert build.relink("[![a](https://example.org/a.svg)](b) [![c][d]](e)", lesson) == "[a](b) [c](e)"
    monkeypatch.setattr(build, "address", lambda: "https://example.org/x")
    assert build.relink("[a](../LICENSE)", lesson) == "[a](https://example.org/x/blob/main/LICENSE)"
    assert build.relink("[`a`](vaelib)", readme) == "[`a`](https://example.org/x/tree/main/vaelib)"
    monkeypatch.setattr(build, "address", lambda: "")
    assert build.relink("see [a](../LICENSE) and [b](01_loading.ipynb)", lesson) == "see a and [b](01_loading.ipynb)"
    assert build.relink("[`a`](vaelib), [c](vaelib/vae.py)", readme) == "`a`, c"


def test_an_answer_of_a_quiz_leads_to_the_anchor_that_the_book_has(monkeypatch):
    cell = quiz.cell([quiz.questions()["03"][0]])
    monkeypatch.setattr(build, "read_notebook", lambda path: new_notebook(cells=[cell]))
    assert 'href=\\"#broken-on-purpose-too-large-a-beta\\"' in build.notebook(NOTEBOOKS / "03_vae_training.ipynb")


def test_cells_that_only_guard_are_folded(site):
    for path in SHOWN:
        guards = [c for c in read_notebook(path).cells if "hide-cell" in c.metadata.get("tags", [])]
        folded = re.findall(r'<div class="cell tag_hide-cell[^>]*>\s*<details (?!open)', page(site, path))
        assert len(folded) == len(guards)


# --- a reader, with a browser ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def host(site):
    with serve(site) as host:
        yield host


def fits(tab):
    """On a phone as on a desk a page is no wider than the window."""
    for width in (390, 1400):
        tab.set_viewport_size({"width": width, "height": 900})
        assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_reader_searches_and_reads(chromium, host):
    wrong, hosts = [], set()
    tab = chromium.new_page()
    tab.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("requestfailed", lambda request: wrong.append(f"{request.url}: {request.failure}"))
    tab.on("response", lambda found: wrong.append(found.url) if found.status >= 400 else None)
    tab.on("request", lambda request: hosts.add(request.url.split("/")[2]))

    tab.goto(f"{host}/index.html")
    tab.keyboard.press("Control+k")
    tab.keyboard.type("occupancy")
    tab.keyboard.press("Enter")
    results = tab.locator("#search-results ul.search li a")
    results.first.wait_for(timeout=60_000)
    tab.get_by_text("Search finished").wait_for(timeout=60_000)
    assert any("02 Downscaling" in text for text in results.all_inner_texts())
    fits(tab)

    results.filter(has_text="02 Downscaling").first.click()
    tab.wait_for_url("**/notebooks/02_downscaling.html*")
    tab.goto(f"{host}/notebooks/03_vae_training.html", wait_until="networkidle")
    formulas = tab.locator(".math")
    assert formulas.count() > 3 and tab.locator(".math mjx-container svg").count() >= formulas.count()
    assert not tab.locator("[data-mjx-error]").count()
    fits(tab)
    tab.close()
    wrong = [line for line in wrong if not line.endswith(": net::ERR_ABORTED")]  # asked for by a page that was left
    assert wrong == [] and hosts == {host.removeprefix("http://")}


# --- the checks themselves -------------------------------------------------------------------------------

FIRST = """<html><head><link rel="stylesheet" href="a.css"><style>b { color: red }</style></head><body>
<h1 id="top">First</h1><a href="folder/second.html#end">on</a> <a href="https://example.org/a">elsewhere</a>
<img src="a.png" alt="a scan"> <script src="a.js"></script>
<a class="right-next" href="folder/second.html">next</a></body></html>"""
SECOND = """<html><body><p id="end"><a href="#end">here</a><a href="../index.html">back</a></p>
<a class="left-prev" href="../index.html">previous</a></body></html>"""
INDEX = 'Search.setIndex({"docnames":["folder/second","index"]})'
GOOD = {"index.html": FIRST, "folder/second.html": SECOND, "searchindex.js": INDEX} | dict.fromkeys(
    ("a.css", "a.js", "a.png", "search.html"), ""
)
BREAKS = {
    "lead_somewhere": [
        ("index.html", "second.html#end", "third.html"),
        ("index.html", "second.html#end", "second.html#start"),
        ("folder/second.html", 'href="#end"', 'href="#gone"'),
        ("folder/second.html", "../index.html", "../../index.html"),
        ("index.html", "a.png", "b.png"),
        ("index.html", "https://example.org/a", "https://example"),
        ("index.html", "https://example.org/a", "http:/example.org"),
        ("index.html", "https://example.org/a", "file:///a.txt"),
    ],
    "have_words": [("index.html", "a scan", " "), ("index.html", ' alt="a scan"', "")],
    "load_nothing_from_elsewhere": [
        ("index.html", "a.js", "https://cdn.example.org/a.js"),
        ("index.html", "a.css", "//cdn.example.org/a.css"),
        ("index.html", "a.png", "https://example.org/a.png"),
        ("index.html", "color: red", "background: url(https://example.org/a.png)"),
        ("index.html", "<h1", "<h1 style=\"background: url('https://example.org/a.png')\""),
        ("a.css", "", "@import 'https://example.org/b.css';"),
        ("a.css", "", "@font-face { src: url(https://example.org/a.woff2) }"),
    ],
    "lead_on": [("index.html", "right-next", "left"), ("folder/second.html", "left-prev", "right-next")],
    "can_be_searched": [("searchindex.js", INDEX, ""), ("searchindex.js", "folder/second", "folder")],
}


def small(folder: Path, spoil=None) -> Path:
    """A site of two pages, in which `spoil` puts one text in another's place."""
    for name, text in GOOD.items():
        if spoil and spoil[0] == name:
            assert spoil[1] in text
            text = text.replace(*spoil[1:]) if spoil[1] else spoil[2]
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_a_good_site_has_no_problems(tmp_path):
    assert check.problems(small(tmp_path)) == []
    assert check.outside(tmp_path) == ["https://example.org/a"]


@pytest.mark.parametrize(
    ("rule", "spoil"), [pytest.param(r, b, id=f"{r}-{n}") for r, breaks in BREAKS.items() for n, b in enumerate(breaks)]
)
def test_a_check_finds_what_it_forbids(rule, spoil, tmp_path):
    folder = small(tmp_path, spoil)
    assert list(getattr(check, rule)(folder, check.pages(folder)))


def test_every_check_can_fail_and_an_empty_site_does(tmp_path):
    assert set(BREAKS) == {rule.__name__ for rule in check.RULES}
    assert check.problems(tmp_path) == [f"{tmp_path}: no page in it"]
