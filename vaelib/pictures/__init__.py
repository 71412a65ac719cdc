"""Pictures of the tutorial, from arrays to figures and sliders: ``pictures.slices(...)``, ``pictures.show(...)``.

Each name is looked up when it is first used, so that importing this costs nothing.
"""

from importlib import import_module
from typing import Any

_FILES = {
    "style": "BLUE GREEN GREY ORANGE PURPLE SKY VERMILLION YELLOW png show",
    "charts": "bars curves dice_per_patient forest histogram latent_scatter scoreboard threshold_sweep",
    "panels": "PREDICTION TRUTH VERDICTS around cut",
    "grids": "agreement contact_sheet gallery planes pyramid reconstructions slices traversal",
    "solids": "VIEWS Mesh area mesh surfaces turntable volume",
    "sliders": "WINDOWS latent_explorer slice_browser threshold_explorer",
}
_FILE_OF = {name: file for file, names in _FILES.items() for name in names.split()}
__all__ = sorted(_FILE_OF)


def __getattr__(name: str) -> Any:
    if name not in _FILE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"{__name__}.{_FILE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
