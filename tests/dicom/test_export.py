"""A mask goes out as NIfTI or DICOM SEG and comes back the same; a decoder goes out as ONNX and says the same."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from small import same

from course.onnx import write_onnx
from vaelib import InputError
from vaelib.dicom.export import write_mask
from vaelib.latent import decode
from vaelib.spatial import ResidualMaskDecoder
from vaelib.vae import VAE, MaskDecoder
from vaelib.volumes import read_ct, read_mask

ROOT = Path(__file__).resolve().parents[2]


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


@pytest.mark.parametrize("kind", ["picture", "mask", "spatial"])
def test_a_decoder_leaves_as_onnx_and_says_the_same(kind, tmp_path):
    torch.manual_seed(0)
    decoder, shape = {
        "picture": (VAE(64, latent=64).decoder, (64,)),
        "mask": (MaskDecoder(32, channels=4, latent=6, prevalence=0.2), (6,)),
        "spatial": (ResidualMaskDecoder(32, channels=4, latent=2, grid=8), (2, 8, 8)),
    }[kind]
    path = write_onnx(decoder, tmp_path / "new" / "decoder.onnx", shape)
    assert [p.name for p in path.parent.iterdir()] == ["decoder.onnx"]  # the weights are in it
    session = onnxruntime.InferenceSession(path)
    z = 2 * torch.randn(7, *shape)
    found = np.concatenate([session.run(["image"], {"latent": one[None].numpy()})[0] for one in z])
    wanted = decode(decoder, z)
    assert wanted.std() > 1e-3  # not one grey, which any file could say
    assert np.abs(found - wanted).max() < 1e-4


def test_an_onnx_file_is_the_same_twice_and_names_no_place(tmp_path):
    torch.manual_seed(0)
    decoder = MaskDecoder(32, channels=2, latent=4)
    one, two = (write_onnx(decoder, tmp_path / name, (4,)).read_bytes() for name in ("one.onnx", "two.onnx"))
    assert one == two
    assert not [place for place in (str(ROOT), str(Path.home()), sys.prefix, ".py") if place.encode() in one]


def test_what_onnx_needs_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # as if it were not installed
    with pytest.raises(InputError, match=r"new\.onnx: ONNX needs onnxscript; install the extra: .*vaelib\[site\]"):
        write_onnx(MaskDecoder(32, channels=2, latent=4), tmp_path / "new.onnx", (4,))
    assert not list(tmp_path.iterdir())
