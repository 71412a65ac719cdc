"""The kinds of input that are damaged: how a good one is made, damaged and read, and what is right."""

import json
import os
import random
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
import SimpleITK as sitk
import torch

from stress import mutate, oracle
from vaelib import InputError
from vaelib.dicom.pixels import same_locale
from vaelib.dicom.write import write_ct
from vaelib.vae import VAE

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from small import SPACING, blob_volume, forge, make_series  # noqa: E402

from vaelib import volumes
from vaelib.cohort import load_slices
from vaelib.cohorts import labels
from vaelib.cohorts.layout import Case, cache_folder, data_folder, find_cases, models_folder
from vaelib.engine import checkpoints
from vaelib.engine.shards import prepare

LEVEL, AIR = 4, -1000
SYNTAXES = {"ct RLE": pydicom.uid.RLELossless, "ct JPEG-LS": pydicom.uid.JPEGLSLossless}


class Kind(NamedTuple):
    """A kind of input; `honest` is what a good one holds once it is unfolded, in bytes."""

    make: Callable
    damage: Callable
    read: Callable
    differs: Callable
    honest: int = 2 << 20


def _edit(path, change, r):
    path.write_bytes(change(path.read_bytes(), r))


# CT


def _make_ct(folder, kind):
    write_ct(blob_volume()[0], folder / "ct", spacing=SPACING, patient_id="PANCREAS_0001", uid="test")
    for path in (folder / "ct").iterdir():
        if kind in SYNTAXES:
            ds = pydicom.dcmread(path)
            ds.compress(SYNTAXES[kind], generate_instance_uid=False)
            ds.save_as(path)
        elif kind != "ct":
            writer = sitk.ImageFileWriter()
            writer.SetFileName(str(path))
            writer.UseCompressionOn()
            writer.SetCompressor(kind.removeprefix("ct "))
            writer.KeepOriginalImageUIDOn()
            with same_locale():
                writer.Execute(sitk.ReadImage(str(path)))


def _damage_ct(folder, r):
    paths = sorted((folder / "ct").iterdir())
    chosen = paths if r.random() < 0.2 else [r.choice(paths)]
    change, state = r.choice((mutate.any_bytes, mutate.dicom)), r.random()
    for path in chosen:  # all alike, where all are chosen
        _edit(path, change, random.Random(state) if len(chosen) > 1 else r)


def ct_differs(folder, image):
    """What of a scan is other than an independent reading of its folder says, or ""."""
    hu, affine, padding = oracle.ct(folder)
    mine, grid = sitk.GetArrayFromImage(image), np.eye(4)
    grid[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    grid[:3, 3] = image.GetOrigin()
    if mine.shape != hu.shape:
        return f"{mine.shape} voxels, {hu.shape} are there"
    if not (np.isclose(mine, hu, rtol=1e-6, equal_nan=True) | padding & (mine <= AIR)).all():
        return "other HU"
    return "" if np.allclose(grid, affine, atol=0.02) else f"other geometry {grid} {affine}"


# masks


def _make_seg(folder):
    make_series(folder / "ct")


def _scan(folder):
    return volumes.read_ct(folder / "ct")


def _damage_seg(folder, r):
    _edit(folder / "seg.dcm", r.choice((mutate.any_bytes, mutate.dicom)), r)


def _seg_differs(folder, good, mask):
    right = oracle.seg(folder / "seg.dcm", _scan(folder))
    return "" if np.array_equal(sitk.GetArrayFromImage(mask), right) else "another mask"


def _make_nifti(folder, ending):
    make_series(folder / "ct")
    mask = volumes.read_mask(folder / "seg.dcm", _scan(folder))
    sitk.WriteImage(mask, str(folder / f"label0001.{ending}"), useCompression=True)
    (folder / "seg.dcm").unlink()


def _damage_nifti(folder, r, ending):
    own = mutate.nifti_gz if ending == "nii.gz" else mutate.nifti
    _edit(folder / f"label0001.{ending}", r.choice((own, mutate.any_bytes)), r)


def _nifti_differs(folder, good, mask, ending):
    right = oracle.nifti(folder / f"label0001.{ending}", _scan(folder))
    return "" if any(np.array_equal(sitk.GetArrayFromImage(mask), m) for m in right) else "another mask"


# archives


def _make_zip(folder):
    _make_nifti(folder, "nii.gz")
    data = (folder / "label0001.nii.gz").read_bytes()
    with zipfile.ZipFile(folder / "labels.zip", "w", zipfile.ZIP_DEFLATED) as bundle:
        for n in (1, 2, 3):
            bundle.writestr(f"TCIA_pancreas_labels/label{n:04d}.nii.gz", data)
    (folder / "label0001.nii.gz").unlink()


def _damage_zip(folder, r):
    _edit(folder / "labels.zip", r.choice((mutate.archive, mutate.any_bytes)), r)


def _unpack(folder):
    before = {*folder.parent.rglob("*")}
    found = labels.unpack(folder / "labels.zip", folder / "out")
    return found, {*folder.parent.rglob("*")} - before


def _zip_differs(folder, good, result):
    found, new = result
    allowed = {folder / "out", folder / "out" / labels.FOLDER, *found}
    if new - allowed:
        return f"wrote {sorted(map(str, new - allowed))[:3]}"
    return "" if all(p.is_file() and not p.is_symlink() and labels.MEMBER.fullmatch(p.name) for p in found) else "odd"


# what vaelib has written itself


def _make_shard(folder):
    make_series(folder / "P" / "ct")
    case = Case("P", folder / "P" / "ct", folder / "P" / "seg.dcm", "idc")
    prepare([case], folder / "cache", levels=[LEVEL, LEVEL + 1], workers=1)


def _damage_shard(folder, r):
    shard = folder / "cache" / "hu_-160_240" / "P"
    if r.random() < 0.2:  # a forged one, with a right hash
        changed = mutate.text_of_json((shard / "meta.json").read_bytes(), r)
        forge(shard, folder / "forged", **json.loads(changed))
        shard.rename(folder / "old")
        (folder / "forged").rename(shard)
        return
    path = r.choice(sorted(shard.iterdir()))
    if r.random() < 0.05:
        path.unlink()
    elif path.suffix == ".json":
        _edit(path, r.choice((mutate.text_of_json, mutate.any_bytes)), r)
    else:
        _edit(path, mutate.any_bytes, r)


def _open_shard(folder):
    shards = folder / "cache" / "hu_-160_240"
    return [load_slices(shards, ["P"], level)[:2] for level in (LEVEL, LEVEL + 1)]


def _shard_differs(folder, good, result):
    same = all(
        np.array_equal(a, b) for x, y in zip(_open_shard(good), result, strict=True) for a, b in zip(x, y, strict=True)
    )
    return "" if same else "other slices"


def _make_weights(folder):
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    checkpoints.save(folder / "c.safetensors", {"vae": VAE(32, channels=2, latent=2)}, level=4, thresholds={"16": 0.2})


def _damage_weights(folder, r):
    path = folder / "c.safetensors"
    if r.random() < 0.4:  # a forged one, with a right hash
        tensors, said = checkpoints.read(path)
        said = json.loads(mutate.text_of_json(json.dumps(said).encode(), r))
        checkpoints.write(path, tensors, said if isinstance(said, dict) else {})
    else:
        _edit(path, mutate.any_bytes, r)


def _load_weights(folder):
    networks, _ = checkpoints.load(folder / "c.safetensors", "vae")
    return networks["vae"].state_dict()


def _weights_differ(folder, good, result):
    right = _load_weights(good)
    return "" if right.keys() == result.keys() and all(torch.equal(right[k], result[k]) for k in right) else "others"


def _make_arrays(folder):
    folder.mkdir(parents=True)
    _arrays(folder)


def _arrays(folder):
    make = lambda: {"a": np.arange(3000.0), "b": np.eye(9, dtype=bool)}  # noqa: E731
    return checkpoints.kept(folder / "a.safetensors", {}, make)


def _arrays_differ(folder, good, result):
    return "" if np.array_equal(result["a"], np.arange(3000.0)) and np.array_equal(result["b"], np.eye(9)) else "others"


# what a notebook is told


def _damage_parameters(folder, r):
    letters = "aA1/\\.~$ {}*?[]\n\té漢\u202e%"
    text = "".join(r.choice(letters) for _ in range(r.choice((0, 1, 3, 12, 300, 5000))))
    text = os.fsencode(text.encode(sys.getfilesystemencoding(), "ignore")).replace(b"\x00", b"")
    (folder / "told").write_bytes(r.choice((text, os.fsencode(folder), os.fsencode(folder) + b"/" + text)))
    for _ in range(r.randrange(12)):
        name = r.choice(
            ("PANCREAS_0001", "pancreas_1", "PANCREAS_0025", "CT_1", "SEG_1", "a", "label0001.nii.gz", ".b")
        )
        above = r.choice([folder, *(p for p in folder.rglob("*") if p.is_dir())])
        if r.random() < 0.6:
            (above / name).mkdir(exist_ok=True, parents=True) if not (above / name).exists() else None
        elif not (above / name).exists():
            (above / f"{name}.dcm").write_bytes(b"x") if r.random() < 0.5 else (above / name).symlink_to(folder)


def _find(folder):
    os.environb[b"VAELIB_DATA"] = (folder / "told").read_bytes()
    try:
        cache_folder(), models_folder()
        return find_cases(data_folder())
    except InputError as error:  # the folder that was told is what has to be named
        raise InputError(str(error).replace(str(data_folder()), f"VAELIB_DATA, {folder}")) from None
    finally:
        del os.environ["VAELIB_DATA"]


def _cases_odd(folder, good, cases):
    return (
        "" if all(case.ct.is_dir() and (case.mask is None or case.mask.exists()) for case in cases) else "no such file"
    )


CT = ("ct", "ct RLE", "ct JPEG-LS", "ct JPEG", "ct JPEG2000")
KINDS = {
    kind: Kind(
        lambda folder, kind=kind: _make_ct(folder, kind), _damage_ct, _scan,
        # no code of a picture has a checksum
        (lambda folder, _, image: ct_differs(folder / "ct", image)) if kind == "ct" else lambda *_: "",
    )
    for kind in CT
}  # fmt: skip
KINDS |= {
    "seg": Kind(_make_seg, _damage_seg, lambda f: volumes.read_mask(f / "seg.dcm", _scan(f)), _seg_differs),
    **{
        ending: Kind(
            lambda folder, e=ending: _make_nifti(folder, e), lambda folder, r, e=ending: _damage_nifti(folder, r, e),
            lambda f, e=ending: volumes.read_mask(f / f"label0001.{e}", _scan(f)),
            lambda folder, good, mask, e=ending: _nifti_differs(folder, good, mask, e),
        )
        for ending in ("nii", "nii.gz")
    },
    "zip": Kind(_make_zip, _damage_zip, _unpack, _zip_differs),
    "shard": Kind(_make_shard, _damage_shard, _open_shard, _shard_differs),
    "weights": Kind(_make_weights, _damage_weights, _load_weights, _weights_differ),
    "arrays": Kind(_make_arrays, lambda f, r: _edit(f / "a.safetensors", mutate.any_bytes, r), _arrays, _arrays_differ),
    "parameters": Kind(lambda f: f.mkdir(parents=True), _damage_parameters, _find, _cases_odd),
}  # fmt: skip
