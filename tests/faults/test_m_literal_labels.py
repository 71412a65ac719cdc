"""M. Labels taken literally: what a NIfTI stores is scaled, rounded and cut as its header and plain sense have it."""

import warnings

import numpy as np
import pytest
import SimpleITK as sitk
from drawn import drawn
from made import affine_of, nifti, put
from small import make_series

from vaelib import InputError
from vaelib.volumes import read_ct, read_mask

# name, type, slope, shift, byte order, ending, what the mask holds, what the rest holds: ranges of values as scaled
INSTANCES = [
    ("uint8 x 2", "u1", 2, 0, "<", "nii.gz", (2, 2), (0, 0), ""),
    ("uint8 x 2, two labels", "u1", 2, 0, "<", "nii", (2, 2), (0, 0), "other 4"),
    ("int16 x 0.5", "i2", 0.5, 0, "<", "nii", (1, 1), (0, 0), ""),
    ("int16 - 1", "i2", 1, -1, "<", "nii.gz", (1, 1), (0, 0), ""),
    ("1 and 0.99999994", "f4", 0, 0, "<", "nii.gz", (0.99999994, 1), (0, 0), ""),
    ("1 and 0.99999994, by number", "f4", 0, 0, "<", "nii", (0.99999994, 1), (0, 0), "number"),
    ("soft float", "f4", 0, 0, "<", "nii.gz", (0.5, 1), (0, 0.49), "warn"),
    ("soft double, by number", "f8", 0, 0, "<", "nii", (0.5, 1), (0, 0.49), "warn number"),
    ("soft uint8 / 255", "u1", 1 / 255, 0, "<", "nii.gz", (0.51, 1), (0, 0.49), "warn"),
    ("ringing", "f4", 0, 0, "<", "nii", (0.5, 1.2), (-0.2, 0.49), "warn"),
    ("NaN outside", "f4", 0, 0, "<", "nii.gz", (1, 1), (np.nan, np.nan), "warn"),
    ("255", "u1", 0, 0, "<", "nii.gz", (255, 255), (0, 0), ""),
    ("big endian float64", "f8", 0, 0, ">", "nii.gz", (1, 1), (0, 0), ""),
    ("int8 of -1", "i1", 0, 0, "<", "nii", (-1, -1), (0, 0), ""),
    ("uint32 of 2**31", "u4", 0, 0, "<", "nii", (2**31, 2**31), (0, 0), ""),
    ("int64", "i8", 1, 0, "<", "nii.gz", (1, 1), (0, 0), ""),
    ("fractions of two labels", "f4", 0, 0, "<", "nii.gz", (0.6, 2), (0, 0.4), "refused fractions"),
    ("infinite", "f4", 0, 0, "<", "nii.gz", (1, 1), (np.inf, np.inf), "refused infinite"),
    ("RGB", "V3", 0, 0, "<", "nii.gz", (1, 1), (0, 0), "refused colours"),
    ("RGBA", "V4", 0, 0, "<", "nii", (1, 1), (0, 0), "refused colours"),
    ("complex", "c8", 0, 0, "<", "nii.gz", (1, 1), (0, 0), "refused complex"),
]


def generate(r):
    order, ending, soft = r.choice("<>"), r.choice(["nii", "nii.gz"]), r.random() < 0.4
    if soft:
        kind = r.choice(["u1", "u2", "f4", "f8", "i2"])
        slope = {"u1": 1 / 255, "u2": 1 / 65535, "i2": 1 / 1000}.get(kind, r.choice([0, 1, 0.01]))
        low, high = r.uniform(0.5, 0.7), r.uniform(0.8, 1)
        return f"soft {kind}", kind, slope, 0, order, ending, (low + 0.01, high), (0, r.uniform(0.1, 0.48)), "warn"
    kind = r.choice(["u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8", "i8", "u8"])
    slope, value = r.choice([0, 1, 2, 0.5, 10, 0.1, 0.25]), r.randrange(1, 100 if kind[1] != "1" else 12)
    shift = r.choice([0, -1, -10]) if slope in (1, 2) and kind[0] != "u" else 0
    noise = r.uniform(0, 9e-4) if kind[0] == "f" else 0
    value = value if slope != 10 else 10 * (value // 10 + 1)
    value = value if slope != 2 else 2 * (value // 2 + 1) + shift % 2
    said = r.choice(["", "number", "other"]) if value != 7 else ""
    said = said if said != "other" or slope not in (2, 10) else "number"
    return (
        f"{kind} of {value} by {slope}",
        kind,
        slope,
        shift,
        order,
        ending,
        (value - noise, value + noise),
        (0, 0),
        said,
    )


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return read_ct(make_series(tmp_path_factory.mktemp("m") / "ct"))


@drawn(INSTANCES, generate, seed=18)
def test_a_label_is_what_its_numbers_mean(case, scan, tmp_path):
    name, kind, slope, shift, order, ending, inside, outside, said = case
    truth = sitk.GetArrayFromImage(scan) == 95
    draw = np.random.default_rng(len(name))
    fill = [draw.uniform(low, high, truth.shape) if low < high else np.full(truth.shape, low) for low, high in
            (inside, outside)]  # fmt: skip
    values = np.where(truth, *fill)
    values[tuple(np.argwhere(truth)[0])] = inside[0]
    if "other" in said:
        values[:, :3, :3] = float(said.split()[1]) if " " in said else 7
    scaled = (values - shift) / (slope or 1)
    stored = (
        np.zeros(truth.shape, kind) if kind[0] == "V" else (np.rint(scaled) if kind[0] in "ui" else scaled).astype(kind)
    )
    path = put(tmp_path / f"label0001.{ending}", nifti(stored, scan, slope=slope, shift=shift, order=order))
    segment = str(round(inside[1])) if {"number", "other"} & {*said.split()} else "Pancreas"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if said.startswith("refused"):
            with pytest.raises(InputError, match=f"^[^\n]*label0001[^\n]*{said.split()[1]}[^\n]*$"):
                read_mask(path, scan)
            return
        mask = sitk.GetArrayFromImage(read_mask(path, scan, segment=segment))
    np.testing.assert_array_equal(mask, truth)
    assert [str(path) in str(w.message) for w in caught] == [True] * ("warn" in said)


@pytest.mark.parametrize("slope", [np.nan, np.inf])
def test_a_slope_that_is_no_number_scales_nothing_and_dimensions_of_none_are_none(slope, scan, tmp_path):
    truth = (sitk.GetArrayFromImage(scan) == 95).astype("u1")
    data = nifti(truth, scan, slope=slope, shift=slope, dim=[4, *truth.shape[::-1], 0, 0, 0, 0])
    path = put(tmp_path / "label0001.nii", data)  # as nibabel has it, and ITK reads it
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_mask(path, scan)), truth)


def test_what_is_advised_of_negative_values_can_be_typed(scan, tmp_path):
    truth = sitk.GetArrayFromImage(scan) == 95
    path = put(tmp_path / "label0001.nii", nifti(np.where(truth, 1, -1).astype("i2"), scan))
    with pytest.raises(InputError, match="--segment=-1`, or several: --segment=-1[+]1$"):
        read_mask(path, scan)


def test_a_label_that_is_turned_says_by_how_much(scan, tmp_path):
    truth, turn = (sitk.GetArrayFromImage(scan) == 95).astype("u1"), np.radians(2)
    around = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    path = put(tmp_path / "label0001.nii", nifti(truth, scan, affine=around @ affine_of(scan)))
    with pytest.raises(InputError, match="does not fit the scan: .* turned by 2 degrees;"):
        read_mask(path, scan)
