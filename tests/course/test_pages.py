"""The pages of `make tutorial` need no kernel and no network, and show what a reader is to see."""

import re

import pytest
from boards import threshold
from browser import find
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, writes

from course import pages
from course.live import STATES, VIEW
from course.pages.mathml import TEX, formulas, mathml
from course.places import NOTEBOOKS, read_notebook
from vaelib.engine.errors import InputError

ALL = sorted(p for folder in (".", "exercises", "solutions") for p in (NOTEBOOKS / folder).glob("[0-9]*.ipynb"))
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTtgkAAAAABJRU5ErkJggg=="
TAGS = re.compile(r"<(pre|code|style)\b[\s\S]*?</\1>|<[^>]+>")
CELLS = [
    new_markdown_cell("# A `title`\n\nA $\\mathcal N(0, 1)$ and $$\\underbrace{a}_{b}.$$\n\n## Where is it?\n\nHere."),
    new_markdown_cell("[next](01_b.ipynb#Why?) [word](glossary.md#word) [lost](../gone.py) [do](exercises/00_a.ipynb)"),
    new_code_cell("price = '$x$'  # " + "very " * 60 + "long"),
    new_code_cell("assert secret == 1", metadata={"tags": ["hide-cell"], "jupyter": {"source_hidden": True}}),
    new_code_cell("draw()", outputs=[new_output("stream", text="drawn")], metadata={"tags": ["hide-input", "other"]}),
    new_code_cell("show()", outputs=[new_output("display_data", {"image/png": PNG}, metadata={"image/png": {
        "alt": "a scan", "width": 400, "height": 300}})]),
    new_code_cell("move()", outputs=[new_output("display_data", {VIEW: {"model_id": "a"}, "text/plain": "Sliders"})]),
    new_markdown_cell("<details><summary>a</summary><p>folded</p></details>\n\n<script>alert()</script>\n\n|a|\n|-|\n|b|"),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    source, target = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("html")
    for name in ("figures", "exercises"):
        (source / name).mkdir()
    (source / "figures" / "formulas.pdf").write_bytes(b"%PDF")
    (source / "glossary.md").write_text("# Glossary\n\n## word\n\nA thing.")
    board = threshold()
    kept = {STATES: {"state": {"a": {"state": {"content": board.content, "at": board.at}}}}}
    for name in ("00_a", "01_b", "exercises/00_a"):
        metadata = {"widgets": kept} if name == "01_b" else {}
        (source / f"{name}.ipynb").write_text(writes(new_notebook(cells=CELLS, metadata=metadata)))
    pages.write(source, target)
    return target


@pytest.fixture
def text(folder):
    return (folder / "00_a.html").read_text(encoding="utf-8")


def test_a_page_has_its_formulas_and_no_dollars(text):
    assert text.count("<math") == 2 and "𝒩" in text and "munder" in text
    assert "$" not in TAGS.sub("", text) and "'$x$'" in text.replace("&#39;", "'")


def test_a_page_loads_nothing(folder):
    for path in folder.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(
            r"<script[^>]* src|<link|@import|url\(|(?:src|srcset)=\"(?!data:|figures/|\.\./figures/)", text
        ), path


def test_a_guard_is_left_out_and_counted(text):
    assert "secret" not in text and "1 cell that only check" in text


def test_code_that_only_draws_is_folded_and_its_output_is_not(text):
    (folded,) = re.findall(r'<details class="code">([\s\S]*?)</details>', text)
    assert "Show the code" in folded and "draw" in folded and "drawn" not in folded
    assert "drawn" in text and "price" not in folded and text.count("<div") == text.count("</div")


def test_a_picture_keeps_its_words_and_its_width(text):
    (picture,) = re.findall(r"<img[^>]+>", text)
    assert text.count(f'{picture}<span class="caption" aria-hidden="true">a scan</span>') == 1
    assert all(f'{key}="{value}"' in picture for key, value in {"alt": "a scan", "width": 400, "height": 300}.items())


def test_a_widget_is_a_sentence(text):
    assert "a running notebook has sliders" in text and "Sliders" not in text and "<script" not in text


@pytest.mark.skipif(not find(), reason="no Chromium here")
def test_sliders_whose_state_is_kept_work_in_the_page(chromium, folder):
    tab, wrong = chromium.new_page(), []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.goto((folder / "01_b.html").as_uri())
    caption = tab.locator(".vaelib-live .caption")
    caption.wait_for()
    before = caption.text_content()
    tab.get_by_role("slider", name="threshold").press("End")
    tab.wait_for_function("(text) => document.querySelector('.caption').textContent !== text", arg=before)
    assert "Dice of all slices 0.00" in caption.text_content() and not wrong
    tab.close()


def test_a_link_leads_to_a_page_or_is_its_words(text, folder):
    for where in ("01_b.html#Why?", "glossary.html#word", "exercises/00_a.html"):
        assert f'href="{where}"' in text and (folder / where.split("#")[0]).exists()
    assert "lost" in text and "gone.py" not in text and ".ipynb" not in TAGS.sub("", text)
    assert 'href="../01_b.html"' in (folder / "exercises" / "00_a.html").read_text()


def test_the_menu_knows_where_one_is(text, folder):
    assert '<a href="00_a.html" aria-current="page">00</a>' in text and '<a href="01_b.html">01</a>' in text
    assert 'href="formulas.pdf"' in text and (folder / "formulas.pdf").exists()


@pytest.mark.parametrize("width", [390, 800])
@pytest.mark.skipif(not find(), reason="no Chromium here")
def test_a_page_is_no_wider_than_its_window(chromium, folder, width):
    tab = chromium.new_page(viewport={"width": width, "height": 900})
    tab.goto((folder / "00_a.html").as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.close()


@pytest.mark.parametrize("path", ALL, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_formula_of_the_series_can_be_drawn(path):
    prose = "\n\n".join(cell.source for cell in read_notebook(path).cells if cell.cell_type == "markdown")
    plain = re.sub(r"(`+)[^`]+?\1", "", prose)
    assert "$" not in TEX.sub("", plain)
    for formula in TEX.finditer(plain):
        drawn = mathml(formula[1] or formula[2])
        assert "<merror" not in drawn and 'mathvariant="script"' not in drawn and "negative" not in drawn


def test_code_and_tags_hold_no_formula():
    kept = '<code>$x$</code><pre>$$y$$</pre><a title="$x$">5 $</a>'
    assert formulas(kept) == kept
    assert formulas("a $p(x|z) &lt; 1$ b").count("<math") == 1


@pytest.mark.parametrize("tex", [r"\frac", r"\unheardof x"])
def test_a_formula_that_cannot_be_drawn_is_named(tex):
    with pytest.raises(InputError, match="\\$.+\\$"):
        mathml(tex)
