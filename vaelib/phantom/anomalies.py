"""Staged anomalies: a patient of the synthetic cohort with an implant, or without an organ, scanned as before.

The same anatomy is painted again with one thing changed, and everything drawn by chance, noise included, stays as it
was. So a slice differs from the cohort's exactly where the anomaly shows, and which slices those are need not be
labelled by hand.
"""

from pathlib import Path

import numpy as np

from vaelib.engine.errors import InputError
from vaelib.phantom import rescan
from vaelib.phantom.anatomy import Anatomy
from vaelib.phantom.cohort import make_patient
from vaelib.phantom.paint import ALL, paint
from vaelib.phantom.rescan import Names
from vaelib.phantom.scanner import Painter
from vaelib.phantom.shapes import Canvas, Tube

METAL = 3071.0  # HU, the top of the usual scale of CT, where titanium and steel are cut off
SEEN = 0.02  # of the grey scale: what a pixel must have changed by for its slice to count as altered
LEVELS = (-0.5, 0.5, 1.5)  # vertebrae with a pair of screws, counted from the origin of the body
ANOMALIES = {
    "spinal screws": "Pairs of metal screws through the pedicles of three vertebrae, with streaks about them",
    "no left kidney": "The left kidney and its fat are gone, as years after a nephrectomy; fat lies in their place",
    "no spleen": "The spleen is gone, as after a splenectomy; fat lies in its place",
}


def altered(name: str, seed: int, number: int) -> Anatomy:
    """Draw the anatomy of patient `number`, less the organ that `name` says is missing.

    Raises
    ------
    InputError
        There is no such anomaly.
    """
    if name not in ANOMALIES:
        raise InputError(f"{name!r}: no such anomaly; choose from {', '.join(ANOMALIES)}")
    body, gone = Anatomy(seed, number), {"no left kidney": ("kidney", 1), "no spleen": ("spleen", None)}.get(name)
    body.parts = [p for p in body.parts if (p.name, p.more.get("side")) != gone]
    return body


def screws(body: Anatomy) -> list[Tube]:
    """Place pedicle screws, 6 mm thick and 55 mm long, converging forward, a pair in each of three vertebrae."""
    pairs = []
    for level in LEVELS:
        z = (round(level - body.phase) + 0.4) * body.period  # where a vertebra has its pedicles
        for side in (-1, 1):
            back, tip = (side * 19, 82, 0), (side * 9, 30, 0)
            points = np.array([back, tip]) * body.stature + (0, 0, z)
            pairs.append(Tube(points, 3.0, 1.5))
    return pairs


def with_screws(metal: list[Tube]) -> Painter:
    """Make a painter that paints as `phantom.paint.paint`, and adds the metal and, in its slices, streaks.

    The streaks are a likeness, not physics: rays of alternating sign which fade with distance, and a dark band
    between the two screws, where a real scanner gets too few photons.
    """

    def painter(canvas: Canvas, body: Anatomy) -> np.ndarray:
        mask, centres = paint(canvas, body), []
        for tube in metal:
            for box, d in tube.near(canvas):
                if (d < 0).any():
                    canvas.paint(box, d, METAL)
                    centres.append((canvas.X[box][d < 0].mean(), canvas.Y[box][d < 0].mean()))
        for x, y in centres:
            dx, dy = canvas.X - np.float32(x), canvas.Y - np.float32(y)
            fade = np.exp(-np.hypot(dx, dy) / 35) * (np.hypot(dx, dy) > 4)
            canvas.hu += 120 * np.cos(8 * np.arctan2(dy, dx)) * fade * (canvas.hu > -500)
        if len(centres) > 1:
            dy = canvas.Y - np.float32(np.mean([y for _, y in centres]))
            dark = np.exp(-((dy / 8) ** 2) - (canvas.X / 60) ** 2)
            canvas.paint(ALL, np.where(canvas.hu < 1500, -9.0, 9.0), -100.0, strength=0.5 * dark)
        return mask

    return painter


def staged(
    name: str, patient: str, shards: str | Path, level: int = 6, *, seed: int = 2026
) -> tuple[np.ndarray, np.ndarray]:
    """Show one patient of the cohort with an anomaly, and which slices it changed.

    Parameters
    ----------
    name : str
        A key of `ANOMALIES`.
    patient : str
        "PANCREAS_0005": the number says which patient is painted again.
    shards : path
        The cache of the synthetic cohort, as `prepare` returns it.
    level : int
        Images of 2^level pixels a side.
    seed : int
        Of the cohort.

    Returns
    -------
    images : ndarray, (S, 1, h, w) float32
        Windowed to [0, 1], slice for slice beside the cache's own.
    changed : ndarray of bool, (S,)
        Slices in which a pixel moved by more than 0.02 of the grey scale.

    Raises
    ------
    InputError
        There is no such anomaly, or the cache holds another cohort than the phantom draws under this seed.
    """
    case, number = rescan.open_drawn(patient, shards, level, seed)
    body = altered(name, seed, number)
    painter = with_screws(screws(body)) if name == "spinal screws" else paint
    images = rescan.images_of(make_patient(seed, number, size=rescan.SIZE, body=body, painter=painter).hu, case, level)
    changed = np.abs(images - case.images.astype(np.float32)).max((1, 2)) > SEEN
    return images[:, None], changed


def stack_staged(
    name: str, patients: Names, shards: str | Path, level: int = 6, *, seed: int = 2026, workers: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Show several patients with an anomaly, one after the other: images (N, 1, h, w) and `changed` (N,).

    They are kept beside the shards and read from there the next time.
    """
    about = ANOMALIES.get(name, "")
    return rescan.keep_staged(staged, name, patients, Path(shards), level, seed, workers, about)[:2]
