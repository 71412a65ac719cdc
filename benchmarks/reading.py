"""From the files of a series to HU in memory, beside MONAI: the one number that says whether reading became slower.

    python -m benchmarks.reading [folder of a CT series ...]

By default of a synthetic patient and, where it is at hand, of the real series. One thread each, in turn; the least of
many processor times counts, so that it can be asked on a machine that others use too. The HU must be the same.
"""

import sys
import time
import warnings
from pathlib import Path

import numpy as np

from benchmarks import timing

TIMES = 15
REAL = Path(__file__).resolve().parents[1] / ".." / "shared" / "real-ct" / "series"


def ways_of(folder: Path) -> dict:
    """What reads a series, by name: each returns HU, whose axes and order are its own affair."""
    from monai.data import ITKReader, PydicomReader
    from monai.transforms import LoadImage

    from vaelib.volumes import read_ct

    def monai(reader):
        load = LoadImage(reader=reader, image_only=True)
        return lambda: load(str(folder))

    readers = {f"MONAI, {reader.__name__}": monai(reader()) for reader in (ITKReader, PydicomReader)}
    return {"vaelib": lambda: read_ct(folder)} | readers


def compare(folder: Path) -> dict[str, float]:
    """The least processor seconds by each way; one that cannot read the series is left out."""
    import SimpleITK as sitk

    ways = ways_of(folder)
    hu, able = np.sort(sitk.GetArrayFromImage(ways["vaelib"]()), axis=None), {}
    for name, way in ways.items():
        try:
            found = way()
        except Exception as error:  # a codec that is not there
            print(f"{name} cannot read {folder}: {str(error).splitlines()[0][:80]}")
            continue
        if name != "vaelib":
            assert np.array_equal(np.sort(np.asarray(found), axis=None), hu), f"{name} read other HU"
        able[name] = lambda way=way: _processor_seconds(way)
    return {name: min(values) for name, values in timing.in_turn(able, TIMES).items()}


def _processor_seconds(way) -> float:
    begin = time.process_time()
    way()
    return time.process_time() - begin


def main(folders: list[str]) -> None:
    """Print a line a series."""
    import SimpleITK as sitk
    import torch

    from vaelib.cohorts.layout import data_folder, find_cases

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    for folder in folders or [find_cases(data_folder())[0].ct, *([REAL] if REAL.is_dir() else [])]:
        ours, *others = compare(Path(folder)).items()
        said = ", ".join(f"{name} {1000 * value:.0f} ms (ratio {value / ours[1]:.2f})" for name, value in others)
        print(f"{folder}: vaelib {1000 * ours[1]:.0f} ms, {said}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
