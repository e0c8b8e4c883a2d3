"""Which round of a federation each site would have chosen for itself, next to the round that was chosen for all.

The usual first step of personalisation: no further training, only a choice on the site's own validation cases. Its
score on the site's test cases is computed with the weights that the run has kept of that round.
"""

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path

from amos_fl.csv_table import write_table
from amos_fl.errors import AmosError
from amos_fl.inference.evaluate_model import Question, evaluate_model
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.model import read_model
from amos_fl.runs.selection import best_rounds, choose_round


@dataclass(frozen=True)
class SiteChoice:
    """A site's mean DSC on its validation and test cases at the round chosen for all and at its own best round.

    NaN if there is no such case; a site without validation cases has no round of its own and none of its values.
    """

    site: str
    round_for_all: int
    val_dsc_for_all: float
    test_dsc_for_all: float
    own_round: int | None
    val_dsc_own: float
    test_dsc_own: float


def site_choices(folder: RunFolder, store: Path, *, device: str = "cpu") -> list[SiteChoice]:
    """The choices of every seen site of a finished federation, in sorted order.

    Raises:
        AmosError: a round's weights are gone.
    """
    config, cohort = folder.config(), folder.cohort()
    chosen, best = choose_round(folder, config, config.rounds).round, best_rounds(folder, config.rounds)
    found = []
    for site in cohort.seen_sites:
        val, test = (_dsc(folder, chosen, split, site) for split in ("val", "test"))
        own = best.get(site)
        if own is None:
            found.append(SiteChoice(site, chosen, val, test, None, math.nan, math.nan))
            continue
        own_val = _dsc(folder, own, "val", site)
        own_test = test if own == chosen else _test_dsc(folder, own, site, store, device)
        found.append(SiteChoice(site, chosen, val, test, own, own_val, own_test))
    return found


def _dsc(folder: RunFolder, number: int, split: str, site: str) -> float:
    scored = folder.scores_of_sites(number, split).get(site)
    return scored.scores.to_scores().mean_dsc() if scored is not None else math.nan


def _test_dsc(folder: RunFolder, number: int, site: str, store: Path, device: str) -> float:
    cohort = folder.cohort()
    if not cohort.of(site=site, split="test", labelled=True):
        return math.nan
    checkpoint = folder.checkpoint_folder(number)
    if not checkpoint.is_dir():
        raise AmosError(f"{checkpoint}: is gone; run the federation again with --set keep_checkpoints=all")
    model = replace(read_model(folder.path), folder=checkpoint, round=number)
    question = Question.of(model, cohort, sites=[site])
    return evaluate_model(model, cohort, question, store=store, device=device).results.by_site[0].dsc


def write_site_choices(path: Path, choices: list[SiteChoice]) -> None:
    """Write the choices as a CSV file; what does not exist is left empty."""
    write_table(path, [field.name for field in fields(SiteChoice)], choices)
