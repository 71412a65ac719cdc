"""Rows that are read as they are asked for are the rows that an array would have given."""

import numpy as np
import pytest

from vaelib.engine.rows import Rows, chunks, mean, of_files


@pytest.fixture
def parts(tmp_path):
    """Three memory-mapped files of 3, 1 and 5 slices."""
    arrays = []
    for k, n in enumerate((3, 1, 5)):
        np.save(tmp_path / f"{k}.npy", np.random.default_rng(k).random((n, 4, 6)).astype(np.float16))
        arrays.append(np.load(tmp_path / f"{k}.npy", mmap_mode="r"))
    return arrays


def test_rows_come_in_the_order_asked_for_from_whichever_file(parts):
    whole, rows = np.concatenate(parts).astype(np.float32)[:, None], of_files(parts)
    assert len(rows) == 9
    for wanted in ([8, 0, 3, 3], [-1], slice(2, 5), slice(None), np.arange(9) % 2 == 0):
        got = rows[wanted]
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, whole[wanted])


def test_a_function_is_applied_to_no_more_rows_than_are_asked_for(parts):
    seen = []
    doubled = of_files(parts).then(lambda x: seen.append(len(x)) or 2 * x)
    assert seen == []
    np.testing.assert_array_equal(doubled[[4]], 2 * of_files(parts)[[4]])
    assert seen == [1]


def test_the_mean_needs_no_more_than_a_chunk_at_once(parts):
    rows = of_files(parts)
    assert mean(rows) == pytest.approx(mean(rows[:]), abs=1e-7)
    assert [len(c) for c in chunks(rows, 4)] == [4, 4, 1]


def test_rows_have_the_shape_and_type_that_their_array_would_have(parts):
    rows = of_files(parts)
    assert rows.shape == (9, 1, 4, 6) and rows.dtype == np.float32
    small = rows.then(lambda x: x[..., 0] > 0.5)
    assert small.shape == (9, 1, 4) and small.dtype == bool
    assert Rows(0, lambda rows: np.zeros((len(rows), 2), np.int8)).shape == (0, 2)
