"""What a phantom is made of: tissues, and how bright each is in CT and in MR.

CT: Hounsfield units without contrast medium are the medians of AMOS's own organs; arterial and portal
venous values are the literature's. MR: signals follow from 3 T relaxation times (de Bazelaire et al. 2004)
for a T1-weighted gradient echo (TR 4 ms, 12 degrees; liver = 1) and a T2-weighted turbo spin echo
(TE 80 ms; spleen = 1).
"""

from enum import IntEnum

import numpy as np


class Tissue(IntEnum):
    AIR = 0
    FAT = 1
    MUSCLE = 2
    LUNG = 3
    CORTICAL = 4
    MARROW = 5
    DISC = 6
    CORD = 7
    TABLE = 8
    SPLEEN = 9
    CORTEX = 10
    MEDULLA = 11
    BILE = 12
    ESOPHAGUS = 13
    LIVER = 14
    VESSEL = 15  # portal and hepatic veins
    STOMACH = 16
    CHYME = 17  # what the stomach holds
    GAS = 18
    ARTERY = 19
    VEIN = 20
    PANCREAS = 21
    ADRENAL = 22
    DUODENUM = 23
    DUODENAL = 24  # what the duodenum holds
    URINE = 25
    PROSTATE = 26
    UTERUS = 27
    BOWEL = 28
    BOWEL_CONTENT = 29
    STOOL = 30
    HEART = 31
    BLADDER_WALL = 32
    SKIN = 33


# tissue: HU (unenhanced, arterial, portal venous), standard deviation between patients (HU)
_HU: dict[Tissue, tuple[float, float, float, float]] = {
    Tissue.AIR: (-1000, -1000, -1000, 2),
    Tissue.FAT: (-100, -98, -96, 5),
    Tissue.MUSCLE: (55, 58, 62, 4),
    Tissue.LUNG: (-850, -845, -840, 25),
    Tissue.CORTICAL: (700, 700, 700, 80),
    Tissue.MARROW: (190, 195, 200, 30),
    Tissue.DISC: (85, 85, 85, 8),
    Tissue.CORD: (30, 32, 34, 4),
    Tissue.TABLE: (-250, -250, -250, 30),
    Tissue.SPLEEN: (50, 130, 115, 4),
    Tissue.CORTEX: (28, 190, 182, 4),
    Tissue.MEDULLA: (25, 80, 170, 4),
    Tissue.BILE: (14, 10, 9, 5),
    Tissue.ESOPHAGUS: (40, 52, 62, 4),
    Tissue.LIVER: (58, 65, 105, 6),
    Tissue.VESSEL: (42, 70, 150, 4),
    Tissue.STOMACH: (40, 65, 75, 5),
    Tissue.CHYME: (16, 14, 14, 10),
    Tissue.GAS: (-965, -965, -965, 12),
    Tissue.ARTERY: (42, 300, 150, 4),
    Tissue.VEIN: (42, 85, 140, 4),
    Tissue.PANCREAS: (36, 100, 95, 4),
    Tissue.ADRENAL: (22, 80, 70, 5),
    Tissue.DUODENUM: (38, 70, 75, 5),
    Tissue.DUODENAL: (24, 22, 22, 8),
    Tissue.URINE: (10, 9, 9, 4),
    Tissue.PROSTATE: (43, 52, 62, 5),
    Tissue.UTERUS: (46, 75, 100, 6),
    Tissue.BOWEL: (42, 65, 78, 5),
    Tissue.BOWEL_CONTENT: (22, 20, 20, 10),
    Tissue.STOOL: (10, 8, 8, 25),
    Tissue.HEART: (44, 180, 130, 4),
    Tissue.BLADDER_WALL: (38, 42, 50, 4),
    Tissue.SKIN: (20, 20, 22, 5),
}

# tissue: signal in T1 gradient echo (liver = 1), T2 turbo spin echo (spleen = 1)
_SIGNAL: dict[Tissue, tuple[float, float]] = {
    Tissue.AIR: (0.0, 0.0),
    Tissue.FAT: (1.76, 1.14),
    Tissue.MUSCLE: (0.92, 0.24),
    Tissue.LUNG: (0.10, 0.06),
    Tissue.CORTICAL: (0.05, 0.04),
    Tissue.MARROW: (1.29, 0.73),
    Tissue.DISC: (0.60, 0.70),
    Tissue.CORD: (0.45, 2.4),
    Tissue.TABLE: (0.0, 0.0),
    Tissue.SPLEEN: (0.66, 1.0),
    Tissue.CORTEX: (0.75, 1.3),
    Tissue.MEDULLA: (0.57, 1.38),
    Tissue.BILE: (0.27, 3.5),
    Tissue.ESOPHAGUS: (0.80, 0.60),
    Tissue.LIVER: (1.0, 0.35),
    Tissue.VESSEL: (0.48, 0.9),
    Tissue.STOMACH: (0.80, 0.75),
    Tissue.CHYME: (0.32, 2.9),
    Tissue.GAS: (0.02, 0.02),
    Tissue.ARTERY: (0.48, 2.2),
    Tissue.VEIN: (0.48, 2.2),
    Tissue.PANCREAS: (1.09, 0.58),
    Tissue.ADRENAL: (0.80, 0.66),
    Tissue.DUODENUM: (0.82, 0.75),
    Tissue.DUODENAL: (0.40, 2.3),
    Tissue.URINE: (0.27, 3.5),
    Tissue.PROSTATE: (0.56, 1.26),
    Tissue.UTERUS: (0.58, 1.35),
    Tissue.BOWEL: (0.80, 0.75),
    Tissue.BOWEL_CONTENT: (0.45, 2.2),
    Tissue.STOOL: (0.9, 0.5),
    Tissue.HEART: (0.6, 0.6),
    Tissue.BLADDER_WALL: (0.85, 0.5),
    Tissue.SKIN: (0.8, 0.5),
}

_EMPTY = [Tissue.AIR, Tissue.LUNG, Tissue.CORTICAL, Tissue.TABLE, Tissue.GAS]
"""What hardly any MR sequence draws a signal from, and CT shows far beyond the soft tissues."""

PHASES = ("unenhanced", "arterial", "portal")
SEQUENCES = ("t1-fat-sat", "t2-fat-sat", "in-phase", "opposed-phase")
RANDOM = "random"
"""In place of a phase or a sequence: every tissue as bright as drawn, alike for none of them."""


def hu_of_tissues(phase: str, random: np.random.Generator) -> np.ndarray:
    """HU of every tissue of one patient in one contrast phase, indexed by tissue; float32.

    A contrast phase is caught a little early or late: its enhancement varies by +-15 %. In a `RANDOM` one soft tissues
    are drawn evenly, with the mean of 50 HU and the standard deviation of 141 HU that AMOS's organs have together: so a
    plan made from such scans has about the scale of one made from AMOS.
    """
    if phase == RANDOM:
        drawn = random.uniform(50 - 141 * np.sqrt(3), 50 + 141 * np.sqrt(3), len(Tissue)).astype(np.float32)
        drawn[_EMPTY] = hu_of_tissues("unenhanced", random)[_EMPTY]
        return drawn
    column = PHASES.index(phase)
    hu = np.zeros(len(Tissue), np.float32)
    enhancement = float(np.clip(random.normal(1.0, 0.12), 0.7, 1.3))
    for tissue in Tissue:
        *phases, spread = _HU[tissue]
        hu[tissue] = phases[0] + (phases[column] - phases[0]) * enhancement + spread * random.normal()
    # The medulla fills from the cortex: it never outshines it by much.
    hu[Tissue.MEDULLA] = min(hu[Tissue.MEDULLA], hu[Tissue.CORTEX] + 4)
    return np.maximum(hu, -1000)


def signal_of_tissues(sequence: str, random: np.random.Generator) -> np.ndarray:
    """MR signal of every tissue of one patient in one sequence, indexed by tissue; float32, liver or spleen near 1.

    In a `RANDOM` sequence signals lie between 0 and 1: evenly, most of them dark and a few bright as in T2-weighted
    scans, or the reverse.
    """
    if sequence == RANDOM:
        drawn = random.random(len(Tissue)) ** np.exp(random.uniform(np.log(0.5), np.log(3)))
        drawn[_EMPTY] = [_SIGNAL[tissue][1] for tissue in _EMPTY]
        return drawn.astype(np.float32)
    column = 1 if sequence.startswith("t2") else 0
    signal = np.array([_SIGNAL[tissue][column] for tissue in Tissue], np.float32)
    signal *= np.exp(random.normal(0, 0.08, len(signal))).astype(np.float32)
    if "fat-sat" in sequence:
        fat = random.uniform(0.1, 0.2)
        signal[Tissue.FAT] *= fat
        signal[Tissue.MARROW] *= 0.5
    elif sequence == "opposed-phase":
        signal[Tissue.MARROW] *= 0.45
        signal[Tissue.LIVER] *= random.uniform(0.75, 1.0)
    # Flowing blood: inflow or contrast medium brightens T1, and leaves a void in most T2 scans.
    if column == 0:
        flow = random.uniform(0.5, 2.0) / 0.48
        signal[[Tissue.ARTERY, Tissue.VEIN, Tissue.VESSEL, Tissue.HEART]] *= np.array([flow, flow * 0.9, flow * 0.9, 1])
    elif random.random() < 0.6:
        signal[[Tissue.ARTERY, Tissue.VEIN, Tissue.VESSEL]] *= np.array([0.05, 0.2, 0.5])
    return signal.astype(np.float32)
