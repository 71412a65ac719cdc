"""A mask goes out as NIfTI or DICOM SEG and comes back the same."""

import pytest
from small import same

from vaelib import InputError
from vaelib.dicom.write import write_mask
from vaelib.volumes import read_ct, read_mask


@pytest.mark.parametrize("name", ["mask.nii.gz", "mask.nii", "mask.dcm"])
def test_round_trip(any_series, tmp_path, name):
    scan = read_ct(any_series)
    mask = read_mask(any_series.parent / "seg.dcm", scan)
    path = write_mask(mask, tmp_path / "out" / name, scan)
    assert same(read_mask(path, scan), mask)
    assert same(read_mask(write_mask(mask, path, any_series, overwrite=True), scan), mask)
    assert [p.name for p in path.parent.iterdir()] == [name]  # no half-written file beside it


def test_nothing_is_overwritten_unless_asked(series, tmp_path):
    scan = read_ct(series)
    mask = read_mask(series.parent / "seg.dcm", scan)
    path = tmp_path / "mask.nii.gz"
    path.write_text("precious")
    with pytest.raises(InputError, match=r"mask\.nii\.gz: exists .*choose another name"):
        write_mask(mask, path, series)
    assert path.read_text() == "precious"
    assert same(read_mask(write_mask(mask, path, series, overwrite=True), scan), mask)


def test_unknown_ending(series, tmp_path):
    scan = read_ct(series)
    with pytest.raises(InputError, match=r"mask\.png: .*end the name in \.nii\.gz"):
        write_mask(scan, tmp_path / "mask.png", series)
    assert not (tmp_path / "mask.png").exists()
