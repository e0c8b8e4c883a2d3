"""Small bowel, colon and rectum: unlabelled neighbours that look much like stomach and duodenum."""

import numpy as np

from amos_fl.phantom.organs import Draws
from amos_fl.phantom.shapes import Sculpted, Tube, curve
from amos_fl.phantom.structure import Structure
from amos_fl.phantom.tissues import Tissue


def small_bowel(d: Draws) -> list[Structure]:
    """Loops: a warped gyroid, whose level set is a web of tubes about 25 mm wide."""
    wave = 2 * np.pi / d.random.uniform(54, 72)
    phase = d.random.uniform(0, 2 * np.pi, 9).astype(np.float32)
    top = 158 + d.upper[2] + float(d.random.normal(0, 8))
    fill = float(d.random.uniform(-0.35, 0.15))
    gas = float(d.random.uniform(0.9, 1.6))

    def carve(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        u, v, w = (np.float32(wave) * c + p for c, p in zip((x, y, z), phase[:3], strict=True))
        # Bent twice, so that no two loops are alike.
        u, v, w = (
            u + np.float32(0.9) * np.sin(v * np.float32(0.61) + phase[6]),
            v + np.float32(0.9) * np.sin(w * np.float32(0.53) + phase[7]),
            w + np.float32(0.9) * np.sin(u * np.float32(0.57) + phase[8]),
        )
        web = np.sin(u) * np.cos(v) + np.sin(v) * np.cos(w) + np.sin(w) * np.cos(u)
        field = (np.float32(fill) - web) * np.float32(8)
        # Below liver and stomach (higher on the left), before the retroperitoneum, above the lowest pelvis.
        field = np.maximum(field, np.float32(top) - np.float32(0.28) * x - z)
        field = np.maximum(field, y - np.float32(18))
        field = np.maximum(field, z - np.float32(425))
        return np.maximum(field, np.abs(x) - np.float32(100))

    def pockets(x: np.ndarray, y: np.ndarray, z: np.ndarray, field_mm: np.ndarray) -> np.ndarray:
        low = np.sin(x * 0.041 + phase[3]) + np.sin(y * 0.06 + phase[4]) + np.sin(z * 0.035 + phase[5])
        return (field_mm < -4) & (low - y * 0.008 > gas)

    return [
        Structure(
            Sculpted(np.array([-100.0, -95, top - 30]), np.array([100.0, 20, 428]), carve),
            0,
            Tissue.BOWEL,
            layers=((3.2, Tissue.BOWEL_CONTENT),),
            texture=pockets,
            texture_tissue=Tissue.GAS,
        )
    ]


def colon(d: Draws) -> list[Structure]:
    r = float(d.random.uniform(13, 20))
    dip = float(d.random.uniform(0, 70))  # the transverse colon may sag far down
    up = d.upper[2] * 0.5
    gas = float(-18 + d.random.normal(0, 14))
    parts = [
        [(-88, 0, 350, r * 1.2), (-97, 6, 300, r * 1.15), (-98, 14, 240, r), (-92, 8, 196 + up, r)],
        [
            (-92, 8, 196 + up, r),
            (-72, -40, 186 + up + dip * 0.4, r),
            (-20, -66, 186 + up + dip, r),
            (40, -66, 180 + up + dip, r * 0.95),
            (88, -30, 140 + up + dip * 0.3, r * 0.9),
            (106, 16, 128 + up, r * 0.9),
        ],
        [(106, 16, 128 + up, r * 0.9), (107, 34, 190, r * 0.8), (103, 28, 260, r * 0.75), (92, 4, 340, r * 0.75)],
        [(92, 4, 340, r * 0.75), (54, -30, 386, r * 0.75), (8, 10, 384, r * 0.75), (0, 48, 404, r * 0.8)],
        [(0, 48, 404, r * 0.8), (0, 62, 430, r * 0.95), (0, 52, 470, r * 0.8), (0, 34, 500, 9)],
    ]
    painted = []
    for points in parts:
        moved = np.array(points, float)
        moved[1:-1, :3] += d.random.normal(0, 5, (len(moved) - 2, 3))
        line = curve(moved, 7 * (len(moved) - 1))
        line[:, 3] *= 1 + 0.13 * np.sin(np.arange(len(line)) * 2.1)  # haustra
        stool = Tissue.STOOL if d.random.random() < 0.65 else Tissue.BOWEL_CONTENT
        painted.append(Structure(Tube(line), 0, Tissue.BOWEL, layers=((2.6, stool),), gas_front_of_mm=gas, halo_mm=0))
    return painted
