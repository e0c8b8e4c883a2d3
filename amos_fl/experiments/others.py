"""The scores of other programs on an experiment's test cases, shown next to its arms.

PRESET/others/NAME/ holds a `scores.csv` like that of every run, and `about.json`; `benchmarks/nnunet_yardstick.py`
makes one. Intervals are those of a comparison, over the same cases in the same order.
"""

from pathlib import Path

from amos_fl.comparison.means import mean_of_runs
from amos_fl.comparison.tables import interval
from amos_fl.escape import markdown
from amos_fl.metrics.catalogue import IN_RUNS, MetricName, title_of
from amos_fl.metrics.scores import reported_organs
from amos_fl.metrics.table import CaseScores, organs_of_scores, read_scores
from amos_fl.runs.stored import Stored, read_stored
from amos_fl.wording import MISSING


class AboutOther(Stored):
    """What a program is, how it was run, and its cost; `steps` are optimizer steps, `patches` what they saw."""

    name: str
    command: str
    steps: int
    patches: int
    seconds: float


def others_page(preset_folder: Path) -> str:
    """The scores of other programs in Markdown; empty if there are none."""
    folders = sorted(path.parent for path in preset_folder.glob("others/*/about.json"))
    if not folders:
        return ""
    scored = {folder: read_scores(folder / "scores.csv") for folder in folders}
    groups = sorted({_group(case) for cases in scored.values() for case in cases})
    scores = [(group, metric) for metric in IN_RUNS for group in groups]
    rows, how = [], []
    for folder, cases in scored.items():
        about: AboutOther = read_stored(folder / "about.json", AboutOther, f"remove {folder} and make it again")
        found = [_in_group(folder, [c for c in cases if _group(c) == group], group, metric) for group, metric in scores]
        rows.append([about.name, *found, str(about.steps), str(about.patches), f"{about.seconds:.0f}"])
        how.append(f"{about.name}: {markdown.code(about.command)}.")
    heads = [f"{title_of(metric)} {group}" for group, metric in scores]
    table = markdown.table(["another program", *heads, "steps", "patches", "seconds"], rows)
    return f"On the same test cases, as a yardstick:\n\n{table}\n\n{' '.join(how)}\n"


def _group(case: CaseScores) -> str:
    return f"{'seen' if case.seen else 'unseen'} {case.modality}"


def _in_group(folder: Path, cases: list[CaseScores], group: str, metric: MetricName) -> str:
    """The mean of a group with its interval, as a comparison gives them."""
    if not cases:
        return MISSING
    cases = sorted(cases, key=lambda case: (case.site, case.case))
    organs = reported_organs(organs_of_scores(folder / "scores.csv"), cases[0].modality)
    return interval(mean_of_runs([cases], organs, metric, group).estimates()[-1])
