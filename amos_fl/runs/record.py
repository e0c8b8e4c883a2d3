"""Read finished runs for comparisons and reports: settings, scores, ledger and cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError
from amos_fl.files import sha256_of_json
from amos_fl.methods import METHODS, options_of
from amos_fl.metrics.rows import ScoreRow, row_of
from amos_fl.runs.as_begun import cohort_as_begun, config_as_begun
from amos_fl.runs.as_written import check_as_written
from amos_fl.runs.config import ArmKind, RunConfig
from amos_fl.runs.folder import RunFolder, open_run
from amos_fl.runs.group import is_group, read_group
from amos_fl.runs.ledger import LedgerEntry, steps_taken
from amos_fl.runs.results import Results, results_of


@dataclass(frozen=True)
class RunCost:
    """The cost of a run. `seconds` are those of its rounds: training, transport and checkpoints, without scoring.

    `sequential_steps` are the largest number of steps at one trainer, summed over rounds. Bytes are those of exchanged
    weights; an arm without exchange has none.
    """

    rounds: int
    steps: int
    sequential_steps: int
    patches: int
    bytes_down: int
    bytes_up: int
    seconds: float

    @classmethod
    def of(cls, ledger: Sequence[LedgerEntry], config: RunConfig) -> "RunCost":
        """The cost of the rounds in a ledger."""
        steps = [[steps_taken(site) for site in entry["sites"].values()] for entry in ledger]
        return cls(
            rounds=len(ledger),
            steps=sum(map(sum, steps)),
            sequential_steps=sum(max(row, default=0) for row in steps),
            patches=sum(map(sum, steps)) * config.training.batch_size,
            bytes_down=sum(entry["bytes_down"] for entry in ledger),
            bytes_up=sum(entry["bytes_up"] for entry in ledger),
            seconds=sum(entry["seconds"] for entry in ledger),
        )


@dataclass(frozen=True)
class RunRecord:
    """A finished run. `name` is its folder's, preceded by its group's if it has one: `local-001/A`.

    `modules` are the files of the user's own code by import path, with their hashes; None if it has none.
    """

    folder: RunFolder
    name: str
    config: RunConfig
    cohort: Cohort
    synthetic: bool
    cohort_sha256: str
    results: Results
    ledger: list[LedgerEntry]
    cost: RunCost
    modules: dict[str, str] | None = None

    @property
    def arm(self) -> ArmKind:
        return self.config.arm

    @property
    def seen_sites(self) -> tuple[str, ...]:
        """The sites whose cases this run trained on."""
        return self.cohort.seen_sites

    @property
    def unseen_sites(self) -> tuple[str, ...]:
        return self.cohort.unseen_sites

    def scores_by_round(self) -> list[ScoreRow]:
        """Each site's scores after each scored round: on validation cases if its scanner trained, otherwise test cases.

        `share` is the fraction of the run's rounds completed by then.
        """
        rows = []
        for number in (entry["round"] for entry in self.ledger):
            for site, result in sorted(self.folder.scores_of_sites(number, "val").items()):
                group, share = "seen" if result.seen else "unseen", round(number / self.config.rounds, 6)
                where = {"run": self.name, "round": number, "share": share, "site": site, "group": group, "over": site}
                rows.append(row_of(result.scores.to_scores(), split=result.split, **where))
        return rows

    def science(self) -> dict[str, Any]:
        """What the run computes; an option of its method at its default is as good as not given."""
        science = self.config.science()
        if (kind := METHODS.get(self.config.strategy)) is not None and "strategy_options" in science:
            usual = options_of(kind)
            given = science["strategy_options"].items()
            science["strategy_options"] = {name: value for name, value in given if usual.get(name) != value}
        return science

    def settings_key(self) -> str:
        """A key that is equal for runs on one cohort that differ only in the seed, and where and how they were run."""
        science = self.science()
        del science["seed"]
        return sha256_of_json([science, self.cohort_sha256, *filter(None, [self.modules])])[:16]


def read_run(path: Path, name: str | None = None) -> RunRecord:
    """The finished run in a folder.

    Raises:
        AmosError: the folder holds no run, or one that has not finished or has been changed since.
    """
    folder = open_run(path)
    if not folder.finished:
        raise AmosError(f"{path}: this run has not finished; continue it with: amos-fl simulate --resume {path}")
    config, ledger, about = config_as_begun(folder), folder.ledger(), folder.about()
    cohort = cohort_as_begun(folder)
    results = results_of(folder, config, cohort)
    check_as_written(folder, config, cohort, results)
    return RunRecord(
        folder=folder,
        name=name or path.resolve().name,
        config=config,
        cohort=cohort,
        synthetic=about.synthetic,
        cohort_sha256=about.cohort_sha256,
        results=results,
        ledger=ledger,
        cost=RunCost.of(ledger, config),
        modules=about.modules,
    )


def read_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """The finished runs in run folders and groups, in the order given, each once, by names that differ.

    Raises:
        AmosError: a folder holds neither, or a run has not finished.
    """
    found: dict[Path, str] = {}
    for path in paths:
        for member in read_group(path).members if is_group(path) else [path]:
            name = member.resolve().name
            if member != path or is_group(path.resolve().parent):
                name = f"{member.resolve().parent.name}/{name}"
            found.setdefault(member.resolve(), name)
    names = list(found.values())
    return [
        read_run(path, name if names.count(name) == 1 else f"{path.parent.name}/{path.name}")
        for path, name in found.items()
    ]
