"""A small synthetic series for the tests: a lopsided blob in a volume where no two neighbours are alike."""

import hashlib
import json
import shutil
from copy import deepcopy

import numpy as np
import SimpleITK as sitk

from vaelib.dicom.write import write_ct, write_seg
from vaelib.volumes import read_ct

SPACING = (2.5, 0.9, 0.7)  # (dz, dy, dx), mm: no two alike, so that no mix-up goes unseen
COS, SIN = np.cos(0.4), np.sin(0.4)
OBLIQUE = (COS, SIN, 0, -SIN * 0.8, COS * 0.8, 0.6)  # turned about z, then tilted about the new x


def blob_volume(shape=(12, 40, 32)):
    """HU (S, H, W) in which no two voxels of a neighbourhood are alike, and a lopsided blob of 95 HU as mask."""
    z, y, x = np.indices(shape)
    hu = (z * 38 + y * 12 + x * 6 - 700).astype(np.int16)  # even, so that 95 is the mask's alone
    mask = ((z - 4) / 2.5) ** 2 + ((y - 12) / 7) ** 2 + ((x - 20) / 5) ** 2 < 1
    mask &= x + y > 28  # so that no flip leaves it as it was
    hu[mask] = 95
    return hu, mask.astype(np.uint8)


def changed(ds, **values):
    """A copy of a DICOM data set with other attributes; None takes one away."""
    copy = deepcopy(ds)
    for keyword, value in values.items():
        if value is None:
            copy.pop(keyword, None)
        else:
            setattr(copy, keyword, value)
    return copy


def as_image(array, like):
    """`array` (S, H, W) as an image on the grid of `like`."""
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(like)
    return image


def same(one, two):
    """Whether two images agree in every voxel and in their grid."""
    grids = all(np.allclose(getattr(one, g)(), getattr(two, g)()) for g in ("GetOrigin", "GetSpacing", "GetDirection"))
    return grids and np.array_equal(sitk.GetArrayViewFromImage(one), sitk.GetArrayViewFromImage(two))


def make_series(folder, **options):
    """Write the blob as a CT series into `folder`, with a SEG at `folder.parent / "seg.dcm"`."""
    hu, mask = blob_volume()
    settings = {"spacing": SPACING, "patient_id": "PANCREAS_0001", "uid": "test"} | options
    write_ct(hu, folder, **settings)
    scan = read_ct(folder)
    stored = sitk.GetArrayFromImage(scan)
    mask = mask if np.array_equal(stored, hu) else mask[::-1]  # the normal may point to the head
    write_seg(as_image(np.ascontiguousarray(mask), scan), folder, folder.parent / "seg.dcm", uid="test")
    return folder


def make_patients(folder, numbers):
    """Write the blob as the scan of several patients, in the layout of the Imaging Data Commons."""
    for n in numbers:
        series = folder / f"PANCREAS_{n:04d}" / "study" / "CT_1"
        make_series(series, patient_id=f"PANCREAS_{n:04d}")
        (series.parent / "SEG_1").mkdir()
        (series.parent / "seg.dcm").rename(series.parent / "SEG_1" / "seg.dcm")


def forge(shard, folder, **changes):
    """A copy of a shard whose `meta.json` says otherwise, with a hash as right as that of a true one."""
    shutil.copytree(shard, folder)
    meta = json.loads((folder / "meta.json").read_text()) | changes
    meta.pop("sha256")
    meta["sha256"] = hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()
    (folder / "meta.json").write_text(json.dumps(meta))
