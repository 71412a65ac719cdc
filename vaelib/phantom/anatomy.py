"""The organs of a synthetic patient, each hung on its landmarks and added in the order of painting."""

import numpy as np
from numpy.typing import ArrayLike

from vaelib.phantom.body import Body
from vaelib.phantom.shapes import Ellipsoid, Tube


class Anatomy(Body):
    """Everything about patient `number` under `seed`: `parts` in painting order, and `facts`.

    `enhanced` says whether contrast medium runs in the vessels; what was drunk is there in either case.
    """

    def __init__(self, seed: int, number: int, enhanced: bool = True):
        super().__init__(seed, number, enhanced)
        self._bowel()
        self._solid_organs()
        self._duodenum()
        self._pancreas()
        self._vessels()

    def _solid_organs(self) -> None:
        """Add liver and its vessels, gallbladder, spleen, kidneys, adrenals, psoas and crura."""
        rng, at, add = self.rng, self.place, self.add
        n, u, st = rng.normal, rng.uniform, self.stature
        size, low = u(0.9, 1.1), n(0, 14)
        right = Ellipsoid(at((-82, 2, 45)), np.array([68, 84, 92 + low]) * st * size, (0, u(-14, -4), 0))
        left = Ellipsoid(at((-8, -56, 62)), np.array([76 + n(0, 9), 30, 50 + n(0, 8)]) * st * size, (0, 8, u(-5, 12)))
        add("liver", right, kind="liver", left=left, hilum=at((-44, -15, 46)))
        self._liver_tree()
        if rng.random() < 0.8:
            gall = Ellipsoid(at((-56, -46, -2)) + n(0, 5, 3), np.array([13, 15, 26]) * u(0.7, 1.2), (u(10, 40), 0, 20))
            add("gallbladder", gall, kind="gut", wall=1.3, inside=self.hu["gallbladder"], gas=None)
        middle = 0.5 * (self.hilum[0] + self.width) + 6, self.hilum[1] + 14, self.hilum[2] + 4
        add("spleen", Ellipsoid(middle, np.array([35, 53, 54 + n(0, 6)]) * u(0.82, 1.12) * st, (0, 10, u(10, 26))))
        self.kidneys = []  # their centres, right and left
        for x in (-1, 1):
            centre = at((x * 63, 30, -16 if x < 0 else -8)) + (n(0, 4), n(0, 3), n(0, 8))
            kidney = Ellipsoid(centre, np.array([25, 29, 54]) * u(0.88, 1.12) * st, (-8, x * 12, x * -28))
            add("kidney", kidney, kind="kidney", side=x)
            self.kidneys.append(centre)
        for x in (-1, 1):  # adrenals, psoas and crura
            top = at((x * 30 - (x < 0) * 4, 16, 40))
            for limb in (-1, 1):
                bent = [top, top + (limb * 6, 9, -6), top + (limb * 9, 17, -16)]
                add("adrenal", Tube(bent, [2.6, 2.1, 1.7]), 80 if self.enhanced else 25)
            *way, thick = np.transpose(self.table["psoas"])
            add("muscle", Tube(at(*np.transpose(way) * (x, 1, 1)), thick * st))
            for dx, y in ((-5, 1), (0, 10), (3, 20)):  # a crus drapes the aorta's side
                crus = at((x * (18 + dx), y - 2, 105), (x * (18 + dx), y, 55), (x * (15 + dx), y + 4, 15))
                add("muscle", Tube(np.vstack([crus, at((x * 13, 20, -10))]), [4.6, 4.4, 3.6, 2.5]))

    def _hollow(self, name, points: ArrayLike, radii: ArrayLike, fill: float, gas: float | None = None, **more) -> Tube:
        """Add a tube with a wall; `fill` is the HU inside, `gas` the height (mm) of the level it lies on."""
        tube = Tube(points, radii)
        self.add(name, tube, self.hu["gut"], "gut", inside=fill, gas=gas, **more)
        return tube

    def _fill(self, chance: float) -> float:
        """Draw the HU of what a loop holds: oral contrast by `chance`, else juice, or mucosa lying on mucosa."""
        if self.contrast is not None and self.rng.random() < chance:
            return self.contrast
        return self.rng.uniform(15, 85)

    def _loops(self) -> None:
        """Add jejunum and ileum."""
        n, u = self.rng.normal, self.rng.uniform
        for k in range(self.rng.integers(30, 40) - int(8 * self.fat)):
            upper, lower = (56, -34, -40) + n(0, 1, 3) * (24, 16, 22), (5, -42, -78) + n(0, 1, 3) * (48, 15, 15)
            path = self.place(upper if k < 14 else lower) + np.cumsum(n(0, 1, (5, 3)) * (17, 12, 11), 0)
            radii, fill, wall = u(7, 12) + n(0, 0.8, 5), self._fill(0.45), u(2, 3)
            self._hollow("jejunum", path, radii, fill, wall=wall, folds=1.0, speckle=0.28)

    def _bowel(self) -> None:
        """Add the loops, colon with its haustra, stomach. Later organs push these aside."""
        rng, at, tube = self.rng, self.place, self._hollow
        n, u = rng.normal, rng.uniform
        self.contrast = u(150, 400) if rng.random() < 0.75 else None
        self._loops()
        *way, calibre = np.transpose(self.table["colon"])
        arc = at(*np.transpose(way)) + n(0, 7, (len(calibre), 3)) * (0.7, 0.7, 1.2)
        calibre = calibre * u(0.8, 1.25) + n(0, 1.5, len(calibre))
        fill, gas = u(20, 60), float(arc[slice(*self.table["transverse"]), 1].mean()) - u(-4, 8)
        colon = tube("colon", arc, calibre, fill, gas, wall=2.0, faeces=u(0.2, 1))
        along = np.cumsum(np.linalg.norm(np.diff(colon.points, axis=0, prepend=colon.points[:1]), axis=1))
        colon.radii *= (1 + 0.12 * np.sin(along * (2 * np.pi / 27))).astype(np.float32)
        full = u(0.62, 1.02)
        bag = at((62, -6, 88), (66, -30, 62), (58, -50, 30), (32, -60, 10), (4, -57, 9)) + n(0, 4, (5, 3))
        self.bulb = at((-22, -47, 13), (-38, -41, 16)) + self.loop
        path, radii = np.vstack([bag, self.bulb[:1]]), np.array([38, 35, 27, 21, 16, 10]) * ([full] * 4 + [1, 1])
        fill, gas = self._fill(0.75), float(bag[2:4, 1].mean()) - full * u(0, 14)
        tube("stomach", path, radii, fill, gas, wall=u(3, 5), folds=1.6)

    def _duodenum(self) -> None:
        """Add the C-loop, from the bulb around the head of the pancreas to the flexure."""
        at = self.place
        self.second = at((-54, -12, -10), (-53, -8, -32)) + self.loop
        rest = at((-41, -6, -50), (-16, -12, -55), (8, -13, -53), (26, -9, -40), (32, -14, -18))
        rest[:, 2] += self.loop[2]
        path = np.vstack([self.bulb, at((-50, -27, 6)) + self.loop, self.second, rest])
        radii = np.array([9, 12, 11, 11, 11, 10.5, 9, 8.5, 9, 9]) * self.rng.uniform(0.85, 1.15)
        self._hollow("duodenum", path, radii, self._fill(0.35), wall=2.2, folds=1.0, speckle=0.1)

    def _pancreas(self) -> None:
        """Add the gland along its landmarks, with the uncinate process; its size is what varies most."""
        n, u = self.rng.normal, self.rng.uniform
        g = self.table["girth"] * float(np.clip(n(1.05 + 0.08 * self.fat, 0.15), 0.76, 1.4))
        head, middle, tail = (g * np.clip(n(m, s), m - 2 * s, m + 2 * s) for m, s in ((28, 3.5), (16, 3), (18, 2.5)))
        neck = self.confluence + (3, -(6.5 + middle * 0.45), 3)
        medial = self.second + (11 + head / 2 - 3, 0, 0)  # beside the descending duodenum
        low, mid = medial[1] + (3, 0, 9), medial[0] + (0, -3, 2)
        over = self.place((17, -30, 12)) + (0, self.arch, n(0, 3))
        over[2] = 0.5 * over[2] + 0.5 * (0.7 * neck[2] + 0.3 * self.hilum[2])
        end = self.hilum + (-15, -8, 0)
        t1, t2 = over + (end - over) * 0.38, over + (end - over) * 0.72
        t1, t2 = t1 + (0, 1 + n(0, 2), n(0, 3)), t2 + (0, 1 + n(0, 2), n(0, 3))  # bent around the kidney's front
        path = np.stack([low, mid, 0.45 * mid + 0.55 * neck + (0, 2, 2), neck, over, t1, t2, end])
        thick = np.array([head * 0.8, head, head * 0.8, middle * 0.95, middle, (middle + tail) / 2, tail, tail * 0.75])
        main = Tube(path, thick / 2, 1.6)
        hook = self.confluence + (-3, 14, -24 + n(0, 4))  # the uncinate process, behind the vein
        uncinate = Tube([low + (2, 2, 4), 0.5 * (low + hook) + (0, 2, 0), hook], [8 * g, 7 * g, 5 * g], 1.4)
        lobulated = bool(self.rng.random() < 0.2)
        self.gland = main
        rough, clefts = 1.9 if lobulated else u(0.4, 0.9), float(np.clip(0.25 + 0.5 * self.fat + n(0, 0.25), 0, 1))
        self.add("pancreas", main, None, "pancreas", uncinate=uncinate, rough=rough, clefts=clefts, halo=u(0.3, 1.6))
        length = float(np.linalg.norm(np.diff(main.points, axis=0), axis=1).sum())
        self.extent = float(main.points[:, 2].min() - head), float(main.points[:, 2].max() + tail)
        self.facts = dict(head_mm=head, body_mm=middle, tail_mm=tail, length_mm=length, lobulated=lobulated)

    def _vessels(self) -> None:
        """Add great vessels, renal and splanchnic branches, the portal system, and the twigs in the mesentery."""
        at, n, u = self.place, self.rng.normal, self.rng.uniform
        # renal veins are brighter than the cava, twigs fainter than the arteries
        artery, vein, (renal, twig) = self.hu["aorta"], self.hu["cava"], (15, 30) if self.enhanced else (0, 0)

        def add(name, points, radii, hu=None, **more):
            self.add(name, Tube(points, radii), hu, **more)

        cava = at((-22, 10, -110), (-23, 9, -40), (-23, 8, 10), (-24, 2, 55), (-24, -6, 110)) + n(0, 1.5, (5, 3))
        add("cava", cava, u(9, 12), kind="flat")
        right, left = self.kidneys[0] + (20, -8, 0), self.kidneys[1] + (-22, -8, 0)
        before = [at((22, -3, -3)), at((4, -5, -3))]  # between the aorta and the superior mesenteric artery
        add("cava", [left, *before, cava[2] + (4, -3, -12)], [5, 5, 3.8, 5], vein + renal)
        add("cava", [right, 0.5 * (right + cava[2]) + (0, 2, -6), cava[2] + (0, 2, -14)], 5, vein + renal)
        for kidney in (left, right):
            root = at((7, 10, -8))
            add("vessel", [kidney + (0, 5, 2), 0.5 * (kidney + root) + (0, 6, 0), root], 2.8, artery)
        add("aorta", self.aorta, u(8.5, 11) * np.array([0.92, 0.95, 1, 1.08, 1.12]))
        add("vessel", self.sma, [4, 4, 3.7, 3.4, 3], artery)
        celiac = at((5, 0, 30), (4, -13, 31))
        add("vessel", celiac, 3.8, artery)
        hepatic = at((-14, -20, 30), (-34, -26, 36), (-50, -22, 52))
        add("vessel", [celiac[1], *hepatic], [3, 2.8, 2.3, 2], artery)
        joint, gland = self.confluence, self.gland
        behind = [gland.at(f) + (0, 0.75 * r + 3, 2) for f, r in ((0.58, 8), (0.7, 8), (0.82, 9), (0.93, 9))]
        splenic = np.array([joint + (4, 0, 2), *behind, self.hilum + (4, 2, 0)])
        add("portal", splenic, [5.5, 4.8, 4.5, 4.3, 4, 3.5])
        add("vessel", [celiac[1], *(splenic[1:] + (0, -3, 8) + n(0, 2.5, (5, 3)))], 2.4, artery)
        below, above = at((-12, -32, -90), (-11, -24, -45)), at((-38, -18, 36), (-50, -18, 48))
        trunk = [*below, joint + (0, -3, -16), joint, joint + (-12, -1, 14), *above]
        add("portal", trunk, [4.8, 5.4, 6, 6.8, 6.5, 6.3, 5.5])
        for point in self.hilum + n(0, 1, (4, 3)) * (3, 10, 14):
            add("portal", [self.hilum + (-2, 0, 0), 0.5 * (point + self.hilum), point + (8, 2, 0)], 2.6)
        for k in range(80):  # mesenteric branches fan out to the bowel; then gastric and omental ones
            root = self.sma[3:5] if k < 50 else at((20, -70, 20), (40, -70, -30))
            start = root[0] + (root[1] - root[0]) * u(0, 1) + n(0, 4, 3)
            end = at((n(30, 55), -52 + n(0, 14), -45 + n(0, 32)))
            middle = 0.5 * (start + end) + n(0, 8, 3)
            add("vessel", [start, middle, end], [u(1.2, 2.4), 1.4, 0.8], artery - u(0, twig))

    def _liver_tree(self) -> None:
        """Add portal branches from the hilum and hepatic veins from the cava, to be seen only inside the liver."""
        n, at = self.rng.normal, self.place
        hub, top = at((-46, -14, 46)), at((-26, -4, 105))
        for k in range(9):
            start, width, hu = (hub, 5, -4) if k < 5 else (top, 4.5, -12)
            right, left = (-90 + n(0, 22), -5 + n(0, 35), 25 + n(0, 40)), (-10 + n(0, 20), -58, 62 + n(0, 10))
            end = at(right if k % 4 else left)
            middle = 0.55 * start + 0.45 * end + n(0, 7, 3)
            self.add("portal", Tube([start, middle, end], [width, 3.4, 1.3]), self.hu["portal"] + hu, "inside")
            for _ in range(3):
                a = middle + (end - middle) * self.rng.uniform(0, 0.7)
                b = a + n(0, 1, 3) * (26, 26, 22)
                twig = Tube([a, 0.5 * (a + b) + n(0, 3, 3), b], [2.6, 2, 1])
                self.add("portal", twig, self.hu["portal"] + hu, "inside")
