"""The organs: where each lies, its shape, its size, and how they hang together (tubes: see `vessels`).

Places and extents follow abdominal anatomy textbooks; the median volumes are those of AMOS's training CT
(spleen: WORD's), spread log-normally. All in patient coordinates, mm.
"""

from dataclasses import dataclass

import numpy as np

from amos_fl.phantom.frame import Frame, spine_y
from amos_fl.phantom.shapes import (
    Ellipsoid,
    Sculpted,
    Tube,
    curve,
    ellipsoid_field,
    into,
    smooth_cut,
    smooth_union,
    turned,
)
from amos_fl.phantom.structure import Structure
from amos_fl.phantom.tissues import Tissue

# label: (median volume ml, log-normal sigma, least ml, most ml, volume of this module's shape at scale 1)
VOLUMES: dict[int, tuple[float, float, float, float, float]] = {
    1: (188, 0.30, 70, 700, 233),
    2: (135, 0.22, 45, 343, 119),
    3: (142, 0.22, 45, 400, 125),
    4: (24, 0.60, 4, 120, 17),
    5: (12, 0.25, 4, 40, 14.3),
    6: (1231, 0.22, 653, 2600, 1440),
    7: (244, 0.55, 70, 1000, 330),
    8: (92, 0.22, 40, 250, 103),
    9: (69, 0.22, 33, 130, 83),
    10: (70, 0.25, 25, 160, 32.5),
    11: (3.0, 0.25, 1.2, 7, 3.5),
    12: (3.0, 0.25, 1.2, 8, 3.55),
    13: (50, 0.28, 20, 140, 47.4),
    14: (85, 0.60, 16, 700, 91),
    15: (30, 0.45, 8, 200, 27.2),
}

# label: the share of AMOS's 200 training CT that have it (the others: all of them)
PRESENCE = {3: 199 / 200, 4: 189 / 200, 7: 198 / 200, 11: 199 / 200, 14: 196 / 200, 15: 194 / 200}


@dataclass(frozen=True)
class Draws:
    """One patient's chances: where the organs have moved, how large they are, and which are missing."""

    random: np.random.Generator
    frame: Frame
    sex: str
    scale: dict[int, float]  # (volume / median volume) ** (1/3) per label
    missing: frozenset[int]
    upper: np.ndarray  # how breathing and build moved the organs under the diaphragm
    back: np.ndarray  # ... and those behind the peritoneum

    def jitter(self, x: float, y: float, z: float) -> np.ndarray:
        """A displacement with these standard deviations, at most two of them."""
        return np.clip(self.random.normal(size=3), -2, 2) * (x, y, z)

    def angles(self, degrees: float) -> tuple[float, float, float]:
        a, b, c = np.clip(self.random.normal(size=3), -2, 2) * degrees
        return float(a), float(b), float(c)


def draw_sizes(random: np.random.Generator, body: float) -> dict[int, float]:
    """Per label the linear scale of the organ: log-normal volumes, larger in larger bodies."""
    scale = {}
    for label, (median, sigma, least, most, nominal) in VOLUMES.items():
        volume = median * np.exp(sigma * np.clip(random.normal(), -2.5, 2.5)) * body**0.5
        scale[label] = float((np.clip(volume, least, most) / nominal) ** (1 / 3))
    return scale


def liver(d: Draws) -> list[Structure]:
    s = d.scale[6]
    at = np.array([-60.0, -6, 84]) + d.upper + d.jitter(5, 4, 6)
    turn = turned(*d.angles(6))
    long_left = d.random.uniform(0.75, 1.2)
    riedel = d.random.uniform(-20, 26)  # how far the right lobe hangs down
    slope = np.deg2rad(d.random.uniform(44, 58))
    normal = np.array([np.cos(slope), 0.12, np.sin(slope)])
    normal /= np.linalg.norm(normal)
    hollow = np.array([42.0, 46, 62]) + d.jitter(6, 5, 8)

    def carve(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        u, v, w = into(x, y, z, at, turn)
        right = ellipsoid_field(u, v, w, s * np.array([-20.0, 2, 2]), s * np.array([80, 84, 92]))
        left = ellipsoid_field(u, v, w, s * np.array([52.0, -46, -22]), s * np.array([76 * long_left, 42, 48]))
        tail = ellipsoid_field(u, v, w, s * np.array([-64.0, 16, 66 + riedel / 2]), s * np.array([34, 52, 60]))
        whole = smooth_union(smooth_union(right, left, 22 * s), tail, 18 * s)
        n = normal.astype(np.float32)
        under = u * n[0]
        under += v * n[1]
        under += w * n[2]
        under -= np.float32(s * (normal @ (-2.0, 0, 26 + riedel * 0.4)))
        stomach_bed = ellipsoid_field(u, v, w, s * hollow, s * np.array([62, 66, 78]))
        return smooth_cut(smooth_cut(whole, under, 20 * s), -stomach_bed, 16 * s)

    reach = s * np.array([150.0, 110, 130])
    middle = at + s * np.array([0.0, 0, 5])
    painted = [Structure(Sculpted(middle - reach, middle + reach, carve), 6, Tissue.LIVER, halo_mm=2)]

    def vessel(*points: tuple[float, float, float, float]) -> Structure:
        line = curve([(*(at + s * (turn @ np.array(p[:3]))), p[3]) for p in points], 4 * (len(points) - 1))
        return Structure(Tube(line), 0, Tissue.VESSEL, only_in=6)

    crown = (46, 20, -52, 4.5)  # where the hepatic veins meet the inferior vena cava
    painted += [
        vessel((52, 6, 40, 6.5), (24, 2, 20, 6), (-14, 4, 8, 5), (-48, 14, 6, 3.5), (-70, 10, -6, 2)),
        vessel((24, 2, 20, 5), (40, -26, -4, 4), (54, -44, -16, 2.5)),
        vessel((-14, 4, 8, 4), (-30, -26, 18, 3), (-48, -40, 30, 2)),
        vessel((-14, 4, 8, 4), (-40, 26, 34, 3), (-58, 30, 52, 2)),
        vessel(crown, (6, 20, -38, 4), (-34, 18, -20, 3), (-62, 6, -8, 2)),
        vessel(crown, (16, -10, -36, 4), (-12, -36, -20, 3), (-30, -48, -4, 2)),
        vessel(crown, (48, -18, -40, 3.5), (64, -44, -32, 2)),
    ]
    return painted


def gallbladder(d: Draws) -> list[Structure]:
    s = d.scale[4]
    neck = np.array([-42.0, -18, 112]) + d.upper + d.jitter(8, 5, 8)
    direction = turned(*d.angles(14)) @ np.array([-0.30, -0.66, 0.70])
    length = 48 * s
    points = [
        (*neck, 3.5 * s),
        (*(neck + 0.35 * length * direction), 8.5 * s),
        (*(neck + 0.75 * length * direction), 13.0 * s),
        (*(neck + length * direction), 12.0 * s),
    ]
    return [Structure(Tube(curve(points, 9)), 4, Tissue.BILE, halo_mm=0.8)]


def spleen(d: Draws) -> list[Structure]:
    s = d.scale[1]
    at = np.array([91.0, 36, 88]) + d.upper * 0.9 + d.jitter(4, 7, 10)
    a, b, c = d.angles(9)
    turn = turned(a - 14, b + 8, c + 26)
    flat = d.random.uniform(0.85, 1.15)

    def carve(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        outer = ellipsoid_field(x, y, z, at, s * np.array([36 * flat, 54, 56 / flat]), turn)
        hilum = ellipsoid_field(x, y, z, at + s * (turn @ np.array([-44.0, -6, 4])), s * np.array([40, 46, 52]), turn)
        return smooth_cut(outer, -hilum, 10 * s)

    reach = s * np.full(3, 68.0)
    return [Structure(Sculpted(at - reach, at + reach, carve), 1, Tissue.SPLEEN, halo_mm=1.5)]


def _pyramids(at: np.ndarray, turn: np.ndarray, count: int, phase: float, cortex_mm: float, s: float):
    def medulla(x: np.ndarray, y: np.ndarray, z: np.ndarray, field_mm: np.ndarray) -> np.ndarray:
        u, v, w = into(x, y, z, at, turn)
        around = np.arctan2(v, u)
        columns = np.cos(3 * around + phase) * 0.6 + np.cos(w * np.float32(count * np.pi / 54 / s))
        deep = (field_mm < -cortex_mm) & (field_mm > -cortex_mm - 13 * s)
        return deep & (columns > -0.75)

    return medulla


def kidneys(d: Draws) -> list[Structure]:
    painted = []
    for label, side, z in ((2, -1, 165.0), (3, 1, 152.0)):
        s = d.scale[label]
        at = np.array([side * 61.0, 41, z]) + d.back + d.jitter(4, 5, 13)
        a, b, c = d.angles(7)
        turn = turned(a - 8, b + side * 14, c + side * 28)
        bend = d.random.uniform(0.0012, 0.0028) / s
        long = d.random.uniform(0.93, 1.08)

        def carve(x, y, z, at=at, turn=turn, s=s, bend=bend, side=side, long=long):
            u, v, w = into(x, y, z, at, turn)
            u = u + np.float32(side * bend) * w * w - np.float32(side * 1.5)
            semi = s * np.array([26.5, 24.5, 54 * long])
            bean = ellipsoid_field(u, v, w, np.zeros(3), semi)
            sinus = ellipsoid_field(u, v, w, np.array([-side * 21.0 * s, 0, 0]), s * np.array([15, 9, 19]))
            return smooth_cut(bean, -sinus, 5 * s)

        reach = s * np.full(3, 62.0)
        cortex = d.random.uniform(6, 8.5) * s
        painted.append(
            Structure(
                Sculpted(at - reach, at + reach, carve),
                label,
                Tissue.CORTEX,
                halo_mm=float(d.random.uniform(2.5, 6)),
                texture=_pyramids(at, turn, 5, float(d.random.uniform(0, 6)), cortex, s),
                texture_tissue=Tissue.MEDULLA,
            )
        )
        # The adrenal gland sits on its kidney, anteromedial to the upper pole, and moves with it only in part.
        painted += adrenal(d, side, at + np.array([-side * 27.0, -14, -48]) * (1, 1, s))
    return painted


def adrenal(d: Draws, side: int, at: np.ndarray) -> list[Structure]:
    label = 11 if side < 0 else 12
    s = d.scale[label]
    at = at + d.jitter(3, 3, 5)
    turn = turned(*d.angles(9)) @ turned(z_deg=float(d.random.normal(0, 10)))
    # Limbs in the axial plane (x towards the midline, y to the back) from the ridge, extruded along the body's axis.
    if label == 11:
        limbs = [((0, -9), (0, 1)), ((0, 1), (-6, 10)), ((0, 1), (5, 11))]
    else:
        limbs = [((0, -7), (0, 1)), ((0, 1), (-9, 9)), ((0, 1), (8, 9))]
    thick = 2.35

    def carve(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        u, v, w = (c * np.float32(1 / s) for c in into(x, y, z, at, turn))
        u = u * np.float32(-side)
        spread = 1 + w * np.float32(0.016)  # the limbs open towards the feet
        near = None
        for (ax, ay), (bx, by) in limbs:
            dx, dy = bx - ax, by - ay
            pu, pv = u / spread - ax, v - ay
            h = np.clip((pu * dx + pv * dy) / (dx * dx + dy * dy), 0, 1)
            limb = np.sqrt((pu - h * dx) ** 2 + (pv - h * dy) ** 2) - thick
            near = limb if near is None else np.minimum(near, limb)
        assert near is not None
        return smooth_cut(near, np.abs(w) - 13.5, 3) * np.float32(s)

    reach = s * np.array([22.0, 22, 24])
    return [Structure(Sculpted(at - reach, at + reach, carve), label, Tissue.ADRENAL, halo_mm=2.0)]


def stomach(d: Draws) -> list[Structure]:
    s = d.scale[7]
    at = np.array([57.0, -20, 88]) + d.upper + d.jitter(6, 5, 9)
    turn = turned(*d.angles(9))
    long, wide = s**0.75, s**1.12
    at[1] -= 16 * (wide - 1)  # a full stomach grows forwards
    drop = d.random.uniform(-14, 26)  # a stomach may hang down like a fish-hook or lie across like a steer's horn
    path = [
        (14, 15, -44, 28),
        (15, 7, -16, 32),
        (10, -8, 14, 29),
        (-2, -24, 44 + drop * 0.8, 22),
        (-28, -34, 58 + drop, 17.5),
        (-54, -30, 54 + drop * 0.5, 14),
        (-74, -18, 46, 9.5),
    ]
    line = curve([(*(at + turn @ (long * np.array(p[:3]))), p[3] * wide) for p in path], 20)
    level = at[1] - wide * d.random.uniform(2, 34)
    wall = float(d.random.uniform(3.2, 5))
    return [
        Structure(
            Tube(line), 7, Tissue.STOMACH, layers=((wall, Tissue.CHYME),), gas_front_of_mm=float(level), halo_mm=1.5
        )
    ]


def pancreas_and_duodenum(d: Draws) -> list[Structure]:
    head = np.array([-24.0, -4, 152]) + d.back * 0.6 + d.upper * 0.3 + d.jitter(5, 4, 9)
    s = d.scale[10]
    rise = d.random.uniform(16, 54)  # tails point up, or run level
    reach = d.random.uniform(0.85, 1.1) * s**0.6
    wide = s**1.2
    points = [
        (-2, 6, 20, 8.5),
        (0, 0, 2, 12.5),
        (18, -9, -10, 9.5),
        (40, -13, -10 - 0.4 * rise, 9.5),
        (64, 6, -10 - 0.75 * rise, 9),
        (86, 31, -12 - rise, 6.5),
    ]
    line = curve([(*(head + reach * np.array(p[:3])), p[3] * wide) for p in points], 20)
    pancreas = Structure(Tube(line, (1.0, 0.85, 1.2)), 10, Tissue.PANCREAS, halo_mm=1.2)
    mesenteric = head + reach * np.array([21.0, 2, -6])
    vein = Structure(
        Tube(
            curve(
                [
                    (mesenteric[0] + 4, mesenteric[1] - 6, mesenteric[2] + 80, 4),
                    (*mesenteric, 5.5),
                    (mesenteric[0] - 14, mesenteric[1] + 2, mesenteric[2] - 28, 6),
                ],
                9,
            )
        ),
        0,
        Tissue.VESSEL,
        halo_mm=0.8,
    )
    splenic = curve(
        [(*(head + reach * np.array(p)), 3.6) for p in ((21, 5, -8), (44, 2, -16 - 0.4 * rise), (86, 37, -18 - rise))],
        8,
    )

    t = d.scale[13]
    w, across = 9.4 * t**1.3, t**0.4
    third = float(min(head[1] + 14, spine_y(d.frame, 200) - 44))  # in front of aorta and vena cava
    low = 46 + d.random.uniform(-8, 14)
    loop = [
        (-2, -24, -26, w * 1.1),
        (-16, -14, -22, w),
        (-27, 4, -4, w),
        (-29, 8, 18, w),
        (-25, 8, low - 10, w),
        (-4, third - head[1], low, w * 0.95),
        (28, third - head[1], low - 2, w * 0.9),
        (54, third - head[1] - 2, low - 12, w * 0.9),
        (62, third - head[1] - 6, low - 34, w * 0.9),
    ]
    line = curve([(head[0] + across * p[0], head[1] + p[1], head[2] + across * p[2], p[3]) for p in loop], 28)
    gas = float(head[1] - d.random.uniform(12, 45))
    duodenum = Structure(
        Tube(line), 13, Tissue.DUODENUM, layers=((3.4, Tissue.DUODENAL),), gas_front_of_mm=gas, halo_mm=1.0
    )
    superior = (float(mesenteric[0] + 13), third - 12)
    artery = Structure(
        Tube(
            curve(
                [
                    (8, float(spine_y(d.frame, 130)) - 36, 122, 3.4),
                    (superior[0], superior[1], 175, 3.4),
                    (superior[0], -28, 260, 2.5),
                ],
                8,
            )
        ),
        0,
        Tissue.ARTERY,
    )
    return [duodenum, pancreas, vein, Structure(Tube(splenic), 0, Tissue.VESSEL), artery]


def pelvic_organs(d: Draws) -> list[Structure]:
    painted = []
    s = d.scale[14]
    floor = 448 + float(d.random.normal(0, 8))
    male = d.sex == "M"
    semi = s * np.array([35.0, 26, 24]) * np.exp(d.random.normal(0, 0.08, 3))
    at = np.array([d.random.normal(0, 7), (-24 if male else -30) + d.random.normal(0, 5), floor - semi[2]])
    bladder = Ellipsoid(at, semi, turned(*d.angles(9)))
    around = Ellipsoid(at, semi + 3.5, bladder.turn)
    if 14 not in d.missing:
        painted.append(Structure(around, 0, Tissue.BLADDER_WALL))
        painted.append(Structure(bladder, 14, Tissue.URINE))
    if 15 in d.missing:
        return painted
    u = d.scale[15]
    if male:
        under = np.array([at[0] + d.random.normal(0, 3), at[1] + 16 + d.random.normal(0, 3), floor + 13 * u + 1])
        painted.append(
            Structure(
                Ellipsoid(under, u * np.array([22.5, 16, 18.5]), turned(*d.angles(8))), 15, Tissue.PROSTATE, halo_mm=0.8
            )
        )
    else:
        lean = float(d.random.normal(0, 14))
        fundus = np.array([at[0] + lean, at[1] + semi[1] + 14 * u + 3, floor - 44 * u + d.random.normal(0, 6)])
        cervix = fundus + np.array([-lean * 0.6, 14 * u, 40 * u])
        line = curve([(*fundus, 14.5 * u), (*(0.55 * fundus + 0.45 * cervix), 12 * u), (*cervix, 8.5 * u)], 8)
        painted.append(Structure(Tube(line, (1.15, 0.9, 1)), 15, Tissue.UTERUS, halo_mm=0.8))
    return painted
