"""Figures are pure: right axes, right aspect, right letters, the same bytes twice, and inputs left alone."""

import base64
import importlib
import io
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.growth_chart import growth
from vaelib import InputError, pictures
from vaelib.cohorts.quality import MaskCheck
from vaelib.cohorts.survey import Row
from vaelib.pictures import style
from vaelib.pictures.live import Live
from vaelib.pictures.panels import Panel, outline, verdict

RNG = np.random.default_rng(0)
IMAGES = RNG.random((4, 16, 16))
MASKS = np.zeros((4, 16, 16))
MASKS[:, 5:9, 4:12] = 1
SHIFTED = np.roll(MASKS, 2, axis=2)
VOLUME = RNG.integers(-1000, 400, (6, 20, 30)).astype(np.int16)
HISTORY = [{"epoch": e, "train/kl": 9 - e, "val/kl": 10 - e, "beta": 0.1 * e} for e in range(5)]
SCORES = RNG.random((5, 4))
THUMBNAIL = (60 + 100 * RNG.random((128, 128))).astype(np.uint8)
SPOT = np.zeros((128, 128), bool)
SPOT[30:40, 20:50] = True
ROWS = [
    Row("PANCREAS_0001", check=MaskCheck(78.4, 95, 1, 30, False, ""), image=THUMBNAIL, mask=SPOT),
    Row("PANCREAS_0002", image=THUMBNAIL, reasons=("no mask",)),
    Row("PANCREAS_0003", reasons=("cannot be read: 1-005.dcm: is damaged or no DICOM; fetch it again",)),
]

SPAN = {"mean": 0.5, "low": 0.4, "high": 0.7}
STEP = {"ms": 20, "MB": 8, "GFLOP/s": 30}
GROWTH = {
    "steps": {
        str(side): {
            kind: {k: n * v for k, v in STEP.items()} for n, kind in enumerate(("a", "a, wide", "b", "b, wide"), 1)
        }
        for side in (32, 64, 128)
    },
    "dice": {str(side): {"plain": SPAN, "ceiling": SPAN} for side in (32, 64, 128)},
    "prepare": [
        {"workers": workers, "patients": n, "seconds": 3.5 * n, "peak_bytes": 7e8}
        for workers in (1, 2)
        for n in (2, 5, 80)
    ],
    "images": 8,
    "minutes": 1.5,
    "limit": 60,
}
FIGURES = {
    "slices": lambda: pictures.slices(IMAGES, MASKS, SHIFTED, titles=list("abcd"), spacing=(2, 1)),
    "slices, one": lambda: pictures.slices(IMAGES[0], MASKS[0]),
    "slices, as models have them": lambda: pictures.slices(IMAGES[:, None], MASKS[:, None]),
    "planes": lambda: pictures.planes(VOLUME, VOLUME > 0, (2.5, 0.8, 0.8)),
    "histogram": lambda: pictures.histogram(
        {"a": VOLUME, "b": VOLUME[0]}, {"fat": (-123, -89), "water": 0}, (-160, 240)
    ),
    "pyramid": lambda: pictures.pyramid([IMAGES[0], IMAGES[0, ::2, ::2]], [MASKS[0], MASKS[0, ::2, ::2]]),
    "curves": lambda: pictures.curves(HISTORY, ["kl", "beta"], log=["kl"]),
    "curves, several runs": lambda: pictures.curves({"one": HISTORY, "two": HISTORY}, ["kl"]),
    "reconstructions": lambda: pictures.reconstructions(IMAGES, {"a": MASKS, "b": SHIFTED}),
    "latent_scatter": lambda: pictures.latent_scatter(SCORES, np.arange(5), "height", explained=[0.4, 0.1]),
    "latent_scatter, names": lambda: pictures.latent_scatter(SCORES, list("aabbc"), "scanner"),
    "traversal": lambda: pictures.traversal(IMAGES.reshape(2, 2, 16, 16), rows=["x", "y"], columns=["-1", "+1"]),
    "bars": lambda: pictures.bars([0.1, 3, 2], 0.5),
    "bars, named": lambda: pictures.bars([1, 300], names=["first", "second"], sort=False, yscale="log"),
    "threshold_sweep": lambda: pictures.threshold_sweep([0.1, 0.2, 0.3, 0.4], SCORES),
    "agreement": lambda: pictures.agreement(IMAGES, MASKS, SHIFTED),
    "contact_sheet": lambda: pictures.contact_sheet(ROWS),
    "scoreboard": lambda: pictures.scoreboard([("a", 0.5, 0.4, 0.6), ("b", 0.2, 0.1, 0.3)], references={"atlas": 0.3}),
    "forest": lambda: pictures.forest({"x": {"a": SPAN, "b": SPAN}, "y": {"b": SPAN}}, zero=0),
    "growth": lambda: growth(GROWTH),
    "dice_per_patient": lambda: pictures.dice_per_patient(list("abcde"), {"vae": SCORES[:, 0], "atlas": SCORES[:, 1]}),
}


@pytest.mark.parametrize("name", FIGURES)
def test_same_bytes_twice_and_inputs_untouched(name):
    before = [a.copy() for a in (IMAGES, MASKS, SHIFTED, VOLUME, SCORES)]
    settings = dict(matplotlib.rcParams)
    first, second = (FIGURES[name]() for _ in range(2))
    assert isinstance(first, Figure)
    data = pictures.png(first)
    assert data == pictures.png(second)
    assert len(data) < 200_000
    picture = Image.open(io.BytesIO(data))
    assert not picture.info.keys() & {"Software", "Creation Time"}
    assert 300 < picture.width < 900
    assert dict(matplotlib.rcParams) == settings
    for old, new in zip(before, (IMAGES, MASKS, SHIFTED, VOLUME, SCORES), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    "name", ["histogram", "curves", "latent_scatter", "bars", "threshold_sweep", "scoreboard", "forest", "growth"]
)
def test_charts_name_their_axes_in_legible_letters(name):
    fig = FIGURES[name]()
    assert fig.axes[-1].get_xlabel() or fig.axes[-1].get_ylabel()
    pictures.png(fig)
    assert all(text.get_fontsize() >= 10 for ax in fig.axes for text in ax.get_xticklabels() + ax.get_yticklabels())


def _letters(ax):
    return "".join(text.get_text() for text in ax.texts)


def test_slices_are_radiological_and_in_true_aspect():
    fig = pictures.slices(IMAGES, MASKS, spacing=(2, 1))
    for ax in fig.axes:
        assert _letters(ax) == "RLAP"
        assert ax.get_aspect() == 2
        assert ax.get_ylim()[0] > ax.get_ylim()[1]  # row 0, anterior, is at the top
    fig.draw_without_rendering()
    box = fig.axes[0].get_window_extent()
    assert box.height / box.width == pytest.approx(2, rel=0.02)


def test_planes_share_one_scale_in_mm():
    spacing = (2.5, 0.8, 0.6)
    mask = np.zeros(VOLUME.shape)
    mask[1, 2, 3] = 1
    fig = pictures.planes(VOLUME, mask, spacing)
    assert [_letters(ax) for ax in fig.axes] == ["RLAP", "RLSI", "APSI"]
    assert [ax.get_title() for ax in fig.axes] == ["axial, slice 1", "coronal, row 2", "sagittal, column 3"]
    fig.draw_without_rendering()
    mm = np.multiply(VOLUME.shape, spacing)
    scales = []
    for ax, (down, across) in zip(fig.axes, [(1, 2), (0, 2), (0, 1)], strict=True):
        box = ax.get_window_extent()
        scales += [box.height / mm[down], box.width / mm[across]]
    np.testing.assert_allclose(scales, scales[0], rtol=1e-6)
    np.testing.assert_array_equal(fig.axes[1].images[0].get_array(), VOLUME[::-1, 2])  # superior at the top
    np.testing.assert_array_equal(fig.axes[2].images[0].get_array(), VOLUME[::-1, :, 3])


def test_planes_fill_what_was_predicted_and_outline_the_truth():
    found = np.zeros(VOLUME.shape)
    found[1, 2, 3] = 1
    fig = pictures.planes(VOLUME, None, (1, 1, 1), prediction=found)
    assert [ax.get_title() for ax in fig.axes] == ["axial, slice 1", "coronal, row 2", "sagittal, column 3"]
    assert all(ax.images[1].get_visible() and len(ax.lines[0].get_xdata()) == 0 for ax in fig.axes)


def test_outline_runs_along_pixel_edges():
    mask = np.zeros((5, 5))
    mask[2, 1:3] = 1
    x, y = outline(mask)
    assert len(x) == 3 * 6  # two pixels side by side have six outer edges
    assert (np.nanmin(x), np.nanmax(x), np.nanmin(y), np.nanmax(y)) == (0.5, 2.5, 1.5, 2.5)
    assert np.isfinite(outline(np.ones((3, 3)))[0]).sum() == 2 * 12  # a mask that reaches the border closes


def test_a_fill_lies_where_its_mask_is():
    panel = Panel(Figure().add_subplot()).draw(IMAGES[0], fill=MASKS[0])
    assert list(panel.fill.get_extent()) == [3.5, 11.5, 8.5, 4.5]
    assert not panel.draw(IMAGES[0], fill=0 * MASKS[0]).fill.get_visible()


def test_verdicts():
    assert verdict([0, 1, 0, 1], [0, 1, 1, 0]).tolist() == [0, 1, 2, 3]
    legend = pictures.agreement(IMAGES, MASKS, SHIFTED).legends[0]
    assert [text.get_text() for text in legend.texts] == list(pictures.VERDICTS)


def test_around_is_square_and_holds_the_mask():
    box = pictures.around(MASKS, 0.25)
    assert MASKS[box].sum() == MASKS.sum()
    assert MASKS[box].shape == (4, 12, 12)
    assert MASKS[pictures.around(0 * MASKS)].shape == MASKS.shape


def test_curves_draw_what_the_history_has():
    kl, beta = pictures.curves(HISTORY, ["kl", "beta"]).axes
    assert [line.get_linestyle() for line in kl.lines] == ["-", "--"]
    np.testing.assert_allclose(beta.lines[0].get_ydata(), [0, 0.1, 0.2, 0.3, 0.4])


def test_bars_count_the_active_units():
    (ax,) = pictures.bars([0.1, 3, 2], 0.5).axes
    assert [bar.get_height() for bar in ax.patches] == [3, 2, 0.1]
    assert ax.get_title(loc="left") == "2 of 3 at or above 0.5"


def test_sweep_and_board_mark_what_they_measure_against():
    (ax,) = pictures.threshold_sweep([0.1, 0.2, 0.3, 0.4], SCORES).axes
    np.testing.assert_allclose(ax.lines[5].get_ydata(), SCORES.mean(axis=0))
    assert set(ax.lines[-1].get_xdata()) == {0.2}
    (ax,) = FIGURES["scoreboard"]().axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert ax.get_legend().texts[0].get_text() == "atlas 0.30"


def test_a_forest_has_one_mark_for_each_series_that_is_on_a_line():
    (ax,) = FIGURES["forest"]().axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["x", "y"]
    marks = {line.get_label(): line.get_ydata() for line in ax.lines if not line.get_label().startswith("_")}
    assert len(marks["a"]) == 1 and len(marks["b"]) == 2
    assert ax.get_xlim()[0] < 0 and ax.get_xlim()[1] > 0.7  # zero, and the end of every interval
    assert marks["a"][0] < marks["b"][0] < 0.5 < marks["b"][1] < 1.5


def test_show_displays_a_png_with_its_alt_text_and_saves_it(monkeypatch, tmp_path):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    assert pictures.show(FIGURES["bars"](), "three bars", save=tmp_path / "figures" / "bars.png") is None
    bundle, metadata = shown[0]._repr_mimebundle_()
    assert metadata["image/png"]["alt"] == "three bars" if "image/png" in metadata else metadata["alt"] == "three bars"
    assert (tmp_path / "figures" / "bars.png").read_bytes() == shown[0].data
    with pytest.raises(InputError, match="alt text is empty"):
        pictures.show(FIGURES["bars"](), " ")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: pictures.slices(np.zeros(4)),
        lambda: pictures.slices([]),
        lambda: pictures.slices(IMAGES, MASKS[:3]),
        lambda: pictures.slices(IMAGES, MASKS[:, :8]),
        lambda: pictures.planes(IMAGES[0]),
        lambda: pictures.planes(VOLUME, VOLUME[:-1]),
        lambda: pictures.histogram({"pancreas": []}),
        lambda: pictures.pyramid([IMAGES[0]], [MASKS[0, :4]]),
        lambda: pictures.curves(HISTORY, ["dice"]),
        lambda: pictures.reconstructions(IMAGES, IMAGES[:2]),
        lambda: pictures.latent_scatter(SCORES, [1, 2], "x"),
        lambda: pictures.latent_scatter(np.zeros((9, 2)), list("abcdefghi"), "x"),
        lambda: pictures.traversal(IMAGES),
        lambda: pictures.bars([]),
        lambda: pictures.threshold_sweep([0.1, 0.2], SCORES),
        lambda: pictures.agreement(IMAGES, MASKS, MASKS[0]),
        lambda: pictures.scoreboard([]),
        lambda: pictures.contact_sheet([]),
        lambda: pictures.scoreboard([("a", 0.5)]),
        lambda: pictures.forest({}),
        lambda: pictures.dice_per_patient(["a"], [0.1, 0.2]),
    ],
)
def test_a_wrong_shape_is_one_line(wrong):
    with pytest.raises(InputError) as caught:
        wrong()
    assert "\n" not in str(caught.value)


def test_growth_names_its_lines_in_their_colours_and_its_ticks_in_units():
    fig = growth(GROWTH)
    fig.draw_without_rendering()
    time, memory, speed, dice, seconds, peak = fig.axes
    for ax in (time, memory, speed):
        colours = [line.get_color() for line in ax.lines[:4]]
        assert [t.get_text() for t in ax.texts[:4]] == ["a", "a,\nwide", "b", "b,\nwide"]  # from the lowest up
        assert [t.get_color() for t in ax.texts[:4]] == colours == [pictures.BLUE] * 2 + [pictures.VERMILLION] * 2
        places = [t.xy[1] for t in ax.texts[:4]]
        assert min(np.diff(places)) > 0.07 and [t.get_text() for t in ax.get_xticklabels()] == ["32", "64", "128"]
    np.testing.assert_allclose(time.lines[3].get_ydata(), 4 * 0.02)
    assert "100 ms" in {t.get_text() for t in time.get_yticklabels()}
    assert "10 MB" in {t.get_text() for t in memory.get_yticklabels()}
    assert dice.get_ylim()[0] == peak.get_ylim()[0] == 0 and dice.lines[1].get_color() == pictures.BLUE
    assert [list(line.get_xdata()) for line in seconds.lines] == [[2, 5, 80]] * 2
    assert {"4 s", "1 min", "4 min"} <= {t.get_text() for t in seconds.get_yticklabels()}
    assert "1 GB" in {t.get_text() for t in peak.get_yticklabels()}


def test_a_contact_sheet_frames_the_flagged_and_says_why():
    clean, bare, unread = pictures.contact_sheet(ROWS).axes
    titles = [ax.get_title() for ax in (clean, bare, unread)]
    assert titles == ["PANCREAS_0001\n78 ml", "PANCREAS_0002\nno mask", "PANCREAS_0003\nno scan"]
    assert clean.get_xlabel() == "" and not clean.spines["left"].get_visible()
    assert bare.get_xlabel() == "no mask" and unread.get_xlabel().replace("\n", " ").startswith("cannot be read: 1-005")
    frame = {matplotlib.colors.to_hex(spine.get_edgecolor()).upper() for spine in bare.spines.values()}
    assert frame == {pictures.VERMILLION} and bare.spines["left"].get_visible()


def test_a_thumbnail_is_cut_to_the_body_with_its_mask_in_place():
    image = np.zeros((128, 128), np.uint8)
    image[24:104, 10:110] = 150
    (ax,) = pictures.contact_sheet([ROWS[0]._replace(image=image, mask=SPOT)]).axes
    shown = np.asarray(ax.images[0].get_array())
    assert shown.shape[0] == shown.shape[1] < 112 and shown.sum() == image.astype(float).sum()
    left, top = np.argwhere(shown)[0][1], np.argwhere(shown)[0][0]
    x, y = ax.lines[0].get_data()
    assert (np.nanmin(x) - left, np.nanmax(x) - left) == (20 - 10 - 0.5, 50 - 10 - 0.5)
    assert (np.nanmin(y) - top, np.nanmax(y) - top) == (30 - 24 - 0.5, 40 - 24 - 0.5)
    assert _letters(ax) == "RLAP" and ax.get_ylim()[0] > ax.get_ylim()[1]


@pytest.mark.parametrize("count", [4, 12, 80])
def test_no_words_of_a_contact_sheet_run_into_each_other(count):
    long = ROWS[0]._replace(patient="a patient with a long name 0004", reasons=("mask lies better reversed in y",) * 5)
    fig = pictures.contact_sheet([*ROWS, long, *ROWS * 26][:count])
    assert len(fig.axes) == count and len({round(ax.get_position().x0, 3) for ax in fig.axes}) in (4, 10)
    fig.draw_without_rendering()
    boxes = [t.get_window_extent() for ax in fig.axes for t in (ax.title, ax.xaxis.label) if t.get_text()]
    boxes += [ax.get_window_extent() for ax in fig.axes]
    edges = np.array([(box.x0, box.x1, box.y0, box.y1) for box in boxes])
    x0, x1, y0, y1 = edges.T[:, :, None]
    overlap = (np.minimum(x1, x1.T) - np.maximum(x0, x0.T) > 0.5) & (np.minimum(y1, y1.T) - np.maximum(y0, y0.T) > 0.5)
    assert not np.triu(overlap, 1).any()
    assert edges.min() >= -3 and y1.max() <= fig.bbox.height + 1
    assert min(t.get_fontsize() for ax in fig.axes for t in (ax.title, ax.xaxis.label)) >= 6.5


def test_the_door_opens_at_once_and_shows_every_figure_and_slider():
    code = "import sys; from vaelib import pictures; print({*sys.modules} & {'matplotlib', 'numpy', 'torch'})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
    assert dir(pictures) == sorted(pictures.__all__) and all(hasattr(pictures, name) for name in dir(pictures))
    for file in ("charts", "grids", "solids", "sliders"):
        module = importlib.import_module(f"vaelib.pictures.{file}")
        for name, value in vars(module).items():
            if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__:
                if getattr(value, "__annotations__", {}).get("return") in (Figure, Live):
                    assert getattr(pictures, name) is value
    with pytest.raises(AttributeError, match="no attribute 'outline'; it has BLUE, "):
        pictures.outline  # noqa: B018


def test_a_picture_for_a_dense_screen_is_as_large_and_has_four_times_the_dots(monkeypatch):
    shown, fig = [], Figure(figsize=(3, 2))
    fig.add_subplot().plot([0, 1])
    monkeypatch.setattr("IPython.display.display", shown.append)
    for sharp in (1, 2):
        monkeypatch.setattr("vaelib.pictures.style.SHARP", sharp)
        pictures.show(fig, "a line")
    (plain, _), (fine, about) = (image._repr_mimebundle_() for image in shown)
    once, twice = (Image.open(io.BytesIO(base64.b64decode(data["image/png"]))) for data in (plain, fine))
    assert twice.width == pytest.approx(2 * once.width, rel=0.03)
    said = about["image/png"]
    assert said["alt"] == "a line" and said["width"] == pytest.approx(once.width, rel=0.03)


def test_a_method_has_one_colour_in_every_chart_and_no_two_series_share_one():
    assert style.colours(["U-Net", "spatial VAE, detached"]) == [style.SKY, style.GREEN]
    assert style.colours(["spatial VAE", "VAE minus U-Net"]) == [style.GREEN, style.ORANGE]  # its first word counts
    assert style.colours(["a", "b"]) == list(style.CYCLE[:2])
    many = style.colours(["U-Net", "U-Net, jittered", "VAE, 31", "VAE, 431", "something"])
    assert many[0] == style.SKY and many[2] == style.ORANGE and len(set(many)) == 5
