"""What holds the organs: skin, fat, muscle, ribs, spine, pelvis, lungs, and the space left for the abdomen.

None of it is labelled. Patient coordinates (see `pose`) throughout.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from amos_fl.phantom.pose import Slab, Slices
from amos_fl.phantom.shapes import ellipsoid_field, smooth_union, turned
from amos_fl.phantom.tissues import Tissue


class Region(IntEnum):
    OUTSIDE = 0
    WALL = 1
    ABDOMEN = 2
    THORAX = 3


@dataclass(frozen=True)
class Frame:
    """One patient's trunk; lengths in mm."""

    fat_side: float
    fat_front: float
    fat_back: float
    muscle: float  # thickness of the abdominal wall's muscle at the side
    dome_right: float  # height z of the diaphragm's domes
    dome_left: float
    disc_phase: float  # where along z the first disc lies
    rib_phase: float
    lordosis: float

    @property
    def half_width(self) -> float:
        """From the middle to the skin at the side, about."""
        return CAVITY_SIDE + self.muscle + self.fat_side

    @property
    def half_depth(self) -> float:
        return CAVITY_FRONT_BACK + BACK_MUSCLE + (self.fat_front + self.fat_back) / 2

    @property
    def middle_y(self) -> float:
        return CAVITY_Y + 8 + (self.fat_back - self.fat_front) / 2

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The corners of a box that holds the trunk and the table under it, endless along z."""
        side, deep = self.half_width * 1.06, self.half_depth
        return np.array([-side, self.middle_y - deep - 3, -900.0]), np.array([side, self.middle_y + deep + 36, 1500.0])


CAVITY_SIDE, CAVITY_FRONT_BACK, CAVITY_Y = 133.0, 81.0, -3.0
BACK_MUSCLE = 17.0


def _ring(
    x: np.ndarray, y: np.ndarray, width: np.ndarray | float, side: float, depth: float, centre_y: float
) -> np.ndarray:
    """< 1 inside a squarish ellipse (a squircle) `side / width` wide, and again far outside its corners."""
    u = x * width
    u *= np.float32(1 / side)
    u *= u
    v = (y - np.float32(centre_y)) * np.float32(1 / depth)
    v *= v
    both = u * v
    both *= np.float32(-0.4)
    both += u
    both += v
    return both


def _smoothstep(z: np.ndarray, start: float, end: float) -> np.ndarray:
    t = np.clip((z - np.float32(start)) * np.float32(1 / (end - start)), 0, 1)
    return t * t * (3 - 2 * t)


def spine_y(frame: Frame, z: np.ndarray | float) -> np.ndarray:
    """How far back the vertebral bodies' centre lies at height z."""
    z = np.asarray(z, np.float32)
    bend = np.sin(np.clip(z - 60, 0, 280) * np.float32(np.pi / 280))
    return np.float32(48) - np.float32(frame.lordosis) * bend + np.float32(0.32) * np.maximum(z - 310, 0)


def _fill(view: np.ndarray, mask: np.ndarray, value: int) -> None:
    np.copyto(view, np.uint8(value), where=mask)  # several times as fast as view[mask] = value


def paint_frame(slab: Slab, frame: Frame, tissue: np.ndarray) -> np.ndarray:
    """Paint the trunk into `tissue` (uint8, the slab's shape, all air) and return the region of every voxel (uint8)."""
    x, y, z = slab.x, slab.y, slab.z
    region = np.zeros(slab.shape, np.uint8)
    # Waist and hips: the reciprocal of the relative width.
    u = (z - 210) * np.float32(1 / 230)
    width = np.minimum(1.0 / (0.95 + 0.07 * u * u), 1.08)

    muscle_side, muscle_depth, muscle_y = CAVITY_SIDE + frame.muscle, CAVITY_FRONT_BACK + BACK_MUSCLE, CAVITY_Y + 8
    skin_side, skin_depth, skin_y = frame.half_width, frame.half_depth, frame.middle_y
    skin = _ring(x, y, width, skin_side, skin_depth, skin_y)
    body = skin < 1
    bed = skin_y + skin_depth + 8 + (x * x) * np.float32(1 / 1400)
    _fill(tissue, np.abs(y - bed) < 6, Tissue.TABLE)
    _fill(region, body, Region.WALL)
    _fill(tissue, body, Tissue.FAT)
    _fill(tissue, body & (skin > 1 - 3.5 / skin_side), Tissue.SKIN)
    del skin, bed

    wall = _ring(x, y, width, muscle_side, muscle_depth, muscle_y) < 1
    wall &= body
    pelvis = 1 + 0.45 * _smoothstep(z, 300, 395)
    cavity = _ring(x, y, width * pelvis, CAVITY_SIDE, CAVITY_FRONT_BACK, CAVITY_Y) < 1
    cavity &= wall
    _fill(tissue, wall & ~cavity, Tissue.MUSCLE)
    _ribs(slab, frame, wall & ~cavity, tissue)
    _fill(tissue, cavity, Tissue.FAT)
    _fill(region, cavity, Region.ABDOMEN)
    _thorax(slab, frame, cavity, tissue, region)
    _muscles(slab, frame, tissue, region)
    _spine(slab, frame, tissue, region)
    _pelvis(slab, tissue, region)
    return region


def _ribs(slab: Slab, frame: Frame, wall: np.ndarray, tissue: np.ndarray) -> None:
    box = slab.box(np.array([-170, -120, -120.0]), np.array([170, 120, 175.0]))
    if box is None:
        return
    x, y, z = slab.x[box], slab.y[box], slab.z[box]
    along = z + np.float32(0.5) * y  # ribs fall towards the front
    turn = np.mod(along + np.float32(frame.rib_phase), np.float32(29)) - np.float32(14)
    margin = (along < 150) & (z < 20 + np.float32(1.15) * np.abs(x) + 2 * np.maximum(y, 0)) & (np.abs(x) > 12)
    middle = _ring(x, y, 1.0, CAVITY_SIDE + frame.muscle / 2 + 1, CAVITY_FRONT_BACK + 8, CAVITY_Y + 4)
    off = np.abs(np.sqrt(np.maximum(middle, 0)) - 1) * 110
    distance = np.sqrt((turn * np.float32(0.75)) ** 2 + off * off)
    rib = wall[box] & margin & (distance < 5)
    view = tissue[box]
    view[rib] = np.where(y[rib] < -50, Tissue.DISC, np.where(distance[rib] < 2.5, Tissue.MARROW, Tissue.CORTICAL))


def _thorax(slab: Slab, frame: Frame, cavity: np.ndarray, tissue: np.ndarray, region: np.ndarray) -> None:
    box = slab.box(np.array([-170, -120, -150.0]), np.array([170, 120, 110.0]))
    if box is None:
        return
    x, y, z = slab.x[box], slab.y[box], slab.z[box]
    z = z + np.float32(16) * np.clip(-y * np.float32(1 / 80), 0, 1)  # the lungs reach deeper at the back

    def dome(height: float, cx: float, cy: float, sx: float, sy: float) -> np.ndarray:
        u = ((x - cx) * np.float32(1 / sx)) ** 2 + ((y - cy) * np.float32(1 / sy)) ** 2
        return np.float32(height) + np.float32(150) * u * u

    right = dome(frame.dome_right, -66, 0, 82, 94)
    left = dome(frame.dome_left, 71, 5, 77, 88)
    middle = dome(frame.dome_right + 18, 5, -15, 62, 84)
    diaphragm = smooth_union(smooth_union(right, left, 25), middle, 25)
    above = cavity[box] & (z < diaphragm)
    _fill(region[box], above, Region.THORAX)
    _fill(tissue[box], above, Tissue.LUNG)
    mediastinum = above & (((x - 5) * np.float32(1 / 36)) ** 2 + ((y - 5) * np.float32(1 / 78)) ** 2 < 1)
    _fill(tissue[box], mediastinum, Tissue.FAT)
    muscle = cavity[box] & ~above & (z < diaphragm + 3)
    _fill(tissue[box], muscle, Tissue.MUSCLE)


def _column(
    slab: Slab, z_range: tuple[float, float], x0: float, y0: float, size: float
) -> tuple[Slices, np.ndarray, np.ndarray, np.ndarray] | None:
    box = slab.box(np.array([x0 - size, y0 - size, z_range[0]]), np.array([x0 + size, y0 + size, z_range[1]]))
    return None if box is None else (box, slab.x[box], slab.y[box], slab.z[box])


def _muscles(slab: Slab, frame: Frame, tissue: np.ndarray, region: np.ndarray) -> None:
    for side in (-1, 1):
        if found := _column(slab, (120, 560), side * 56, 30, 62):  # psoas, from the spine outwards and forwards
            box, x, y, z = found
            t = np.clip((z - 140) * np.float32(1 / 260), 0, 1)
            cx, cy, r = side * (27 + 34 * t), 46 - 22 * t * t, 11 + 11 * np.sqrt(t)
            muscle = ((x - cx) ** 2 + (y - cy) ** 2 < r * r) & (z > 140)
            _fill(tissue[box], muscle, Tissue.MUSCLE)
            _fill(region[box], muscle, Region.WALL)
        if found := _column(slab, (170, 300), side * 66, 68, 40):  # quadratus lumborum
            box, x, y, z = found
            muscle = (x - side * 66) ** 2 / 20**2 + (y - 70) ** 2 / 9**2 < np.clip((z - 170) / 30, 0, 1)
            _fill(tissue[box], muscle, Tissue.MUSCLE)
            _fill(region[box], muscle, Region.WALL)
        if found := _column(slab, (-200, 700), side * 36, 84, 45):  # erector spinae
            box, x, y, z = found
            muscle = ((x - side * 35) * np.float32(1 / 29)) ** 2 + ((y - 85) * np.float32(1 / 19)) ** 2 < 1
            _fill(tissue[box], muscle, Tissue.MUSCLE)
            _fill(region[box], muscle, Region.WALL)
        if found := _column(slab, (-200, 330), side * 16, 45, 22):  # the diaphragm's crura, beside the aorta
            box, x, y, z = found
            muscle = ((x - side * 19) ** 2 / 5**2 + (y - 26) ** 2 / 11**2 < 1) & (z < 160) & (z > 30)
            _fill(tissue[box], muscle, Tissue.MUSCLE)


def _spine(slab: Slab, frame: Frame, tissue: np.ndarray, region: np.ndarray) -> None:
    found = _column(slab, (-200, 700), 0, 80, 62)
    if found is None:
        return
    box, x, y, z = found
    back = y - spine_y(frame, z)
    view, space = tissue[box], region[box]
    level = np.mod(z + np.float32(frame.disc_phase), np.float32(35))
    body = np.sqrt((x * np.float32(1 / 21)) ** 2 + (back * np.float32(1 / 17)) ** 2)
    body = (body - 1) * 18 + 2.2 * np.cos(level * np.float32(2 * np.pi / 35))  # waisted vertebrae
    disc = level < 8
    canal = np.sqrt(x * x + (back - 26) ** 2)
    arch = (canal < 14) & (level > 10) & (level < 27)
    spinous = (np.abs(x) < 4) & (back > 33) & (back < 56) & (level > 12) & (level < 30)
    across = (np.abs(back - 22) < 4.5) & (np.abs(x) < 36) & (np.abs(level - 20) < 6)
    bone = body < 0
    posterior = (arch | spinous | across) & ~bone
    space[bone | posterior | (canal < 14)] = Region.WALL
    view[bone] = np.where(body[bone] > -2.2, Tissue.CORTICAL, Tissue.MARROW)
    view[bone & disc] = Tissue.DISC
    view[posterior] = np.where((np.abs(canal - 11)[posterior] < 1.5), Tissue.MARROW, Tissue.CORTICAL)
    view[(canal < 8.5) & ~bone] = Tissue.CORD


def _pelvis(slab: Slab, tissue: np.ndarray, region: np.ndarray) -> None:
    for side in (-1, 1):
        centre, semi = np.array([side * 96.0, 28, 360]), np.array([10.0, 62, 78])
        reach = np.array([60.0, 75, 85])
        box = slab.box(centre - reach, centre + reach)
        if box is not None:
            turn = turned(y_deg=side * 24, z_deg=side * -22)
            bone = ellipsoid_field(slab.x[box], slab.y[box], slab.z[box], centre, semi, turn)
            inside = (bone < 0) & (region[box] != Region.OUTSIDE)
            tissue[box][inside] = np.where(bone[inside] > -2.5, Tissue.CORTICAL, Tissue.MARROW)
            _fill(region[box], inside, Region.WALL)
        for centre, semi in (
            (np.array([side * 92.0, -5, 470]), np.array([24.0, 24, 24])),  # femoral heads
            (np.array([side * 50.0, -48, 462]), np.array([42.0, 10, 10])),  # pubic rami
        ):
            box = slab.box(centre - semi, centre + semi)
            if box is None:
                continue
            bone = ellipsoid_field(slab.x[box], slab.y[box], slab.z[box], centre, semi)
            inside = (bone < 0) & (region[box] != Region.OUTSIDE)
            tissue[box][inside] = np.where(bone[inside] > -2.5, Tissue.CORTICAL, Tissue.MARROW)
            _fill(region[box], inside, Region.WALL)
