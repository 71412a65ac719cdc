"""Numbers in prose come from `results/`, which `make results` writes; here they are held together."""

import ast
import re
from importlib import import_module
from pathlib import Path

import nbformat
import numpy as np
import pytest

import studies
from studies import _cells, _pool
from studies.__main__ import main
from studies.against import spared, tables
from studies.ladder import tables as table
from vaelib import metrics
from vaelib.engine.files import json_ready
from vaelib.metrics import verdict
from vaelib.recipes import DETACHED, RECIPE

ROOT = Path(__file__).resolve().parents[2]
BOARD = {name: studies.read(name) for name in studies.names()}
LADDER = BOARD["ladder"]
SCORED = ("controls", "labels", "rate", "organs", "doses", "real")  # their rows are committed, patient by patient


def test_every_study_is_found_asks_a_question_and_has_its_results():
    assert "against" in BOARD and {p.stem for p in studies.RESULTS.glob("*.json")} == set(BOARD)
    for name, record in BOARD.items():
        study = import_module(f"studies.{name}")
        assert "?" in study.__doc__.splitlines()[0] and callable(study.run) and record, name


@pytest.mark.parametrize("path", sorted((ROOT / "studies").glob("[a-z]*.py")), ids=lambda p: p.stem)
def test_no_study_imports_another(path):
    imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {name for node in imports for name in [getattr(node, "module", None), *(a.name for a in node.names)]}
    whole = {f"{node.module}.{a.name}" for node in imports if isinstance(node, ast.ImportFrom) for a in node.names}
    assert not {f"studies.{name}" for name in BOARD} & (names | whole)


def test_a_study_that_is_not_there_is_one_line_and_status_2(capsys):
    assert main(["ladder", "ladders"]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and "ladders" in err and "sizes" in err


def block(mark: str) -> str:
    """The table between two marks, in the page that has them."""
    return studies.page_of(mark).read_text().split(f"<!-- {mark} -->\n")[1].split(f"\n<!-- end of {mark} -->")[0]


def test_the_table_of_the_readme_is_that_of_the_results():
    assert block("results") == table(LADDER)["results"]


@pytest.mark.parametrize("mark", ["contestants", "shifts"])
def test_the_tables_of_the_contestants_are_those_of_the_results(mark):
    assert block(mark) == tables(BOARD["against"])[mark]


@pytest.mark.parametrize("name", SCORED)
def test_the_tables_of_the_fresh_patients_and_of_real_slices_are_those_of_the_results(name):
    for mark, text in import_module(f"studies.{name}").tables(BOARD[name]).items():
        assert block(mark) == text


@pytest.mark.parametrize("name", SCORED)
def test_what_is_concluded_is_concluded_from_the_rows_that_are_committed(name):
    study, cells, record = import_module(f"studies.{name}"), _cells.read_cells(name), BOARD[name]
    assert name in ("real", "doses") or record["plan"] == json_ready(study.PLAN)
    boards = record["grid"].values() if name == "labels" else [record["arms"]]
    rows = {arm: row for board in boards for arm, row in board.items()}
    assert {arm for arm, _ in cells} == {*rows}
    for arm, row in rows.items():
        dice = _cells.table_of(cells, arm)
        assert row["seeds"] == len(dice) and row["by seed"] == pytest.approx(dice.mean(1), abs=1e-4)
        assert row["dice"]["low"] <= row["dice"]["mean"] <= row["dice"]["high"]
        assert row["dice"]["mean"] == pytest.approx(dice.mean(), abs=1e-4)


def test_the_fresh_patients_are_a_hundred_and_were_scored_by_every_arm():
    names = {_pool.name_of(number) for number in _pool.TEST}
    for study in ("controls", "labels", "rate", "organs"):
        assert all({*scores} == names and len(names) == 100 for scores in _cells.read_cells(study).values())


def test_the_choices_name_every_arm_that_was_scored():
    record = BOARD["controls"]
    assert {*record["arms"]} == {*record["choices"]} and {*record["detectable"]} <= {*record["arms"]}


def test_the_results_were_made_by_the_recipe_in_use_on_the_synthetic_cohort():
    assert LADDER["recipe"] == RECIPE
    assert LADDER["cohort"] == "synthetic"


def test_each_mean_lies_in_its_interval_and_is_that_of_its_values():
    for name, row in LADDER["methods"].items():
        for side in ("64", "512"):
            dice = row[side]["dice"]
            assert dice["low"] <= dice["mean"] <= dice["high"], name
            assert dice["mean"] == pytest.approx(sum(dice["values"]) / len(dice["values"]), abs=1e-3)
            assert len(dice["values"]) == len(LADDER["test"]) == LADDER["patients"]["test"]


def test_the_detached_decoder_beats_the_atlas_by_a_tenth():
    at = {name: row["64"]["dice"]["mean"] for name, row in LADDER["methods"].items()}
    assert at[DETACHED] >= at["mean-shape atlas"] + 0.10


PAGES = [*filter(Path.exists, studies.PAGES), *sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))]
# A number in bold and, in a comment that no page shows, where in the results it stands: **0.58**<!--a/b/c-->
MARKED = re.compile(r"\*\*[-+\u2212]?(\d+(?:\.(\d+))?)\*\*<!--([^>]*)-->")


def prose(path: Path) -> str:
    """The text of a page that a person wrote."""
    if path.suffix != ".ipynb":
        return path.read_text()
    return "\n".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown")


def at(path: str, board=BOARD) -> float:
    """The number at a path such as ``against/dice/none/U-Net/mean``."""
    for key in path.split("/"):
        board = board[int(key)] if isinstance(board, list) else board[key]
    return board


def wrong(text: str, board=BOARD) -> list[str]:
    """The marked numbers that the results do not hold at their place, with what is there."""
    found = []
    for number, decimals, path in MARKED.findall(text):
        try:
            value = at(path, board)
            if f"{abs(value):.{len(decimals)}f}" != number:
                found.append(f"{number} at {path}: {value}")
        except (KeyError, IndexError, TypeError, ValueError) as e:
            found.append(f"{number} at {path}: {e!r}")
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_marked_number_stands_in_the_results(path):
    assert not wrong(prose(path))


def test_a_number_that_drifts_is_found():
    board = {"a": {"b": [0.123, -0.5], "c": 12}}
    assert not wrong("**0.12**<!--a/b/0--> and **-0.50**<!--a/b/1--> of **12**<!--a/c-->", board)
    for text in ("**0.13**<!--a/b/0-->", "**0.1**<!--a/b/2-->", "**0.1**<!--a/d-->", "**0.1**<!--a-->"):
        assert len(wrong(text, board)) == 1, text


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_other_score_in_bold_is_in_the_table_of_methods(path):
    quoted = set(re.findall(r"\*\*[+]?(\d\.\d\d)\*\*", MARKED.sub("", prose(path))))
    means = {(m, s): row[s]["dice"]["mean"] for m, row in LADDER["methods"].items() for s in ("64", "512")}
    gaps = {abs(a - b) for (_, s), a in means.items() for (_, t), b in means.items() if s == t}
    assert quoted <= {f"{v:.2f}" for v in [*means.values(), *gaps]}


def test_a_difference_is_a_win_only_where_its_interval_says_so():
    intervals = {"ahead": (0.01, 0.05), "behind": (-0.05, -0.01), "level": (-0.01, 0.05)}
    assert [verdict({"low": low, "high": high}) for low, high in intervals.values()] == list(intervals)


def test_the_parts_of_the_gap_add_up():
    costs = {name: gap["mean"] for name, gap in BOARD["against"]["costs"].items()}
    parts = costs["the unsupervised objective"] + costs["the missing skips"]
    assert parts == pytest.approx(costs["all of it"], abs=2e-3)


def test_scores_are_summed_up_over_patients_and_not_over_seeds():
    values = np.array([[0.2, 0.4, 0.6], [0.4, 0.6, 0.8]])
    made = studies.summary(values)
    assert made["mean"] == pytest.approx(0.5) and made["low"] >= 0.3 and made["high"] <= 0.7
    assert list(made["seeds"]) == pytest.approx([0.4, 0.6]) and list(made["values"]) == pytest.approx([0.3, 0.5, 0.7])
    assert studies.paired(values, values)["low"] == 0


def test_a_summary_is_over_patients_and_keeps_the_seeds_apart():
    found = studies.summary(np.array([[0.2, 0.6, 0.7], [0.4, 0.8, 0.9]]))
    assert found["values"] == pytest.approx([0.3, 0.7, 0.8]) and found["seeds"] == pytest.approx([0.5, 0.7])
    assert (found["mean"], found["low"], found["high"]) == metrics.bootstrap(found["values"])


def test_a_pair_is_compared_patient_by_patient_by_the_seeds_that_both_have():
    ours = [np.array([0.3, 0.7]), np.array([0.5, 0.9]), np.array([0, 0])]
    found = studies.paired(ours, [np.array([0.2, 0.6]), np.array([0.4, 0.8])])
    assert found == pytest.approx({"mean": 0.1, "low": 0.1, "high": 0.1})


def test_a_loss_is_held_against_that_of_the_same_seed():
    plain = {"U-Net": [np.array([0.8, 0.6]), np.array([0.9, 0.9])], "cut": [np.array([0.6, 0.5])]}
    shifted = {"U-Net": [np.array([0.7, 0.4]), np.array([0.1, 0.1])], "cut": [np.array([0.6, 0.4])]}
    found = spared(shifted, plain, "cut")  # it loses 0 and 0.1 where the first U-Net loses 0.1 and 0.2
    assert found.pop("seeds") == pytest.approx([0.1]) and found == pytest.approx({"mean": 0.1, "low": 0.1, "high": 0.1})


@pytest.mark.parametrize("kind", ["minus U-Net", "spared"])
def test_a_difference_from_the_rival_is_the_mean_of_those_by_seed(kind):
    for gaps in BOARD["against"][kind].values():
        for name, gap in gaps.items():
            assert len(gap["seeds"]) == len(BOARD["against"]["arms"][name]["seeds"])
            assert gap["mean"] == pytest.approx(np.mean(gap["seeds"]), abs=2e-4)


def test_what_a_study_found_takes_the_place_of_the_old_and_leaves_the_others(tmp_path):
    assert studies.read("one", tmp_path) == {}
    studies.write("one", {"a": np.float32(0.123456)}, tmp_path)
    studies.write("two", {"b": [np.int64(3), float("inf")]}, tmp_path)
    studies.write("one", {"a": np.array([0.5])}, tmp_path)
    assert studies.read("one", tmp_path) == {"a": [0.5]} and studies.read("two", tmp_path) == {"b": [3, None]}
