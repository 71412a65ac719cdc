"""Download Pancreas-CT from Imaging Data Commons (IDC); a second run goes on where the first one stopped.

What to fetch stands in the index that IDC publishes as the package `idc-index-data`. The program that copies ends well
even where nothing arrived, so what counts is what lies in the folder, compared with the index. A patient is fetched
into the hidden folder `.incoming`, checked, and only then renamed into place: what is in place is whole.
"""

import os
import re
import shutil
import warnings
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import pydicom

from vaelib.cohorts.transfer import AGAIN, alone, fetch, reach
from vaelib.engine.errors import InputError
from vaelib.engine.files import write_file
from vaelib.engine.workers import progress_bar

try:
    import idc_index_data
    import pandas as pd
except ImportError as error:
    needed = f"{error.name} is not installed; install what a download needs"
    raise InputError(f"{needed}: pip install 'vaelib[download]'") from None

COLLECTION, RESULT = "pancreas_ct", "pancreas_ct_seg"
STAGING = ".incoming"
MARGIN = 500_000_000  # bytes to leave free: twice the largest patient
COLUMNS = """PatientID StudyInstanceUID SeriesInstanceUID Modality instanceCount series_size_MB license_short_name
source_DOI aws_bucket crdc_series_uuid""".split()
ATTRIBUTION = Path(__file__).with_name("ATTRIBUTION.md")


def plan(patients: str | None = None) -> pd.DataFrame:
    """List what there is to download, from the index in the package `idc_index_data`; no network is needed.

    Parameters
    ----------
    patients : str, optional
        Numbers of patients, such as "1-4,7"; by default all. Numbers that IDC lacks are named in a warning.

    Returns
    -------
    pandas.DataFrame
        One row a series, sorted by patient, CT before SEG. `series_size_MB` is in 10^6 bytes, exact to the byte.

    Raises
    ------
    InputError
        `patients` cannot be read or names nobody; or the index lacks the collection or its SEG.
    """
    path, what = idc_index_data.IDC_INDEX_PARQUET_FILEPATH, [("collection_id", "==", COLLECTION)]
    try:
        rows = pd.read_parquet(path, columns=[*COLUMNS, "analysis_result_id"], filters=what)
    except (OSError, ValueError) as error:  # a column that is gone is a ValueError
        why = str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be read ({why}); install idc-index-data anew") from None
    ct = (rows["Modality"] == "CT") & rows["analysis_result_id"].isna()
    seg = (rows["Modality"] == "SEG") & (rows["analysis_result_id"] == RESULT)
    for kind, name in ((ct, f"CT of {COLLECTION}"), (seg, f"SEG of {RESULT}")):
        if not kind.any():
            raise InputError(f"{path}: lists no {name}; update idc-index-data, and report it if that does not help")
    rows = rows.loc[ct | seg, COLUMNS].sort_values(["PatientID", "Modality"], ignore_index=True)
    return rows if patients is None else _choose(rows, patients)


def _choose(rows: pd.DataFrame, patients: str) -> pd.DataFrame:
    """Keep the rows of the patients that the text `patients` numbers."""
    asked, there = set(), rows["PatientID"].str.extract(r"(\d+)$")[0].astype(int)
    for part in patients.split(","):
        span = re.fullmatch(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4})\s*)?", part)
        numbers = range(int(span[1]), int(span[2] or span[1]) + 1) if span else ()
        if not numbers:
            raise InputError(f"patients {patients!r}: cannot read {part!r}; give numbers, such as 1-4,7")
        asked.update(numbers)
    if not asked & {*there}:
        raise InputError(f"patients {patients!r}: {COLLECTION} has none of them; its numbers go up to {max(there)}")
    if gone := sorted(asked - {*there}):
        names = ", ".join(map(str, gone[:9])) + " ..." * (len(gone) > 9)
        warnings.warn(f"patients {patients!r}: left out {names}: not in {COLLECTION} of IDC", stacklevel=3)
    return rows[there.isin(asked)].reset_index(drop=True)


def summary(plan: pd.DataFrame) -> str:
    """Say in a few lines what `plan` brings: patients and size, then each modality with its licence and DOI."""
    release, count = idc_index_data.__version__.split(".")[0], plan["PatientID"].nunique()
    size = _size(plan["series_size_MB"].sum() * 1e6)
    lines = [f"{COLLECTION} of Imaging Data Commons, release {release}: {count} patient(s), {size}"]
    for modality, rows in plan.groupby("Modality"):
        size = _size(rows["series_size_MB"].sum() * 1e6)
        licences, dois = (", ".join(sorted(set(rows[key]))) for key in ("license_short_name", "source_DOI"))
        what = f"{modality:4s}{len(rows):3d} series {rows['instanceCount'].sum():6d} instances {size:>8s}"
        lines.append(f"  {what}   {licences}   doi.org/{dois}")
    return "\n".join(lines)


def download(folder: str | Path, patients: str | None = None, *, dry_run: bool = False) -> None:
    """Download the collection into `folder`, as `find_cases` reads it; whole series that are there are kept.

    Parameters
    ----------
    folder : path
        Made if need be: `<folder>/<patient>/<study>/CT_<series>/` and `SEG_<series>/`, with `ATTRIBUTION.md`.
    patients : str, optional
        Numbers of patients, such as "1-4,7"; by default all 80.
    dry_run : bool
        Say what would be done, and whether the disk has room for it, and stop there.

    Raises
    ------
    InputError
        Too little room, IDC out of reach, or some series incomplete; each is named, and a second run goes on.

    References
    ----------
    Collection `pancreas_ct`, doi:10.7937/K9/TCIA.2016.tNB1kqBU; analysis result `pancreas_ct_seg`,
    doi:10.5281/zenodo.12130275.
    """
    folder, wanted = Path(folder).expanduser(), plan(patients)
    lacking = [r for r in wanted.itertuples() if _held(folder / _path(r)) != (r.instanceCount, _bytes(r))]
    print(f"{summary(wanted)}\n  {_size(_missing(folder, lacking))} are still to come to {folder}")
    _check_space(folder, lacking, MARGIN)
    if dry_run:
        return
    if lacking:
        reach(lacking[0].aws_bucket, lacking[0].crdc_series_uuid)
    with alone(folder):
        write_file(folder / "ATTRIBUTION.md", ATTRIBUTION.read_text(encoding="utf-8"))
        faults = _bring(folder, lacking, sum(map(_bytes, wanted.itertuples())))
    if faults:
        whole = wanted["PatientID"].nunique() - len(faults)
        again = f"run the same command again: {whole} whole patient(s) are kept; if it stays so, update idc-index-data"
        raise InputError(f"{folder}: incomplete: {'; '.join(faults)}; {again}")
    print(f"{folder}: {wanted['PatientID'].nunique()} patient(s) are here, whole")


def _bring(folder: Path, lacking: list, total: int) -> list[str]:
    """Fetch series patient by patient, `total` bytes with what is here, and return what is wrong with some."""
    faults, patients = [], defaultdict(list)
    for row in lacking:
        _recall(folder / _path(row), folder / STAGING / _path(row))
        patients[row.PatientID].append(row)
    here = total - _missing(folder, lacking)
    with progress_bar(total=total, initial=here, unit="B", unit_scale=True) as bar:
        for patient, rows in patients.items():
            bar.set_description(patient)
            _check_space(folder, rows, MARGIN // 2)
            if fault := _bring_patient(folder, rows, bar):
                faults.append(f"{patient}: {fault}")
                reach(rows[0].aws_bucket, rows[0].crdc_series_uuid)
                _check_space(folder, rows, MARGIN // 2)
    return faults


def _bring_patient(folder: Path, rows: list, bar: Any) -> str:
    """Fetch the series of one patient and put them in place, unless something is wrong; return what."""
    staged = {folder / STAGING / _path(row): row for row in rows}
    sources = {path: f"s3://{row.aws_bucket}/{row.crdc_series_uuid}/*" for path, row in staged.items()}
    end = bar.n + _missing(folder, rows)
    why = fetch(sources, lambda: bar.update(end - _missing(folder, rows) - bar.n))
    if wrong := [fault for path, row in staged.items() if (fault := _fault(path, row))]:
        return "; ".join(wrong) + f" ({why})" * bool(why)
    for path, row in reversed(staged.items()):  # SEG first, since a CT without one is a patient without a mask
        place = folder / _path(row)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, place)
        with suppress(OSError):  # the next series is still in there
            os.removedirs(path.parent)
    return ""


def _path(row: Any) -> Path:
    return Path(row.PatientID, row.StudyInstanceUID, f"{row.Modality}_{row.SeriesInstanceUID}")


def _bytes(row: Any) -> int:
    return round(row.series_size_MB * 1e6)


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _held(series: Path) -> tuple[int, int]:
    """Count the files and bytes of a series in the folder `series`; s5cmd adds digits to the name of a part."""
    sizes = []
    for path in series.glob("*.dcm*"):
        with suppress(FileNotFoundError):  # a part that has just got its name
            sizes.append(path.stat().st_size)
    return len(sizes), sum(sizes)


def _missing(folder: Path, rows: list) -> int:
    """Count the bytes of these series that are still to come."""
    here = (_held(folder / _path(row))[1] + _held(folder / STAGING / _path(row))[1] for row in rows)
    return sum(max(0, _bytes(row) - held) for row, held in zip(rows, here, strict=True))


def _check_space(folder: Path, rows: list, margin: int) -> None:
    """Raise InputError unless what is missing of these series fits on the disk."""
    need = _missing(folder, rows)
    free = shutil.disk_usage(next(p for p in (folder, *folder.absolute().parents) if p.exists())).free
    if need and free < need + margin:
        needed = f"{_size(need)} are still to come, and {_size(margin)} should stay free"
        raise InputError(f"{folder}: too little room: {needed}, but only {_size(free)} are; make room, {AGAIN}")


def _recall(place: Path, staged: Path) -> None:
    """Move what lies half in place back to where it is completed, and drop the parts of files left by s5cmd."""
    if place.is_dir():
        staged.mkdir(parents=True, exist_ok=True)
        for path in list(place.iterdir()):
            os.replace(path, staged / path.name)
        os.removedirs(place)
    for part in list(staged.glob("*.dcm?*")):
        part.unlink(missing_ok=True)


def _fault(series: Path, row: Any) -> str:
    """Say what is wrong with a series that was fetched, or ""; damaged files are removed, to be fetched again."""
    uids, notes = set(), []
    for path in sorted(series.glob("*.dcm")):
        try:
            with path.open("rb") as file:
                ds = pydicom.dcmread(file, stop_before_pixels=True)
                rest = path.stat().st_size - file.tell()
            if rest < ds.Rows * ds.Columns * ds.get("NumberOfFrames", 1) * ds.BitsAllocated // 8:
                raise EOFError
            uid, foreign = ds.SOPInstanceUID, ds.SeriesInstanceUID != row.SeriesInstanceUID
        except Exception:  # pydicom raises many kinds on damaged files
            path.unlink()
            notes.append(f"{path.name} was damaged")
            continue
        if foreign or uid in uids:
            notes.append(f"{path} is a copy or of another series, move it away")
        uids.add(uid)
    count, size = _held(series)
    if count == row.instanceCount and size != _bytes(row):
        notes.append(f"{size} of {_bytes(row)} bytes")
    if not notes and count == row.instanceCount:
        return ""
    return ", ".join([f"{row.Modality}_{row.SeriesInstanceUID}: {count} of {row.instanceCount} files", *notes])
