"""What a network loses on a scanner that was held out, against one that trained there.

Both are scored on the same test cases, those that both have, and seeds are averaged: the mean over cases, then over
organs, with a bootstrap interval over the cases.
"""

from collections.abc import Sequence

from amos_fl.comparison.means import mean_of_runs, minus
from amos_fl.comparison.tables import interval
from amos_fl.escape import markdown
from amos_fl.experiments.preset import Preset
from amos_fl.experiments.workspace import Workspace
from amos_fl.metrics.scores import reported_organs
from amos_fl.metrics.table import CaseScores, organs_of_scores, read_scores
from amos_fl.runs.folder import RunFolder
from amos_fl.wording import MISSING

WHAT = (
    "DSC on a scanner that is held out, beside networks that trained there, on the same test cases, all seeds "
    "together, with 95 % intervals over the cases:"
)


def drops_page(preset: Preset, workspace: Workspace) -> str:
    """The table of an experiment's drops in Markdown, of those whose runs are done; empty if there are none."""
    works = workspace.works(preset.name)

    def run_of(step: str) -> RunFolder | None:
        work = works.get(step)
        return RunFolder(workspace.root / work.folder) if work is not None and workspace.done(work) else None

    pairs: dict[tuple[str, str], list[tuple[RunFolder, RunFolder]]] = {}
    for drop in preset.drops:
        trained, held_out = run_of(drop.trained), run_of(drop.held_out)
        if trained is not None and held_out is not None:
            pairs.setdefault((drop.site, drop.row), []).append((trained, held_out))
    if not pairs:
        return ""
    head = ["scanner", "arm", "cases", "runs", "trained there", "held out", "drop"]
    rows = [_row(site, row, of) for (site, row), of in pairs.items()]
    return f"{WHAT}\n\n{markdown.table(head, rows)}\n"


def _row(site: str, row: str, pairs: Sequence[tuple[RunFolder, RunFolder]]) -> list[str]:
    scored = [tuple(_cases_of(run, site) for run in pair) for pair in pairs]
    names = sorted(set.intersection(*(set(cases) for pair in scored for cases in pair)))
    mark = "*" if pairs[0][0].synthetic else ""
    first = [site, f"{row}{mark}", str(len(names)), str(len(pairs))]
    if not names:
        return [*first, MISSING, MISSING, MISSING]
    organs = organs_of_scores(pairs[0][0].path / "scores.csv")
    reported = reported_organs(organs, scored[0][0][names[0]].modality)
    trained, held_out = (
        mean_of_runs([[pair[which][name] for name in names] for pair in scored], reported, "dsc", site)
        for which in (0, 1)
    )
    cells = [interval(mean.estimates()[-1]) for mean in (trained, held_out)]
    return [*first, *cells, interval(minus(trained, held_out, held_out), sign=True)]


def _cases_of(run: RunFolder, site: str) -> dict[str, CaseScores]:
    return {case.case: case for case in read_scores(run.path / "scores.csv") if case.site == site}
