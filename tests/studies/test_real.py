"""The study of real slices: how a folder is read, what in it is refused, and that patients are never on both sides."""

import re
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from drawn import drawn
from PIL import Image
from small import make_patients
from test_arms import slices

import studies
from studies import _cells, real
from studies.__main__ import main
from vaelib import InputError
from vaelib.cohorts.layout import find_cases
from vaelib.engine.files import json_ready
from vaelib.engine.shards import open_case
from vaelib.volumes import read_ct

PATIENTS = [f"PANCREAS_{n:04d}" for n in range(1, 7)]


def write(path, array):
    """An array of 8 bits as a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))


def picture(seed, side=128):
    """A slice as the collection stores it, and its mask: noise, and a square that is brighter."""
    rng = np.random.default_rng(seed)
    image, mask = rng.integers(0, 120, (side, side)).astype(np.uint8), np.zeros((side, side), np.uint8)
    row, column = rng.integers(side // 4, side // 2, 2)
    at = np.s_[row : row + side // 8, column : column + side // 8]
    image[at], mask[at] = 200, 255
    return image, mask


@pytest.fixture
def folder(tmp_path):
    """A folder of six patients, two slices each; the ninth is before the tenth."""
    top = tmp_path / "slices"
    for k, name in enumerate(PATIENTS):
        for number in (9, 10):
            for kind, array in zip(("images", "masks"), picture(10 * k + number), strict=True):
                write(top / kind / f"{name}-{number}.png", array)
    return top


# --- what is read ------------------------------------------------------------------------------------------------


def test_slices_come_by_patient_and_number_and_not_by_name(folder):
    s = real.read_folder(folder)
    assert s.patient.tolist() == np.repeat(PATIENTS, 2).tolist() and [*s.rows] == PATIENTS
    assert s.images.shape == s.masks.shape == (12, 1, 64, 64) and s.images.dtype == s.masks.dtype == np.float32
    for k in range(6):
        for row, number in ((2 * k, 9), (2 * k + 1, 10)):  # as names, "10" comes before "9"
            image, mask = picture(10 * k + number)
            mean = image[::-1].reshape(64, 2, 64, 2).mean((1, 3)) / 255
            np.testing.assert_allclose(s.images[row, 0], mean, atol=1e-6)
            share = (mask[::-1] > 0).reshape(64, 2, 64, 2).mean((1, 3))
            np.testing.assert_array_equal(s.masks[row, 0], share)


def test_what_is_at_the_bottom_of_a_file_comes_to_the_top_and_left_stays_left(folder):
    image, mask = np.zeros((2, 64, 64), np.uint8)
    image[60:, :20], mask[50:54, 8:16] = 255, 255
    for kind, array in (("images", image), ("masks", mask)):
        write(folder / kind / "PANCREAS_0001-9.png", array)
    s = real.read_folder(folder)
    assert s.images[0, 0, :4, :20].min() == 1 and s.images[0].sum() == 80
    assert s.masks[0, 0, 10:14, 8:16].min() == 1 and s.masks[0].sum() == 32


@pytest.mark.parametrize(("grey", "part"), [(127, 0), (128, 1), (255, 1), (1, 0)])
def test_a_mask_is_what_is_above_127_and_a_coarse_pixel_holds_its_share(grey, part, folder):
    image, mask = picture(0, 256)
    mask[100:108, 40:48] = 255
    mask[200:202, 20:23] = grey  # of a block of 4 x 4 pixels, six
    write(folder / "images" / "PANCREAS_0001-9.png", image)
    write(folder / "masks" / "PANCREAS_0001-9.png", mask)
    s = real.read_folder(folder)
    assert s.masks[0, 0, 63 - 50, 5] == 6 / 16 * part


def test_pictures_may_be_jpeg_in_capitals_and_in_colour_and_hidden_files_are_passed_over(folder):
    for kind in ("images", "masks"):
        old = folder / kind / "PANCREAS_0001-9.png"
        grey = sitk.GetArrayFromImage(sitk.ReadImage(str(old)))
        old.unlink()
        Image.fromarray(np.stack([grey] * 3, -1)).save(folder / kind / "PANCREAS_0001-0009.JPG", quality=95)
        (folder / kind / ".DS_Store").write_bytes(b"\0")
    (folder / "README.md").write_text("about them")
    s = real.read_folder(folder)
    image, mask = picture(9)
    np.testing.assert_allclose(s.images[0, 0], image[::-1].reshape(64, 2, 64, 2).mean((1, 3)) / 255, atol=0.05)
    share = (mask[::-1] > 0).reshape(64, 2, 64, 2).mean((1, 3))
    assert np.abs(s.masks[0, 0] - share).max() < 0.3 and s.masks[0].sum() == pytest.approx(share.sum(), rel=0.1)


def test_a_name_may_have_dashes_and_the_last_number_counts(folder):
    for kind in ("images", "masks"):
        (folder / kind / "PANCREAS_0006-9.png").rename(folder / kind / "a-b-2-11.png")
    assert real.read_folder(folder).patient.tolist()[-2:] == ["PANCREAS_0006", "a-b-2"]


# --- what is refused ---------------------------------------------------------------------------------------------


def missing(folder, path, value):
    mask = folder / "masks" / path.name
    mask.unlink()
    return mask, "is missing"


def misnamed(folder, path, value):
    new = path.with_name(value)
    path.rename(new)
    return new, "its name is not <patient>-<number>"


def other_size(folder, path, value):
    write(folder / "masks" / path.name, np.full((value, value), 255, np.uint8))
    return folder / "masks" / path.name, f"has ({value}, {value}) pixels, its slice (128, 128)"


def unreadable(folder, path, value):
    kind, content = value
    bad = folder / kind / path.name
    bad.write_bytes(bad.read_bytes()[: len(bad.read_bytes()) // 2] if content is None else content)
    return bad, "cannot be read as a picture"


def no_power_of_two(folder, path, value):
    for kind in ("images", "masks"):
        write(folder / kind / path.name, np.full(value, 200, np.uint8))
    return path, f"cannot take {value} pixels to level 6"


def few(folder, path, value):
    for name in PATIENTS[value:]:
        for file in folder.glob(f"*/{name}-*"):
            file.unlink()
    return folder, f"{value} patient(s)"


INSTANCES = [
    ("a mask is missing", missing, 0, None),
    ("no number", misnamed, 0, "PANCREAS_0001.png"),
    ("no number but letters", misnamed, 3, "PANCREAS_0001-last.png"),
    ("another kind of picture", misnamed, 5, "PANCREAS_0001-9.tif"),
    ("no picture", misnamed, 5, "notes.txt"),
    ("no patient", misnamed, 2, "-9.png"),
    ("of two sizes", other_size, 1, 64),
    ("an empty file", unreadable, 4, ("images", b"")),
    ("an empty mask file", unreadable, 4, ("masks", b"")),
    ("a web page", unreadable, 0, ("images", b"<html>404</html>")),
    ("half of it", unreadable, 11, ("images", None)),
    ("half of a mask", unreadable, 11, ("masks", None)),
    ("no power of two", no_power_of_two, 0, (96, 96)),
    ("not square", no_power_of_two, 7, (64, 128)),
    ("too small", no_power_of_two, 7, (32, 32)),
    ("four patients", few, 0, 4),
    ("nobody", few, 0, 0),
]


def generate(r):
    kind = r.choice([missing, misnamed, other_size, unreadable, no_power_of_two, few])
    value = {
        missing: lambda: None,
        misnamed: lambda: r.choice(["x", "x-", "x-1.png.txt", "x_1.png", "x-1.bmp", "x-1,5.png", "x-1", "x-1.jpgg"]),
        other_size: lambda: r.choice([16, 32, 96, 127, 256]),
        unreadable: lambda: (r.choice(["images", "masks"]), r.choice([None, r.randbytes(r.randrange(200))])),
        no_power_of_two: lambda: r.choice([(r.randrange(1, 63),) * 2, (128, 64), (100, 100), (65, 64), (192, 192)]),
        few: lambda: r.randrange(5),
    }[kind]()
    return kind.__name__, kind, r.randrange(12), value


@drawn(INSTANCES, generate, seed=19, count=40)
def test_bad_input_is_one_line_that_names_the_file(case, folder, capfd, monkeypatch):
    _, damage, k, value = case
    path = folder / "images" / f"{PATIENTS[k // 2]}-{(9, 10)[k % 2]}.png"
    bad, said = damage(folder, path, value)
    with pytest.raises(InputError) as caught:
        real.read_folder(folder)
    words = str(caught.value)
    assert words.startswith(f"{bad}: ") and said in words and "\n" not in words
    assert re.search(r"(; | or |: )(rename|add|take|fetch|give)", words), "and says what to do"
    monkeypatch.setattr("studies.__main__.open_cohort", lambda: None)
    capfd.readouterr()
    assert main(["real", str(folder)]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err == f"{words}\n"


def test_no_such_folder_is_one_line_and_status_2(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("studies.__main__.open_cohort", lambda: None)
    for gone in (tmp_path / "gone", tmp_path):
        assert main(["real", str(gone)]) == 2
        out, err = capfd.readouterr()
        assert out == "" and err.count("\n") == 1 and err.startswith(f"{gone}")


def test_without_a_folder_it_is_one_line_and_status_2(capfd, monkeypatch):
    monkeypatch.setattr("studies.__main__.open_cohort", None)
    for asked in (["real"], ["real", "one", "two"]):
        assert main(asked) == 2
        out, err = capfd.readouterr()
        assert out == "" and err == "real: name the folder of slices: python -m studies real FOLDER\n"


def test_a_real_that_comes_second_is_one_line_and_status_2_before_anything_is_run(capfd, monkeypatch):
    monkeypatch.setattr("studies.__main__.open_cohort", lambda: None)
    monkeypatch.setattr("studies.ladder.run", lambda lab: pytest.fail("hours of work, for nothing"))
    assert main(["ladder", "real"]) == 2
    assert capfd.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("grey", [0, 127])
def test_a_patient_whose_masks_are_all_empty_is_refused(grey, folder):
    masks = sorted((folder / "masks").glob("PANCREAS_0004-*"))
    write(masks[0], np.full((128, 128), grey, np.uint8))
    real.read_folder(folder)  # a slice without pancreas is no fault
    for path in masks[1:]:
        write(path, np.full((128, 128), grey, np.uint8))
    with pytest.raises(InputError, match="of PANCREAS_0004 no pixel is above 127"):
        real.read_folder(folder)


@pytest.mark.parametrize("kind", ["half a JPEG", "16 bits"])
def test_a_picture_that_is_not_whole_or_not_of_8_bits_is_refused(kind, folder):
    bad = folder / "images" / "PANCREAS_0004-9.png"
    image, _ = picture(1)
    if kind == "16 bits":
        write(bad, image.astype(np.uint16) * 257)
    else:
        jpeg, mask = bad.with_suffix(".jpg"), folder / "masks" / bad.name
        write(jpeg, image)
        jpeg.write_bytes(jpeg.read_bytes()[: jpeg.stat().st_size // 2])
        bad.unlink()
        write(mask.with_suffix(".jpg"), sitk.GetArrayFromImage(sitk.ReadImage(str(mask))))
        bad = jpeg
    with pytest.raises(InputError, match=f"^{re.escape(str(bad))}: "):
        real.read_folder(folder)


# --- folds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [5, 6, 9, 10, 30, 31])
def test_folds_hold_everybody_once_and_are_of_nearly_equal_size(count):
    names = [f"p{k:02}" for k in range(count)]
    folds = real.folds_of(names)
    assert len(folds) == 5 and sorted(sum(folds, [])) == names
    sizes = [len(fold) for fold in folds]
    assert max(sizes) - min(sizes) <= 1 and min(sizes) >= 1
    assert folds == real.folds_of(names[::-1]), "whatever the order in which they are found"
    assert all(type(name) is str for fold in folds for name in fold)
    assert [sorted(fold) for fold in folds] != [names[k::5] for k in range(5)] or count == 5


@pytest.fixture
def brief(monkeypatch, tmp_path):
    """Networks that are trained for a step, in the test's own folder."""
    for name, value in {"steps": 1, "VAE steps": 1, "batch": 2}.items():
        monkeypatch.setitem(real.PLAN, name, value)
    monkeypatch.setattr(studies, "RESULTS", tmp_path / "results")


def test_nobody_is_scored_by_what_was_learned_from_them(brief, monkeypatch):
    s, carried, taught = slices(*"abcdefg", count=2), slices("s", "t", seed=4), []

    def patients_of(images):
        known = {(part, str(name)) for part, data in (("real", s), ("synthetic", carried))
                 for name, image in zip(data.patient, data.images, strict=True)
                 if (images == image).all((1, 2, 3)).any()}  # fmt: skip
        return known

    train = real._arms.train

    def watched(model, losses, data, **how):
        taught.append(patients_of(data[0].numpy()))
        return train(model, losses, data, **how)

    monkeypatch.setattr(real._arms, "train", watched)
    chosen, scored = [], []
    choose, dice = real.metrics.choose, real.metrics.dice_per_patient
    monkeypatch.setattr(real.metrics, "choose", lambda p, on: chosen.append({*on.rows}) or choose(p, on))
    monkeypatch.setattr(
        real.metrics, "dice_per_patient", lambda p, cut, on: scored.append({*on.rows}) or dice(p, cut, on)
    )
    for arm in ("spatial VAE", "U-Net", "spatial VAE of synthetic slices", "U-Net of synthetic slices", "mean mask"):
        for seen in (taught, chosen, scored):
            seen.clear()
        found = real.tested((arm, 0), s, carried)
        assert Counter(name for fold in scored for name in fold) == Counter("abcdefg") and {*found} == {*"abcdefg"}
        assert all(one == {*"abcdefg"} - held for one, held in zip(chosen, scored, strict=True))
        by_fold = [{("real", name) for name in one} for one in chosen]
        synthetic = {("synthetic", "s"), ("synthetic", "t")}
        assert (
            taught
            == {
                "spatial VAE": [fold for fold in by_fold for _ in "12"],  # the code, and what reads it
                "U-Net": by_fold,
                "spatial VAE of synthetic slices": [synthetic, *by_fold],
                "U-Net of synthetic slices": [synthetic],
                "mean mask": [],
            }[arm]
        )


def test_the_mean_mask_by_arithmetic(brief):
    s = slices(*"abcde", count=2)
    masks = s.masks.copy()
    masks[s.patient == "a"] = np.roll(masks[s.patient == "a"], 8, -1)  # of 16 columns, half are off
    found = real.tested(("mean mask", 0), s._replace(masks=masks), None)
    # learned from the others: of patient "a" half is found, and as much more
    assert found["a"]["dice"] == 0.5
    # the mean of the others is 1 where they are, but for a share of 1/4 that is a's; a threshold is above that
    assert [found[name]["dice"] for name in "bcde"] == [1] * 4


# --- synthetic slices beside them --------------------------------------------------------------------------------


def test_synthetic_slices_are_those_with_pancreas_of_training_patients_from_0_to_255_hu(tmp_path, monkeypatch):
    make_patients(tmp_path / "cohort", (1, 2))
    monkeypatch.setattr(real, "cache_folder", lambda folder: tmp_path / "cache")
    lab = SimpleNamespace(folder=tmp_path / "cohort", parts={"train": ["PANCREAS_0002"], "val": ["PANCREAS_0001"]})
    found = real.synthetic(lab)
    assert {*found.patient} == {"PANCREAS_0002"} and (found.masks.max((1, 2, 3)) > 0).all()
    whole = open_case(tmp_path / "cache" / "hu_0_255", "PANCREAS_0002", 6)
    with_pancreas = np.flatnonzero(whole.masks.max((1, 2)) > 0)
    assert 0 < len(with_pancreas) < len(whole.masks) == 12 and len(found.images) == len(with_pancreas)
    np.testing.assert_array_equal(found.images[:, 0], whole.images[with_pancreas].astype(np.float32))
    scan = sitk.DICOMOrient(read_ct(find_cases(tmp_path / "cohort")[1].ct), "LPS")
    grey = np.clip(sitk.GetArrayFromImage(scan) / 255, 0, 1).mean((1, 2))[with_pancreas]
    assert np.ptp(grey) > 0.03 and np.corrcoef(found.images.mean((1, 2, 3)), grey)[0, 1] > 0.999


# --- a whole run -------------------------------------------------------------------------------------------------


def test_a_run_scores_every_patient_by_every_arm_and_a_second_one_trains_nothing(folder, brief, monkeypatch, capsys):
    monkeypatch.setattr(real, "synthetic", lambda lab: slices("s", "t", count=2))
    monkeypatch.setattr(real, "SEEDS", (0, 1))
    monkeypatch.setattr(real, "run", lambda lab, folder, run=real.run: run(lab, folder, workers=1))
    monkeypatch.setattr("studies.__main__.open_cohort", lambda: None)
    pages = {}
    monkeypatch.setattr(studies, "into_page", lambda text, mark: pages.update({mark: text}))
    assert main(["real", str(folder)]) == 0 and capsys.readouterr().out == "real: done\n"
    cells, record = _cells.read_cells("real"), studies.read("real")
    assert {*cells} == {(arm, seed) for arm in real.ARMS for seed in (0, 1)}
    assert all([*scores] == PATIENTS or {*scores} == {*PATIENTS} for scores in cells.values())
    assert all(0 <= row["dice"] <= 1 for scores in cells.values() for row in scores.values())
    assert cells["mean mask", 0] == cells["mean mask", 1], "it draws nothing at random"
    assert record["slices"] == 12 and record["patients"] == 6 and [*record["arms"]] == [*real.ARMS]
    assert all(("minus base" in row) == (name != real.BASE) for name, row in record["arms"].items())
    assert [line.split(" |")[0] for line in pages["real"].splitlines()[4:]] == [f"| {name}" for name in real.ARMS]

    def stop(*args, **how):
        raise KeyboardInterrupt

    monkeypatch.setattr(real, "tested", stop)
    assert main(["real", str(folder)]) == 0 and json_ready(studies.read("real")) == record
    (folder / "images" / "PANCREAS_0001-9.png").unlink()  # other slices: what was found is of no use
    with pytest.raises(KeyboardInterrupt):
        main(["real", str(folder)])
    assert "arms" not in studies.read("real")


def test_what_is_written_holds_no_picture(folder, brief, monkeypatch, tmp_path):
    monkeypatch.setattr(real, "synthetic", lambda lab: slices("s", "t", count=2))
    monkeypatch.setattr(real, "SEEDS", (0,))
    monkeypatch.setattr(real, "ARMS", ("mean mask", real.BASE))
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    real.run(None, folder, workers=1)
    after = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert {path.name for path in after} == {"real.json", "real.csv"}


# --- the real ones -----------------------------------------------------------------------------------------------


def test_the_real_slices_are_read_with_the_spine_below_and_some_pancreas_on_each(real_slices):
    s = real.read_folder(real_slices)
    assert s.images.shape == s.masks.shape == (277, 1, 64, 64) and len(s.rows) == 30
    assert [*s.rows] == [f"PANCREAS_{n:04d}" for n in range(1, 32) if n != 25]
    assert 0 <= s.images.min() and s.images.max() <= 1 and s.masks.max() == 1
    assert (s.masks.sum((1, 2, 3)) > 0).all(), "every slice has some of it"
    bright = s.images[:, 0, :, 28:36] > 0.7  # 178 HU and more: bone, and a vessel now and then; the middle columns
    below = np.array([bright[rows, 32:].sum() / bright[rows].sum() for rows in s.rows.values()])
    assert (below > 0.5).mean() > 0.9 and np.median(below) > 0.8, "the spine is in the lower half"
    rows = np.arange(64)
    spine = rows @ bright.sum(2).T / bright.sum((1, 2))
    pancreas = rows @ s.masks[:, 0].sum(2).T / s.masks.sum((1, 2, 3))
    assert (pancreas < spine).mean() > 0.95, "and the pancreas in front of it"
    sizes = [len(rows) for rows in s.rows.values()]
    assert 3 <= min(sizes) and max(sizes) <= 15
    folds = real.folds_of([*s.rows])
    assert [len(fold) for fold in folds] == [6] * 5
