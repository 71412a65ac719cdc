"""Variational autoencoders for segmenting the pancreas in CT: the library under the notebooks."""

from vaelib.engine.errors import InputError

__version__ = "0.1.0"
__all__ = ["InputError", "__version__"]
