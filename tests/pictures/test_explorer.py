"""The latent explorer: one file that opens by a double click, and whose page says what PyTorch says."""

from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
import torch
from boards import unpacked
from PIL import Image

from vaelib import InputError, cli, latent, metrics
from vaelib.cohort import Slices
from vaelib.engine.checkpoints import save
from vaelib.pictures import explorer as maker
from vaelib.pictures.explorer import contents, write_explorer
from vaelib.spatial import ResidualMaskDecoder, ResidualVAE
from vaelib.vae import VAE, MaskDecoder

SIZE, LATENT = 32, 12
BOARD = "document.querySelector('.vaelib-live').board"


def blobs(names, each, seed):
    """Slices of some patients: bright discs, and masks that differ from slice to slice."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((SIZE, SIZE))
    cy, cx, r = rng.uniform(10, 22, (3, len(names) * each, 1, 1, 1))
    images = np.clip(1.5 - np.hypot(y - cy, x - cx) / r, 0, 1).astype(np.float32)
    masks = (np.hypot(y - cy, x - cx - 3) < r / 3).astype(np.float32) * 0.5
    return Slices(images, masks, np.repeat(names, each), np.tile(np.linspace(0, 1, each), len(names)))


TRAIN, TEST = blobs(["a", "b", "c"], 12, seed=1), blobs(["PANCREAS_0001", "PANCREAS_0002"], 5, seed=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The page of an untrained VAE whose mask decoder is as often above the threshold as below: file, vae, mask."""
    torch.manual_seed(0)
    vae = VAE(SIZE, channels=4, latent=LATENT)
    mask = MaskDecoder(SIZE, channels=4, latent=LATENT, prevalence=metrics.TRUTH)
    return write_explorer(tmp_path_factory.mktemp("site") / "explorer.html", vae, mask, TRAIN, TEST), vae, mask


def test_it_is_one_small_file_that_asks_nobody(made):
    text = made[0].read_text()
    assert [p.name for p in made[0].parent.iterdir()] == ["explorer.html"] and len(text) < 25e6
    assert "://" not in text and " src=" not in text and 'href="data:,"' in text and "synthetic" in text


def test_starts_are_where_there_is_most_pancreas_and_originals_are_theirs(made):
    content = contents(*made[1:], TRAIN, TEST)
    z, truth = unpacked(content["z"]).reshape(-1, LATENT), np.unpackbits(unpacked(content["truth"]))
    truth, originals = truth.reshape(-1, SIZE, SIZE), unpacked(content["originals"]).reshape(-1, SIZE, SIZE)
    for n, (name, row) in enumerate(content["places"]):
        patient, k = name.split(", slice ")
        rows = np.flatnonzero(TEST.patient == patient)
        areas = TEST.masks[rows].sum((1, 2, 3))
        assert areas[int(k)] == areas.max() and content["patient"][row] == name
        one = slice(rows[int(k)], rows[int(k)] + 1)
        assert np.allclose(z[row], latent.encode(made[1], TEST.images[one])[0][0], atol=1e-5)
        assert np.array_equal(truth[row], TEST.masks[one][0, 0] >= metrics.TRUTH)
        assert np.abs(originals[n] / 255 - TEST.images[one][0, 0]).max() < 0.003
    assert content["patient"][0] == "a (training), slice 0" and len(unpacked(content["errors"])) == len(TRAIN.images)
    assert len(content["steps"]["principal directions"]["names"]) == 10


def test_decoders_of_more_than_a_slice_are_refused(made, tmp_path):
    neighbours = ResidualMaskDecoder(SIZE, channels=4, latent=2, grid=8, reach=1)
    with pytest.raises(InputError, match="more than the latent of one slice"):
        write_explorer(tmp_path, made[1], neighbours, TRAIN, TEST)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def cohort(tmp_path, monkeypatch):
    """A folder that stands for a cohort of these slices, and the weights that `vaelib train` would have made of it."""
    lab = SimpleNamespace(train=TRAIN, test=TEST, shards=None, parts={"test": ["PANCREAS_0001"]}, asked={})
    monkeypatch.setattr(maker, "open_cohort", lambda folder, **asked: lab.asked.update(asked, folder=folder) or lab)
    monkeypatch.setattr(maker, "meta_of", lambda shards, patient: {"layout": lab.asked.get("layout", "synthetic")})
    monkeypatch.setattr(cli, "models_folder", lambda folder: tmp_path / "models")
    torch.manual_seed(0)
    networks = {"vae": VAE(SIZE, channels=2, latent=4), "mask": MaskDecoder(SIZE, channels=2, latent=4)}
    save(tmp_path / "models" / "trained.safetensors", networks, fold=2)
    return lab


def fails(capsys, *words):
    """The one line that the command says when it ends with 2."""
    assert cli.main(["explorer", *map(str, words)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("vaelib: error: ") and said.err.count("\n") == 1
    return said.err


@pytest.mark.parametrize("layout", ["synthetic", "tcia"])
def test_the_command_writes_one_page_whole(cohort, tmp_path, capsys, layout):
    cohort.asked["layout"] = layout
    page = tmp_path / "new" / "page.html"  # the folder is made
    assert cli.main(["explorer", str(page), str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith(f"{page}: ") and [p.name for p in page.parent.iterdir()] == ["page.html"]
    assert (maker.SYNTHETIC in page.read_text()) == (layout == "synthetic") == (maker.REAL not in page.read_text())
    assert cohort.asked["fold"] == 2 and 2 ** cohort.asked["level"] == SIZE and cohort.asked["folder"] == tmp_path
    assert cli.main(["explorer", str(tmp_path / "folder")]) == 0 and (tmp_path / "folder" / "index.html").exists()


def test_a_page_that_is_there_stays_until_one_says_so(cohort, tmp_path, capsys):
    page = tmp_path / "page.html"
    page.write_text("mine")
    said = fails(capsys, page)
    assert "page.html: is there already" in said and "--overwrite" in said and page.read_text() == "mine"
    assert cli.main(["explorer", str(page), "--overwrite"]) == 0 and "<title>" in page.read_text()


def test_the_command_names_what_is_missing(cohort, tmp_path, capsys):
    said = fails(capsys, tmp_path / "page.html", "--checkpoint", tmp_path / "none.safetensors")
    assert "none.safetensors" in said and "vaelib train" in said
    save(tmp_path / "half.safetensors", {"vae": VAE(SIZE, channels=2, latent=4)})
    said = fails(capsys, tmp_path / "page.html", "--checkpoint", tmp_path / "half.safetensors")
    assert "half.safetensors: holds ['vae'], not ['mask']" in said and "vaelib train" in said
    (tmp_path / "file").write_text("")
    assert "file" in fails(capsys, tmp_path / "file" / "page.html")  # a folder cannot be made there
    assert not (tmp_path / "page.html").exists()


def test_a_cohort_that_is_not_there_is_named(tmp_path, capsys):
    networks = {"vae": VAE(SIZE, channels=2, latent=4), "mask": MaskDecoder(SIZE, channels=2, latent=4)}
    weights = save(tmp_path / "weights.safetensors", networks)
    said = fails(capsys, tmp_path / "page.html", tmp_path / "gone", "--checkpoint", weights)
    assert "gone" in said and not (tmp_path / "page.html").exists()


# --- in a browser ------------------------------------------------------------------------------------------------


@pytest.fixture
def tab(chromium, made):
    """The page, opened as a file; afterwards, nothing may have gone wrong or been asked of anyone."""
    tab, wrong, asked = chromium.new_page(), [], []
    tab.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    opened(tab, made[0].as_uri())
    yield tab
    tab.close()
    assert wrong == [] and [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def opened(tab, address):
    tab.goto("about:blank")
    tab.goto(address)
    until(tab, "document.querySelector('.vaelib-live')?.board?.draws > 0")


def until(tab, expression):
    """Wait for a JavaScript expression to hold, asking from outside: the page forbids what Playwright would do."""
    for _ in range(400):
        if tab.evaluate(expression):
            return
        tab.wait_for_timeout(25)
    raise AssertionError(f"not after 10 s: {expression}")


def said(tab):
    return tab.locator("fieldset p").text_content()


def give(tab, path):
    """Choose a file for the reader's own slice, and wait for what is said of it."""
    before = said(tab)
    tab.locator("input[type=file]").set_input_files(path)
    until(tab, f"document.querySelector('fieldset p').textContent !== {before!r}")
    return said(tab)


def test_the_page_decodes_as_pytorch_does(tab, made):
    z = np.random.default_rng(0).standard_normal((3, LATENT)).astype(np.float32)
    for one in z:
        found = tab.evaluate(f"z => {{ const {{image, mask}} = {BOARD}.space.decode(Float32Array.from(z)); "
                             "return [[...image], [...mask]]; }", one.tolist())  # fmt: skip
        for values, net in zip(found, (made[1].decoder, made[2]), strict=True):
            assert np.abs(np.array(values) - latent.decode(net, one[None]).ravel()).max() < 1e-4


def test_a_click_on_the_map_starts_from_that_slice(tab):
    canvas = tab.locator(".map > canvas")
    before = tab.evaluate(f"{BOARD}.value('from').name")
    for row in (7, 30):
        x, y = tab.evaluate(
            f"""row => {{ const map = {BOARD}.pictures.find((p) => p.points);
            return map.place(map.points[row], map.canvas.getBoundingClientRect().width); }}""",
            row,
        )
        canvas.hover(position={"x": x, "y": y})
        assert tab.locator(".thumb").is_visible() and ", slice " in tab.locator(".thumb").inner_text()
        named = tab.locator(".thumb").inner_text()
        canvas.click(position={"x": x, "y": y})
        until(tab, f"{BOARD}.value('from').name === {named!r}")
        assert named != before and "Latent 0.00 away" in tab.locator(".caption").text_content()
    tab.get_by_role("slider", name="slice on the map").press("Home")
    until(tab, f"{BOARD}.value('from').name === 'a (training), slice 0'")


def test_the_address_brings_back_what_one_sees(tab, made):
    tab.get_by_role("slider", name="direction 2").press("End")
    tab.get_by_role("slider", name="threshold").press("End")
    tab.get_by_role("slider", name="slice on the map").press("Home")
    tab.get_by_role("slider", name="morph").press("End")
    until(tab, "location.hash.includes('morph=1')")
    caption = tab.locator(".caption").text_content()
    opened(tab, tab.url)
    until(tab, f"document.querySelector('.caption').textContent === {caption!r}")
    assert tab.evaluate(f"{BOARD}.value('from').name") == "a (training), slice 0"


def dicom(path, **changes):
    """A slice of CT: HU of the first test slice in the abdominal window."""
    hu = np.rint(TEST.images[0, 0].repeat(2, 0).repeat(2, 1) * 400 - 160).astype(np.int16)
    ds = pydicom.Dataset()
    ds.Modality, ds.Rows, ds.Columns = "CT", *hu.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    inner = pydicom.Dataset()
    inner.PatientComments = "a sequence is passed over"
    ds.ReferencedImageSequence = pydicom.Sequence([inner])
    ds.PixelData = (hu + 1024).astype(np.uint16).tobytes()
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = changes.pop("syntax", pydicom.uid.ExplicitVRLittleEndian)
    for name, value in changes.items():
        if value is None:
            delattr(ds, name)
        else:
            setattr(ds, name, value)
    implicit = ds.file_meta.TransferSyntaxUID == pydicom.uid.ImplicitVRLittleEndian
    pydicom.dcmwrite(path, ds, implicit_vr=implicit, little_endian=True, enforce_file_format=True)
    return path


@pytest.mark.parametrize("kind", ["explicit", "implicit", "png"])
def test_a_slice_of_ones_own_is_encoded_and_decoded_here(tab, made, tmp_path, kind):
    if kind == "png":
        path = tmp_path / "own.png"
        Image.fromarray(np.rint(255 * TEST.images[0, 0]).astype(np.uint8)).save(path)
    else:
        ways = {"explicit": pydicom.uid.ExplicitVRLittleEndian, "implicit": pydicom.uid.ImplicitVRLittleEndian}
        path = dicom(tmp_path / "own.dcm", syntax=ways[kind])
    words = give(tab, path)
    assert "of the training slices" in words and path.name in words
    found = np.array(tab.evaluate(f"[...{BOARD}.value('from').latent]"))
    wanted = latent.encode(made[1], TEST.images[:1])[0][0]
    assert np.abs(found - wanted).max() < 0.01 and tab.evaluate(f"{BOARD}.value('from').name") == "your slice"
    assert "original: your slice" in tab.locator("figcaption").all_text_contents()


def test_what_is_unlike_the_training_slices_is_said_to_be(tab, tmp_path):
    Image.fromarray(np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 255).save(tmp_path / "noise.png")
    assert "It is unlike the training slices" in give(tab, tmp_path / "noise.png")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"Modality": "MR"}, "bad.dcm has no HU"),
        ({"RescaleIntercept": None}, "bad.dcm has no HU"),
        ({"PixelData": b"\0" * 8}, "bad.dcm is cut off"),
        ({"PixelData": None}, "bad.dcm holds no pixels"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "bad.dcm is not an axial slice"),
        ({"syntax": pydicom.uid.DeflatedExplicitVRLittleEndian}, "bad.dcm is compressed"),
    ],
)
def test_a_file_that_is_no_slice_gets_one_sentence_and_the_page_goes_on(tab, tmp_path, changes, words):
    before = tab.evaluate(f"{BOARD}.value('from').name")
    assert words in give(tab, dicom(tmp_path / "bad.dcm", **changes))
    (tmp_path / "text.png").write_text("no picture")
    assert "text.png is no picture that this browser can read" in give(tab, tmp_path / "text.png")
    assert tab.evaluate(f"{BOARD}.value('from').name") == before
    draws = tab.evaluate(f"{BOARD}.draws")
    tab.get_by_role("slider", name="morph").press("End")
    until(tab, f"{BOARD}.draws === {draws + 1}")


def test_a_slice_may_be_dropped_on_the_page(tab):
    until(tab, "document.querySelector('fieldset p').textContent === ''")
    tab.evaluate("""() => {
      const dataTransfer = new DataTransfer();
      dataTransfer.items.add(new File(["no picture"], "dropped.png"));
      document.querySelector(".vaelib-live").dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true }));
    }""")
    until(tab, "document.querySelector('fieldset p').textContent.includes('dropped.png is no picture')")


def test_of_a_latent_that_keeps_its_place_a_click_chooses_the_place(chromium, tmp_path):
    torch.manual_seed(0)
    vae = ResidualVAE(SIZE, channels=4, latent=2, grid=8)
    mask = ResidualMaskDecoder(SIZE, channels=4, latent=2, grid=8)
    tab = chromium.new_page()
    opened(tab, write_explorer(tmp_path, vae, mask, TRAIN, TEST).as_uri())  # a folder gets index.html
    box = tab.locator("canvas").first.bounding_box()
    tab.locator("canvas").first.click(position={"x": 2.5 * box["width"] / 8, "y": 5.5 * box["height"] / 8})
    assert [tab.evaluate(f"{BOARD}.value('{name}')") for name in ("column", "row")] == [2, 5]
    before = np.array(tab.evaluate(f"[...{BOARD}.here()]")).reshape(2, 8, 8)
    tab.get_by_role("slider", name="direction 1", exact=True).press("End")
    moved = np.array(tab.evaluate(f"[...{BOARD}.here()]")).reshape(2, 8, 8) - before
    assert np.argwhere(np.abs(moved).sum(0) > 1e-6).tolist() == [[5, 2]]
    tab.close()
