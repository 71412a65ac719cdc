"""What the sliders carry to the page: numbers that lose nothing on the way; and a wrong shape is refused."""

import io
import json

import numpy as np
import pytest
import torch
from boards import LATENT, MASK, MODEL, SCAN, SOFT, SPACING, TRUTH, Z, browser, explorer, threshold, unpacked
from PIL import Image

from vaelib import InputError, latent, pictures
from vaelib.pictures.live import MODULE, WEB
from vaelib.pictures.network import described, packed
from vaelib.vae import VAE


@pytest.mark.parametrize("make", [browser, explorer, threshold])
def test_a_board_is_text_alone_the_same_each_time_with_a_picture_and_words(make):
    board = make()
    assert json.loads(json.dumps(board.content)) == json.loads(json.dumps(make().content))
    assert all(isinstance(board.get_state()[key], str) for key in ("_esm", "_css"))  # no buffer that Colab would drop
    assert "Sliders" in repr(board) and board.content["alt"] in repr(board) and len(repr(board)) < 110
    assert Image.open(io.BytesIO(board.picture.value)).format == "PNG" and board.fig is board.fig


def test_the_module_is_three_short_files_that_fetch_nothing():
    files = sorted(WEB.glob("*.js"))
    assert len(files) == 3 and all(len(f.read_text().splitlines()) <= 400 for f in files)
    assert "://" not in MODULE and "import " not in MODULE and "fetch(" not in MODULE and "</script" not in MODULE


def test_a_scan_and_its_masks_arrive_as_they_are():
    board = browser()
    np.testing.assert_array_equal(unpacked(board.content["scan"]).reshape(SCAN.shape), SCAN)
    layers = {name: unpacked(text).reshape(SCAN.shape) for name, text in board.content["layers"].items()}
    np.testing.assert_array_equal(layers["mask"] >= 50, MASK == 1)
    np.testing.assert_array_equal(layers["prediction"] >= 50, SOFT >= 0.5)
    assert [board.at[name] for name in ("slice", "row", "column")] == np.argwhere(MASK).mean(0).astype(int).tolist()
    assert pictures.slice_browser(SCAN).content["layers"] == {}


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_threshold_of_hundredths_cuts_as_the_probability_does(kind):
    exact = (np.arange(101) / 100).astype(kind)
    values = np.concatenate([exact, np.nextafter(exact, kind(0)), np.nextafter(exact, kind(1))])
    sent = unpacked(pictures.threshold_explorer(*[values[None]] * 3).content["probability"])
    for k in range(101):
        np.testing.assert_array_equal(sent >= k, values >= kind(k / 100))


def test_steps_are_one_standard_deviation_or_one_unit():
    steps = explorer().content["steps"]
    first = latent.pca(Z, 3)
    sent = unpacked(steps["principal directions"]["vectors"]).reshape(3, LATENT)
    np.testing.assert_allclose(sent, first.components_ * np.sqrt(first.explained_variance_)[:, None], atol=1e-5)
    assert steps["principal directions"]["names"] == ["direction 1", "direction 2", "direction 3"]
    largest = Z.var(axis=0).argmax()
    assert steps["raw units"]["names"][0] == f"unit {largest}"
    assert unpacked(steps["raw units"]["vectors"])[:LATENT].argmax() == largest


def test_places_and_truths_are_those_of_their_rows():
    board = explorer(places={"one": 2, "other": 5})
    assert board.content["places"] == [["one", 2], ["other", 5]]
    assert [name for name, _ in explorer().content["places"]] == [f"slice {k}" for k in (0, 2, 4, 6, 8)]
    np.testing.assert_array_equal(np.unpackbits(unpacked(board.content["truth"])).reshape(TRUTH.shape), TRUTH)
    np.testing.assert_array_equal(unpacked(board.content["z"]).reshape(Z.shape), Z)
    shown = [np.asarray(ax.images[0].get_array()) for ax in board.fig.axes]
    np.testing.assert_allclose(shown[0], latent.decode(MODEL[0], Z)[2, 0], atol=1e-6)
    assert explorer(truth=None).content["truth"] is None


def test_set_moves_the_controls_and_the_picture():
    board = browser()
    before, windows = board.picture.value, list(pictures.WINDOWS.values())
    board.set(window=windows[2])
    after = board.picture.value
    board.set(plane="coronal")
    assert len({before, after, board.picture.value}) == 3
    assert board.at["plane"] == "coronal" and tuple(board.at["window"]) == windows[2]
    assert board.fig.axes[0].get_aspect() == pytest.approx(2.5 / 0.8)


def test_what_the_page_cannot_compute_is_named():
    with pytest.raises(InputError, match="Tanh: the page cannot compute this layer"):
        described(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh()))
    with pytest.raises(InputError, match="Conv3d"):
        described(VAE(32, 4, 6, dims=3).encoder)
    assert packed([1, 2], "u1") == packed(np.array([1.0, 2.0]), "u1")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: pictures.slice_browser(SCAN[0]),
        lambda: pictures.slice_browser(SCAN, MASK[:-1]),
        lambda: pictures.slice_browser(SCAN, None, SPACING, SOFT[..., 1:]),
        lambda: pictures.latent_explorer(MODEL, Z[0]),
        lambda: explorer(places={"one": 9}),
        lambda: explorer(components=7),
        lambda: explorer(truth=MASK[0]),
        lambda: pictures.threshold_explorer(SCAN, SOFT, MASK[0]),
        lambda: pictures.threshold_explorer(SCAN[0, 0], SOFT[0, 0], MASK[0, 0]),
    ],
)
def test_a_wrong_shape_is_one_line(wrong):
    with pytest.raises(InputError) as caught:
        wrong()
    assert "\n" not in str(caught.value)
