"""Download Pancreas-CT from Imaging Data Commons (IDC) with its client `idc-index`; a second run goes on.

The client copies with s5cmd, which ends well even where nothing arrived. So what counts is what lies in the
folder, compared with the index inside the client's package. A patient is fetched into the hidden folder
`.incoming`, checked, and only then renamed into place: what is in place is whole.
"""

import logging
import os
import re
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

import idc_index_data
import pandas as pd
import pydicom

from vaelib.cohorts.client import AGAIN, alone, end_s5cmd, idc, reach, scratch
from vaelib.engine.errors import InputError
from vaelib.engine.files import write_file
from vaelib.engine.workers import progress_bar

COLLECTION, RESULT = "pancreas_ct", "pancreas_ct_seg"
TEMPLATE = "%StudyInstanceUID/%Modality_%SeriesInstanceUID"  # in a patient's folder: the layout `find_cases` knows
STAGING = ".incoming"
MARGIN = 500_000_000  # bytes to leave free: twice the largest patient
COLUMNS = ["PatientID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "instanceCount", "series_size_MB",
           "license_short_name", "source_DOI", "aws_bucket", "crdc_series_uuid"]  # fmt: skip
ATTRIBUTION = """\
# Pancreas-CT

From the collection `pancreas_ct` of Imaging Data Commons, unchanged; the scans come from The Cancer Imaging Archive.
The licences ask for credit. Whoever publishes something made with these files cites:

- the CT, CC BY 3.0: Roth H, Farag A, Turkbey EB, Lu L, Liu J, Summers RM. Data From Pancreas-CT.
  The Cancer Imaging Archive, 2016. https://doi.org/10.7937/K9/TCIA.2016.tNB1kqBU
- the DICOM SEG (analysis result `pancreas_ct_seg`), CC BY 4.0: https://doi.org/10.5281/zenodo.12130275
- Roth HR, Lu L, Farag A, Shin HC, Liu J, Turkbey EB, Summers RM. DeepOrgan: Multi-level Deep Convolutional Networks
  for Automated Pancreas Segmentation. MICCAI 2015, LNCS 9349, 556-564.
- Clark K, Vendt B, Smith K, et al. The Cancer Imaging Archive (TCIA): Maintaining and Operating a Public Information
  Repository. Journal of Digital Imaging 26(6), 2013, 1045-1057.

Licences: https://creativecommons.org/licenses/by/3.0/ and https://creativecommons.org/licenses/by/4.0/
Trying to find out who the patients are is forbidden.
"""


def plan(patients=None):
    """What there is to download, from the index inside the package `idc_index_data`; no network is needed.

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
        raise InputError(f"{path}: cannot be read ({str(error).splitlines()[0]}); install idc-index anew") from None
    ct = (rows["Modality"] == "CT") & rows["analysis_result_id"].isna()
    seg = (rows["Modality"] == "SEG") & (rows["analysis_result_id"] == RESULT)
    for kind, name in ((ct, f"CT of {COLLECTION}"), (seg, f"SEG of {RESULT}")):
        if not kind.any():
            raise InputError(f"{path}: lists no {name}; update idc-index, and report it if that does not help")
    rows = rows.loc[ct | seg, COLUMNS].sort_values(["PatientID", "Modality"], ignore_index=True)
    return rows if patients is None else _choose(rows, patients)


def _choose(rows, patients):
    """The rows of the patients that the text `patients` numbers."""
    asked, numbers = set(), rows["PatientID"].str.extract(r"(\d+)$")[0].astype(int)
    for part in patients.split(","):
        span = re.fullmatch(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4})\s*)?", part)
        first, last = (int(span[1]), int(span[2] or span[1])) if span else (1, 0)
        if first > last:
            raise InputError(f"patients {patients!r}: cannot read {part!r}; give numbers, such as 1-4,7")
        asked |= {*range(first, last + 1)}
    if not asked & {*numbers}:
        raise InputError(f"patients {patients!r}: {COLLECTION} has none of them; its numbers go up to {max(numbers)}")
    if gone := sorted(asked - {*numbers}):
        names = ", ".join(map(str, gone[:9])) + " ..." * (len(gone) > 9)
        warnings.warn(f"patients {patients!r}: left out {names}: not in {COLLECTION} of IDC", stacklevel=3)
    return rows[numbers.isin(asked)].reset_index(drop=True)


def summary(plan):
    """What `plan` brings, as lines of text: patients and size, then each modality with its licence and DOI."""
    release, count = idc_index_data.__version__.split(".")[0], plan["PatientID"].nunique()
    size = _size(plan["series_size_MB"].sum() * 1e6)
    lines = [f"{COLLECTION} of Imaging Data Commons, release {release}: {count} patient(s), {size}"]
    for modality, rows in plan.groupby("Modality"):
        size = _size(rows["series_size_MB"].sum() * 1e6)
        licences, dois = (", ".join(sorted(set(rows[key]))) for key in ("license_short_name", "source_DOI"))
        what = f"{modality:4s}{len(rows):3d} series {rows['instanceCount'].sum():6d} instances {size:>8s}"
        lines.append(f"  {what}   {licences}   doi.org/{dois}")
    return "\n".join(lines)


def download(folder, patients=None, *, dry_run=False):
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
        reach(lacking[0])
    with alone(folder):
        write_file(folder / "ATTRIBUTION.md", ATTRIBUTION)
        if lacking:
            _transfer(folder, wanted, lacking)
    print(f"{folder}: {wanted['PatientID'].nunique()} patient(s) are here, whole")


def _transfer(folder, wanted, lacking):
    """Bring the series in `lacking`, patient by patient, and raise one InputError for all that stay incomplete."""
    staging, faults, groups = folder / STAGING, {}, {}
    for row in lacking:
        _recall(folder / _path(row), staging / _path(row))
        groups.setdefault(row.PatientID, []).append(row)
    total = sum(map(_bytes, wanted.itertuples()))
    options = {"total": total, "initial": total - _missing(folder, lacking), "unit": "B", "unit_scale": True}
    with progress_bar(desc="reading the index", **options) as bar, scratch():
        client = idc().IDCClient()  # takes some seconds and, for a moment, 2 GB
        client.index = client.index[client.index["collection_id"] == COLLECTION]  # of a million rows: 5 s a patient
        for patient, rows in groups.items():
            bar.set_description(patient)
            why = _fetch(client, folder, rows, bar)
            if wrong := [fault for row in rows if (fault := _fault(staging / _path(row), row))]:
                faults[patient] = "; ".join(wrong) + why
                reach(rows[0])
                _check_space(folder, rows, MARGIN // 2)
                continue
            for row in reversed(rows):  # SEG first, since a CT without one is a patient without a mask
                place, staged = folder / _path(row), staging / _path(row)
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(staged, place)
                with suppress(OSError):  # the next series is still in there
                    os.removedirs(staged.parent)
    if faults:
        named = "; ".join(f"{patient}: {fault}" for patient, fault in faults.items())
        kept = wanted["PatientID"].nunique() - len(faults)
        again = f"run the same command again: {kept} whole patient(s) are kept; if it stays so, update idc-index"
        raise InputError(f"{folder}: incomplete: {named}; {again}")


def _fetch(client, folder, rows, bar):
    """Let the client bring a patient in a thread, while the bar follows the bytes; return why s5cmd failed, if it did.

    What is raised meanwhile, such as Ctrl-C, ends s5cmd too.
    """
    left, said, heard = _missing(folder, rows), [], logging.Handler()
    heard.emit = lambda record: said.extend(re.findall(r'(?m)^ERROR .*": (.*)$', record.getMessage()))
    logging.getLogger("idc_index").addHandler(heard)
    options = {"dirTemplate": TEMPLATE, "quiet": True, "show_progress_bar": False, "use_s5cmd_sync": True}
    options["seriesInstanceUID"] = [row.SeriesInstanceUID for row in rows]
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(client.download_from_selection, str(folder / STAGING / rows[0].PatientID), **options)
        try:
            working = True
            while working:
                working = not wait([job], timeout=0.2).done
                bar.update(left - (left := _missing(folder, rows)))
        finally:
            logging.getLogger("idc_index").removeHandler(heard)
            while not job.done():  # only where something was raised above
                end_s5cmd()
                wait([job], timeout=0.1)
    if job.exception() and not isinstance(job.exception(), idc().IDCClientInsufficientDiskSpaceError):
        raise job.exception()  # a full disk is told by `_check_space`, with what to do about it
    return f" ({said[0]})" if said else ""


def _path(row):
    return Path(row.PatientID, row.StudyInstanceUID, f"{row.Modality}_{row.SeriesInstanceUID}")


def _bytes(row):
    return round(row.series_size_MB * 1e6)


def _size(count):
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _held(series):
    """Number of files and bytes of a series in the folder `series`; s5cmd adds digits to the name of a part."""
    sizes = []
    with suppress(FileNotFoundError):  # no such folder
        for name in os.listdir(series):
            if ".dcm" in name:
                with suppress(FileNotFoundError):  # a part that has just got its name
                    sizes.append((series / name).stat().st_size)
    return len(sizes), sum(sizes)


def _missing(folder, rows):
    """Bytes of these series that are still to come."""
    here = (_held(folder / _path(row))[1] + _held(folder / STAGING / _path(row))[1] for row in rows)
    return sum(max(0, _bytes(row) - held) for row, held in zip(rows, here, strict=True))


def _check_space(folder, rows, margin):
    """Raise InputError unless what is missing of these series fits on the disk."""
    need = _missing(folder, rows)
    free = shutil.disk_usage(next(p for p in (folder, *folder.absolute().parents) if p.exists())).free
    if need and free < need + margin:
        needed = f"{_size(need)} are still to come, and {_size(margin)} should stay free"
        raise InputError(f"{folder}: too little room: {needed}, but only {_size(free)} are; make room, {AGAIN}")


def _recall(place, staged):
    """Move what lies half in place back to where it is completed, and drop the parts of files left by s5cmd."""
    if place.is_dir():
        staged.mkdir(parents=True, exist_ok=True)
        for path in list(place.iterdir()):
            os.replace(path, staged / path.name)
        os.removedirs(place)
    for part in list(staged.glob("*.dcm?*")):
        part.unlink(missing_ok=True)


def _fault(series, row):
    """What is wrong with a series that was fetched, or None; damaged files are removed, to be fetched again."""
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
    if notes or count != row.instanceCount:
        return ", ".join([f"{row.Modality}_{row.SeriesInstanceUID}: {count} of {row.instanceCount} files", *notes])
