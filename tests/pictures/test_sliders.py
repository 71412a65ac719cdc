"""Every slider, over its whole range: the picture follows, the caption agrees, and a wrong shape is refused."""

import io

import ipywidgets
import numpy as np
import pytest
import torch
from PIL import Image

from vaelib import InputError, latent, pictures
from vaelib.pictures.controls import as_in_page, slider

RNG = np.random.default_rng(0)
SCAN = RNG.integers(-200, 300, (5, 24, 32)).astype(np.int16)
MASK = np.zeros(SCAN.shape, np.uint8)
MASK[1:4, 8:14, 9:20] = 1
SOFT = 0.9 * np.roll(MASK, 3, axis=2) + 0.1 * RNG.random(SCAN.shape)
SPACING = (2.5, 0.8, 0.8)


Z = RNG.normal(size=(9, 4)).astype(np.float32) * (1, 3, 2, 0.5)


class Square(torch.nn.Module):
    """Logits of a square whose height is one number of the latent, and its place along a row another."""

    def __init__(self, sign):
        super().__init__()
        self.sign = torch.nn.Parameter(torch.tensor(float(sign)))

    def forward(self, z):  # (N, 4) to (N, 1, 16, 16)
        column = torch.arange(16.0)
        bump = 6 - (column[:, None] - 7).abs() - (column - 7 - z[:, 1, None, None]).abs()
        return (self.sign * (bump + z[:, 0, None, None]) + 0.1 * (z[:, 2] + z[:, 3])[:, None, None])[:, None]


MODEL = Square(-1), Square(1)
TRUTH = latent.decode(MODEL[1], Z)[:, 0] >= 0.5


def values(control):
    if isinstance(control, ipywidgets.Dropdown):
        return [value for _, value in control._options_full]
    if isinstance(control, ipywidgets.Checkbox):
        return [True, False, True]
    return np.linspace(control.min, control.max, 7).astype(type(control.value)).tolist()


def sweep(board, name):
    """The pictures seen while one control goes through its range."""
    pictures = []
    for value in values(board.controls[name]):
        board.controls[name].value = value
        pictures.append(board.picture.value)
    return pictures


def browser():
    return pictures.slice_browser(SCAN, MASK, SPACING, SOFT)


def explorer(**options):
    return pictures.latent_explorer(MODEL, Z, **{"truth": TRUTH, "components": 3} | options)


def moved():
    """The explorer away from its start, where "to" and the kind of step matter."""
    board = explorer()
    board.set(**{"morph": 0.7, "slider 1": 1.0})
    return board


def threshold():
    return pictures.threshold_explorer(SCAN, SOFT, MASK)


@pytest.mark.parametrize("make", [browser, moved, threshold])
def test_every_control_changes_the_picture(make):
    names = list(make().controls)
    for name in names:
        board = make()
        figure, artists = board.fig, [id(a) for ax in board.fig.axes for a in ax.get_children()]
        pictures = sweep(board, name)
        assert len(set(pictures)) > 1, name
        assert Image.open(io.BytesIO(pictures[-1])).format == "PNG"
        assert board.fig is figure
        assert [id(a) for ax in board.fig.axes for a in ax.get_children()] == artists  # updated, never rebuilt


@pytest.mark.parametrize("make", [browser, explorer, threshold])
def test_controls_are_described_and_the_picture_has_words(make):
    board = make()
    assert all(control.description for control in board.controls.values())
    assert 'role="status"' in board.caption.value
    assert "description" in board.picture.keys  # without it, ipywidgets' page fails to show a picture with a tooltip
    before = board.picture.tooltip
    control = board.controls["slice" if make is browser else "threshold"]
    control.value = control.max
    assert board.picture.tooltip != before
    assert board.caption.value.removesuffix("</span>").partition(">")[2] in board.picture.tooltip
    assert board.picture in board.children
    words = [child.value for child in board.children if isinstance(child, ipywidgets.HTML)]
    assert any(pictures.PREDICTION in text for text in words)  # what its colours mean
    assert all(c.continuous_update for c in board.controls.values() if hasattr(c, "continuous_update"))


@pytest.mark.parametrize(("plane", "axis", "aspect"), [("axial", 0, 1), ("coronal", 1, 3.125), ("sagittal", 2, 3.125)])
def test_each_plane_has_its_range_its_aspect_and_its_place(plane, axis, aspect):
    board = browser()
    board.controls["plane"].value = "axial"
    board.controls["plane"].value = plane
    index = board.controls["slice"]
    assert index.max == SCAN.shape[axis] - 1
    assert index.value == int(np.argwhere(MASK)[:, axis].mean())
    assert board.fig.axes[0].get_aspect() == pytest.approx(aspect)
    for k in range(index.max + 1):
        index.value = k
        assert f" {k} of 0 to {index.max}" in board.caption.value
    board.controls["plane"].value = "axial"
    board.controls["plane"].value = plane
    assert index.value == SCAN.shape[axis] - 1  # where it was left


def test_the_mask_can_be_hidden():
    board = pictures.slice_browser(SCAN, MASK)
    assert "mask: 66 pixels" in board.caption.value
    board.controls["mask"].value = False
    assert "mask" not in board.caption.value
    assert list(pictures.slice_browser(SCAN).controls) == ["plane", "slice", "window"]


def test_reset_and_random_draw():
    board = explorer()
    start = board.picture.value
    board.buttons["random draw"].click()
    drawn = [board.controls[f"slider {k}"].value for k in (1, 2, 3)]
    assert len(set(drawn)) == 3
    assert max(map(abs, drawn)) <= 3
    assert board.picture.value != start
    board.controls["morph"].value = 0.5
    board.buttons["reset"].click()
    assert board.picture.value == start
    assert board.controls["threshold"].value == 0.2


def shown(board):
    """The picture and the mask that the explorer's panels hold."""
    return [np.asarray(ax.images[0].get_array()) for ax in board.fig.axes]


def test_a_slider_holds_the_number_that_the_page_makes_of_its_value():
    one = slider("a", -3, 3, 0.1, 0.1)
    assert one.value == 0.10000000000000009  # what Chromium sent back for 0.1
    for low, high, step in ((-3, 3, 0.1), (0, 1, 0.05), (0, 1, 0.01)):
        one = slider("a", low, high, low, step)
        for k in range(round((high - low) / step) + 1):
            held = as_in_page(one, low + k * step)
            assert as_in_page(one, held) == held == pytest.approx(low + k * step, abs=1e-12)
    board = explorer()
    board.buttons["random draw"].click()
    moved = [c for c in board.controls.values() if isinstance(c, ipywidgets.FloatSlider)]
    assert len(moved) > 3 and all(as_in_page(c, c.value) == c.value for c in moved)


def test_the_explorer_starts_at_one_slice_and_morphs_to_another():
    board = explorer(places={"one": 2, "other": 5})
    np.testing.assert_allclose(shown(board)[0], latent.decode(MODEL[0], Z)[2, 0], atol=1e-6)
    board.controls["morph"].value = 1
    np.testing.assert_allclose(shown(board)[0], latent.decode(MODEL[0], Z)[5, 0], atol=1e-6)
    board.controls["morph"].value = 0.5
    np.testing.assert_allclose(shown(board)[0], latent.decode(MODEL[0], Z[[2, 5]].mean(0)[None])[0, 0], atol=1e-6)
    assert list(explorer().controls["from"].options) == ["slice 0", "slice 2", "slice 4", "slice 6", "slice 8"]


def test_a_slider_moves_one_standard_deviation_or_one_unit():
    board = explorer(places={"one": 2})
    first = latent.pca(Z, 1)
    step = first.components_[0] * (Z @ first.components_[0]).std(ddof=1)
    board.controls["slider 1"].value = 2.0
    np.testing.assert_allclose(shown(board)[0], latent.decode(MODEL[0], (Z[2] + 2 * step)[None])[0, 0], atol=1e-5)
    assert [board.controls[f"slider {k}"].description for k in (1, 2)] == ["direction 1", "direction 2"]
    board.controls["sliders move"].value = "raw units"
    largest = Z.var(axis=0).argmax()
    assert board.controls["slider 1"].description == f"unit {largest}"
    np.testing.assert_allclose(
        shown(board)[0], latent.decode(MODEL[0], (Z[2] + 2 * np.eye(4)[largest])[None])[0, 0], atol=1e-5
    )


def test_dice_names_the_slice_whose_mask_it_is_against():
    board = explorer(places={"one": 2, "other": 5})
    board.controls["threshold"].value = 0.5
    assert "Dice 1.00 against one" in board.caption.value and "other" not in board.caption.value
    board.controls["morph"].value = 1
    assert "Dice 1.00 against other" in board.caption.value and "one" not in board.caption.value
    board.controls["morph"].value = 0.25  # nothing was scanned here
    found = latent.decode(MODEL[1], (0.75 * Z[2] + 0.25 * Z[5])[None])[0, 0] >= 0.5
    for name, row in {"one": 2, "other": 5}.items():
        dice = 2 * (found & TRUTH[row]).sum() / (found.sum() + TRUTH[row].sum())
        assert f"Dice {dice:.2f} against {name}" in board.caption.value
    assert "neither mask is true here" in board.caption.value
    board.controls["threshold"].value = 1.0
    assert "Mask of 0 pixels, Dice 0.00" in board.caption.value
    assert "Dice" not in explorer(truth=None).caption.value


def test_the_threshold_explorer_gives_the_dice_of_a_slice():
    board = pictures.threshold_explorer(SCAN[2], SOFT[2], MASK[2])
    assert list(board.controls) == ["threshold"]
    found = SOFT[2] >= 0.2
    expected = 2 * (found & (MASK[2] > 0)).sum() / (found.sum() + MASK[2].sum())
    assert f"Dice of this slice {expected:.2f}" in board.caption.value


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: pictures.slice_browser(SCAN[0]),
        lambda: pictures.slice_browser(SCAN, MASK[:-1]),
        lambda: pictures.slice_browser(SCAN, None, SPACING, SOFT[..., 1:]),
        lambda: pictures.latent_explorer(MODEL, Z[0]),
        lambda: explorer(places={"one": 9}),
        lambda: explorer(components=5),
        lambda: explorer(truth=MASK[0]),
        lambda: pictures.threshold_explorer(SCAN, SOFT, MASK[0]),
        lambda: pictures.threshold_explorer(SCAN[0, 0], SOFT[0, 0], MASK[0, 0]),
    ],
)
def test_a_wrong_shape_is_one_line(wrong):
    with pytest.raises(InputError) as caught:
        wrong()
    assert "\n" not in str(caught.value)
