"""Scoring one case: `amos_fl.metrics.score_case` beside DeepMind's surface-distance 0.1, in the same run.

Fifteen organ-shaped masks on a 512x512x100 grid at 0.7x0.7x5 mm and a prediction whose surfaces waver around
them by a few mm. Both score DSC and NSD of all organs; the package scores one organ after another, as its
documentation shows. Prints the median wall-clock time of several runs after a warm-up, the peak of what each
allocates over its inputs, and the largest difference between the scores.

    python benchmarks/scoring.py [--runs 5] [--tolerance-mm 1.0] [--order C|F]
"""

import argparse
import statistics
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
from _rows import OURS, note
from surface_distance import metrics as deepmind

from amos_fl.metrics.scores import score_case
from amos_fl.randomness import generator

SHAPE = (512, 512, 100)
SPACING_MM = (0.7, 0.7, 5.0)
# Centre and half axes in mm, from the grid's corner; sizes give about AMOS's median volumes.
ORGANS = {
    1: ((255, 215, 330), (28, 42, 42)),  # spleen
    2: ((115, 225, 270), (26, 24, 55)),  # right kidney
    3: ((240, 228, 280), (26, 24, 55)),  # left kidney
    4: ((128, 130, 290), (14, 14, 30)),  # gall bladder
    5: ((185, 205, 400), (8, 7, 60)),  # esophagus
    6: ((110, 150, 340), (78, 68, 70)),  # liver
    7: ((230, 120, 340), (45, 38, 48)),  # stomach
    8: ((186, 232, 280), (11, 11, 150)),  # aorta
    9: ((158, 222, 280), (11, 9, 130)),  # inferior vena cava
    10: ((185, 165, 290), (60, 13, 20)),  # pancreas
    11: ((140, 232, 335), (9, 6, 14)),  # right adrenal gland
    12: ((222, 235, 335), (9, 6, 14)),  # left adrenal gland
    13: ((150, 170, 262), (26, 13, 32)),  # duodenum
    14: ((180, 140, 70), (34, 30, 26)),  # bladder
    15: ((180, 185, 50), (22, 17, 20)),  # prostate/uterus
}


def organ_map(seed: int, waver: float) -> np.ndarray:
    """A uint8 label map (512, 512, 100): ellipsoids whose surfaces waver; the same for the same arguments."""
    labels = np.zeros(SHAPE, np.uint8)
    for organ, (centre, half_axes) in ORGANS.items():
        low = [max(0, int((c - 1.3 * h) / s)) for c, h, s in zip(centre, half_axes, SPACING_MM, strict=True)]
        high = [int((c + 1.3 * h) / s) + 2 for c, h, s in zip(centre, half_axes, SPACING_MM, strict=True)]
        box = tuple(slice(a, min(b, n)) for a, b, n in zip(low, high, SHAPE, strict=True))
        grids = np.meshgrid(
            *(np.arange(b.start, b.stop) * s for b, s in zip(box, SPACING_MM, strict=True)), indexing="ij"
        )
        level = sum(((grid - c) / h) ** 2 for grid, c, h in zip(grids, centre, half_axes, strict=True))
        for wave in range(6):
            # The large waves are the organ's shape, shared by all maps; the small ones differ by seed.
            random = generator(0 if wave < 3 else seed, "wave", organ, wave)
            direction = random.normal(size=3) / np.array(half_axes) * 2.5
            phase = sum(d * grid for d, grid in zip(direction, grids, strict=True)) + random.uniform(0, 2 * np.pi)
            level = level + (0.12 if wave < 3 else waver) * np.sin(phase)
        labels[box][(level < 1) & (labels[box] == 0)] = organ
    return labels


def deepminds_scores(
    prediction: np.ndarray, reference: np.ndarray, tolerance_mm: float
) -> dict[int, tuple[float, float]]:
    scores = {}
    for organ in ORGANS:
        real, predicted = reference == organ, prediction == organ
        distances = deepmind.compute_surface_distances(real, predicted, SPACING_MM)
        nsd = deepmind.compute_surface_dice_at_tolerance(distances, tolerance_mm)
        scores[organ] = (float(deepmind.compute_dice_coefficient(real, predicted)), float(nsd))
    return scores


def median_seconds(works: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """The median of several runs of each, taking turns so that a busy machine slows all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(runs):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def peak_mb(work: Callable[[], object]) -> float:
    """The most that `work` holds at once, in MB, as NumPy reports its arrays to tracemalloc."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the scoring of one case beside surface-distance 0.1.")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tolerance-mm", type=float, default=1.0)
    parser.add_argument("--order", choices=("C", "F"), default="C", help="memory order of the maps; NIfTI files give F")
    options = parser.parse_args()
    reference = np.array(organ_map(seed=0, waver=0.0), order=options.order)
    prediction = np.array(organ_map(seed=1, waver=0.06), order=options.order)

    def ours():
        return score_case(prediction, reference, SPACING_MM, ORGANS, options.tolerance_mm)

    def theirs():
        return deepminds_scores(prediction, reference, options.tolerance_mm)

    our_scores, their_scores = ours(), theirs()  # the warm-up too: the first call imports MONAI
    difference = max(
        max(abs(our_scores[organ].dsc - dsc), abs(our_scores[organ].nsd - nsd))
        for organ, (dsc, nsd) in their_scores.items()
    )
    # Turn by turn, so that a busy machine slows both.
    seconds = median_seconds({OURS: ours, "surface-distance": theirs}, options.runs)
    megabytes = {OURS: peak_mb(ours), "surface-distance": peak_mb(theirs)}
    mean = [np.mean([getattr(score, name) for score in our_scores.values()]) for name in ("dsc", "nsd")]
    print(f"15 organs, {'x'.join(map(str, SHAPE))} at {'x'.join(map(str, SPACING_MM))} mm, order {options.order}")
    print(
        f"tolerance {options.tolerance_mm} mm, median of {options.runs} runs; mean DSC {mean[0]:.3f}, NSD {mean[1]:.3f}"
    )
    for name, value in seconds.items():
        print(f"{name:>17} {value:7.3f} s  {megabytes[name]:7.0f} MB")
        note("DSC and NSD of a case of 512x512x100", name, value, memory=f"{megabytes[name]:.0f} MB")
    print(f"{'ratio':>17} {seconds['surface-distance'] / seconds[OURS]:7.1f} times as fast")
    print(f"largest difference between the scores: {difference:.1e}")


if __name__ == "__main__":
    main()
