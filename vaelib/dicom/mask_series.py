"""Read a mask that came as a folder of DICOM images, one a slice, and put them where their headers say they lie."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom import Dataset

from vaelib.dicom.folder import sort_files
from vaelib.dicom.geometry import slice_normal
from vaelib.dicom.grid import Grid, grid_of
from vaelib.dicom.headers import check_alike, read_attribute, read_numbers, read_slice
from vaelib.dicom.identity import uid_of
from vaelib.dicom.pixels import read_stored
from vaelib.dicom.seg import check_size, choose
from vaelib.engine.errors import InputError

PLACE = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
UIDS = "SOPInstanceUID", "ReferencedSOPInstanceUID"


def read_folder(path: Path, like: sitk.Image, segment: str | int, reorient: str | None) -> tuple[np.ndarray, Grid]:
    """Read the slices of a mask (S, H, W), and their grid.

    Where they lie, their headers say: by position, orientation and spacing, or else by the UIDs of the scan's slices,
    which they have themselves or refer to. Where they say nothing, `reorient` may ask for the order of InstanceNumber:
    the lowest of the mask goes onto the slice of the scan that has the lowest there.

    Parameters
    ----------
    path : Path
        A folder of slices, or of one such folder for each organ, of which those that are asked for are joined.
    like : sitk.Image
        The scan.
    segment : str or int
        Which folders of organs, by name; which values of a mask are meant is left to the caller.
    reorient : str or None
        As in `read_mask`.

    Returns
    -------
    array of bool, or of the values of a mask
        bool where folders of organs were chosen.
    Grid

    Raises
    ------
    InputError
        A file that is no slice of a mask; slices that differ in size or series, of which one is missing or there
        twice, or that do not say where they lie; no such organ.
    """
    organs = sorted(p for p in path.iterdir() if p.is_dir() and p.name[0] not in "._@$")
    if not organs or sort_files(path).read:
        return _read_slices(path, like, reorient)
    chosen = [organs[n - 1] for n in choose(path, segment, {n: p.name for n, p in enumerate(organs, 1)})]
    (first, grid), *others = (_read_slices(organ, like, reorient) for organ in chosen)
    for organ, (array, there) in zip(chosen[1:], others, strict=True):
        if array.shape != first.shape or not np.allclose(np.hstack(there), np.hstack(grid), rtol=0, atol=1e-3):
            raise InputError(f"{organ}: has other slices than {chosen[0].name}; export both anew, or ask for one")
        first = (first != 0) | (array != 0)
    return first != 0, grid


def _read_slices(folder: Path, like: sitk.Image, reorient: str | None) -> tuple[np.ndarray, Grid]:
    """Read one folder of slices, in the order of their places, or else of the slices of the scan that they are."""
    headers = _images(folder)
    places = np.array([np.hstack([read_numbers(ds, name, n) for name, n in PLACE.items()]) for ds in headers])
    placed = bool(np.isfinite(places).all() and np.ptp(places[:, :3], axis=0).any())  # not all in one place
    check_alike(headers, placed=placed)
    check_size(folder, (headers[0].Columns, headers[0].Rows, len(headers)), like)
    along = places[:, :3] @ slice_normal(places[0, 3:9]) if placed else _which(folder, headers, like, reorient)
    order = np.argsort(along, kind="stable")
    headers, gaps = [headers[k] for k in order], np.diff(along[order])
    if placed:
        return _values(headers), grid_of(headers)
    if (gaps != 1).any():
        fault = "two are the same slice of the scan" if (gaps < 1).any() else f"{int(gaps.sum() - len(gaps))} missing"
        raise InputError(f"{folder}: of its slices, {fault}, by the UIDs that they name; export the mask again")
    first = like.TransformIndexToPhysicalPoint((0, 0, int(along.min())))
    return _values(headers), Grid(first, like.GetSpacing(), like.GetDirection())


def _images(folder: Path) -> list[Dataset]:
    """Read the files of a folder in which there may be slices of a mask and nothing else."""
    paths, left_out = sort_files(folder)
    if left_out or not paths:
        found = f"{left_out[0]}: is" if left_out else f"{folder}: holds"
        raise InputError(f"{found} no slice of a mask; give a folder of its DICOM slices and nothing else")
    headers = [ds for path in paths if (ds := read_slice(path, True, of_ct=False)) is not None]
    for ds in headers:
        if [read_attribute(ds, name) for name in ("SamplesPerPixel", "NumberOfFrames")] not in ([1, None], [1, 1]):
            found = f"is {read_attribute(ds, 'Modality') or 'DICOM'}, and not one image of one number a pixel"
            raise InputError(f"{ds.filename}: {found}; take it out, or give a SEG by the name of its file")
    return headers


def _values(headers: list[Dataset]) -> np.ndarray:
    """Stack the numbers that are stored, where 0 is background; if none is 0, the header's rescale makes them so."""
    stored = np.stack([read_stored(ds) for ds in headers])
    if (stored == 0).any():
        return stored
    slope, shift = (np.array([read_numbers(ds, f"Rescale{of}", 1) for ds in headers]) for of in ("Slope", "Intercept"))
    return stored * np.nan_to_num(slope, nan=1)[..., None] + np.nan_to_num(shift)[..., None]


def _which(folder: Path, headers: list[Dataset], like: sitk.Image, reorient: str | None) -> np.ndarray:
    """Find which slice of the scan each slice of a mask is, (n,) int, by UID, or if asked for by InstanceNumber."""
    scans, count = getattr(like, "headers", []), like.GetSize()[2]
    known = {uid_of(ds, UIDS[0]): k for k, ds in enumerate(scans)}
    named = [{known.get(str(e.value)) for e in ds.iterall() if e.keyword in UIDS} - {None} for ds in headers]
    if all(len(places) == 1 for places in named):
        return np.array([k for places in named for k in places])
    numbers, theirs = ([read_numbers(ds, "InstanceNumber", 1).item() for ds in some] for some in (headers, scans))
    if reorient in (None, "header", "axes") or len(np.unique(numbers)) < len(numbers):
        found = "its slices do not say where they lie: no positions of their own, no UIDs of the scan's slices"
        remedy = "if they are numbered as those are, tell `vaelib prepare` so: --reorient index"
        raise InputError(f"{folder}: {found}; {remedy}")
    if len(numbers) != count:
        raise InputError(f"{folder}: {len(numbers)} slices for a scan of {count}; --reorient {reorient} needs as many")
    ranks = np.argsort(theirs) if len(np.unique(theirs)) == count else np.arange(count)
    return ranks[np.argsort(np.argsort(numbers))]
