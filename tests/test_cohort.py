"""Cases are found in each layout, paired by patient, and split by patient."""

from pathlib import Path

import pytest

from vaelib import InputError
from vaelib.cohort import folds, split
from vaelib.cohorts.layout import cache_folder, data_folder, find_cases, home, models_folder

ROOT = Path(__file__).resolve().parents[1]
NAMES = [f"PANCREAS_{n:04d}" for n in range(1, 25)]


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.mark.parametrize("collection", ["", "pancreas_ct"])
@pytest.mark.parametrize("layout", ["idc", "synthetic"])
def test_idc_layout(tmp_path, collection, layout):
    top = tmp_path / collection
    for name in ("PANCREAS_0010", "PANCREAS_0002"):
        touch(top / name / "1.2" / "CT_1.3" / "1-001.dcm")
    seg = touch(top / "PANCREAS_0002" / "1.2" / "SEG_1.4" / "1.5.dcm")
    if layout == "synthetic":
        touch(top / "SYNTHETIC.md")
    first, second = find_cases(tmp_path)
    assert (first.patient, second.patient) == ("PANCREAS_0002", "PANCREAS_0010")
    assert (first.mask, second.mask) == (seg, None) and first.layout == layout
    assert first.ct == top / "PANCREAS_0002" / "1.2" / "CT_1.3"


@pytest.mark.parametrize("manifest", ["", "manifest-1599750808610"])
def test_tcia_layout_pairs_by_number(tmp_path, manifest):
    for number in (1, 2, 4):  # there is no third: the third label must not go to the fourth patient's scan
        touch(tmp_path / manifest / "Pancreas-CT" / f"PANCREAS_{number:04d}" / "1.2" / "1.3" / "1-001.dcm")
    for number in (1, 3, 4):
        touch(tmp_path / "TCIA_pancreas_labels-02-05-2017" / f"label{number:04d}.nii.gz")
    with pytest.warns(UserWarning, match="labels without a scan: label0003.nii.gz$"):
        cases = find_cases(tmp_path)
    assert [(c.patient[-1], c.mask and c.mask.name) for c in cases] == [
        ("1", "label0001.nii.gz"), ("2", None), ("4", "label0004.nii.gz"),
    ]  # fmt: skip
    assert {c.layout for c in cases} == {"tcia"} and cases[0].ct.name == "1.3"


def test_two_scans_or_two_masks_of_a_patient(tmp_path):
    study = tmp_path / "PANCREAS_0001" / "1.2"
    for name in ("CT_1/1.dcm", "SEG_1/1.dcm", "SEG_2/1.dcm"):
        touch(study / name)
    with pytest.raises(InputError, match="SEG_1.*one of 2 masks.*SEG_2.*keep one"):
        find_cases(tmp_path)
    (study / "SEG_2" / "1.dcm").unlink()
    touch(study / "CT_2" / "1.dcm")
    with pytest.raises(InputError, match="CT_1: is a second scan .*CT_2; move one"):
        find_cases(tmp_path)


def test_a_folder_without_cases(tmp_path):
    with pytest.raises(InputError, match="no case in it; make one with `vaelib phantom`"):
        find_cases(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        find_cases(tmp_path / "nowhere")


def test_split_shares_out_every_patient_once_whatever_the_order():
    parts = split(NAMES)
    assert parts == split(reversed(NAMES)) == split(NAMES * 2)
    assert [len(parts[p]) for p in ("train", "val", "test")] == [16, 2, 6]
    assert sorted(sum(parts.values(), [])) == NAMES
    assert parts != split(NAMES, seed=1)


def test_split_is_the_same_on_every_machine():
    assert split(NAMES)["val"] == ["PANCREAS_0020", "PANCREAS_0021"]  # written down, not computed


def test_split_needs_a_patient_for_each_set():
    assert {len(p) for p in split(NAMES[:3]).values()} == {1}
    with pytest.raises(InputError, match="2 patient.*three is the least"):
        split(NAMES[:2])


def test_each_cohort_has_a_cache_of_its_own(tmp_path):
    assert cache_folder(ROOT / "data" / "synthetic") == ROOT / "data" / "cache" / "synthetic"
    one, two = cache_folder(tmp_path / "a" / "pancreas_ct"), cache_folder(tmp_path / "b" / "pancreas_ct")
    assert one != two and one.name.startswith("pancreas_ct-")


def test_data_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("VAELIB_DATA", raising=False)
    assert data_folder() == ROOT / "data" / "synthetic"
    monkeypatch.setenv("VAELIB_DATA", "~/scans")
    assert data_folder().is_absolute() and data_folder().name == "scans"
    monkeypatch.setenv("VAELIB_DATA", "data/mine")
    assert data_folder() == ROOT / "data" / "mine"
    monkeypatch.chdir(tmp_path)
    assert data_folder().resolve() == (tmp_path / "data" / "mine").resolve()
    (tmp_path / "data" / "mine").mkdir(parents=True)
    assert data_folder().resolve() == (tmp_path / "data" / "mine").resolve()


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A folder as the repository is: data, and two folders of lessons below it."""
    monkeypatch.delenv("VAELIB_DATA", raising=False)
    for name in ("data/synthetic", "notebooks", "build/notebooks"):
        (tmp_path / "house" / name).mkdir(parents=True)
    return tmp_path / "house"


@pytest.mark.parametrize("inside", [".", "notebooks", "build/notebooks", "data", "data/synthetic"])
def test_data_and_models_lie_in_the_nearest_folder_upwards_that_holds_data(inside, house, monkeypatch):
    monkeypatch.chdir(house / inside)
    assert home() == house
    assert data_folder() == house / "data" / "synthetic"
    assert cache_folder() == house / "data" / "cache" / "synthetic"
    assert models_folder() == house / "data" / "models" / "synthetic"
    (house / "notebooks" / "data").mkdir()
    assert home() == (house / "notebooks" if inside == "notebooks" else house), "the nearest counts"


def test_where_there_is_no_data_it_is_the_current_folder_and_never_the_package_s(tmp_path, monkeypatch):
    monkeypatch.delenv("VAELIB_DATA", raising=False)
    (tmp_path / "data").write_text("a file is no folder")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert home() == tmp_path / "empty"
    assert {data_folder().parents[1], cache_folder().parents[2], models_folder().parents[2]} == {home()}
    assert not list(home().iterdir()), "to ask makes no folder"


def test_vaelib_data_names_a_cohort_from_here_from_home_or_anywhere(house, tmp_path, monkeypatch):
    monkeypatch.chdir(house / "notebooks")
    for told in ("data/synthetic", "./data/synthetic"):
        monkeypatch.setenv("VAELIB_DATA", told)
        assert data_folder().resolve() == house / "data" / "synthetic"
    monkeypatch.setenv("VAELIB_DATA", "../data/synthetic")
    assert data_folder().resolve() == house / "data" / "synthetic"
    assert cache_folder() == house / "data" / "cache" / "synthetic", "the same cohort, however it is named"
    monkeypatch.setenv("VAELIB_DATA", str(tmp_path / "elsewhere" / "scans"))
    assert data_folder() == tmp_path / "elsewhere" / "scans"
    assert cache_folder().parent == house / "data" / "cache" and cache_folder().name.startswith("scans-")
    assert models_folder() == house / "data" / "models" / cache_folder().name


@pytest.mark.parametrize("told", ["x" * 5000, "~nobody-of-that-name/scans"])
def test_a_vaelib_data_that_names_no_folder_is_one_line(told, house, monkeypatch):
    monkeypatch.chdir(house)
    monkeypatch.setenv("VAELIB_DATA", told)
    for ask in (data_folder, cache_folder, models_folder):
        with pytest.raises(InputError, match="VAELIB_DATA='.*: names no folder .*; name the cohort's"):
            ask()
    monkeypatch.setenv("VAELIB_DATA", "nowhere")
    with pytest.raises(InputError, match=f"{house}/nowhere: no such folder"):
        find_cases(data_folder())


def test_the_withdrawn_cases_are_left_out_and_named(tmp_path):
    for number in (2, 25, 70):
        touch(tmp_path / f"PANCREAS_{number:04d}" / "1.2" / "1.3" / "1-001.dcm")
        touch(tmp_path / f"label{number:04d}.nii.gz")
    with pytest.warns(UserWarning) as said:
        (case,) = find_cases(tmp_path)
    assert case.patient == "PANCREAS_0002" and case.mask.name == "label0002.nii.gz"
    assert "left out PANCREAS_0025, PANCREAS_0070: withdrawn" in str(said[0].message)
    assert "label0025.nii.gz (withdrawn), label0070.nii.gz (withdrawn)" in str(said[1].message)


def test_a_synthetic_patient_25_is_as_good_as_any(tmp_path):
    touch(tmp_path / "SYNTHETIC.md")
    touch(tmp_path / "PANCREAS_0025" / "1.2" / "CT_1.3" / "1-001.dcm")
    assert len(find_cases(tmp_path)) == 1


def test_a_label_beside_a_seg_is_a_second_opinion(tmp_path):
    study = tmp_path / "PANCREAS_0003" / "1.2"
    touch(study / "CT_1.3" / "1-001.dcm")
    label = touch(tmp_path / "labels" / "label0003.nii.gz")
    assert find_cases(tmp_path)[0].mask == label and find_cases(tmp_path)[0].label is None
    seg = touch(study / "SEG_1.4" / "1.dcm")
    (case,) = find_cases(tmp_path)
    assert (case.mask, case.label, case.layout) == (seg, label, "idc")


def test_every_patient_is_tested_in_one_fold_and_never_by_its_own_model():
    made = folds(NAMES)
    assert sorted(sum((fold["test"] for fold in made), [])) == NAMES
    for fold in made:
        assert sorted(fold["train"] + fold["val"] + fold["test"]) == NAMES and fold["val"]


def test_a_threshold_is_told_by_twelve_patients_where_a_quarter_are_so_many():
    names = [f"PANCREAS_{n:04d}" for n in range(1, 81)]
    for fold in [fold for seed in range(5) for fold in folds(names, seed=seed)]:
        assert 12 <= len(fold["val"]) <= 20 < len(fold["train"])
    for fold in folds(names[:40]):
        assert len(fold["val"]) == (len(fold["val"]) + len(fold["train"])) // 4


def test_a_new_patient_moves_no_other():
    before, after = folds(NAMES), folds([*NAMES, "PANCREAS_0082", "a newcomer"])
    for old, new in zip(before, after, strict=True):
        assert set(old["test"]) <= set(new["test"])
    assert folds(reversed(NAMES)) == before and folds(NAMES, seed=1) != before


def test_folds_are_the_same_on_every_machine():
    assert folds(NAMES)[1]["test"] == [f"PANCREAS_{n:04d}" for n in (7, 10, 17, 18, 20, 21, 22)]


def test_a_cohort_too_small_for_four_folds_says_so():
    with pytest.raises(InputError, match="3 patient.*4 folds: fold 0 would test 2 and leave 1"):
        folds(NAMES[:3])
