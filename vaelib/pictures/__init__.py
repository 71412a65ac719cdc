"""Pictures of the tutorial: from arrays to figures and sliders, all to be had from here: ``pictures.slices(...)``."""

from importlib import import_module

_ROOMS = {
    "panels": """PLANES PREDICTION Panel TRUTH VERDICTS WINDOW agreement around contact_sheet cut limits outline
        planes pyramid reconstructions slices traversal two_rows verdict""",
    "charts": """BLUE BYTES CYCLE DPI GREEN GREY LOOKS MARKERS ORANGE PURPLE SECONDS SKY VERMILLION WIDTH YELLOW bars
        curves dice_per_patient forest growth histogram latent_scatter numbers png scoreboard show
        threshold_sweep""",
    "solids": """BAR Body COLOURS INK LETTERS Mesh STEP VIEWS View area box mesh surfaces turntable volume where""",
    "sliders": """ORIGINAL WINDOWS latent_explorer slice_browser threshold_explorer""",
}
_WHERE = {name: room for room, names in _ROOMS.items() for name in names.split()}
__all__ = sorted(_WHERE)


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return __all__
