"""Write CT and segmentations as DICOM, and a mask as NIfTI or DICOM SEG, for other programs to open.

CT follows the CT Image IOD (DICOM PS3.3 A.3), masks the Segmentation IOD (PS3.3 A.51) by way of
highdicom. Positions are in mm in the patient's LPS frame: x to the left, y to the back, z to the head.
"""

import os
import tempfile
import tomllib
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ImplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid
from pydicom.valuerep import DSfloat

from vaelib import __version__
from vaelib.dicom.geometry import image_like, slice_normal
from vaelib.dicom.grid import Grid, grid_of
from vaelib.dicom.identity import deidentified, uid_of
from vaelib.dicom.masks import check_nifti, twin_of
from vaelib.engine.errors import InputError
from vaelib.engine.files import atomic_write, native
from vaelib.volumes import Scan, read_ct, read_mask

AXIAL = (1, 0, 0, 0, -1, 0)  # as every scan of Pancreas-CT: row 0 is the most posterior
CT = tomllib.loads(Path(__file__).with_name("ct.toml").read_text("utf-8"))
DATE, TIME = CT["StudyDate"], CT["StudyTime"]  # fixed: the same bytes whenever a file is made
CLASSES = CTImageStorage, SecondaryCaptureImageStorage  # of slices; a private one is unknown to highdicom
Source = Scan | str | Path | None  # of a mask: what `read_ct` gave, or the folder of the CT series
SHARED = {"FrameOfReferenceUID": "frame of reference", "StudyInstanceUID": "study", "SeriesInstanceUID": "series"}


def make_uid(seed: str | Path, name: str) -> str:
    """Derive the UID that belongs to `name` ("study", "series", "seg", ...) under the string `seed`."""
    return generate_uid(entropy_srcs=[str(part).encode(errors="replace").decode() for part in (seed, name)])


def _decimals(values: Iterable[float]) -> list[DSfloat]:
    # DICOM allows a decimal string 16 characters; adding 0 turns -0 into 0
    return [DSfloat(round(float(v), 10) + 0.0, auto_format=True) for v in values]


def write_ct(
    hu: np.ndarray,
    folder: str | Path,
    *,
    spacing: Sequence[float],
    origin: Sequence[float] | np.ndarray | None = None,
    direction: Sequence[float] = AXIAL,
    patient_id: str,
    uid: str,
    tags: dict | None = None,
) -> Path:
    """Write a volume as one CT series: signed 16-bit, implicit VR little endian, one file a slice.

    Parameters
    ----------
    hu : int16 array (S, H, W)
        HU in stored order: `hu[0]` is the most superior slice; under the default `direction`, row 0 is
        the most posterior.
    folder : path
        Made if need be, and must hold nothing yet.
    spacing : (dz, dy, dx), mm
    origin : (x, y, z), mm, optional
        Centre of the first pixel of `hu[0]`; by default the volume is centred on 0. Each later slice lies
        `dz` further along the slice normal, towards the feet.
    direction : six cosines
        ImageOrientationPatient.
    patient_id : str
        PatientID and PatientName; nothing else names the patient.
    uid : str
        The seed of every UID; dates are fixed. Same input, same bytes.
    tags : dict, optional
        More attributes by DICOM keyword, or other values for these; None takes one out.

    Returns
    -------
    Path
        The folder, now holding `1-001.dcm`, `1-002.dcm`, ... in stored order.

    Raises
    ------
    InputError
        Where `hu` is not three-dimensional or does not fit int16, or `folder` holds something.
    """
    hu, folder = np.asarray(hu), Path(folder).expanduser()
    if hu.ndim != 3 or not np.can_cast(hu.dtype, np.int16):
        raise InputError(f"{folder}: need int16 HU (S, H, W), not {hu.dtype} {hu.shape}; convert them first")
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder}: already holds files; give the series an empty folder of its own")
    folder.mkdir(parents=True, exist_ok=True)
    step = slice_normal(direction)
    step = step * (-spacing[0] if step[2] > 1e-9 else spacing[0])  # from head to feet
    along_row, along_column = np.multiply(direction[:3], spacing[2]), np.multiply(direction[3:], spacing[1])
    if origin is None:
        s, h, w = np.subtract(hu.shape, 1) / 2
        origin = -(s * step + h * along_column + w * along_row)
    own = {
        "PatientID": patient_id, "PatientName": f"{patient_id}^", "SliceThickness": _decimals(spacing[:1])[0],
        "StudyInstanceUID": make_uid(uid, "study"), "SeriesInstanceUID": make_uid(uid, "series"),
        "FrameOfReferenceUID": make_uid(uid, "frame of reference"), "Rows": hu.shape[1], "Columns": hu.shape[2],
        "PixelSpacing": _decimals(spacing[1:]), "ImageOrientationPatient": _decimals(direction),
    }  # fmt: skip
    ds, said = Dataset(), CT | own | (tags or {})
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = said.pop("TransferSyntaxUID", ImplicitVRLittleEndian)
    ds.update({keyword: value for keyword, value in said.items() if value is not None})
    for k, pixels in enumerate(hu.astype("<i2")):
        ds.SOPInstanceUID = make_uid(uid, f"slice {k}")
        ds.InstanceNumber, ds.ImagePositionPatient = k + 1, _decimals(origin + k * step)
        ds.add_new("PixelData", "OW", pixels.tobytes())
        ds.save_as(folder / f"1-{k + 1:03d}.dcm", enforce_file_format=True)
    return folder


def write_seg(
    mask: sitk.Image,
    scan: Source,
    path: str | Path,
    *,
    uid: str | None = None,
    description: str = "Pancreas",
    algorithm: str | None = None,
) -> Path:
    """Write a mask as a binary DICOM SEG that refers to the slices of its CT series.

    It lies on the grid that `read_ct` finds, whatever else the headers say of lengths and places.

    Parameters
    ----------
    mask : sitk.Image
        Of 0 and 1, on the grid of the scan.
    scan : Scan or path
        What `read_ct` gave, whose headers are used and left as they are, or the folder of the CT series.
    path : path
        The file to write; it appears whole or not at all.
    uid : str, optional
        The seed of every UID, and then dates are fixed; by default all are fresh.
    description : str
        Of the series and its content.
    algorithm : str, optional
        What drew the mask; by default it was drawn by hand.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        The mask is not on the grid of the scan, the scan is an image without headers, or what is written would not be
        read back the same.
    """
    path = Path(path).expanduser()
    if not isinstance(scan, Scan | str | Path):
        raise InputError(f"{path}: a SEG refers to the headers of its scan; give what read_ct gave, or its folder")
    scan = scan if isinstance(scan, Scan) else read_ct(scan)
    if not scan.headers:
        raise InputError(f"{path}: a SEG refers to DICOM headers, and a NIfTI has none; write .nii.gz")
    folder, array = Path(scan.headers[0].filename).parent, sitk.GetArrayFromImage(mask)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom and highdicom remark on what headers hold
        grid = grid_of(scan.headers)
        like = Scan(grid.image(array), scan.headers)
        ends = [[0, 0, 0], *np.diag(np.subtract(mask.GetSize(), 1)).tolist()]
        off = np.abs(np.subtract(*([i.TransformIndexToPhysicalPoint(e) for e in ends] for i in (mask, like)))).max()
        if mask.GetSize() != scan.GetSize() or not off < 0.01:
            where = f"{off:.2f} mm off the scan {scan.GetSize()} in {folder}"
            raise InputError(f"{path}: mask {mask.GetSize()} lies {where}; resample it first")
        sources, lacking = _sources(scan.headers, grid)
        with atomic_write(path) as half:
            try:
                _encode_seg(array.astype(np.uint8), sources, uid, description, algorithm).save_as(half)
                back, why = read_mask(half, like, segment=1) if array.any() else mask, "another mask comes back"
            except OSError:  # of the disk
                raise
            except Exception as error:  # pydicom and highdicom raise many kinds
                back, why = like > 1, str(error).removeprefix(f"{half}: ").split(";")[0][:200]
            if not np.array_equal(sitk.GetArrayViewFromImage(back), array):
                raise InputError(f"{folder}: no SEG of it can be written ({why}); write a NIfTI, --out mask.nii.gz")
    if lacking:
        said = f"the scan has no {lacking} for all slices; the SEG refers to derived ones, or to those of most"
        warnings.warn(f"{folder}: {said}", stacklevel=2)
    return path


def _sources(headers: list[Dataset], grid: Grid) -> tuple[list[Dataset], str]:
    """Make a header for each slice that a SEG refers to: its UID, its place on the grid, and what all slices share.

    Also return the keywords of UIDs that not all slices have, or have in common.
    """
    uids = {keyword: [uid_of(ds, keyword) for ds in headers] for keyword in (*SHARED, "SOPClassUID", "SOPInstanceUID")}
    known = Counter(uids["SOPInstanceUID"])
    uids["SOPInstanceUID"] = [uid * (known[uid] == 1) for uid in uids["SOPInstanceUID"]]  # or it names no slice
    uids["SOPClassUID"] = [uid * (uid in CLASSES) for uid in uids["SOPClassUID"]]
    base, copies = deidentified(headers[0]), []
    for keyword, name in SHARED.items():
        usual = max(filter(None, uids[keyword]), key=uids[keyword].count, default="")
        seed = base.get("FrameOfReferenceUID") or Path(headers[0].filename).parent
        base.add_new(keyword, "UI", usual or make_uid(seed, name))
    row, column, normal = np.reshape(grid.direction, (3, 3)).T
    base.ImageOrientationPatient, base.PixelSpacing = _decimals([*row, *column]), _decimals(grid.spacing[1::-1])
    base.SliceThickness = base.SpacingBetweenSlices = _decimals(grid.spacing[2:])[0]
    base.Rows, base.Columns = headers[0].Rows, headers[0].Columns
    for k, (kind, uid) in enumerate(zip(uids["SOPClassUID"], uids["SOPInstanceUID"], strict=True)):
        copies.append(Dataset())
        copies[k].update(base)
        copies[k].SOPClassUID = kind or CTImageStorage
        copies[k].SOPInstanceUID = uid or make_uid(base.FrameOfReferenceUID, headers[k].filename)
        copies[k].ImagePositionPatient = _decimals(grid.origin + k * grid.spacing[2] * normal)
    lacking = [name for name, found in uids.items() if not all(found) or name in SHARED and len({*found}) > 1]
    return copies, ", ".join(lacking)


def _encode_seg(
    array: np.ndarray, sources: list[Dataset], uid: str | None, description: str, algorithm: str | None
) -> Dataset:
    """Make the Segmentation of an array (S, H, W); given `uid`, nothing in it depends on the clock."""
    import highdicom as hd  # here, since it takes a second
    from pydicom.sr.codedict import codes

    seed, kind, method = uid or generate_uid(), "MANUAL", None
    if algorithm is not None:
        kind = "AUTOMATIC"
        method = hd.AlgorithmIdentificationSequence(algorithm, codes.DCM.ArtificialIntelligence, __version__)
    tissue, organ = codes.SCT.AnatomicalStructure, codes.SCT.Pancreas
    seg = hd.seg.Segmentation(
        sources, array, "BINARY", [hd.seg.SegmentDescription(1, "Pancreas", tissue, organ, kind, method)],
        series_instance_uid=make_uid(seed, "seg series"), series_number=100,
        sop_instance_uid=make_uid(seed, "seg"), instance_number=1,
        manufacturer="vaelib", manufacturer_model_name="vaelib",
        software_versions=__version__, device_serial_number="0",
        content_label="PANCREAS", content_description=description, series_description=description,
        **({"series_date": DATE, "series_time": TIME} if uid else {}),
    )  # fmt: skip
    if uid:  # highdicom stamps these with the clock or at random, or takes them from the source, where they are empty
        fixed = {
            "StudyDate": DATE, "StudyTime": TIME, "StudyID": "1", "ContentDate": DATE, "ContentTime": TIME,
            "InstanceCreationDate": DATE, "InstanceCreationTime": TIME, "ContributionDateTime": DATE + TIME,
            "DimensionOrganizationUID": make_uid(uid, "dimensions"),
        }  # fmt: skip
        for element in seg.iterall():
            if element.keyword in fixed:
                element.value = fixed[element.keyword]
    return seg


def check_target(path: str | Path, overwrite: bool = False, scan: Scan | None = None) -> Path:
    """Raise InputError unless a mask (of `scan`) can be written to `path`; worth asking before a long computation."""
    path = Path(path).expanduser()
    is_seg, twin, length = path.suffix.lower() == ".dcm", twin_of(path), len(os.fsencode(path.name))
    if not is_seg and not path.name.endswith((".nii.gz", ".nii")):  # ITK knows no .NII
        raise InputError(f"{path}: cannot tell what to write; end the name in .nii.gz, .nii or .dcm")
    if length > 250:
        raise InputError(f"{path}: its name has {length} bytes; choose one of 250 at most")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists and is left as it is; choose another name, or allow it to be overwritten")
    if not is_seg and native(path) and twin.exists():
        raise InputError(f"{path}: lies beside {twin.name}, and ITK would mix the two; choose another name")
    if is_seg and scan is not None:
        if scan.headers and path.absolute().parent == Path(scan.headers[0].filename).absolute().parent:
            fault = "lies among the slices of its scan, and neither could be read"
            raise InputError(f"{path}: {fault}; choose another folder")
        # A trial with the first voxel and the last.
        ends = np.zeros(scan.GetSize()[::-1], np.uint8)
        ends.flat[[0, -1]] = 1
        with tempfile.TemporaryDirectory() as room, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the SEG itself will give them
            try:
                write_seg(image_like(ends, scan), scan, Path(room) / "mask.dcm")
            except InputError as error:
                raise InputError(str(error).replace(f"{room}/mask.dcm", str(path))) from None
    return path


def write_mask(
    mask: sitk.Image, path: str | Path, scan: Source, *, algorithm: str | None = "vaelib", overwrite: bool = False
) -> Path:
    """Write `mask` as NIfTI (`.nii`, `.nii.gz`) or as DICOM SEG (`.dcm`); it appears whole or not at all.

    Parameters
    ----------
    mask : sitk.Image
        Of 0 and 1, on the grid of the scan.
    path : path
        The file to write; its ending says what it will be.
    scan : Scan or path
        What `read_ct` gave, or the folder of the CT series, for a SEG to refer to; a NIfTI has no use for it.
    algorithm : str or None
        What drew the mask; None says that it was drawn by hand.
    overwrite : bool
        Whether a file that is already there may go.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        The file exists, its ending is another, or the mask is not on the grid of the scan; the disk is full.
    """
    path = check_target(path, overwrite)
    if path.suffix.lower() == ".dcm":
        return write_seg(mask, scan, path, algorithm=algorithm)
    with atomic_write(path) as half:
        sitk.WriteImage(sitk.Cast(mask, sitk.sitkUInt8), native(half), useCompression=True)
        try:
            check_nifti(half, mask)
        except InputError:  # on a full disk ITK goes on without a word
            why = "is the disk full? make room and run the same again"
            raise InputError(f"{path}: cannot be written whole: {why}") from None
    return path
