"""Whole labels of Pancreas-CT come through every encoding of a NIfTI file voxel for voxel."""

import struct

import numpy as np
import pytest
import SimpleITK as sitk

from vaelib.volumes import read_mask

NUMBERS = "0001", "0002", "0004", "0015", "0020", "0021", "0023", "0025"
# By name: NumPy's type, the code and bits of NIfTI-1, slope, intercept, and what is stored for the pancreas.
ENCODINGS = {
    "uint8": ("u1", 2, 8, 0, 0, 1),
    "uint8 x 2": ("u1", 2, 8, 2, 0, 1),
    "int16 x 1": ("<i2", 4, 16, 1, 0, 1),
    "int16 / 1000": ("<i2", 4, 16, 1e-3, 0, 1000),
    "int16 from 10": ("<i2", 4, 16, 1, -10, 11),
    "float32": ("<f4", 16, 32, 0, 0, 1),
    "float32, nearly 1": ("<f4", 16, 32, 1, 0, 0.9999999),
    "float64": ("<f8", 64, 64, 1, 0, 1),
}


@pytest.fixture(scope="module", params=NUMBERS)
def label(request, real_labels):
    """The pancreas of a label (i, j, k) as TCIA's file stores it, with a few voxels around it, and its voxel in mm."""
    with np.load(next(path for path in real_labels if request.param in path.name)) as file:
        array, mm = file["label"], file["voxelsize"]
    held = [np.flatnonzero(array.any(others)) for others in ((1, 2), (0, 2), (0, 1))]
    return array[tuple(slice(max(at[0] - 3, 0), at[-1] + 4) for at in held)], mm.astype(float)


def scan_of(shape, mm):
    """An empty scan that lies as Pancreas-CT does, with axes L, A, I."""
    scan = sitk.Image(*shape, sitk.sitkInt16)
    scan.SetSpacing(mm.tolist())
    scan.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, -1))
    return scan


def write(path, label, mm, encoding):
    """NIfTI-1 byte by byte: uncompressed, one value where the pancreas is."""
    kind, code, bits, slope, shift, value = ENCODINGS[encoding]
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *label.shape, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, code, bits)
    struct.pack_into("<8f", header, 76, 1, *mm, 0, 0, 0, 0)
    struct.pack_into("<3f", header, 108, 352, slope, shift)
    struct.pack_into("<2h", header, 252, 0, 1)
    struct.pack_into("<12f", header, 280, -mm[0], 0, 0, 0, 0, mm[1], 0, 0, 0, 0, -mm[2], 0)
    header[344:348] = b"n+1\0"
    off, on = (0 if slope == 0 else -shift / slope), value
    stored = np.where(label > 0, on, off).astype(kind)
    path.write_bytes(bytes(header) + stored.tobytes(order="F"))
    return path


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_whole_label_comes_back_voxel_for_voxel(encoding, label, tmp_path):
    array, mm = label
    mask = read_mask(write(tmp_path / "label0001.nii", array, mm, encoding), scan_of(array.shape, mm))
    assert np.array_equal(sitk.GetArrayViewFromImage(mask), array.T)


def test_a_label_of_the_whole_scan_comes_back_voxel_for_voxel(real_labels, tmp_path):
    with np.load(real_labels[0]) as file:
        array, mm = file["label"], file["voxelsize"].astype(float)
    mask = read_mask(write(tmp_path / "label0001.nii", array, mm, "uint8"), scan_of(array.shape, mm))
    assert np.array_equal(sitk.GetArrayViewFromImage(mask), array.T)
