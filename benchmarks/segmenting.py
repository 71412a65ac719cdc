"""From the DICOM files of a series to a written mask: seconds, the share of each stage, and the most memory held.

    python -m benchmarks.segmenting

MONAI does the same with the same networks: its transforms to read, turn, window, downscale and upscale, `Invertd` to
turn the map back to the scan, and `SaveImaged`, which writes NIfTI. Both must have drawn the same mask; the share of it
in which they differ, if any, is kept as `differ`.
"""

import json
import shutil
import statistics
import time
import warnings
from collections import defaultdict
from contextlib import contextmanager, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks import timing

ROOT = Path(__file__).resolve().parents[1]
ROOM = ROOT / "build" / "bench" / "segmenting"
SLICES, PASSES = 240, 30
STAGES = {  # the functions that `recipes.segment` calls, and "encode and decode" are two
    "load": "load the networks", "read_ct": "read", "images_at": "downscale", "encode": "encode and decode",
    "decode": "encode and decode", "to_scan": "put back", "write_mask": "write",
}  # fmt: skip


def rows() -> dict[str, dict]:
    """Every row of this module."""
    shutil.rmtree(ROOM, ignore_errors=True)
    try:
        timing.in_a_fresh_process(make)
        speed = timing.in_a_fresh_process(measure_speed)
        peaks = {way: [timing.in_a_fresh_process(peak_of, way)] for way in (".nii.gz", ".dcm", "MONAI")}
        what = f"the most memory held while a series of {SLICES} slices is segmented, Python and its packages included"
        memory = {
            f"segmenting/peak memory, to {way}": timing.row(what, "MB", {"vaelib": peaks[way], "MONAI": peaks["MONAI"]})
            for way in (".nii.gz", ".dcm")
        }
        return speed | memory
    finally:
        shutil.rmtree(ROOM, ignore_errors=True)


def make():
    """A series, and a checkpoint whose mask decoder has seen it often enough to draw a pancreas."""
    import torch

    from benchmarks import patients
    from vaelib import metrics, recipes
    from vaelib.cohort import load_slices
    from vaelib.engine.checkpoints import save
    from vaelib.engine.shards import prepare
    from vaelib.vae import VAE

    case = patients.make(1, ROOM / "cohort", slices=SLICES)
    slices = load_slices(prepare([case], ROOM / "cache", levels=(6,), workers=1), [case.patient], 6)
    torch.manual_seed(0)
    vae = VAE(size=64, latent=64)
    mask, _ = recipes.train_mask(vae, slices, slices, copies=1, mask_epochs=PASSES)
    found = recipes.predicted(vae, mask, slices)
    cut = metrics.best_threshold(found, slices.masks >= metrics.TRUTH, slices.patient)
    save(ROOM / "networks.safetensors", {"vae": vae, "mask": mask}, level=6, window=[-160, 240],
         thresholds={"64": cut, "512": cut})  # fmt: skip


def ours(out: Path):
    """What `vaelib segment` does."""
    from vaelib import recipes

    with redirect_stdout(StringIO()):
        recipes.segment(_series(), checkpoint=ROOM / "networks.safetensors", out=out, overwrite=True)


def monais(folder: Path):
    """The same by MONAI's transforms, to a NIfTI of its own in `folder`."""
    import torch
    from monai import transforms as t

    from vaelib.engine.checkpoints import load

    networks, meta = load(ROOM / "networks.safetensors", "vae", "mask")
    low, high = meta["window"]
    turn = t.Compose([
        t.LoadImaged("image", reader="ITKReader"), t.EnsureChannelFirstd("image"),
        t.Orientationd("image", axcodes="LPS"), t.ScaleIntensityRanged("image", low, high, 0, 1, clip=True),
    ])  # fmt: skip
    after = t.Compose([
        t.Invertd("mask", transform=turn, orig_keys="image", nearest_interp=False),
        t.AsDiscreted("mask", threshold=meta["thresholds"]["512"]),
        t.SaveImaged("mask", output_dir=folder, output_postfix="", output_dtype=np.uint8, separate_folder=False,
                     print_log=False),
    ])  # fmt: skip
    item = turn({"image": str(_series())})
    with torch.no_grad():
        small = t.Resize((64, 64, -1), mode="area")(item["image"])
        x = small.as_tensor()[0].permute(2, 1, 0)[:, None].contiguous()
        z = torch.cat([networks["vae"].eval().encoder(b)[0] for b in x.split(256)])
        found = torch.cat([torch.sigmoid(networks["mask"].eval()(b)) for b in z.split(256)])
    found = small.new_tensor(found[:, 0].permute(2, 1, 0)[None].numpy())
    item["mask"] = t.Resize(item["image"].shape[1:], mode="trilinear")(found)
    after(item)
    return next(folder.glob("*.nii.gz"))


def _series() -> Path:
    return next((ROOM / "cohort").glob("*/*/CT_1"))


def peak_of(way: str) -> float:
    """Megabytes at most, in the process that calls this."""
    warnings.simplefilter("ignore")
    ours(ROOM / f"mask{way}") if way != "MONAI" else monais(ROOM / "monai")
    return timing.peak() / 1e6


@contextmanager
def stopwatch(taken):
    """Add the seconds of each function in `STAGES` to `taken` while `recipes.segment` calls it."""
    from vaelib import recipes

    def timed(name, function):
        def call(*given, **options):
            begin = time.perf_counter()
            try:
                return function(*given, **options)
            finally:
                taken[STAGES[name]] += time.perf_counter() - begin

        return call

    with mock.patch.multiple(recipes, **{name: timed(name, getattr(recipes, name)) for name in STAGES}):
        yield


def measure_speed() -> dict[str, dict]:
    """Seconds, and the share of each stage of ours; packages are imported and networks were run once before."""
    warnings.simplefilter("ignore")
    shares = {".nii.gz": [], ".dcm": []}

    def timed(ending):
        taken = defaultdict(float)
        with stopwatch(taken):
            seconds = timing.seconds(partial(ours, ROOM / f"mask{ending}"))
        shares[ending].append({stage: taken[stage] / seconds for stage in STAGES.values()})
        return seconds

    ways = {ending: partial(timed, ending) for ending in shares}
    ways["MONAI"] = partial(timing.seconds, partial(monais, ROOM / "monai"))
    timing.in_turn(ways, times=1)
    differ = difference(ROOM / "mask.nii.gz", next((ROOM / "monai").glob("*.nii.gz")))
    assert differ < 1e-3, f"MONAI's mask differs in {differ:.1%} of ours"
    for kept in shares.values():
        kept.clear()
    found = timing.in_turn(ways)
    out = {}
    for ending, kept in shares.items():
        what = f"a series of {SLICES} slices, from DICOM to a mask written as {ending}; the peer writes .nii.gz"
        made = timing.row(what, "s", {"vaelib": found[ending], "MONAI": found["MONAI"]})
        share = {stage: statistics.median(one[stage] for one in kept) for stage in kept[0]}
        out[f"segmenting/to {ending}"] = made | {"share": share, "differ": differ}
    return out


def difference(one: Path, two: Path) -> float:
    """The voxels of two masks that are not alike, as a share of the first, once they are on one grid."""
    import SimpleITK as sitk

    a, b = (sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS") for path in (one, two))
    a, b = sitk.GetArrayViewFromImage(a) > 0, sitk.GetArrayViewFromImage(b) > 0
    assert a.any(), "the mask is empty"
    return float((a != b).sum() / a.sum())


if __name__ == "__main__":
    print(json.dumps(rows(), indent=1))
