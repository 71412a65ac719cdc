"""How far a scan lies from those learned from: the limit keeps its rate, and what is unlike is said to be so."""

import numpy as np
import pytest

from vaelib.cohorts.typical import ALARMS, doubt, learn, pooled, score


def patient(rng, away=0.0, slices=30, numbers=6):
    """Latents of a patient's slices: each patient has a place of their own, and slices lie around it."""
    return away + 0.5 * rng.normal(size=numbers) + rng.normal(size=(slices, numbers))


def test_the_limit_is_exceeded_by_one_in_twenty_of_their_like():
    rng, alarms = np.random.default_rng(0), []
    for _ in range(60):
        like = learn([patient(rng) for _ in range(20)], [patient(rng) for _ in range(6)])
        alarms += [bool(doubt(patient(rng), like)) for _ in range(20)]
    assert np.mean(alarms) == pytest.approx(ALARMS, abs=0.025)


def test_what_is_unlike_is_said_to_be_so():
    rng = np.random.default_rng(1)
    like = learn([patient(rng) for _ in range(20)], [patient(rng) for _ in range(5)])
    (said,) = doubt(patient(rng, away=3), like)
    assert "unlike the scans" in said and f"{like['limit']:.2f}" in said
    assert score(patient(rng, away=3), like) > score(patient(rng), like)


def test_one_patient_sets_no_limit_and_an_older_checkpoint_says_nothing():
    rng = np.random.default_rng(2)
    like = learn([patient(rng) for _ in range(5)], [patient(rng)])
    assert like["limit"] is None and doubt(patient(rng, away=9), like) == [] == doubt(patient(rng, away=9), None)


def test_a_latent_that_keeps_its_places_is_told_by_mean_and_spread():
    mu = np.random.default_rng(3).normal(size=(4, 3, 5, 5))
    assert pooled(mu).shape == (4, 6) and pooled(mu[:, :, 0, 0]).shape == (4, 3)
    np.testing.assert_allclose(pooled(mu)[2], [*mu[2].mean((1, 2)), *mu[2].std((1, 2))])
    assert np.allclose(pooled(mu), pooled(mu[..., ::-1]))  # wherever in the slice
