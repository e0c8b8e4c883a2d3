"""`calibrate` as a function: what DSC to expect of a model's predictions, learned and measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from amos_fl.api.arguments import OnProgress, Place, model_of, saying, store_at
from amos_fl.api.model import TrainedModel
from amos_fl.api.run import Run
from amos_fl.api.settings import cohort_now
from amos_fl.cohort.organ_names import difference_in_words
from amos_fl.cohort.table import Case, Cohort, Split, read_cohort
from amos_fl.device import device_named
from amos_fl.errors import AmosError
from amos_fl.files import write_text
from amos_fl.inference.calibrate import DEFAULT_COPIES, Observed, calibration, measured, observe
from amos_fl.inference.copies import COPIES
from amos_fl.inference.expected import calibration_sha256
from amos_fl.inference.unlike import training_scans
from amos_fl.locks import at_work
from amos_fl.prepared.prepare import prepare_cases
from amos_fl.report.page import write_run_report
from amos_fl.runs.as_begun import cohort_as_begun, config_as_begun
from amos_fl.runs.calibration import Calibration, write_calibration
from amos_fl.runs.expected import EXPECTED, MeasuredAgreement, write_measured
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.model import Model
from amos_fl.runs.model_card import model_card
from amos_fl.runs.record import read_run
from amos_fl.runs.training_scans import TRAINING_SCANS, write_training_scans
from amos_fl.wording import limits, must_be


@dataclass(frozen=True)
class Calibrated:
    """What DSC to expect of a model's predictions: how that was learned, and how well it did on test cases.

    `measured` is None where it was not measured; `synthetic` says that the network was trained on a phantom.
    """

    path: Path
    calibration: Calibration
    measured: MeasuredAgreement | None
    synthetic: bool

    @property
    def organs(self) -> pd.DataFrame:
        """One row per test case and organ that was found: expected and true DSC; empty where it was not measured."""
        return pd.DataFrame([row.model_dump() for row in self.measured.organs] if self.measured else [])


def calibrate(
    run: "Run | TrainedModel | Place",
    cohort: Place | None = None,
    *,
    copies: int = DEFAULT_COPIES,
    measure: bool = False,
    store: Place | None = None,
    device: str = "auto",
    workers: int = 1,
    on_progress: OnProgress | None = None,
) -> Calibrated:
    """Learn what DSC to expect of a model's predictions, on validation cases of the sites that trained it.

    It is written into the model's folder, for `predict`. By default the validation cases are the run's own;
    those of `cohort` are used in their place, but none of a site that the run knows as unseen. `copies` is the number
    of altered copies of each scan that are predicted, too. With `measure`, the run's test cases say how well it does,
    on seen and unseen scanners. `on_progress(what, done, total)` is called after each case.

    Raises:
        AmosError: no such model, too few validation cases, or scans that are not here.
    """
    if not 0 <= copies <= len(COPIES):
        raise AmosError(f"copies is {copies}: {must_be(int, limits(ge=0, le=len(COPIES)))}")
    model = model_of(run).about
    model.check_single("a calibration")
    if measure and (model.run is None or cohort is not None):
        raise AmosError("measure needs a run folder and uses its own test cases; leave out cohort, or measure")
    members, seen = _members(model, cohort)
    names, where = list(COPIES)[:copies], store_at(store)

    def observed(cases: Sequence[Case]) -> Observed:
        return observe(
            model,
            cases,
            names,
            store=where,
            device=device_named(device),
            workers=workers,
            on_prepared=saying(on_progress, "preparing"),
            on_case=saying(on_progress, "predicting"),
        )

    folder = model.folder if model.run is None else model.run.path
    with at_work(folder, to="calibrate"):
        validation = _cases(model, members, "val", seen)
        learned = calibration(model, observed(validation).organs, names)
        write_calibration(model.folder, learned)
        (folder / EXPECTED).unlink(missing_ok=True)
        if not (model.folder / TRAINING_SCANS).exists() and (training := _cases(model, members, "train", seen)):
            scans = prepare_cases(training, model.plan, where, tuple(model.organs), workers=workers)
            write_training_scans(model.folder, training_scans(scans))
        found = None
        if measure and model.run is not None:
            tests = _cases(model, members, "test", members.sites)
            found = measured(learned, observed(tests), seen, calibration_sha256(model))
            write_measured(model.run, found)
        if model.run is not None:
            _write_pages(model.run)
    return Calibrated(folder, learned, found, model.synthetic)


def _members(model: Model, given: Place | None) -> tuple[Cohort, tuple[str, ...]]:
    """The cohort, and those of its sites whose scanners trained the network, as far as that is known.

    Raises:
        AmosError: no cohort, one with other organs, or a run whose scans are at its sites.
    """
    if model.run is None and given is None:
        raise AmosError(
            f"{model.folder}: this model lies apart from its run, so its cohort is unknown; name its cohort"
        )
    own = None
    if model.run is not None:
        deployed = config_as_begun(model.run).engine.name == "deployment"
        own = cohort_as_begun(model.run)
        if given is None and deployed:
            raise AmosError(
                f"{model.run.path}: the scans of a deployed run are at its sites",
                "a site calibrates a copy of model/ on its own cases: amos-fl calibrate model --cohort COHORT",
            )
    members = read_cohort(given) if given is not None else own
    assert members is not None
    if differ := difference_in_words(members.organs, model.organs, ("in the cohort", "in the network")):
        raise AmosError(f"{differ}; renumber its label maps with 'amos-fl data relabel'")
    unseen = () if own is None else own.unseen_sites
    return members, tuple(site for site in members.sites if site not in unseen)


def _cases(model: Model, members: Cohort, split: Split, sites: Sequence[str]) -> list[Case]:
    """The labelled cases of a split at some sites, where their files are now."""
    cases = [case for site in sites for case in members.of(site=site, split=split, labelled=True)]
    if model.run is None or all(case.image.exists() for case in cases):
        return cases
    now = {case.case: case for case in cohort_now(model.run).cases}
    return [now[case.case] for case in cases]


def _write_pages(run: RunFolder) -> None:
    """Write the run's model card and report again, which tell of the expected DSC."""
    record = read_run(run.path)
    card = model_card(run, record.config, record.cohort, record.results)
    write_text(run.path / "model" / "MODEL_CARD.md", card)
    write_run_report(record)
