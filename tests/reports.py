"""Finished tiny runs and their pages, for the tests of the report."""

from dataclasses import dataclass
from pathlib import Path

from federations import federate

from amos_fl.cohort.table import Cohort
from amos_fl.comparison.compare import compare_runs
from amos_fl.comparison.write import write_comparison
from amos_fl.report.page import write_comparison_report, write_run_report
from amos_fl.runs.record import RunRecord, read_runs


@dataclass(frozen=True)
class Pages:
    """A federated run with its page, and the page of its comparison with the local runs of two sites."""

    run: RunRecord
    run_page: Path
    comparison_page: Path


def make_pages(folder: Path, cohort: Cohort, store: Path) -> Pages:
    federate(folder / "fedavg-001", cohort, store, evaluation={"every": 1})
    for site, others in (("A", ["B", "G"]), ("G", ["A", "B"])):
        alone = cohort.holding_out(others)
        federate(folder / f"local-{site}", alone, store, arm="local", hold_out=others, rounds=1)
    records = read_runs([folder / name for name in ("fedavg-001", "local-A", "local-G")])
    comparison = compare_runs(records, resamples=200)
    write_comparison(comparison, folder / "compare")
    return Pages(
        run=records[0],
        run_page=write_run_report(records[0]),
        comparison_page=write_comparison_report(comparison, folder / "compare"),
    )
