"""The eight scanners of AMOS, as data: grids, contrast phases or sequences, kernels, noise, scale.

Fixed from the paper's Tables 8 and 9 and its appendix B.1, never from a score. Of Table 9:

    scanner  slice spacing min/max/median  slices min/max/median  foreground median  0.5 %   99.5 %
    A        5.0  / 5.0 / 5.0              68 / 140 / 98          69                 -967    403
    B        5.0  / 5.0 / 5.0              68 / 112 / 93          45                 -989    158
    C        1.25 / 5.0 / 2.0              76 / 353 / 213         63                 -996    401
    D        1.25 / 5.0 / 2.0              78 / 321 / 203         61                 -994    337
    E        1.25 / 5.0 / 2.0              67 / 369 / 224         59                 -979    353
    F        0.86 / 6.0 / 1.4              60 / 535 / 320         57422              59      170721
    G        0.82 / 3.0 / 3.0              64 / 512 / 72          2560               16      66331
    H        0.82 / 2.0 / 0.82             100 / 512 / 512        845                47      1451508

B's low 99.5 % says that it scans nearly without contrast medium. Noise is the literature's for soft kernels
at these slice thicknesses. AMOS's MR sequences are not published; over the MR scanners together we take half
T1 with fat suppression, three tenths T2 with fat suppression and a fifth in and opposed phase, and give each
scanner a mix of its own. G and H, whose mean or 99.5 % lie far from their median, have a few scans on a far
larger scale.
"""

from dataclasses import dataclass
from typing import Literal

from amos_fl.phantom.tissues import SEQUENCES


@dataclass(frozen=True)
class Grid:
    """How a scanner cuts space: voxel axes as an orientation code, spacing along them, voxel counts.

    `fov_mm` are the extents along the patient's x, y, z; a z of 0 covers the whole abdomen.
    `tilt_deg` turns the whole grid about the patient's left-right axis: an oblique scan.
    """

    axes: str
    spacing_mm: tuple[float, float, float]
    fov_mm: tuple[float, float, float]
    tilt_deg: float = 0.0


@dataclass(frozen=True)
class PhantomScanner:
    """One domain of AMOS. `kinds` are the shares of contrast phases (CT) or sequences (MR)."""

    domain: str
    model: str
    manufacturer: str
    modality: Literal["CT", "MR"]
    kinds: dict[str, float]
    quick: Grid
    full: tuple[tuple[float, Grid], ...]  # with the share of scans made so
    noise: tuple[float, float]  # CT: SD in HU at full size's usual slices; MR: SNR; the range drawn from
    kernel_px: float = 0.8  # CT: SD of the noise's correlation, full-size pixels
    sharpening: float = 0.0  # CT: how much a sharper kernel lifts edges
    scale: tuple[float, float] = (1.0, 0.0)  # MR: median and log-normal spread of the signal unit's scale
    rare_scale: tuple[float, float] = (0.0, 1.0)  # MR: the share of scans on another scale, and its factor
    bias: tuple[float, float] = (0.0, 0.0)  # MR: range of the bias field's strength
    blur: float = 1.0  # of the image, as a multiple of the usual one
    dtype: str = "int16"


_MIXED = {"unenhanced": 0.50, "arterial": 0.15, "portal": 0.35}
_ABDOMEN = (0.0, 0.0, 0.0)


def _ct(axes: str, in_plane: float, slices: float) -> Grid:
    return Grid(axes, (in_plane, in_plane, slices), (512 * in_plane, 512 * in_plane, 0.0))


def _sequences(t1_fat_sat: float, t2_fat_sat: float, in_phase: float, opposed_phase: float) -> dict[str, float]:
    return dict(zip(SEQUENCES, (t1_fat_sat, t2_fat_sat, in_phase, opposed_phase), strict=True))


PHANTOM_SCANNERS: dict[str, PhantomScanner] = {
    s.domain: s
    for s in (
        PhantomScanner(
            "A", "Aquilion ONE", "TOSHIBA", "CT", _MIXED,
            quick=Grid("LPS", (4.6, 4.6, 6.0), _ABDOMEN),
            full=((1.0, _ct("LPS", 0.78, 5.0)),),
            noise=(8, 12), kernel_px=1.0,
        ),
        PhantomScanner(
            "B", "Brilliance16", "Philips", "CT", {"unenhanced": 0.90, "arterial": 0.05, "portal": 0.05},
            quick=Grid("RAS", (4.2, 4.2, 6.5), _ABDOMEN),
            full=((0.8, _ct("LAS", 0.74, 5.0)), (0.2, Grid("LAS", (0.5, 0.5, 5.0), (384, 384, 0)))),
            noise=(9, 13), kernel_px=0.85,
        ),
        PhantomScanner(
            "C", "SOMATOM Force", "SIEMENS", "CT", _MIXED,
            quick=Grid("LAS", (4.5, 4.5, 5.0), _ABDOMEN),
            full=((0.75, _ct("LAS", 0.74, 2.0)), (0.15, _ct("LAS", 0.70, 1.5)), (0.1, _ct("LAS", 0.74, 5.0))),
            noise=(11, 16), kernel_px=0.65, sharpening=0.10,
        ),
        PhantomScanner(
            "D", "Optima CT660", "GE MEDICAL SYSTEMS", "CT", _MIXED,
            quick=Grid("LPS", (4.4, 4.4, 5.5), _ABDOMEN),
            full=((0.7, _ct("LPS", 0.76, 2.0)), (0.15, _ct("LPS", 0.72, 1.5)), (0.15, _ct("LPS", 0.76, 5.0))),
            noise=(11, 15), kernel_px=0.75,
        ),
        PhantomScanner(
            "E", "Optima CT540", "GE MEDICAL SYSTEMS", "CT", _MIXED,
            quick=Grid("RPI", (4.8, 4.8, 5.0), _ABDOMEN),
            full=((0.75, _ct("LPS", 0.80, 2.0)), (0.15, _ct("LPS", 0.74, 1.5)), (0.1, _ct("LPS", 0.80, 5.0))),
            noise=(13, 17), kernel_px=0.75,
        ),
        PhantomScanner(
            "F", "Ingenia", "Philips", "MR", _sequences(0.20, 0.52, 0.14, 0.14),
            quick=Grid("LAS", (4.2, 4.2, 5.0), (390, 0, 230), tilt_deg=-3),
            full=(
                (0.6, Grid("LSP", (1.19, 0.9, 1.4), (380, 0, 290))),
                (0.4, Grid("LAS", (1.19, 1.19, 3.0), (380, 0, 230), tilt_deg=-3)),
            ),
            noise=(18, 35), scale=(70000, 0.35), bias=(0.25, 0.45), dtype="int32",
        ),
        PhantomScanner(
            "G", "Prisma", "SIEMENS", "MR", _sequences(0.63, 0.20, 0.085, 0.085),
            quick=Grid("LPS", (4.4, 4.4, 5.0), (380, 0, 240), tilt_deg=9),
            full=(
                (0.8, Grid("LPS", (1.19, 1.19, 3.0), (380, 309, 216), tilt_deg=9)),
                (0.2, Grid("LSP", (0.82, 0.82, 2.2), (420, 0, 420))),
            ),
            noise=(18, 40), scale=(1700, 0.9), rare_scale=(0.06, 20.0), bias=(0.2, 0.4), dtype="int32",
        ),
        PhantomScanner(
            "H", "SIGNA HDe", "GE MEDICAL SYSTEMS", "MR", _sequences(0.50, 0.30, 0.10, 0.10),
            quick=Grid("LSA", (4.5, 4.5, 5.5), (390, 0, 260)),
            full=((1.0, Grid("LSA", (0.82, 0.82, 2.0), (420, 0, 420))),),
            noise=(15, 28), scale=(900, 0.5), rare_scale=(0.15, 1000.0), bias=(0.2, 0.4), dtype="float32",
        ),
    )
}  # fmt: skip

ACHIEVA = ("Achieva", "Philips Medical Systems")
"""The model and manufacturer that AMOS's table gives for case 539, which Table 2 counts under H."""
