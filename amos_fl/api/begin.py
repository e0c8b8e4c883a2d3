"""What each command that trains begins, decided before anything is written: for the command line and Python alike."""

from dataclasses import dataclass
from pathlib import Path

from amos_fl.api.settings import (
    OnCase,
    cohort_now,
    next_out,
    refuse_settings,
    resolve_run,
    settled_on_nodes,
    with_layers,
)
from amos_fl.cohort.table import Cohort, read_cohort
from amos_fl.errors import AmosError
from amos_fl.runs.arms import PooledBudget, centralized
from amos_fl.runs.config import RunConfig
from amos_fl.runs.create import check_free, create_run
from amos_fl.runs.folder import open_run
from amos_fl.runs.layers import Layer
from amos_fl.runs.own_code import check_same_modules


@dataclass(frozen=True)
class NewRun:
    """A run that could begin; `name` is what its folder is called if no other is asked for."""

    name: str
    settings: RunConfig
    cohort: Cohort | None
    """None: each site has its own, on a node of a Ray cluster (`engine.site_settings`)."""

    def create(self, out: Path | None) -> Path:
        """The folder in which it is carried out, with its settings and cohort as far as they are known.

        Raises:
            AmosError: the folder holds a run already, or other files, or the run cannot begin with the cohort's sites.
        """
        path = out or next_out(self.name)
        if self.cohort is None:
            check_free(path)
        else:
            create_run(path, self.settings, self.cohort)
        return path


def new_simulation(layers: list[Layer], on_case: OnCase | None = None) -> NewRun:
    """A federation; `on_case(done, total, case)` is called while the phantom is drawn.

    Raises:
        AmosError: invalid settings, or a cohort that cannot be read, has nothing to train on, or implausible headers.
    """
    if (on_nodes := settled_on_nodes(layers)) is not None:
        return NewRun(on_nodes.strategy, on_nodes, None)
    settings, cohort = resolve_run(layers, on_case)
    return NewRun(settings.strategy, settings, cohort)


def federation_of(
    like: Path | None, layers: list[Layer], on_case: OnCase | None = None, option: str = "like"
) -> tuple[RunConfig, Cohort]:
    """The settings and cohort of a federation whose baselines are asked for: those of a run, or of the layers.

    Beside a run the only setting of what is computed is `cohort`, which says where its scans are now.

    Raises:
        AmosError: as `new_simulation`; no run there, one of another arm, or settings beside it, which errors call
            `option`.
    """
    if like is None:
        return resolve_run(layers, on_case)
    from amos_fl.cohort.reference import check_headers
    from amos_fl.runs.as_begun import cohort_as_begun, config_as_begun

    layers, elsewhere = apart_from_cohort(layers)
    refuse_settings(layers, option, "takes everything from that run")
    folder = open_run(like)
    settings = with_layers(config_as_begun(folder), layers)
    if settings.arm != "federated":
        raise AmosError(f"{like}: is a {settings.arm} run; give the federated run that it belongs to")
    cohort_as_begun(folder)
    check_same_modules(folder.about())
    cohort = cohort_now(folder, elsewhere, on_case)
    check_headers(cohort.cases)
    return settings, cohort


def apart_from_cohort(layers: list[Layer]) -> tuple[list[Layer], Cohort | None]:
    """Settings without the cohort that an option or keyword names, and that cohort: where a run's scans are now."""
    given = ("options", "keywords")
    named = [layer.settings["cohort"] for layer in layers if layer.kind in given and layer.settings.get("cohort")]
    others = [layer.where(lambda key: key != "cohort") if layer.kind in given else layer for layer in layers]
    return others, read_cohort(named[-1]) if named else None


def new_pooled(base: RunConfig, cohort: Cohort, budget: PooledBudget) -> NewRun:
    """One trainer over the pooled cases of a federation."""
    made = centralized(base, cohort, budget)
    return NewRun("centralized", made.config, made.cohort)


def continued(
    path: Path, layers: list[Layer], elsewhere: Cohort | None = None, on_case: OnCase | None = None
) -> tuple[RunConfig, Cohort | None]:
    """The settings and cohort with which a run goes on; None as for `NewRun`. `elsewhere` says where its scans are now.

    Raises:
        AmosError: no run there, or its scans are missing or have implausible headers.
    """
    folder = open_run(path)
    settings = with_layers(folder.config(), layers)
    if settings.engine.site_settings:
        return settings, None
    cohort = cohort_now(folder, elsewhere, on_case)
    if not folder.finished:
        from amos_fl.cohort.reference import check_headers

        check_headers(cohort.cases)
    return settings, cohort
