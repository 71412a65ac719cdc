"""The arms of the controls: codes of a slice, and networks that learn from labels, all trained by one loop.

Every code has 16 x 16 places. Each of its numbers is scaled to mean 0 and variance 1 over the training slices, and the
same decoder reads it from three slices. `ARMS` says how each is made.

References
----------
Myronenko, *3D MRI brain tumor segmentation using autoencoder regularization*, 2018, arXiv:1810.11654 (joint training);
Huo et al., *Generative Medical Segmentation*, AAAI 2025, arXiv:2403.18198 (a map from image latent to mask latent).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.losses import DiceLoss
from monai.networks.nets import UNet as MonaiUNet
from sklearn.decomposition import PCA
from torch import Tensor, nn

from vaelib.cohort import Slices
from vaelib.losses import beta_at, l2, mask_loss, vae_loss
from vaelib.recipes import rows_near
from vaelib.rivals import UNet
from vaelib.spatial import Residual, ResidualDecoder, ResidualVAE, norm
from vaelib.training import augment, copies_of, jitter
from vaelib.vae import log_odds

SIDE, GRID, NUMBERS = 64, 16, 8  # pixels a side; places a side of a code; numbers at a place
HEAD: dict[str, Any] = {"size": SIDE, "channels": 24, "grid": GRID, "blocks": 4}  # the decoder that reads every code
PLAN = {"batch": 16, "lr": 2e-3, "steps": 4000, "VAE steps": 6000, "beta": 1e-3}
NOISE, HIDDEN, PATCH = 0.3, 0.5, 8  # standard deviation on a code; share of a slice that is masked; pixels of a patch
OVERLAP, JOINT = 20.0, 0.1  # weights of the Dice loss, and of L2 + KL in joint training
Losses = Callable[[nn.Module, Sequence[Tensor], float], Tensor]


class Arm(NamedTuple):
    """How an arm is made: which ``code`` its decoder reads, whether labels ``shape`` that code too, and options."""

    code: str
    shaped: bool = False
    options: dict[str, Any] = {}


ARMS: dict[str, Arm] = {
    "lossless pixels": Arm("pixels"),
    "average pooling": Arm("pooled"),
    "patch PCA": Arm("pca"),
    "untrained encoder": Arm("untrained"),
    "autoencoder": Arm("vae", options={"beta": None, "noise": 0.0}),
    "autoencoder, noise on its code": Arm("vae", options={"beta": None, "noise": NOISE}),
    "VAE, beta 0.001": Arm("vae", options={"beta": 1e-3}),
    "VAE, beta 0.01": Arm("vae", options={"beta": 1e-2}),
    "VAE of jittered slices": Arm("vae", options={"beta": 1e-3, "seen": "jittered"}),
    "VAE of masked slices": Arm("vae", options={"beta": 1e-3, "seen": "masked"}),
    "VAE, then fine-tuned": Arm("vae", True, {"beta": 1e-3}),
    "VAE and mask together": Arm("untrained", True, {"joint": True, "beta": 1e-3}),
    "same network, from labels": Arm("untrained", True),
    "latent to mask latent": Arm("vae", options={"beta": 1e-3, "mask latent": True}),
    "U-Net": Arm("unet", True),
    "U-Net, residual units": Arm("residual unet", True),
}


class Scaled(nn.Module):
    """A code whose numbers have mean 0 and variance 1 over the slices that it was made for."""

    def __init__(self, net: nn.Module, images: Tensor):
        super().__init__()
        self.net = net
        with torch.no_grad():
            z = torch.cat([self._code(part) for part in images.split(256)])
        over = [0, *range(2, z.ndim)]
        self.register_buffer("centre", z.mean(over, keepdim=True))
        self.register_buffer("spread", z.std(over, keepdim=True) + 1e-6)

    def _code(self, x: Tensor) -> Tensor:
        z = self.net(x)
        return z[0] if isinstance(z, tuple) else z

    def forward(self, x: Tensor) -> Tensor:
        """Code images (N, 1, H, W) as (N, C) or (N, C, g, g); of `mu` and `logvar`, `mu` is taken."""
        return (self._code(x) - self.centre) / self.spread


class Reader(nn.Module):
    """A decoder over the codes of a slice and of its neighbours; without `shaped`, no gradient reaches the code."""

    def __init__(self, code: nn.Module, head: nn.Module, shaped: bool):
        super().__init__()
        self.code, self.head, self.shaped = code, head, shaped

    def forward(self, x: Tensor) -> Tensor:
        """Turn slices between their neighbours (N, K, H, W) into logits (N, 1, H, W)."""
        with torch.set_grad_enabled(self.shaped and torch.is_grad_enabled()):
            z = self.coded(x)
        return self.head(z)

    def coded(self, x: Tensor) -> Tensor:
        """Code slices and their neighbours (N, K, H, W), one by one, and put the codes of each slice together."""
        z = self.code(x.flatten(0, 1)[:, None])
        return z.reshape(len(x), -1, *z.shape[2:])


def residual_unet(inputs: int, prevalence: float, channels: int = 12) -> nn.Module:
    """Make MONAI's U-Net with two residual units a level that enlarges by repeating pixels: 0.9 million weights.

    Its last level keeps all channels, and a convolution reads the logits from them: MONAI's own would normalize the
    one channel that is the answer, so that no slice could be without a pancreas.
    """
    net = MonaiUNet(2, inputs, channels, [channels * 2**i for i in range(5)], [2] * 4, num_res_units=2)
    for parent in [*net.modules()]:
        for name, child in [*parent.named_children()]:
            if isinstance(child, nn.ConvTranspose2d):
                conv = nn.Conv2d(child.in_channels, child.out_channels, 3, padding=1)
                setattr(parent, name, nn.Sequential(nn.Upsample(scale_factor=2), conv))
    last = nn.Conv2d(channels, 1, 1)
    nn.init.constant_(last.get_parameter("bias"), log_odds(prevalence))
    return nn.Sequential(net, last)


def untrained(images: Tensor) -> ResidualVAE:
    """Make the VAE of the controls, whose pictures begin at the mean grey of these slices."""
    return ResidualVAE(SIDE, latent=NUMBERS, grid=GRID, start=float(images.mean()))


def train(
    model: nn.Module, losses: Losses, data: Sequence[Tensor], *, steps: int, seed: int, batch: int, lr: float,
    look: Callable[[], dict] | None = None, every: int = 500,
) -> list[dict]:  # fmt: skip
    """Train by Adam, and return what `look` saw every so many steps.

    The learning rate rises over 100 steps, stays, and falls in a line to 0 over the last quarter: so the curve before
    that does not know where it will end, and a longer run begins with the same one.
    """
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    generator, curve = torch.Generator().manual_seed(seed), []
    torch.manual_seed(seed)
    model.to(memory_format=torch.channels_last)  # a third faster on a CPU
    for i in range(steps):
        model.train()
        optimizer.param_groups[0]["lr"] = lr * min(1, (i + 1) / 100, 4 * (1 - i / steps))
        rows = torch.randint(len(data[0]), (batch,), generator=generator)
        loss = losses(model, [array[rows] for array in data], i / steps)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"step {i}: the loss is {loss.item()}; lower the learning rate")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if look and ((i + 1) % every == 0 or i + 1 == steps):
            model.eval()
            curve.append({"steps": i + 1} | look())
    model.to(memory_format=torch.contiguous_format).eval()
    return curve


def unlabelled(beta: float | None, noise: float = 0.0, seen: str = "plain") -> Losses:
    """Make the loss of a VAE on slices alone; with `beta` None of an autoencoder, with noise on its scaled code."""

    def losses(vae: ResidualVAE, batch: Sequence[Tensor], progress: float) -> Tensor:
        (x,) = augment(batch[0])
        shown = {"plain": lambda: x, "jittered": lambda: jitter(x), "masked": lambda: masked(x)}[seen]()
        if beta is not None:
            return vae_loss(vae(shown), x, beta_at(progress, beta)).total
        z = scaled(vae.encoder(shown)[0])
        return l2(vae.decode(z + noise * torch.randn_like(z)), x)

    return losses


def scaled(z: Tensor) -> Tensor:
    """Scale the numbers of a code to mean 0 and variance 1 over these slices, for an autoencoder's decoder."""
    return nn.functional.batch_norm(z, None, None, training=True)


def made_with() -> list:
    """List the constants of this file that a network depends on, for the key of what is kept."""
    return [HEAD, NUMBERS, OVERLAP, JOINT, HIDDEN, PATCH]


def masked(x: Tensor) -> Tensor:
    """Black out half of the patches of 8 x 8 pixels, drawn anew each time (He et al. 2022, arXiv:2111.06377)."""
    left = (torch.rand(len(x), 1, SIDE // PATCH, SIDE // PATCH) >= HIDDEN).float()
    return x * left.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)


def labelled(jittered: bool, overlap: bool, joint: float | None = None) -> Losses:
    """Make the loss of an arm on slices between their neighbours (N, 3, H, W) and masks: cross-entropy, and more.

    `overlap` adds the Dice loss over the batch, `joint` the loss of the encoder's own VAE with that `beta`.
    """
    dice = DiceLoss(sigmoid=True, batch=True)

    def losses(model: nn.Module, batch: Sequence[Tensor], progress: float) -> Tensor:
        x, masks = augment(*batch)
        shown = jitter(x) if jittered else x
        logits = model(shown)
        loss = mask_loss(logits, masks) + (OVERLAP * dice(logits, masks) if overlap else 0)
        if joint is not None:
            loss = loss + JOINT * vae_loss(model.vae(shown[:, 1:2]), x[:, 1:2], beta_at(progress, joint)).total
        return loss

    return losses


def frozen(model: Reader, shown: Tensor, masks: np.ndarray, copies: int, seed: int) -> list[Tensor]:
    """Pair the codes of slices, and of augmented copies, with their masks, once: the code stays as it is."""
    pairs = copies_of(shown.numpy(), masks, copies, seed)
    with torch.no_grad():
        return [torch.cat([model.coded(x) for x, _ in pairs]), torch.cat([m for _, m in pairs])]


def of_pairs(model: nn.Module, batch: Sequence[Tensor], progress: float) -> Tensor:
    """Take the cross-entropy of a decoder on pairs of code and mask."""
    return mask_loss(model(batch[0]), batch[1])


def patches(images: Tensor, numbers: int = NUMBERS, side: int = SIDE // GRID) -> nn.Conv2d:
    """Make the linear code: principal components of square patches, 4 pixels a side or `side`, as a convolution."""
    tiles = images.unfold(2, side, side).unfold(3, side, side).reshape(-1, side * side).numpy()
    found = PCA(numbers, svd_solver="full").fit(tiles)
    net = nn.Conv2d(1, numbers, side, side, bias=False)
    net.weight = nn.Parameter(torch.from_numpy(found.components_.reshape(numbers, 1, side, side).astype(np.float32)))
    return net


class PatchPCA(Scaled):
    """`patches` of some 400 slices as an encoder, scaled over the same; of patches as large as a slice, a vector."""

    def __init__(self, images: np.ndarray, numbers: int, side: int):
        some = torch.from_numpy(images[:: max(1, len(images) // 400)])
        super().__init__(patches(some, numbers, side).requires_grad_(False), some)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Code images (N, 1, H, W) as a mean (N, numbers, g, g), or (N, numbers), without variance."""
        z = super().forward(x)
        z = z if z.shape[-1] > 1 else z.flatten(1)
        return z, torch.zeros_like(z)


def scaled_code(arm: Arm, images: Tensor, vae: ResidualVAE) -> Scaled:
    """Make the code of an arm; `vae` is the trained one, or else the encoder stays as it was drawn."""
    side = SIDE // GRID
    made = {
        "pixels": lambda: nn.PixelUnshuffle(side),
        "pooled": lambda: nn.AvgPool2d(side),
        "pca": lambda: patches(images),
    }
    return Scaled(made.get(arm.code, lambda: vae.encoder)(), images)


def mapped(channels: int, masks: nn.Module) -> nn.Module:
    """Make a map from codes of three slices to the latent of a VAE of masks, which its frozen decoder draws."""
    wide = 2 * HEAD["channels"]
    body = [nn.Conv2d(channels, wide, 3, padding=1), *(Residual(wide) for _ in range(HEAD["blocks"]))]
    net = nn.Sequential(*body, norm(wide), nn.SiLU(), nn.Conv2d(wide, NUMBERS, 1), masks.decoder)
    masks.decoder.requires_grad_(False)
    return net


def build(
    arm: Arm, train: Slices, seed: int, vae: ResidualVAE | None = None, masks: nn.Module | None = None, reach: int = 1
) -> nn.Module:
    """Make the untrained network of an arm, from slices between their neighbours (N, 2 * reach + 1, H, W) to logits."""
    torch.manual_seed(seed)
    prevalence, images = float(np.mean(train.masks)), torch.from_numpy(train.images[:])
    if arm.code.endswith("unet"):
        return (UNet if arm.code == "unet" else residual_unet)(inputs=2 * reach + 1, prevalence=prevalence)
    own = vae or untrained(images)
    code = scaled_code(arm, images, own)
    channels = (2 * reach + 1) * code.centre.shape[1]
    head = mapped(channels, masks) if masks else ResidualDecoder(latent=channels, start=prevalence, **HEAD)
    code.requires_grad_(arm.shaped)
    reader = Reader(code, head, arm.shaped)
    if "joint" in arm.options:
        reader.picture = own.decoder
        object.__setattr__(reader, "vae", own)  # whose encoder is the code: its weights are registered once
    return reader


def with_neighbours(s: Slices, reach: int = 1) -> Tensor:
    """Put each slice between its neighbours: (N, 2 * reach + 1, H, W)."""
    return torch.from_numpy(s.images[:])[:, 0][torch.from_numpy(rows_near(s, reach))]
