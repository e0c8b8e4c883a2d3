"""The run folder: everything that one run leaves behind, and what it needs to go on.

config.yaml           the resolved settings            versions.json   what computed it
cohort.csv            the cases that took part         ledger.jsonl    one line per finished round
checkpoints/round_N/  weights, the strategy's memory   evaluations/    scores of a round, sums and counts
sites/SITE/           what a site is given and keeps   model/          the chosen weights and their card
start.json            what it took over from another run, where it began with one's weights
start/                those weights, where the run's submitter sent them to a SuperLink
scores.csv            test scores per case and organ   summary.md      the run on one page
fingerprint.json      what the plan was made of, where the run made it itself
"""

import json
import platform
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.cohort.table import Cohort, read_cohort, read_organs, write_cohort
from amos_fl.errors import AmosError
from amos_fl.files import sha256_of_json, whole_folder, write_json, write_text
from amos_fl.runs.config import RunConfig, read_yaml, resolve
from amos_fl.runs.evaluation import read_evaluation_file, set_aside
from amos_fl.runs.events import StopFile
from amos_fl.runs.source import source_commit
from amos_fl.runs.weights import Arrays, read_arrays, save_arrays

START = "start.json"


@dataclass(frozen=True)
class Checkpoint:
    """A run after a round: weights, what the strategy remembers, and the ledger so far."""

    round: int
    weights: Arrays
    strategy_arrays: Arrays
    strategy_values: dict[str, Any]
    ledger: list[dict[str, Any]]


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

    @property
    def run_id(self) -> str:
        """The name under which sites keep their state: a hash of what the run computes and of its cohort."""
        return json.loads((self.path / "versions.json").read_text())["run_id"]

    @property
    def cohort_sha256(self) -> str:
        """The hash of who held which case."""
        return json.loads((self.path / "versions.json").read_text())["cohort_sha256"]

    def recorded_versions(self) -> dict[str, str]:
        """The versions that the run was begun with."""
        return json.loads((self.path / "versions.json").read_text())["versions"]

    @property
    def start_sha256(self) -> str | None:
        """The hash of the weights that the run was to begin with; None where they were fresh."""
        return json.loads((self.path / "versions.json").read_text()).get("start_sha256")

    @property
    def start_sentence(self) -> str | None:
        """What the run took over from the weights that it began with, in words; None where they were fresh."""
        file = self.path / START
        return json.loads(file.read_text(encoding="utf-8"))["sentence"] if file.is_file() else None

    @property
    def synthetic(self) -> bool:
        """Whether the run's scans are a phantom's."""
        return json.loads((self.path / "versions.json").read_text())["synthetic"]

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end and written its results."""
        return (self.path / "summary.md").is_file() and (self.path / "model" / "weights.safetensors").is_file()

    def config(self) -> RunConfig:
        config = resolve([(str(self.path / "config.yaml"), read_yaml(self.path / "config.yaml"))])
        if config.start_from is not None:  # relative where the weights were brought along, and move with the folder
            config = config.model_copy(update={"start_from": self.path.resolve() / config.start_from})
        return config

    def write_config(self, config: RunConfig) -> None:
        written = config.model_dump(mode="json")
        if config.start_from is not None and config.start_from.is_relative_to(self.path.resolve()):
            written["start_from"] = str(config.start_from.relative_to(self.path.resolve()))
        write_text(self.path / "config.yaml", yaml.safe_dump(written, sort_keys=False))

    def cohort(self) -> Cohort:
        return read_cohort(self.path / "cohort.csv")

    def ledger(self) -> list[dict[str, Any]]:
        file = self.path / "ledger.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []

    def plan_sources(self) -> tuple[list[str], dict[str, str]]:
        """The sites from whose fingerprints the run made its plan, and those that it made it without, and why."""
        file = self.path / "fingerprint.json"
        about = json.loads(file.read_text()) if file.is_file() else {"sites": [], "left_out": {}}
        return about["sites"], about["left_out"]

    def write_ledger(self, entries: list[dict[str, Any]]) -> None:
        write_text(self.path / "ledger.jsonl", "".join(json.dumps(entry, sort_keys=True) + "\n" for entry in entries))

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
        ledger: list[dict[str, Any]],
    ) -> None:
        """Write a checkpoint; one rename makes it appear with all its files."""
        with whole_folder(self.checkpoint_folder(round_number)) as beside:
            save_arrays(weights, beside / "weights.safetensors")
            if strategy_arrays:
                save_arrays(strategy_arrays, beside / "strategy.safetensors")
            write_json(beside / "state.json", {"strategy": dict(strategy_values), "ledger": ledger})

    def read_checkpoint(self, round_number: int) -> Checkpoint:
        """Read the checkpoint of a round.

        Raises:
            AmosError: there is none, or it is damaged.
        """
        folder = self.checkpoint_folder(round_number)
        weights = read_arrays(folder / "weights.safetensors")
        strategy = folder / "strategy.safetensors"
        try:
            state = json.loads((folder / "state.json").read_text())
        except (OSError, ValueError):
            raise AmosError(f"{folder}: is damaged; remove this folder and resume from the round before") from None
        arrays = read_arrays(strategy) if strategy.is_file() else {}
        return Checkpoint(round_number, weights, arrays, state["strategy"], state["ledger"])

    def prune_checkpoints(self, keep: set[int]) -> None:
        for round_number in self.rounds_with_checkpoints():
            if round_number not in keep:
                shutil.rmtree(self.checkpoint_folder(round_number), ignore_errors=True)

    def remove_unfinished(self) -> None:
        """Remove what a killed process had begun to write here."""
        for leftover in [*self.path.glob("*/.*.tmp.*"), *self.path.glob(".*.tmp.*")]:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    def write_evaluation(self, round_number: int, split: str, result: dict[str, Any]) -> None:
        write_json(self.evaluation_file(round_number, split), result)

    def read_evaluation(self, round_number: int, split: str) -> dict[str, Any] | None:
        """The scores of a round on a split; None where it was not scored.

        Raises:
            AmosError: the file is damaged, or says what cannot be.
        """
        file = self.evaluation_file(round_number, split)
        return read_evaluation_file(file, round_number) if file.is_file() else None

    def evaluations(self) -> list[tuple[int, str]]:
        """Round and split of every evaluation that is there, whatever is in it."""
        pattern = re.compile(r"round_(\d+)_([a-z]+)\.json")
        found = (pattern.fullmatch(file.name) for file in (self.path / "evaluations").glob("round_*.json"))
        return sorted((int(match[1]), match[2]) for match in found if match)

    def set_poisoned_aside(self) -> list[tuple[int, str, str]]:
        """Rename evaluations that cannot be; round and split of each, and a sentence that names the file."""
        aside = []
        for round_number, split in self.evaluations():
            try:
                self.read_evaluation(round_number, split)
            except AmosError as error:
                renamed = set_aside(self.evaluation_file(round_number, split))
                why = str(error).partition("; ")[0]
                aside.append((round_number, split, f"{why}; it is set aside as {renamed.name}"))
        return aside


def versions() -> dict[str, str]:
    """The versions of everything that decides the numbers of a run, its commit if known, and the processor's type."""
    found = {"python": platform.python_version(), "machine": platform.machine(), "system": sys.platform}
    for package in ("amos-fl", "flwr", "torch", "monai", "nibabel", "numpy", "scipy", "blosc2", "ray"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    if commit := source_commit():
        found["commit"] = commit
    return found


def organs_of(run: RunFolder) -> dict[int, str]:
    """The organs that a run learns, by label value."""
    beside = run.path / "organs.csv"
    return read_organs(beside) if beside.is_file() else dict(AMOS_ORGANS)


def create_run(path: Path, config: RunConfig, cohort: Cohort, start_sha256: str | None = None) -> RunFolder:
    """Make a new run folder with its settings, cohort and versions.

    `start_sha256` is of the weights to begin with, where they are known to fit; else `config.start_from` is looked at.

    Raises:
        AmosError: the folder holds a run already, or other files.
    """
    if (path / "config.yaml").exists():
        raise AmosError(f"{path}: holds a run already; continue it with --resume {path}, or choose another --out")
    if path.is_dir() and any(path.iterdir()):
        raise AmosError(f"{path}: is not empty; choose another --out")
    start = start_sha256
    if start is None and config.start_from is not None:
        from amos_fl.runs.start import check_start  # needs torch, which nothing else here does

        start = check_start(config, cohort.organs)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AmosError(f"{path}: cannot make this folder ({error.strerror}); choose another --out") from None
    folder = RunFolder(path)
    write_cohort(cohort, path / "cohort.csv")
    run_id = sha256_of_json([config.science(), cohort.content_hash(), start])[:16]
    about = {
        "run_id": run_id,
        "start_sha256": start,
        "cohort_sha256": cohort.content_hash(),
        "synthetic": cohort.synthetic(),
        "versions": versions(),
    }
    write_json(path / "versions.json", about)
    # Last, because its presence says that the folder is a run.
    folder.write_config(config)
    return folder


def open_run(path: Path) -> RunFolder:
    """The run in a folder.

    Raises:
        AmosError: the folder holds none.
    """
    if not (path / "config.yaml").is_file():
        raise AmosError(f"{path}: holds no run (there is no config.yaml in it)")
    return RunFolder(path)
