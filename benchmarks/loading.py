"""From DICOM to small slices in memory, opening a patient that is cached, and slices of the cache in random order.

    python -m benchmarks.loading

One thread each. Each way must give the same picture before it is timed; TorchIO, which has no area averaging, is timed
with torch's put into its chain, and once more with the nearest that it has of its own, whose error is stated.
"""

import functools
import json
import os
import shutil
import warnings
from pathlib import Path

import numpy as np

from benchmarks import timing

ROOT = Path(__file__).resolve().parents[1]
ROOM = ROOT / "build" / "bench" / "loading"
SLICES = {"raw": 120, "JPEG-LS": 60, "RLE": 12}  # GDCM, which two of the peers decode with, is slow at RLE
PATIENTS, BATCH, BATCHES = 3, 8, 20
WINDOW = dict(a_min=-160, a_max=240, b_min=0, b_max=1, clip=True)


def rows() -> dict[str, dict]:
    """Every row of this module."""
    shutil.rmtree(ROOM, ignore_errors=True)
    try:
        return timing.in_a_fresh_process(_rows)
    finally:
        shutil.rmtree(ROOM, ignore_errors=True)


def _rows():
    import SimpleITK as sitk
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    series, shards = make_series(), make_cache()
    out = {f"loading/to 64, {kind}": to_64(kind, folder) for kind, folder in series.items()}
    return out | opening(shards) | random_slices(shards)


def make_series() -> dict[str, Path]:
    """One series of a synthetic patient, and its first slices compressed in two ways."""
    from pydicom.uid import JPEGLSLossless, RLELossless

    from benchmarks import patients

    raw = patients.make(1, ROOM / "cohort", slices=SLICES["raw"]).ct
    made = {"raw": raw}
    for kind, syntax in (("JPEG-LS", JPEGLSLossless), ("RLE", RLELossless)):
        made[kind] = patients.compressed(raw, ROOM / kind, syntax, first=SLICES[kind])
    return made


def make_cache() -> Path:
    """The patients of the cache: the one above, and copies of its levels under other names."""
    from vaelib.cohorts.layout import find_cases
    from vaelib.engine.shards import prepare

    shards = prepare(find_cases(ROOM / "cohort"), ROOM / "cache", levels=(6, 9), workers=1)
    for number in range(2, PATIENTS + 1):
        shutil.copytree(shards / "PANCREAS_0001", shards / f"PANCREAS_{number:04d}")
    return shards


# --- from DICOM -------------------------------------------------------------------------------------------


def monai_chain(reader):
    """MONAI's transforms from a folder of DICOM to 64 x 64, (1, x, y, z)."""
    from monai import transforms as t

    return t.Compose([
        t.LoadImaged("image", reader=reader), t.EnsureChannelFirstd("image"), t.Orientationd("image", axcodes="LPS"),
        t.ScaleIntensityRanged("image", **WINDOW), t.Resized("image", (64, 64, -1), mode="area"),
    ])  # fmt: skip


def torchio_chain(smaller):
    """TorchIO's transforms to the canonical order and the window, and `smaller` after them."""
    import torchio as tio

    window = [tio.Clamp(-160, 240), tio.RescaleIntensity((0, 1), in_min_max=(-160, 240))]
    return tio.Compose([tio.ToOrientation("LPS"), *window, smaller])


def to_64(kind: str, folder: Path) -> dict:
    """Slices a second from the files of a series to 64 x 64 in memory, all of them in canonical order."""
    import torch
    import torchio as tio
    from monai.data import ITKReader, PydicomReader

    from vaelib.levels import images_at
    from vaelib.volumes import read_ct

    ours = images_at(read_ct(folder), 6)
    average = tio.Lambda(functools.partial(torch.nn.functional.avg_pool3d, kernel_size=(8, 8, 1)))
    nearest = tio.Resample(tuple(s * k for s, k in zip(tio.ScalarImage(folder).spacing, (8, 8, 1), strict=True)),
                           antialias=True)  # fmt: skip
    monai = {reader.__name__: monai_chain(reader()) for reader in (ITKReader, PydicomReader)}
    torchio = {"avg_pool3d in a Lambda": torchio_chain(average), "Resample(antialias=True)": torchio_chain(nearest)}
    if kind != "raw":
        del torchio["Resample(antialias=True)"]
    ways = {"vaelib": lambda: images_at(read_ct(folder), 6)}
    ways |= {f"MONAI, {n}": lambda c=chain: c({"image": str(folder)})["image"] for n, chain in monai.items()}
    ways |= {f"TorchIO, {n}": lambda c=chain: c(tio.ScalarImage(folder)).data for n, chain in torchio.items()}
    off = {}
    for name, way in list(ways.items())[1:]:
        off[name] = float(np.abs(np.asarray(way()[0]).transpose(2, 1, 0) - ours).max())
        assert off[name] < 1e-4 or "Resample" in name, f"{name} made another picture, off by {off[name]}"
    rates = timing.in_turn({name: _rate(way, len(ours)) for name, way in ways.items()})
    what = f"{kind} CT, DICOM to 64 x 64 in memory, one thread; largest difference of the pictures in `off`"
    return timing.row(what, "slices/s", rates) | {"off": off}


def _rate(way, count):
    return lambda: count / timing.seconds(way)


# --- from the cache ---------------------------------------------------------------------------------------


def opening(shards: Path) -> dict[str, dict]:
    """Milliseconds until a prepared patient can be worked on."""
    import torchio as tio
    from monai.data import PersistentDataset

    from vaelib.engine.shards import open_case

    found = {}
    for level in (6, 9):
        images = np.array(open_case(shards, "PANCREAS_0001", level).images)
        nifti = ROOM / f"{level}.nii"
        tio.ScalarImage(tensor=images.astype(np.float32).transpose(2, 1, 0)[None]).save(nifti)
        kept = PersistentDataset([{"level": level}], _as_tensor(images), cache_dir=ROOM / "monai")
        kept[0]  # writes it
        whole = {
            "vaelib": lambda level=level: np.array(open_case(shards, "PANCREAS_0001", level).images),
            "MONAI, PersistentDataset": lambda kept=kept: kept[0]["image"].numpy(),
            "TorchIO, NIfTI": lambda nifti=nifti: tio.ScalarImage(nifti).data[0].numpy().transpose(2, 1, 0),
        }
        one = {
            "vaelib": lambda level=level: np.array(open_case(shards, "PANCREAS_0001", level).images[60]),
            "MONAI, PersistentDataset": lambda kept=kept: kept[0]["image"].numpy()[60],
            "TorchIO, NIfTI": lambda nifti=nifti: tio.ScalarImage(nifti).data[0, :, :, 60].numpy().T,
        }
        side = 2**level
        for what, ways, truth in (("every slice", whole, images), ("one slice", one, images[60])):
            for name, way in ways.items():
                assert np.array_equal(way(), truth), f"{name} opened another picture"
            times = timing.in_turn({name: _milliseconds(way) for name, way in ways.items()})
            found[f"loading/open at {side}, {what}"] = timing.row(
                f"a cached patient of {len(images)} slices, from its name to {what} of {side} x {side} in memory; "
                "the peers keep it in one file and read all of it; files in the page cache", "ms", times,
            )  # fmt: skip
    return found


def _as_tensor(images):
    from monai.transforms import Compose, Lambda

    return Compose([Lambda(functools.partial(_with_image, images=images))])


def _with_image(item, images):
    import torch

    return {"image": torch.from_numpy(images)}


def _milliseconds(way):
    return lambda: 1000 * timing.seconds(way)


def random_slices(shards: Path) -> dict[str, dict]:
    """Slices a second of 512 x 512 in random order, in batches as training reads them."""
    import torch
    from monai.data import PersistentDataset

    from vaelib.engine.rows import of_files
    from vaelib.engine.shards import open_case

    names = [f"PANCREAS_{number:04d}" for number in range(1, PATIENTS + 1)]
    files = [shards / name / "image_9.npy" for name in names]
    opened = lambda: of_files([open_case(shards, name, 9).images for name in names])  # noqa: E731
    count, size = len(opened()), 2 * 512 * 512
    order = np.random.default_rng(0).permutation(count)[: BATCH * BATCHES]
    batches = np.split(order, len(order) // BATCH)
    each, starts = count // PATIENTS, [f.stat().st_size - count // PATIENTS * size for f in files]

    mapped = [opened()]

    def ours():
        return [mapped[0][batch] for batch in batches][-1]

    def disk():
        numbers = [os.open(file, os.O_RDONLY) for file in files]
        for row in order:
            k = row // each
            os.pread(numbers[k], size, starts[k] + int(row - k * each) * size)
        for number in numbers:
            os.close(number)

    kept = PersistentDataset([int(row) for row in order], _slice_of(shards, names), cache_dir=ROOM / "monai slices")
    for k in range(len(order)):
        kept[k]  # writes it

    def theirs():
        starts = range(0, len(order), BATCH)
        return [torch.stack([kept[k] for k in range(s, s + BATCH)]).float() for s in starts][-1].numpy()

    def emptied():
        mapped.clear()  # what is mapped stays in memory
        forget(every)
        mapped.append(opened())

    assert np.array_equal(ours(), theirs()), "MONAI read other slices"
    ways = {"vaelib": ours, "os.pread of the same bytes": disk, "MONAI, PersistentDataset of slices": theirs}
    warm = {name: _rate(way, len(order)) for name, way in ways.items()}
    every = files + sorted((ROOM / "monai slices").iterdir())
    cold = {name: _after(emptied, measure) for name, measure in warm.items()}
    what = f"random 512 x 512 slices of {PATIENTS} patients in batches of {BATCH} as float32"
    return {
        "loading/random 512, warm": timing.row(f"{what}; files in the page cache", "slices/s", timing.in_turn(warm)),
        "loading/random 512, cold": timing.row(f"{what}; page cache emptied of them", "slices/s", timing.in_turn(cold)),
    }


def _slice_of(shards, names):
    from monai.transforms import Compose, Lambda

    return Compose([Lambda(functools.partial(_read_slice, shards=shards, names=names))])


def _read_slice(row, shards, names):
    import torch

    from vaelib.engine.shards import open_case

    images = [open_case(shards, name, 9).images for name in names]
    k, at = divmod(row, len(images[0]))
    return torch.from_numpy(np.array(images[k][at]))[None]


def forget(files):
    """Have the system drop the files from memory; they are on the disk already."""
    for file in files:
        number = os.open(file, os.O_RDONLY)
        os.fsync(number)
        os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(number)


def _after(first, measure):
    def both():
        first()
        return measure()

    return both


if __name__ == "__main__":
    print(json.dumps(rows(), indent=1))
