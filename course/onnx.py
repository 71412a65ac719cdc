"""Write a decoder as ONNX, for programs that have no PyTorch."""

import logging
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from vaelib.engine.errors import InputError
from vaelib.engine.files import write_file


def check_onnx(path: str | Path) -> None:
    """Raise InputError where PyTorch could not write `path` as ONNX; worth asking before a long computation."""
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise InputError(f"{path}: ONNX needs {' and '.join(missing)}; install the extra: pip install 'vaelib[site]'")


def write_onnx(decoder: nn.Module, path: str | Path, shape: tuple[int, ...]) -> Path:
    """Write a decoder as ONNX, for programs that have no PyTorch.

    A latent goes in, and grey values or probabilities come out: the sigmoid that `vaelib.latent.decode` takes is part
    of the file, and so are the weights. The same decoder gives the same bytes with the same PyTorch.

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
    return write_file(path, made.SerializeToString(deterministic=True))
