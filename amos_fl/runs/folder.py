"""The run folder: everything that one run writes, and what it needs to resume.

config.yaml           the resolved settings            versions.json   what computed it
cohort.csv            the cases that took part         ledger.jsonl    one line per finished round
checkpoints/round_N/  weights, the strategy's memory   evaluations/    scores of a round, sums and counts
checkpoints/ledger.jsonl  a copy of the ledger
sites/SITE/           what a site is given and keeps   model/          the chosen weights and their card
start.json            what it took over from another run, where it began with one's weights
start/                those weights, where the run's submitter sent them to a SuperLink
scores.csv            test scores per case and organ   summary.md      the run on one page
fingerprint.json      what the plan was made of, where the run made it itself
"""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml
from pydantic import Field

from amos_fl.cohort.table import Case, Cohort, read_cohort
from amos_fl.errors import AmosError
from amos_fl.files import remove_abandoned, write_json, write_text
from amos_fl.runs.about import AboutRun, read_about
from amos_fl.runs.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from amos_fl.runs.config import RunConfig, resolve
from amos_fl.runs.evaluation import Evaluation, SiteEvaluation, read_evaluation_file, set_aside
from amos_fl.runs.events import StopFile
from amos_fl.runs.layers import Layer, read_yaml
from amos_fl.runs.ledger import LedgerEntry, entries_in, ledger_text
from amos_fl.runs.ledger_file import Extent, LedgerFile
from amos_fl.runs.stored import Stored, read_stored

START, LEDGER = "start.json", "ledger.jsonl"
OWN = {split: f"{split}-personal" for split in ("val", "test")}
"""The evaluations of sites' own models: each site is scored with its own, on its own cases alone."""


class _Started(Stored):
    sentence: Annotated[str, Field(max_length=10_000)]


class _PlanSources(Stored):
    sites: list[str]
    left_out: dict[str, str]


@dataclass(frozen=True)
class RunFolder:
    """The files of a run, by name."""

    path: Path

    @property
    def stop_file(self) -> StopFile:
        return StopFile(self.path / "stop")

    def site(self, site: str) -> Path:
        return self.path / "sites" / site

    def checkpoint_folder(self, round_number: int) -> Path:
        return self.path / "checkpoints" / f"round_{round_number:04d}"

    def evaluation_file(self, round_number: int, split: str) -> Path:
        return self.path / "evaluations" / f"round_{round_number:04d}_{split}.json"

    def about(self) -> AboutRun:
        """The run's initial state.

        Raises:
            AmosError: its `versions.json` is missing or damaged.
        """
        return read_about(self.path)

    @property
    def run_id(self) -> str:
        """The name under which sites keep their state: a hash of what the run computes and of its cohort."""
        return self.about().run_id

    @property
    def synthetic(self) -> bool:
        """Whether the run's scans are a phantom's."""
        return self.about().synthetic

    @property
    def start_sentence(self) -> str | None:
        """What the run loaded from its initial weights, in words; None if they were fresh."""
        file = self.path / START
        if not file.exists():
            return None
        started: _Started = read_stored(file, _Started, "copy it from another copy of the run, or remove it")
        return started.sentence

    @property
    def finished(self) -> bool:
        """Whether the run has finished and written its results."""
        return (self.path / "summary.md").is_file() and (self.path / "model" / "weights.safetensors").is_file()

    def config(self) -> RunConfig:
        config = resolve([Layer(str(self.path / "config.yaml"), read_yaml(self.path / "config.yaml"))])
        if config.start_from is not None:  # relative if the weights are in the folder, and move with it
            config = config.model_copy(update={"start_from": self.path.resolve() / config.start_from})
        return config

    def write_config(self, config: RunConfig) -> None:
        written = config.model_dump(mode="json")
        if config.start_from is not None and config.start_from.is_relative_to(self.path.resolve()):
            written["start_from"] = str(config.start_from.relative_to(self.path.resolve()))
        write_text(self.path / "config.yaml", yaml.safe_dump(written, sort_keys=False))

    def cohort(self) -> Cohort:
        return read_cohort(self.path / "cohort.csv")

    def entries(self) -> Iterator[LedgerEntry]:
        """Yield the finished rounds from the ledger, without holding more than one.

        Raises:
            AmosError: the ledger is damaged, or shorter than it was at the last checkpoint.
        """
        file, remedy = self.path / LEDGER, self._ledger_remedy()
        least = self.rounds_done  # before the file: a round is in the ledger before it has a checkpoint
        number = 0
        for entry in entries_in(file, remedy, growing=not self.finished):
            number = entry["round"]
            yield entry
        if number < least:
            raise AmosError(f"{file}: ends after round {number}, and there is a checkpoint of round {least}", remedy)

    def ledger(self) -> list[LedgerEntry]:
        """The finished rounds.

        Raises:
            AmosError: as `entries`.
        """
        return list(self.entries())

    def ledger_file(self) -> LedgerFile:
        """The ledger, to be written."""
        return LedgerFile(self.path / LEDGER, self.path / "checkpoints" / LEDGER)

    def _ledger_remedy(self) -> str:
        if not self.finished:
            return "resume the run, which writes it again from its copy beside the checkpoints"
        return f"copy it from another copy of the run, or remove {self.path / 'summary.md'} and resume the run"

    def plan_sources(self) -> tuple[list[str], dict[str, str]]:
        """The sites from whose fingerprints the run made its plan, and those left out, with the reasons."""
        file = self.path / "fingerprint.json"
        if not file.exists():
            return [], {}
        about: _PlanSources = read_stored(file, _PlanSources, "copy it from another copy of the run, or remove it")
        return about.sites, about.left_out

    def write_ledger(self, entries: Sequence[LedgerEntry]) -> None:
        write_text(self.path / LEDGER, ledger_text(entries))

    @property
    def rounds_done(self) -> int:
        """The last round with a checkpoint; 0 if there is none."""
        return max(self.rounds_with_checkpoints(), default=0)

    def rounds_with_checkpoints(self) -> list[int]:
        pattern = re.compile(r"round_(\d+)")
        found = (pattern.fullmatch(folder.name) for folder in (self.path / "checkpoints").glob("round_*"))
        return sorted(int(match[1]) for match in found if match)

    def save_checkpoint(
        self,
        round_number: int,
        weights: Mapping[str, np.ndarray],
        strategy_arrays: Mapping[str, np.ndarray],
        strategy_values: Mapping[str, Any],
        ledger: Extent,
        weights_sha256: str,
    ) -> None:
        """Write a checkpoint, which appears complete by a single rename; so far the ledger must be on disk."""
        folder = self.checkpoint_folder(round_number)
        save_checkpoint(folder, weights, strategy_arrays, strategy_values, ledger, weights_sha256)

    def read_checkpoint(self, round_number: int) -> Checkpoint:
        """Read the checkpoint of a round.

        Raises:
            AmosError: there is none, or it is damaged.
        """
        return read_checkpoint(self.checkpoint_folder(round_number), round_number)

    def prune_checkpoints(self, keep: set[int]) -> None:
        for round_number in self.rounds_with_checkpoints():
            if round_number not in keep:
                shutil.rmtree(self.checkpoint_folder(round_number), ignore_errors=True)

    def remove_unfinished(self) -> None:
        """Remove partial files of a killed process; call it while holding the run's lock."""
        remove_abandoned(list(self.path.rglob(".*.tmp.*")), locked=True)

    def evaluations(self) -> list[tuple[int, str]]:
        """The rounds and splits that were scored, sorted."""
        pattern = re.compile(r"round_(\d+)_(train|val|test|val-personal|test-personal)\.json")
        found = (pattern.fullmatch(file.name) for file in (self.path / "evaluations").glob("round_*.json"))
        return sorted((int(match[1]), match[2]) for match in found if match)

    def write_evaluation(self, round_number: int, split: str, evaluation: Evaluation) -> None:
        write_json(self.evaluation_file(round_number, split), evaluation.model_dump())

    def read_evaluation(self, round_number: int, split: str) -> Evaluation | None:
        """The scores of a round on a split; None if it was not scored.

        Raises:
            AmosError: the file is damaged, holds impossible values, or sums that are not those of its cases.
        """
        file = self.evaluation_file(round_number, split)
        return read_evaluation_file(file, round_number) if file.exists() else None

    def scores_of_sites(self, round_number: int, split: str) -> dict[str, SiteEvaluation]:
        """Each site's scores of a round on a split; empty if it was not scored.

        Raises:
            AmosError: as `read_evaluation`.
        """
        found = self.read_evaluation(round_number, split)
        return found.sites if found is not None else {}

    def set_poisoned_aside(self) -> list[tuple[int, str, str]]:
        """Rename invalid evaluations; returns each one's round and split, and a sentence that names the file."""
        aside = []
        for round_number, split in self.evaluations():
            try:
                self.read_evaluation(round_number, split)
            except AmosError as error:
                renamed = set_aside(self.evaluation_file(round_number, split))
                aside.append((round_number, split, f"{error.what}; it is set aside as {renamed.name}"))
        return aside


def places_of(cohort: Cohort) -> dict[str, str]:
    """Per case, in words, all that decides its use in a run: its site and split, and the meaning of its label map."""
    return {case.case: _place(case) for case in cohort.cases}


def _place(case: Case) -> str:
    unlabelled = "" if case.label is not None else ", unlabelled"
    values = "".join(f" {old}={new}" for old, new in case.label_values)
    renumbered = f", label values{values}" if values else ""
    organs = " ".join(map(str, case.annotated))
    return f"{case.split} at {case.site} ({case.modality}), organs {organs}{renumbered}{unlabelled}"


def no_such_folder(path: Path) -> AmosError:
    """What is said where a run was expected and there is nothing."""
    return AmosError(f"{path}: no such folder", "'amos-fl runs' lists yours")


def open_run(path: Path) -> RunFolder:
    """The run in a folder.

    Raises:
        AmosError: there is no such folder, or it holds none.
    """
    if not path.exists():
        raise no_such_folder(path)
    if not (path / "config.yaml").is_file():
        raise AmosError(f"{path}: holds no run (there is no config.yaml in it)")
    return RunFolder(path)
