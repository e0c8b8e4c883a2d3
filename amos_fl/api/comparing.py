"""`amos-fl compare` as a function: the same tables, the same findings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from amos_fl.api.arguments import Place
from amos_fl.api.run import Run
from amos_fl.api.settings import next_out
from amos_fl.api.tables import cells_table, differences_table
from amos_fl.comparison.compare import compare_runs
from amos_fl.comparison.comparison import Comparison
from amos_fl.comparison.write import check_out, write_comparison
from amos_fl.locks import at_work
from amos_fl.metrics.catalogue import IN_RUNS, MetricName
from amos_fl.report.page import write_comparison_report
from amos_fl.runs.record import read_runs


@dataclass(frozen=True)
class Compared:
    """A comparison of runs: scores with intervals, paired tests, and the findings in words."""

    path: Path
    comparison: Comparison

    @property
    def scores(self) -> pd.DataFrame:
        """One row per arm, scope (a site, a group, the mean over sites), organ ("" is the mean) and metric."""
        return cells_table(self.comparison)

    @property
    def differences(self) -> pd.DataFrame:
        """One row per arm and scope: the arm minus the reference, its 95 % interval, p, Holm's p and a verdict."""
        return differences_table(self.comparison)

    @property
    def findings(self) -> list[str]:
        """The answer in words, the most important first."""
        return list(self.comparison.findings)

    @property
    def report(self) -> Path:
        """The comparison's page, one HTML file."""
        return self.path / "report.html"

    def _repr_html_(self) -> str:
        means = self.scores[(self.scores["organ"] == "") & (self.scores["metric"] == "dsc")]
        table = means.pivot_table(index="scope", columns="arm", values="value", sort=False).round(3)
        return f"<p>DSC, <code>{self.path}</code></p>{table.to_html()}"


def compare(
    runs: "Sequence[Run | Place | Sequence[Run]]",
    out: Place | None = None,
    *,
    reference: str | None = None,
    names: Mapping[str, str] | None = None,
    metrics: Sequence[MetricName] = IN_RUNS,
    seed: int = 0,
    resamples: int = 10_000,
    published: bool = False,
) -> Compared:
    """Compare finished runs on the test cases that all of them scored, and write the comparison's folder.

    `runs` are runs, run folders, groups' folders, or lists of runs as `local` returns them. `names` says what
    the arms of some runs are called in tables and figures, by the run's name or folder, or its group's.

    Raises:
        AmosError: fewer than two arms, runs that cannot be compared, or names for arms that are not there.
    """
    paths: list[Path] = []
    for run in runs:
        members = [run] if isinstance(run, str | Path | Run) else run
        paths += [member.path if isinstance(member, Run) else Path(member) for member in members]
    folder = Path(out) if out else next_out("compare")
    check_out(folder)
    records = read_runs(paths)
    with at_work(folder):
        comparison = compare_runs(
            records,
            metrics=metrics,
            reference=reference,
            names=names,
            seed=seed,
            resamples=resamples,
            published=published,
        )
        write_comparison(comparison, folder)
        write_comparison_report(comparison, folder)
    return Compared(folder, comparison)
