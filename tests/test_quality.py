"""What a mask covers, and whether a flipped one would lie better."""

import warnings

import pytest
import SimpleITK as sitk
from small import as_image

from vaelib.quality import check_mask
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
    assert found.slices == array_of(mask).any((1, 2)).sum()
    with pytest.warns(UserWarning, match="no pancreas"):
        check_mask(scan, as_image(array_of(mask)[::-1, ::-1].copy(), scan))
    with pytest.warns(UserWarning, match="the mask is empty"):
        check_mask(scan, mask * 0)
