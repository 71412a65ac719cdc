"""Fixtures: small synthetic series, and the real files outside the repository where they are at hand."""

from pathlib import Path

import pytest
from small import OBLIQUE, make_series

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared"


@pytest.fixture(scope="session")
def real_series():
    """Folder of a real CT series, JPEG 2000 lossless."""
    folder = SHARED / "real-ct" / "series"
    if not folder.is_dir():
        pytest.skip("the real series ../shared/real-ct/series is not at hand")
    return folder


@pytest.fixture(scope="session")
def real_slices():
    """Folder with images/ and masks/ of real slices of Pancreas-CT."""
    folder = SHARED / "real-slices"
    if not folder.is_dir():
        pytest.skip("the real slices ../shared/real-slices are not at hand")
    return folder


@pytest.fixture
def series(tmp_path):
    """A series stored as Pancreas-CT is, with a SEG beside its folder."""
    return make_series(tmp_path / "ct")


@pytest.fixture(params=[(1, 0, 0, 0, -1, 0), (1, 0, 0, 0, 1, 0), OBLIQUE], ids=["flipped", "plain", "oblique"])
def any_series(request, tmp_path):
    """The same, stored in each of three orientations."""
    return make_series(tmp_path / "ct", direction=request.param, origin=(-31.5, 12.25, 400))
