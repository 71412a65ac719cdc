import json
import subprocess
import sys

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from vaelib import metrics, pipeline
from vaelib.errors import InputError
from vaelib.pyramid import Stack, downscale, stack


def ball(shape=(9, 24, 24), center=(4, 12, 12), radius=5):
    grid = np.indices(shape) - np.reshape(center, (3, 1, 1, 1))
    return (grid**2).sum(0) <= radius**2


def test_what_takes_long_to_import_waits_until_it_is_called():
    slow = "{'monai', 'sklearn', 'scipy', 'lightning_fabric', 'matplotlib', 'highdicom'}"
    code = f"import sys, vaelib.metrics, vaelib.pipeline; print({slow} & set(sys.modules))"
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


def test_hd95_against_an_independent_implementation():
    from scipy.spatial import cKDTree

    a, b, spacing = ball(), ball(center=(4, 14, 10), radius=4), np.array([2.5, 0.8, 0.8])
    edges = [np.argwhere(m & ~binary_erosion(m)) * spacing for m in (a, b)]
    d = [np.percentile(cKDTree(y).query(x)[0], 95) for x, y in (edges, edges[::-1])]
    assert metrics.hd95(a, b, tuple(spacing)) == pytest.approx(max(d), rel=0.05)


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
    assert metrics.bootstrap([1.0, float("inf")]).mean == float("inf")


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


def test_the_atlas_is_the_mean_over_patients_and_not_over_slices():
    masks = np.zeros((12, 1, 4, 4), np.float32)
    masks[:4, 0, 0, 0] = 1  # patient a, 4 slices
    masks[4:, 0, 1, 1] = 1  # patient b, 8 slices
    position = np.r_[np.linspace(0, 1, 4), np.linspace(0, 1, 8)]
    train = Stack(masks, masks, np.array(["a"] * 4 + ["b"] * 8), position)
    mean = metrics.atlas(train, bins=5)(np.array([0, 0.5, 1]))
    assert mean.shape == (3, 1, 4, 4)
    np.testing.assert_allclose(mean[:, 0, 0, 0], 0.5)
    np.testing.assert_allclose(mean[:, 0, 1, 1], 0.5)


def test_the_atlas_knows_the_height():
    masks = np.zeros((10, 1, 2, 2), np.float32)
    masks[5:, 0, 0, 0] = 1  # the upper half only
    train = Stack(masks, masks, np.array(["a"] * 10), np.linspace(0, 1, 10))
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
        for level in (6, 9):
            for name in ("image", "mask"):
                np.save(tmp_path / patient / f"{name}_{level}.npy", downscale(mask, level))
        meta = dict(levels=[6, 9], has_mask=True, spacing=[0.8, 0.8, 3.0])
        (tmp_path / patient / "meta.json").write_text(json.dumps(meta))
    return tmp_path


def test_the_ceiling_is_perfect_at_its_level_and_pays_for_the_way_back(shards):
    sets = [stack(shards, [p], 6) for p in "abc"]
    methods = pipeline.baselines(shards, *sets, level=6)
    probability, thresholds = methods["ceiling of the downscaling"]
    assert 0.1 < thresholds["64"] <= metrics.TRUTH + 1e-9 and 0.35 < thresholds["512"] < 0.65
    board = pipeline.scoreboard(shards, methods, sets[2].patient, level=6)
    ceiling = board["ceiling of the downscaling"]
    assert ceiling["64"]["dice"]["values"] == [1.0] and ceiling["64"]["hd95"]["values"] == [0.0]
    assert 0.95 < ceiling["512"]["dice"]["mean"] < 1 and 0 <= ceiling["512"]["hd95"]["mean"] < 6.4
    assert board["empty mask"]["512"]["dice"]["mean"] == 0 and board["empty mask"]["64"]["hd95"]["mean"] == float("inf")
    assert board["mean-shape atlas"]["64"]["dice"]["mean"] < 1


def test_no_other_threshold_beats_the_one_that_was_chosen(shards):
    probability = {p: 0.7 * stack(shards, [p], 6).masks[:, 0] for p in "ab"}
    best = metrics.best_thresholds(shards, probability, level=6)
    reached = metrics.score(shards, probability, 6, best)
    for t in (0.05, 0.2, 0.5, 0.65):
        other = metrics.score(shards, probability, 6, {"64": t, "512": t})
        for side in ("64", "512"):
            assert np.mean(other[side]["dice"]) <= np.mean(reached[side]["dice"]) + 1e-9
