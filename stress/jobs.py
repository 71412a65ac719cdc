"""The jobs that `stress.kill` disturbs: how each runs in a folder, what an older run leaves there, what readers see."""

import hashlib
import os
import sys
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import idc_index_data
import numpy as np
import SimpleITK as sitk
import torch

from vaelib import InputError
from vaelib.cohorts.labels import FOLDER
from vaelib.cohorts.layout import find_cases
from vaelib.dicom.write import write_seg
from vaelib.engine.shards import open_case, prepare
from vaelib.phantom.scanner import SCANNERS
from vaelib.vae import VAE, MaskDecoder
from vaelib.volumes import read_ct, read_mask

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from small import SPACING, blob_volume, make_patients  # noqa: E402

from vaelib import cohort as opening
from vaelib import recipes
from vaelib.cohorts import download, labels, transfer
from vaelib.dicom import write
from vaelib.engine import checkpoints
from vaelib.phantom import cohort

LEVELS = (3, 5, 9)


class Job(NamedTuple):
    """`run` and `old` are called with the folder of inputs and that to write to; so is `read`: a hash by name."""

    run: Callable
    read: Callable
    old: Callable | None = None


def given(folder: Path) -> Path:
    """What the jobs start from, made once: three small scans, their levels, a checkpoint, a zip of labels."""
    os.environ["TQDM_DISABLE"] = "1"
    torch.set_num_threads(1)  # no threads before a fork, of torch's or of ITK's
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    import lightning_fabric  # noqa: F401

    make_patients(folder / "scans", (1, 2, 3))
    prepare(find_cases(folder / "scans"), folder / "cache", levels=LEVELS, workers=1)
    _networks(folder / "model.safetensors", 0)
    with zipfile.ZipFile(folder / "labels.zip", "w") as bundle:
        for n in (1, 2, 3):
            sitk.WriteImage(sitk.GetImageFromArray(blob_volume()[1]), str(folder / f"label{n:04d}.nii.gz"), True)
            bundle.write(folder / f"label{n:04d}.nii.gz", f"label{n:04d}.nii.gz")
    return folder


def _networks(path, seed):
    torch.manual_seed(seed)
    networks = {"vae": VAE(32, channels=2, latent=4), "mask": MaskDecoder(32, channels=2, latent=4, prevalence=0.5)}
    checkpoints.save(path, networks, level=5, window=[-160, 240], thresholds={"32": 0.5, "512": 0.5})


def listen(folder: Path) -> int:
    """Start the bucket in a process of its own, direct the download to it, and return the number of the process."""
    ready = folder / "address"
    if not (pid := os.fork()):
        from bucket import Bucket, make_index

        bucket = Bucket()
        make_index(bucket, folder / "bucket")
        bucket.spoil = dict.fromkeys(bucket.files, lambda body: time.sleep(0.05) or body)  # so that kills find it busy
        ready.with_suffix(".half").write_text(bucket.url)
        ready.with_suffix(".half").rename(ready)
        time.sleep(10_000)
    while not ready.exists():
        time.sleep(0.1)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        os.environ.pop(name, None)
    idc_index_data.IDC_INDEX_PARQUET_FILEPATH = folder / "bucket" / "index.parquet"
    transfer.ENDPOINT = ready.read_text()
    return pid


def _hash(*images):
    total = hashlib.sha256()
    for image in images:
        total.update(image if isinstance(image, bytes) else np.ascontiguousarray(sitk.GetArrayViewFromImage(image)))
    return total.hexdigest()


# --- phantom: the painting itself, which writes nothing, is replaced by a blob


def _painted(seed, number, *, size):
    hu, mask = blob_volume()
    facts = {"scanner": SCANNERS[number % len(SCANNERS)], "origin": (0.0, 0.0, 100.0)}
    return cohort.Patient(hu + np.int16(2 * number), mask, mask, SPACING, facts)


def _phantom(inputs, top, *, patients=3, workers=1):
    if workers == 1:
        cohort.make_patient = _painted
    cohort.make_cohort(top, patients=patients, seed=1, size=48, workers=workers)


def _scans(inputs, top):
    try:
        cases = find_cases(top)
    except InputError as error:
        assert "no case in it" in str(error), error
        return {}
    scans = {case.patient: (case, read_ct(case.ct)) for case in cases}
    return {name: _hash(scan, read_mask(case.mask, scan)) for name, (case, scan) in scans.items()}


# --- prepare


def _prepare(inputs, top, *, levels=LEVELS, workers=1):
    prepare(find_cases(inputs / "scans"), top, levels=levels, workers=workers)


def _shards(inputs, top):
    seen = {}
    for case in find_cases(inputs / "scans"):
        for level in LEVELS:
            try:
                shard = open_case(top / "hu_-160_240", case.patient, level)
                seen[f"{case.patient} {level}"] = _hash(shard.images.tobytes(), shard.masks.tobytes())
            except InputError as error:
                assert "is not in the cache" in str(error), error
    return seen


# --- train


def _train(inputs, top, *, seed=0, workers=1):
    opening.cache_folder = lambda folder: inputs / "cache"
    opening.prepare = partial(prepare, levels=LEVELS, workers=1)
    how = dict(level=5, latent=4, epochs=3, batch_size=8, seed=seed, resume=True)
    recipes.train(inputs / "scans", out=top / "m.safetensors", **how)


def _weights(inputs, top):
    seen = {}
    if (path := top / "m.safetensors").exists():
        checkpoints.load(path, "vae", "mask")
        seen["m"] = _hash(path.read_bytes())
    for path in top.glob("*.state"):
        checkpoints.read(path)
        seen[path.name] = "whole"
    return seen


# --- segment


def _segment(inputs, top, *, model="model.safetensors", workers=1):
    write.write_seg = partial(write_seg, uid="stress")  # or each would be another
    case = find_cases(inputs / "scans")[0]
    for name in ("packed.nii.gz", "m.dcm", "m.nii"):
        recipes.segment(case.ct, checkpoint=inputs / model, out=top / name, overwrite=True)


def _older_masks(inputs, top):
    _networks(top / "other.safetensors", 1)
    _segment(inputs, top, model=top / "other.safetensors")
    (top / "other.safetensors").unlink()


def _masks(inputs, top):
    scan = read_ct(find_cases(inputs / "scans")[0].ct)
    found = [p for p in top.iterdir() if p.name[0] != "."]
    return {path.name: _hash(read_mask(path, scan), path.read_bytes()) for path in found}


# --- labels


def _labels(inputs, top, *, workers=1):
    labels.unpack(inputs / "labels.zip", top)


def _unpacked(inputs, top):
    found = list((top / FOLDER).glob("*"))
    assert len(found) in (0, 3), found
    return {path.name: _hash(sitk.ReadImage(str(path)), path.read_bytes()) for path in found}


JOBS = {
    "phantom": Job(_phantom, _scans, partial(_phantom, patients=1)),
    "prepare": Job(_prepare, _shards, partial(_prepare, levels=(3, 9))),
    "train": Job(_train, _weights, partial(_train, seed=1)),
    "segment": Job(_segment, _masks, _older_masks),
    "labels": Job(_labels, _unpacked),
    "download": Job(lambda inputs, top: download.download(top), _scans),
}  # fmt: skip
