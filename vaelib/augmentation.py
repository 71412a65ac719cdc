"""Moving slices and changing their grey values at random: what a network should not mind."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(x: Tensor, mask: Tensor | None = None, *, shift=0.08, scale=0.12, degrees=8.0, generator=None):
    """Move, scale and turn each image at random, as if the patient lay differently in the scanner.

    No flips: the liver is on the right. Labels are not needed, so the VAE may use it too.

    Parameters
    ----------
    x, mask : Tensor, (N, C, H, W)
        Images in [0, 1], and masks to move along with them; all channels of an image move as one.
    shift, scale : float
        Largest shift as a share of the image, and largest relative change of size.
    degrees : float
        Largest rotation.

    Returns
    -------
    Tensor, or a pair of them where `mask` is given
    """
    n = len(x)
    draw = (torch.rand(n, 4, generator=generator) * 2 - 1).to(x.device)
    angle, zoom = draw[:, 0] * math.radians(degrees), 1 + draw[:, 1] * scale
    theta = torch.zeros(n, 2, 3, device=x.device)
    theta[:, 0, 0] = theta[:, 1, 1] = angle.cos() * zoom
    theta[:, 0, 1], theta[:, 1, 0] = -angle.sin() * zoom, angle.sin() * zoom
    theta[:, :, 2] = draw[:, 2:] * 2 * shift
    both = x if mask is None else torch.cat([x, mask], 1)
    moved = F.grid_sample(both, F.affine_grid(theta, list(both.shape), False), align_corners=False)
    return moved if mask is None else (moved[:, : x.shape[1]], moved[:, x.shape[1] :])


def jitter(x: Tensor) -> Tensor:
    """Change the grey values of each image at random, as if another scanner, or another dose, had made it.

    Contrast (0.7 to 1.2 times), brightness (0.1 up or down), a blur over 3 x 3 pixels mixed in, and noise (a standard
    deviation of up to 0.06). What lies below the window, air, stays black. It needs no labels, as `augment`.

    Parameters
    ----------
    x : Tensor, (N, C, H, W)
        In [0, 1]; all channels of an image are changed alike.
    """
    draw = torch.rand(4, len(x), 1, 1, 1, device=x.device)
    y = x + draw[0] * (F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) - x)
    y = 0.5 + (y - 0.5) * (0.7 + 0.5 * draw[1]) + 0.2 * (draw[2] - 0.5)
    y = y + 0.06 * draw[3] * torch.randn_like(x)
    return (y * (x > 0)).clamp(0, 1)
