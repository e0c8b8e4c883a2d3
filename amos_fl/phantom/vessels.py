"""The tubes in front of the spine: aorta, inferior vena cava and esophagus, their branches, and the heart."""

import numpy as np

from amos_fl.phantom.frame import spine_y
from amos_fl.phantom.organs import Draws
from amos_fl.phantom.shapes import Ellipsoid, Tube, curve, turned
from amos_fl.phantom.structure import THORAX, TRUNK, Structure
from amos_fl.phantom.tissues import Tissue


def aorta_line(d: Draws) -> list[tuple[float, float, float, float]]:
    """x, y, z, radius along the aorta, in front of the spine and a little left of it, down to where it divides."""
    radius = 10.6 * d.scale[8] ** 1.5
    split = 248 + float(d.random.normal(0, 8))
    shift_x = 8 + float(d.random.normal(0, 4))
    wind = d.random.normal(0, 5, 6)
    return [
        (
            float(shift_x + w + (8 if z < 0 else 0)),
            float(spine_y(d.frame, z)) - 18.5 - radius,
            float(z),
            radius * (1.12 if z < 60 else 1),
        )
        for z, w in zip((-90, -20, 40, 100, 175, split), wind, strict=True)
    ]


def vessels(d: Draws, aorta: list[tuple[float, float, float, float]]) -> list[Structure]:
    """Aorta and inferior vena cava, and the vessels nobody labelled: iliac, portal, mesenteric, renal."""
    aorta_r, cava_r = aorta[3][3], 9.6 * d.scale[9] ** 1.5
    split = aorta[-1][2]

    def front_of_spine(z: float, gap: float) -> float:
        return float(spine_y(d.frame, z)) - 18.5 - gap

    bottom = aorta[-1]
    cava_x = float(min(-20 + d.random.normal(0, 4), min(a[0] for a in aorta[2:]) - aorta_r - 1.2 * cava_r - 1))
    cava = [
        (cava_x - 2, front_of_spine(20, 22), 24.0 + d.upper[2] * 0.7, cava_r * 1.1),
        (cava_x - 2, front_of_spine(60, 18), 62.0, cava_r * 1.1),
        (cava_x, front_of_spine(110, 10), 110.0, cava_r),
        (cava_x + d.random.normal(0, 3), front_of_spine(180, 8), 180.0, cava_r),
        (cava_x + 2, front_of_spine(split, 8), split + 10, cava_r * 0.95),
    ]
    end = cava[-1]
    flat = (1.22, 1.0, 1.0)
    painted = []
    for side in (-1, 1):
        for start, r, tissue in ((bottom, 6.0, Tissue.ARTERY), (end, 7.0, Tissue.VEIN)):
            pelvic = [
                (*start[:3], r),
                (start[0] + side * 22, start[1] + 6, start[2] + 45, r),
                (side * 46, 26, 350, r),
                (side * 62, -8, 410, r),
                (side * 72, -52, 470, r),
            ]
            painted.append(Structure(Tube(curve(pelvic, 16)), 0, tissue))
        hilum = (side * 48.0, 38 + d.back[1], (165 if side < 0 else 152) + d.back[2])
        from_aorta = (aorta[3][0], aorta[3][1], 140.0)
        from_cava = (cava[3][0], cava[3][1] - 3, 150.0)
        painted.append(Structure(Tube(curve([(*from_aorta, 3.2), (*hilum, 2.4)], 4)), 0, Tissue.ARTERY))
        painted.append(Structure(Tube(curve([(*from_cava, 4.5), (*hilum, 3.5)], 4)), 0, Tissue.VEIN))
    painted.append(Structure(Tube(curve([(*p[:3], p[3]) for p in cava], 16), flat), 9, Tissue.VEIN, halo_mm=0.8))
    painted.append(Structure(Tube(curve(aorta, 18)), 8, Tissue.ARTERY, TRUNK, halo_mm=0.8))
    return painted


def esophagus(d: Draws, aorta: list[tuple[float, float, float, float]]) -> list[Structure]:
    """In front of the aorta and to its right, then to the left through the diaphragm into the stomach's cardia."""
    r = 6.6 * d.scale[5] ** 1.5
    bend = d.random.normal(0, 2.5, 4)
    high, low = aorta[0], aorta[1]
    gap = r + 2.5
    points = [
        (high[0] - 9 + bend[0], high[1] - high[3] - gap + 3, -95, r),
        (low[0] - 7 + bend[1], low[1] - low[3] - gap, -28, r),
        (20 + bend[2], min(5.0, aorta[2][1] - aorta[2][3] - gap), 18, r * 1.05),
        (38 + d.upper[0] + bend[3], -2 + d.upper[1], 56 + d.upper[2] * 0.8, r * 1.1),
    ]
    tube = Structure(
        Tube(curve(points, 14)),
        5,
        Tissue.ESOPHAGUS,
        TRUNK,
        layers=((4.6, Tissue.GAS),) if d.random.random() < 0.5 else (),
    )
    return [tube]


def heart(d: Draws) -> list[Structure]:
    at = np.array([22.0, -36, -34]) + d.jitter(6, 5, 6)
    turn = turned(*d.angles(8)) @ turned(z_deg=-25)
    muscle = Ellipsoid(at, np.array([62.0, 44, 46]), turn)
    blood = Ellipsoid(at + np.array([14.0, 0, 2]), np.array([32.0, 24, 27]), turn)
    return [
        Structure(muscle, 0, Tissue.MUSCLE, THORAX),
        Structure(blood, 0, Tissue.HEART, THORAX),
        Structure(Ellipsoid(at + np.array([-38.0, 12, 2]), np.array([20.0, 22, 34])), 0, Tissue.HEART, THORAX),
    ]
