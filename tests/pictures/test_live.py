"""The sliders in Chromium, in a page opened as a file: right to the pixel, by keyboard and pointer, with no kernel."""

import numpy as np
import pytest
import torch
from boards import LATENT, MASK, MODEL, SCAN, SOFT, SPACING, TRUTH, Z, browser, explorer, threshold, turntable

from vaelib import latent, metrics, pictures
from vaelib.pictures import live
from vaelib.pictures.network import described
from vaelib.pictures.panels import verdict
from vaelib.spatial import ResidualDecoder, ResidualEncoder, ResidualMaskDecoder
from vaelib.vae import Decoder, Encoder

BOARD = "document.querySelector('.vaelib-live').board"


@pytest.fixture
def opened(chromium, tmp_path):
    """Open a page of one board or several; nothing may go wrong on it or be asked of anyone."""
    tab, wrong, asked = chromium.new_page(viewport={"width": 1000, "height": 900}), [], []
    tab.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))

    def opened(*boards):
        shown = "".join(live.place(board.content, board.at) for board in boards)
        head = '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>sliders</title></head><body>'
        (tmp_path / "page.html").write_text(f"{head}{shown}{live.module()}</body></html>", encoding="utf-8")
        tab.goto((tmp_path / "page.html").as_uri())
        tab.wait_for_function("[...document.querySelectorAll('.vaelib-live')].every(r => !r.board || r.board.draws)")
        settle(tab)
        return tab

    yield opened
    tab.close()
    assert wrong == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def settle(tab):
    """Let two frames pass, after which nothing is left to draw."""
    tab.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def caption(tab):
    return tab.locator(".caption").text_content()


def seen(tab):
    """What all canvases show."""
    return tab.evaluate("[...document.querySelectorAll('.vaelib-live canvas')].map(c => c.toDataURL()).join()")


def move(tab, **values):
    """Move controls, as `Live.set` does."""
    tab.evaluate(f"values => {BOARD}.set(values)", values)
    settle(tab)


def values(tab, what, size):
    return np.array(tab.evaluate(f"[...{what}]")).reshape(size)


@pytest.mark.parametrize("make", [browser, explorer, threshold, turntable])
def test_every_control_works_by_keyboard_and_draws_once_a_key(opened, make):
    board = make()
    tab = opened(board)
    controls = tab.locator(".vaelib-live :is(input, select)")
    names = controls.evaluate_all("all => all.map(one => one.labels[0].textContent)")
    assert all(names) and len({*names}) == len(names)
    controls.first.focus()
    reached = [tab.evaluate("document.activeElement.labels?.[0]?.textContent")]
    for _ in range(len(names) + 3):
        tab.keyboard.press("Tab")
        reached.append(tab.evaluate("document.activeElement.labels?.[0]?.textContent"))
    assert [*filter(None, reached)][: len(names)] == names
    away = {"morph": 0.5, "slider 1": 1.0} if make is explorer else {}  # where "to" and the kind of step matter
    for k, name in enumerate(names):
        move(tab, **board.at, **away)
        control = controls.nth(k)
        low, high = (control.get_attribute(edge) for edge in ("min", "max"))
        last = control.evaluate("e => e.selectedIndex === e.length - 1")
        if control.evaluate("e => e.tagName") == "INPUT":
            key, edges = ("ArrowLeft", {"Home": low, "End": high}) if control.input_value() == high else ("ArrowRight",
                {"End": high, "Home": low})  # fmt: skip
        else:
            key, edges = ("ArrowUp" if last else "ArrowDown"), {}
        before, draws = seen(tab), tab.evaluate(f"{BOARD}.draws")
        control.focus()
        tab.keyboard.press(key)
        settle(tab)
        assert tab.evaluate(f"{BOARD}.draws") == draws + 1, name
        pictures = {before, seen(tab)}
        for edge, value in edges.items():
            tab.keyboard.press(edge)
            settle(tab)
            assert float(control.input_value()) == float(value)
            pictures.add(seen(tab))
        assert len(pictures) > 1, name
    labels = tab.locator("figure > canvas").evaluate_all("all => all.map(c => c.role + c.getAttribute('aria-label'))")
    assert all(label.startswith("img") and caption(tab) in label for label in labels)
    tab.wait_for_function("document.querySelector('[role=status]').textContent === "
                          "document.querySelector('.caption').textContent")  # fmt: skip


@pytest.mark.parametrize("width", [320, 1280])
def test_nothing_sticks_out(opened, width):
    tab = opened(browser(), explorer(), threshold(), turntable())
    tab.set_viewport_size({"width": width, "height": 700})
    settle(tab)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert min(tab.locator("figure > canvas").evaluate_all("all => all.map(c => c.clientWidth)")) > 100


NETWORKS = {
    "plain, 64": lambda: (Decoder(64, 16, 64), (64,)),
    "plain, 512": lambda: (Decoder(512, 2, 16), (16,)),
    "residual, vector": lambda: (ResidualDecoder(64, 8, 32, 1), (32,)),
    "residual, spatial": lambda: (ResidualMaskDecoder(64, 8, 16, 8), (16, 8, 8)),
    "residual, odd, transposed": lambda: (ResidualDecoder(32, 3, 3, 8, upsample="transposed"), (3, 8, 8)),
    "encoder": lambda: (Encoder(32, 4, 12), (1, 32, 32)),
    "residual encoder": lambda: (ResidualEncoder(64, 8, 4, 8), (1, 64, 64)),
}


@pytest.mark.parametrize("engine", ["WebAssembly", "plain JavaScript"])
def test_each_network_says_in_the_browser_what_it_says_in_pytorch(chromium, engine):
    tab = chromium.new_page()
    tab.add_init_script("" if engine == "WebAssembly" else "delete window.WebAssembly")
    source = (
        live.MODULE.replace("export default", "window.module = { network, forward, engine }; void")
        + "window.ready = true;"
    )
    tab.goto("about:blank")
    tab.set_content(f'<script type="module">{source}</script>')
    tab.wait_for_function("window.ready")
    assert tab.evaluate("!!module.engine.sum") == (engine == "WebAssembly")
    for name, make in NETWORKS.items():
        torch.manual_seed(1)
        net, shape = make()
        for part in net.parameters():
            torch.nn.init.normal_(part, std=0.15)  # biases, and what a residual block adds, are not 0
        x = torch.randn(1, *shape)
        with torch.no_grad():
            wanted = net.eval()(x)
        wanted = (wanted[0] if isinstance(wanted, tuple) else wanted).ravel().numpy()
        found = tab.evaluate(
            "async ([net, x]) => [...module.forward(await module.network(net), Float32Array.from(x))]",
            [described(net), x.ravel().tolist()],
        )
        assert np.abs(found - wanted).max() < 1e-4 * max(1, np.abs(wanted).max()), name
        assert wanted.std() > 1e-2
    tab.close()


# --- the latent space -----------------------------------------------------------------------------------------


def decoded(tab):
    """Grey values and probabilities that stand behind the pictures."""
    return [values(tab, f"{BOARD}.space.decode({BOARD}.here()).{what}", (32, 32)) for what in ("image", "mask")]


def test_the_latent_sliders_go_where_they_say(opened):
    tab = opened(explorer(places={"one": 2, "other": 5}))
    first = latent.pca(Z, 1)
    step = first.components_[0] * np.sqrt(first.explained_variance_[0])
    largest = np.eye(LATENT)[Z.var(axis=0).argmax()]
    for moves, z in (
        ({}, Z[2]),
        ({"morph": 1}, Z[5]),
        ({"morph": 0.5}, Z[[2, 5]].mean(0)),
        ({"morph": 0, "slider 1": 2}, Z[2] + 2 * step),
        ({"sliders move": "raw units"}, Z[2] + 2 * largest),
    ):
        move(tab, **moves)
        for found, net in zip(decoded(tab), MODEL, strict=True):
            assert np.abs(found - latent.decode(net, np.float32(z)[None])[0, 0]).max() < 1e-4, moves
    assert tab.locator("label").all_text_contents().count(f"unit {largest.argmax()}") == 1


def test_dice_names_the_slice_whose_mask_it_is_against(opened):
    tab = opened(explorer(places={"one": 2, "other": 5}))
    move(tab, threshold=0.4)
    assert f"Mask of {TRUTH[2].sum()} pixels, Dice 1.00 against one." in caption(tab) and "other" not in caption(tab)
    move(tab, morph=1)
    assert "Dice 1.00 against other" in caption(tab) and "one." not in caption(tab)
    move(tab, morph=0.25)  # nothing was scanned here
    found = latent.decode(MODEL[1], (0.75 * Z[2] + 0.25 * Z[5])[None])[0, 0] >= 0.4
    for name, row in {"one": 2, "other": 5}.items():
        assert f"Dice {metrics.dice(found, TRUTH[row]):.2f} against {name}" in caption(tab)
    assert "neither mask is true here" in caption(tab)
    move(tab, threshold=1)
    assert "Mask of 0 pixels, Dice 0.00" in caption(tab)


def test_reset_and_random_draw(opened):
    tab = opened(explorer())
    start, drawn = seen(tab), caption(tab)
    tab.get_by_role("button", name="random draw").press("Enter")
    settle(tab)
    steps = [tab.evaluate(f"{BOARD}.value('slider {k}')") for k in (1, 2, 3)]
    assert len({*steps}) > 1 and max(map(abs, steps)) <= 3 and caption(tab) != drawn
    move(tab, morph=0.5)
    tab.get_by_role("button", name="reset").click()
    settle(tab)
    assert seen(tab) == start and caption(tab) == drawn


# --- slices ---------------------------------------------------------------------------------------------------


def test_a_slider_draws_its_own_plane_and_moves_only_lines_in_the_others(opened):
    tab = opened(browser())
    tab.evaluate(f"{BOARD}.pictures.forEach(p => {{ const f = p.ground; p.made = 0; "
                 "p.ground = (...all) => { p.made += 1; f.apply(p, all); }; })")  # fmt: skip
    before = seen(tab)
    tab.get_by_role("slider", name="row").press("ArrowRight")
    settle(tab)
    assert tab.evaluate(f"{BOARD}.pictures.map(p => p.made)") == [0, 1, 0] and seen(tab) != before
    move(tab, opacity=0.2)
    assert tab.evaluate(f"{BOARD}.pictures.map(p => p.made)") == [1, 2, 1]


def test_the_planes_show_the_scan_through_its_window(opened):
    tab = opened(browser())
    low, high = pictures.WINDOWS["abdomen (W 400, L 40)"]
    at = {"axial": 3, "coronal": 9, "sagittal": 12}
    move(tab, slice=3, row=9, column=12, mask="hidden", prediction="hidden")
    for plane, figure in zip(at, tab.locator("figure").all(), strict=True):
        wanted = np.rint(255 * (pictures.cut(SCAN.astype(float), plane, at[plane]) - low) / (high - low)).clip(0, 255)
        shown = figure.evaluate(f"(_, k) => [...{BOARD}.pictures[k].pixels.data]", [*at].index(plane))
        assert np.abs(np.reshape(shown, (*wanted.shape, 4))[..., 0] - wanted).max() <= 1
        box = figure.locator("canvas").bounding_box()
        down, across = {"axial": (1, 2), "coronal": (0, 2), "sagittal": (0, 1)}[plane]
        tall = SCAN.shape[down] * SPACING[down] / (SCAN.shape[across] * SPACING[across])
        assert box["height"] / box["width"] == pytest.approx(tall, rel=0.02)  # true aspect
    move(tab, mask="outline", prediction="fill", plane="coronal")
    assert f"coronal, row 9 of 0 to 23; mask: {MASK[:, 9].sum()} pixels" in caption(tab)
    assert f"prediction: {(SOFT[:, 9] >= 0.5).sum()} pixels" in caption(tab)


def test_the_pointer_reads_hu_and_mm_moves_the_cross_and_drags_the_window(opened):
    tab = opened(browser())
    box = tab.locator("figure.main canvas").bounding_box()
    one = box["width"] / SCAN.shape[2]
    x, y = box["x"] + 20.5 * one, box["y"] + 6.5 * one
    move(tab, slice=2)
    tab.mouse.move(x, y)
    said = tab.locator(".pointer").text_content().replace("−", "-")
    assert said == (f"{SCAN[2, 6, 20]} HU at slice 2, row 6, column 20: 16.0 mm to the left, 4.8 mm back, 5.0 mm up "
                    "from the first voxel")  # fmt: skip
    tab.mouse.down()
    tab.mouse.up()
    settle(tab)
    assert [tab.evaluate(f"{BOARD}.value('{name}')") for name in ("slice", "row", "column")] == [2, 6, 20]
    tab.mouse.wheel(0, 100)
    settle(tab)
    tab.wait_for_function(f"{BOARD}.value('slice') === 3")
    tab.keyboard.down("Shift")
    tab.mouse.down()
    tab.mouse.move(x + 50, y + 20)
    tab.mouse.up()
    tab.keyboard.up("Shift")
    settle(tab)
    assert [tab.evaluate(f"{BOARD}.value('{name}')") for name in ("width", "level")] == [500, 60]
    assert "Window: −190 to 310 HU" in caption(tab)


# --- the threshold, surfaces, and what goes wrong -----------------------------------------------------------


def test_the_threshold_counts_as_the_library_does(opened):
    tab = opened(threshold())
    truth = MASK >= 0.5
    assert tab.evaluate(f"{BOARD}.value('slice')") == truth.sum(axis=(1, 2)).argmax()
    for cut in (0, 0.2, 0.57, 1):
        move(tab, threshold=cut, slice=2)
        found = SOFT >= cut
        seen = verdict(truth[2], found[2])
        words = ", ".join(f"{(seen == k).sum()} {name}" for k, name in enumerate(pictures.VERDICTS, start=1))
        one, every = metrics.dice(found[2], truth[2]), metrics.dice(found, truth)
        assert caption(tab) == f"Dice of this slice {one:.2f}: {words}. Dice of all slices {every:.2f}."


@pytest.mark.parametrize(
    ("view", "words"),
    [
        ((-90, 0), "seen from the front"),
        ((0, 5), "seen from the left"),
        ((180, 0), "seen from the right"),
        ((-180, 0), "seen from the right"),
        ((90, 40), "seen from the back and above"),
        ((10, -90), "seen from below, as a slice is"),
    ],
)
def test_a_surface_is_in_the_middle_and_a_view_has_words(opened, view, words):
    tab = opened(turntable())
    move(tab, azimuth=view[0], elevation=view[1])
    assert caption(tab) == f"truth, 2D, {words}"
    centre = tab.locator("canvas").first.evaluate(
        "c => [...c.getContext('2d').getImageData(c.width / 2, c.height / 2, 1, 1).data]"
    )
    assert centre[0] > 100 and centre[1] > 100 and centre[2] < 100  # yellow: the truth


def test_a_board_that_fails_says_so_and_leaves_the_others(opened):
    broken = threshold()
    broken.content = broken.content | {"truth": {"type": "u1", "data": "AAAA"}}
    tab = opened(broken, explorer())
    assert tab.get_by_role("alert").text_content().startswith("The sliders cannot be shown:")
    assert tab.locator("figure > canvas").count() == 3


def test_a_browser_that_cannot_unpack_is_told_so_in_one_sentence(opened):
    tab = opened(threshold())
    tab.add_init_script("delete window.DecompressionStream")
    tab.reload()
    said = tab.get_by_role("alert").text_content()
    assert said.startswith("The sliders cannot be shown: This browser cannot unpack") and said.count(".") == 1


# The texts of a page: each with its ink and the paper under it, as red, green, blue.
TEXTS = """() => {
  const probe = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (colour) => {
    probe.clearRect(0, 0, 1, 1);
    probe.fillStyle = colour;
    probe.fillRect(0, 0, 1, 1);
    return [...probe.getImageData(0, 0, 1, 1).data];
  };
  const page = document.createElement("i");
  page.style.color = "Canvas";
  document.body.append(page);
  const paper = (at) => {
    if (!at) return rgba(getComputedStyle(page).color);
    const own = rgba(getComputedStyle(at).backgroundColor);
    return own[3] === 255 ? own : paper(at.parentElement);
  };
  return [...document.querySelectorAll("body *")].filter((one) => one.checkVisibility() && one !== page &&
    !one.closest("script, style, noscript") &&
    [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
    .map((one) => [one.textContent.trim().slice(0, 30), rgba(getComputedStyle(one).color), paper(one)]);
}"""
STILL = """() => [...document.querySelectorAll("body *")].every((one) => {
  const { transitionDuration, animationName, scrollBehavior } = getComputedStyle(one);
  return transitionDuration === "0s" && animationName === "none" && scrollBehavior === "auto";
}) && document.getAnimations().length === 0"""


def contrast(ink, paper):
    """The contrast of two colours, from 1 to 21, as WCAG has it."""

    def light(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.array(colour[:3]) / 255]
        return np.dot(linear, (0.2126, 0.7152, 0.0722)) + 0.05

    low, high = sorted([light(ink), light(paper)])
    return high / low


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_themes_can_be_read_and_nothing_moves_by_itself(opened, scheme):
    broken = threshold()
    broken.content = broken.content | {"truth": {"type": "u1", "data": "AAAA"}}
    tab = opened(browser(), explorer(), threshold(), turntable(), broken)
    tab.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    tab.evaluate("document.documentElement.style.colorScheme = 'light dark'")
    texts = tab.evaluate(TEXTS)
    assert len(texts) > 60
    assert {text: round(contrast(*inks), 1) for text, *inks in texts if contrast(*inks) < 4.5} == {}
    paper = next(paper for text, _, paper in texts if text.startswith("The sliders cannot"))
    assert (sum(paper) - 255 > 380) == (scheme == "light")
    assert tab.evaluate(STILL)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("make", [browser, explorer, threshold, turntable])
def test_each_control_has_a_name_and_shows_its_focus(opened, make, scheme):
    tab = opened(make())
    tab.emulate_media(color_scheme=scheme)
    tab.evaluate("document.documentElement.style.colorScheme = 'light dark'")
    page = (255, 255, 255) if scheme == "light" else (18, 18, 18)  # Chromium's Canvas
    controls = tab.locator(".vaelib-live :is(input, select, button):enabled")
    for _ in range(controls.evaluate_all("all => all.filter(one => one.checkVisibility()).length")):
        tab.keyboard.press("Tab")
        name, width, kind, colour = tab.evaluate("""() => {
          const at = document.activeElement, { outlineWidth, outlineStyle, outlineColor } = getComputedStyle(at);
          return [at.labels?.[0]?.textContent || at.textContent, parseFloat(outlineWidth), outlineStyle, outlineColor];
        }""")
        ring = [int(part) for part in colour[4:-1].split(",")]
        assert name.strip() and width >= 2 and kind == "solid" and contrast(ring, page) >= 3, name
