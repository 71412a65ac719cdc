"""The study of uncertainty beside U-Nets: what draws and members have in common, gains, and all of it on noise."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import studies
from studies import ensemble as study
from studies import over_patients
from vaelib import latent, metrics, uncertainty
from vaelib.cohort import Cohort, Slices
from vaelib.rivals import UNet
from vaelib.spatial import ResidualMaskDecoder, ResidualVAE
from vaelib.vae import VAE, MaskDecoder

SIDE, PATIENT = 32, np.repeat(list("bac"), 4)


def cohort(seed):
    """Three patients of four noisy slices; a square that moves is pancreas in all but the first."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((12, 1, SIDE, SIDE), np.float32)
    for k in range(12):
        row = 10 + rng.integers(4)
        masks[k, 0, row : row + 4, 12:18] = 0.8 * (k % 4 > 0)
    images = (0.3 + 0.1 * rng.random(masks.shape) + 0.4 * masks).astype(np.float32)
    return Slices(images, masks, PATIENT, np.tile(np.linspace(0, 1, 4), 3))


@pytest.fixture(scope="module")
def lab():
    lab = Cohort(None, {part: list("bac") for part in ("train", "val", "test")}, 5)
    lab.train, lab.val, lab.test = (cohort(seed) for seed in range(3))
    return lab


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    vector = VAE(size=SIDE, latent=6), MaskDecoder(size=SIDE, latent=6, prevalence=0.1)
    spatial = ResidualVAE(SIDE, latent=2, grid=8), ResidualMaskDecoder(SIDE, channels=8, latent=2, grid=8, reach=1)
    return {"vector VAE": vector, "spatial VAE": spatial}


def test_draws_have_in_common_what_the_library_says(lab, networks):
    vae, mask = networks["vector VAE"]
    mean, variance, information = study.in_common(study.drawn(vae, mask, lab.test, 4))
    wanted = uncertainty.sample_masks(vae, mask, lab.test.images, 4)
    for found, right in ((mean, wanted.probability), (variance, wanted.variance), (information, wanted.information)):
        assert np.allclose(found, right, atol=1e-6)


def test_a_decoder_of_three_slices_reads_the_draws_of_neighbours(lab, networks):
    vae, mask = networks["spatial VAE"]
    (found,) = study.drawn(vae, mask, lab.test, 1)
    (z,) = uncertainty.draw_latents(vae, lab.test.images, 1)
    wanted = latent.decode(mask, np.concatenate([z[[4]], z[[5]], z[[6]]], 1))
    assert found.shape == lab.test.masks.shape and np.allclose(found[5], wanted[0], atol=1e-5)


def test_the_error_itself_gains_all_and_its_reverse_less_than_chance():
    risk, there = np.linspace(0, 1, 12), np.ones(12, bool)
    rows = np.arange(12)
    assert study.gained([(risk, risk, there)], rows) == 1
    assert study.gained([(-risk, risk, there)], rows) < 0


@pytest.mark.filterwarnings("ignore:.*constant.*")
def test_a_patient_counts_once_whatever_the_slices(lab):
    p = np.where(lab.test.masks > 0, 0.9, 0.1)
    p[:4] = 0.1  # the first patient, "b", is missed
    method = study.said(lab, p, p, {})
    of = study.statistics([method], lab, study.FREE)
    dices = metrics.dice_per_patient(p, method.threshold, lab.test)
    rows = np.arange(12)
    assert of["dice"](rows) == pytest.approx(np.mean(dices)) and of["dice"](rows[:4]) == pytest.approx(dices[0])
    same = study.measured(of, PATIENT, of)
    assert same["dice"] == {"mean": 0, "low": 0, "high": 0}


@pytest.mark.filterwarnings("ignore:.*(empty slice|constant|All-NaN|invalid value).*")
def test_everything_is_measured_and_put_down(lab, networks, monkeypatch):
    def member(lab, seed) -> nn.Module:
        torch.manual_seed(seed)
        return UNet(channels=4, inputs=3).eval()

    monkeypatch.setattr(study, "vaes", lambda lab: networks)
    monkeypatch.setattr(study, "member", member)
    monkeypatch.setattr(study, "over_patients", partial(over_patients, draws=5))
    record = study.run(lab, seeds=(0, 1), draws=2)
    assert list(record["methods"]) == ["vector VAE", "spatial VAE", "U-Net", "U-Net ensemble"]
    assert [len(row["thresholds"]) for row in record["methods"].values()] == [1, 1, 2, 1]
    for row in record["methods"].values():
        assert list(row["calibration"]) == ["event", "event, by q", "occupancy"]
        assert list(row["errors"])[:2] == ["p (1 - p)", "q (1 - q)"]


# --- the record --------------------------------------------------------------------------------------------------


def test_the_record_is_of_the_old_test_patients_and_of_all_members():
    record = studies.read("ensemble")
    assert record["members"] == len(study.SEEDS) and record["draws"] == study.DRAWS
    assert record["test"] == studies.read("uncertainty")["test"]


def test_recorded_differences_are_those_of_the_recorded_means():
    rows = studies.read("ensemble")["methods"]
    for name, row in rows.items():
        for other, gap in row["minus others"].items():
            for key, found in gap.items():
                mine, theirs = (rows[of]["errors"][study.FREE][key]["mean"] for of in (name, other))
                assert found["mean"] == pytest.approx(mine - theirs, abs=2e-4), (name, other, key)
                assert found["low"] <= found["mean"] <= found["high"]
