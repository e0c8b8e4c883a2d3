"""The workspace of experiments: the folders of their work, and what is done.

OUT/full/ and OUT/quick/, each with
  cohorts/    the cases of the steps                    data.yaml   where the data sets are
  runs/       run folders, groups and evaluations, named by what they compute: presets share them
  PRESET/     state.json (which folder each step has), results.csv, results.md, and its comparisons
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from typing_extensions import TypedDict

from amos_fl.experiments.preset import PresetForm
from amos_fl.files import write_json
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.group import is_group, read_group
from amos_fl.runs.stored import Stored, read_stored

Kind = Literal["run", "group", "evaluation", "comparison", "statistics"]
StepState = Literal["not run", "partial", "done"]
MARKS: dict[Kind, str] = {"evaluation": "evaluation.json", "comparison": "comparison.json", "statistics": "stats.html"}
"""The file whose presence marks a folder of this kind as complete."""


@dataclass(frozen=True)
class StepWork:
    """A step's folder (relative to the workspace), its kind, its cohort file, and the reason if it cannot be done."""

    kind: Kind
    folder: str
    cohort: str = ""
    missing: str = ""


class _Work(TypedDict):
    kind: Kind
    folder: str
    cohort: str
    missing: str


class _State(Stored):
    steps: dict[str, _Work]


@dataclass(frozen=True)
class Workspace:
    """The folder of all experiments of one form."""

    out: Path
    form: PresetForm

    @property
    def root(self) -> Path:
        return self.out / self.form

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def cohorts(self) -> Path:
        return self.root / "cohorts"

    @property
    def data_file(self) -> Path:
        return self.root / "data.yaml"

    def preset(self, name: str) -> Path:
        return self.root / name

    def write_state(self, preset: str, works: Mapping[str, StepWork]) -> None:
        state = {"steps": {step: asdict(work) for step, work in works.items()}}
        write_json(self.preset(preset) / "state.json", state)

    def works(self, preset: str) -> dict[str, StepWork]:
        """The steps of a preset as planned when it was last run; none if it never was."""
        file = self.preset(preset) / "state.json"
        if not file.is_file():
            return {}
        # JSON's keys were sorted; the order of the steps is the preset's.
        state: _State = read_stored(file, _State, "remove it and run the experiment again, which skips what is done")
        return {step: StepWork(**work) for step, work in state.steps.items()}

    def done(self, work: StepWork) -> bool:
        """Whether a step's output exists and is complete."""
        folder = self.root / work.folder
        match work.kind:
            case "run" if self.form == "quick":
                return (folder / "summary.md").is_file()  # a quick run's weights are deleted when no longer needed
            case "run":
                return RunFolder(folder).finished
            case "group":
                return is_group(folder) and not read_group(folder).unfinished
            case kind:
                return (folder / MARKS[kind]).is_file()

    def state(self, preset: str) -> tuple[StepState, int, int]:
        """Whether a preset is done, and how many of its steps are."""
        works = self.works(preset)
        done = sum(self.done(work) for work in works.values())
        if not works or not done:
            begun = any(work.folder and (self.root / work.folder).is_dir() for work in works.values())
            return "partial" if begun else "not run", done, len(works)
        return "done" if done == len(works) else "partial", done, len(works)
