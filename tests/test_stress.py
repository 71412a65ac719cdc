"""Bad input is refused by name and before it takes memory, and nothing that is read is ever executed.

The same damage by the thousand: `make stress`.
"""

import locale
import os
import pickle
import shutil
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.encaps import generate_frames
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGLSLossless
from small import make_patients, make_series

from stress import kinds, mutate, read
from vaelib import InputError
from vaelib.cohorts.layout import find_cases
from vaelib.dicom.geometry import slice_normal
from vaelib.dicom.pixels import jpeg_size
from vaelib.engine import checkpoints
from vaelib.engine.shards import open_case, prepare
from vaelib.vae import VAE
from vaelib.volumes import read_ct, read_mask

ROOT = Path(__file__).resolve().parents[1]
FILES = Path(pydicom.data.__file__).parent / "test_files"


def test_damage_of_every_kind_is_read_right_or_refused_by_name():
    words = [sys.executable, "-m", "stress.read", "--cases", str(8 * len(kinds.KINDS)), "--seed", "11"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert f"{8 * len(kinds.KINDS)} cases" in done.stdout


def test_a_header_that_lies_is_found_out_or_harmless_to_reader_writer_and_survey():
    words = [sys.executable, "-m", "stress.headers", "--cases", "40", "--seed", "11"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "40 cases" in done.stdout


READ = "ct", "ct JPEG-LS", "ct JPEG", "ct JPEG2000", "seg", "nii", "nii.gz"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folders = {kind: tmp_path_factory.mktemp("good") / "good" for kind in READ}
    for kind, folder in folders.items():
        kinds.KINDS[kind].make(folder)
    return folders


@pytest.mark.parametrize("kind", ["ct", "seg", "nii.gz"])
@settings(max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(r=st.randoms(use_true_random=False))
def test_a_header_that_lies_about_anything_is_found_out_or_harmless(kind, good, r):
    case = good[kind].with_name("case")
    shutil.rmtree(case, ignore_errors=True)
    shutil.copytree(good[kind], case)
    own = mutate.nifti_gz if kind == "nii.gz" else mutate.dicom
    path = {"ct": case / "ct" / "1-004.dcm", "seg": case / "seg.dcm", "nii.gz": case / "label0001.nii.gz"}[kind]
    path.write_bytes(own(path.read_bytes(), r))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = kinds.KINDS[kind].read(case)
        except InputError as error:
            assert str(case) in str(error)
        else:
            assert not kinds.KINDS[kind].differs(case, good[kind], result)


def change(path, **values):
    ds = pydicom.dcmread(path)
    for keyword, value in values.items():
        if value is None:
            del ds[keyword]
        else:
            setattr(ds, keyword, value)
    ds.save_as(path)


def grown_by(work):
    """Bytes by which this process grows at most while `work` runs, which has to raise InputError; and the message."""
    before = read._peak(reset=True)
    with pytest.raises(InputError) as error:
        work()
    return read._peak() - before, str(error.value)


@pytest.mark.parametrize(
    "lie",
    [
        {"Rows": 65535, "Columns": 65535},
        {"Rows": 4096, "Columns": 4096},
        {"NumberOfFrames": 1_000_000_000},
        {"SamplesPerPixel": 3},
        {"PixelRepresentation": 2},
        {"PhotometricInterpretation": "RGB"},
        {"PixelSpacing": [0, 0]},
        {"PixelSpacing": [-0.7, 0.7]},
        {"RescaleSlope": 0},
        {"RescaleSlope": "1e308"},
        {"RescaleIntercept": None},
        {"Rows": None},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["ct", "ct JPEG2000"])
def test_a_scan_whose_headers_all_lie_is_refused_before_it_takes_memory(kind, lie, good, tmp_path):
    shutil.copytree(good[kind], tmp_path / "good")
    for path in (tmp_path / "good" / "ct").iterdir():
        change(path, **lie)
    grown, said = grown_by(lambda: read_ct(tmp_path / "good" / "ct"))
    assert grown < 40 << 20 and "1-0" in said and "good/ct" in said, (grown >> 20, said)


def test_numbers_that_are_no_numbers_are_refused_by_name(series):
    path = series / "1-004.dcm"
    whole = path.read_bytes()
    for old, new in ((b"0.7", b"nan"), (b"0.7", b"inf"), (b"0.7", b"a.b"), (b"2.5", b"NaN")):
        path.write_bytes(whole.replace(old, new))
        assert path.read_bytes() != whole
        if new != b"NaN":  # SliceThickness, which nobody reads
            with pytest.raises(InputError, match="1-0"):
                read_ct(series)


@pytest.mark.parametrize("kind", ["ct JPEG", "ct JPEG2000"])
def test_reading_a_compressed_scan_leaves_the_locale_as_it_was(kind, good):
    before = locale.setlocale(locale.LC_ALL), locale.getpreferredencoding(False)
    read_ct(good[kind] / "ct")
    assert (locale.setlocale(locale.LC_ALL), locale.getpreferredencoding(False)) == before


def test_a_picture_says_how_large_it_is(good):
    for kind in ("ct JPEG-LS", "ct JPEG", "ct JPEG2000"):
        ds = pydicom.dcmread(next((good[kind] / "ct").iterdir()))
        assert jpeg_size(next(generate_frames(ds.PixelData, number_of_frames=1))) == (40, 32, 16, 1), kind
    assert ds.file_meta.TransferSyntaxUID != JPEGLSLossless
    with pytest.raises(ValueError):
        jpeg_size(b"\xff\xd8\x00\x00")


@pytest.mark.parametrize(
    "lie", [{"NumberOfFrames": 1_000_000_000}, {"NumberOfFrames": None}, {"Rows": 65535, "Columns": 65535}], ids=str
)
def test_a_seg_whose_header_lies_is_refused_before_it_takes_memory(lie, series):
    scan, seg = read_ct(series), series.parent / "seg.dcm"
    change(seg, **lie)
    grown, said = grown_by(lambda: read_mask(seg, scan))
    assert grown < 40 << 20 and str(seg) in said, (grown >> 20, said)


def test_a_seg_whose_frames_lie_a_thousand_kilometres_apart_is_refused(series):
    scan, seg = read_ct(series), series.parent / "seg.dcm"
    ds = pydicom.dcmread(seg)
    ds.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient[2] = 1e9
    ds.save_as(seg)
    grown, said = grown_by(lambda: read_mask(seg, scan))
    assert grown < 40 << 20 and str(seg) in said, (grown >> 20, said)


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.parametrize("at, kind, value", [(40, "8h", (3, 32767, 32767, 32767, 1, 1, 1, 1)), (70, "h", (64,))])
def test_a_label_that_holds_less_than_it_says_is_refused_before_memory_is_taken(
    ending, at, kind, value, good, tmp_path
):
    shutil.copytree(good[ending], tmp_path / "good")
    path, scan = tmp_path / "good" / f"label0001.{ending}", read_ct(tmp_path / "good" / "ct")
    bad = bytearray(mutate.gzip.decompress(path.read_bytes()) if ending == "nii.gz" else path.read_bytes())
    struct.pack_into(f"<{kind}", bad, at, *value)
    path.write_bytes(mutate.gzip.compress(bad) if ending == "nii.gz" else bad)
    grown, said = grown_by(lambda: read_mask(path, scan))
    assert grown < 40 << 20 and str(path) in said, (grown >> 20, said)


@pytest.mark.parametrize("at", [110, 118], ids=["first voxel", "intercept"])
def test_a_label_that_itk_would_read_wrong_in_silence_is_refused(at, good, tmp_path):
    shutil.copytree(good["nii"], tmp_path / "good")
    path, scan = tmp_path / "good" / "label0001.nii", read_ct(tmp_path / "good" / "ct")
    bad = bytearray(path.read_bytes())
    bad[at : at + 2] = b"\x00\x00" if at == 110 else b"\xc0\x7f"
    path.write_bytes(bad)
    with pytest.raises(InputError, match="label0001.nii: its header has voxels begin at byte"):
        read_mask(path, scan)


def test_two_labels_that_itk_would_mix_are_refused(good, tmp_path):
    shutil.copytree(good["nii"], tmp_path / "good")
    shutil.copy(good["nii.gz"] / "label0001.nii.gz", tmp_path / "good")
    for name, other in (("label0001.nii", "label0001.nii.gz"), ("label0001.nii.gz", "label0001.nii")):
        with pytest.raises(InputError, match=f"{name}: lies beside {other}, and ITK would mix the two"):
            read_mask(tmp_path / "good" / name, read_ct(tmp_path / "good" / "ct"))


def test_a_label_placed_twice_otherwise_is_believed_and_reported(good, tmp_path):
    shutil.copytree(good["nii"], tmp_path / "good")
    path, scan = tmp_path / "good" / "label0001.nii", read_ct(tmp_path / "good" / "ct")
    right, bad = sitk.GetArrayFromImage(read_mask(path, scan)), bytearray(path.read_bytes())
    struct.pack_into("<f", bad, 268, struct.unpack_from("<f", bad, 268)[0] + 40)  # the qform, which ITK does not ask
    path.write_bytes(bad)
    with pytest.warns(UserWarning, match="its sform and its qform lie 40.0 mm apart"):
        np.testing.assert_array_equal(sitk.GetArrayFromImage(read_mask(path, scan)), right)


def test_every_ct_among_the_test_files_of_pydicom_is_read_exactly_or_refused_by_name(tmp_path):
    outcomes = {}
    for path in sorted(FILES.rglob("*")):
        try:
            ds = pydicom.dcmread(path)
        except Exception:  # a folder, or no DICOM
            continue
        if ds.get("Modality") != "CT":
            continue
        folder = tmp_path / str(len(outcomes))
        folder.mkdir()
        ds.save_as(folder / "a.dcm")
        if "ImagePositionPatient" in ds:  # and the same slice 5 mm further, since one is no volume
            place = np.array(ds.ImagePositionPatient, float) + 5 * slice_normal(ds.ImageOrientationPatient)
            ds.ImagePositionPatient = [round(float(v), 4) for v in place]
            ds.save_as(folder / "b.dcm")
        try:
            hu = sitk.GetArrayFromImage(read_ct(folder))
        except InputError as error:
            assert str(folder) in str(error)
            outcomes[path] = "refused"
        else:
            wanted = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
            wanted[ds.pixel_array == ds.get("PixelPaddingValue")] = -1024  # it is -2000 wherever there is one
            assert (hu == wanted).all(), path
            outcomes[path] = "read"
    assert {"CT_small.dcm", "693_J2KI.dcm"} <= {path.name for path, found in outcomes.items() if found == "read"}
    assert all("TINY_ALPHA" in str(path) for path, found in outcomes.items() if found == "refused")  # no position


def test_a_deflated_file_is_read_and_a_bomb_is_refused_before_it_takes_memory(series):
    right = sitk.GetArrayFromImage(read_ct(series))
    for path in series.iterdir():
        ds = pydicom.dcmread(path)
        ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        ds.save_as(path, implicit_vr=False, little_endian=True)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_ct(series)), right)
    ds.add_new(0x7FE10010, "OW", bytes(400 << 20))
    ds.save_as(path, implicit_vr=False, little_endian=True)
    assert path.stat().st_size < 1 << 20
    del ds
    for work in (lambda: read_ct(series), lambda: read_mask(path, sitk.Image(8, 8, 8, sitk.sitkInt16))):
        grown, said = grown_by(work)
        assert grown < 300 << 20 and f"{path}: unfolds to over 128 MiB" in said, grown >> 20


class Bomb:
    """What creates a file where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_in_the_place_of_anything_is_refused_and_never_executed(tmp_path):
    pickled = pickle.dumps(Bomb(tmp_path / "executed"))
    pickle.loads(pickled)
    (tmp_path / "executed").rmdir()  # so it would have worked
    weights = checkpoints.save(tmp_path / "c.safetensors", {"vae": VAE(32, channels=2, latent=2)})
    weights.write_bytes(pickled)
    with pytest.raises(InputError, match="c.safetensors"):
        checkpoints.load(weights)
    np.save(tmp_path / "a.npy", np.array([Bomb(tmp_path / "executed")], dtype=object))
    make_patients(tmp_path / "cohort", [1])
    shards = prepare(find_cases(tmp_path / "cohort"), tmp_path / "cache", levels=[4], workers=1)
    shutil.copy(tmp_path / "a.npy", shards / "PANCREAS_0001" / "mask_4.npy")
    with pytest.raises(InputError, match="mask_4.npy: is missing or not as it was written; remove that folder and run"):
        open_case(shards, "PANCREAS_0001", 4)
    for spoilt in (lambda file: pickle.dump(Bomb(tmp_path / "executed"), file),
                   lambda file: np.savez(file, a=np.array([Bomb(tmp_path / "executed")], dtype=object))):  # fmt: skip
        with open(tmp_path / "a.safetensors", "wb") as file:
            spoilt(file)
        with pytest.warns(UserWarning, match="a.safetensors: is damaged; it is made anew"):
            found = checkpoints.kept(tmp_path / "a.safetensors", {}, lambda: {"a": np.ones(2)})
        assert found["a"].tolist() == [1, 1]
    assert not (tmp_path / "executed").exists()


def test_a_shard_that_lost_a_bit_is_refused_until_it_is_prepared_anew(tmp_path):
    make_patients(tmp_path / "cohort", [1])
    cases = find_cases(tmp_path / "cohort")
    shards = prepare(cases, tmp_path / "cache", levels=[4, 5], workers=1)
    path = shards / "PANCREAS_0001" / "mask_4.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match="mask_4.npy: is missing or not as it was written"):
        open_case(shards, "PANCREAS_0001", 4)
    open_case(shards, "PANCREAS_0001", 5)
    path.write_bytes(whole[:-1])  # a shorter one is seen by `prepare`, which does not read it
    prepare(cases, tmp_path / "cache", levels=[4, 5], workers=1)
    assert path.read_bytes() == whole
    meta = path.with_name("meta.json")
    meta.write_text(meta.read_text().replace("2.5", "3.5", 1))
    with pytest.raises(InputError, match="meta.json: is damaged, or of another vaelib; remove that folder and run"):
        open_case(shards, "PANCREAS_0001", 5)


def test_a_checkpoint_that_lost_a_bit_is_refused(tmp_path):
    path = checkpoints.save(tmp_path / "c.safetensors", {"vae": VAE(32, channels=2, latent=2)})
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match="c.safetensors: not a whole safetensors file of vaelib .its hash is another"):
        checkpoints.load(path)


def test_networks_of_monstrous_size_are_never_built(tmp_path):
    tensors, _ = checkpoints.read(checkpoints.save(tmp_path / "a", {"vae": VAE(32, channels=2, latent=2)}))
    config = dict(size=512, channels=10**6, latent=10**6, dims=2)
    checkpoints.write(tmp_path / "b", tensors, {"networks": {"vae": ["VAE", config]}})
    grown, said = grown_by(lambda: checkpoints.load(tmp_path / "b"))
    assert grown < 200 << 20 and "b: made by another architecture than VAE" in said


def test_what_is_hidden_is_never_taken_for_data(tmp_path):
    folder = make_series(tmp_path / "PANCREAS_0001" / "study" / "CT_1")
    (folder.parent / "SEG_1").mkdir()
    (folder.parent / "seg.dcm").rename(folder.parent / "SEG_1" / "seg.dcm")
    (whole,) = find_cases(tmp_path)
    shutil.copytree(folder.parent, tmp_path / "PANCREAS_0001" / ".study.host.1.x" / "study")
    shutil.copytree(tmp_path / "PANCREAS_0001" / "study", tmp_path / "PANCREAS_0001" / ".study")
    shutil.copy(folder.parent / "SEG_1" / "seg.dcm", folder.parent / "SEG_1" / ".seg.dcm")
    assert find_cases(tmp_path) == [whole]
