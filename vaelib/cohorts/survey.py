"""Quality control of a cohort: what each scan and mask is, and what about it deserves a second look.

A flag is a reason to look, not a verdict. The limits are wide, for a survey that flags everybody is read by nobody.
"""

import csv
import io
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
import SimpleITK as sitk

from vaelib.cohorts.labels import Placement, mask_of
from vaelib.cohorts.layout import Case
from vaelib.cohorts.quality import PANCREAS_HU, MaskCheck, check_mask, fingerprint, twins
from vaelib.dicom import identity
from vaelib.dicom.geometry import axes_of
from vaelib.dicom.headers import series_headers
from vaelib.dicom.masks import files_of, is_pancreas
from vaelib.engine.errors import InputError
from vaelib.engine.files import write_file
from vaelib.engine.options import Reorient, Segment, checked
from vaelib.engine.workers import map_in_processes
from vaelib.levels import canonical, downscale, window
from vaelib.metrics import dice
from vaelib.volumes import read_ct

PIXEL_MM, SLICE_MM = (0.3, 1.5), (0.3, 6)  # a body of 150 to 770 mm across 512 pixels; slices of a diagnostic CT
AIR_HU = -900  # every scan has air around the patient or in the bowel
# Air is -1000, noise and streaks go some hundred lower, and paddings are -2000, -2048 or -3024. Metal has 3071, in the
# extended scale up to 30,710 or 31,743; what is more than 16 bits hold is unsigned padding, as 63536 - 1024 = 62512.
OF_CT = (-1500, 32767)
VOLUME_ML = (20, 200)  # 72 +- 26 ml in 1,886 adults (Saisho et al., Clin Anat 2007), 78 +- 22 ml over Pancreas-CT
AGREEMENT = 0.9  # Dice of two labels of one scan: the same tracing, stored twice
OUTLIER, CROWD = 3.5, 8  # modified z-score (Iglewicz and Hoaglin, 1993), and the fewest cases to ask it of
LEAST_LOG, LEAST_HU = 0.2, 15  # three quarters of Pancreas-CT's spread: a few cases may be alike by chance
THUMBNAIL = 7  # level: 128 x 128 pixels


class Row(NamedTuple):
    """One case: what was found, as far as it could be read, and the reasons to look at it again."""

    patient: str
    size: tuple[int, ...] = ()  # columns, rows, slices
    spacing: tuple[float, ...] = ()  # mm, in that order
    axes: str = ""  # as in `volumes.describe`
    hu: tuple[float, ...] = ()  # least, 1st and 99th percentile, greatest
    check: MaskCheck | None = None
    placement: Placement | None = None
    agreement: float | None = None  # Dice with the second label of the case
    image: np.ndarray | None = None  # uint8 (128, 128), canonical: the slice that shows most of the mask
    mask: np.ndarray | None = None  # bool, like `image`
    prints: np.ndarray = np.empty(0, np.uint64)  # `fingerprint` of the scan
    pancreas: bool = True  # whether the mask should be one, and its limits apply
    reasons: tuple[str, ...] = ()


@checked
def survey(
    cases: Iterable[Case], *, reorient: Reorient = None, segment: Segment = "Pancreas", workers: int | None = None
) -> list[Row]:
    """Read every case and say what is in it, and what is odd about it by itself or among the others.

    Flagged by themselves: what cannot be read, whatever the cause, and what was warned of while reading; spacing, HU
    without air or tissue, or that no CT has; no mask, a mask at the edge of the scan, that would lie better reversed,
    or that differs from the second label; of a pancreas, volume or median HU that none has, and a place that is not
    verified: other organs have other limits, and some are their own mirror image. So
    are headers that hold more of the patient than a research ID, private tags or overlays, and pixels that may have
    writing in them (see `identity`). Such a reason names attributes and never their values, for it is printed and kept.
    Among the others: axes, if fewer than one case in ten lies otherwise than the rest, the same scan twice (`twins`),
    and, in 8 cases or more, an outlier in volume (its logarithm, since volumes are skewed) or median HU. Spacing and
    number of slices are not compared: they are the protocol's, and vary wherever there is more than one scanner.

    Parameters
    ----------
    cases : iterable of Case
    reorient : str, optional
        What to believe of the labels; see `labels.mask_of`.
    segment : str
        Which segment of a mask is the pancreas, or several, "1+2"; a second label is taken as it is.
    workers : int, optional
        Processes over cases, each of which holds one scan at a time; by default one a core.

    Returns
    -------
    list of Row
        In the order of the cases. A case that cannot be read is a row too, and its error is the reason.
    """
    look = partial(_row, reorient=reorient, segment=segment)
    rows = list(map_in_processes(look, cases, workers=workers, desc="checking", unit="patient"))
    reasons = defaultdict(list)
    pairs = [(k, other) for pair in twins([row.prints for row in rows]) for k, other in (pair, pair[::-1])]
    same = ((k, f"same scan as {rows[other].patient}") for k, other in pairs)
    for k, reason in chain(same, _odd_axes(rows), _outliers(rows)):
        reasons[k].append(reason)
    return [row._replace(reasons=(*row.reasons, *reasons[k])) for k, row in enumerate(rows)]


def _row(case: Case, reorient: str | None, segment: Any) -> Row:
    """Look at one case; whatever goes wrong with it is a reason, for one case never ends the survey of the others."""
    found: dict[str, Any] = {}
    reasons: list[str] = []
    mask: Any = None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            reasons += _exposures(case)
            scan = read_ct(case.ct)
            hu = sitk.GetArrayViewFromImage(scan)
            low, high = np.percentile(hu[::2, ::4, ::4], (1, 99))  # of one voxel in 32
            ends = tuple(map(float, (hu.min(), low, high, hu.max())))
            found = {"size": scan.GetSize(), "spacing": scan.GetSpacing(), "axes": axes_of(scan), "hu": ends}
            found["prints"] = fingerprint(scan)
            if count := identity.slices_with_writing(hu):
                reasons.append(f"writing burned into {count} slice(s)?")
            if case.mask:
                found["pancreas"] = is_pancreas(segment, case.mask)
                mask, found["placement"] = mask_of(case, scan, reorient, segment)
                found["check"] = check_mask(scan, mask, found["pancreas"])
            found |= _pictures(scan, mask)
            if case.label:
                other, _ = mask_of(replace(case, mask=case.label, layout="tcia"), scan, reorient)
                found["agreement"] = dice(*(sitk.GetArrayViewFromImage(m) > 0 for m in (mask, other)))
        except Exception as error:
            foreign = [type(error).__name__, *str(error).splitlines()[:1]]
            why = str(error) if isinstance(error, InputError) else ": ".join(foreign)
            reasons.insert(0, f"cannot be read: {_shortly(why, case)}")
            with suppress(Exception):
                found = (_pictures(scan, None) if found else {}) | found
    row = Row(case.patient, **found)
    return row._replace(reasons=(*reasons, *_warned(said, case), *_oddities(row, case)))


def _warned(said: list[warnings.WarningMessage], case: Case) -> Iterator[str]:
    """Yield what was warned of the files of a case, but for a place that is not verified, which `_oddities` names.

    A warning of ours names the file; one that does not comes from elsewhere, or from `check_mask`, whose are named too.
    """
    for text in dict.fromkeys(" ".join(str(warning.message).split()) for warning in said):
        if _shortly(text, case) != text and "placed by rule" not in text:
            yield _shortly(text, case)


def _exposures(case: Case) -> Iterator[str]:
    """Find reasons in the headers of scan and mask: what may tell who the patient is."""
    headers = [] if case.ct.is_file() else series_headers(case.ct)  # a NIfTI says nothing of the patient
    for path in files_of(case.mask):
        with suppress(Exception):  # pydicom raises many kinds on damaged files, and `mask_of` will say so
            headers.append(pydicom.dcmread(path, stop_before_pixels=True))
    return identity.reasons(headers, case.patient) if headers else iter(())


def _shortly(said: str, case: Case) -> str:
    """Quote a message, the files of a case by what they are: their own names are long, and the patient is known."""
    said = " ".join(said.split()).replace(f"{case.ct}{os.sep}", "")
    for path, name in ((case.ct, "scan"), (case.mask, "mask"), (case.label, "second label")):
        said = said.replace(str(path), name) if path else said
    return said


def _pictures(scan: sitk.Image, mask: sitk.Image | None) -> dict[str, np.ndarray]:
    """Return the thumbnails of a row: the axial slice with the most mask, or the middle one, however a scan is cut."""
    across = next(k for k, letter in enumerate(axes_of(scan)) if letter in "SI")  # which of x, y, z
    shown = scan.GetSize()[across] // 2
    if mask is not None:
        others = tuple(2 - k for k in range(3) if k != across)  # arrays have z first
        shown = int(sitk.GetArrayViewFromImage(mask).sum(others, dtype=np.int64).argmax())
    cut = tuple(slice(shown, shown + 1) if k == across else slice(None) for k in range(3))
    # A slice is cut out before it is turned.
    hu = sitk.GetArrayFromImage(canonical(scan[cut], fill=-1024))[0]
    found = {"image": np.round(255 * downscale(window(hu), THUMBNAIL)).astype(np.uint8)}
    if mask is not None:
        found["mask"] = downscale(sitk.GetArrayFromImage(canonical(mask[cut], fill=0))[0], THUMBNAIL) >= 0.5
    return found


def _oddities(row: Row, case: Case) -> list[str]:
    """Find reasons that lie in a case itself."""
    said: dict[str, bool] = {}
    if row.size:
        (dx, dy, dz), low, high = row.spacing, row.hu[0], row.hu[-1]
        ends = f"{low:.0f} to {high:.0f}"
        said |= {
            f"pixels of {dx:.3g} x {dy:.3g} mm": not PIXEL_MM[0] <= min(dx, dy) <= max(dx, dy) <= PIXEL_MM[1],
            f"slices {dz:.3g} mm apart": not SLICE_MM[0] <= dz <= SLICE_MM[1],
            f"no air (the least value is {low:.0f}): not HU?": low > AIR_HU,
            f"no tissue (the greatest value is {high:.0f}): not HU?": high < 0,
            f"values of {ends}, which no CT has: padding read as HU?": not OF_CT[0] <= low <= high <= OF_CT[1],
        }
    said["no mask"] = case.mask is None
    if (check := row.check) and row.placement:
        volume, hu, known = check.volume_ml, check.median_hu, row.placement.verified or check.flip
        said |= {
            "mask at the edge of the scan": check.touches_border,
            f"mask of {volume:.3g} ml": row.pancreas and not VOLUME_ML[0] <= volume <= VOLUME_ML[1],
            f"median of {hu:.0f} HU under the mask": row.pancreas and not PANCREAS_HU[0] <= hu <= PANCREAS_HU[1],
            f"mask lies better reversed in {check.flip}": check.flip != "",
            "place of the mask not verified": not known and (row.pancreas or row.placement.rule != "header"),
        }
    if row.agreement is not None:
        said[f"second label: Dice {row.agreement:.2f}"] = row.agreement < AGREEMENT
    return [reason for reason, is_so in said.items() if is_so]


def _odd_axes(rows: list[Row]) -> Iterator[tuple[int, str]]:
    """Find cases that lie otherwise, if fewer than one in ten do: more of them are how another scanner stores rows."""
    known = {k: row.axes for k, row in enumerate(rows) if row.axes}
    for usual, count in Counter(known.values()).most_common(1):
        for k, axes in known.items():
            if axes != usual and 10 * count > 9 * len(known):
                yield k, f"axes {axes}, most have {usual}"


def _outliers(rows: list[Row]) -> Iterator[tuple[int, str]]:
    """Find cases far from the median, in units of the cohort's spread; what `_oddities` names is not named again."""
    checks = {k: row.check for k, row in enumerate(rows) if row.check and row.check.volume_ml > 0}
    if len(checks) < CROWD:
        return
    for field, unit, (low, high), turn, least in (
        ("volume_ml", "ml", VOLUME_ML, np.log, LEAST_LOG),
        ("median_hu", "HU", PANCREAS_HU, np.asarray, LEAST_HU),
    ):
        values = np.array([getattr(check, field) for check in checks.values()])
        off = np.abs(turn(values) - np.median(turn(values)))
        spread = max(np.median(off) / 0.6745, least)
        for k, value, far in zip(checks, values, off / spread > OUTLIER, strict=True):
            if far and (low <= value <= high or not rows[k].pancreas):
                yield k, f"{value:.0f} {unit}, far from the others' {np.median(values):.0f}"


COLUMNS = """patient columns rows slices dx_mm dy_mm dz_mm axes hu_min hu_p1 hu_p99 hu_max volume_ml median_hu
soft_fraction mask_slices touches_edge better_flipped rule off_mm verified second_dice reasons""".split()


def _cells(row: Row) -> list:
    """Return the values of `COLUMNS`, None where unknown."""
    check, placed = row.check or (None,) * 6, row.placement or (None,) * 3
    triples = (row.size or (None,) * 3, row.spacing or (None,) * 3, (row.axes or None,), row.hu or (None,) * 4)
    return [row.patient, *chain(*triples), *check, *placed, row.agreement, "; ".join(row.reasons)]


def write_csv(rows: Iterable[Row], path: str | Path) -> Path:
    """Write one line a case, the columns of `COLUMNS`, to `path`; it appears whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in _cells(row)])
    return write_file(path, text.getvalue())


TABLE: dict[str, Callable[[Row], str]] = {
    "": lambda row: "*" * bool(row.reasons),
    "patient": lambda row: row.patient,
    "voxels": lambda row: " x ".join(map(str, row.size)),
    "mm": lambda row: " x ".join(f"{s:.3g}" for s in row.spacing),
    "axes": lambda row: row.axes,
    "HU": lambda row: f"{row.hu[0]:.0f} to {row.hu[-1]:.0f}" if row.hu else "",
    "   ml": lambda row: f"{row.check.volume_ml:5.0f}" if row.check else "",
    "median": lambda row: f"{row.check.median_hu:6.0f}" if row.check else "",
    "soft": lambda row: f"{row.check.soft_fraction:.2f}" if row.check else "",
    "placed": lambda row: row.placement.rule if row.placement else "",
    "2nd label": lambda row: "" if row.agreement is None else f"{row.agreement:.2f}",
}


def table(rows: list[Row]) -> str:
    """Format the survey as text: a line for each case, flagged ones starred, and below, the reasons."""
    columns = [[head, *map(cell, rows)] for head, cell in TABLE.items()]
    padded = [[cell.ljust(max(map(len, c))) for cell in c] for c in columns if c[0] == "" or any(c[1:])]
    text = ["  ".join(line).rstrip() for line in zip(*padded, strict=True)]
    flagged = [row for row in rows if row.reasons]
    text += ["", f"{len(flagged)} of {len(rows)} to look at" + ":" * bool(flagged)]
    return "\n".join(text + [f"* {row.patient}: {'; '.join(row.reasons)}" for row in flagged])
