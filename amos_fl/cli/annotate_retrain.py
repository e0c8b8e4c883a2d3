"""`amos-fl annotate retrain`: a round's training runs, on the enlarged set and from the previous weights."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from amos_fl.annotate.enlarge import annotated_organs, enlarge
from amos_fl.annotate.ledger import RetrainBegun, Retrained
from amos_fl.annotate.project import Project, open_project
from amos_fl.annotate.state import ProjectState, project_state
from amos_fl.api.settings import cache_folder, refuse_settings, with_layers
from amos_fl.cli.running import carry_out
from amos_fl.cli.settings import layers_of, resolve_run
from amos_fl.errors import AmosError
from amos_fl.files import whole_folder
from amos_fl.runs.arms import centralized
from amos_fl.runs.create import create_run
from amos_fl.runs.folder import open_run
from amos_fl.runs.layers import Layer
from amos_fl.wording import counted

if TYPE_CHECKING:
    from amos_fl.annotate.members import NamedModel


def retrain_round(
    path: Path, flags: dict[str, Any], assignments: list[str] | None, *, reviewed: bool, store: Path | None
) -> None:
    """Start the current round's training runs, or resume them; for a finished round, only say so."""
    project = open_project(path)
    with project.alone("retrain"):
        state = project_state(project)
        if not state.rounds:
            raise AmosError(f"{path}: there is no round yet; pre-label with 'amos-fl annotate start' first")
        if state.round in state.retrained:
            runs = " ".join(map(str, state.retrained[state.round].runs))
            typer.echo(
                f"round {state.round} is already retrained: {runs}; start the next with: amos-fl annotate start {path}"
            )
            return
        layers = layers_of(None, flags, assignments)
        if state.round in state.retraining:
            refuse_settings(layers, "this retraining has begun and", "continues with its own settings")
            runs = state.retraining[state.round].runs
        else:
            runs = _begin(project, state, layers, reviewed=reviewed)
        for run in runs:
            folder = open_run(run)
            if not folder.finished:
                settings = with_layers(folder.config(), layers)
                carry_out(run, settings, folder.cohort(), store or cache_folder() / "store")
        with project.locked():
            project.add(Retrained(round=state.round, runs=runs))
    typer.echo(f"round {state.round} is retrained; start the next with: amos-fl annotate start {path}")


def _begin(project: Project, state: ProjectState, layers: list[Layer], *, reviewed: bool) -> tuple[Path, ...]:
    """Write the enlarged set and the run folders; the ledger names them once they are whole."""
    from amos_fl.annotate.members import recorded_members

    begun = state.rounds[-1]
    members = recorded_members(begun.members, project.cohort)
    with project.locked():
        enlarge(project, state, reviewed=reviewed)
        cohort_file = project.round(begun.round) / "cohort.csv"
        folder = project.round(begun.round) / "runs"
        if folder.exists():  # made by a call that was killed before it trained anything
            shutil.rmtree(folder)
        names = [f"round-{begun.round:02d}" + (f"-{member.name}" if len(members) > 1 else "") for member in members]
        with whole_folder(folder) as beside:
            for name, member in zip(names, members, strict=True):
                settings, cohort = _settings_of(member, cohort_file.resolve(), layers)
                create_run(beside / name, settings, cohort)
        cases = tuple(n for n, s in state.cases.items() if annotated_organs(s, reviewed=reviewed))
        runs = tuple((folder / name).resolve() for name in names)
        project.add(RetrainBegun(round=begun.round, cases=cases, runs=runs))
    organs = sum(len(annotated_organs(state.cases[name], reviewed=reviewed)) for name in cases)
    typer.echo(
        f"enlarged set: {counted(len(cases), 'corrected case')} with {counted(organs, 'annotated organ')} in all"
    )
    return runs


def _settings_of(member: "NamedModel", cohort_file: Path, layers: list[Layer]) -> Any:
    """Settings and cohort of a run that starts from a network: those of the network's run, with the user's changes."""
    from amos_fl.runs.model import WEIGHTS

    model = member.model
    if model.run is not None:
        before = model.run.config()
        base = before.model_dump(mode="json", exclude={"cohort", "start_from", "arm", "planning", "fold", "folds"})
        if before.engine.name == "deployment":  # the corrected scans lie here
            del base["engine"]
        was = "federated" if before.exchanges_weights else "centralized"
    else:
        base, was = dict[str, Any](model=model.architecture), "federated"
    base["plan"] = model.plan.model_dump(mode="json")  # the weights are of this plan, however it was made
    asked = next((layer.settings["arm"] for layer in layers if "arm" in layer.settings), was)
    own = {**base, "cohort": str(cohort_file), "start_from": str((model.folder / WEIGHTS).resolve()), "arm": was}
    over = [layer.where(lambda key: key != "arm") for layer in layers]
    settings, cohort = resolve_run([Layer(f"the settings of {member.source}", own), *over])
    if asked == "centralized" and was == "federated":
        pooled = centralized(settings, cohort)
        return pooled.config, pooled.cohort
    return settings.model_copy(update={"arm": asked}), cohort
