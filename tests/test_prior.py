"""The latent as a prior of shapes: codes, paths and plausible masks, on shapes that are drawn here."""

import numpy as np
import pytest

from vaelib import InputError
from vaelib.latent import sample_fitted, slerp
from vaelib.uncertainty import centres, pieces, plausible, same_levels, usual_masks

SIDE = 48


def disc(row, column, radius):
    r, c = np.indices((SIDE, SIDE))
    return (((r - row) ** 2 + (c - column) ** 2) < radius**2)[None]


@pytest.fixture(scope="module")
def population():
    """Discs of radius 3 to 6 whose centres lie along a slanted line."""
    rng = np.random.default_rng(0)
    along, across, radius = rng.normal(0, 5, 400), rng.normal(0, 1, 400), rng.uniform(3, 6, 400)
    return np.stack([disc(24 + a + b, 24 + a - b, r) for a, b, r in zip(along, across, radius, strict=True)])


# --- codes -------------------------------------------------------------------------------------------------------


def test_a_fitted_normal_has_the_mean_and_covariance_of_its_codes():
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(3, 5))  # rank 3: a flat cloud stays flat
    codes = rng.normal(size=(4000, 3)) @ mix + np.arange(5)
    drawn = sample_fitted(codes, 20_000)
    assert drawn.shape == (20_000, 5) and drawn.dtype == np.float32
    assert drawn.mean(0) == pytest.approx(codes.mean(0), abs=0.1)
    assert np.cov(drawn.T) == pytest.approx(np.cov(codes.T), abs=0.25)
    assert np.linalg.svd(drawn - drawn.mean(0), compute_uv=False)[3] < 0.1
    assert np.array_equal(drawn[:3], sample_fitted(codes, 20_000)[:3]) and not np.array_equal(
        drawn, sample_fitted(codes, 20_000, 1)
    )


# --- paths -------------------------------------------------------------------------------------------------------


def test_an_arc_begins_and_ends_where_it_should():
    a, b = np.random.default_rng(0).normal(size=(2, 64)).astype(np.float32)
    path = slerp(a, 3 * b, 9)
    assert path.shape == (9, 64) and path.dtype == np.float32
    assert path[0] == pytest.approx(a, abs=1e-5) and path[-1] == pytest.approx(3 * b, abs=1e-4)
    long = np.linalg.norm(path, axis=1)
    assert long == pytest.approx(np.linspace(long[0], long[-1], 9), rel=1e-4), "its length passes evenly over"


def test_an_arc_turns_by_equal_angles_where_a_line_cuts_short():
    a, b = np.eye(2, dtype=np.float32)
    path = slerp(a, b, 4)
    assert np.degrees(np.arctan2(path[:, 1], path[:, 0])) == pytest.approx([0, 30, 60, 90], abs=1e-3)
    assert np.linalg.norm(path, axis=1) == pytest.approx(1, rel=1e-6) and np.linalg.norm((a + b) / 2) < 0.71


@pytest.mark.parametrize("b", [(2.0, 0.0), (-1.0, 0.0), (0.0, 0.0)], ids=["same way", "opposite", "origin"])
def test_where_there_is_no_arc_the_path_is_straight(b):
    a, b = np.array([1, 0], np.float32), np.array(b, np.float32)
    assert slerp(a, b, 5) == pytest.approx(np.linspace(a, b, 5), abs=1e-6)


def test_levels_match_by_their_height_in_the_organ():
    truth = np.zeros((40, 1, 8, 8), bool)
    truth[10:31, 0, 4, 4] = True
    assert same_levels(truth, 9).tolist() == [12, 14, 16, 18, 20, 22, 24, 26, 28]
    assert same_levels(truth[:, :, ::-1], 1).tolist() == [20]
    thin = np.zeros((5, 1, 8, 8), bool)
    thin[3] = True
    assert same_levels(thin, 4).tolist() == [3, 3, 3, 3]


def test_a_patient_without_pancreas_has_no_levels():
    with pytest.raises(InputError, match="the mask is empty.*leave this patient out"):
        same_levels(np.zeros((5, 1, 8, 8), bool))


# --- plausible masks ---------------------------------------------------------------------------------------------


def test_pieces_are_counted_across_corners():
    masks = np.zeros((4, 1, 6, 6), bool)
    masks[1, 0, 1, 1] = masks[1, 0, 2, 2] = True
    masks[2, 0, 1, 1] = masks[2, 0, 3, 3] = True
    masks[3] = True
    assert pieces(masks).tolist() == [0, 1, 2, 1] == pieces(masks[:, 0]).tolist()


def test_centres_are_rows_and_columns():
    at = centres(np.stack([disc(10, 30, 4), np.zeros((1, SIDE, SIDE), bool)]))
    assert at[0] == pytest.approx([10, 30], abs=0.01) and np.isnan(at[1]).all()


def test_real_masks_pass_but_for_the_rarest(population):
    like = usual_masks(population)
    share = {k: v.mean() for k, v in plausible(population, like).items()}
    assert share["not empty"] == share["one piece"] == 1
    assert 0.98 <= share["size"] <= 1 and 0.98 <= share["place"] < 1 and 0.96 <= share["all"]
    assert like.area[0] < 30 < 100 < like.area[1]
    assert usual_masks(np.concatenate([population, np.zeros_like(population)])).area == like.area, (
        "empty ones do not count"
    )


@pytest.mark.parametrize(
    ("shape", "fails"),
    [
        (disc(24, 24, 4.5), set()),
        (disc(32, 32, 4.5), set()),
        (np.zeros((1, SIDE, SIDE), bool), {"not empty", "one piece", "size", "place"}),
        (disc(20, 20, 3.5) | disc(28, 28, 3.5), {"one piece"}),
        (disc(24, 24, 12), {"size"}),
        (disc(24, 24, 1.1), {"size"}),
        (disc(32, 16, 4.5), {"place"}),  # as far off as the second, but in a direction that none of them varies in
    ],
    ids=["usual", "far along", "empty", "two", "large", "small", "aside"],
)
def test_an_implausible_mask_fails_for_its_own_reason(population, shape, fails):
    tests = plausible(shape[None], usual_masks(population))
    assert {k for k, v in tests.items() if not v[0]} - {"all"} == fails
    assert tests["all"][0] == (not fails)


def test_what_is_usual_cannot_be_learned_from_two(population):
    with pytest.raises(InputError, match="2 of the masks hold anything.*several patients"):
        usual_masks(np.concatenate([population[:2], np.zeros_like(population)]))
