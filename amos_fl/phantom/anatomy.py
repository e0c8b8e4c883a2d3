"""The patient: an anatomy drawn from a seed, the same on whatever grid it is looked at."""

from dataclasses import dataclass

import numpy as np

from amos_fl.phantom import bowel, organs, vessels
from amos_fl.phantom.frame import Frame, paint_frame
from amos_fl.phantom.pose import Pose, Slab, voxel_boxes
from amos_fl.phantom.shapes import turned
from amos_fl.phantom.structure import Structure
from amos_fl.randomness import generator

RAS_TO_PATIENT = np.diag([-1.0, -1.0, -1.0])


@dataclass(frozen=True)
class Patient:
    """What a scanner looks at. `structures` are painted in order, later ones over earlier ones."""

    sex: str
    pose: Pose
    frame: Frame
    structures: tuple[Structure, ...]
    missing: frozenset[int]

    def paint(self, affine: np.ndarray, start: int, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Tissue and label (both uint8, (z, y, x)) of the voxels of planes start .. start + shape[0]."""
        tissue, label = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
        low, high = self.frame.bounds()
        box = voxel_boxes(self.pose, affine, start, shape, low[None], high[None])[0]
        if box is None:
            return tissue, label
        planes, rows, columns = box
        inner = affine.copy()
        inner[:3, 3] = affine[:3] @ (columns.start, rows.start, 0, 1)
        size = (planes.stop - planes.start, rows.stop - rows.start, columns.stop - columns.start)
        slab = Slab(self.pose, inner, start + planes.start, size)
        tissues, labels = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
        region = paint_frame(slab, self.frame, tissues)
        for structure in self.structures:
            structure.paint(slab, region, tissues, labels)
        tissue[box], label[box] = tissues, labels
        return tissue, label


def draw_patient(seed: int, patient: int, sex: str) -> Patient:
    """Patient number `patient` of the phantom release `seed`; `sex` is "M" or "F"."""
    random = generator(seed, "phantom", "anatomy", patient)
    body = float(np.exp(random.normal(0, 0.06)))  # a linear size
    stretch = np.array(
        [
            body * np.exp(random.normal(0, 0.05)),
            body * np.exp(random.normal(0, 0.07)),
            body**0.5 * np.exp(random.normal(0, 0.035)),
        ]
    ) * (1.0 if sex == "M" else 0.96)
    tilt = np.clip(random.normal(0, 1, 3), -2, 2) * (4, 3.5, 6)
    matrix = turned(*tilt) @ RAS_TO_PATIENT / stretch[:, None]
    pose = Pose(matrix=matrix, shift=random.normal(0, 1, 3) * (10, 8, 12), **_waves(random))
    fatness = float(np.exp(random.normal(0, 0.5)))
    frame = Frame(
        fat_side=float(np.clip(16 * fatness, 5, 45)),
        fat_front=float(np.clip(15 * fatness, 4, 48)),
        fat_back=float(np.clip(12 * fatness, 4, 40)),
        muscle=float(np.clip(13 + random.normal(0, 2), 9, 17)),
        dome_right=float(random.normal(0, 8)),
        dome_left=float(random.normal(13, 8)),
        disc_phase=float(random.uniform(0, 35)),
        rib_phase=float(random.uniform(0, 29)),
        lordosis=float(random.uniform(2, 14)),
    )
    breath = np.array([0.0, 0, frame.dome_right + random.normal(0, 7)])
    scale = organs.draw_sizes(random, body)
    missing = frozenset(label for label, share in organs.PRESENCE.items() if random.random() >= share)
    draws = organs.Draws(
        random=random,
        frame=frame,
        sex=sex,
        scale=scale,
        missing=missing,
        upper=breath + np.clip(random.normal(0, 1, 3), -2, 2) * (5, 4, 4),
        back=breath * 0.5 + np.clip(random.normal(0, 1, 3), -2, 2) * (3, 3, 7),
    )
    aorta = vessels.aorta_line(draws)
    painted = [
        *vessels.heart(draws),
        *bowel.small_bowel(draws),
        *bowel.colon(draws),
        *organs.stomach(draws),
        *organs.spleen(draws),
        *organs.liver(draws),
        *organs.pancreas_and_duodenum(draws),
        *organs.kidneys(draws),
        *organs.gallbladder(draws),
        *vessels.vessels(draws, aorta),
        *vessels.esophagus(draws, aorta),
        *organs.pelvic_organs(draws),
    ]
    return Patient(sex, pose, frame, tuple(s for s in painted if s.label not in missing), missing)


def _waves(random: np.random.Generator) -> dict[str, np.ndarray]:
    """Scoliosis and unevenness: (wavelength mm, height mm) from a long bend to short ripples."""
    plan = [(620, 9, 0), (540, 6, 1), *[(length, 3.2, axis) for length in (260, 170) for axis in range(3)]]
    plan += [(95, 1.2, axis) for axis in range(3)]
    wave, height = [], []
    for number, (length, size, _) in enumerate(plan):
        direction = np.array([0.0, 0, 1]) if number < 2 else random.normal(size=3)
        wave.append(direction / np.linalg.norm(direction) * 2 * np.pi / (length * random.uniform(0.85, 1.15)))
        height.append(np.clip(random.normal(0, size), -2 * size, 2 * size))
    return {
        "wave": np.array(wave),
        "axis": np.array([axis for _, _, axis in plan]),
        "height_mm": np.array(height),
        "phase": random.uniform(0, 2 * np.pi, len(plan)),
    }
