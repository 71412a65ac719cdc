"""How fast a cohort of the size of Pancreas-CT is prepared, and in how much memory, beside MONAI on the same files.

    python benchmarks/prepare.py [--patients 80] [--slices 240]

Makes synthetic patients (8 phantoms, stretched to as many slices as asked; 0.53 MB a slice), prepares them with one
worker and with two, lets MONAI read some of the same files, writes `benchmarks/prepare.json` and deletes what it made.
MONAI's reader for DICOM needs the packages of the extra `bench`; without them its rows are left out and said to be.
"""

import argparse
import json
import multiprocessing
import platform
import resource
import shutil
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import SimpleITK as sitk

from vaelib.cohort import REPOSITORY, find_cases
from vaelib.dicom import make_uid, write_ct, write_seg
from vaelib.progress import each
from vaelib.pyramid import images_at, prepare
from vaelib.volumes import read_ct

ROOM = REPOSITORY / "build" / "bench"
SLICES_BESIDE_MONAI = 1200  # enough for a median over five patients


def make_patient_of(number, *, slices):
    """Write one patient of `slices` slices, in the layout of the Imaging Data Commons."""
    from vaelib.phantom import make_patient

    patient = make_patient(2026, 1 + number % 8)
    rows = np.linspace(0, len(patient.hu) - 1, slices).round().astype(int)
    dz, dy, dx = patient.spacing
    name, uid = f"PANCREAS_{number:04d}", f"bench {number}"
    study = ROOM / "cohort" / name / make_uid(uid, "study")
    spacing = (dz * len(patient.hu) / slices, dy, dx)
    ct = write_ct(patient.hu[rows][::-1, ::-1], study / "CT_1", spacing=spacing, patient_id=name, uid=uid)
    mask = sitk.GetImageFromArray(np.ascontiguousarray(patient.mask[rows][::-1, ::-1]))
    mask.CopyInformation(read_ct(ct))
    write_seg(mask, ct, study / "SEG_1" / "1.dcm", uid=uid)


def in_a_fresh_process(function, *given):
    """Call a function where nothing else has taken memory: a process also inherits the peak of the one it came from."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        return fresh.submit(function, *given).result()


def measure_prepare(workers, patients):
    """Seconds, slices a second, bytes of cache, and the peak memory of a worker (bytes), in a process of its own."""
    shutil.rmtree(ROOM / "cache", ignore_errors=True)
    seconds, slices, peak = in_a_fresh_process(_prepare, workers, patients)
    size = sum(p.stat().st_size for p in (ROOM / "cache").rglob("*.npy"))
    return dict(workers=workers, patients=patients, slices=slices, seconds=round(seconds, 1),
                slices_per_second=round(slices / seconds, 1), peak_bytes=peak, cache_bytes=size)  # fmt: skip


def _prepare(workers, patients):
    cases = find_cases(ROOM / "cohort")[:patients]
    begin = time.perf_counter()
    shards = prepare(cases, ROOM / "cache", workers=workers)
    seconds = time.perf_counter() - begin
    slices = sum(json.loads((shards / c.patient / "meta.json").read_text())["size"][2] for c in cases)
    who = resource.RUSAGE_SELF if workers == 1 else resource.RUSAGE_CHILDREN
    return seconds, slices, resource.getrusage(who).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def measure_beside_monai(folders):
    """Slices a second from the DICOM files of a series to 64 x 64 in memory, one thread: ours and MONAI's, in turn."""
    import torch
    from monai.data import ITKReader, PydicomReader
    from monai.transforms import (
        Compose,
        EnsureChannelFirstd,
        LoadImaged,
        Orientationd,
        Resized,
        ScaleIntensityRanged,
    )

    torch.set_num_threads(1)
    ways = {"vaelib": lambda folder: images_at(read_ct(folder), 6)}
    for reader in (ITKReader, PydicomReader):
        chain = Compose([
            LoadImaged("image", reader=reader()), EnsureChannelFirstd("image"), Orientationd("image", axcodes="LPS"),
            ScaleIntensityRanged("image", -160, 240, 0, 1, clip=True), Resized("image", (64, 64, -1), mode="area"),
        ])  # fmt: skip
        ways[f"MONAI, {reader.__name__}"] = lambda folder, chain=chain: chain({"image": str(folder)})["image"][0]
    rates, made = {name: [] for name in ways}, {}
    for folder in folders:
        for name, way in ways.items():
            begin = time.perf_counter()
            made[name] = np.asarray(way(folder))
            rates[name].append(made[name].size / 64**2 / (time.perf_counter() - begin))
    ours = made.pop("vaelib")
    for name, theirs in made.items():  # (x, y, z) there, and the same picture
        off = np.abs(theirs.transpose(2, 1, 0) - ours).max()
        assert off < 1e-4, f"{name} made another picture, off by {off}"
    return {name: round(statistics.median(values), 1) for name, values in rates.items()}


def main():
    """Measure, write, delete."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=80)
    parser.add_argument("--slices", type=int, default=240)
    asked = parser.parse_args()
    shutil.rmtree(ROOM, ignore_errors=True)
    try:
        (ROOM / "cohort").mkdir(parents=True)
        (ROOM / "cohort" / "SYNTHETIC.md").write_text("Synthetic patients of benchmarks/prepare.py\n")
        for _ in each(partial(make_patient_of, slices=asked.slices), range(1, asked.patients + 1), desc="making"):
            pass
        folders = [c.ct for c in find_cases(ROOM / "cohort")][: max(5, SLICES_BESIDE_MONAI // asked.slices)]
        out = {"machine": f"{platform.machine()}, {multiprocessing.cpu_count()} cores", "slices": asked.slices}
        try:
            out["to 64 x 64, slices a second"] = in_a_fresh_process(measure_beside_monai, folders)
        except ImportError as missing:
            print(f"MONAI's rows are left out: {missing}; pip install -e '.[bench]'")
        few = max(2, asked.patients // 8)
        out["prepare"] = [measure_prepare(*way) for way in ((1, few), (1, asked.patients), (2, asked.patients))]
        print(json.dumps(out, indent=1))
        (REPOSITORY / "benchmarks" / "prepare.json").write_text(json.dumps(out, indent=1) + "\n")
    finally:
        shutil.rmtree(ROOM, ignore_errors=True)


if __name__ == "__main__":
    main()
