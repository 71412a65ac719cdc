"""The latent explorer: its numbers are those of the library, and the page in a browser says what PyTorch says."""

import json
import shutil
import sys
from base64 import b64decode

import numpy as np
import onnxruntime
import pytest
import torch
from browser import serve

from course import explorer
from course.explorer import RUNTIME, contents, write_explorer
from course.explorer.__main__ import main
from vaelib import InputError, latent, metrics
from vaelib.cohort import Slices
from vaelib.spatial import ResidualMaskDecoder
from vaelib.vae import VAE, MaskDecoder

SIZE, LATENT = 32, 12


def blobs(names, each, seed):
    """Slices of some patients: bright discs, and masks that differ from slice to slice."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((SIZE, SIZE))
    cy, cx, r = rng.uniform(10, 22, (3, len(names) * each, 1, 1, 1))
    images = np.clip(1.5 - np.hypot(y - cy, x - cx) / r, 0, 1).astype(np.float32)
    masks = (np.hypot(y - cy, x - cx - 3) < r / 3).astype(np.float32) * 0.5
    return Slices(images, masks, np.repeat(names, each), np.tile(np.linspace(0, 1, each), len(names)))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The page of an untrained VAE whose mask decoder is as often above the threshold as below: folder, vae, mask."""
    torch.manual_seed(0)
    vae = VAE(SIZE, channels=4, latent=LATENT)
    mask = MaskDecoder(SIZE, channels=4, latent=LATENT, prevalence=metrics.TRUTH)
    train, test = blobs(["a", "b", "c"], 12, seed=1), blobs(["PANCREAS_0001", "PANCREAS_0002"], 5, seed=2)
    return write_explorer(tmp_path_factory.mktemp("site") / "explorer", vae, mask, train, test), vae, mask, train, test


@pytest.fixture(scope="module")
def data(made):
    return json.loads((made[0] / "explorer.json").read_text())


def probabilities(made, z):
    """What PyTorch says of latents (N, latent): pictures and probabilities, (N, size * size)."""
    _, vae, mask, *_ = made
    return [latent.decode(d, np.float32(z)).reshape(len(z), -1) for d in (vae.decoder, mask)]


def test_the_folder_is_whole_and_small(made):
    names = {"decoder.onnx", "mask.onnx", "explorer.json", *explorer.PAGE}
    assert {path.name for path in made[0].iterdir()} == names
    text = "".join((made[0] / name).read_text() for name in explorer.PAGE)
    assert "http://localhost:8000" in text and text.count("://") == 1  # where to open it; nothing is fetched from afar


def test_both_files_say_what_the_decoders_say(made, data):
    z = np.float32([s["latent"] for s in data["slices"]] + [data["mean"]] + list(np.array(data["directions"])))
    for name, wanted in zip(("decoder", "mask"), probabilities(made, z), strict=True):
        session = onnxruntime.InferenceSession(made[0] / f"{name}.onnx")
        found = np.stack([session.run(["image"], {"latent": one[None]})[0].ravel() for one in z])
        assert np.abs(found - wanted).max() < 1e-4 and wanted.std() > 1e-3


def test_the_directions_are_those_of_the_training_latents(made, data):
    _, vae, _, train, _ = made
    pca = latent.pca(latent.encode(vae, train.images)[0], components=explorer.DIRECTIONS)
    steps = pca.components_ * np.sqrt(pca.explained_variance_)[:, None]
    assert np.allclose(data["directions"], steps, atol=1e-5) and np.allclose(data["mean"], pca.mean_, atol=1e-5)
    assert np.allclose(data["explained"], pca.explained_variance_ratio_, atol=1e-5)
    assert len(data["directions"]) == 10 and data["shape"] == [LATENT] and data["size"] == SIZE
    assert data["threshold"] == 0.2 and "synthetic" in data["note"]


def test_each_patient_starts_where_there_is_most_pancreas(made, data):
    *_, vae, _, _, test = made
    assert [s["name"] for s in data["slices"]] == ["PANCREAS_0001", "PANCREAS_0002"]
    for s in data["slices"]:
        rows = np.flatnonzero(test.patient == s["name"])
        areas = test.masks[rows].sum((1, 2, 3))
        assert areas[s["slice"]] == areas.max() > areas.min()
        row = rows[s["slice"]]
        bits = np.unpackbits(np.frombuffer(b64decode(s["truth"]), np.uint8)).reshape(SIZE, SIZE)
        assert np.array_equal(bits, test.masks[row, 0] >= 0.2)
        grey = np.frombuffer(b64decode(s["image"]), np.uint8).reshape(SIZE, SIZE)
        assert np.abs(grey / 255 - test.images[row, 0]).max() < 0.003
        assert np.allclose(s["latent"], latent.encode(vae, test.images[row : row + 1])[0][0], atol=1e-5)


def test_a_latent_that_keeps_its_place_lies_flat(made):
    from vaelib.spatial import ResidualVAE

    content = contents(ResidualVAE(SIZE, channels=4, latent=2, grid=8), *made[3:])
    assert list(content["shape"]) == [2, 8, 8] and len(content["mean"]) == len(content["directions"][0]) == 128


def test_decoders_of_more_than_a_slice_are_refused(made, tmp_path):
    neighbours = ResidualMaskDecoder(SIZE, channels=4, latent=2, grid=8, reach=1)
    with pytest.raises(InputError, match="more than the latent of one slice"):
        write_explorer(tmp_path, made[1], neighbours, *made[3:])
    assert not list(tmp_path.iterdir())


def test_the_command_asks_for_its_extra_before_it_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main([str(tmp_path / "page")]) == 2
    said = capsys.readouterr().err
    assert "page: ONNX needs onnx; install the extra" in said and said.count("\n") == 1
    assert not (tmp_path / "page").exists()


# --- in a browser ------------------------------------------------------------------------------------------------


@pytest.fixture
def served(made, tmp_path):
    """A copy of the page, handed out on this machine alone: its folder and its address."""
    folder = shutil.copytree(made[0], tmp_path / "explorer")
    with serve(folder) as address:
        yield folder, address + "/"


@pytest.fixture
def page(chromium, npm, served):
    """The page with its runtime, loaded; afterwards, nothing may have gone wrong or been asked of another host."""
    folder, address = served
    (folder / "ort").mkdir()
    for name in RUNTIME:
        shutil.copy(npm / "onnxruntime-web" / "dist" / name, folder / "ort")
    tab, wrong, asked = chromium.new_page(), [], []
    tab.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(address)
    settle(tab, 0)
    yield tab
    tab.close()
    assert wrong == []
    assert [url for url in asked if not url.startswith((address, "data:"))] == []


def until(tab, expression):
    """Wait for a JavaScript expression to hold, asking from outside: the page forbids what Playwright would do."""
    for _ in range(400):
        if tab.evaluate(expression):
            return
        tab.wait_for_timeout(25)
    raise AssertionError(f"not after 10 s: {expression}")


def settle(tab, before):
    """Wait until more than `before` draws are done."""
    tab.evaluate("window.explorer.ready")
    until(tab, f"window.explorer.draws > {before}")


def picture(tab):
    return tab.evaluate("document.getElementById('decoded').toDataURL()")


def test_the_page_decodes_as_pytorch_does(page, made, data):
    rng = np.random.default_rng(0)
    z = np.r_[[s["latent"] for s in data["slices"]], 2 * rng.standard_normal((3, LATENT))].astype(np.float32)
    found = [
        page.evaluate(
            "async z => { const out = await window.explorer.decode(z); return [[...out.image], [...out.mask]]; }",
            one.tolist(),
        )
        for one in z
    ]
    for k, wanted in enumerate(probabilities(made, z)):
        assert np.abs(np.array([out[k] for out in found]) - wanted).max() < 1e-4


def test_the_dice_shown_is_that_of_the_library(page, made, data):
    for k, s in enumerate(data["slices"]):
        before = page.evaluate("window.explorer.draws")
        page.select_option("#start", str(k))
        settle(page, before)
        truth = np.unpackbits(np.frombuffer(b64decode(s["truth"]), np.uint8))
        found = probabilities(made, [s["latent"]])[1][0] >= 0.2
        assert 0 < found.sum() < SIZE**2
        dice = metrics.dice(found[None, None], truth[None, None])
        said = page.text_content("#readout")
        assert f"Mask at 0.20: {found.sum()} pixels; Dice {dice:.2f} with the truth of {s['name']}." in said


def test_every_slider_moves_by_keyboard_and_changes_the_picture(page, data):
    names = [f"direction{k}" for k in range(len(data["directions"]))] + ["morph", "threshold", "opacity"]
    assert page.locator("input[type=range]").count() == len(names)
    for name in names:
        was, draws, slider = picture(page), page.evaluate("window.explorer.draws"), page.locator(f"#{name}")
        assert page.locator(f"label[for={name}]").text_content() and not slider.evaluate("e => e.disabled")
        slider.focus()
        page.keyboard.press("Home" if name in ("threshold", "opacity") else "End")
        settle(page, draws)
        assert picture(page) != was, name
        edge = slider.get_attribute("min" if name in ("threshold", "opacity") else "max")
        if name == "direction0":
            moved = f"has moved {3 * np.linalg.norm(data['directions'][0]):.2f}."
            assert moved in page.text_content("#readout")
        assert slider.input_value() == edge and float(page.locator(f"output[for={name}]").text_content()) == float(edge)
    until(page, "document.getElementById('spoken').textContent.startsWith('Mask at 0.01')")


def test_buttons_and_morphing_go_where_they_say(page, data):
    at_rest, draws = picture(page), page.evaluate("window.explorer.draws")
    page.locator("#morph").press("End")
    settle(page, draws)
    assert f"with the truth of {data['slices'][1]['name']}." in page.text_content("#readout")  # has arrived: not moved
    page.click("#random")
    until(page, "document.getElementById('readout').textContent.includes('no truth')")
    steps = [float(page.locator(f"#direction{k}").input_value()) for k in range(len(data["directions"]))]
    assert len(set(steps)) > 3 and max(map(abs, steps)) <= 3
    page.select_option("#start", "0")
    page.click("#reset")
    until(page, "document.getElementById('readout').textContent.includes('truth of PANCREAS_0001.')")
    assert picture(page) == at_rest


@pytest.mark.parametrize("width", [320, 1280])
def test_nothing_sticks_out(page, width):
    page.set_viewport_size({"width": width, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#decoded").bounding_box()["width"] > 100


@pytest.mark.parametrize("lack", ["server", "runtime", "wasm", "mask.onnx"])
def test_the_page_says_in_words_what_is_missing(chromium, npm, served, lack):
    folder, address = served
    words = {"server": "python -m http.server", "mask.onnx": "mask.onnx is missing"}.get(
        lack, "runtime is missing: copy"
    )
    if lack == "mask.onnx":
        (folder / lack).unlink()
    if lack in ("wasm", "mask.onnx"):
        (folder / "ort").mkdir()
        stub = "export const env = {wasm: {}}, InferenceSession = {create: async () => ({})}"
        if lack == "wasm":
            stub = stub.replace("({})", "{ throw Error('no available backend found'); }")
        (folder / "ort" / RUNTIME[0]).write_text(stub)
    tab = chromium.new_page()
    tab.goto((folder / "index.html").as_uri() if lack == "server" else address)
    tab.evaluate("window.explorer.ready")
    assert words in tab.text_content("#readout") and words in tab.text_content("#spoken")
    assert tab.evaluate("document.getElementById('controls').inert")
    tab.close()
