"""Coarse to fine: where the fine stage looks, and what is said against a mask."""

import numpy as np
import pytest

from vaelib.cohorts.windows import COARSE, FINE, MARGIN, Outlined, doubts, find, of_one, on_window, outline, whole

SHAPE, SPACING = (60, 512, 512), (2.0, 0.8, 0.8)


@pytest.fixture(scope="module")
def scan():
    """A body of grey with a bright organ in it, and a smaller bright thing far below."""
    scan = np.zeros(SHAPE, np.float32)
    scan[:, 100:420, 60:460] = 0.4
    scan[30:45, 200:250, 180:300] = 0.9
    scan[2:5, 300:320, 300:320] = 0.9
    return scan


def bright(slices):
    """A stage that takes what is bright for the organ."""
    return np.where(slices.images > 0.6, 0.9, 0.02).astype(np.float32)


def test_the_coarse_window_covers_the_whole_scan_around_the_body(scan):
    window = whole(scan, SPACING)
    (low, dz, n), (top, dy, side), _ = window.axes
    assert n == 24 == SHAPE[0] * SPACING[0] / dz and low == pytest.approx(1.5)
    assert (dz, dy, side) == (5, 6, 64) == (*COARSE["spacing"][:2], COARSE["side"])
    assert top + 31.5 * dy == pytest.approx(0.8 * 260, abs=4)  # the middle of the body


def test_the_fine_window_lies_around_the_largest_piece(scan):
    window, lost = find(bright, scan, SPACING, 0.5)
    (low, dz, n), (top, dy, side), (left, dx, _) = window.axes
    assert not lost and (dz, dy, dx, side) == (*FINE["spacing"], FINE["side"])
    assert top + 63.5 * dy == pytest.approx(0.8 * 224.5, abs=4) and left + 63.5 * dx == pytest.approx(
        0.8 * 239.5, abs=4
    )
    assert low == pytest.approx(60 - MARGIN, abs=4) and low + (n - 1) * dz == pytest.approx(90 + MARGIN, abs=4)


def test_it_goes_no_further_than_the_scan(scan):
    window, _ = find(bright, scan[25:48], SPACING, 0.5)
    first, step, count = window.axes[0]
    assert first >= -1 and first + (count - 1) * step <= 47


def test_where_nothing_is_found_it_looks_at_the_likeliest_place_and_says_so(scan):
    window, lost = find(lambda s: bright(s) * 0.1, scan, SPACING, 0.5)
    assert lost and window == find(bright, scan, SPACING, 0.5)[0]
    assert find(lambda s: 0 * s.images, scan, SPACING, 0.5)[1]


def test_both_stages_outline_the_organ_and_nothing_else(scan):
    found = outline(bright, bright, 0.5, scan, SPACING)
    mask = found.probability >= 0.5
    assert found.probability.shape == SHAPE and not found.lost
    assert on_window(scan, SPACING, whole(scan, SPACING)).images.shape == (24, 1, 64, 64)
    assert mask[32:43, 204:246, 184:296].all() and not mask[:20].any()


def test_slices_of_one_scan_are_one_patient():
    slices = of_one(np.zeros((5, 1, 4, 4), np.float32))
    assert len(slices.rows) == 1 and slices.position.tolist() == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize(
    ("fill", "lost", "said"),
    [
        ([(slice(3, 5), 4, 4)], False, []),
        ([], False, ["mask is empty"]),
        ([(slice(3, 5), 4, 4)], True, ["coarse stage found no organ"]),
        ([(slice(5, 8), 4, 4)], False, ["reaches the end of the scan"]),
        ([(0, 4, 4)], False, ["reaches the end of the scan"]),
        ([(slice(2, 5), 4, 4), (slice(2, 5), 7, 7)], False, ["2 pieces, of which the largest has 50%"]),
    ],
)
def test_what_speaks_against_a_mask_is_said(fill, lost, said):
    mask = np.zeros((8, 9, 9), np.uint8)
    for place in fill:
        mask[place] = 1
    doubted = doubts(mask, Outlined(mask.astype(float), lost=lost), 0.3)
    assert len(doubted) == len(said) and all(part in text for part, text in zip(said, doubted, strict=True))
