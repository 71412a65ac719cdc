"""A patient from the base of the lungs to the pelvis: what the first cohort's scans do not reach, and a body to hold it.

Habitus, organs and pancreas are drawn as there, from numbers of their own, so that no patient is in both cohorts. The
chest, the pelvis, the bowel and the body wall are this file's.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import CubicSpline

from vaelib.phantom.anatomy import Anatomy
from vaelib.phantom.body import Part
from vaelib.phantom.paint import ALL, PAINTERS, organs, ribs, vertebra
from vaelib.phantom.shapes import TABLES, Box, Canvas, Ellipsoid, Tube

TABLE = {name: np.array(rows) for name, rows in TABLES["whole"].items()}
PROFILE = CubicSpline(TABLE["profile"][:, 0], TABLE["profile"][:, 1:])

TOPS = "liver", "spleen", "stomach"  # what lies under the domes of the diaphragm


class Whole(Anatomy):
    """Everything about patient `number` of the second cohort; `reach` is where the scan ends, in mm."""

    stream = (3,)

    def __init__(self, seed: int, number: int, enhanced: bool = True):
        super().__init__(seed, number, enhanced)
        n, u, st = self.rng.normal, self.rng.uniform, self.stature
        self.reach = st * u(-208, -178), st * u(175, 222)
        self.crest, self.sacrum = st * (-82 + n(0, 5)), (-3 - self.phase) * self.period - 8
        self.infiltrated = float(np.clip(0.2 + 0.6 * self.fat + n(0, 0.15), 0, 1))
        replaced = {"jejunum", "colon"}
        kept = [p for p in self.parts if p.name not in replaced and (p.name != "muscle" or p.shape.span[0] > -60 * st)]
        for part in kept:
            shape: Any = part.shape
            if part.name == "spleen":  # its top lies under the diaphragm
                shape.centre, shape.radii = shape.centre + (0, -4, 18), shape.radii * (1.1, 1.1, 1.2)
            if part.name == "pancreas":  # longer than in the first cohort, and as heavy
                shape.radii *= np.float32(0.9)
        self.parts = []
        self._loops()
        self._pelvis()
        self.parts += kept
        self._chest()

    def _landmarks(self) -> None:
        """Draw a body as wide as those of the collection, and a tail of the pancreas that reaches the spleen behind."""
        n = self.rng.normal
        self.width, self.front = self.width * n(1.07, 0.035), self.front * n(1.04, 0.035)
        super()._landmarks()
        self.hilum += (16, 15, -8)
        self.loop += (-4, 0, -6)
        self.confluence[2] += 4
        self.arch = n(-11, 4)

    def level(self, z: ArrayLike) -> tuple[np.ndarray, ...]:
        """Compute, at heights `z`, width and front of the cavity, flat muscles, fat, and the spine's place, in mm."""
        width, front, muscle, fat, bend = np.moveaxis(PROFILE(np.asarray(z) / self.stature), -1, 0)
        front = self.front * front * (1 - 0.9 * self.fat * np.clip(z, -120, 120) / 1000)
        return self.width * width, front, self.muscle * muscle, self.subcutaneous * fat, self.stature * bend

    def _skeleton(self) -> None:
        """Place all ribs, the last two of them free and short, the costal arch, and the sternum."""
        self.ribs = []
        for rank, reach in enumerate(np.radians(TABLE["reach"])):
            turn = np.linspace(0.35, reach, 24)  # 0 at the spine, pi in front
            sink = np.interp(turn, *TABLE["sink"].T) * (1.3 if rank < 2 else 1)
            z = (rank * 27 + 58 + self.phase * 12 - sink) * self.stature
            width, front = self.level(z)[:2]
            b, bony = np.where(turn < np.pi / 2, self.back + 8, front + 3), turn < 2.35
            for side in (-1, 1):
                x, y = (f(turn) for f in (np.sin, np.cos))
                x, y = (np.sign(v) * np.abs(v) ** 0.85 * size for v, size in ((x, side * (width + 5)), (y, b)))
                points = np.stack([x, y, z + side], 1)
                self.ribs.append((Tube(points[bony], 4.0, 1.5), True))
                if (~bony).sum() > 3:
                    self.ribs.append((Tube(points[~bony], 5.5, 1.3), False))
        low, high = (np.array([0, -self.level(z)[1] - 6, z]) for z in (130 * self.stature, 265 * self.stature))
        lean = np.degrees(np.arctan2(high[1] - low[1], high[2] - low[2]))
        self.ribs.append((Ellipsoid((low + high) / 2, (18, 6, 75), (-lean, 0, 0)), True))

    def _loops(self) -> None:
        """Add colon, and ileum and jejunum in coils that fill the cavity; each has its twig of the mesentery."""
        rng, at = self.rng, self.place
        n, u = rng.normal, rng.uniform
        *way, calibre = TABLE["colon"].T
        arc = at(*np.transpose(way)) + n(0, 6, (len(calibre), 3)) * (0.8, 0.8, 1.3)
        calibre = calibre * u(0.8, 1.2) + n(0, 1.5, len(calibre))
        colon = self._hollow("colon", arc, calibre, u(20, 60), float(arc[5:9, 1].mean()) - u(-4, 8), wall=1.8,
                             faeces=u(0.2, 1))  # fmt: skip
        along = np.cumsum(np.linalg.norm(np.diff(colon.points, axis=0, prepend=colon.points[:1]), axis=1))
        colon.radii *= (1 + 0.12 * np.sin(along * (2 * np.pi / 27))).astype(np.float32)
        full, twigs = u(0.3, 0.85), []
        for z in np.arange(-205, 25, 24):
            for x in np.arange(-70, 96, 29):
                for y in (-14, -40, -64):
                    if rng.random() < 0.22 + 0.2 * self.fat or z > (-45 if x < 10 else -15 if y > -20 else 25):
                        continue
                    centre = np.array([x * (1 if z > -150 else 0.8), y, z]) + n(0, 6, 3)
                    turn, lean = u(0, 2 * np.pi), u(-1, 1)
                    t = np.linspace(-2.4, 2.4, 7) * u(0.6, 1)
                    bow = np.stack([20 * np.sin(t), 9 * np.cos(2 * t), 13 * lean * t / 2], 1)
                    bow[:, :2] = bow[:, :2] @ [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]
                    radii, fill = u(7.5, 12.5) + n(0, 1, 7), self._fill(full)
                    gas = float(at(centre)[1] - u(0, 6)) if y < -50 and rng.random() < 0.15 else None
                    tube = self._hollow("jejunum", at(*(centre + bow)), radii, fill, gas, wall=u(1.6, 2.8), folds=1.0,
                                        speckle=0.28)  # fmt: skip
                    twigs.append(tube.points[len(tube.points) // 2])
        for end in twigs:
            root = self.sma[3] + (self.sma[4] - self.sma[3]) * np.clip((end[2] + 20) / -80, 0, 1) + n(0, 4, 3)
            way = [root, 0.5 * (root + end) + n(0, 6, 3), 0.25 * root + 0.75 * end + n(0, 4, 3)]
            self.add("vessel", Tube(way, [u(1.2, 2.2), 1.3, 0.8]), self.hu["aorta"] - u(0, 30) * self.enhanced)

    def _pelvis(self) -> None:
        """Add psoas and the iliac vessels, which go on where the great vessels of the first cohort end."""
        at, hu, st = self.place, self.hu, self.stature
        way, vessel = TABLE["psoas"], TABLE["iliac"]
        for x in (-1, 1):
            self.add("muscle", Tube(at(*way[:, :3] * (x, 1, 1)), way[:, 3] * st * self.rng.uniform(0.85, 1.1)))
            below = at(*vessel[1:, :3] * (x, 1, 1))
            self.add("vessel", Tube(np.vstack([at((7, 8, -92)), below]), vessel[:, 3]), hu["aorta"])
            vein = np.vstack([at((-22, 9, -95)), below + (-4, 10, 0)])
            self.add("cava", Tube(vein, vessel[:, 3] * 1.3), hu["cava"] - 10)

    def _chest(self) -> None:
        """Add heart, oesophagus, aorta and cava above the diaphragm, and the vessels of the lungs."""
        at, n, st = self.place, self.rng.normal, self.stature
        liver, spleen, bag = (next(p.shape for p in self.parts if p.name == name) for name in TOPS)
        liver, spleen = (e.centre[2] + e.radii[2] for e in (liver, spleen))
        self.domes = liver - 10 * st, min(liver, max(spleen, (bag.points[:, 2] + bag.radii).max())) - 4 * st
        size = np.array([60, 44, 48]) * st * self.rng.uniform(0.92, 1.08)
        heart = Ellipsoid([*at((20, -40, 0))[:2], np.mean(self.domes) + 0.85 * size[2]], size, (0, 20, 35))
        self.add("muscle", heart, 92.0 if self.enhanced else 45.0, "heart")
        self.add("aorta", Tube(np.vstack([self.aorta[-1], at((6, 13, 150), (14, 15, 250))]), 11))
        self.add("cava", Tube(at((-24, -6, 110), (-26, -12, 128), (-22, -20, 145)), 11), kind="flat")
        self.add("stomach", Tube(at((30, -12, 98), (12, -2, 112), (3, 0, 140), (-2, 2, 250)), 7.5), self.hu["gut"])
        for k in range(110):
            side = 1 - 2 * (k % 2)
            start = at((side * n(42, 12), n(0, 16), 215 + n(0, 14)))
            end = at((side * (84 + n(0, 22)), n(5, 38), 120 + n(0, 30)))
            middle = 0.5 * (start + end) + n(0, 9, 3)
            width = self.rng.uniform(1.6, 3.4)
            self.add("vessel", Tube([start, middle, end], [width, width * 0.6, 0.8]), 90.0, "in_lung")


def paint_whole(canvas: Canvas, body: Whole) -> np.ndarray:
    """Paint all of a body on a canvas, as `paint` does; return the pancreas' mask (H, W), bool."""
    bend = np.float32(body.level(canvas.z)[4])  # the spine's curves: the whole slice is painted so far back
    canvas.y, canvas.Y = canvas.y - bend, canvas.Y - bend
    torso(canvas, body)
    mask = organs(canvas, body)
    ribs(canvas, body)
    (sacrum if canvas.z < body.sacrum else vertebra)(canvas, body)
    return mask


def torso(c: Canvas, body: Whole) -> None:
    """Paint skin, fat, the muscles of flank, back and hip, the iliac wings, and fat and lungs inside."""
    width, front, muscle, under, bend = (np.float32(v) for v in body.level(c.z))
    X, Y = c.X, c.Y
    rho = np.sqrt(X * X + Y * Y) + np.float32(1e-3)
    n = ((X / width) ** 2 + np.float32(1e-6)) ** 1.2 + ((Y / np.where(Y > 0, body.back, front)) ** 2) ** 1.2
    n = n ** np.float32(1 / 2.4)  # 0 in the middle, 1 at the wall
    c.wall[:] = wall = rho * (1 - 1 / n)
    turn = np.arctan2(np.abs(X), Y)  # 0 behind, pi in front
    lateral, behind = (X / rho) ** 2, np.clip(Y / rho, 0, 1) ** 2
    hip, chest = np.clip((body.crest - c.z) / 60, 0, 1), np.clip((c.z - 60) / 60, 0, 1)
    fine, mid, ripple = (c.waves(body.fields[mm], ALL) for mm in (9, 24, 45))
    marbling = np.clip(1 - np.abs(c.waves(body.fields[14], ALL)) * 3.5, 0, 1)  # fat along a field's zeros
    fat, flesh = body.hu["fat"] + 3 * mid, body.hu["muscle"] + 3 * mid
    lean = flesh - marbling * body.infiltrated * (20 + 70 * hip)
    semilunar, midline = np.exp(-(((np.abs(X) - 64) / 7) ** 2)), np.exp(-((X / 6) ** 2))
    flat = muscle * (1 + 0.35 * lateral) * (1 - (Y < 0) * (1 - chest) * (0.5 * semilunar + 0.8 * midline))
    gluteal = hip * (34 * np.exp(-(((turn - 0.8) / 0.5) ** 2)) + 14 * np.exp(-(((turn - 1.6) / 0.5) ** 2)))
    loin = (17 + 6 * chest) * behind * np.exp(-(((X / 78) ** 2) ** 2))
    flesh_out = flat + gluteal + 7 * chest * np.exp(-(((turn - 1.2) / 0.5) ** 2))
    under = under * (0.62 + 0.55 * behind + 0.3 * lateral + 0.035 * ripple) + 2
    outline = wall - flesh_out - loin - under + 4 * np.exp(-((X / 14) ** 2)) * behind
    bed = Y + bend + X * X / 1000 - (body.back + body.muscle + 17 + 0.9 * body.subcutaneous)  # the table's curve
    outline = np.maximum(outline, bed) + 3.5 * np.clip(1 - np.abs(outline - bed) / 14, 0, 1) ** 2
    c.paint(ALL, outline, 25.0)
    c.paint(ALL, outline + 2.2, fat, "fat")
    off = 12 * np.clip(1.15 - turn, 0, 1) * (1 - hip)  # no flat muscle over the loin, where the back's lie
    c.paint(ALL, wall - flesh_out + off, flesh - 0.4 * (flesh - lean), "muscle")
    for depth in (0.36, 0.68):  # fat between the layers of flank and hip
        c.paint(ALL, np.abs(wall - flesh_out * depth + ripple) - 0.5, fat, strength=0.75 * (lateral * (Y > -0.7 * front)))
    c.paint(ALL, wall, fat + 4 * mid + 5 * ripple, "fat")
    back_muscles(c, body, lean, fat, chest)
    if hip:
        span = 0.95 * hip**0.55
        end = np.maximum(1.2 - span - turn, turn - 1.25 - span) * rho
        c.paint(ALL, np.maximum(np.abs(wall + 6) - 7 - 5 * np.cos(turn - 1.2), end + 6), flesh, "muscle")  # iliacus
        wing = np.maximum(np.abs(wall - 4) - 3.5 - 3 * np.clip(1 + end / 25, 0, 1) - 0.8 * mid, end)
        c.paint(ALL, wing, 520.0, "bone")
        c.paint(ALL, wing + 2, 190 + 40 * fine)
    if chest:
        lungs(c, body, n, rho)


def back_muscles(c: Canvas, body: Whole, lean: np.ndarray, fat: np.ndarray, chest: float) -> None:
    """Paint multifidus, erector spinae and quadratus lumborum on both sides, parted by fat."""
    low = np.clip(-c.z / 100, 0, 1)
    for x, y, a, b in ((63, 62, 19, 9), (41, 81 + 6 * chest, 23 - 5 * chest - 4 * low, 17 - 5 * chest), (16, 85, 14, 15)):
        if x == 63 and not -1.15 * abs(body.crest) - 20 < c.z < 45:
            continue
        dx, dy = (np.abs(c.X) / body.stature - x) / a, (c.Y / body.stature - y - 0.1 * (np.abs(c.X) - x)) / b
        d = ((np.abs(dx) ** 2.8 + np.abs(dy) ** 2.8) ** np.float32(1 / 2.8) - 1) * b + 0.8 * c.waves(body.fields[24], ALL)
        c.paint(ALL, d - 1.2, fat, strength=0.8)
        c.paint(ALL, d, lean, "muscle")


def lungs(c: Canvas, body: Whole, n: np.ndarray, rho: np.ndarray) -> None:
    """Paint the lungs above a dome that falls to the recess behind; organs under it are painted later."""
    st, sin = body.stature, c.Y / rho
    base = st * (66 - 26 * np.clip(sin, 0, 1) + 45 * np.clip(-sin, 0, 1)) + 8 * body.phase
    right, left = body.domes
    rise = np.clip((c.z - base) / (right + (left - right) * (0.5 + 0.5 * np.tanh(c.X / 25)) - base), 0, 1)
    d = np.maximum((np.sqrt(1 - rise**2) - n) * rho / n, c.wall + 2.5)
    for x, y, a, b in ((0, 42, 36, 30), (8, 6, 24, 24), (0, -0.95 * float(body.level(c.z)[1]), 20, 30)):
        d = np.maximum(d, (1 - np.sqrt(((c.X - x * st) / a) ** 2 + ((c.Y - y * st) / b) ** 2)) * min(a, b))
    c.paint(ALL, np.abs(d) - 1.2, body.hu["muscle"], strength=0.7)  # the diaphragm
    c.paint(ALL, d, -850 + 25 * c.waves(body.fields[9], ALL), "lung", edge=2)


def heart(c: Canvas, body: Whole, part: Part, box: Box, d: np.ndarray) -> None:
    """Paint the heart in its fat, with the blood of both ventricles, or of atrium and ventricle, parted by a septum."""
    d = np.maximum(d + 1.5 * c.waves(body.fields[45], box), c.wall[box] + 4)
    c.paint(box, d - 7, body.hu["fat"] + 4 * c.waves(body.fields[24], box), "fat")
    c.paint(box, d, part.hu, "muscle")
    shape: Any = part.shape
    across = (c.X[box] - shape.centre[0] + 8) * 0.75 - (c.Y[box] - shape.centre[1]) * 0.66
    septum = 4.5 - np.abs(across + 2.5 * c.waves(body.fields[45], box))
    blood = np.maximum(d + np.where(across > 0, 9, 4), septum)
    c.paint(box, blood + c.waves(body.fields[14], box), body.hu["aorta"] - 6, "vessel", edge=4)


def in_lung(c: Canvas, body: Whole, part: Part, box: Box, d: np.ndarray) -> None:
    """Paint a vessel that shows only inside the lung."""
    c.paint(box, d, part.hu, strength=c.among(box, "lung"))


def sacrum(c: Canvas, body: Whole) -> None:
    """Paint the sacrum: body and wings, the joint beside them, canal and foramina."""
    st, fine = body.stature, c.waves(body.fields[9], ALL)
    s = (body.sacrum - c.z) / st  # mm below the promontory
    X, Y = np.abs(c.X) / st, c.Y / st - 40 - 0.32 * s - 0.007 * (c.X / st) ** 2
    half, thick = 55 - 0.12 * s, 19 - 0.07 * s
    d = (((X / half) ** 3 + (np.abs(Y) / thick) ** 3) ** (1 / 3) - 1) * thick + 0.5 * fine
    c.paint(ALL, d - 2.5, 40.0, "fat", strength=X < half + 8)
    crest = np.maximum(X - 4, np.abs(Y - thick - 4) - 7)
    bone = np.minimum(d, crest)
    c.paint(ALL, bone, 460.0, "bone")
    c.paint(ALL, bone + 1.8, 165 + 35 * fine)
    canal = (np.sqrt((X / 13) ** 2 + ((Y - thick + 6) / 5.5) ** 2) - 1) * 5.5
    hole = np.hypot(X - 22 + 0.04 * s, Y) - 5 + 9 * abs((s % 27) / 27 - 0.6)
    c.paint(ALL, np.minimum(canal, hole) - 1.3, 430.0, "bone", strength=d < 0)
    c.paint(ALL, np.minimum(canal, hole), body.hu["fat"] + 60, "fat")


PAINTERS |= {"heart": heart, "in_lung": in_lung}
