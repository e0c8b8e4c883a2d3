"""`amos-fl deploy run`: a federation of hospitals, submitted to the SuperLink and followed to its end."""

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from amos_fl.api.settings import next_out, refuse_settings, settled_elsewhere
from amos_fl.cli.display import Display, show_results
from amos_fl.cli.options import (
    ConfigOption,
    OutOption,
    SetOption,
)
from amos_fl.cli.running import first_page
from amos_fl.cli.setting_options import takes_settings
from amos_fl.cli.settings import Flags, layers_of, refuse_beside
from amos_fl.deploy.layout import Deployment, organs_of, read_deployment
from amos_fl.errors import AmosError, already_exists
from amos_fl.escape.console import Console
from amos_fl.files import write_json
from amos_fl.report.after_run import write_report
from amos_fl.runs.config import RunConfig
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.layers import Layer
from amos_fl.runs.own_code import check_own_code, own_modules
from amos_fl.runs.results import results_of
from amos_fl.runs.tracking.tracker import check_trackers
from amos_fl.stopping import INTERRUPTED
from amos_fl.wording import counted
from amos_fl_server.operation.run_registry import RunState

if TYPE_CHECKING:
    from amos_fl_server.operation.submitter import SubmittedRun

MARK = "deployment.json"
"""In a run's folder on the submitter's machine: which run it is, and of which deployment."""

RootArgument = Annotated[
    Path | None,
    typer.Argument(metavar="[DEPLOYMENT]", envvar="AMOS_FL_DEPLOYMENT", help="The folder of the deployment."),
]
HostOption = Annotated[
    str | None,
    typer.Option(
        envvar="AMOS_FL_SUPERLINK",
        help="The SuperLink's address from here.  [default: the one that hospitals use]",
    ),
]


@takes_settings("cohort", "device", "engine", "fold", "folds", "prepare_workers")
def run(
    flags: Flags,
    root: RootArgument = None,
    out: OutOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for all sites before the first round.")] = 600.0,
    detach: Annotated[bool, typer.Option("--detach", help="Submit, and leave the run to the SuperLink.")] = False,
    resume: Annotated[
        Path | None, typer.Option(help="Continue or follow the run in this folder or of this name.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved settings; submit nothing.")] = False,
    deployment_: Annotated[
        Path | None, typer.Option("--deployment", help="The folder of the deployment, in place of the argument.")
    ] = None,
    host: HostOption = None,
) -> None:
    """Train one network over the hospitals of a deployment; the run folder is fetched from the SuperLink.

    Ctrl-C stops the run; pressed again, it leaves without waiting. The exit code is the run's: 0 finished, 2 wrong
    settings, 3 too few sites, 130 stopped.
    """
    layers = layers_of(config, flags, assignments)
    root = deployment_ or root
    if resume is not None:
        refuse_settings(layers, "--resume", "continues a run with its own settings")
        refuse_beside("--resume", "continues the run that it names", {"--out": out, "--dry-run": dry_run})
        trackers = flags.get("trackers") or _trackers_of(resume)
        check_trackers(trackers)
        _resume(root, host, resume, wait, trackers, detach)
        return

    place = deployment_folder(root)
    deployment = read_deployment(place)
    settings, organs = deployed_settings(layers, deployment), organs_of(place)
    check_own_code(settings, len(organs))
    check_trackers(settings.trackers)
    if settings.start_from is not None:
        from amos_fl.runs.start import check_start

        check_start(settings, organs)
    if dry_run:
        typer.echo(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False), nl=False)
        return
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise already_exists(out, f"choose another --out, or continue it with --resume {out}")
    for module, digest in own_modules(settings).items():
        typer.echo(f"sites must allow, under allowed_modules:  {module}: {digest}")
    with _runs(place, host) as client:
        _check_admitted(place, settings, client.connection, wait)
        submitted, folder = _make(client, settings, organs, out)

        trackers = settings.trackers
        mark = {"run": submitted.name, "deployment": str(place.resolve()), "host": host, "trackers": trackers}
        write_json(folder / MARK, mark)
        submitted.submit(wait)
        _follow(submitted, folder, settings.rounds, trackers, detach=detach, what="submitted")


def runs_folder() -> Path:
    """Where run folders are made here: AMOS_FL_RUNS, as for a SuperLink, or runs/ in the working folder."""
    return Path(os.environ.get("AMOS_FL_RUNS") or "runs")


def deployment_folder(root: Path | None) -> Path:
    """The deployment that a command is for: the one named, or the working folder if it is one.

    Raises:
        AmosError: neither is a deployment.
    """
    if root is None and not Path("deployment.yaml").is_file():
        raise AmosError("say which deployment: name its folder, e.g. 'amos-fl deploy run fl'")
    return root or Path()


def deployed_settings(layers: list[Layer], deployment: Deployment) -> RunConfig:
    """The settings of a run over the sites of a deployment; each site decides where and on which device it computes.

    Raises:
        AmosError: a wrong setting, a site that the deployment does not have, or initial weights that do not fit.
    """
    return settled_elsewhere(layers, deployment.sites, "this deployment", demonstration=deployment.phantom)


def _check_admitted(place: Path, settings: RunConfig, connection: Any, wait: float) -> None:
    """Say at once which sites the SuperLink would not let in; a run waits for them until its time is up.

    Raises:
        AmosError: without them there are too few, so that the run could not begin.
    """
    from amos_fl_server.operation.admission import not_admitted

    sites = settings.sites or ()
    lacking = not_admitted(place, sites, connection)
    if not lacking:
        return
    said = "; ".join(f"site {site} {why}" for site, why in lacking.items())
    remedy = f"'amos-fl deploy register {place} SITE PUB' where a key is missing, then 'amos-fl deploy admit {place}'"
    let_in = len(sites) - len(lacking)
    if let_in < (settings.min_sites or len(lacking)):  # by default more than half have to take part
        raise AmosError(f"{said}: too few sites are left for this run", remedy)
    typer.echo(f"{said}: the run waits {wait:g} s for that ({remedy}) and then begins without", err=True)


@contextmanager
def _runs(place: Path, host: str | None) -> Iterator[Any]:
    from amos_fl_server.operation.connection import RunsClient, connection_of

    with RunsClient(connection_of(place, host)) as client:
        yield client


def _make(client: Any, settings: RunConfig, organs: dict[int, str], out: Path | None) -> tuple["SubmittedRun", Path]:
    """A new run at the SuperLink, and the folder for it here."""
    from amos_fl_server.operation.submitter import SubmittedRun

    folder = out or next_out(settings.strategy, runs_folder(), {run["name"] for run in client.get("/runs")})
    submitted = SubmittedRun(client.connection, client, folder.resolve().name)
    submitted.make(settings, organs)
    return submitted, folder


def _trackers_of(folder: Path) -> list[str]:
    """The trackers with which a run was submitted from here; none where nothing is known."""
    with suppress(OSError, ValueError, AttributeError):
        found = json.loads((folder / MARK).read_text(encoding="utf-8")).get("trackers", [])
        return [str(name) for name in found] if isinstance(found, list) else []
    return []


def _resume(
    root: Path | None, host: str | None, resume: Path, wait: float, trackers: Sequence[str], detach: bool
) -> None:
    """Follow a run in progress, resubmit one that ended too early, or fetch a finished one."""
    from amos_fl_server.operation.submitter import SubmittedRun

    name, place, host, folder = submitted_as(root, host, resume)
    with _runs(place, host) as client:
        submitted = SubmittedRun(client.connection, client, name)
        state = submitted.state()
        what = "followed"
        after = 0
        if state.state not in ("running", "waiting", "finished"):
            after = len(client.read(f"/runs/{name}/events", after=0)) if state.state != "created" else 0
            submitted.go_on(state, wait)
            what = f"submitted again, to continue after round {state.rounds_done}"
        _follow(submitted, folder, state.rounds, trackers, detach=detach, what=what, after=after)


def submitted_as(root: Path | None, host: str | None, run: Path) -> tuple[str, Path, str | None, Path]:
    """A run's name at the SuperLink, its deployment, how the SuperLink is reached, and the run's folder here.

    `run` is that folder, or the name alone.

    Raises:
        AmosError: the folder is of another kind of run, or no deployment is known.
    """
    mark = run / MARK
    if mark.is_file():
        try:
            known = json.loads(mark.read_text(encoding="utf-8"))
            name, place, reached = str(known["run"]), Path(known["deployment"]), known["host"]
        except (OSError, ValueError, KeyError, TypeError):
            raise AmosError(f"{mark}: is damaged; name the run itself: --resume NAME") from None
        return name, root or place, host or reached, run
    if run.is_dir():
        raise AmosError(
            f"{run}: was not made by 'amos-fl deploy run'; continue it with: amos-fl simulate --resume {run}"
        )
    return run.name, deployment_folder(root), host, runs_folder() / run.name


def _follow(
    submitted: "SubmittedRun",
    folder: Path,
    rounds: int,
    trackers: Sequence[str],
    *,
    detach: bool,
    what: str,
    after: int = 0,
) -> None:
    """Show a run until it ends, fetch its folder, tell trackers of it, and leave with its exit code."""
    from amos_fl.runs.tracking.follow import tracked
    from amos_fl_server.operation.connection import NoAnswer
    from amos_fl_server.operation.submitter import SMALL_BYTES, Following

    again = f"amos-fl deploy run --resume {folder}"
    if detach:
        typer.echo(f"run {submitted.name} is {what}; follow it with: {again}")
        return
    with Display() as display, _ctrl_c(display.line) as asked_to_stop:
        display.line(f"run {submitted.name}, {counted(rounds, 'round')}, is {what}; run folder {folder}")
        # Where this machine is the SuperLink's and --out lies among its runs, there is nothing to fetch.
        there = (folder / "submissions.json").is_file()
        following = Following(submitted, None if there else folder, display, display.line, after)
        with suppress(NoAnswer):
            following.fetch(SMALL_BYTES)  # its settings, of which trackers are told first
        try:
            with tracked(RunFolder(folder), trackers, display) as following.listener:
                state = following.to_the_end(asked_to_stop)
                if state.state == "finished":
                    write_report(folder, display.line)
        except KeyboardInterrupt:
            display.line(f"left the run alone; it goes on at the SuperLink. Follow it with: {again}")
            raise typer.Exit(INTERRUPTED) from None
    _show_end(state, folder, again)


def _show_end(state: RunState, folder: Path, again: str) -> None:
    if state.state == "stopped":
        typer.echo(f"stopped after round {state.rounds_done} of {state.rounds}; continue with: {again}")
        raise typer.Exit(INTERRUPTED)
    if state.state == "failed":
        error = AmosError(f"{state.error or 'the run failed'} (to continue: {again})")
        error.exit_code = state.exit_code or 1
        raise error

    run = RunFolder(folder)
    console = Console(highlight=False)
    show_results(console, results_of(run, run.config(), run.cohort()))
    console.print(f"everything is in {folder}; begin with {first_page(folder)}", markup=False)


@contextmanager
def _ctrl_c(say: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """A function that tells whether Ctrl-C was pressed; pressed again, it raises KeyboardInterrupt."""
    pressed: list[int] = []

    def on_signal(signum: int, frame: object) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(signum)
        say("stopping the run after its last whole round; press Ctrl-C again to leave without waiting for that")

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
