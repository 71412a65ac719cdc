"""One synthetic patient: habitus, skeleton, organs and vessels, every number drawn from one generator.

Organs hang on landmarks (vertebra, great vessels, duodenum, splenic hilum), and the pancreas on them:
its head lies in the duodenal loop, its neck before the portal confluence, its body over the superior
mesenteric artery, its tail at the splenic hilum. What it adds of its own is small, as in life.

Sizes: pancreas volume after Saisho et al., Clin Anat 2007;20:933 (72 +/- 26 ml at ages 20 to 60; head,
body and tail diameters as textbooks give them). Its HU are those of the patients of Pancreas-CT (Roth et
al., TCIA 2016, doi 10.7937/K9/TCIA.2016.tNB1kqBU): 93 +/- 20. Other organs: `HU`, portal-venous phase.
"""

from dataclasses import dataclass, field

import numpy as np

from vaelib.phantom.shapes import Ellipsoid, Tube, Waves

LABELS = (
    "background fat muscle bone liver spleen kidney stomach duodenum jejunum colon aorta cava portal "
    "vessel pancreas gallbladder lung"
).split()
LABEL = {name: number for number, name in enumerate(LABELS)}

HU = {  # mean and spread between patients, portal-venous phase
    "fat": (-106, 5), "muscle": (60, 3), "liver": (110, 6), "spleen": (122, 4), "kidney": (182, 10),
    "aorta": (155, 8), "cava": (140, 10), "portal": (166, 8), "pancreas": (99, 20), "gut": (78, 10),
    "gallbladder": (12, 4),
}  # fmt: skip


@dataclass
class Part:
    """An organ: its shape, HU and label, and what `paint` needs to know of its inside."""

    name: str
    shape: object
    hu: float
    kind: str = "solid"  # solid, gut, kidney, liver, pancreas, in_liver
    more: dict = field(default_factory=dict)


class Anatomy:
    """Everything about patient `number` under `seed`: `parts` in painting order, and `facts`."""

    def __init__(self, seed, number):
        self.rng = rng = np.random.default_rng([seed, number])
        n, u = rng.normal, rng.uniform
        self.stature = float(np.clip(n(1, 0.04), 0.91, 1.09))
        self.fat = float(rng.beta(1.4, 1.9))  # 0 thin ... 1 obese
        visceral = float(np.clip(self.fat + n(0, 0.15), 0, 1))
        st = self.stature
        self.width = st * (119 + 22 * visceral + n(0, 4))  # half axes of the abdominal cavity, mm
        self.front = st * (74 + 44 * visceral + n(0, 4))
        self.back = st * 70
        self.subcutaneous = 5 + 27 * self.fat * u(0.6, 1.2)
        self.muscle = st * u(8.5, 12.5)
        self.period = st * 35  # a vertebra with its disc
        self.phase = u(0, 1)
        self.hu = {name: mean + spread * float(np.clip(n(), -2, 2)) for name, (mean, spread) in HU.items()}
        self.warp = Waves(rng, 110, 12), Waves(rng, 110, 12)
        self.warp_mm = u(1.5, 3.5)
        self.fields = {mm: Waves(rng, mm, 28) for mm in (9, 14, 24, 45)}
        self.parts = []
        self._landmarks()
        self._skeleton()
        self._bowel()
        self._solid_organs()
        self._duodenum()
        self._pancreas()
        self._vessels()

    def place(self, *points):
        """Points of the standard body (mm) in this one; the further from the spine, the more they follow
        the cavity's size. Returns (N, 3), or (3,) for one point."""
        p = np.array(points, float) * self.stature
        p[:, 0] *= 1 + (self.width / (130 * self.stature) - 1) * np.clip(np.abs(p[:, 0]) / 110, 0, 1)
        ahead = np.clip(-p[:, 1] / 85, 0, 1.1)
        p[:, 1] *= 1 + (self.front / (92 * self.stature) - 1) * ahead
        return p if len(p) > 1 else p[0]

    def add(self, name, shape, hu=None, kind="solid", **more):
        self.parts.append(Part(name, shape, self.hu.get(name, 0) if hu is None else hu, kind, more))
        return shape

    def _landmarks(self):
        n = self.rng.normal
        self.loop = np.array([n(0, 5), n(0, 3), n(0, 7)])  # the duodenal loop's own place
        self.hilum = self.place((86, 16, 36)) + (n(0, 5), n(0, 6), n(0, 11))  # of the spleen
        self.confluence = self.place((-9, -15, 4)) + (n(0, 3), n(0, 2), n(0, 4))
        self.sma = self.place((5, 3, 16), (5, -7, 12), (5, -13, 2), (5, -19, -20), (3, -27, -90))
        self.sma[2:] += (n(0, 2), n(0, 1), 0)
        self.aorta = self.place((7, 9, -110), (8, 9, -40), (7, 9, 10), (5, 10, 60), (3, 14, 120))
        self.aorta[:, :2] += n(0, 2, (5, 2)) * (1, 0.6)
        self.arch = n(0, 3)  # how far the pancreatic body bulges forward

    def _skeleton(self):
        """Ribs 6 to 12 as tubes along the wall, sinking forward; cartilage where they end in front."""
        self.ribs = []
        for rank, back_z in enumerate(np.arange(7) * 27 + 58):
            for side in (-1, 1):
                reach = (68, 112, 165, 174, 178, 178, 178)[rank] * np.pi / 180
                turn = np.linspace(0.35, reach, 24)  # 0 at the spine, pi in front
                a, b = self.width + 5, np.where(turn < np.pi / 2, self.back + 8, self.front + 3)
                x = side * a * np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** 0.85
                y = b * np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** 0.85
                sink = np.interp(turn, [0.3, 1.7, 2.5, 3.2], [0, 128, 165, 140])
                z = (back_z + self.phase * 12 - sink + side) * self.stature
                bony = turn < 2.45
                points = np.stack([x, y, z], 1)
                self.ribs.append((Tube.along(points[bony], 4.3, 1.4), True))
                if (~bony).sum() > 3:
                    self.ribs.append((Tube.along(points[~bony], 5.5, 1.3), False))

    def _solid_organs(self):
        """Liver and its vessels, gallbladder, spleen, kidneys, adrenals, psoas and crura."""
        rng, at, add = self.rng, self.place, self.add
        n, u = rng.normal, rng.uniform
        st = self.stature
        size = u(0.9, 1.1)
        low = n(0, 14)
        right = Ellipsoid.at(at((-82, 2, 45)), np.array([68, 84, 92 + low]) * st * size, (0, u(-14, -4), 0))
        left = Ellipsoid.at(
            at((-8, -56, 62)), np.array([76 + n(0, 9), 30, 50 + n(0, 8)]) * st * size, (0, 8, u(-5, 12))
        )
        add("liver", right, kind="liver", left=left, hilum=at((-44, -15, 46)))
        self.liver_tree(st)
        if rng.random() < 0.8:
            gall = Ellipsoid.at(
                at((-56, -46, -2)) + n(0, 5, 3), np.array([13, 15, 26]) * u(0.7, 1.2), (u(10, 40), 0, 20)
            )
            add("gallbladder", gall, kind="gut", wall=1.3, inside=self.hu["gallbladder"], gas=None)
        spleen = Ellipsoid.at(
            (0.5 * (self.hilum[0] + self.width) + 6, self.hilum[1] + 14, self.hilum[2] + 4),
            np.array([35, 53, 54 + n(0, 6)]) * u(0.82, 1.12) * st,
            (0, 10, u(10, 26)),
        )
        add("spleen", spleen)
        for side, x in (("right", -1), ("left", 1)):
            centre = at((x * 63, 30, -16 if x < 0 else -8)) + (n(0, 4), n(0, 3), n(0, 8))
            kidney = Ellipsoid.at(centre, np.array([25, 29, 54]) * u(0.88, 1.12) * st, (-8, x * 12, x * -28))
            add("kidney", kidney, kind="kidney", side=x, stones=None)
            setattr(self, f"{side}_kidney", centre)
        for x in (-1, 1):  # adrenals, psoas and crura
            top = at((x * 30 - (x < 0) * 4, 16, 40))
            for limb in (-1, 1):
                add("gut", Tube.along([top, top + (limb * 6, 9, -6), top + (limb * 9, 17, -16)], [2.6, 2.1, 1.7]), 80)
            psoas = at((x * 27, 34, 30), (x * 34, 40, -10), (x * 42, 40, -60), (x * 48, 38, -120))
            add("muscle", Tube.along(psoas, np.array([4, 10, 14.5, 19]) * st))
            crus = at((x * 17 - 1, 10, 95), (x * 17, 12, 55), (x * 16 + 1, 15, 15), (x * 13, 20, -15))
            add("muscle", Tube.along(crus, [7, 6, 4.5, 3]))

    def _hollow(self, name, points, radii, fill, gas=None, **more):
        return self.add(name, Tube.along(points, radii), self.hu["gut"], "gut", inside=fill, gas=gas, **more)

    def _fill(self, chance):
        """What a loop holds: oral contrast by `chance`, else juice, or mucosa lying on mucosa."""
        given = self.contrast is not None and self.rng.random() < chance
        return self.contrast if given else self.rng.uniform(15, 85)

    def _bowel(self):
        """Jejunum and ileum, colon with its haustra, stomach. Later organs push these aside."""
        rng, at, tube = self.rng, self.place, self._hollow
        n, u = rng.normal, rng.uniform
        self.contrast = u(150, 400) if rng.random() < 0.75 else None
        for k in range(rng.integers(26, 36) - int(8 * self.fat)):
            x, y, z = (
                (56 + n(0, 24), -34 + n(0, 16), -40 + n(0, 22))
                if k < 14
                else (n(5, 45), -44 + n(0, 14), -85 + n(0, 16))
            )
            path = at((x, y, z)) + np.cumsum(n(0, 1, (5, 3)) * (17, 12, 11), 0)
            radii = u(7, 12) + n(0, 0.8, 5)
            tube("jejunum", path, radii, self._fill(0.45), wall=u(2, 3), folds=1.0, speckle=0.28)
        arc = at(
            (-100, 10, -110), (-98, 8, -60), (-90, -12, -36), (-72, -46, -36), (-38, -70, -44), (2, -74, -48),
            (46, -68, -30), (84, -46, 2), (104, -18, 30), (111, 10, 18), (112, 18, -14), (108, 16, -55), (106, 12, -110),
        )  # fmt: skip
        arc += n(0, 7, arc.shape) * (0.7, 0.7, 1.2)
        calibre = np.array([21, 21, 19, 17, 16, 16, 15, 15, 14, 12, 10, 10, 10]) * u(0.8, 1.25) + n(0, 1.5, 13)
        colon = tube(
            "colon", arc, calibre, u(20, 60), gas=float(arc[4:7, 1].mean()) - u(-4, 8), wall=2.0, faeces=u(0.2, 1)
        )
        along = np.cumsum(np.linalg.norm(np.diff(colon.points, axis=0, prepend=colon.points[:1]), axis=1))
        colon.radii *= (1 + 0.12 * np.sin(along * (2 * np.pi / 27))).astype(np.float32)
        full = u(0.62, 1.02)
        bag = at((62, -6, 88), (66, -30, 62), (58, -50, 30), (32, -60, 10), (4, -57, 9)) + n(0, 4, (5, 3))
        self.bulb = at((-22, -47, 13), (-38, -41, 16)) + self.loop
        tube(
            "stomach", np.vstack([bag, self.bulb[:1]]), np.array([38, 35, 27, 21, 16, 10]) * ([full] * 4 + [1, 1]),
            self._fill(0.75), gas=float(bag[2:4, 1].mean()) - full * u(0, 14), wall=u(3, 5), folds=1.6,
        )  # fmt: skip

    def _duodenum(self):
        """The C-loop, from the bulb around the head of the pancreas to the flexure."""
        at = self.place
        self.second = at((-54, -12, -10), (-53, -8, -32)) + self.loop
        rest = at((-41, -6, -50), (-16, -12, -55), (8, -13, -53), (26, -9, -40), (32, -14, -18))
        rest[:, 2] += self.loop[2]
        path = np.vstack([self.bulb, at((-50, -27, 6)) + self.loop, self.second, rest])
        radii = np.array([9, 12, 11, 11, 11, 10.5, 9, 8.5, 9, 9]) * self.rng.uniform(0.85, 1.15)
        self._hollow("duodenum", path, radii, self._fill(0.35), wall=2.2, folds=1.0, speckle=0.1)

    def _pancreas(self):
        rng = self.rng
        n, u = rng.normal, rng.uniform
        g = float(np.clip(n(1.02 + 0.08 * self.fat, 0.15), 0.74, 1.42))
        head, body, tail = (g * np.clip(n(m, s), m - 2 * s, m + 2 * s) for m, s in ((28, 3.5), (16, 3), (18, 2.5)))
        self.diameters = head, body, tail
        neck = self.confluence + (3, -(6.5 + body * 0.45), 3)
        medial = self.second + (11 + head / 2 - 3, 0, 0)  # beside the descending duodenum
        low, mid = medial[1] * (1, 1, 1) + (3, 0, 6), medial[0] + (0, -3, 2)
        over = self.place((17, -30, 12)) + (0, self.arch, n(0, 3))
        over[2] = 0.5 * over[2] + 0.5 * (0.7 * neck[2] + 0.3 * self.hilum[2])
        end = self.hilum + (-13, -4, -3)
        t1, t2 = over + (end - over) * 0.38, over + (end - over) * 0.72
        t1, t2 = t1 + (0, 1 + n(0, 2), n(0, 3)), t2 + (0, 5 + n(0, 2), n(0, 3))
        path = np.stack([low, mid, 0.45 * mid + 0.55 * neck + (0, 2, 2), neck, over, t1, t2, end])
        radii = np.array([head * 0.8, head, head * 0.8, body * 0.95, body, (body + tail) / 2, tail, tail * 0.75]) / 2
        main = Tube.along(path, radii, 1.6)
        hook = self.confluence + (-3, 14, -24 + n(0, 4))  # the uncinate process, behind the vein
        uncinate = Tube.along([low + (2, 2, 4), 0.5 * (low + hook) + (0, 2, 0), hook], [8 * g, 7 * g, 5 * g], 1.4)
        self.lobulated = rng.random() < 0.2
        self.path = main
        self.add(
            "pancreas", main, kind="pancreas", uncinate=uncinate, rough=1.9 if self.lobulated else u(0.4, 0.9),
            clefts=float(np.clip(0.25 + 0.5 * self.fat + n(0, 0.25), 0, 1)), halo=u(0.3, 1.6),
        )  # fmt: skip
        length = float(np.linalg.norm(np.diff(main.points, axis=0), axis=1).sum())
        self.extent = float(main.points[:, 2].min() - head), float(main.points[:, 2].max() + tail)
        self.facts = dict(head_mm=head, body_mm=body, tail_mm=tail, length_mm=length, lobulated=bool(self.lobulated))

    def _vessels(self):
        rng, at, add = self.rng, self.place, self.add
        n, u = rng.normal, rng.uniform
        aorta = Tube.along(self.aorta, u(8.5, 11) * np.array([0.92, 0.95, 1, 1.08, 1.12]))
        cava = at((-22, 10, -110), (-23, 9, -40), (-23, 8, 10), (-24, 2, 55), (-24, -6, 110)) + n(0, 1.5, (5, 3))
        add("cava", Tube.along(cava, u(9, 12), 1.0), kind="flat")
        renal = self.hu["cava"] + 15
        left = self.left_kidney + (-22, -8, 0)
        add(
            "cava", Tube.along([left, at((22, -3, -3)), at((4, -5, -3)), cava[2] + (4, -3, -12)], [5, 5, 3.8, 5]), renal
        )
        right = self.right_kidney + (20, -8, 0)
        add("cava", Tube.along([right, 0.5 * (right + cava[2]) + (0, 2, -6), cava[2] + (0, 2, -14)], 5), renal)
        for kidney in (left, right):
            add(
                "vessel",
                Tube.along([kidney + (0, 5, 2), 0.5 * (kidney + at((7, 9, -8))) + (0, 6, 0), at((7, 10, -8))], 2.8),
                self.hu["aorta"],
            )
        add("aorta", aorta)
        artery = self.hu["aorta"]
        add("vessel", Tube.along(self.sma, [4, 4, 3.7, 3.4, 3]), artery)
        celiac = at((5, 0, 30), (4, -13, 31))
        add("vessel", Tube.along(celiac, 3.8), artery)
        add(
            "vessel",
            Tube.along([celiac[1], at((-14, -20, 30)), at((-34, -26, 36)), at((-50, -22, 52))], [3, 2.8, 2.3, 2]),
            artery,
        )
        c, pancreas = self.confluence, self.path
        behind = [pancreas.at(f) + (0, 0.75 * r + 3, 2) for f, r in ((0.58, 8), (0.7, 8), (0.82, 9), (0.93, 9))]
        splenic = np.array([c + (4, 0, 2), *behind, self.hilum + (4, 2, 0)])
        add("portal", Tube.along(splenic, [5.5, 4.8, 4.5, 4.3, 4, 3.5]))
        wavy = splenic[1:] + (0, -3, 8) + n(0, 2.5, (5, 3))
        add("vessel", Tube.along([celiac[1], *wavy], 2.4), artery)
        smv = np.array(
            [
                at((-12, -32, -90)),
                at((-11, -24, -45)),
                c + (0, -3, -16),
                c,
                c + (-12, -1, 14),
                at((-38, -18, 36)),
                at((-50, -18, 48)),
            ]
        )
        add("portal", Tube.along(smv, np.array([4.8, 5.4, 6, 6.8, 6.5, 6.3, 5.5])))
        for k in range(80):  # mesenteric branches fan out to the bowel; gastric and omental twigs
            root = self.sma[3:5] if k < 50 else at((20, -70, 20), (40, -70, -30))
            start = root[0] + (root[1] - root[0]) * u(0, 1) + n(0, 4, 3)
            end = at((n(30, 55), -52 + n(0, 14), -45 + n(0, 32)))
            middle = 0.5 * (start + end) + n(0, 8, 3)
            add("vessel", Tube.along([start, middle, end], [u(1.2, 2.4), 1.4, 0.8]), artery - u(0, 30), kind="twig")
        hilar = self.hilum + n(0, 1, (4, 3)) * (3, 10, 14)
        for point in hilar:
            add("portal", Tube.along([self.hilum + (-2, 0, 0), 0.5 * (point + self.hilum), point + (8, 2, 0)], 2.6))

    def liver_tree(self, st):
        """Portal branches from the hilum and hepatic veins towards the cava, painted only inside the liver."""
        rng = self.rng
        n = rng.normal
        hub, top = self.place((-46, -14, 46)), self.place((-26, -4, 105))
        for k in range(9):
            portal = k < 5
            start = hub if portal else top
            end = (
                self.place((-90 + n(0, 22), -5 + n(0, 35), 25 + n(0, 40)))
                if k % 4
                else self.place((-10 + n(0, 20), -58, 62 + n(0, 10)))
            )
            middle = 0.55 * start + 0.45 * end + n(0, 7, 3)
            hu = self.hu["portal"] - (4 if portal else 12)
            self.add("portal", Tube.along([start, middle, end], [5 if portal else 4.5, 3.4, 1.3]), hu, "in_liver")
            for _ in range(3):
                a = middle + (end - middle) * rng.uniform(0, 0.7)
                b = a + n(0, 1, 3) * (26, 26, 22)
                self.add("portal", Tube.along([a, 0.5 * (a + b) + n(0, 3, 3), b], [2.6, 2, 1]), hu, "in_liver")
