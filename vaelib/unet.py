"""The rival: MONAI's U-Net, and the same network with its skip connections cut.

References
----------
Ronneberger, Fischer & Brox, *U-Net*, 2015, arXiv:1505.04597; Kerfoot et al., *Left-Ventricle Quantification Using
Residual U-Net*, 2018, doi 10.1007/978-3-030-12029-0_40, which MONAI's follows.
"""

import math

import torch
from monai.networks.layers.simplelayers import SkipConnection
from monai.networks.nets import UNet as MonaiUNet
from torch import Tensor, nn


class Cut(nn.Module):
    """A skip connection that is there and carries nothing: zeros in place of what it would have handed across."""

    def __init__(self, submodule: nn.Module):
        super().__init__()
        self.submodule = submodule

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C + what `submodule` gives, H, W)."""
        return torch.cat([torch.zeros_like(x), self.submodule(x)], 1)


class UNet(nn.Module):
    """Slices to pancreas logits, trained with the labels from end to end.

    Parameters
    ----------
    channels : int
        Filters of the first layer; each of the four that follow doubles them. 20 make about a million parameters, as
        many as the VAE and its mask decoder at 64 x 64 have together.
    inputs : int
        Channels of the input: 1, or 3 for a slice between its neighbours.
    skips : bool
        False cuts the skip connections and leaves every layer as it is.
    prevalence : float
        Expected share of pancreas pixels; see `vaelib.models.MaskDecoder`.
    """

    def __init__(self, channels: int = 20, inputs: int = 1, skips: bool = True, prevalence: float = 0.01):
        super().__init__()
        self.config = dict(channels=channels, inputs=inputs, skips=skips)
        self.net = MonaiUNet(2, inputs, 1, [channels * 2**i for i in range(5)], [2] * 4)
        if not skips:
            for level in [m for m in self.net.modules() if isinstance(m, nn.Sequential)]:
                for name, child in level.named_children():
                    if isinstance(child, SkipConnection):
                        setattr(level, name, Cut(child.submodule))
        last = [m for m in self.net.modules() if isinstance(m, nn.ConvTranspose2d)][-1]
        nn.init.constant_(last.bias, math.log(prevalence / (1 - prevalence)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) in [0, 1] to logits (N, 1, H, W); sides divisible by 16."""
        return self.net(x)
