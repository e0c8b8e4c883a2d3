"""The plans that nnU-Net's rules make of a full-size phantom of AMOS, beside those of the paper.

    python benchmarks/plan_from_phantom.py FOLDER

Spacing and shape come from the headers of all 600 scans, which need no voxels; CT intensities from 20 whole cases (14
of them CT), which are written into FOLDER first, in about 20 s each on one core, unless they are there. Then the sum
of the sites' fingerprints is compared with the pooled one. For MR this checks the phantom's own shapes: the median
shape of AMOS's MR scans is not published, and the phantom's is an assumption.
"""

import sys
import time
from pathlib import Path

from amos_fl.cohort.amos22 import import_amos22
from amos_fl.cohort.table import SPLITS
from amos_fl.phantom.release import header_of, listed_cases, write_release
from amos_fl.planning.fingerprint import Fingerprint, merged
from amos_fl.planning.measure import fingerprint_of_affine, fingerprint_of_cases, measured_cases
from amos_fl.planning.planner import plan_from
from amos_fl.volumes.plan import Plan, plan_named

WHOLE_CASES = [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 201, 205, 210, 211, 510, 514, 517, 541, 548, 555]


def main(folder: Path) -> None:
    if not folder.exists():
        started = time.perf_counter()
        write_release(folder, size="full", cases=WHOLE_CASES)
        print(f"wrote {len(WHOLE_CASES)} full-size cases in {time.perf_counter() - started:.0f} s")
    started = time.perf_counter()
    headers = {
        case.amos_id: fingerprint_of_affine("CT" if case.modality == "CT" else "MR", *header_of(0, "full", case))
        for case in listed_cases().values()
    }
    print(f"{len(headers)} headers in {time.perf_counter() - started:.1f} s")
    started = time.perf_counter()
    cohort = import_amos22(folder, protocol="paper").cohort
    cases = measured_cases(cohort, SPLITS)
    whole = fingerprint_of_cases(cases, cohort.organs)
    print(f"{len(cases)} whole cases, {whole.CT.intensity.total:,} organ voxels in CT, in {_since(started)}")
    sites = [fingerprint_of_cases([c for c in cases if c.site == site], cohort.organs) for site in cohort.sites]
    print(f"sum of {len(sites)} sites' fingerprints equals the pooled one: {merged(sites) == whole}")
    everything = merged(headers.values())
    training = merged(headers[case.amos_id] for case in listed_cases().values() if case.split == "train")
    for name, paper, of_headers in (
        ("CT", "amos-ct", Fingerprint(CT=everything.CT)),
        ("MR", "amos-mr", Fingerprint(MR=everything.MR)),
        ("CT and MR, training cases", "amos-ct", training),
    ):
        if of_headers.CT.cases:
            known = of_headers.CT.model_copy(update={"intensity": whole.CT.intensity})
            of_headers = of_headers.model_copy(update={"CT": known})
        _show(f"{name}, {of_headers.cases} headers", plan_from(of_headers, len(cohort.organs)), plan_named(paper))


def _show(title: str, made: Plan, paper: Plan) -> None:
    print(f"\n{title} (z first)")
    for plan in (made, paper):
        patch = "x".join(map(str, reversed(plan.patch)))
        spacing = "x".join(f"{mm:g}" for mm in reversed(plan.spacing_mm))
        pools = " ".join("".join(map(str, reversed(stride))) for stride in plan.strides[1:])
        kernels = " ".join("".join(map(str, reversed(kernel))) for kernel in plan.kernels)
        print(f"  {plan.name:8} {patch} at {spacing} mm, pools {pools}, kernels {kernels}")
        window = f"{plan.ct_clip_hu[0]:g} to {plan.ct_clip_hu[1]:g}"
        print(f"           CT window {window} HU, mean {plan.ct_mean_hu:g}, sd {plan.ct_sd_hu:g}")
    same = (made.patch, made.strides, made.kernels) == (paper.patch, paper.strides, paper.kernels)
    print(f"  patch, pooling and kernels are {'the same' if same else 'others'}")


def _since(started: float) -> str:
    return f"{time.perf_counter() - started:.0f} s"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/plan_from_phantom.py FOLDER")
    main(Path(sys.argv[1]))
