"""Every slider, over its whole range: the picture follows, the caption agrees, and a wrong shape is refused."""

import io

import ipywidgets
import numpy as np
import pytest
from PIL import Image

from vaelib import InputError, widgets

RNG = np.random.default_rng(0)
SCAN = RNG.integers(-200, 300, (5, 24, 32)).astype(np.int16)
MASK = np.zeros(SCAN.shape, np.uint8)
MASK[1:4, 8:14, 9:20] = 1
SOFT = 0.9 * np.roll(MASK, 3, axis=2) + 0.1 * RNG.random(SCAN.shape)
SPACING = (2.5, 0.8, 0.8)


def decode(z):
    probability = np.full((16, 16), 0.1)
    probability[4:10, 4:12] = 1 / (1 + np.exp(-z[0] + np.linspace(-2, 2, 8)))
    return np.clip(np.full((16, 16), 0.5) + 0.1 * z[1] + 0.01 * z[2], 0, 1), probability


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
    return widgets.slice_browser(SCAN, MASK, SPACING, SOFT)


def explorer():
    return widgets.latent_explorer(decode, np.zeros(3), np.eye(3), truth=decode(np.ones(3))[1] > 0.5, toward=np.ones(3))


def threshold():
    return widgets.threshold_explorer(SCAN, SOFT, MASK)


@pytest.mark.parametrize("make", [browser, explorer, threshold])
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
    assert board.picture.tooltip
    assert 'role="status"' in board.caption.value
    assert board.picture in board.children
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
    board = widgets.slice_browser(SCAN, MASK)
    assert "mask: 66 pixels" in board.caption.value
    board.controls["mask"].value = False
    assert "mask" not in board.caption.value
    assert list(widgets.slice_browser(SCAN).controls) == ["plane", "slice", "window"]


def test_reset_and_random_draw():
    board = explorer()
    start = board.picture.value
    board.buttons["random draw"].click()
    drawn = [board.controls[f"direction {k}"].value for k in (1, 2, 3)]
    assert len(set(drawn)) == 3
    assert max(map(abs, drawn)) <= 3
    assert board.picture.value != start
    board.buttons["reset"].click()
    assert board.picture.value == start
    assert board.controls["threshold"].value == 0.2


def test_dice_is_live_and_right():
    board = widgets.latent_explorer(decode, np.ones(3), np.eye(3), truth=decode(np.ones(3))[1] >= 0.5)
    board.controls["threshold"].value = 0.5
    assert "Dice 1.00" in board.caption.value
    board.controls["threshold"].value = 1.0
    assert "0 pixels, Dice 0.00" in board.caption.value
    board = widgets.threshold_explorer(SCAN[2], SOFT[2], MASK[2])
    assert list(board.controls) == ["threshold"]
    found = SOFT[2] >= 0.2
    expected = 2 * (found & (MASK[2] > 0)).sum() / (found.sum() + MASK[2].sum())
    assert f"Dice of this slice {expected:.2f}" in board.caption.value


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: widgets.slice_browser(SCAN[0]),
        lambda: widgets.slice_browser(SCAN, MASK[:-1]),
        lambda: widgets.slice_browser(SCAN, None, SPACING, SOFT[..., 1:]),
        lambda: widgets.latent_explorer(decode, np.zeros((1, 3)), np.eye(3)),
        lambda: widgets.latent_explorer(decode, np.zeros(3), np.eye(2)),
        lambda: widgets.latent_explorer(decode, np.zeros(3), np.eye(3), names=["one"]),
        lambda: widgets.latent_explorer(decode, np.zeros(3), np.eye(3), truth=MASK[0]),
        lambda: widgets.latent_explorer(decode, np.zeros(3), np.eye(3), toward=np.zeros(2)),
        lambda: widgets.threshold_explorer(SCAN, SOFT, MASK[0]),
        lambda: widgets.threshold_explorer(SCAN[0, 0], SOFT[0, 0], MASK[0, 0]),
    ],
)
def test_a_wrong_shape_is_one_line(wrong):
    with pytest.raises(InputError) as caught:
        wrong()
    assert "\n" not in str(caught.value)
