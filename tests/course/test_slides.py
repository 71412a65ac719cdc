"""The committed slides are what the code draws, from the results and the models, and can be read from the last row."""

import itertools
import re
from functools import lru_cache
from importlib.util import find_spec
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

import studies
from course import rooms, slides, teaching

NAME = "{http://www.w3.org/2000/svg}"
NUMBER, IDENTITY = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?"), re.compile(r"\b[a-z]+[0-9a-f]{10}\b")
ALL = pytest.mark.parametrize("name", slides.SLIDES)


@lru_cache
def drawn(name):
    fig = slides.figure(slides.SLIDES[name])
    return fig, slides.svg(slides.SLIDES[name], fig)


def committed(name):
    return (slides.FOLDER / f"{name}.svg").read_text()


def says(text):
    """The texts of a slide, which stand in comments, since its letters are paths."""
    return re.findall(r"<!-- (.*?) -->", text, re.DOTALL)


def differs(one, other):
    """What is not the same in two slides, but for the last digits of numbers and the names made from them."""
    bones = [NUMBER.sub("#", IDENTITY.sub("id", text)) for text in (one, other)]
    if bones[0] != bones[1] or says(one) != says(other):
        return "texts or shapes"
    numbers = [np.array(NUMBER.findall(IDENTITY.sub("id", text)), float) for text in (one, other)]
    return "" if np.allclose(*numbers, rtol=0, atol=0.05) else "places"


@ALL
def test_a_slide_is_what_the_code_draws(name):
    difference = differs(committed(name), drawn(name)[1])
    assert not difference, f"{name}: other {difference}; run `python -m course`, and look at it"


def test_a_slide_that_drifts_is_noticed():
    text = committed("08_ladder")
    assert not differs(text, text.replace("960 0", "960.01 0"))
    assert differs(text, text.replace("960 0", "961 0")) == "places"
    assert differs(text, text.replace("<!-- 0.58 -->", "<!-- 0.59 -->")) == "texts or shapes"
    assert differs(text, text.replace("<path", "<rect", 1)) == "texts or shapes"


def test_there_is_no_slide_that_nobody_draws():
    assert {path.stem for path in slides.FOLDER.iterdir()} == {*slides.SLIDES}


@ALL
def test_the_same_slide_gives_the_same_bytes(name):
    fig, text = drawn(name)
    assert slides.svg(slides.SLIDES[name], fig) == text


@ALL
def test_a_slide_is_small_wide_and_has_words(name):
    text, slide = committed(name), slides.SLIDES[name]
    root = ElementTree.fromstring(text)
    _, _, wide, high = map(float, root.get("viewBox").split())
    assert len(text.encode()) < 200_000 and wide / high == pytest.approx(16 / 9)
    assert root.get("role") == "img" and root.get("aria-labelledby") == "title desc"
    assert root.find(f"{NAME}title").text == slide.title and root.find(f"{NAME}desc").text == slide.alt
    assert len(slide.alt) > 60 and slide.caption.endswith((".", "?"))
    assert not re.search(r"<dc:date>|<dc:creator>|<image|<text|font-family", text)
    assert not re.search(r'href="(?!#)', text)  # nothing is fetched


def shown(fig):
    """Each text that a slide shows, with the box it takes."""
    FigureCanvasAgg(fig).draw()
    hidden = set()
    for ax in fig.axes:
        for axis in (ax.xaxis, ax.yaxis):
            drawn_ticks = {id(t.label1) for t in axis._update_ticks()} if ax.axison else set()
            hidden |= {id(t.label1) for t in (*axis.majorTicks, *axis.minorTicks)} - drawn_ticks
    texts = [t for t in fig.findobj(Text) if t.get_text().strip() and t.get_visible() and id(t) not in hidden]
    return [(t, t.get_window_extent()) for t in texts]


@ALL
def test_its_letters_are_large_whole_and_apart(name):
    fig, _ = drawn(name)
    found = shown(fig)
    assert len(found) > 4
    wide, high = fig.bbox.size
    for text, box in found:
        assert text.get_fontsize() >= 16, text.get_text()
        assert 0 <= box.x0 and box.x1 <= wide and 0 <= box.y0 and box.y1 <= high, f"cut: {text.get_text()!r}"
    for (one, a), (other, b) in itertools.combinations(found, 2):
        across, down = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert across <= 1 or down <= 2, f"{one.get_text()!r} lies over {other.get_text()!r}"


def test_the_numbers_of_the_results_are_those_of_the_slides():
    methods = studies.read("ladder")["methods"]
    found = says(committed("08_ladder"))
    assert {f"{row['64']['dice']['mean']:.2f}" for n, row in methods.items() if n != "empty mask"} <= {*found}
    assert {*methods} - {"empty mask"} <= {*found}
    gaps = studies.read("against")["minus U-Net"]
    found = " ".join(says(committed("11_shifts")))
    assert all(f"{gap['spatial VAE, detached']['mean']:+.3f}" in found for gap in gaps.values())
    assert found.count("behind") == sum(gap["spatial VAE, detached"]["high"] < 0 for gap in gaps.values())
    arms = studies.read("against")["arms"]
    assert f"{arms['U-Net']['parameters']:,} weights" in " ".join(says(committed("10_unet")))
    parts = re.findall(r"([\d,]+) weights", " ".join(says(committed("09_spatial"))))
    assert sum(int(n.replace(",", "")) for n in parts) == arms["spatial VAE, detached"]["parameters"]


def test_other_results_are_another_slide(monkeypatch):
    sections = {name: studies.read(name) for name in ("ladder", "bugs")}
    sections["ladder"]["methods"]["random encoder"]["64"]["dice"]["mean"] = 0.777
    sections["ladder"]["recipe"]["beta"] = 0.33
    sections["ladder"]["patients"]["test"] = 99
    monkeypatch.setattr(studies, "read", sections.get)
    for name, word in (("08_ladder", "0.78"), ("06_loss", "0.33 here"), ("03_split", "99 patients for the test")):
        slide = slides.SLIDES[name]
        text = slides.svg(slide, slides.figure(slide))
        assert any(word in line for line in says(text)) and differs(text, committed(name)), name


def test_every_file_and_folder_of_the_library_is_there():
    found = {word.rstrip("/") for text in says(committed("02_library")) for word in text.split()}
    names = rooms.root_files() + rooms.folders()
    assert len(names) > 15 and {*names} <= found and all(find_spec(f"vaelib.{name}") for name in names)


def test_the_share_of_a_coarse_pixel_keeps_the_volume():
    line = next(line for line in says(committed("04_occupancy")) if line.startswith("Fine pixels"))
    fine, shares, half, fifth = map(int, re.findall(r"(?<![\d.])\d{2,}", line))
    assert fine == shares != half and fifth > half


def test_the_page_shows_each_slide_with_its_words():
    page = teaching.PAGE.read_text()
    table = page.split("<!-- slides -->\n")[1].split("\n<!-- end of slides -->")[0]
    assert table == slides.table()
    assert all((teaching.NOTEBOOKS / path).exists() for path in re.findall(r'src="([^"]+)"', table))
