"""The study of two stages: the codes that stand in for ours, what is put back, and its table."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

import studies
from studies import two_stage as study
from vaelib import latent
from vaelib.cohort import Slices
from vaelib.dicom.millimetres import averaged, window_of


def test_patch_pca_is_a_code_in_place_of_variance_one():
    images = np.random.default_rng(0).random((30, 1, 16, 16), np.float32)
    images[:, :, :, 1::2] = images[:, :, :, ::2]  # so that neighbours are alike
    code, none = study._arms.PatchPCA(images, 8, 4)(torch.from_numpy(images))
    assert code.shape == none.shape == (30, 8, 4, 4) and none.abs().sum() == 0
    flat = code.permute(0, 2, 3, 1).reshape(-1, 8).numpy()
    np.testing.assert_allclose(np.cov(flat.T), np.eye(8), atol=0.05)
    np.testing.assert_allclose(flat.mean(0), 0, atol=1e-4)
    moved, _ = study._arms.PatchPCA(images, 8, 4)(torch.from_numpy(np.roll(images, 4, 3)))
    np.testing.assert_allclose(moved[..., 1:], code[..., :-1], atol=1e-4)


def test_patch_pca_is_what_the_whitened_components_of_scikit_learn_are():
    images = np.random.default_rng(0).random((30, 1, 16, 16), np.float32) ** np.linspace(1, 9, 16, dtype=np.float32)
    tiles = images.reshape(30, 4, 4, 4, 4).transpose(0, 1, 3, 2, 4).reshape(-1, 16)
    white = PCA(8, whiten=True, svd_solver="full").fit_transform(tiles).reshape(30, 4, 4, 8).transpose(0, 3, 1, 2)
    code, _ = study._arms.PatchPCA(images, 8, 4)(torch.from_numpy(images))
    np.testing.assert_allclose(code, white, atol=1e-3)
    vector, none = study._arms.PatchPCA(images, 8, 16)(torch.from_numpy(images))
    whole = PCA(8, whiten=True, svd_solver="full").fit_transform(images.reshape(30, -1))
    assert vector.shape == none.shape == (30, 8)
    np.testing.assert_allclose(vector, whole, atol=1e-3)


def test_patch_pca_stands_in_for_an_encoder_and_learns_nothing_more():
    images = np.random.default_rng(0).random((3, 1, 128, 128), np.float32)
    vae = study.pca_of(images)
    assert latent.encode(vae, images)[0].shape == (3, 8, 32, 32)
    assert not any(p.requires_grad for p in vae.encoder.parameters())


def test_a_window_is_put_back_where_it_was(monkeypatch):
    scan = np.zeros((20, 64, 64), np.float32)
    scan[6:14, 20:40, 24:44] = 1
    window = window_of(3, 35, (30.5, 34.5), (2, 1, 1), 32)  # voxel on voxel
    slices = lambda shards, where: Slices(down(scan, where["P"]), down(scan, where["P"]), np.array(["P"] * 16), None)  # noqa: E731
    monkeypatch.setattr(study, "slices_of", slices)
    monkeypatch.setattr(study, "open_case", lambda *_: SimpleNamespace(images=scan))
    monkeypatch.setattr(study.metrics, "spacing_at", lambda *_: (2, 1, 1))
    back = study.on_scan(SimpleNamespace(shards=None), "P", window, lambda s: s.masks)
    assert np.array_equal(back >= 0.5, scan >= 0.5)


def down(scan, window):
    return averaged(scan, (2, 1, 1), window)[:, None]


def test_the_table_is_that_of_the_record():
    record = studies.read(study.STUDY)
    table = study.tables(record)[study.STUDY]
    page = studies.page_of(study.STUDY).read_text()
    assert f"<!-- {study.STUDY} -->\n{table}\n<!-- end of {study.STUDY} -->" in page


def test_recorded_ceiling_and_methods_are_in_order():
    arms = studies.read(study.STUDY)["arms"]
    dice = {name: row["dice"]["mean"] for name, row in arms.items()}
    assert dice[study.CEILING] == max(dice.values()) > 0.95
    cells = study._cells.read_cells(study.STUDY)
    for name, row in arms.items():
        mean = study._cells.table_of(cells, name).mean()
        assert row["dice"]["mean"] == pytest.approx(mean, abs=2e-3)
