"""Write a predicted mask, or a decoder as ONNX, for other programs to open."""

import logging
import warnings
from importlib.util import find_spec
from pathlib import Path

import SimpleITK as sitk
import torch
from torch import nn

from vaelib.dicom import write_seg
from vaelib.errors import InputError
from vaelib.files import replace, whole
from vaelib.nifti import twin_of, unfolded

HEADER = 352  # bytes of a NIfTI file before its first voxel


def check_target(path, overwrite=False):
    """Raise InputError unless a mask can be written to `path`; worth asking before a long computation."""
    path = Path(path).expanduser()
    if not path.name.lower().endswith((".nii.gz", ".nii", ".dcm")):
        raise InputError(f"{path}: cannot tell what to write; end the name in .nii.gz, .nii or .dcm")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists and is left as it is; choose another name, or allow it to be overwritten")
    twin = twin_of(path)
    if path.suffix.lower() != ".dcm" and twin.exists():
        raise InputError(
            f"{path}: lies beside {twin.name}, and who asks ITK for one gets the other; choose another name"
        )
    return path


def write_mask(mask, path, series, *, algorithm="vaelib", overwrite=False):
    """Write `mask` as NIfTI (`.nii`, `.nii.gz`) or as DICOM SEG (`.dcm`); it appears whole or not at all.

    Parameters
    ----------
    mask : sitk.Image
        Of 0 and 1, on the grid of the scan.
    path : path
        The file to write; its ending says what it will be.
    series : path
        Folder of the CT series that a SEG refers to; a NIfTI has no use for it.
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
        The file exists, its ending is another, or the mask is not on the grid of the series; the disk is full.
    """
    path = check_target(path, overwrite)
    if path.name.lower().endswith(".dcm"):
        return write_seg(mask, series, path, algorithm=algorithm)
    with whole(path) as half:
        sitk.WriteImage(sitk.Cast(mask, sitk.sitkUInt8), str(half), useCompression=True)
        if not _is_whole(half, HEADER + mask.GetNumberOfPixels()):  # on a full disk ITK goes on without a word
            raise InputError(f"{path}: cannot be written whole: is the disk full? make room and run the same again")
    return path


def _is_whole(path, size):
    """Whether a NIfTI file holds, once unfolded, as many bytes as it should."""
    try:
        return unfolded(path, size) == size
    except InputError:
        return False


def check_onnx(path) -> None:
    """Raise InputError where PyTorch could not write `path` as ONNX; worth asking before a long computation."""
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise InputError(f"{path}: ONNX needs {' and '.join(missing)}; install the extra: pip install 'vaelib[site]'")


def write_onnx(decoder: nn.Module, path, shape: tuple[int, ...]) -> Path:
    """Write a decoder as ONNX, for programs that have no PyTorch: a latent goes in, grey values or probabilities out.

    The sigmoid that `vaelib.latent.decode` takes is part of the file, and so are the weights. The same decoder gives
    the same bytes with the same PyTorch.

    Parameters
    ----------
    decoder : nn.Module
        ``vae.decoder``, or a mask decoder: latents (N, ...) to logits (N, 1, H, W).
    path : path
        The file to write, whole or not at all; one that is there goes.
    shape : tuple of int
        Of one latent: (latent,) or (latent, grid, grid). The input of the file is named ``latent`` and is (1, ...),
        its output is named ``image`` and is (1, 1, H, W) in [0, 1].

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        A package that PyTorch needs for it is missing.
    """
    check_onnx(path)
    device, log = next(decoder.parameters()).device, logging.getLogger("torch.onnx")
    network, level = nn.Sequential(decoder, nn.Sigmoid()).eval(), log.level
    try:
        log.setLevel(logging.ERROR)  # it would say which other packages it does not need
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", FutureWarning)  # PyTorch's, about itself
            made = torch.onnx.export(
                network, (torch.zeros(1, *shape, device=device),), dynamo=True, verbose=False,
                input_names=["latent"], output_names=["image"],
            ).model_proto  # fmt: skip
    finally:
        log.setLevel(level)
    for part in (*made.graph.node, *made.graph.input, *made.graph.output, *made.graph.value_info, made.graph, made):
        part.ClearField("metadata_props")  # where in whose files each step was found
    return replace(path, made.SerializeToString(deterministic=True))
