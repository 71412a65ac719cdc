"""Kind B: what the stored numbers mean is asked. HU are reckoned here, by NumPy, from the numbers that were stored."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from drawn import drawn
from packed import cells_of, write_packed

from vaelib import InputError, read_ct

SHAPE = (2, 40, 32)
HU = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 1300 - 950  # -950 to 349: all that a body is made of
PACKINGS = "plain", "implicit", "deflated", "big endian", "RLE", "JPEG", "JPEG-LS", "JPEG2000"
COMPRESSED = PACKINGS[-4:]
CORNERS = np.zeros(SHAPE, bool)
CORNERS[:, :5, :5] = CORNERS[:, -3:, 20:] = True


def case(name, packing="plain", *, stored=None, wanted=None, cell=(16, 16, 15), garbage=0, intercept=-1024, slope=1,
         signed=0, said=None, **header):  # fmt: skip
    """A case: numbers that are stored and how; the HU that are wanted of them, or what an error has to say."""
    stored = (HU - intercept) // slope if stored is None else stored
    wanted = stored * slope + intercept if wanted is None else wanted
    header = {"BitsStored": cell[1], "HighBit": cell[2], "PixelRepresentation": signed, "RescaleSlope": str(slope),
              "RescaleIntercept": str(intercept)} | header  # fmt: skip
    return f"{name}, {packing}", packing, cells_of(stored, *cell, garbage), header, wanted, said


def padded(number, value=None, packing="plain", *, intercept=-1024, cell=(16, 16, 15), signed=0, air=True, **more):
    """Corners of `number` that the header calls padding by `value`."""
    stored = np.where(CORNERS, number, HU - intercept)
    wanted = np.where(CORNERS, -1024 if air else number + intercept, HU)
    value = number if value is None else value
    vr = "SS" if np.min(value) < 0 else "US"
    more = {"PixelPaddingValue": (vr, value)} | more
    return case(f"padding {number} named {value} with intercept {intercept}", packing, stored=stored, wanted=wanted,
                intercept=intercept, cell=cell, signed=signed, **more)  # fmt: skip


INSTANCES = [
    *(case("MONOCHROME1", packing, PhotometricInterpretation="MONOCHROME1") for packing in PACKINGS),
    case("MONOCHROME1 and signed", "JPEG2000", signed=1, intercept=0, PhotometricInterpretation="MONOCHROME1"),
    padded(63536),
    padded(63536, -2000),
    padded(63536, packing="JPEG2000"),
    padded(-2000, signed=1),
    padded(-2000, 63536, signed=1, packing="JPEG"),
    padded(-32768, signed=1, intercept=0),
    padded(4095, cell=(16, 12, 11)),
    padded(0, intercept=-8192),
    padded(0, intercept=0, signed=1, air=False),  # a number that tissue has too
    padded(-1, intercept=0, signed=1, air=False),
    padded(40, intercept=0, signed=1, air=False),
    padded(63536, PixelPaddingValue=None, air=False),  # which no header calls padding
    padded(63000, 62000, PixelPaddingRangeLimit=("US", 65535)),
    padded(63000, 65535, PixelPaddingRangeLimit=("US", 62000)),
    padded(-2000, signed=1, PixelPaddingValue=("UN", b"\x30\xf8")),
    padded(63536, PixelPaddingValue=("IS", "-2000")),
    (*padded(63536, cell=(16, 12, 11))[:2], np.where(CORNERS, 63536, HU + 1024).astype("u2"),
     *padded(63536, cell=(16, 12, 11))[3:]),  # a number of more bits than are stored
    padded(1500, 1500, PixelPaddingRangeLimit=("US", 65535), air=False),  # a range that begins in bone
    *(case("HighBit 15 of 12 bits", packing, cell=(16, 12, 15)) for packing in ("plain", "RLE", "JPEG", "JPEG2000")),
    case("HighBit 15 of 12 bits, signed", cell=(16, 12, 15), signed=1, intercept=0),
    case("an overlay beside 12 bits", cell=(16, 12, 11), garbage=0xA000),
    case("an overlay beside 12 bits, signed", "RLE", cell=(16, 12, 11), garbage=0xA000, signed=1, intercept=0),
    case("32 bits", cell=(32, 32, 31)),
    case("20 of 32 bits, signed", cell=(32, 20, 25), garbage=-1, signed=1, intercept=24),
    case("a sign in 16 bits", stored=HU - 24, intercept=24, signed=1),
    *(case(unit, RescaleType=unit, said=f"RescaleType is {unit}, not HU")
      for unit in ("MGML", "EDW", "OD", "Z_EFF", "ED", "PCT", "HU_MOD", "normalized")),
    *(case(f"RescaleType {unit!r}", RescaleType=unit) for unit in (None, "", "HU", "hu", "US", "Houndsfield Unit")),
    case("a slope of 0", slope=1, RescaleSlope="0", said="has RescaleSlope 0"),
    case("no slope", RescaleSlope=None, said="has RescaleSlope None"),
    case("more bits stored than there are", BitsStored=20, HighBit=19, said="BitsAllocated 16, BitsStored 20"),
    case("a high bit too low", BitsStored=12, HighBit=3, said="BitsStored 12, HighBit 3"),
    case("no HighBit", cell=(16, 12, 11), HighBit=None, garbage=0x7000),
]  # fmt: skip


def generate(r):
    kind, packing, signed = r.randrange(4), r.choice(PACKINGS), r.randrange(2)
    if kind == 0:
        photometric = r.choice(("MONOCHROME1", "MONOCHROME2"))
        return case(photometric, packing, signed=signed, intercept=r.randrange(-9, 9) - 1000 * (1 - signed),
                    slope=r.choice((1, 1, 2, -1)) if signed else 1, PhotometricInterpretation=photometric)  # fmt: skip
    if kind == 1:
        intercept, limit = r.choice((-1024, -1000, -8192, 0, 24)) if signed else -1024, r.choice((None, 0, 90))
        number = r.choice((-2000, -32768, -9999, 32767) if signed else (63536, 65535, 32768, 40000, 4095 + 24))
        named = number + r.choice((0, 65536 if number < 0 else 0)) if signed else r.choice((number, number - 65536))
        more = {} if limit is None else {"PixelPaddingRangeLimit": ("SS" if named < 0 else "US", named - limit)}
        if not -32768 <= named - (limit or 0) or named < -32768 or (named < 0) != (named - (limit or 0) < 0):
            named, more = number, {}
        return padded(number, named, packing, intercept=intercept, signed=signed, **more)
    if kind == 2:
        packing = r.choice([p for p in PACKINGS if p != "JPEG-LS"])
        allocated = r.choice((16, 32)) if packing in ("plain", "implicit", "big endian") else 16
        count = r.randrange(12, allocated + 1)
        high = r.randrange(count - 1, allocated)
        return case(f"{count} bits up to {high} of {allocated}", packing, cell=(allocated, count, high), signed=signed,
                    intercept=0 if signed else -1024, garbage=r.getrandbits(32))  # fmt: skip
    unit = r.choice(("STOT", "%", "mg/cm3", "HU MOD", "MGML", "g/ml", "Zeff", "keV", "1/cm"))
    return case(unit, packing, RescaleType=unit, said=f"RescaleType is {unit}, not HU")


@drawn(INSTANCES, generate, seed=18, count=75)
def test_numbers_mean_what_the_header_says(case, tmp_path):
    _, packing, cells, header, wanted, said = case
    folder = write_packed(tmp_path / "ct", cells, packing, **header)
    if said:
        with pytest.raises(InputError) as refused:
            read_ct(folder)
        assert said in str(refused.value) and ".dcm: " in str(refused.value) and "\n" not in str(refused.value)
        return
    scan = read_ct(folder)
    found = sitk.GetArrayFromImage(scan)
    turned = scan.GetOrigin()[2] != pytest.approx(_first_z(folder))  # the normal may point to the head
    np.testing.assert_array_equal(found[::-1] if turned else found, wanted)
    assert scan.GetPixelID() == (sitk.sitkInt16 if np.abs(wanted).max() < 2**15 else sitk.sitkFloat32)


def _first_z(folder):
    return float(pydicom.dcmread(folder / "0.dcm").ImagePositionPatient[2])


def test_padding_of_a_real_scan_is_air():
    folder = Path(__file__).parents[2] / ".." / "shared" / "real-seg" / "ct"
    if not folder.is_dir():
        pytest.skip("the real scan ../shared/real-seg/ct is not at hand")
    wanted = []
    for path in folder.iterdir():
        ds = pydicom.dcmread(path)
        stored = ds.pixel_array.astype(int)  # by pydicom
        assert ds.PixelPaddingValue == -2000 and (stored == -2000).mean() > 0.2
        wanted.append((ds.ImagePositionPatient[2], np.where(stored == -2000, -1024, stored - 1024)))
    found = sitk.GetArrayFromImage(read_ct(folder))
    np.testing.assert_array_equal(found, [hu for _, hu in sorted(wanted, key=lambda pair: pair[0])])
