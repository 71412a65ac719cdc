"""The three studies of lesson 11, which asks a VAE for more than a mask: known answers, and all of it on noise."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import studies
from studies import anomalies, over_patients, shapes
from studies import uncertainty as study
from studies.anomalies import compare, linear, odd_by_pca, scores, worst
from studies.shapes import between, codes, masks_by_pca, shares
from studies.uncertainty import apply, ece, fit, inside, nats, possible, temperatures
from vaelib import metrics, recipes
from vaelib.cohort import Cohort, Slices
from vaelib.uncertainty import auroc_per_patient, slice_risk
from vaelib.vae import VAE, MaskDecoder

SIDE = 32
PATIENT = np.repeat(list("abc"), 6)


def cohort(seed):
    """Three patients of six noisy slices; a square that moves with the slice is pancreas in the middle four."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((18, 1, SIDE, SIDE), np.float32)
    for k in range(18):
        if k % 6 not in (0, 5):
            row, column = 10 + k % 6 + rng.integers(3), 12 + rng.integers(3)
            masks[k, 0, row : row + 4, column : column + 6] = 0.8
    images = (0.3 + 0.1 * rng.random(masks.shape) + 0.4 * masks).astype(np.float32)
    return Slices(images, masks, PATIENT, np.tile(np.linspace(0, 1, 6), 3))


@pytest.fixture(scope="module")
def sets():
    return [cohort(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def methods(sets):
    """Two seeds of networks that have learned nothing."""
    out = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        vae, mask = VAE(size=SIDE, latent=6), MaskDecoder(size=SIDE, latent=6, prevalence=0.1)
        out.append(
            SimpleNamespace(
                networks={"vae": vae, "mask": mask}, meta={"threshold": 0.1},
                predict=partial(recipes.predicted, vae, mask), test=recipes.predicted(vae, mask, sets[2]),
            )
        )  # fmt: skip
    return out


# --- intervals ---------------------------------------------------------------------------------------------------


def test_whole_patients_are_resampled():
    value = np.repeat([0.0, 1.0, 2.0], 6)
    found = over_patients(lambda rows: value[rows].mean(), PATIENT)
    assert found["mean"] == 1 and (found["low"], found["high"]) == (0, 2)
    seen = set()
    over_patients(lambda rows: seen.add(tuple(rows)) or 0.0, PATIENT, draws=50)
    assert all(len(rows) == 18 and all((np.diff(np.reshape(rows, (3, 6))) == 1).ravel()) for rows in seen)


def test_a_patient_without_a_value_does_not_spoil_the_interval():
    value = np.repeat([0.5, 0.5, np.nan], 6)
    found = over_patients(lambda rows: np.nanmean(value[rows]) if (rows < 12).any() else np.nan, PATIENT)
    assert found == {"mean": 0.5, "low": 0.5, "high": 0.5}


# --- uncertainty -------------------------------------------------------------------------------------------------


def test_the_region_is_where_a_training_patient_has_pancreas(sets):
    region = possible(sets[0])
    assert region.shape == (SIDE, SIDE) and region[14, 16] and not region[0, 0]
    masks = sets[1].masks
    assert inside(masks, region).sum(1) == pytest.approx((masks[:, 0] * region).sum((1, 2)), rel=1e-5)


def test_statistics_of_predictions_are_means_over_seeds():
    truth = np.array([[0.0, 1], [0, 0], [1, 1]])
    good, bad = np.clip(truth, 0.1, 0.9), np.full((3, 2), 0.5)
    rows = np.arange(3)
    assert ece([good], truth, rows) == pytest.approx(0.1)
    assert ece([good, bad], truth, rows) == pytest.approx(0.05)
    assert nats([bad], truth, rows) == pytest.approx(2 * np.log(2)), "of a slice: two pixels"
    gap = study.nats_between([bad], [good], truth, rows)
    assert gap == pytest.approx(2 * (np.log(2) + np.log(0.9)))
    assert nats([good], truth, np.array([1, 1])) == pytest.approx(-2 * np.log(0.9))


def test_a_correction_is_learned_for_each_seed_or_not_at_all():
    rng = np.random.default_rng(0)
    right = rng.uniform(0.02, 0.98, (4, 5000))
    truth = (rng.random(right.shape) < right).astype(float)
    sure = right**2 / (right**2 + (1 - right) ** 2)  # a temperature of 2
    fits = [fit(right, truth, "as it is"), fit(sure, truth, "temperature")]
    assert fits[0] is None and fits[1].temperature == pytest.approx(2, rel=0.05)
    same, mended = apply(fits, [right, sure])
    assert same is right and np.abs(mended - right).max() < 0.02
    own = temperatures(np.concatenate([right, sure]), np.concatenate([truth, truth]), np.repeat(["a", "b"], 4))
    assert own == pytest.approx([1, 2], rel=0.05)


def test_the_risk_of_a_slice_is_one_minus_its_dice():
    found, truth = np.zeros((2, 3, 1, 2, 2), bool)
    found[0, 0, 0] = truth[0] = True
    truth[1, 0, 0, 0] = True
    risk, there = slice_risk(found, truth)
    assert there.tolist() == [True, True, False]
    assert risk[:2] == pytest.approx([1 / 3, 1])


def test_an_uncertainty_that_is_the_error_finds_it(methods, sets):
    test = sets[2]
    wrong = (methods[0].test >= 0.1) != (test.masks >= metrics.TRUTH)
    region = np.ones((SIDE, SIDE), bool)
    assert auroc_per_patient(wrong + 0.0, wrong, region, PATIENT) == [1, 1, 1]
    risk, there = slice_risk(methods[0].test >= 0.1, test.masks >= metrics.TRUTH)
    rows, known = np.arange(18), [(risk, risk, there)]
    if np.ptp(risk[there]) > 0:
        assert study.rank_correlation(known, rows) == pytest.approx(1)
    assert study.area(known, rows) <= study.mean_risk(known, rows)


# --- anomalies ---------------------------------------------------------------------------------------------------


def test_principal_components_score_what_they_cannot_draw(sets):
    train, _, test = sets
    pca = linear(train, components=5)
    score = odd_by_pca(pca, train.images)
    assert score.kl.mean() == pytest.approx(5 / 2, rel=0.1), "half a squared deviation for each component"
    strange = test.images.copy()
    strange[:, 0, 25:30, 2:6] = 1
    assert (odd_by_pca(pca, strange).recon > odd_by_pca(pca, test.images).recon).all()
    assert np.array_equal(score.bound, score.recon + score.kl)
    by = scores(partial(odd_by_pca, pca), strange, test)
    assert list(by) == ["recon", "kl", "bound", "peak"] and by["recon"].mean() > 3


def test_scores_are_compared_where_something_changed():
    rng = np.random.default_rng(0)
    normal, changed = rng.random(18), np.arange(18) % 6 > 3
    apart = compare([(normal, normal + 10.0 * changed)], changed, PATIENT)
    assert apart["slices"]["mean"] == apart["patients"]["mean"] == apart["higher"] == 1
    same = compare([(normal, normal)], changed, PATIENT)
    assert same["slices"]["mean"] == same["patients"]["mean"] == 0.5 and same["higher"] == 0
    elsewhere = compare([(normal, normal + 10.0 * ~changed)], changed, PATIENT)
    assert elsewhere["slices"]["mean"] == 0.5, "what is not changed is not asked"
    assert worst(np.arange(18), PATIENT).tolist() == [5, 11, 17]


# --- shapes and paths --------------------------------------------------------------------------------------------


def test_samples_are_as_many_as_asked(sets):
    masks = sets[0].masks[sets[0].masks.any((1, 2, 3))]
    mu = np.random.default_rng(0).normal(size=(18, 6)) + 5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "COMPONENTS", 4)
        drawn = masks_by_pca(masks, 50)
    assert drawn.shape == (50, 1, SIDE, SIDE) and drawn.dtype == bool and 0 < drawn.mean() < 0.2
    points = codes(mu, np.arange(18) < 9, 40)
    assert all(z.shape == (40, 6) for z in points.values())
    assert abs(points["the prior N(0, 1)"].mean()) < 0.5 < 4 < points["a normal fitted to all slices"].mean()


def test_shares_are_means_over_seeds():
    one, other = {"all": np.array([True, False])}, {"all": np.array([True, True])}
    assert shares([one, other]) == {"all": 0.75}


def one_seed(vae=None, mask=None, threshold=0.1):
    return shapes.OneSeed(vae, mask, threshold, None)


def test_halfway_is_a_mixture_of_the_ends_or_decoded_from_between(methods, sets):
    run, ends = one_seed(**methods[0].networks), [methods[0].test[:2], methods[0].test[2:4]]
    z = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)
    ways = between(run, z, z, ends)
    assert list(ways) == ["straight", "arc", "cross-fade", "signed distances", "centred distances"]
    assert all(mask.shape == (2, 1, SIDE, SIDE) and mask.dtype == bool for mask in ways.values())
    assert np.array_equal(ways["straight"], ways["arc"]), "from a code to itself there is one way"
    assert np.array_equal(ways["cross-fade"], (ends[0] + ends[1]) / 2 >= run.threshold)


def test_halfway_by_distances_a_square_has_moved_half_the_way():
    left, right, empty = (np.zeros((1, 1, SIDE, SIDE)) for _ in range(3))
    left[..., 8:16, 8:16] = right[..., 8:16, 12:20] = 1
    run = one_seed(mask=MaskDecoder(size=SIDE, latent=2), threshold=0.5)
    z = np.zeros((1, 2), np.float32)
    ways = between(run, z, z, [left, right])
    for name, least in (("signed distances", 0.7), ("centred distances", 1.0)):
        rows, columns = np.nonzero(ways[name][0, 0])
        assert (columns.mean(), rows.mean()) == pytest.approx((13.5, 11.5), abs=0.01), name
        assert least * 64 <= len(rows) <= 64, name
    gone = between(run, z, z, [left, empty])
    assert not gone["signed distances"].any() and not gone["centred distances"].any()


# --- all of it ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*(empty slice|constant).*")
def test_everything_is_measured_and_put_down(methods, sets, monkeypatch):
    lab = Cohort(None, {part: list("abc") for part in ("train", "val", "test")}, 5)
    lab.train, lab.val, lab.test = sets

    def staged(name, patients, shards, level):
        changed = np.arange(18) % 6 > 3
        return sets[2].images + 0.2 * changed[:, None, None, None].astype(np.float32), changed

    monkeypatch.setattr(anomalies, "stack_staged", staged)
    for module in (study, anomalies, shapes):
        monkeypatch.setattr(module, "contestant", lambda name, lab, seed: methods[seed])
    for module in (study, anomalies):
        monkeypatch.setattr(module, "over_patients", partial(over_patients, draws=20))
    for module in (anomalies, shapes):
        monkeypatch.setattr(module, "COMPONENTS", 5)
    monkeypatch.setattr(anomalies, "linear", partial(linear, components=5))
    monkeypatch.setattr(shapes, "SAMPLES", 20)
    monkeypatch.setattr(study, "predictions", partial(study.predictions, draws=3))
    sure, odd, drawn = (module.run(lab, seeds=(0, 1)) for module in (study, anomalies, shapes))
    assert all(record["seeds"] == [0, 1] and record["test"] == list("abc") for record in (sure, odd, drawn))
    assert list(sure["calibration"]["mu"]) == ["as it is", "temperature", "isotonic"]
    assert len(sure["calibration"]["draws"]["temperature"]["temperatures"]) == 2
    assert list(sure["errors"]) == [
        "variance of draws", "information about z", "entropy of the mean", "p (1 - p) at mu", "chance", "oracle",
    ]  # fmt: skip
    assert all(set(row) >= {"VAE", "PCA"} and row["slices"] == 6 for row in odd["found"].values())
    assert len(drawn["plausible"]) == 7 and len(drawn["halfway"]) == 5


# --- the record --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def record():
    return {name: studies.read(name) for name in ("uncertainty", "anomalies", "shapes")}


def intervals(node, path=()):
    """Every interval of the record, with the names that lead to it."""
    if isinstance(node, dict):
        if {"mean", "low", "high"} <= set(node):
            yield path, node
        for name, child in node.items():
            yield from intervals(child, (*path, name))


def test_the_record_is_of_three_seeds_on_the_test_patients(record):
    assert record["uncertainty"]["draws"] == study.DRAWS
    for found in record.values():
        assert found["seeds"] == [0, 1, 2] and found["test"] == studies.read("ladder")["test"]


def test_each_recorded_value_lies_in_its_interval(record):
    found = list(intervals(record))
    assert len(found) > 50
    for path, row in found:
        assert row["low"] <= row["mean"] <= row["high"], path


def test_recorded_errors_lie_between_the_oracle_and_the_worst(record):
    errors = record["uncertainty"]["errors"]
    areas = {name: row["area"]["mean"] for name, row in errors.items()}
    assert min(areas, key=areas.get) == "oracle"
    for name in set(errors) - {"chance", "oracle"}:
        assert errors[name]["wrong pixels"]["low"] > 0.5, name


def test_recorded_real_slices_are_plausible(record):
    shown = record["shapes"]["plausible"]
    real = shown["real slices of test patients"]
    assert real["not empty"] == 1 and all(row["all"] <= real["all"] + 0.02 for row in shown.values())
