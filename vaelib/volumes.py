"""Read a CT series in HU, and a mask on the grid of its scan; distrust both until their geometry adds up.

Geometry is DICOM's and ITK's: mm in the patient's LPS frame (left, posterior, superior grow).
"""

from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import SupportsIndex

import numpy as np
import SimpleITK as sitk
from pydicom import Dataset

from vaelib.dicom.geometry import describe as describe
from vaelib.dicom.geometry import onto_scan
from vaelib.dicom.grid import grid_of
from vaelib.dicom.headers import check_alike, check_one_scan, series_headers
from vaelib.dicom.masks import is_nifti, read_label, read_nifti
from vaelib.dicom.pixels import take_hu


class Scan(sitk.Image):
    """A CT scan as a SimpleITK image that keeps the DICOM headers of its slices, so that no file is read twice.

    Whatever SimpleITK makes of it (a part, a resampled copy, a sum) is a plain image without headers. Copies
    (`copy`, `deepcopy`, `pickle`) are scans again.

    Parameters
    ----------
    image : sitk.Image
        Its pixels are shared until one of the two is written to.
    headers : iterable of pydicom.Dataset
        One a slice, in the order of the slices, without pixels; none, where the scan came as NIfTI.
    """

    def __init__(self, image: sitk.Image, headers: Iterable[Dataset]) -> None:
        super().__init__(image)
        self.headers = list(headers)

    def __copy__(self) -> "Scan":
        return Scan(self, self.headers)

    def __deepcopy__(self, memo: dict) -> "Scan":
        return Scan(super().__deepcopy__(memo), deepcopy(self.headers, memo))

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple:
        return Scan, (sitk.Image(self), self.headers)


def read_ct(folder: str | Path) -> Scan:
    """Read the one CT series in a folder, in HU, with slices ordered by position, never by name; or a NIfTI file.

    The distance between slices comes from their positions (SliceThickness is something else), and every
    slice has its own rescale applied. Oblique series are welcome.

    Parameters
    ----------
    folder : path
        Its DICOM files are one series; see `headers.series_headers` on what is passed over. Or a file, `.nii` or
        `.nii.gz`, whose numbers are HU.

    Returns
    -------
    Scan
        Size (W, H, S), HU, int16 where they are whole numbers and else float32. Slices ascend along the
        slice normal row x column: a series of Pancreas-CT runs from head to feet.

    Raises
    ------
    InputError
        Two series or acquisitions in the folder, mixed size, pixel spacing or orientation, a missing, doubled or
        sheared slice, uneven spacing, a truncated file, no rescale to HU; a NIfTI whose numbers can be no HU.
    """
    if is_nifti(path := Path(folder).expanduser()) and not path.is_dir():
        return Scan(read_nifti(path), [])
    headers = series_headers(folder, pixels=True)
    check_alike(headers)
    check_one_scan(headers)
    grid = grid_of(headers)
    return Scan(grid.image(np.stack([take_hu(ds) for ds in headers])), headers)


def read_mask(
    path: str | Path, like: sitk.Image, *, segment: str | int = "Pancreas", reorient: str | None = None
) -> sitk.Image:
    """Read a mask from DICOM SEG, NIfTI or a folder of DICOM images, and put it on the grid of the scan `like`.

    A label is placed where its header says, and the header has to fit: its voxels are the scan's own
    (all or some, in any order or direction), or another sampling of the scan's own box. Anything else
    is an error that says by how much, and `reorient` is for a caller who knows better than the header.
    What no header can show, a label flipped inside a right header, is for `quality.check_mask` and the eye.

    Parameters
    ----------
    path : path
        A DICOM SEG, a NIfTI (`.nii`, `.nii.gz`), or a folder of DICOM images, one a slice, or of one such folder for
        each organ; `mask_series.read_folder` says how these are placed.
    like : sitk.Image
        The scan, as `read_ct` gives it.
    segment : str or int
        Label (in any case) or number of the segment, or several joined, "1+2" or "head+tail"; in NIfTI, the number
        of the value, and any name stands for all that is not 0, where this is one value. The pancreas is found
        under its code and as "Entire pancreas" as well. A "Pancreatic tumour" beside it is left out, with a warning
        that says how to join the two.
    reorient : str, optional
        How to read a label whose header does not fit the scan:
        "header", believe it all the same, and that a SEG is of this scan;
        "axes", believe its directions but not its origin or spacing: the two arrays cover the same box;
        "index", believe nothing of it: voxel (i, j, k) is the scan's voxel (i, j, k);
        "flip-x", "flip-y", "flip-yz", ...: as "index", with those axes reversed first.

    Returns
    -------
    sitk.Image
        Of 0 and 1, uint8, on the grid of `like`.

    Raises
    ------
    InputError
        No such file, no such segment, a header that disagrees with the scan, a SEG of another scan, an empty mask.
    """
    path = Path(path).expanduser()
    return onto_scan(read_label(path, like, segment, reorient), like, path, reorient)
