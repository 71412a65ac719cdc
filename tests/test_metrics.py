import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from vaelib import InputError, metrics, recipes
from vaelib.cohort import Slices, load_slices
from vaelib.engine.errors import NotFinite
from vaelib.engine.files import hash_of
from vaelib.engine.rows import Rows
from vaelib.engine.shards import _write_levels


def ball(shape=(9, 24, 24), center=(4, 12, 12), radius=5):
    grid = np.indices(shape) - np.reshape(center, (3, 1, 1, 1))
    return (grid**2).sum(0) <= radius**2


def test_what_takes_long_to_import_waits_until_it_is_called():
    slow = "{'monai', 'sklearn', 'scipy', 'lightning_fabric', 'matplotlib', 'highdicom'}"
    code = f"import sys, vaelib.metrics, vaelib.recipes; print({slow} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


def test_dice_and_iou_against_their_definitions():
    rng = np.random.default_rng(0)
    for density in (0.02, 0.5, 0.9):
        a, b = rng.random((2, 5, 16, 16)) < density
        inter = (a & b).sum()
        assert metrics.dice(a, b) == pytest.approx(2 * inter / (a.sum() + b.sum()), abs=1e-6)
        assert metrics.iou(a, b) == pytest.approx(inter / (a | b).sum(), abs=1e-6)


def test_a_perfect_prediction_scores_one():
    """The original divided by the batch size and gave it 1/1024."""
    assert metrics.dice(ball(), ball()) == metrics.iou(ball(), ball()) == 1.0
    assert metrics.hd95(ball(), ball(), (3, 1, 1)) == 0.0


def test_empty_masks_have_their_own_rules():
    none = np.zeros_like(ball())
    assert metrics.dice(none, none) == metrics.iou(none, none) == 1.0
    assert metrics.dice(none, ball()) == metrics.dice(ball(), none) == 0.0
    assert metrics.hd95(none, none, (1, 1, 1)) == 0.0
    assert metrics.hd95(none, ball(), (1, 1, 1)) == float("inf")


def test_hd95_is_in_mm_and_knows_anisotropy():
    one = np.zeros((9, 24, 24), bool)
    one[2, 5, 5] = True
    spacing = (3.0, 0.7, 0.7)
    assert metrics.hd95(one, np.roll(one, 2, 0), spacing) == pytest.approx(6.0)
    assert metrics.hd95(one, np.roll(one, 4, 2), spacing) == pytest.approx(2.8)


FACES = [(0, 0, 1), (0, 0, -1), (0, 1, 0), (0, -1, 0), (1, 0, 0), (-1, 0, 0)]


def outline(mask):
    """The voxels (n, 3) of a mask that have a face in common with what is outside it; outside the array is outside."""
    inside = set(map(tuple, np.argwhere(mask)))
    return np.array([v for v in inside if any((v[0] + i, v[1] + j, v[2] + k) not in inside for i, j, k in FACES)])


def plainly(a, b, spacing):
    """Dice, IoU and HD95 by their definitions: sets of voxels, and the distance of every pair of surface voxels.

    HD95: from the middle of each surface voxel to the nearest of the other mask's, in mm; the 95th percentile, linear
    between neighbours, of each direction; the larger of the two.
    """
    one, two = ({*map(tuple, np.argwhere(m))} for m in (a, b))
    if not one or not two:
        return (1, 1, 0) if one == two else (0, 0, np.inf)
    both = len(one & two)
    apart = np.linalg.norm((outline(a)[:, None] - outline(b)[None]) * spacing, axis=-1)
    far = max(np.percentile(apart.min(axis), 95) for axis in (0, 1))
    return 2 * both / (len(one) + len(two)), both / len(one | two), far


def by_itk(a, b, spacing):
    """The same by ITK: its overlap measures, its contours, and its distance maps."""
    images = [sitk.GetImageFromArray(np.pad(m, 2).astype(np.uint8)) for m in (a, b)]
    for image in images:
        image.SetSpacing(spacing[::-1].tolist())
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(*images)
    edges = [sitk.GetArrayFromImage(sitk.LabelContour(image, fullyConnected=False)) > 0 for image in images]
    maps = [np.abs(sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(i, False, False, True))) for i in images]
    far = max(np.percentile(maps[1][edges[0]], 95), np.percentile(maps[0][edges[1]], 95))
    return overlap.GetDiceCoefficient(), overlap.GetJaccardCoefficient(), far


def ours(a, b, spacing):
    return metrics.dice(a, b), metrics.iou(a, b), metrics.hd95(a, b, tuple(spacing))


def test_dice_iou_and_hd95_are_those_of_their_definitions_and_of_itk_on_random_masks():
    rng, empty = np.random.default_rng(0), 0
    for _ in range(210):
        shape, spacing = rng.integers(1, 8, 3), np.exp(rng.uniform(np.log(0.3), np.log(6), 3))
        a, b = (rng.random(shape) < rng.choice([0.02, 0.1, 0.3, 0.6, 0.9, 1]) for _ in "ab")
        found = ours(a, b, spacing)
        assert found == pytest.approx(plainly(a, b, spacing), rel=1e-5)
        if a.any() and b.any():
            assert found == pytest.approx(by_itk(a, b, spacing), rel=1e-5, abs=1e-5)
        empty += not a.any() or not b.any()
    assert 10 < empty < 100  # both kinds were met


def _at(*voxels, shape=(5, 9, 7)):
    mask = np.zeros(shape, bool)
    mask[tuple(np.transpose(voxels))] = True
    return mask


NONE, FULL_ONE, ONE = np.zeros((5, 9, 7), bool), np.ones((5, 9, 7), bool), _at((2, 4, 3))
SLICE = FULL_ONE & (np.arange(5) == 2)[:, None, None]
CORNERS = _at(*[(z, y, x) for z in (0, 4) for y in (0, 8) for x in (0, 6)])
SHELL = FULL_ONE.copy()
SHELL[1:-1, 1:-1, 1:-1] = False
BLOCK = NONE.copy()
BLOCK[:3, :4, 2:] = True  # touches three borders


DEGENERATE = {
    "both empty": (NONE, NONE), "prediction empty": (NONE, BLOCK), "truth empty": (BLOCK, NONE),
    "one voxel": (ONE, ONE),
    "one voxel each": (ONE, _at((4, 0, 6))), "one voxel in all": (ONE, FULL_ONE), "all": (FULL_ONE, FULL_ONE),
    "touching every border": (SHELL, FULL_ONE), "at a border": (BLOCK, SHELL), "a slice": (SLICE, BLOCK),
    "volumes of a slice": (SLICE[2:3], BLOCK[2:3]), "volumes of a row": (BLOCK[:1, :1], SHELL[:1, :1]),
    "pieces": (CORNERS, BLOCK), "pieces and one": (CORNERS, ONE), "all but one": (FULL_ONE & ~ONE, FULL_ONE),
}  # fmt: skip


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("spacing", [(1, 1, 1), (5, 1, 1), (1, 1, 5), (2.5, 0.7, 0.9)])
def test_degenerate_masks_are_scored_by_the_definitions(name, spacing):
    a, b = DEGENERATE[name]
    found, spacing = ours(a, b, spacing), np.array(spacing, float)
    assert found == pytest.approx(plainly(a, b, spacing), rel=1e-5)
    assert found == pytest.approx(ours(b, a, spacing), rel=1e-6)
    if a.any() and b.any():
        assert found == pytest.approx(by_itk(a, b, spacing), rel=1e-5, abs=1e-5)


def test_a_map_that_was_not_cut_at_a_threshold_is_no_mask():
    p = ball() * 0.7
    for wrong, said in ((p, "holds 0.7, and"), (np.where(ball(), np.nan, 0), "holds nan, and"), (ball() * 255, "255")):
        for score in (metrics.dice, metrics.iou, lambda *masks: metrics.hd95(*masks, (1, 1, 1))):
            with pytest.raises(InputError, match=f"prediction: .*{said}.*threshold"):
                score(wrong, ball())
            with pytest.raises(InputError, match="truth: "):
                score(ball(), wrong)
    assert metrics.dice(ball().astype(np.float32), ball().astype(np.uint8)) == 1


def test_masks_on_two_grids_are_refused():
    with pytest.raises(InputError, match="different grids"):
        metrics.dice(ball(), ball((9, 24, 25)))


def test_the_bootstrap_interval_covers_the_mean_about_95_times_in_100():
    rng = np.random.default_rng(0)
    inside = 0
    for i in range(200):
        low, high = metrics.bootstrap(rng.normal(0.5, 0.1, 30), draws=500, seed=i)[1:]
        inside += low <= 0.5 <= high
    assert 178 <= inside <= 199


def test_a_mean_is_infinite_where_a_value_is_and_not_where_there_is_none():
    inf = float("inf")
    assert metrics.bootstrap([1.0, inf])[::2] == (inf, inf) and metrics.bootstrap([1.0, -inf])[:2] == (-inf, -inf)
    for values, odd in (
        ([0.5, float("nan"), 0.7], r"3 values, of which \[1\]"),
        ([inf, 1, -inf], r"\[0, 2\]"),
        ([], "0 v"),
    ):
        with pytest.raises(InputError, match=odd):
            metrics.bootstrap(values)


def test_the_sweep_moves_the_prediction_only_and_agrees_with_dice():
    rng = np.random.default_rng(1)
    truth = np.concatenate([ball(), np.zeros_like(ball())])[:, None]
    probability = (rng.random(truth.shape) + truth) / 2
    patient = np.array(["a"] * 9 + ["b"] * 9)
    thresholds = np.array([0.0, 0.3, 0.6, 1.1])
    out = metrics.sweep(probability, truth, patient, thresholds)
    for j, t in enumerate(thresholds):
        assert out[0, j] == pytest.approx(metrics.dice(probability[:9] >= t, truth[:9]), abs=1e-6)
    assert out[1].tolist() == [0, 0, 1, 1]  # nothing is left from 0.6 on: both empty
    assert metrics.best_threshold(probability[:9], truth[:9], patient[:9]) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_the_sweep_is_the_dice_of_what_is_cut_at_each_threshold_on_it_too(kind):
    """Probabilities of few values, thresholds among them: 0.7 is more than float32's 0.7, and 0.3 is less."""
    rng, thresholds = np.random.default_rng(2), np.round(np.arange(0, 1.05, 0.1), 1)
    patient = np.repeat(["a", "b", "c", "d"], [3, 1, 2, 2])
    for density in (0.0, 0.2, 1.0):
        probability = rng.choice(np.r_[thresholds, 0.35], (8, 1, 5, 4)).astype(kind)
        truth = rng.random((8, 1, 5, 4)) < density
        probability[patient == "d"] = 0
        out = metrics.sweep(probability, truth, patient, thresholds)
        for i, rows in enumerate(metrics.per_patient(patient).values()):
            cut = [metrics.dice(probability[rows] >= float(t), truth[rows]) for t in thresholds]
            np.testing.assert_allclose(out[i], cut, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_prediction_that_is_not_finite_is_no_empty_one_and_its_patient_is_named(shards, bad):
    maps = {p: 0.7 * load_slices(shards, [p], 6).masks[:, 0] for p in "ab"}
    maps["b"][[2, 4], 30, 30] = bad
    said = r"b: the prediction: NaN or Inf in slices 2, 4 \(from 0\); mend"
    with pytest.raises(NotFinite, match=said):
        metrics.best_thresholds(shards, maps, 6)
    with pytest.raises(NotFinite, match=said):
        metrics.score(shards, maps, 6, {"64": 0.5, "512": 0.5})
    sets = load_slices(shards, ["a", "b"], 6)
    with pytest.raises(NotFinite, match=said):
        metrics.sweep(np.concatenate([*maps.values()])[:, None], sets.masks >= 0.2, sets.patient, [0.5])


def test_the_atlas_is_the_mean_over_patients_and_not_over_slices():
    masks = np.zeros((12, 1, 4, 4), np.float32)
    masks[:4, 0, 0, 0] = 1  # patient a, 4 slices
    masks[4:, 0, 1, 1] = 1  # patient b, 8 slices
    position = np.r_[np.linspace(0, 1, 4), np.linspace(0, 1, 8)]
    train = Slices(masks, masks, np.array(["a"] * 4 + ["b"] * 8), position)
    mean = metrics.atlas(train, bins=5)(np.array([0, 0.5, 1]))
    assert mean.shape == (3, 1, 4, 4)
    np.testing.assert_allclose(mean[:, 0, 0, 0], 0.5)
    np.testing.assert_allclose(mean[:, 0, 1, 1], 0.5)


def test_the_atlas_knows_the_height():
    masks = np.zeros((10, 1, 2, 2), np.float32)
    masks[5:, 0, 0, 0] = 1  # the upper half only
    train = Slices(masks, masks, np.array(["a"] * 10), np.linspace(0, 1, 10))
    mean = metrics.atlas(train)(np.array([0.1, 0.9]))
    assert mean[:, 0, 0, 0].tolist() == [0, 1]


@pytest.fixture
def shards(tmp_path):
    """Three patients of a cache, each a disc of another size on four of six slices."""
    y, x = np.indices((512, 512))
    for k, patient in enumerate("abc"):
        mask = np.zeros((6, 512, 512), np.float32)
        mask[1:5] = (y - 250) ** 2 + (x - 240 - 9 * k) ** 2 < (30 + 10 * k) ** 2
        (tmp_path / patient).mkdir()
        grid, files = sitk.GetImageFromArray(mask), {}
        for name in ("image", "mask"):
            files |= _write_levels(tmp_path / patient, name, grid, (6, 9), np.float32)
        meta = dict(levels=[6, 9], has_mask=True, spacing=[0.8, 0.8, 3.0], size=grid.GetSize(), files=files)
        meta |= dict(key="", layout="", window=[-160, 240])
        (tmp_path / patient / "meta.json").write_text(json.dumps(meta | {"sha256": hash_of(meta)}))
    return tmp_path


def test_the_ceiling_is_perfect_at_its_level_and_pays_for_the_way_back(shards):
    sets = [load_slices(shards, [p], 6) for p in "abc"]
    methods = recipes.baselines(shards, *sets, level=6)
    probability, thresholds = methods["ceiling of the downscaling"]
    assert 0.1 < thresholds["64"] <= metrics.TRUTH + 1e-9 and 0.35 < thresholds["512"] < 0.65
    board = recipes.scoreboard(shards, methods, sets[2].patient, level=6)
    ceiling = board["ceiling of the downscaling"]
    assert ceiling["64"]["dice"]["values"] == [1.0] and ceiling["64"]["hd95"]["values"] == [0.0]
    assert 0.95 < ceiling["512"]["dice"]["mean"] < 1 and 0 <= ceiling["512"]["hd95"]["mean"] < 6.4
    assert board["empty mask"]["512"]["dice"]["mean"] == 0 and board["empty mask"]["64"]["hd95"]["mean"] == float("inf")
    assert board["mean-shape atlas"]["64"]["dice"]["mean"] < 1


def test_no_other_threshold_beats_the_one_that_was_chosen(shards):
    probability = {p: 0.7 * load_slices(shards, [p], 6).masks[:, 0] for p in "ab"}
    best = metrics.best_thresholds(shards, probability, level=6)
    reached = metrics.score(shards, probability, 6, best)
    for t in (0.05, 0.2, 0.5, 0.65):
        other = metrics.score(shards, probability, 6, {"64": t, "512": t})
        for side in ("64", "512"):
            assert np.mean(other[side]["dice"]) <= np.mean(reached[side]["dice"]) + 1e-9


# --- as MONAI has it ---------------------------------------------------------------------------------------------


def by_monai(a, b, spacing):
    """The same three by MONAI, which has no rule of ours for an empty mask: infinite, or nothing at all."""
    from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou

    pair = [torch.from_numpy(m[None, None].astype(np.float32)) for m in (a, b)]
    far = np.inf
    if a.any() and b.any():
        with warnings.catch_warnings():  # MONAI calls a function of its own by an argument that it has deprecated
            warnings.simplefilter("ignore", FutureWarning)
            far = compute_hausdorff_distance(*pair, percentile=95, spacing=list(map(float, spacing))).item()
    overlaps = (compute(*pair, ignore_empty=False).item() for compute in (compute_dice, compute_iou))
    return *overlaps, far if a.any() or b.any() else 0.0


def test_dice_iou_and_hd95_are_those_of_monai_on_random_masks():
    rng, empty = np.random.default_rng(1), 0
    for _ in range(100):
        shape, spacing = rng.integers(1, 16, 3), np.exp(rng.uniform(np.log(0.3), np.log(6), 3))
        a, b = (rng.random(shape) < rng.choice([0.002, 0.02, 0.1, 0.5, 0.9, 1]) for _ in "ab")
        found, wanted = ours(a, b, spacing), by_monai(a, b, spacing)
        assert found[:2] == pytest.approx(wanted[:2], abs=1e-6)
        assert found[2] == wanted[2], "to the last bit: the tables keep four decimals of a distance"
        empty += not a.any() or not b.any()
    assert 5 < empty < 60


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_masks_are_scored_as_by_monai(name):
    for spacing in ((1, 1, 1), (2.5, 0.7, 0.9)):
        assert ours(*DEGENERATE[name], spacing) == pytest.approx(by_monai(*DEGENERATE[name], spacing), abs=1e-6)


# Within `tolerance` mm: as MONAI counts voxels of the two surfaces, and by hand.


def near_by_monai(a, b, spacing, tolerance):
    """Surface Dice by MONAI, which counts voxels of the surface as we do."""
    from monai.metrics import compute_surface_dice

    pair = [torch.from_numpy(m[None, None].astype(np.float32)) for m in (a, b)]
    with warnings.catch_warnings():  # MONAI calls a function of its own by an argument that it has deprecated
        warnings.simplefilter("ignore", FutureWarning)
        return compute_surface_dice(*pair, [tolerance], include_background=True, spacing=[*map(float, spacing)]).item()


def blobs(rng, shape):
    """A few balls at random places, of random sizes."""
    places = [(rng.uniform(0, shape), rng.uniform(1, 5)) for _ in range(rng.integers(1, 4))]
    return np.any([ball(shape, center, radius) for center, radius in places], 0)


@pytest.mark.parametrize("tolerance", [1.0, 2.0])
def test_surface_dice_is_that_of_monai_on_random_blobs(tolerance):
    rng, values = np.random.default_rng(4), []
    while len(values) < 40:
        shape, spacing = tuple(rng.integers(4, 20, 3)), np.round(rng.uniform(0.4, 4, 3), 2)
        a, b = blobs(rng, shape), blobs(rng, shape)
        if a.any() and b.any():
            values.append(metrics.surface_dice(a, b, tuple(spacing), tolerance))
            assert values[-1] == pytest.approx(near_by_monai(a, b, spacing, tolerance), abs=1e-6)
    assert 20 < sum(0 < value < 1 for value in values), "most of them are neither of the ends"


def test_surface_dice_is_a_share_of_both_surfaces():
    two, far = _at((2, 4, 1), (2, 4, 2)), _at((2, 4, 1), (2, 4, 6))
    # of four voxels three have one within 1 mm: two on the same place, and one beside it; the other is 4 mm away
    assert metrics.surface_dice(two, far, (1, 1, 1), 1) == metrics.surface_dice(far, two, (1, 1, 1), 1) == 3 / 4
    assert metrics.surface_dice(two, far, (1, 1, 1), 0) == 2 / 4
    assert metrics.surface_dice(two, far, (1, 1, 1), 4) == 1
    assert metrics.surface_dice(two, far, (1, 1, 0.5)) == 1, "2 mm unless one says otherwise, and the spacing counts"
    assert metrics.surface_dice(two, far, (1, 1, 0.51)) == 3 / 4


def test_surface_dice_looks_at_no_inside():
    hollow = FULL_ONE.copy()
    hollow[2, 4, 3] = False
    assert metrics.dice(FULL_ONE, SHELL) < metrics.surface_dice(FULL_ONE, SHELL, (9, 9, 9), 0) == 1
    # the voxels on all sides of a hole are of a surface, of which those beside it have no like in the whole
    surface = np.count_nonzero(SHELL)
    wanted = 2 * surface / (2 * surface + 6)
    assert metrics.surface_dice(hollow, FULL_ONE, (9, 9, 9), 0) == pytest.approx(wanted)


def test_surface_dice_of_empty_masks():
    assert metrics.surface_dice(NONE, NONE, (1, 1, 1)) == 1
    assert metrics.surface_dice(NONE, BLOCK, (1, 1, 1)) == metrics.surface_dice(BLOCK, NONE, (1, 1, 1)) == 0


def test_surface_dice_refuses_what_are_no_masks_of_one_grid():
    with pytest.raises(InputError, match="different grids"):
        metrics.surface_dice(ONE, ONE[1:], (1, 1, 1))
    with pytest.raises(InputError, match="prediction: holds 0.5"):
        metrics.surface_dice(ONE * 0.5, ONE, (1, 1, 1))


def test_metrics_come_at_once():
    slow = "{'monai', 'torch', 'scipy', 'sklearn', 'SimpleITK', 'pydicom', 'pandas', 'lightning_fabric'}"
    code = f"import sys, vaelib.metrics; print({slow} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


# --- over patients and seeds -------------------------------------------------------------------------------------


def test_the_threshold_and_the_dice_of_slices_are_those_of_their_masks_in_memory_or_on_disk():
    rng = np.random.default_rng(3)
    masks = np.concatenate([0.3 * ball(), 0.9 * ball(radius=3)])[:, None].astype(np.float32)
    masks[1] = 0.1  # less than `TRUTH`: no pancreas
    probability = (rng.random(masks.shape) + (masks >= metrics.TRUTH)) / 2
    s = Slices(masks, masks, np.repeat(["a", "b"], 9), np.tile(np.linspace(0, 1, 9), 2))
    at, dices = metrics.choose(probability, s), metrics.dice_per_patient(probability, 0.6, s)
    assert at == metrics.best_threshold(probability, masks >= metrics.TRUTH, s.patient)
    for found, rows in zip(dices, (slice(9), slice(9, 18)), strict=True):
        assert found == pytest.approx(metrics.dice(probability[rows] >= 0.6, masks[rows] >= metrics.TRUTH))
    lazy = [Rows(18, lambda rows, a=a: a[rows]) for a in (masks, probability)]
    from_disk = Slices(lazy[0], lazy[0], s.patient, s.position)
    assert metrics.choose(lazy[1], from_disk) == at
    np.testing.assert_array_equal(metrics.dice_per_patient(lazy[1], 0.6, from_disk), dices)


def test_a_full_size_map_is_scored_once(shards):
    maps = {p: np.asarray(metrics.truth_at(shards, p, 9), np.float32) for p in "ab"}
    assert metrics.best_thresholds(shards, maps, 9).keys() == {"512"}
    assert metrics.score(shards, maps, 9, {"512": 0.5}) == {"512": {"dice": [1, 1], "iou": [1, 1], "hd95": [0, 0]}}
    assert metrics.spacing_at(shards, "a", 6) == (3.0, 8 * 0.8, 8 * 0.8)


def test_stacks_of_maps_are_enlarged_each_by_itself():
    maps = np.random.default_rng(0).random((3, 2, 4, 4), np.float32)
    large = metrics.enlarge(maps, 8)
    assert large.shape == (3, 2, 8, 8)
    np.testing.assert_array_equal(large[1], metrics.enlarge(maps[1], 8))


# --- slices that fit each other ----------------------------------------------------------------------------------


def test_centres_are_rows_and_columns():
    at = metrics.centres(np.stack([ball()[4], np.zeros((24, 24), bool)])[:, None])
    assert at[0] == pytest.approx([12, 12], abs=0.01) and np.isnan(at[1]).all()


def test_consistency_of_known_masks():
    mask = np.zeros((10, 8, 8), bool)
    mask[2:8, 2:4, 2:6] = True
    ends = 2  # at each end a pair of something and nothing, and five pairs within
    assert metrics.consistency(mask) == {"neighbours": 5 / (5 + ends), "gaps": 0, "pieces": 1, "jitter": 0}
    mask[4] = False
    found = metrics.consistency(mask)
    assert found["gaps"] == 1 and found["pieces"] == 2 and found["neighbours"] == 3 / 7
    nothing = {"neighbours": 0.0, "gaps": 0, "pieces": 0, "jitter": 0.0}
    assert metrics.consistency(np.zeros((5, 8, 8), bool)) == nothing


def test_jitter_is_what_leaves_the_line():
    mask = np.zeros((9, 12, 12), bool)
    for s in range(9):
        mask[s, s : s + 3, 4:6] = True  # along a line
    assert metrics.consistency(mask)["jitter"] < 1e-9
    mask[4] = np.roll(mask[4], 2, axis=1)  # 2 pixels off, and both its neighbours 1 pixel off the middle of theirs
    np.testing.assert_allclose(metrics.consistency(mask)["jitter"], (2 + 1 + 1) / 7)


@pytest.mark.parametrize(("share", "warned"), [(0.0, False), (0.1, True), (0.3, False)])
def test_a_mask_that_vanishes_at_a_level_is_named_once(share, warned, monkeypatch, recwarn):
    mask = np.zeros((3, 8, 8), np.float16)
    mask[1, 4, 4] = share
    monkeypatch.setattr("vaelib.engine.shards.masks_of", lambda *of: mask)
    assert metrics.truth_at("shards", "P1", 3).any() == (share >= metrics.TRUTH)
    assert [str(w.message) for w in recwarn] == warned * ["P1: its mask vanishes at 8 x 8: there, none is Dice 1"]
