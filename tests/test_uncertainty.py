"""Uncertainty: what is measured comes out as it was put in, on cases whose answer is known."""

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score
from torch import nn

from studies.anomalies import peak
from vaelib import InputError, uncertainty
from vaelib.cohorts.shapes import (
    matching_slices,
    pieces,
    plausible,
    sample_shapes,
    shifted,
    signed_distance,
    usual_masks,
)
from vaelib.uncertainty import (
    anomaly,
    auroc,
    auroc_per_patient,
    calibrate,
    cross_entropy,
    draw_latents,
    entropy,
    reliability,
    risk_coverage,
    sample_masks,
    slice_risk,
    slice_uncertainty,
    z_score,
)

LN2 = np.log(2)
SIDE = 48


def disc(row, column, radius):
    r, c = np.indices((SIDE, SIDE))
    return (((r - row) ** 2 + (c - column) ** 2) < radius**2)[None]


class Fixed(nn.Module):
    """A VAE that encodes every image alike, and decodes to grey."""

    def __init__(self, mu, logvar):
        super().__init__()
        self.mu, self.logvar = (nn.Parameter(torch.tensor(a, dtype=torch.float32)) for a in (mu, logvar))
        self.decoder = Reader(0)

    def encoder(self, x):
        return self.mu.expand(len(x), -1), self.logvar.expand(len(x), -1)


class Reader(nn.Module):
    """A decoder whose four pixels are what it is told of the first number of z."""

    def __init__(self, slope, bias=0.0):
        super().__init__()
        self.slope, self.bias = nn.Parameter(torch.tensor(float(slope))), bias

    def forward(self, z):
        return (self.slope * z[:, :1] + self.bias).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2)


@pytest.fixture
def vae():
    return Fixed([1.0, -2.0], [np.log(0.25), np.log(4.0)])  # deviations 0.5 and 2


def simulated(temperature=1.0, n=200_000, seed=0):
    """Predictions, and truths drawn from the right probabilities, whose logits are `temperature` times smaller."""
    rng = np.random.default_rng(seed)
    right = rng.uniform(0.01, 0.99, n)
    return expit(logit(right) * temperature), (rng.random(n) < right).astype(float)


def test_entropy_is_that_of_a_coin():
    assert entropy(np.array([0.5])) == pytest.approx(LN2)
    assert entropy(np.array([0.0, 1.0])) == pytest.approx(0, abs=2e-5)
    assert entropy(np.array([0.2])) == pytest.approx(entropy(np.array([0.8])))


def test_draws_have_the_deviation_that_was_stated_not_the_variance(vae):
    z = np.stack([*draw_latents(vae, np.zeros((50, 1, 2, 2), np.float32), draws=200)])
    assert z.mean((0, 1)) == pytest.approx([1, -2], abs=0.05)
    assert z.std((0, 1)) == pytest.approx([0.5, 2], rel=0.03)


def test_a_draw_is_the_same_however_many_follow(vae):
    images = np.zeros((3, 1, 2, 2), np.float32)
    few, many = ([*draw_latents(vae, images, draws=k)] for k in (2, 5))
    assert all(np.array_equal(a, b) for a, b in zip(few, many, strict=False))
    assert not np.array_equal(few[0], few[1])
    assert not np.array_equal(few[0], next(draw_latents(vae, images, seed=1)))


def test_where_z_does_not_matter_nothing_is_known_of_it(vae):
    drawn = sample_masks(vae, Reader(0, bias=-1), np.zeros((3, 1, 2, 2), np.float32), draws=5)
    assert all(a.shape == (3, 1, 2, 2) and a.dtype == np.float32 for a in drawn)
    assert drawn.probability == pytest.approx(expit(-1)) and drawn.entropy == pytest.approx(entropy(expit(-1)))
    assert drawn.variance == pytest.approx(0, abs=1e-7) and drawn.information == pytest.approx(0, abs=1e-6)


def test_where_z_decides_all_uncertainty_is_of_z():
    drawn = sample_masks(Fixed([0.0], [0.0]), Reader(1000), np.zeros((20, 1, 2, 2), np.float32), draws=200)
    assert drawn.probability.mean() == pytest.approx(0.5, abs=0.03)
    assert drawn.variance.mean() == pytest.approx(0.25, abs=0.01)
    assert drawn.information.mean() == pytest.approx(LN2, abs=0.01)


def test_information_is_part_of_the_entropy_and_never_negative(vae):
    for slope, bias in ((0.3, -4), (1, 0), (5, 2)):
        drawn = sample_masks(vae, Reader(slope, bias), np.zeros((4, 1, 2, 2), np.float32), draws=16)
        assert (drawn.information >= 0).all() and (drawn.information <= drawn.entropy + 1e-6).all()
        assert (drawn.variance >= 0).all() and (drawn.variance <= 0.25).all()


def test_one_draw_has_no_variance(vae):
    with pytest.raises(InputError, match="draws=1 gives no variance.*2 or more"):
        sample_masks(vae, Reader(1), np.zeros((1, 1, 2, 2), np.float32), draws=1)


def test_reliability_of_eight_pixels_counted_by_hand():
    r = reliability(np.array([[0.1, 0.1, 0.1, 0.1], [0.7, 0.7, 1.0, 0.7]]), np.array([[0, 0, 0, 1], [1, 1, 1, 0]]), 2)
    assert r.count.tolist() == [4, 4]
    assert r.predicted == pytest.approx([0.1, 0.775]) and r.observed == pytest.approx([0.25, 0.75])
    assert r.ece == pytest.approx((0.15 + 0.025) / 2)


def test_a_right_probability_is_calibrated_and_a_sure_one_is_not():
    assert reliability(*simulated()).ece < 0.01
    sure, modest = (reliability(*simulated(t)) for t in (3, 0.4))
    assert sure.ece > 0.1 and modest.ece > 0.1
    assert sure.observed[0] > sure.predicted[0] and modest.observed[0] < modest.predicted[0]
    assert sure.count.sum() == 200_000


def test_an_occupancy_is_a_truth_like_any_other():
    assert reliability(np.full(5, 0.3), np.full(5, 0.3)).ece == pytest.approx(0)
    assert len(reliability(np.full(5, 0.3), np.full(5, 0.3)).count) == 1, "empty bins are left out"


def test_reliability_needs_a_truth_for_each_pixel():
    with pytest.raises(InputError, match=r"\(3,\) predictions for \(2,\) truths"):
        reliability(np.zeros(3), np.zeros(2))
    with pytest.raises(InputError, match="at least one"):
        reliability(np.zeros(0), np.zeros(0))


def test_cross_entropy_is_least_where_the_prediction_is_right():
    truth = np.array([0, 0, 0, 1.0])
    at = {p: cross_entropy(np.full(4, p), truth) for p in (0.15, 0.25, 0.35)}
    assert at[0.25] == pytest.approx(entropy(np.array([0.25]))[0]) and min(at, key=at.get) == 0.25
    assert np.isfinite(cross_entropy(np.array([0.0]), np.array([1.0])))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_a_temperature_is_found_again(temperature):
    p, truth = simulated(temperature)
    correct = calibrate(p, truth)
    assert correct.temperature == pytest.approx(temperature, rel=0.03)
    assert reliability(correct(p), truth).ece < 0.01
    assert correct(p.reshape(100, -1)).shape == (100, 2000) and correct(p).dtype == np.float32


def test_an_isotonic_correction_mends_what_no_temperature_can():
    p, truth = simulated()
    bent = p**3  # the order is right, the numbers are not
    by = {method: calibrate(bent, truth, method) for method in ("temperature", "isotonic")}
    off = {method: reliability(f(bent), truth).ece for method, f in by.items()}
    assert off["isotonic"] < 0.01 < 0.05 < off["temperature"]
    assert (np.diff(by["isotonic"](np.linspace(0, 1, 50))) >= 0).all()


def test_neither_correction_changes_the_order():
    p, truth = simulated(3.0, n=2000)
    order = np.argsort(p)
    for method in ("temperature", "isotonic"):
        assert (np.diff(calibrate(p, truth, method)(p)[order]) >= 0).all(), method


def test_another_method_of_calibration_is_named():
    with pytest.raises(InputError, match="no method 'platt'; choose temperature or isotonic"):
        calibrate(np.array([0.5]), np.array([1.0]), "platt")


def test_relative_uncertainty_does_not_grow_with_the_organ():
    u, p = np.full((2, 1, 4, 4), 0.1), np.full((2, 1, 4, 4), 0.5)
    u[1], p[1] = 0.2, 1.0
    assert slice_uncertainty(u, p) == pytest.approx([0.2, 0.2])
    assert np.isfinite(slice_uncertainty(u, np.zeros_like(p))).all()


def test_risk_coverage_rises_where_uncertainty_knows():
    risk = np.array([0.4, 0.1, 0.3, 0.2])
    knows, wrong = risk_coverage(risk, risk), risk_coverage(-risk, risk)
    assert knows == pytest.approx([0.1, 0.15, 0.2, 0.25]) and wrong == pytest.approx([0.4, 0.35, 0.3, 0.25])
    assert risk_coverage(np.zeros(4), risk) == pytest.approx([0.4, 0.25, 0.8 / 3, 0.25]), "ties keep their order"


def test_auroc_counts_pairs():
    assert auroc(np.array([1, 2, 3]), np.array([4, 5])) == 1
    assert auroc(np.array([4, 5]), np.array([1, 2, 3])) == 0
    assert auroc(np.ones(7), np.ones(3)) == 0.5
    assert auroc(np.array([1, 2, 3]), np.array([2, 4])) == pytest.approx((1.5 + 3) / 6)
    rng = np.random.default_rng(0)
    normal, odd = rng.normal(size=300), rng.normal(0.5, size=100)
    labels = np.repeat([0, 1], [300, 100])
    assert auroc(normal, odd) == pytest.approx(roc_auc_score(labels, np.concatenate([normal, odd])))
    assert np.isnan(auroc(normal, odd[:0])) and np.isnan(auroc(normal[:0], odd))


def test_scores_of_an_anomaly_are_nats(vae):
    images = np.full((2, 1, 2, 2), 0.5, np.float32)
    images[1, 0, 0, 0] = 0.9
    score = anomaly(vae, images, variance=0.02)
    prior, given = (
        torch.distributions.Normal(*p) for p in ((torch.zeros(2), torch.ones(2)), (vae.mu, (vae.logvar / 2).exp()))
    )
    kl = torch.distributions.kl_divergence(given, prior).sum().item()
    assert score.recon == pytest.approx([0, 0.4**2 / 2 / 0.02], rel=1e-5) and score.kl == pytest.approx([kl, kl])
    assert np.array_equal(score.bound, score.recon + score.kl)
    assert score.pixels.shape == images.shape and score.pixels[1].sum() == pytest.approx(0.16)


def test_z_scores_are_those_of_normal_slices():
    normal = np.random.default_rng(0).normal(5, 2, 1000)
    assert z_score(normal, normal).std() == pytest.approx(1) and z_score(normal, normal).mean() == pytest.approx(0)
    assert z_score(np.array([normal.mean() + 3 * normal.std()]), normal) == pytest.approx([3])


def test_a_peak_sees_a_small_thing_that_a_sum_does_not():
    rng = np.random.default_rng(0)
    normal = rng.chisquare(1, (60, 1, 32, 32)) * rng.uniform(0.5, 1.5, (60, 1, 1, 1))  # slices differ as a whole
    odd = normal.copy()
    odd[:, 0, 10:14, 20:24] += 4
    one = auroc(normal.sum((1, 2, 3)), odd.sum((1, 2, 3)))
    other = auroc(peak(normal, normal), peak(odd, normal))
    assert one < 0.7 < 0.95 < other


def test_a_peak_knows_where_errors_are_usual():
    normal = np.random.default_rng(0).chisquare(1, (50, 1, 32, 32))
    normal[:, :, :16] *= 20  # an edge that is never drawn well
    low, high = (normal[:1].copy() for _ in range(2))
    low[0, 0, 24:28, 8:12] += 15
    high[0, 0, 4:8, 8:12] += 15
    assert peak(low, normal)[0] > 1.5 * peak(high, normal)[0]


def test_module_says_what_it_follows():
    assert "1706.04599" in uncertainty.__doc__


# --- plausible masks, on shapes that are drawn here -------------------------------------------------------------------


@pytest.fixture(scope="module")
def population():
    """Discs of radius 3 to 6 whose centres lie along a slanted line."""
    rng = np.random.default_rng(0)
    along, across, radius = rng.normal(0, 5, 400), rng.normal(0, 1, 400), rng.uniform(3, 6, 400)
    return np.stack([disc(24 + a + b, 24 + a - b, r) for a, b, r in zip(along, across, radius, strict=True)])


def test_levels_match_by_their_height_in_the_organ():
    truth = np.zeros((40, 1, 8, 8), bool)
    truth[10:31, 0, 4, 4] = True
    assert matching_slices(truth, 9).tolist() == [12, 14, 16, 18, 20, 22, 24, 26, 28]
    assert matching_slices(truth[:, :, ::-1], 1).tolist() == [20]
    thin = np.zeros((5, 1, 8, 8), bool)
    thin[3] = True
    assert matching_slices(thin, 4).tolist() == [3, 3, 3, 3]


def test_a_patient_without_pancreas_has_no_levels():
    with pytest.raises(InputError, match="the mask is empty.*leave this patient out"):
        matching_slices(np.zeros((5, 1, 8, 8), bool))


def test_pieces_are_counted_across_corners():
    masks = np.zeros((4, 1, 6, 6), bool)
    masks[1, 0, 1, 1] = masks[1, 0, 2, 2] = True
    masks[2, 0, 1, 1] = masks[2, 0, 3, 3] = True
    masks[3] = True
    assert pieces(masks).tolist() == [0, 1, 2, 1] == pieces(masks[:, 0]).tolist()


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


# --- what knows of errors ----------------------------------------------------------------------------------------


def test_the_risk_of_a_slice_is_one_minus_its_dice():
    found, truth = np.zeros((2, 3, 1, 2, 2), bool)
    found[0, 0, 0] = truth[0] = True
    truth[1, 0, 0, 0] = True
    risk, there = slice_risk(found, truth)
    assert there.tolist() == [True, True, False]
    assert risk[:2] == pytest.approx([1 / 3, 1])


def test_an_uncertainty_that_is_the_error_finds_it():
    wrong = np.random.default_rng(0).random((18, 1, 8, 8)) < 0.3
    patient, region = np.repeat(list("abc"), 6), np.ones((8, 8), bool)
    assert auroc_per_patient(wrong + 0.0, wrong, region, patient) == [1, 1, 1]
    region[4:] = False
    outside = wrong & region
    assert auroc_per_patient(outside - wrong.astype(float), wrong, region, patient) == [0.5] * 3, "all alike within it"


# --- a linear model of shape -------------------------------------------------------------------------------------


def test_distances_are_depths_and_move_with_their_outline():
    masks = np.zeros((2, 1, 32, 32), bool)
    masks[0, 0, 10:15, 10:15] = True
    depth = signed_distance(masks)
    assert depth[0, 0, 12, 12] == 3 and depth[0, 0, 10, 10] == 1 and depth[0, 0, 12, 8] == -2
    assert (depth[1] == -np.inf).all()
    there = shifted(depth[:1], np.array([[3.0, -2.0]]))
    assert np.array_equal(np.argwhere(there[0, 0] > 0), np.argwhere(depth[0, 0] > 0) + (3, -2))


def test_a_linear_model_of_centred_outlines_draws_them_where_they_were():
    rng, masks = np.random.default_rng(0), np.zeros((200, 1, 32, 32), bool)
    for m, row, column, size in zip(masks, *rng.integers((4, 14, 5), (9, 19, 9), (200, 3)).T, strict=True):
        m[0, row : row + size, column : column + size] = True
    drawn = sample_shapes(masks, 100, components=4)
    share = plausible(drawn, usual_masks(masks))
    assert drawn.shape == (100, 1, 32, 32) and share["one piece"].mean() > 0.9 and share["place"].mean() > 0.9
