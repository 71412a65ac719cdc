"""Paint one axial slice of an `Anatomy`: body wall, spine and ribs, organs, vessels; back to front."""

from typing import Any

import numpy as np

from vaelib.phantom.anatomy import Anatomy
from vaelib.phantom.body import Part
from vaelib.phantom.shapes import FAR, Box, Canvas, blend

ALL = (slice(None), slice(None))


def paint(canvas: Canvas, body: Anatomy) -> np.ndarray:
    """Paint all of a body on a canvas; return the pancreas' mask (H, W), bool."""
    around, within = FRAMES[body.table["name"]]
    around(canvas, body)
    mask = np.zeros(canvas.hu.shape, bool)
    for part in body.parts:
        found = part.shape.near(canvas)
        if part.kind == "pancreas":
            pancreas(canvas, body, part, found + part.more["uncinate"].near(canvas), mask)
        elif found:
            PAINTERS.get(part.kind, solid)(canvas, body, part, *found[0])
    within(canvas, body)
    return mask & canvas.among(ALL, "pancreas")


def cavity(X: np.ndarray, Y: np.ndarray, width: float, front: float, back: float) -> tuple[np.ndarray, np.ndarray]:
    """Compute the distance from the middle, and that to the inside of a wall with these half axes (mm)."""
    rho = np.sqrt(X * X + Y * Y) + np.float32(1e-3)
    u, v = (X / np.float32(width)) ** 2, (Y / np.where(Y > 0, np.float32(back), np.float32(front))) ** 2
    return rho, rho * (1 - (u**1.2 + v**1.2 + np.float32(1e-6)) ** np.float32(-1 / 2.4))


def torso(c: Canvas, body: Anatomy) -> None:
    """Paint skin, subcutaneous fat, the ring of muscle and the fat inside; sets `c.wall`."""
    side, thick = body.width + 8, body.muscle * 1.4 + body.subcutaneous * 1.25 + 8
    box = c.box(-side - thick, side + thick, -body.front * 1.25 - thick, body.back + 25 + thick)
    X, Y = c.X[box], c.Y[box]
    lift = c.z / 1000
    front, width = body.front * (1 - 0.9 * lift * body.fat - 0.3 * lift), body.width * (1 - 0.25 * lift)
    rho, wall = cavity(X, Y, width, front, body.back)
    c.wall[box] = wall
    cos, sin = X / rho, Y / rho  # sin < 0 in front
    lateral, behind, ahead = cos * cos, np.clip(sin, 0, 1) ** 2, sin < 0
    flat = body.muscle * (1 + 0.35 * lateral)  # the flank's three flat muscles; rectus in front
    semilunar = np.exp(-(((np.abs(X) - 66) / 7) ** 2)) * ahead
    midline = np.exp(-((X / 7) ** 2)) * np.where(ahead, body.muscle * 0.75, 9)
    muscle = flat * (1 - 0.5 * semilunar) - midline + 17 * behind * np.exp(-(((X / 72) ** 2) ** 2))
    ripple = c.waves(body.fields[45], box)
    under = body.subcutaneous * (0.85 + 0.35 * behind - 0.2 * lateral + 0.06 * ripple) + 1
    furrow = 4 * np.exp(-((X / 14) ** 2)) * behind
    outline = wall - flat - 19 * behind * np.exp(-((X / 95) ** 2)) + furrow - under
    bed = Y - (body.back + body.muscle + 19 + 0.8 * body.subcutaneous)  # the back lies flat on the table
    outline = -blend(-outline, -bed, 14)
    c.paint(box, outline, 25.0)
    fine, mid = c.waves(body.fields[9], box), c.waves(body.fields[24], box)
    fat = body.hu["fat"]
    c.paint(box, outline + 2.2, fat + 3 * mid, "fat")
    marbling = np.clip(1 - np.abs(c.waves(body.fields[14], box)) * 3.5, 0, 1)  # fat along a field's zeros
    flesh = body.hu["muscle"] + 3 * mid - marbling * behind * (35 + 70 * body.fat)
    c.paint(box, wall - muscle, flesh, "muscle")
    for depth in (0.36, 0.68):  # fat between the flat muscles of the flank
        seam = np.abs(wall - muscle * depth) - 0.5
        c.paint(box, seam, fat, strength=0.75 * lateral**2 * (np.abs(sin) < 0.75))
    c.paint(box, wall, fat + 4 * mid + 5 * ripple, "fat")
    back(c, body, box, flesh)
    if c.z > 58:  # the lung's base, in the recess behind liver and spleen
        depth = np.clip((c.z - 58 - 25 * body.phase) * 0.5, -9, 22) + 9
        lung = np.maximum(wall + 2.5, 9 - depth * np.clip(1.4 * sin + 0.15, 0, 1) - wall)
        c.paint(box, lung, -840 + 25 * fine, "lung", edge=3)


def back(c: Canvas, body: Anatomy, box: Box, flesh: np.ndarray) -> None:
    """Paint the muscles behind the cavity, each in a film of fat."""
    for side in (-1, 1):
        for x, y, a, b in ((34, 76, 33, 21), (66, 63, 20, 8)):
            dx, dy = (c.X[box] - side * x * body.stature) / a, (c.Y[box] - y * body.stature) / b
            d = (np.sqrt(dx * dx + dy * dy) - 1) * b
            c.paint(box, d - 1.2, body.hu["fat"], strength=0.6)
            c.paint(box, d, flesh, "muscle")


def bones(c: Canvas, body: Anatomy, spine: bool = True) -> None:
    """Paint ribs in section, and the vertebra that this slice meets: body or disc, ring, processes."""
    st, fine = body.stature, body.fields[9]
    for rib, bony in body.ribs:
        for box, d in rib.near(c):
            c.paint(box, d, 520.0 if bony else 105.0, "bone")
            if bony:
                c.paint(box, d + 1.7, 170 + 40 * c.waves(fine, box))
    if not spine:
        return
    t = (c.z / body.period + body.phase) % 1  # 0 at the lower plate, 0.78 at the upper, then the disc
    box = c.box(-50 * st, 50 * st, 10 * st, 104 * st)
    X, Y = c.X[box] / np.float32(st), c.Y[box] / np.float32(st)
    texture = c.waves(fine, box)
    waist = 2.2 * np.sin(np.pi * min(t / 0.78, 1))
    a, b = 24.5 - waist, 17.5 - waist
    far = (X / a) ** 2 + ((Y - 38) / b) ** 2
    dent = 3 * np.exp(-((X / 10) ** 2)) * (Y > 38)
    d = (np.sqrt(far) - 1) * (b + (a - b) * np.clip(np.abs(X) / a, 0, 1)) + dent
    plate = min(t, 0.78 - t) * 35 - 2.8 * (1 - far) + 0.5 * texture  # mm from the hollow end plates; < 0 in the disc
    canal = np.sqrt((X / 11.5) ** 2 + ((Y - 63) / 9) ** 2) - 1
    ring = np.abs(canal * 10 - 3) - (2.5 if 0.15 < t < 0.95 else 1.6)
    ring = np.where(Y < 57, np.maximum(ring, 0.0 if 0.35 < t < 0.8 else 4.0), ring)  # pedicles above, a way out below
    spine = np.maximum(np.abs(X) - 3.2 - 1.5 * (Y > 86), np.abs(Y - 82) - 13) if t < 0.6 else np.full_like(X, 99)
    wings = np.abs(Y - 60 - 0.22 * np.abs(X)) - 4 + 0.03 * np.abs(X) if 0.4 < t < 0.66 else np.full_like(X, 99)
    wings = np.maximum(wings, np.abs(X) - 37)
    facet = np.abs(np.sqrt((np.abs(X) - 17) ** 2 + (Y - 69) ** 2)) - (6.0 if t > 0.7 or t < 0.2 else 3)
    arch = np.minimum(np.minimum(ring, spine), np.minimum(wings, facet))
    c.paint(box, np.minimum(arch, canal * 10 - 1), body.hu["fat"] + 60)
    c.paint(box, canal * 10 + 1.5, 32.0, "fat")
    arch = np.maximum(arch, -canal * 10 - 0.5)
    c.paint(box, arch, 480.0, "bone")
    c.paint(box, arch + 2.2, 230 + 40 * texture)
    c.paint(box, d, 95.0, "bone")
    marrow = 185 + 28 * texture + 330 * np.exp(-np.clip(plate, 0, 9) / 1.2)
    c.paint(box, np.maximum(d, -plate), 470.0, "bone")
    c.paint(box, np.maximum(d + 1.8, -plate), marrow, edge=2)


def solid(c: Canvas, body: Anatomy, part: Part, box: Box, d: np.ndarray) -> None:
    """Paint an organ of one tissue, kept inside the wall; all but vessels with a slightly uneven surface."""
    if part.name not in ("vessel", "portal"):
        d = d + 0.9 * c.waves(body.fields[24], box)
    c.paint(box, np.maximum(d, c.wall[box] + 2), part.hu + 2 * c.waves(body.fields[45], box), part.name)


def flat(c: Canvas, body: Anatomy, part: Part, box: Box, d: np.ndarray) -> None:
    """Paint the vena cava, pressed a little flat by waves of long wavelength."""
    c.paint(box, d + 1.6 * c.waves(body.fields[45], box), part.hu + 5 * c.waves(body.fields[14], box), "cava")


def inside(c: Canvas, body: Anatomy, part: Part, box: Box, d: np.ndarray) -> None:
    """Paint a vessel that shows only inside its organ, by default the liver."""
    c.paint(box, d, part.hu, part.name, strength=0.85 * c.among(box, part.more.get("organ", "liver")))


def liver(c: Canvas, body: Anatomy, part: Part, box: Box, d: np.ndarray) -> None:
    """Paint both lobes in one, with the fissure of the round ligament and the fat of the hilum."""
    for left in part.more["left"].near(c):
        both = np.full((2, *c.hu.shape), FAR)
        both[0][box], both[1][left[0]] = d, left[1]
        box, d = ALL, blend(both[0], both[1], 18)
    spine = 47 - np.sqrt((c.X[box] + 6) ** 2 + (c.Y[box] - 46) ** 2)  # crus and vertebra keep the liver off
    d = -blend(-d, -spine, 8)
    solid(c, body, part, box, d)
    x, y, z = part.more["hilum"]
    line = c.X[box] - x * 0.55 - 0.25 * (c.Y[box] - y) - 2.5 * c.waves(body.fields[24], box)
    slit = np.abs(line) - 1 + max(0, c.z - z - 5) * 0.2 + 0.8 * c.waves(body.fields[14], box)
    slit = np.maximum(slit, np.abs(c.Y[box] - y + 42) - 26)
    c.paint(box, slit, body.hu["fat"], "fat", strength=0.9 * c.among(box, "liver"))
    porta = np.sqrt(((c.X[box] - x - 8) / 24) ** 2 + ((c.Y[box] - y) / 9) ** 2 + ((c.z - z) / 16) ** 2) * 9 - 9
    porta = porta + 1.5 * c.waves(body.fields[14], box)
    c.paint(box, porta, body.hu["fat"], "fat", strength=c.among(box, "liver"))


def kidney(c: Canvas, body: Anatomy, part: Part, box: Box, d: np.ndarray) -> None:
    """Paint perirenal fat, cortex, pyramids, and the sinus that opens forward and inward."""
    e: Any = part.shape  # an Ellipsoid
    side = part.more["side"]
    d = d + 0.8 * c.waves(body.fields[24], box)
    halo = np.where(c.among(box, "liver"), 1 + 2 * body.fat, 3 + 6 * body.fat)
    halo = halo * np.clip((e.radii[2] - abs(c.z - e.centre[2])) / 12, 0, 1)  # none above the pole
    c.paint(box, np.maximum(d - halo, c.wall[box] + 3), body.hu["fat"], "fat")
    medulla = c.waves(body.fields[14], box) > 0.1
    darker = 38 if body.enhanced else 0
    hu = part.hu + 3 * c.waves(body.fields[24], box) - darker * medulla * np.clip((-d - 5.5) / 2, 0, 1)
    c.paint(box, d, hu, "kidney")
    X, Y = c.X[box] - e.centre[0], c.Y[box] - e.centre[1]
    deep = (c.z - e.centre[2]) / (0.5 * e.radii[2])
    along, across = -side * X * 0.84 - Y * 0.54, -side * X * -0.54 - Y * 0.84
    sinus = np.sqrt(((along - 13) / 17) ** 2 + (across / 8.5) ** 2 + deep**2) - 1
    sinus = sinus * 8 + 1.5 * c.waves(body.fields[9], box)
    c.paint(box, sinus, body.hu["fat"], "fat")
    pelvis = (np.sqrt(((along - 10) / 11) ** 2 + (across / 3.5) ** 2 + (deep * 1.3) ** 2) - 1) * 3.5
    c.paint(box, pelvis + c.waves(body.fields[9], box), 22.0)


def gut(c: Canvas, body: Anatomy, part: Part, box: Box, d: np.ndarray) -> None:
    """Paint a hollow organ: wall, folds, what fills it (fluid, contrast, faeces) and gas in front of its level."""
    more, label = part.more, part.name
    fine = c.waves(body.fields[9], box)
    d = np.maximum(d + 0.7 * c.waves(body.fields[14], box), c.wall[box] + 1.5)
    c.paint(box, d - 1.2, body.hu["fat"], strength=0.7)  # a little fat parts most neighbours
    c.paint(box, d, part.hu + 4 * fine, label)
    lumen = d + more["wall"] + np.clip(more.get("folds", 0) * (1 + fine), 0, 6)
    hu = more["inside"] * (1 + more.get("speckle", 0.03) * fine)
    if "faeces" in more:
        mottle = c.waves(body.fields[14], box) + 0.8 * fine
        hu = np.where(mottle > 1.6 - more["faeces"], np.float32(-650), more["inside"] + 25 * fine)
    c.paint(box, lumen, hu, label)
    if more.get("gas") is not None:
        c.paint(box, np.maximum(lumen, c.Y[box] - more["gas"]), -950.0, label)


def pancreas(c: Canvas, body: Anatomy, part: Part, found: list[tuple[Box, np.ndarray]], mask: np.ndarray) -> None:
    """Paint the gland: lobulated margin, clefts of fat, and a film of fat that parts it from some neighbours."""
    if not found:
        return
    d = np.full(c.hu.shape, FAR)
    for box, near in found:
        d[box] = blend(d[box], near, 5) if len(found) > 1 else near
    fine, mid = c.waves(body.fields[9], ALL), c.waves(body.fields[14], ALL)
    d = d + body.table["rough"] * part.more["rough"] * (0.7 * fine + 0.5 * mid)
    film = d - np.clip(part.more["halo"] + 1.3 * c.waves(body.fields[24], ALL), 0, 4)
    c.paint(ALL, film, body.hu["fat"] + 5, "fat", strength=0.85)
    hu = part.hu + 4 * mid - part.more["clefts"] * 45 * np.clip(fine - 0.9, 0, 1)
    mask |= c.paint(ALL, d, hu, "pancreas")


PAINTERS: dict[str, Any] = {"liver": liver, "kidney": kidney, "gut": gut, "inside": inside, "flat": flat}
FRAMES: dict[str, Any] = {"abdomen": (torso, bones)}  # what is painted before all organs, and after them
