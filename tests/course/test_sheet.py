"""The sheet of formulas: two pages, as the data have them, and nothing runs out of its column."""

import re

import pytest

from course import sheet
from vaelib.engine.errors import InputError


def test_the_committed_sheet_says_what_the_data_say():
    data = sheet.FILE.read_bytes()
    assert sheet.digest(sheet.blocks()).encode() in data, "run `python -m course`"
    assert len(re.findall(rb"/Type /Page\b", data)) == 2 and len(data) < 200_000


def test_it_can_be_drawn_and_the_same_data_give_the_same_bytes():
    first = sheet.draw()
    assert first.startswith(b"%PDF") and first == sheet.draw()


def test_each_block_has_a_column_and_each_row_three_parts():
    found = sheet.blocks()
    assert {tuple(b.at) for b in found} == {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert all(len(row) == 3 and row[0] and row[2] for b in found for row in b.rows)
    assert "{" not in "".join(row[2] for b in found for row in b.rows)


@pytest.mark.parametrize(
    "word", "window average occupancy lower-bound KL beta cross-entropy Dice HD95 Surface LPS".split()
)
def test_it_has_what_the_series_uses(word):
    assert word.replace("-", " ").lower() in repr(sheet.blocks()).replace("-", " ").lower()


@pytest.mark.parametrize(
    "rows", [[["a " * 60, "", "b"]], [["a", "$" + "x + " * 40 + "x$", "b"]], [["a", "", "b"]] * 60]
)
def test_what_does_not_fit_is_an_error(rows):
    with pytest.raises(InputError, match="there is room for"):
        sheet.page(1, [sheet.Block([1, 1], "A title", "01", rows)])
