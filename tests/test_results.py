"""Numbers in prose come from `results.json`, which `make results` writes; here they are held together."""

import json
import re
from pathlib import Path

import nbformat
import pytest

from vaelib.ladder import RESULTS, table
from vaelib.pipeline import DETACHED, RECIPE

ROOT = Path(__file__).resolve().parents[1]
BOARD = json.loads(RESULTS.read_text())


def test_the_table_of_the_readme_is_that_of_the_results():
    block = (ROOT / "README.md").read_text().split("<!-- results -->\n")[1].split("\n<!-- end of results -->")[0]
    assert block == table(BOARD)


def test_the_results_were_made_by_the_recipe_in_use_on_the_synthetic_cohort():
    assert BOARD["recipe"] == RECIPE
    assert BOARD["cohort"] == "synthetic"


def test_each_mean_lies_in_its_interval_and_is_that_of_its_values():
    for name, row in BOARD["methods"].items():
        for side in ("64", "512"):
            dice = row[side]["dice"]
            assert dice["low"] <= dice["mean"] <= dice["high"], name
            assert dice["mean"] == pytest.approx(sum(dice["values"]) / len(dice["values"]), abs=1e-3)
            assert len(dice["values"]) == len(BOARD["test"]) == BOARD["patients"]["test"]


def test_the_detached_decoder_beats_the_atlas_by_a_tenth():
    at = {name: row["64"]["dice"]["mean"] for name, row in BOARD["methods"].items()}
    assert at[DETACHED] >= at["mean-shape atlas"] + 0.10


def quoted(text: str) -> set[str]:
    """The scores that prose quotes: two decimals in bold, as in **0.52**."""
    return set(re.findall(r"\*\*[+]?(\d\.\d\d)\*\*", text))


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))], ids=lambda p: p.name
)
def test_every_score_quoted_in_bold_is_in_the_results(path):
    if path.suffix == ".ipynb":
        cells = nbformat.read(path, 4).cells
        text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    else:
        text = path.read_text()
    means = {(m, s): row[s]["dice"]["mean"] for m, row in BOARD["methods"].items() for s in ("64", "512")}
    gaps = {abs(a - b) for (_, s), a in means.items() for (_, t), b in means.items() if s == t}
    known = {f"{v:.2f}" for v in [*means.values(), *gaps]}
    assert quoted(text) <= known
