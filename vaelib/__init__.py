"""Variational autoencoders for segmenting the pancreas in CT: the library under the notebooks.

What a lesson teaches is had from here, ``vaelib.read_ct``, ``vaelib.VAE``, ``vaelib.fit``, or from the file that
defines it, ``from vaelib.vae import VAE``. Nothing is imported before it is asked for.
"""

from importlib import import_module
from typing import Any

from vaelib.engine.errors import InputError

__version__ = "0.1.0"
_API = {  # by file of the root, in the order of the lessons, what it defines for everyone
    "volumes": "read_ct read_mask describe",
    "levels": "window halve downscale images_at canonical to_scan",
    "vae": "Encoder Decoder VAE VAEOutput MaskDecoder Supervised",
    "losses": "l2 kl beta_at vae_loss mask_loss",
    "training": "fit augment jitter vae_step mask_step",
    "latent": "encode decode traverse interpolate sample pca active_units",
    "metrics": "dice iou hd95 sweep best_threshold atlas bootstrap score",
    "spatial": "ResidualVAE ResidualMaskDecoder neighbours",
    "sequence": "SequenceDecoder",
    "uncertainty": "sample_masks",
    "rivals": "UNet",
    "cohort": "Cohort Slices open_cohort load_slices split folds",
    "recipes": "train evaluate segment cross_validate trained predicted",
}
_ROOM = {name: room for room, names in _API.items() for name in names.split()}
__all__ = ["InputError", "__version__", *_ROOM]


def __getattr__(name: str) -> Any:
    if name in _ROOM:
        return getattr(import_module(f"vaelib.{_ROOM[name]}"), name)
    if name in _API:  # a file of the root: ``vaelib.metrics.dice``
        return import_module(f"vaelib.{name}")
    raise AttributeError(f"module 'vaelib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
