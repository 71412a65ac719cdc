"""Staged anomalies: a patient of the synthetic cohort with an implant, or without an organ, scanned as before.

The same anatomy is painted again with one thing changed, and everything drawn by chance, noise included, stays as it
was. So a slice differs from the cohort's exactly where the anomaly shows, and which slices those are need not be
labelled by hand.
"""

import hashlib
import json
from functools import partial
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from vaelib import __version__
from vaelib.cohorts.layout import PATIENT
from vaelib.engine.checkpoints import kept
from vaelib.engine.errors import InputError
from vaelib.engine.shards import keys_of, open_case
from vaelib.engine.workers import map_in_processes
from vaelib.levels import FULL, downscale, window
from vaelib.phantom.anatomy import Anatomy
from vaelib.phantom.paint import ALL, paint
from vaelib.phantom.scanner import SCANNERS, scan
from vaelib.phantom.shapes import Tube

VERSION = 1  # raise when what `staged` makes changes
METAL = 3071.0  # HU, the top of the usual scale of CT, where titanium and steel are cut off
SEEN = 0.02  # of the grey scale: what a pixel must have changed by for its slice to count as altered
LEVELS = (-0.5, 0.5, 1.5)  # vertebrae with a pair of screws, counted from the origin of the body
ANOMALIES = {
    "spinal screws": "Pairs of metal screws through the pedicles of three vertebrae, with streaks about them",
    "no left kidney": "The left kidney and its fat are gone, as years after a nephrectomy; fat lies in their place",
    "no spleen": "The spleen is gone, as after a splenectomy; fat lies in its place",
}


def altered(name: str, seed: int, number: int) -> Anatomy:
    """The anatomy of patient `number`, less the organ that `name` says is missing.

    Raises
    ------
    InputError
        There is no such anomaly.
    """
    if name not in ANOMALIES:
        raise InputError(f"{name!r}: no such anomaly; choose from {', '.join(ANOMALIES)}")
    body = Anatomy(seed, number)
    if name == "no left kidney":
        body.parts = [p for p in body.parts if not (p.name == "kidney" and p.more["side"] == 1)]
    if name == "no spleen":
        body.parts = [p for p in body.parts if p.name != "spleen"]
    return body


def screws(body: Anatomy) -> list[Tube]:
    """Pedicle screws, 6 mm thick and 55 mm long, converging forward, a pair in each of three vertebrae."""
    pairs = []
    for level in LEVELS:
        z = (round(level - body.phase) + 0.4) * body.period  # where a vertebra has its pedicles
        for side in (-1, 1):
            back, tip = (side * 19, 82, 0), (side * 9, 30, 0)
            points = np.array([back, tip]) * body.stature + (0, 0, z)
            pairs.append(Tube.along(points, 3.0, 1.5))
    return pairs


def with_screws(metal: list[Tube]):
    """A painter as `phantom.paint.paint`, which adds the metal and, in its slices, streaks.

    The streaks are a likeness, not physics: rays of alternating sign which fade with distance, and a dark band
    between the two screws, where a real scanner gets too few photons.
    """

    def painter(canvas, body):
        mask, centres = paint(canvas, body), []
        for tube in metal:
            found = tube.distance(canvas)
            if found and (found[1] < 0).any():
                box, d = found
                canvas.paint(box, d, METAL)
                inside = np.nonzero(d < 0)
                centres.append((canvas.X[box][inside].mean(), canvas.Y[box][inside].mean()))
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


def staged(name: str, patient: str, shards: str | Path, level: int = 6, *, seed: int = 2026):
    """One patient of the cohort with an anomaly, and which of his slices it changed.

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
    case, match = open_case(shards, patient, level), PATIENT.match(patient)
    if case.meta["layout"] != "synthetic" or not match:
        raise InputError(f"{Path(shards) / patient}: was not drawn by the phantom, so nothing can be staged in it; "
                         "use the synthetic cohort")  # fmt: skip
    number = int(match[1])
    body, rng = altered(name, seed, number), np.random.default_rng([seed, number, 1])
    painter = with_screws(screws(body)) if name == "spinal screws" else paint
    with threadpool_limits(1):  # as in `make_patient`
        hu, _, _, grid = scan(body, rng, SCANNERS[number % len(SCANNERS)], painter, 2**FULL)
    if len(hu) != len(case.images) or not np.isclose(grid.spacing[0], case.meta["spacing"][2]):
        raise InputError(f"{Path(shards) / patient}: is not patient {number} of seed {seed}; give the seed that "
                         "SYNTHETIC.md names")  # fmt: skip
    images = downscale(window(hu, *case.meta["window"]), level).astype(np.float16).astype(np.float32)
    changed = np.abs(images - case.images.astype(np.float32)).max((1, 2)) > SEEN
    return images[:, None], changed


def stack_staged(name: str, patients, shards: str | Path, level: int = 6, *, seed: int = 2026, workers=None):
    """Several patients with an anomaly, one after the other: images (N, 1, h, w) and `changed` (N,).

    They are kept beside the shards, in `anomalies/`, and read from there the next time.
    """
    keys = keys_of(shards, patients)
    made_by = {
        "version": [VERSION, __version__], "anomaly": [name, ANOMALIES.get(name)], "level": level, "seed": seed,
        "patients": list(patients), "shards": [*keys.values()],
    }  # fmt: skip
    key = hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:16]
    path = Path(shards).parent / "anomalies" / f"{name.replace(' ', '-')}_{level}_{key}.safetensors"

    def make():
        work = partial(staged, name, shards=shards, level=level, seed=seed)
        made = map_in_processes(work, patients, workers=workers, desc=name, unit="patient")
        images, changed = (np.concatenate(a) for a in zip(*made, strict=True))
        return {"images": images.astype(np.float16), "changed": changed}

    found = kept(path, made_by, make)
    return found["images"].astype(np.float32), found["changed"]
