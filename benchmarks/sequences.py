"""What the experiment `unseen-scanners` scored on the phantom's scanner F, by MR sequence.

    python benchmarks/sequences.py runs/experiments

The phantom draws the sequence of a scan from its seed and number, so it needs no record of it. The table has the mean
DSC over the cases of a sequence and then over organs, all seeds together, with its 95 % interval over cases; and first
how many scans of a sequence the sites trained with. Synthetic scans.
"""

import argparse
import re
from collections import Counter
from pathlib import Path

from amos_fl.comparison.means import mean_of_runs
from amos_fl.comparison.tables import interval
from amos_fl.escape import markdown
from amos_fl.experiments.preset import read_preset
from amos_fl.experiments.quick_data import PHANTOMS
from amos_fl.experiments.workspace import Workspace
from amos_fl.metrics.scores import reported_organs
from amos_fl.metrics.table import organs_of_scores, read_scores
from amos_fl.phantom.release import listed_cases
from amos_fl.phantom.scanners import PHANTOM_SCANNERS
from amos_fl.phantom.tissues import SEQUENCES
from amos_fl.randomness import generator
from amos_fl.runs.folder import RunFolder

GROUPS = {name: (name,) for name in SEQUENCES[:2]} | {"in and opposed phase": SEQUENCES[2:]}
SITE, STEP = "F", re.compile(r"(.+)-without-F-\d+")


def sequence_of(case: str, seed: int) -> str:
    """The sequence of a case of the phantom: the first thing that is drawn for its scan."""
    listed = next(listed for listed in listed_cases().values() if listed.name == case)
    kinds = PHANTOM_SCANNERS[listed.domain].kinds
    return str(generator(seed, "phantom", "scan", listed.amos_id).choice(list(kinds), p=list(kinds.values())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", type=Path, help="the folder of the experiments (--out)")
    workspace, seed = Workspace(parser.parse_args().experiments, "full"), PHANTOMS["phantom-scanners"][0]
    works = workspace.works("unseen-scanners")
    arms: dict[str, list[RunFolder]] = {}
    for step in read_preset("unseen-scanners").steps:
        if (named := STEP.fullmatch(step)) and step in works and workspace.done(works[step]):
            arms.setdefault(named[1], []).append(RunFolder(workspace.root / works[step].folder))
    first = next(iter(arms.values()))[0]
    trained = Counter(
        sequence_of(case.case, seed) for case in first.cohort().of(split="train") if case.modality == "MR"
    )
    organs = tuple(reported_organs(organs_of_scores(first.path / "scores.csv"), "MR"))
    rows = [["trained with", "", *(str(sum(trained[s] for s in group)) for group in GROUPS.values())]]
    for arm, runs in arms.items():
        of_site = [[case for case in read_scores(run.path / "scores.csv") if case.site == SITE] for run in runs]
        by_sequence = [
            [[case for case in run if sequence_of(case.case, seed) in group] for run in of_site]
            for group in GROUPS.values()
        ]
        means = [mean_of_runs(cases, organs, "dsc", SITE).estimates()[-1] for cases in by_sequence]
        rows.append([arm, str(len(runs)), *map(interval, means)])
    cases = Counter(sequence_of(case.case, seed) for case in first.cohort().of(site=SITE, split="test"))
    heads = [f"{name} ({sum(cases[s] for s in group)})" for name, group in GROUPS.items()]
    print(markdown.table(["arm", "runs", *heads], rows))


if __name__ == "__main__":
    main()
