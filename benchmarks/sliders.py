"""How long a slider takes from its callback to the new picture, for each widget, on the synthetic cohort.

    python benchmarks/sliders.py [--presses 15]

Moves every control of every widget of the lessons, as often as asked, and prints the median of each in milliseconds.
What the browser adds is measured by `tests/course/test_browser.py`, which writes `build/browser/latency.json`.
"""

import argparse
import statistics
import time

import ipywidgets as ui
import numpy as np
import SimpleITK as sitk

from vaelib import latent, metrics, pictures, recipes
from vaelib.cohort import open_cohort
from vaelib.cohorts.layout import data_folder, find_cases
from vaelib.engine.shards import open_case
from vaelib.levels import canonical
from vaelib.volumes import read_ct, read_mask


def boards():
    """The widgets of the lessons by name, each with its controls by name."""
    case = next(case for case in find_cases(data_folder()) if case.mask)
    scan = read_ct(case.ct)
    mask = canonical(read_mask(case.mask, scan), fill=0)
    volume, pancreas = (sitk.GetArrayFromImage(image) for image in (canonical(scan), mask))
    browser = pictures.slice_browser(volume, pancreas, scan.GetSpacing()[::-1], pancreas * 0.9)
    yield "slice_browser, 512 x 512", browser.controls

    lab = open_cohort()
    (vae, decoder), val = recipes.trained(lab), lab.val
    truth, z = val.masks[:, 0] >= metrics.TRUTH, latent.encode(vae, val.images)[0]
    yield "latent_explorer, 64 x 64", pictures.latent_explorer((vae.decoder, decoder), z, truth=truth).controls
    one = val.patient == val.patient[0]
    probability = latent.decode(decoder, z)[:, 0]
    yield (
        "threshold_explorer, 64 x 64",
        pictures.threshold_explorer(val.images[one, 0], probability[one], truth[one]).controls,
    )
    wide = pictures.threshold_explorer(volume, pancreas * 0.9, pancreas)
    yield "threshold_explorer, 512 x 512", wide.controls

    dx, dy, dz = open_case(lab.shards, val.patient[0], 6).meta["spacing"]  # of the scan's pixels
    spacing = dz, 8 * dy, 8 * dx
    meshes = {
        "truth": pictures.mesh(truth[one], 0.5, spacing),
        "decoded": pictures.mesh(probability[one], 0.3, spacing),
    }
    table = pictures.turntable(meshes)
    yield "turntable", table.controls


def values(control, presses):
    """As many values as asked, each unlike the one before."""
    if isinstance(control, ui.Checkbox):
        return [k % 2 == 1 for k in range(presses)]
    if isinstance(control, ui.Dropdown):
        every = [value for _, value in control._options_full]
        return [every[(every.index(control.value) + 1 + k) % len(every)] for k in range(presses)]
    inner = np.linspace(control.min, control.max, presses + 2)[1:-1]
    return [type(control.value)(round(v / control.step) * control.step) for v in inner]


def main():
    """Measure, and print one line per control."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presses", type=int, default=15)
    presses = parser.parse_args().presses
    for name, controls in boards():
        every = []
        for key, control in controls.items():
            took = []
            for value in values(control, presses):
                begin = time.perf_counter()
                control.value = value
                took.append(1000 * (time.perf_counter() - begin))
            every += took
            print(f"  {key:20s} {statistics.median(took):5.0f} ms")
        print(f"{name}: {statistics.median(every):.0f} ms at the median of {len(every)}")


if __name__ == "__main__":
    main()
