"""Fixtures: small synthetic series, and the real files outside the repository where they are at hand."""

from pathlib import Path

import browser
import pytest
from filelock import FileLock
from small import OBLIQUE, make_series

from course.book import build

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


@pytest.fixture(scope="session")
def npm():
    """Folder of the packages that the site takes from npm: one worker fetches them, another waits for it."""
    build.NPM.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(build.NPM.with_suffix(".lock")):
            return build.packages()
    except SystemExit as why:
        pytest.skip(str(why))


@pytest.fixture(scope="module")
def chromium():
    """A Chromium without a window. Of a module each, since no asyncio can run in this thread while it is there."""
    if browser.find() is None:
        pytest.skip("no Chromium on this machine; `make browser` installs it on Debian")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        window = driver.chromium.launch(executable_path=browser.find(), args=browser.FLAGS)
        yield window
        window.close()
