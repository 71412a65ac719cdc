"""The pancreas of the whole synthetic cohort has the size and shape of eight real ones; `draw` shows both."""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree

from vaelib.phantom.paint import paint
from vaelib.phantom.shapes import Canvas
from vaelib.phantom.whole import Whole

STEP = 3.0  # mm, of the grid on which all are measured
NUMBERS = range(1, 13)
ASKED = {
    "volume": "ml", "length": "mm along the centre line", "x": "mm", "y": "mm", "z": "mm",
    "share": "of the scan's slices", "largest": "mm2, the largest area of a slice", "bend": "length over chord",
}  # fmt: skip


def centre_line(mask):
    """The way through the middle of a mask from one end to the other, smoothed, (N, 3) in mm."""
    voxels = np.argwhere(mask)
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1, 1:-1][mask]
    a, b = cKDTree(voxels).query_pairs(1.8, output_type="ndarray").T
    far = np.linalg.norm(voxels[a] - voxels[b], axis=1)

    def ways(weights, start):
        graph = coo_array((weights, (a, b)), (len(voxels), len(voxels))).tocsr()
        reached, before = dijkstra(graph, directed=False, indices=start, return_predecessors=True)
        return np.where(np.isfinite(reached), reached, -1), before

    one = ways(far, np.argmax(depth))[0].argmax()
    other = ways(far, one)[0].argmax()
    before, way = ways(far / (depth[a] * depth[b]), one)[1], [other]
    while way[-1] != one:
        way.append(before[way[-1]])
    return ndimage.gaussian_filter1d(voxels[way] * STEP, 3, axis=0, mode="nearest")


def measured(mask, mm, slices, dz):
    """What is asked of a mask (z, y, x), z from the feet, with its voxel in mm and the scan's slices and their step."""
    held = [np.flatnonzero(mask.any(others)) for others in ((1, 2), (0, 2), (0, 1))]
    size = [(at[-1] - at[0] + 1) * step for at, step in zip(held, mm, strict=True)]
    area = mask.sum((1, 2))[held[0][0] : held[0][-1] + 1] * mm[1] * mm[2]
    at = np.interp(np.linspace(0, 1, 21), np.linspace(0, 1, len(area)), area / area.max())
    coarse = ndimage.zoom(np.pad(mask, 4).astype(np.float32), np.divide(mm, STEP), order=1) > 0.5
    line = centre_line(coarse)
    length = np.linalg.norm(np.diff(line, axis=0), axis=1).sum()
    return {
        "volume": mask.sum() * np.prod(mm) / 1000, "length": length, "x": size[2], "y": size[1], "z": size[0],
        "share": size[0] / (slices * dz), "largest": area.max(), "bend": length / np.linalg.norm(line[-1] - line[0]),
        "area": at, "line": line,
    }  # fmt: skip


def real_one(path):
    with np.load(path) as file:
        label, mm = file["label"] > 0, file["voxelsize"].astype(float)
    mask = label.transpose(2, 1, 0)[::-1, ::-1]  # axes L, A, I: slices from the head, rows from the back
    held = [
        slice(at[0], at[-1] + 1) for at in map(np.flatnonzero, (mask.any((1, 2)), mask.any((0, 2)), mask.any((0, 1))))
    ]
    return measured(mask[tuple(held)], mm[::-1], len(mask), mm[2])


def whole_one(number):
    body = Whole(2026, number)
    body.parts = [p for p in body.parts if p.name in ("pancreas", "portal", "vessel", "aorta") and p.kind != "inside"]
    x, y, z = np.arange(-100, 170, 2.0), np.arange(-130, 110, 2.0), np.arange(body.extent[0], body.extent[1], 2.0)
    still = [lambda x, y, z: np.zeros((len(y), len(x)), np.float32)] * 2
    mask = np.stack([paint(Canvas(x, y, k, still), body) for k in z])
    return measured(mask, (2.0, 2.0, 2.0), (body.reach[1] - body.reach[0]) / 2, 2.0)


@pytest.fixture(scope="module")
def both(real_labels):
    return [real_one(path) for path in real_labels], [whole_one(number) for number in NUMBERS]


def draw(real, whole, path: Path) -> None:
    """Draw one figure: each quantity with a dot a patient, area by height, and the centre line from two sides."""
    from matplotlib.figure import Figure

    figure = Figure((13, 9), layout="constrained")
    axes = figure.subplots(3, 4).ravel()
    for axis, (name, unit) in zip(axes, ASKED.items(), strict=False):
        for row, (ones, colour) in enumerate(((real, "tab:blue"), (whole, "tab:orange"))):
            axis.plot([one[name] for one in ones], [row] * len(ones), "o", color=colour, alpha=0.6)
        axis.set(title=f"{name}, {unit}", yticks=[0, 1], yticklabels=["real", "synthetic"], ylim=(-0.5, 1.5))
    for ones, colour in ((real, "tab:blue"), (whole, "tab:orange")):
        for one in ones:
            axes[8].plot(one["area"], np.linspace(0, 1, 21), color=colour, alpha=0.4)
            line = one["line"] - one["line"].mean(0)
            axes[9].plot(line[:, 2], line[:, 0], color=colour, alpha=0.5)
            axes[10].plot(line[:, 2], line[:, 1], color=colour, alpha=0.5)
    axes[8].set(title="area of a slice, of the largest", ylabel="height, from its lower end")
    axes[9].set(title="centre line from the front, mm", aspect="equal")
    axes[10].set(title="centre line from above, mm", aspect="equal")
    axes[10].invert_yaxis()
    axes[11].axis("off")
    figure.savefig(path, dpi=80)


@pytest.mark.parametrize("name", ASKED)
def test_each_quantity_lies_in_the_range_of_real_ones(both, name):
    real, whole = (np.array([one[name] for one in ones]) for ones in both)
    if name != "share":  # whole scans are 350 mm and more, and those of these eight 187 to 310
        assert real.min() <= whole.mean() <= real.max()
    assert 0.6 * real.min() <= whole.min() and whole.max() <= 1.5 * real.max()


def test_the_largest_slices_lie_above_the_middle_as_in_real_ones(both):
    real, whole = (np.mean([one["area"] for one in ones], 0) for ones in both)
    assert 0.5 < real.argmax() / 20 < 0.9 and abs(real.argmax() - whole.argmax()) <= 4
    assert np.abs(real - whole).mean() < 0.15


def test_both_can_be_drawn_in_one_figure(both, tmp_path):
    draw(*both, tmp_path / "shape.png")
    assert (tmp_path / "shape.png").stat().st_size > 10_000
