"""A patient from the base of the lungs to the pelvis: what the first cohort's scans do not reach, and a body for it.

Habitus, organs and pancreas are drawn as there, from numbers of their own, so that no patient is in both cohorts. The
chest, the pelvis, the loops of bowel and the body wall are this file's.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import CubicSpline

from vaelib.phantom.anatomy import Anatomy
from vaelib.phantom.body import Part
from vaelib.phantom.paint import ALL, FRAMES, PAINTERS, bones, cavity
from vaelib.phantom.shapes import TABLES, Box, Canvas, Ellipsoid, Tube

PROFILE = CubicSpline(TABLES["whole"]["heights"], TABLES["whole"]["profile"])


class Whole(Anatomy):
    """Everything about patient `number` of the second cohort; `reach` is where the scan ends, in mm."""

    table = TABLES["whole"]

    def __init__(self, seed: int, number: int, enhanced: bool = True):
        super().__init__(seed, number, enhanced)
        n, u, st = self.rng.normal, self.rng.uniform, self.stature
        self.reach = st * u(-208, -178), st * u(175, 222)
        self.crest, self.sacrum = st * (-82 + n(0, 5)), (-3 - self.phase) * self.period - 8
        self.infiltrated = float(np.clip(0.2 + 0.6 * self.fat + n(0, 0.15), 0, 1))  # the muscles of the back
        for row in self.table["tube"]:
            *way, thick = np.transpose(row["points"])
            self.add(row["name"], Tube(self.place(*np.transpose(way)), thick), self.hu[row["hu"]])
        self._chest()

    def _landmarks(self) -> None:
        """Draw a body as wide as those of the collection, and a tail of the pancreas that reaches the spleen behind."""
        n = self.rng.normal
        self.width, self.front = self.width * n(1.07, 0.035), self.front * n(1.04, 0.035)
        super()._landmarks()
        self.hilum, self.loop, self.arch = self.hilum + (16, 15, -8), self.loop + (-4, 0, -6), n(-11, 4)

    def level(self, z: ArrayLike) -> Any:
        """Compute, at heights `z`, width and front of the cavity, flat muscles, fat, and the spine's place, in mm."""
        sizes = self.width, self.front, self.muscle, self.subcutaneous, self.stature
        return np.moveaxis(PROFILE(np.asarray(z) / self.stature) * sizes, -1, 0)

    def _loops(self) -> None:
        """Add ileum and jejunum in coils that fill the cavity, each on its twig of the mesentery."""
        n, u = self.rng.normal, self.rng.uniform
        full, beat = u(0.3, 0.85), np.linspace(-2.4, 2.4, 7)[:, None]
        for x, y, z in np.stack(np.meshgrid(*(np.arange(*ends) for ends in self.table["loops"])), -1).reshape(-1, 3):
            if u() < 0.12 + 0.2 * self.fat or z > (-40 if x < 10 else -10 if y > -20 else 45):
                continue
            coil = np.sin(beat * (1, 1.8, 0.8) * u(0.6, 1.1) + u(0, 6.3, 3)) * (20, 14, 11)
            path = self.place(*(coil + (x * (1 if z > -150 else 0.8), y, z) + n(0, 5, 3)))
            gas = float(path[:, 1].mean() - u(0, 5)) if y < -50 and u() < 0.2 else None
            self._hollow("jejunum", path, u(8, 13.5) + n(0, 1, 7), self._fill(full), gas, **self.table["look"])
            root = self.sma[3] + (self.sma[4] - self.sma[3]) * np.clip(-(z + 20) / 80, 0, 1) + n(0, 4, 3)
            way = [root, 0.5 * (root + path[3]) + n(0, 6, 3), 0.25 * root + 0.75 * path[3] + n(0, 4, 3)]
            self.add("vessel", Tube(way, [u(1.2, 2.2), 1.3, 0.8]), self.hu["aorta"] - u(0, 30) * self.enhanced)

    def _chest(self) -> None:
        """Put the diaphragm on liver, spleen and stomach; add heart, sternum, and the vessels of the lungs."""
        n, u, st = self.rng.normal, self.rng.uniform, self.stature
        first: dict[str, Any] = {part.name: part.shape for part in reversed(self.parts)}
        liver, spleen, bag = first["liver"], first["spleen"], first["stomach"]
        spleen.centre, spleen.radii = spleen.centre + (0, -4, 18), spleen.radii * (1.25, 1.15, 1.2)
        top, left = (e.centre[2] + e.radii[2] for e in (liver, spleen))
        self.domes = top - 10 * st, min(top, max(left, (bag.points[:, 2] + bag.radii).max())) - 4 * st
        size = np.array([60, 44, 48]) * st * u(0.92, 1.08)
        middle = self.place((20, -40, 0)) + (0, 0, np.mean(self.domes) + 0.85 * size[2])
        self.add("muscle", Ellipsoid(middle, size, (0, 20, 35)), 62 + 30 * self.enhanced, "heart", middle=middle)
        self.ribs.append((Ellipsoid((0, -self.level(195 * st)[1] - 6, 195 * st), (18, 6, 72), (-6, 0, 0)), True))
        for x in (-1, 1) * 55:
            ends = self.place((x * n(42, 12), n(0, 16), n(215, 14)), (x * n(84, 22), n(5, 38), n(120, 30)))
            way, thick = [ends[0], ends.mean(0) + n(0, 9, 3), ends[1]], u(1.6, 3.4) * np.array([1, 0.6, 0.25])
            self.add("vessel", Tube(way, thick), 90.0, "inside", organ="lung")


def torso(c: Canvas, body: Whole) -> None:
    """Paint skin, fat, the muscles of flank, back and hip, the iliac wings, and fat and lungs inside."""
    width, front, muscle, under, bend = body.level(c.z).astype(np.float32)
    c.y, c.Y = c.y - bend, c.Y - bend  # the spine's curves: the whole slice is painted so far back
    X, Y, wall = c.X, c.Y, c.wall
    rho, wall[:] = cavity(X, Y, width, front, body.back)
    lateral, behind, turn = (X / rho) ** 2, np.clip(Y / rho, 0, 1) ** 2, np.arctan2(np.abs(X), Y)  # turn: 0 behind
    hip, chest = np.float32(np.clip([(body.crest - c.z) / 60, (c.z - 60) / 60], 0, 1))
    marble, mid, ripple = (c.waves(body.fields[mm], ALL) for mm in (14, 24, 45))
    fat, flesh = body.hu["fat"] + 3 * mid, body.hu["muscle"] + 3 * mid
    streaks = np.clip(1 - np.abs(marble) * 3.5, 0, 1) * body.infiltrated * (20 + 70 * hip)  # of fat
    seams = (Y < 0) * (1 - chest) * (0.5 * np.exp(-(((np.abs(X) - 64) / 7) ** 2)) + 0.8 * np.exp(-((X / 6) ** 2)))
    flat = muscle * (1 + 0.35 * lateral) * (1 - seams) + 7 * chest * np.exp(-(((turn - 1.2) / 0.5) ** 2))
    flat += hip * (34 * np.exp(-(((turn - 0.8) / 0.5) ** 2)) + 14 * np.exp(-(((turn - 1.6) / 0.5) ** 2)))
    loin = behind * ((17 + 11 * chest) * np.exp(-(((X / 78) ** 2) ** 2)) - 4 * np.exp(-((X / 14) ** 2)))
    outline = wall - flat - loin - under * (0.62 + 0.55 * behind + 0.3 * lateral + 0.035 * ripple) - 2
    bed = Y + bend + X * X / 1000 - (body.back + body.muscle + 20 + 0.9 * body.subcutaneous)  # the table's curve
    outline = np.maximum(outline, bed) + 3.5 * np.clip(1 - np.abs(outline - bed) / 14, 0, 1) ** 2
    c.paint(ALL, outline, 25.0)
    c.paint(ALL, outline + 2.2, fat, "fat")
    # the flat muscles thin out over the loin, where the back's lie
    c.paint(ALL, wall - flat + 8 * np.clip(1.15 - turn, 0, 1) * (1 - hip), flesh - 0.4 * streaks, "muscle")
    for depth in (0.36, 0.68):  # fat between the layers of flank and hip
        c.paint(ALL, np.abs(wall - flat * depth + ripple) - 0.5, fat, strength=0.75 * lateral * (Y > -0.7 * front))
    c.paint(ALL, wall, fat + 4 * mid + 5 * ripple, "fat")
    for x, y, a, b in ((63, 62, 20, 10), (39, 80, 27, 19), (12, 84, 13, 18))[c.z > 45 :]:  # the back's, in fat
        across, deep = np.abs(X) / body.stature - x, Y / body.stature - y - 5 * chest
        d = (np.abs(across / a) ** 2.4 + np.abs((deep + 0.12 * across) / b) ** 2.4) ** (1 / 2.4) * (1 + 0.35 * chest)
        c.paint(ALL, (d - 1) * b + 0.8 * mid - 1.2, fat, strength=0.8)
        c.paint(ALL, (d - 1) * b + 0.8 * mid, flesh - streaks, "muscle")
    if hip:
        end, thick = (np.abs(turn - 1.22) - 0.95 * hip**0.55) * rho, min(1, 3 * hip)  # of a wing
        c.paint(ALL, np.maximum(np.abs(wall + 6 * thick) - 10 * thick, end + 6), flesh, "muscle")  # iliacus
        wing = np.maximum(np.abs(wall - 4) - 3.5 - 3 * np.clip(1 + end / 25, 0, 1) - 0.8 * mid, end)
        c.paint(ALL, wing, 520.0, "bone")
        c.paint(ALL, wing + 2, 190 + 40 * c.waves(body.fields[9], ALL))
    if chest:
        lungs(c, body, rho, rho / (rho - wall), front)


def lungs(c: Canvas, body: Whole, rho: np.ndarray, n: np.ndarray, front: float) -> None:
    """Paint the lungs above two domes that fall to the recess behind; `n` is 1 at the wall; organs come later."""
    st, sin, (right, left) = body.stature, c.Y / rho, body.domes
    dome = right + (left - right) * (0.5 + 0.5 * np.tanh(c.X / 25))
    rise = 1 + (c.z - dome) / (st * (60 + 28 * np.clip(sin, 0, 1) - 36 * np.clip(-sin, 0, 1)))  # 0 at the recess
    d = np.maximum((np.sqrt(1 - np.clip(rise, 0, 1) ** 2) - n) * rho / n, c.wall + 2.5)
    for x, y, a, b in ((0, 42, 36, 30), (8, 6, 24, 24), (0, -0.95 * front / st, 20, 30)):  # spine, aorta, thymus
        d = np.maximum(d, (1 - np.hypot((c.X - x * st) / a, (c.Y - y * st) / b)) * min(a, b))
    c.paint(ALL, np.abs(d) - 1.2, body.hu["muscle"], strength=0.7)  # the diaphragm
    c.paint(ALL, d, -850 + 25 * c.waves(body.fields[9], ALL), "lung", edge=2)


def heart(c: Canvas, body: Whole, part: Part, box: Box, d: np.ndarray) -> None:
    """Paint the heart in its fat, with the blood of two chambers that a septum parts."""
    slow, (x, y, _) = c.waves(body.fields[45], box), part.more["middle"]
    d = np.maximum(d + 1.5 * slow, c.wall[box] + 4)
    across = (c.X[box] - x + 8) * 0.75 - (c.Y[box] - y) * 0.66 + 2.5 * slow
    blood = np.maximum(d + np.where(across > 0, 9, 4), 4.5 - np.abs(across)) + c.waves(body.fields[24], box)
    c.paint(box, d - 7, body.hu["fat"] + 4 * slow, "fat")
    c.paint(box, d, part.hu, "muscle")
    c.paint(box, blood, body.hu["aorta"] - 6, "vessel", edge=4)


def skeleton(c: Canvas, body: Whole) -> None:
    """Paint ribs and spine, and below it the sacrum: body and wings, the joint beside them, canal and foramina."""
    s = (body.sacrum - c.z) / body.stature  # mm below the promontory
    bones(c, body, s < 0)
    if s < 0:
        return
    X, Y = np.abs(c.X) / body.stature, c.Y / body.stature - 40 - 0.32 * s - 0.007 * (c.X / body.stature) ** 2
    half, thick, fine = 55 - 0.12 * s, 19 - 0.07 * s, c.waves(body.fields[9], ALL)
    d = (((X / half) ** 3 + (np.abs(Y) / thick) ** 3) ** (1 / 3) - 1) * thick + 0.5 * fine
    c.paint(ALL, d - 2.5, 40.0, "fat", strength=X < half + 8)
    bone = np.minimum(d, np.maximum(X - 4, np.abs(Y - thick - 4) - 7))  # with its crest
    c.paint(ALL, bone, 460.0, "bone")
    c.paint(ALL, bone + 1.8, 165 + 35 * fine)
    canal = (np.hypot(X / 13, (Y - thick + 6) / 5.5) - 1) * 5.5
    gaps = np.minimum(canal, np.hypot(X - 22 + 0.04 * s, Y) - 5 + 9 * abs((s % 27) / 27 - 0.6))
    c.paint(ALL, gaps, body.hu["fat"] + 60, "fat")


PAINTERS["heart"], FRAMES["whole"] = heart, (torso, skeleton)
