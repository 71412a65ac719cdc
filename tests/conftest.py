"""Fixtures: small synthetic series, and the real files outside the repository where they are at hand."""

from pathlib import Path

import browser
import pydicom
import pytest
from filelock import FileLock
from small import OBLIQUE, make_series

from course.book import build

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared"
COUNTS = {"ran": 0, "skipped": 0}  # checks on real inputs


def pytest_configure(config):
    config.addinivalue_line("markers", "real_inputs: needs real inputs, which lie outside the repository")


def pytest_collection_modifyitems(items):
    for item in items:
        if any(name.startswith("real_") for name in getattr(item, "fixturenames", ())):
            item.add_marker("real_inputs")


def pytest_runtest_logreport(report):
    if "real_inputs" in report.keywords and (report.when == "call" or report.outcome != "passed"):
        COUNTS["skipped" if report.skipped and "not at hand" in str(report.longrepr) else "ran"] += 1


def pytest_unconfigure(config):
    """Say at the very end how many checks met real inputs. With several workers, their reports come here."""
    if not hasattr(config, "workerinput") and sum(COUNTS.values()):
        ran, skipped = COUNTS["ran"], COUNTS["skipped"]
        print(f"real inputs: {ran} check{'s' * (ran != 1)} ran, {skipped} skipped for want of ../shared", flush=True)


def real(name, what):
    """A file or folder of `SHARED`; the test is skipped where it is not there."""
    if not (SHARED / name).exists():
        pytest.skip(f"{what} ../shared/{name} not at hand")
    return SHARED / name


@pytest.fixture(scope="session")
def real_series():
    """Folder of a real CT series, JPEG 2000 lossless."""
    return real("real-ct/series", "the real series")


@pytest.fixture(scope="session")
def real_slices():
    """Folder with images/ and masks/ of real slices of Pancreas-CT."""
    return real("real-slices", "the real slices")


@pytest.fixture(scope="session")
def real_patient():
    """Folder with slices.npz: slices and label of a patient of Pancreas-CT whose header is published."""
    return real("real-ct/patient-0006", "the real patient")


@pytest.fixture(scope="session")
def real_labels():
    """Files of whole labels of Pancreas-CT, .npz."""
    return sorted(real("real-labels", "the real labels").glob("*.npz"))


@pytest.fixture(scope="session")
def real_seg():
    """Folder with ct/, three real slices, and liver.dcm, a SEG on them by another program."""
    return real("real-seg", "the real SEG")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The 12 slices of such a series as pydicom has them, ascending along the normal: z falls from first to last."""
    folder = make_series(tmp_path_factory.mktemp("stored") / "ct")
    return [pydicom.dcmread(path) for path in sorted(folder.iterdir())]


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
