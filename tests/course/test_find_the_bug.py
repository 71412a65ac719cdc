"""Notebook 10: each of its checks finds its own fault and no other, and what it shows of the scripts is true."""

import ast
import math
import re
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from course import checks
from course.places import NOTEBOOKS, read_notebook
from studies.bugs import FAULTS, SCRIPTS
from vaelib import InputError

CELLS = read_notebook(NOTEBOOKS / "10_find_the_bug.ipynb").cells
FAULTY, MENDED = (path.read_text(encoding="utf-8") for path in SCRIPTS)
PLACES = checks.differences(FAULTY, MENDED)
ALONE = {name: checks.plant(place, MENDED) for name, place in zip(FAULTS, PLACES, strict=True)}


def cohort(script, patients=6, slices=6):
    """A few slices of noise with a bright square as pancreas."""
    rng = np.random.default_rng(0)
    images = rng.random((patients * slices, 64, 64)).astype(np.float32) / 2
    masks = np.zeros_like(images)
    masks[:, 20:30, 20:40] = 1
    return script.SliceDataset(images + masks / 2, masks, np.repeat([f"p{k}" for k in range(patients)], slices))


def the_checks(argument="script"):
    """The functions of a script that the notebook defines, in its order, ready to be called.

    Those of suspicious lines that are sound call the script `lines`.
    """
    space = {"math": math, "np": np, "torch": torch, "Mock": Mock, "tiny": cohort(checks.load(MENDED, "mended"))}
    found = []
    for cell in (c for c in CELLS if c.cell_type == "code"):
        for node in ast.parse(cell.source).body:
            if isinstance(node, ast.FunctionDef) and [a.arg for a in node.args.args] == [argument]:
                exec(ast.unparse(node), space)
                found.append(space[node.name])
    return found


*CHECKS, THIRTEENTH = the_checks()


def test_there_is_a_check_for_each_fault():
    assert len(CHECKS) == len(PLACES) == len(FAULTS) == 12


@pytest.mark.parametrize("text", [FAULTY, MENDED], ids=["faulty", "mended"])
def test_every_check_fails_on_the_faulty_script_and_passes_on_the_mended(text, capsys):
    verdicts = {check.__name__: checks.ask(check, checks.load(text, "it"))[0] for check in CHECKS}
    assert set(verdicts.values()) == {text == MENDED}, verdicts
    assert capsys.readouterr().out.count("sound" if text == MENDED else "FAULT") >= 12


@pytest.mark.parametrize("text", [FAULTY, MENDED], ids=["faulty", "mended"])
def test_what_is_sound_in_both_scripts_passes_its_check(text):
    checked = [checks.ask(check, checks.load(text, "it")) for check in the_checks("lines")]
    assert checked == [(True,)] * 3


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_alone_is_found_by_its_own_check_and_no_other(name):
    script = checks.load(ALONE[name], name)
    fails = [check.__name__ for check in CHECKS if checks.ask(check, script) == (False,)]
    assert fails == [CHECKS[FAULTS.index(name)].__name__]


def test_the_thirteenth_is_found_by_its_own_check_and_no_other():
    planted = MENDED.replace("fit(model, train, val, epochs)", "fit(model, train, test, epochs)")
    assert planted != MENDED
    assert checks.ask(THIRTEENTH, checks.load(planted, "it"), checks.load(MENDED, "it")) == (False, True)
    assert all(checks.ask(check, checks.load(planted, "it"))[0] for check in CHECKS)


def test_the_scripts_differ_in_the_planted_places_only():
    text = MENDED
    for place in reversed(PLACES):  # from below, so that the lines above keep their numbers
        text = checks.plant(place, text)
    assert text == FAULTY
    assert sum(len(place.before.splitlines()) for place in PLACES) < 20


def test_the_notebook_shows_the_differences_as_they_are():
    shown = re.findall(r"```diff\n(.*?)\n```", "\n".join(c.source for c in CELLS), re.DOTALL)
    assert shown == [str(place) for place in PLACES]


@pytest.mark.parametrize("text", [FAULTY, MENDED], ids=["faulty", "mended"])
def test_a_script_reads_trains_and_reports_and_repeats_itself(text, tmp_path):
    script = checks.load(text, "it")
    for k in range(2):
        (tmp_path / f"p{k}").mkdir()
        for name in ("image_8", "mask_8"):
            np.save(tmp_path / f"p{k}" / f"{name}.npy", np.ones((3, 256, 256), np.float16))
    data = script.SliceDataset.read(sorted(tmp_path.iterdir()))
    assert data.images.shape == data.masks.shape == (6, 64, 64) and data.images.dtype == data.masks.dtype == np.float32
    reports = [script.experiment(cohort(script), epochs=2)[1] for _ in range(2)]
    assert reports[0] == reports[1]
    assert 0 <= reports[0]["dice"] <= 1 and 0 <= reports[0]["iou"] <= 1


def test_a_missing_script_and_a_fault_in_another_text_are_named(tmp_path):
    with pytest.raises(InputError, match="no such script"):
        checks.load(tmp_path / "none.py", "none")
    with pytest.raises(InputError, match="line 1"):
        checks.plant(checks.Difference(0, "a\n", "b\n"), "c\n")
