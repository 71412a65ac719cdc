"""Cases are found in each layout, paired by patient, and split by patient."""

import pytest

from vaelib import InputError
from vaelib.cohort import REPOSITORY, cache_folder, data_folder, find_cases, split

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
    with pytest.raises(InputError, match="three shares"):
        split(NAMES, fractions=(0.9, 0.2, 0.1))


def test_each_cohort_has_a_cache_of_its_own(tmp_path):
    assert cache_folder(REPOSITORY / "data" / "synthetic") == REPOSITORY / "data" / "cache" / "synthetic"
    one, two = cache_folder(tmp_path / "a" / "pancreas_ct"), cache_folder(tmp_path / "b" / "pancreas_ct")
    assert one != two and one.name.startswith("pancreas_ct-")


def test_data_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("VAELIB_DATA", raising=False)
    assert data_folder() == REPOSITORY / "data" / "synthetic"
    monkeypatch.setenv("VAELIB_DATA", "~/scans")
    assert data_folder().is_absolute() and data_folder().name == "scans"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VAELIB_DATA", "data/mine")
    assert data_folder() == REPOSITORY / "data" / "mine"
    (tmp_path / "data" / "mine").mkdir(parents=True)
    assert data_folder().resolve() == (tmp_path / "data" / "mine").resolve()
