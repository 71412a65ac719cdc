"""What a mask covers, and whether a flipped one would lie better."""

import warnings

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from small import as_image, blob_volume

from vaelib import InputError
from vaelib.cohorts.quality import FLIPS, MARGIN, best_flip, check_mask, flips
from vaelib.volumes import read_ct, read_mask


def array_of(image):
    return sitk.GetArrayFromImage(image)


def test_check_mask_reports_and_warns_of_a_label_flipped_in_silence(series):
    scan = read_ct(series)
    mask = read_mask(series.parent / "seg.dcm", scan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = check_mask(scan, mask)
    assert found.median_hu == 95 and found.soft_fraction == 1 and not found.touches_border
    assert found.volume_ml == pytest.approx(array_of(mask).sum() * 0.7 * 0.9 * 2.5 / 1000)
    assert found.slices == array_of(mask).any((1, 2)).sum() and found.flip == ""
    with pytest.warns(UserWarning) as caught:
        assert check_mask(scan, as_image(array_of(mask)[::-1, ::-1].copy(), scan)).flip == "yz"
    assert "no pancreas" in str(caught[0].message) and "better reversed in yz: look" in str(caught[1].message)
    with pytest.warns(UserWarning, match="the mask is empty"):
        check_mask(scan, mask * 0)


def reversed_along(mask, axes):
    return as_image(np.flip(array_of(mask), FLIPS[axes]).copy(), mask)


@pytest.mark.parametrize("axes", FLIPS)
def test_a_reversed_mask_is_told_how_to_lie_better(axes):
    scan, mask = map(sitk.GetImageFromArray, blob_volume())
    scores = flips(scan, reversed_along(mask, axes))
    assert list(scores) == ["", "x", "y", "z", "xy", "xz", "yz", "xyz"]
    assert scores[axes] == pytest.approx(flips(scan, mask)[""]) and max(scores, key=scores.get) == axes
    assert best_flip(scan, reversed_along(mask, axes)) == axes


def two_tissues():
    """A pancreas of 100 HU in fat, whose mirror image in x lies inside a liver, which is soft tissue as well."""
    z, y, x = np.indices((6, 40, 60))
    mask = ((y - 18) / 6) ** 2 + ((x - 15) / 8) ** 2 < 1
    mean = np.where(mask, 100, np.where(x > 29, 70, -90))
    noise = np.random.default_rng(0).normal(0, 10, mean.shape)
    return sitk.GetImageFromArray((mean + noise).astype(np.int16)), sitk.GetImageFromArray(mask.astype(np.uint8))


def test_a_mask_in_the_liver_is_seen_though_all_of_it_is_soft_tissue():
    scan, mask = two_tissues()
    wrong = reversed_along(mask, "x")
    with pytest.warns(UserWarning, match="better reversed in x"):
        found = check_mask(scan, wrong)
    assert found.soft_fraction > 0.99 and 0 < found.median_hu < 200


def test_a_rival_has_to_win_by_a_margin():
    scan, mask = two_tissues()
    assert flips(scan, mask)["z"] == pytest.approx(flips(scan, mask)[""])  # its own mirror image
    assert best_flip(scan, mask) == ""
    noise = sitk.GetImageFromArray(np.random.default_rng(0).normal(60, 20, (6, 40, 60)).astype(np.int16))
    scores = flips(noise, mask)
    assert max(scores, key=scores.get) != "" and best_flip(noise, mask) == ""


def test_a_score_is_for_soft_tissue_and_blind_to_the_blurred_rim():
    scan, mask = two_tissues()
    hu, inside = array_of(scan), array_of(mask) > 0
    bubble = as_image(np.where(inside, -800, hu).astype(np.int16), scan)
    assert flips(scan, mask)[""] > 0.9 and flips(bubble, mask)[""] == 0
    rim = array_of(sitk.BinaryDilate(mask, (1, 1, 0), sitk.sitkBox)) > inside
    assert flips(as_image(np.where(rim, 0, hu).astype(np.int16), scan), mask)[""] == flips(scan, mask)[""]


def test_scores_are_the_same_for_float_hu_and_at_the_edge_and_need_a_mask():
    scan, mask = two_tissues()
    assert flips(sitk.Cast(scan, sitk.sitkFloat32), mask) == flips(scan, mask)
    everywhere = mask * 0 + 1
    assert set(flips(scan, everywhere).values()) == {flips(scan, everywhere)[""]}  # no shell is left to compare with
    with pytest.raises(InputError, match="the mask is empty"):
        flips(scan, mask * 0)


def test_on_real_patients_the_true_placement_leads_by_more_than_the_margin(real_slices):
    by_patient = {}
    for path in sorted((real_slices / "images").glob("*.jpg")):
        hu, mask = (np.asarray(Image.open(p).convert("L")) for p in (path, real_slices / "masks" / path.name))
        by_patient.setdefault(path.stem[:13], []).append((hu.astype(np.int16), (mask > 127).astype(np.uint8)))
    assert len(by_patient) >= 20
    for patient, slices in by_patient.items():
        scan, mask = (sitk.GetImageFromArray(np.stack(arrays)) for arrays in zip(*slices, strict=True))
        scores = flips(scan, mask)
        assert scores[""] - max(scores[axes] for axes in ("x", "y", "xy")) > MARGIN, patient
