"""Learn on validation cases which DSC to expect of a prediction without a label, and measure it on test cases."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from amos_fl.cohort.reference import reference_of
from amos_fl.cohort.table import Case, Modality
from amos_fl.errors import AmosError
from amos_fl.inference.agreement import agreement, flag_below
from amos_fl.inference.features import AGREEMENT, CONFIDENCE, dsc_by_value, judged
from amos_fl.inference.fit import fitted
from amos_fl.inference.predict import drawing
from amos_fl.metrics.scores import reported_organs
from amos_fl.prepared.prepare import prepare_cases
from amos_fl.runs.calibration import Calibration, Line
from amos_fl.runs.expected import Expected, MeasuredAgreement
from amos_fl.runs.model import Model

DEFAULT_COPIES = 2
LEAST_CALIBRATION_CASES = 2
"""Each case is left out in turn, and something has to be learned from the others."""


@dataclass(frozen=True)
class Known:
    """One organ that a prediction found in a case, with its features and its true DSC."""

    case: str
    site: str
    modality: Modality
    organ: int
    features: Mapping[str, float]
    dsc: float


@dataclass(frozen=True)
class Observed:
    """The organs found in some cases, and by site and modality how many each of these lacks although they are there."""

    organs: list[Known]
    missed: dict[tuple[str, str], int]


def observe(
    model: Model,
    cases: Sequence[Case],
    copies: Sequence[str],
    *,
    store: Path,
    device: str = "cpu",
    workers: int = 1,
    on_prepared: Callable[[int, int, str], None] | None = None,
    on_case: Callable[[int, int, str], None] | None = None,
) -> Observed:
    """Predict labelled cases and their copies, and compare each organ that was found with the label map.

    Raises:
        AmosError: a file that is missing, damaged or on another grid than its scan.
    """
    draw = drawing(model, model.network(device), inference=model.inference, device=device)
    torch.set_num_threads(model.inference.threads)
    prepared = prepare_cases(cases, model.plan, store, tuple(model.organs), workers=workers, on_case=on_prepared)
    found: list[Known] = []
    missed: dict[tuple[str, str], int] = {}
    for number, (case, ready) in enumerate(zip(cases, prepared, strict=True), start=1):
        seen = judged(draw, ready, model.plan, tuple(model.organs), copies)
        truth = dsc_by_value(seen.label, reference_of(case, model.organs).array)
        for organ in sorted(set(case.annotated) & set(reported_organs(model.organs, case.modality))):
            if organ in seen.features:
                found.append(Known(case.case, case.site, case.modality, organ, seen.features[organ], truth[organ]))
            elif organ in truth:
                missed[case.site, case.modality] = missed.get((case.site, case.modality), 0) + 1
        if on_case is not None:
            on_case(number, len(cases), case.case)
    return Observed(found, missed)


def calibration(model: Model, known: Sequence[Known], copies: Sequence[str]) -> Calibration:
    """The calibration of a model on organs whose true DSC is known.

    How well it does, and below which expected DSC an organ is flagged, comes of expected values of cases that were left
    out when it was learned, each in turn.

    Raises:
        AmosError: too few cases.
    """
    cases = dict.fromkeys(one.case for one in known)
    if len(cases) < LEAST_CALIBRATION_CASES:
        raise AmosError(
            f"{len(cases)} validation cases with an organ that the network found: at least {LEAST_CALIBRATION_CASES} "
            "are needed to learn what DSC to expect"
        )
    names = (AGREEMENT, CONFIDENCE) if copies else (CONFIDENCE,)
    left_out: list[Expected] = []
    for case in cases:
        line = _line(names, [one for one in known if one.case != case])
        left_out += expected_of(line, [one for one in known if one.case == case])
    threshold = flag_below(left_out)
    return Calibration(
        weights_sha256=model.weights_sha256(),
        inference=model.inference.decisive,
        copies=list(copies),
        expected_dsc=_line(names, known),
        flag_below=threshold,
        sites=sorted({one.site for one in known}),
        validation=agreement(left_out, threshold),
    )


def _line(names: Sequence[str], known: Sequence[Known]) -> Line:
    features = np.array([[one.features[name] for name in names] for one in known])
    intercept, weights = fitted(features, np.array([one.dsc for one in known]))
    return Line(intercept=intercept, weights=dict(zip(names, weights.tolist(), strict=True)))


def expected_of(line: Line, known: Sequence[Known], seen: Collection[str] = ()) -> list[Expected]:
    """The expected and the true DSC of each organ; `seen` are the sites whose scanners trained."""
    return [
        Expected(
            case=one.case,
            site=one.site,
            modality=one.modality,
            seen=one.site in seen,
            organ=one.organ,
            expected_dsc=line.at(one.features),
            dsc=one.dsc,
        )
        for one in known
    ]


def measured(
    calibrated: Calibration, observed: Observed, seen: Collection[str], calibration_sha256: str
) -> MeasuredAgreement:
    """How well a calibration does on test cases: all seen and all unseen scanners, and each by modality."""
    found = expected_of(calibrated.expected_dsc, observed.organs, seen)
    groups: dict[str, list[Expected]] = {}
    for one in sorted(found, key=lambda one: (not one.seen, one.modality)):
        for name in _groups(one.seen, one.modality):
            groups.setdefault(name, []).append(one)
    missed: dict[str, int] = {}
    for (site, modality), number in sorted(observed.missed.items()):
        for name in _groups(site in seen, modality):
            missed[name] = missed.get(name, 0) + number
    return MeasuredAgreement(
        calibration_sha256=calibration_sha256,
        flag_below=calibrated.flag_below,
        groups={name: agreement(members, calibrated.flag_below) for name, members in groups.items()},
        missed=missed,
        organs=found,
    )


def _groups(seen: bool, modality: str) -> tuple[str, str]:
    group = "seen" if seen else "unseen"
    return group, f"{group} {modality}"
