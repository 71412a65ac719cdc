"""The study of one real patient: how the scan lies, who is held out, what is counted, and its two tables."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import studies
from studies import _cells
from studies import real_case as study
from studies.__main__ import main
from vaelib.cohorts.windows import Outlined

KINDS = ["as they are", *study.shifts.SHIFTS, "real series", "real patient"]


@pytest.fixture
def folder(tmp_path):
    """Slices of 512 x 512 of four patients, the studied one among them, and a stack of that one."""
    hu, label = np.full((4, 512, 512), -160, np.int16), np.zeros((4, 512, 512), np.uint8)
    hu[0, 500:] = 100  # the first slice is the highest, its last rows are the front
    label[0, 500:, :8] = 1
    (tmp_path / "real-ct" / "patient-0006").mkdir(parents=True)
    np.savez(tmp_path / "real-ct" / "patient-0006" / "slices.npz", hu=hu, label=label, spacing_zyx=(1, 0.9, 0.9))
    for kind, grey in (("images", 100), ("masks", 255)):
        (tmp_path / "real-slices" / kind).mkdir(parents=True)
        for k, name in enumerate(("PANCREAS_0005", study.PATIENT, "PANCREAS_0007", "PANCREAS_0008", "PANCREAS_0009")):
            array = np.zeros((512, 512), np.uint8)
            array[64 * k : 64 * k + 64, 128:192] = grey
            Image.fromarray(array).save(tmp_path / "real-slices" / kind / f"{name}-1.png")
    return tmp_path


def test_the_patient_comes_from_the_feet_up_with_the_front_above(folder):
    hu, label, mm = study.patient(folder)
    assert hu[-1, :12].min() == 100 and (hu == 100).sum() == 12 * 512 and mm == (1, 0.9, 0.9)
    assert label[-1, :12, :8].all() and label.sum() == 96


def test_of_the_real_patient_the_spine_is_behind_and_the_organ_in_front_of_it(real_patient):
    hu, label, mm = study.patient(real_patient.parents[1])
    bone = np.argwhere(hu[:, 128:400, 200:312] >= 230)[:, 1].mean() + 128
    assert hu.shape == label.shape == (80, 512, 512) and mm == (1, 0.9375, 0.9375)
    assert np.argwhere(label)[:, 1].mean() < bone and label.sum() == 52_784
    assert label[0].any() and not label[-20:].any(), "cut off below"


def test_the_patient_is_neither_learned_from_nor_chosen_on(folder, monkeypatch):
    monkeypatch.setattr(study, "HELD_OUT", 1)
    lab, full = study.others(folder)
    held, taught = lab.parts["val"], lab.parts["train"]
    assert len(held) == 1 and sorted([*held, *taught]) == [f"PANCREAS_000{n}" for n in (5, 7, 8, 9)]
    assert {*lab.val.patient} == {*held} and {*lab.train.patient} == {*taught}
    assert lab.train.images.shape == (3, 1, 64, 64) and full.shape == (1, 1, 512, 512) and full.dtype == bool
    assert full.sum() == 64**2 and lab.val.masks.sum() == 8**2


def test_a_mask_is_cut_where_validation_patients_say(folder, monkeypatch):
    monkeypatch.setattr(study, "HELD_OUT", 1)
    real, asked = study.others(folder), []
    monkeypatch.setattr(study, "learned", lambda arm, lab, seed: lambda s: asked.append(s) or 0.5 * s.images)
    monkeypatch.setattr(study.metrics, "best_threshold", lambda p, truth, who: asked.append((truth, who)) or 0.15)
    case = study.patient(folder)
    mask = study.found((f"{study.RIVAL}, real", 0), None, real, case)
    assert asked[0] is real[0].val and asked[1][0] is real[1] and [*asked[1][1]] == real[0].parts["val"]
    assert np.array_equal(mask[:, ::64, 256], case[0][:, ::64, 256] > 77), "0.15 of half of 255 HU"
    row = study.scored((f"{study.RIVAL}, real", 0), None, real, case)[study.PATIENT]
    both = (mask[-1] & (case[1][-1] > 0)).sum()
    assert row["dice"] == row["dice where it is"] == pytest.approx(2 * both / (96 + mask[-1].sum())) and both >= 64


def test_the_atlas_of_single_slices_is_their_mean_mask(folder, monkeypatch):
    monkeypatch.setattr(study, "HELD_OUT", 1)
    lab, _ = study.others(folder)
    p = study.learned("atlas, real", lab, 0)(lab.val)
    assert np.array_equal(p[0], lab.train.masks.mean(0)) and p.shape == lab.val.images.shape


def test_a_shift_is_of_the_same_patient_and_a_lost_slice_of_the_cache(monkeypatch):
    scan = SimpleNamespace(hu=np.full((3, 8, 8), 40, np.int16), spacing=(3.0, 0.5, 0.5))
    asked = []
    monkeypatch.setattr(study, "make_patient", lambda *args, **how: asked.append((args, how)) or scan)
    images, mm = study.staged(None, "PANCREAS_0017", "HU offset")
    assert asked.pop() == ((study.SEED, 17), {"whole": True}) and mm == scan.spacing
    np.testing.assert_allclose(images, (40 + 30 + 160) / 400)
    study.staged(None, "PANCREAS_0017", "twice as large")
    assert asked.pop()[1] == {"whole": True, "scale": study.shifts.LARGER}
    kept = np.arange(8.0)[:, None, None]
    monkeypatch.setattr(study, "open_case", lambda *_: SimpleNamespace(images=kept))
    monkeypatch.setattr(study.metrics, "spacing_at", lambda *_: (3, 1, 1))
    lab = SimpleNamespace(shards=None)
    assert study.staged(lab, "PANCREAS_0017", "missing slice")[0].ravel().tolist() == [0, 1, 3, 4, 5, 7]
    assert study.staged(lab, "PANCREAS_0017", study.USUAL)[0].ravel().tolist() == [*range(8)] and not asked


def test_doubts_are_counted_by_kind(monkeypatch):
    one = np.zeros((5, 8, 8))
    one[2, 2:4, 2:4] = 1
    use = SimpleNamespace(
        predict=lambda images, mm: Outlined(images, lost=images.max() == 2), tell=lambda images, mm: images[:, :1, 0]
    )
    like = {"centre": [0.0], "precision": [[1.0]], "limit": 0.0}
    said = {"thresholds": {"512": 0.5}, "typical": like}
    monkeypatch.setattr(study.recipes, "usable", lambda checkpoint: (use, said))
    far = one.copy()
    far[:, 0, 0] = np.e
    rows = study.rates([("a", one + 1e-9, None), ("a", np.where(one, 2, 1e-9), None), ("b", far, None)])
    assert rows["a"]["scans"] == 2 and rows["b"]["scans"] == 1 and [*rows] == ["a", "b"]
    assert rows["a"]["said"] == {"lost": 1, "any": 1, "unlike": 0}
    assert rows["b"]["said"] == {"border": 1, "pieces": 1, "unlike": 1, "any": 1} and rows["b"]["median"] == 2


def test_without_a_folder_it_is_one_line_and_status_2(capfd, monkeypatch):
    monkeypatch.setattr("studies.__main__.open_cohort", None)
    assert main(["real_case"]) == 2
    assert capfd.readouterr().err == "real_case: name the folder of slices: python -m studies real_case FOLDER\n"


# --- the record --------------------------------------------------------------------------------------------------


def test_the_tables_are_those_of_the_record():
    for mark, table in study.tables(studies.read(study.STUDY)).items():
        page = studies.page_of(mark).read_text()
        assert f"<!-- {mark} -->\n{table}\n<!-- end of {mark} -->" in page


def test_recorded_scores_are_those_of_the_rows_and_their_range():
    record, cells = studies.read(study.STUDY), _cells.read_cells(study.STUDY)
    assert {*cells} == {(arm, seed) for arm, n in record["seeds"].items() for seed in range(n)}
    assert record["seeds"].items() <= study.SEEDS.items() and {*record["seeds"]} == {*record["arms"]}
    for arm, row in record["arms"].items():
        dices = [cells[arm, seed][study.PATIENT]["dice"] for seed in range(study.SEEDS[arm])]
        assert (row["dice"]["low"], row["dice"]["high"]) == pytest.approx((min(dices), max(dices)), abs=1e-4)
        assert row["dice"]["mean"] == pytest.approx(np.mean(dices), abs=1e-4)
        assert row["dice where it is"]["mean"] >= row["dice"]["mean"], "slices without it can only cost"


def test_recorded_rates_add_up():
    rates = studies.read(study.STUDY)["rates"]
    assert {"as they are", "real series", "real patient"} <= {*rates} <= {*KINDS}
    for kind, row in rates.items():
        said, n = row["said"], row["scans"]
        assert n == len(row["away"]) and n <= (1 if kind.startswith("real") else 10)
        assert said["unlike"] == sum(away > 0 for away in row["away"]) <= said.get("any", n) <= n
        assert row["median"] == pytest.approx(np.median(row["away"]), abs=1e-3)


def test_recorded_real_scans_are_told_and_most_patients_like_those_of_training_are_not():
    rates = studies.read(study.STUDY)["rates"]
    assert all(rates[kind]["said"]["unlike"] == 1 for kind in ("real series", "real patient"))
    assert rates["as they are"]["said"]["unlike"] <= 2


def test_a_picture_outlines_the_truth_and_both_masks(folder):
    case = study.patient(folder)
    hu, label, mm = case
    label = label.copy()
    label[:, 200:240, 200:240] = 1
    fig = study.picture((hu, label, mm), {"one": label > 0, "two": np.roll(label, 9, 1) > 0})
    assert len(fig.axes) == 3 and [len(ax.lines) for ax in fig.axes] == [3] * 3
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["truth", "one", "two"]
    truth, one, two = (line.get_ydata() for line in fig.axes[0].lines)
    np.testing.assert_array_equal(truth, one)
    assert np.nanmin(two) == np.nanmin(one) + 9


def test_without_two_stages_a_run_scores_the_others_and_keeps_the_rates(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(studies, "RESULTS", tmp_path)
    monkeypatch.setattr(studies, "ROOT", tmp_path)
    monkeypatch.setattr(study, "HELD_OUT", 1)
    monkeypatch.setattr(study, "TWO_STAGES", lambda: tmp_path / "trained.safetensors")
    monkeypatch.setattr(study, "SEEDS", {f"{study.STAGES}, synthetic": 1, "atlas, real": 1})
    monkeypatch.setattr(study, "SHOWN", dict.fromkeys(("one", "two"), "atlas, real"))
    monkeypatch.setattr(study, "picture", lambda case, masks: masks)
    monkeypatch.setattr(study, "png", lambda masks: b"a picture")
    studies.write(study.STUDY, {"rates": {"as they are": {}}})
    record = study.run(None, folder)
    assert [*record["arms"]] == ["atlas, real"] and record["rates"] == {"as they are": {}}
    assert record["real patients"] == {"val": 1, "train": 3}
    assert (tmp_path / "notebooks" / "figures" / "09_real_patient.png").read_bytes() == b"a picture"
