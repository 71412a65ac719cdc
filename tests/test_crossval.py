"""Cross-validation: four folds, each patient tested once, interrupted at will."""

import json

import numpy as np
import pandas as pd
import pytest
from small import make_patients

from vaelib import InputError, recipes

SMALL = dict(level=5, latent=4, epochs=1)
FOUR = (1, 3, 5, 7)  # one patient in each fold


@pytest.fixture
def cohort(tmp_path, monkeypatch):
    monkeypatch.setattr("vaelib.cohort.cache_folder", lambda folder: tmp_path / "cache")
    make_patients(tmp_path / "cohort", FOUR)
    return tmp_path / "cohort"


def test_each_patient_is_tested_once_and_finished_folds_are_kept(cohort, tmp_path, capsys):
    out = tmp_path / "folds"
    assert recipes.cross_validate(cohort, out=out, only=2, **SMALL) is None
    left = {"fold2.json", "fold2.safetensors", "fold2.png"}
    curves = {f"fold2.{name}" for name in ("vae.csv", "mask.csv", "mask.png")}  # one epoch of a VAE makes no curve
    assert {p.name for p in out.iterdir()} == left | curves
    kept = (out / "fold2.safetensors").stat().st_mtime_ns
    board = recipes.cross_validate(cohort, out=out, **SMALL)
    assert (out / "fold2.safetensors").stat().st_mtime_ns == kept
    assert sorted(board["patients"]) == [f"PANCREAS_{n:04d}" for n in FOUR] and board["folds"] == [1, 1, 1, 1]
    assert json.loads((out / "report.json").read_text()) == board
    table = pd.read_csv(out / "scores.csv")
    assert [*table[(table.method == recipes.DETACHED) & (table.side == 512)].patient] == board["patients"]
    assert np.isinf(table[table.method == "empty mask"].hd95).all() and table.notna().all(axis=None)
    assert all((out / f"fold{k}.png").read_bytes().startswith(b"\x89PNG") for k in range(4))
    for sides in board["methods"].values():
        assert set(sides) == {"32", "512"} and len(sides["512"]["dice"]["values"]) == 4
    assert board["methods"]["ceiling of the downscaling"]["32"]["dice"]["mean"] == 1
    text = recipes.fold_table(board)
    assert "4 patients, each tested once" in text and recipes.DETACHED in text
    with pytest.raises(
        InputError, match="fold0.json: was made with {'latent': 4}, not {'latent': 8}; name another folder"
    ):
        recipes.cross_validate(cohort, out=out, **SMALL | {"latent": 8})


def test_a_fold_is_done_anew_where_its_patients_changed(cohort, tmp_path):
    recipes.cross_validate(cohort, out=tmp_path / "folds", only=1, **SMALL)
    before = json.loads((tmp_path / "folds" / "fold1.json").read_text())["made_by"]["data"]
    next(cohort.glob("PANCREAS_0003/*/CT_1/1-001.dcm")).touch()
    recipes.cross_validate(cohort, out=tmp_path / "folds", only=1, **SMALL)
    assert json.loads((tmp_path / "folds" / "fold1.json").read_text())["made_by"]["data"] != before


def test_a_fold_that_is_none_is_refused(cohort, tmp_path):
    with pytest.raises(InputError, match="fold 4: there are 4, from 0 to 3"):
        recipes.cross_validate(cohort, out=tmp_path, only=4)
