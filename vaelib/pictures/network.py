"""A network as a page of a browser reads it: its layers by name, and its weights as text; `live/network.js` runs it."""

import gzip
from base64 import b64encode
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from vaelib.engine.errors import InputError
from vaelib.vae import Decoder, Encoder

Layer = tuple[dict[str, Any], Tensor | None, Tensor | None]  # what it is, its weight, its bias
PLAIN: dict[type, str] = {nn.ELU: "elu", nn.ReLU: "relu", nn.SiLU: "silu"}
DOUBLES = {  # kernel, stride, padding and output padding of a convolution that doubles: where its taps go in one of 4
    ((4, 4), (2, 2), (1, 1), (0, 0)): np.eye(4),
    ((3, 3), (2, 2), (1, 1), (1, 1)): np.eye(4)[:3],
}
REPEATED = np.array([[0, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0]])  # and those of one with kernel 3 on repeated pixels


def packed(array: ArrayLike, kind: str) -> dict[str, str]:
    """Pack an array as text for a page: ``f4``, ``i4``, ``i2`` or ``u1``, then gzip, then base64.

    The first bytes of all numbers, little-endian, come before all second bytes: so a scan is a fifth smaller, and what
    is noise in it is not compressed in vain.
    """
    raw = np.ascontiguousarray(array, np.dtype(f"<{kind}")).reshape(-1, 1).view("u1").T.tobytes()
    return {"type": kind, "data": b64encode(gzip.compress(raw, 1, mtime=0)).decode()}


def described(module: nn.Module) -> dict[str, Any]:
    """Describe a decoder or an encoder for `live/network.js`: its layers in order, and all their weights, packed.

    What enlarges becomes a transposed convolution with kernel 4, the same numbers whichever it was. Of an encoder, the
    mean alone comes out.

    Raises
    ------
    InputError
        A layer in it is of a kind that the page does not know.
    """
    rows = _layers(module)
    weights = [part.detach().cpu().reshape(-1) for _, *parts in rows for part in parts if part is not None]
    layers = [row | ({} if w is None or b is None else {"sizes": [w.numel(), b.numel()]}) for row, w, b in rows]
    return {"layers": layers, "weights": packed(torch.cat(weights), "f4")}


def _layers(module: nn.Module) -> list[Layer]:
    """List the layers of a module in the order in which they are computed."""
    match module:
        case nn.Sequential():
            return _in_order(list(module))
        case Decoder():
            return _layers(module.cascade)
        case Encoder():
            return [*_layers(module.cascade), *_layers(module.mu)]
        case nn.Module(stages=nn.Sequential() as stages):  # the residual decoder
            return _in_order([layer for stage in stages for layer in stage])
        case nn.Module(body=nn.Sequential() as body):  # a residual block
            return [({"op": "keep"}, None, None), *_layers(body), ({"op": "add"}, None, None)]
        case nn.Module(cascade=nn.Sequential() as cascade):  # the residual encoder: mu and logvar in one
            return [*_layers(cascade), ({"op": "half"}, None, None)]
        case nn.Flatten() | nn.Unflatten() | nn.Identity():
            return []
        case nn.Linear():
            return [({"op": "linear"}, module.weight, module.bias)]
        case nn.GroupNorm():
            return [({"op": "norm", "groups": module.num_groups, "epsilon": module.eps}, module.weight, module.bias)]
        case nn.Conv2d(kernel_size=(k, _), stride=(s, _), padding=(p, _), groups=1, dilation=(1, 1)):
            row = {"op": "conv", "kernel": k, "stride": s, "padding": p}
            return [(row | {"from": module.in_channels, "into": module.out_channels}, module.weight, module.bias)]
        case nn.ConvTranspose2d(kernel_size=k, stride=s, padding=p, output_padding=o) if (k, s, p, o) in DOUBLES:
            return [_doubling(module.weight, module.bias, DOUBLES[k, s, p, o])]
    if type(module) in PLAIN:
        return [({"op": PLAIN[type(module)]}, None, None)]
    raise InputError(f"{type(module).__name__}: the page cannot compute this layer; give a decoder of vaelib.vae or "
                     "vaelib.spatial for slices")  # fmt: skip


def _in_order(modules: list[nn.Module]) -> list[Layer]:
    """List the layers of modules one after the other; one that repeats pixels is computed with the one after it."""
    rows: list[Layer] = []
    for before, module in zip([None, *modules], modules, strict=False):
        if isinstance(before, nn.Upsample) and isinstance(module, nn.Conv2d):
            rows.append(_doubling(module.weight.transpose(0, 1), module.bias, REPEATED))
        elif not isinstance(module, nn.Upsample):
            rows += _layers(module)
    return rows


def _doubling(weight: Tensor, bias: Tensor, taps: np.ndarray) -> Layer:
    """Make the layer that doubles each side, of weights (from, into, k, k) and the place of each of k taps in 4."""
    at = torch.as_tensor(taps, dtype=weight.dtype, device=weight.device)
    row = {"op": "up", "from": weight.shape[0], "into": weight.shape[1]}
    return row, torch.einsum("iokl,ky,lx->ioyx", weight, at, at), bias
