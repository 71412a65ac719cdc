"""One synthetic patient: habitus, landmarks and skeleton, every number drawn from one generator.

Organs hang on landmarks (vertebra, great vessels, duodenum, splenic hilum), and the pancreas on them:
its head lies in the duodenal loop, its neck before the portal confluence, its body over the superior
mesenteric artery, its tail at the splenic hilum. What it adds of its own is small, as in life.

Pancreas volume is drawn around 72 +/- 26 ml, its plateau at ages 20 to 60 in Saisho et al., "Pancreas
volumes in humans from birth to age one hundred", Clin Anat 2007;20:933; larger in the obese, as there.
Diameters of head, body and tail lie about those of Kreel et al., "Computed tomography of the normal
pancreas", J Comput Assist Tomogr 1977;1. Its HU follow the patients of Pancreas-CT (Roth et al., TCIA
2016, doi 10.7937/K9/TCIA.2016.tNB1kqBU): medians of 93 +/- 20 inside the masks. The other organs
lie in the ranges usual 70 s after injection (liver 100 to 120, spleen 115 to 130, renal parenchyma 160 to
200, aorta 140 to 170, portal vein 150 to 180, muscle 55 to 65, fat -123 to -89): for what sets them see Bae,
"Intravenous contrast medium administration and scan timing at CT", Radiology 2010;256:32, and for aorta,
portal trunk and liver in this phase Kanematsu et al., Open J Radiol 2013;3:112, doi 10.4236/ojrad.2013.33018.

Without contrast medium all of them come down to 30 to 60 HU. Liver: 58.8 in 3,357 adults, Boyce et al., "Hepatic
steatosis (fatty liver disease) in asymptomatic adults identified by unenhanced low-dose CT", AJR 2010;194:623.
Spleen: below the healthy liver by 1 to 18, Park et al., "Biopsy-proven nonsteatotic liver in adults", Radiology
2011;258:760. The others lie in the ranges usual there (pancreas 40 to 50, blood 40 to 45, muscle 50 to 60, renal
parenchyma 30 to 35), as they differ between scanners: Lamba et al., AJR 2014;203:1013.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from vaelib.phantom.shapes import TABLES, Shape, Tube, Waves

HU = TABLES["hu"]  # mean and spread between patients, portal-venous phase


class Part(NamedTuple):
    """An organ: its label, shape and HU, and what `paint` needs to know of its inside."""

    name: str
    shape: Shape
    hu: float
    kind: str  # solid, flat, gut, kidney, liver, pancreas, inside
    more: dict[str, Any]


class Body:
    """What the organs of patient `number` under `seed` hang on; `parts` are added to it in painting order."""

    table: dict[str, Any] = TABLES["abdomen"]
    reach: tuple[float, float] | None = None  # where a scan begins and ends, if not about the pancreas

    def __init__(self, seed: int, number: int, enhanced: bool = True):
        self.rng = rng = np.random.default_rng([seed, number, *self.table["stream"]])
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
        self.enhanced = enhanced
        usual = HU if enhanced else HU | TABLES["unenhanced"]
        self.hu = {name: mean + spread * float(np.clip(n(), -2, 2)) for name, (mean, spread) in usual.items()}
        self.warp = Waves(rng, 110, 12), Waves(rng, 110, 12)
        self.warp_mm = u(1.5, 3.5)
        self.fields = {mm: Waves(rng, mm, 28) for mm in (9, 14, 24, 45)}
        self.parts: list[Part] = []
        self._landmarks()
        self._skeleton()

    def place(self, *points: ArrayLike) -> np.ndarray:
        """Move points of the standard body (mm) to where they lie in this one: (N, 3), or (3,) for one point.

        The further from the spine, the more they follow the cavity's size.
        """
        p = np.array(points, float) * self.stature
        p[:, 0] *= 1 + (self.width / (130 * self.stature) - 1) * np.clip(np.abs(p[:, 0]) / 110, 0, 1)
        ahead = np.clip(-p[:, 1] / 85, 0, 1.1)
        p[:, 1] *= 1 + (self.front / (92 * self.stature) - 1) * ahead
        return p if len(p) > 1 else p[0]

    def add(self, name: str, shape: Shape, hu: float | None = None, kind: str = "solid", **more: Any) -> None:
        """Append a part to be painted over those before it."""
        self.parts.append(Part(name, shape, self.hu.get(name, 0) if hu is None else hu, kind, more))

    def _landmarks(self) -> None:
        n = self.rng.normal
        self.loop = np.array([n(0, 5), n(0, 3), n(0, 7)])  # the duodenal loop's own place
        self.hilum = self.place((87, 13, 38)) + (n(0, 5), n(0, 6), n(0, 10))  # of the spleen
        self.confluence = self.place((-9, -15, 4)) + (n(0, 3), n(0, 2), n(0, 4))
        self.sma = self.place((5, 3, 16), (5, -7, 12), (5, -13, 2), (5, -19, -20), (3, -27, -90))
        self.sma[2:] += (n(0, 2), n(0, 1), 0)
        self.aorta = self.place((7, 9, -110), (8, 9, -40), (7, 9, 10), (5, 10, 60), (3, 14, 120))
        self.aorta[:, :2] += n(0, 2, (5, 2)) * (1, 0.6)
        self.arch = n(0, 3)  # how far the pancreatic body bulges forward

    def level(self, z: np.ndarray) -> tuple[ArrayLike, ...]:
        """Return width and front of the cavity at heights `z`, in mm, and what else changes with the height."""
        return self.width, self.front

    def _skeleton(self) -> None:
        """Place the ribs, from the twelfth up, as tubes along the wall, sinking forward; cartilage where they end."""
        self.ribs: list[tuple[Shape, bool]] = []  # and whether it is bone
        for rank, (reach, steep) in enumerate(self.table["ribs"]):
            for side in (-1, 1):
                turn = np.linspace(0.35, reach * np.pi / 180, 24)  # 0 at the spine, pi in front
                sink = np.interp(turn, *np.transpose(self.table["sink"])) * steep
                z = (rank * 27 + 58 + self.phase * 12 - sink + side) * self.stature
                width, front, *_ = self.level(z)
                a, b = width + 5, np.where(turn < np.pi / 2, self.back + 8, front + 3)
                x = side * a * np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** 0.85
                y = b * np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** 0.85
                bony, points = turn < 2.45, np.stack([x, y, z], 1)
                self.ribs.append((Tube(points[bony], 4.3, 1.4), True))
                if (~bony).sum() > 3:
                    self.ribs.append((Tube(points[~bony], 5.5, 1.3), False))
