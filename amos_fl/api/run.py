"""A run folder in Python: its settings, rounds, scores, model and report."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from amos_fl.api.begin import continued
from amos_fl.api.model import TrainedModel
from amos_fl.api.running import carry_out
from amos_fl.api.settings import cache_folder
from amos_fl.api.tables import rounds_table, scores_table, sums_table
from amos_fl.cohort.table import Cohort, read_cohort
from amos_fl.report.page import PAGE, write_run_report
from amos_fl.runs import folder as run_folder
from amos_fl.runs.config import RunConfig
from amos_fl.runs.events import Listener, printed, silent
from amos_fl.runs.record import RunRecord, read_run


@dataclass(frozen=True)
class Run:
    """A run and its folder. Results that need a finished run raise `AmosError` before it has finished."""

    path: Path

    @property
    def config(self) -> RunConfig:
        """The resolved settings."""
        return run_folder.open_run(self.path).config()

    @property
    def cohort(self) -> Cohort:
        """The cases that took part, with their sites."""
        return run_folder.open_run(self.path).cohort()

    @property
    def finished(self) -> bool:
        """Whether the run has finished."""
        return run_folder.open_run(self.path).finished

    @cached_property
    def record(self) -> RunRecord:
        """Everything that a report or a comparison needs from a finished run."""
        return read_run(self.path)

    @property
    def scores(self) -> pd.DataFrame:
        """One row per test case and organ: DSC, NSD, outcome and volumes in ml, seen and unseen sites alike.

        Cases that a hospital withheld are not included; `site_scores` counts them.
        """
        return scores_table(self.record.results)

    @property
    def site_scores(self) -> pd.DataFrame:
        """One row per site, then one per group (seen CT, unseen MR, ...): means over cases and organs."""
        return sums_table(self.record.results.by_site + self.record.results.by_group)

    @property
    def personal_scores(self) -> pd.DataFrame:
        """One row per training site: its own model on its own test cases; empty if the method leaves sites none."""
        personal = self.record.results.personal
        return sums_table(personal.by_site if personal else ())

    @property
    def organ_scores(self) -> pd.DataFrame:
        """One row per organ and group."""
        return sums_table(self.record.results.by_organ)

    @property
    def rounds(self) -> pd.DataFrame:
        """One row per round and site: cases, steps, loss, seconds, or why the site is missing."""
        return rounds_table(run_folder.open_run(self.path).ledger())

    @property
    def problems(self) -> list[str]:
        """Problems during the run, one sentence each."""
        return list(self.record.results.problems)

    @property
    def model(self) -> TrainedModel:
        """The run's final network."""
        return TrainedModel.read(self.path)

    def personal_model(self, site: str) -> TrainedModel:
        """The network that a personal method (FedBN, FedPer, Ditto) left a site, of a simulated run.

        Raises:
            AmosError: the run has none of that site.
        """
        return TrainedModel.read(self.path, site)

    @property
    def report(self) -> Path:
        """The run's page, one HTML file, written if it does not exist."""
        page = self.path / PAGE
        return page if page.is_file() else write_run_report(self.path)

    def resume(
        self,
        *,
        cohort: str | Path | None = None,
        accept_changes: bool = False,
        store: str | Path | None = None,
        progress: bool = True,
        listener: Listener | None = None,
    ) -> "Run":
        """Resume an interrupted run, ending with the weights of one that was never interrupted.

        `cohort` gives the location of its scans, if they were moved. With `accept_changes` it continues although its
        settings, cases or scans have changed since it began, and the ledger records the changes.

        Raises:
            AmosError: something has changed or is missing. AtWork: another process works on the run.
        """
        settings, members = continued(self.path, [], read_cohort(cohort) if cohort else None)
        where, heard = Path(store) if store else cache_folder() / "store", heard_by(progress, listener)
        carry_out(self.path, settings, members, where, heard, accept_changes=accept_changes)
        return Run(self.path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _repr_html_(self) -> str:
        """The notebook view: the scores by site, or the run's progress."""
        if not self.finished:
            done = self.rounds["round"].max() if len(self.rounds) else 0
            return f"<p><code>{self.path}</code>: round {done} of {self.config.rounds}</p>"
        return f"<p><code>{self.path}</code></p>{self.site_scores.round(3).to_html(index=False)}"


def heard_by(progress: bool, listener: Listener | None) -> Listener:
    """The listener of a run in Python: the caller's, or printed lines, or none."""
    return listener or (printed if progress else silent)


def open_run(path: str | Path) -> Run:
    """The run in a folder, finished or not.

    Raises:
        AmosError: the folder holds none.
    """
    run_folder.open_run(Path(path))
    return Run(Path(path))
