"""Grids in mm: volume is conserved on the way down, places on the way back, whatever the voxels."""

import numpy as np
import pytest

from vaelib.dicom.millimetres import averaged, body_centre, put_back, window_of

SPACING = (2.0, 0.9, 0.7)
rng = np.random.default_rng(0)


def ball(shape, spacing, centre, radius):
    z, y, x = (np.arange(n) * mm - c for n, mm, c in zip(shape, spacing, centre, strict=True))
    return z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 < radius**2


def test_an_average_over_a_window_is_the_mean_of_what_lies_in_it():
    scan = rng.random((6, 8, 8), np.float32)
    window = window_of(-0.5, 5.5, (3.5, 3.5), (2.0, 2.0, 2.0), 4)  # voxels of 1 mm, two by two by two
    wanted = scan.reshape(3, 2, 4, 2, 4, 2).mean((1, 3, 5))
    np.testing.assert_allclose(averaged(scan, (1, 1, 1), window), wanted, atol=1e-6)


def test_what_lies_beside_the_scan_is_black_and_the_outermost_slices_go_on():
    scan = np.ones((2, 4, 4), np.float32)
    window = window_of(-2.5, 3.5, (1.5, 1.5), (1, 1, 1), 8)
    down = averaged(scan, (1, 1, 1), window)
    assert down[2:4, 2:6, 2:6].min() == 1 and down[:, :2].max() == down[:, :, 6:].max() == 0
    assert down[:2].max() == 0 == down[4:].max()  # no slice there to go on
    half = averaged(scan, (1, 1, 1), window_of(-1.0, 2.0, (1.5, 1.5), (1, 1, 1), 4))
    assert half.min() == pytest.approx(1)


@pytest.mark.parametrize("grid", [(5.0, 6.0, 6.0), (2.5, 1.5, 1.5), (1.1, 0.6, 0.6)])
def test_occupancy_keeps_its_volume(grid):
    mask = ball((40, 90, 90), SPACING, (38, 41, 30), 17)
    window = window_of(-1, 79, (41, 30), grid, 128 if grid[1] < 2 else 32)
    down = averaged(mask, SPACING, window)
    # the slices of the window need not end where those of the scan do
    assert down.sum() * np.prod(window.spacing) == pytest.approx(mask.sum() * np.prod(SPACING), rel=0.02)
    assert 0 <= down.min() and down.max() <= 1 + 1e-6


def test_there_and_back_a_mask_stays_where_it_was():
    shape = (40, 90, 90)
    mask = ball(shape, SPACING, (38, 41, 30), 17)
    window = window_of(10, 70, (43, 28), (2.5, 1.5, 1.5), 64)
    back = put_back(averaged(mask, SPACING, window), window, shape, SPACING) >= 0.5
    assert 2 * (back & mask).sum() / (back.sum() + mask.sum()) > 0.95
    at = [np.array(np.nonzero(m)).mean(1) * SPACING for m in (mask, back)]
    np.testing.assert_allclose(*at, atol=0.15)  # mm


def test_put_back_gives_a_linear_map_its_own_values():
    window = window_of(1, 13, (10, 12), (3, 2, 2.5), 8)
    z, y, x = (first + mm * np.arange(n) for first, mm, n in window.axes)
    values = z[:, None, None] + 2 * y[:, None] - x
    back = put_back(values.astype(np.float32), window, (16, 20, 24), (1, 1, 1))
    inside = np.ix_(range(3, 11), range(4, 16), range(5, 20))
    k, i, j = np.indices(back.shape)
    np.testing.assert_allclose(back[inside], (k + 2 * i - j)[inside], atol=1e-4)
    assert back[15].max() == 0 == back[:, 19].max()


def test_a_body_is_found_wherever_the_field_of_view_puts_it():
    body = np.zeros((20, 64, 64), np.float32)
    body[:, 20:44, 8:48] = 0.5
    y, x = body_centre(body, (3, 2, 2))
    assert abs(y - 63) < 6 and abs(x - 55) < 6
    moved = body_centre(np.roll(body, (8, 12), (1, 2)), (3, 2, 2))
    assert moved == pytest.approx((y + 16, x + 24), abs=1)
    assert body_centre(np.zeros((4, 64, 64)), (3, 2, 2)) == (64, 64)  # nothing but air: the middle
