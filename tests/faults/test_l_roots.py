"""Kind L, where things lie: one rule for data, caches and models, and a word where two cohorts are in play."""

import os
import warnings
from pathlib import Path

import pytest
from drawn import drawn

from vaelib import InputError
from vaelib.cohorts.layout import cache_folder, data_folder, home, models_folder, warn_if_elsewhere


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A repository that nobody may write to, with cohorts in it and beside it; the current folder is its notebooks'."""
    monkeypatch.delenv("VAELIB_DATA", raising=False)
    monkeypatch.delenv("VAELIB_HOME", raising=False)
    for name in ("house/data/synthetic", "house/data/scans", "house/notebooks", "one/scans", "two/scans", "one/Scans"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "house" / "notebooks")
    return tmp_path


# Two ways to name a folder from house/notebooks, and whether it is the same cohort.
INSTANCES = [
    ("two of one name", "../../one/scans", "../../two/scans", False),
    ("one in data, one beside", "../data/scans", "../../one/scans", False),
    ("names that differ in case", "../../one/scans", "../../one/Scans", False),
    ("a slash at the end", "../../one/scans", "../../one/scans/", True),
    ("a detour", "../../one/scans", "../../two/../one/./scans", True),
    ("the absolute name", "../../one/scans", "{top}/one/scans", True),
    ("a link to it", "../../one/scans", "{top}/link", True),
    ("a link of another's name", "../../two/scans", "{top}/one/two", True),
    ("a link in data", "../../one/scans", "../data/linked", True),
    ("data, by a link to it", "../data/scans", "{top}/linked data/scans", True),
]


def generate(r):
    base = r.choice(("one/scans", "two/scans", "one/Scans", "house/data/scans", "house/data/synthetic"))
    other = r.choice(("one/scans", "two/scans", "one/Scans", "house/data/scans", "house/data/synthetic"))

    def named(folder):
        detour = r.choice(("", "", "two/../", "house/notebooks/../../", "./"))
        return r.choice(("../../", "{top}/", "~/")) + detour + folder + r.choice(("", "/", "/."))

    return f"{base} and {other}", named(base), named(other), base == other


@drawn(INSTANCES, generate, seed=18)
def test_a_cohort_has_its_own_folders_however_it_is_named(case, house, monkeypatch):
    _, one, two, same = case
    monkeypatch.setenv("HOME", str(house))
    (house / "link").symlink_to(house / "one" / "scans")
    (house / "one" / "two").symlink_to(house / "two" / "scans")
    (house / "house" / "data" / "linked").symlink_to(house / "one" / "scans")
    (house / "linked data").symlink_to(house / "house" / "data")
    one, two = (name.format(top=house) for name in (one, two))
    for where in (cache_folder, models_folder):
        assert (where(one) == where(two)) == same
        assert where(one).parents[1] == house / "house" / "data"
    for told, cohort in ((one, two), (two, one)):  # by the variable as by name
        monkeypatch.setenv("VAELIB_DATA", told)
        assert cache_folder() == cache_folder(told) and (cache_folder() == cache_folder(cohort)) == same


@pytest.mark.parametrize("told", ["{top}/work", "~/work", "../../work", "{top}/house/../work/"])
def test_vaelib_home_is_where_caches_and_models_are_kept(told, house, monkeypatch):
    monkeypatch.setenv("HOME", str(house))
    monkeypatch.setenv("VAELIB_HOME", told.format(top=house))
    assert home().is_absolute() and home().resolve() == house / "work" and not home().exists()
    for folder, name in ((cache_folder(), "cache"), (models_folder(), "models")):
        assert folder.resolve() == house / "work" / "data" / name / "synthetic"
    assert data_folder().resolve() == house / "work" / "data" / "synthetic"
    monkeypatch.setenv("VAELIB_DATA", "../data/synthetic")
    assert data_folder().resolve() == house / "house" / "data" / "synthetic"
    assert cache_folder().parent.resolve() == house / "work" / "data" / "cache"
    assert cache_folder().name.startswith("synthetic-"), "for it is not the one of this home"


def test_an_empty_variable_is_none(house, monkeypatch):
    monkeypatch.setenv("VAELIB_HOME", "")
    monkeypatch.setenv("VAELIB_DATA", "")
    assert home() == house / "house" and data_folder() == house / "house" / "data" / "synthetic"


@pytest.mark.parametrize("told", ["x" * 5000, "~nobody-of-that-name/work"])
def test_a_vaelib_home_that_names_no_folder_is_one_line(told, house, monkeypatch):
    monkeypatch.setenv("VAELIB_HOME", told)
    for ask in (home, data_folder, cache_folder, models_folder):
        with pytest.raises(InputError, match="VAELIB_HOME='.*: names no folder .*; name one that you may write to"):
            ask()


def test_data_that_is_a_link_to_another_disk_is_data_all_the_same(house):
    (house / "house" / "data").rename(house / "disk")
    (house / "house" / "data").symlink_to(house / "disk")
    for told in (None, "../data/synthetic", house / "disk" / "synthetic"):
        assert cache_folder(told) == house / "house" / "data" / "cache" / "synthetic"


@pytest.mark.parametrize(
    ("data", "made", "told"),
    [
        (None, "../data/synthetic", False),
        ("../../one/scans", "../data/synthetic", True),
        ("../data/synthetic", "{top}/house/data/synthetic", False),
        ("../../one/scans", "../../one/scans/", False),
        ("../../one/scans", "../../two/scans", True),
        (None, "../../two/scans", False),  # whoever names a folder knows where it is
    ],
)
def test_who_makes_one_cohort_while_another_is_in_use_is_told(data, made, told, house, monkeypatch):
    monkeypatch.setenv("VAELIB_DATA", data or "")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        warn_if_elsewhere(Path(made.format(top=house)))
    assert len(said) == told
    for warning in said:
        text = str(warning.message)
        assert text.startswith(made) and str(data_folder()) in text and os.linesep not in text
        assert "VAELIB_DATA" in text and "unset it, or give them this folder" in text
