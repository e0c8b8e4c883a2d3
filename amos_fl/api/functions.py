"""The commands as functions: the same settings, the same folders, the same numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

import pandas as pd

from amos_fl.api.arguments import OnProgress, Place, models_of, saying, store_at
from amos_fl.api.begin import NewRun, federation_of, new_pooled, new_simulation
from amos_fl.api.keywords import Settings, settings_of
from amos_fl.api.model import TrainedModel
from amos_fl.api.run import Run, heard_by
from amos_fl.api.running import carry_out, carry_out_members, check_all_finished
from amos_fl.api.settings import OnCase, check_free, cohort_now, next_out
from amos_fl.api.tables import scores_table, sums_table
from amos_fl.cohort.label_map import label_map_named
from amos_fl.cohort.table import SPLITS, Cohort, Split, read_cohort
from amos_fl.device import device_named
from amos_fl.errors import AmosError
from amos_fl.files import whole_folder
from amos_fl.inference.evaluate_model import ModelScores, Question, evaluate_model, joined, write_evaluation
from amos_fl.locks import at_work
from amos_fl.runs import arms
from amos_fl.runs.as_begun import cohort_as_begun, config_as_begun
from amos_fl.runs.config import RunConfig
from amos_fl.runs.ensemble import by_fold
from amos_fl.runs.events import Listener, Said
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.group import create_group
from amos_fl.runs.inference_settings import InferenceKeywords
from amos_fl.runs.layers import Layer, read_yaml
from amos_fl.runs.model import Model
from amos_fl.wording import either


def simulate(
    *,
    out: Place | None = None,
    config: Place | None = None,
    init: Place | None = None,
    store: Place | None = None,
    progress: bool = True,
    listener: Listener | None = None,
    **settings: Unpack[Settings],
) -> Run:
    """Train one network over the sites of a cohort, and score it on seen and unseen scanners.

    Args:
        out: the run folder; by default a new one under `runs/`.
        config: a YAML file of settings; the keywords override it. init: a run or a file of weights to start from (the
        setting `start_from`). store: where prepared cases are kept; by default the user's cache. progress: whether to
        print a line for every round. listener: called with every event instead. settings: any setting of a run;
        `cohort=None` is the embedded phantom, which is synthetic.

    Raises:
        AmosError: invalid settings or scans, in one sentence. RunStopped: too few sites answered. Interrupted: Ctrl-C;
        `open_run(path).resume()` continues.
    """
    new = new_simulation(_layers(config, init, settings), _drawing(progress, listener))
    return _carried_out(new, out, store, heard_by(progress, listener))


def pooled(
    like: "Run | Place | None" = None,
    *,
    budget: arms.PooledBudget = "equal-samples",
    out: Place | None = None,
    config: Place | None = None,
    init: Place | None = None,
    store: Place | None = None,
    progress: bool = True,
    listener: Listener | None = None,
    **settings: Unpack[Settings],
) -> Run:
    """Train one network on the pooled cases of all seen sites, the baseline of a federation.

    `like` is the federated run whose settings are used, with `cohort` if its scans were moved; otherwise give the
    settings of a federation. `budget` says what is equal: the patches seen by all sites together, or the sequential
    steps.

    Raises:
        AmosError: as `simulate`, or settings given together with `like`.
    """
    base, members = _federation(like, _layers(config, init, settings), _drawing(progress, listener))
    return _carried_out(new_pooled(base, members, budget), out, store, heard_by(progress, listener))


def local(
    like: "Run | Place | None" = None,
    *,
    budget: arms.LocalBudget = "site",
    out: Place | None = None,
    config: Place | None = None,
    init: Place | None = None,
    store: Place | None = None,
    progress: bool = True,
    listener: Listener | None = None,
    **settings: Unpack[Settings],
) -> list[Run]:
    """Train each seen site alone, and score every model on all sites; one run per site, in a group's folder.

    `budget`: the steps of one `site` of the federation, or of the `whole` of it.

    Raises:
        AmosError: as `simulate`, or settings given together with `like`, or a run failed (after the others finished).
    """
    base, members = _federation(like, _layers(config, init, settings), _drawing(progress, listener))
    path = Path(out) if out else next_out("local")
    group = create_group(path, "local", arms.locals_of(base, members, budget))
    heard, where = heard_by(progress, listener), store_at(store)

    def one(folder: RunFolder, title: str) -> None:
        heard(Said(f"{title}begins"))
        carry_out(folder.path, folder.config(), folder.cohort(), where, heard)

    check_all_finished(group, carry_out_members(group, one, lambda text: heard(Said(text))))
    return [Run(member) for member in group.members]


@dataclass(frozen=True)
class Scored:
    """The scores of a network on a cohort, and their folder."""

    path: Path
    evaluation: ModelScores

    @property
    def scores(self) -> pd.DataFrame:
        """One row per case and organ."""
        return scores_table(self.evaluation.results)

    @property
    def site_scores(self) -> pd.DataFrame:
        """One row per site and group."""
        return sums_table(self.evaluation.results.by_site + self.evaluation.results.by_group)

    @property
    def organ_scores(self) -> pd.DataFrame:
        """One row per organ and group."""
        return sums_table(self.evaluation.results.by_organ)

    @property
    def notes(self) -> list[str]:
        """Notes needed to read the scores, one sentence each."""
        return list(self.evaluation.notes)

    def _repr_html_(self) -> str:
        return f"<p><code>{self.path}</code></p>{self.site_scores.round(3).to_html(index=False)}"


def evaluate(
    run: "Run | TrainedModel | Place | Sequence[Run | Place]",
    cohort: Place | None = None,
    *,
    split: Split = "test",
    sites: str | Sequence[str] | None = None,
    seen: str | Sequence[str] | None = None,
    tolerance_mm: float | None = None,
    label_map: str | None = None,
    predictions: bool = False,
    out: Place | None = None,
    store: Place | None = None,
    device: str = "auto",
    workers: int = 1,
    on_progress: OnProgress | None = None,
    **inference: Unpack[InferenceKeywords],
) -> Scored:
    """Score a run's chosen weights on the cases of a cohort (by default its own), by site and by organ.

    Several runs, or a group's folder, are scored as one ensemble: the mean of their probabilities. Runs of all folds of
    a cross-validation are scored on `val` of their own cohorts each on its own fold, together on every case once.

    `on_progress(what, done, total)` is called after each case that was prepared and scored. `seen` are the sites whose
    scanners trained the network, by default the run's; with `predictions` the label maps are kept, too. `inference`
    are settings of inference (by default the run's): see `InferenceKeywords`.

    Raises:
        AmosError: no such model, cohort or case; or `out` already exists.
    """
    if split not in SPLITS:
        raise AmosError(f"split is {split!r}: choose {either(SPLITS)}")
    model = models_of(run).about
    model = replace(model, inference=model.inference.changed(inference))
    if cohort is None and model.run is None:
        raise AmosError(
            f"{model.folder}: this model lies apart from its run, so its cohort is unknown; name its cohort"
        )
    for member in model.members:  # its run's settings say how to score, its cases what it was trained on
        if member.run is not None:
            config_as_begun(member.run)
            cohort_as_begun(member.run)
    source = model.folder if model.run is None else model.run.path
    file = Path(cohort) if cohort is not None else source / "cohort.csv"
    members = read_cohort(file) if cohort is not None or model.run is None else cohort_now(model.run)
    given = settings_of({"sites": sites, "hold_out": seen})
    of_folds = by_fold(model) if split == "val" and cohort is None and model.others else []
    parts: list[tuple[Model, Cohort, Question]] = []
    for part, own in [(fold, cohort_now(fold.run)) for fold in of_folds if fold.run] or [(model, members)]:
        # A site that trains nothing has the same validation cases in every fold, and is no part of a cross-validation.
        asked = given["sites"] if not of_folds else own.only(given["sites"] or own.seen_sites).seen_sites
        question = Question.of(part, own, split=split, sites=asked, seen=given["hold_out"], tolerance_mm=tolerance_mm)
        parts.append((part, own, question))
    folder = Path(out) if out else next_out("evaluate")
    check_free(folder)
    # The lock is beside the folder, because the folder itself appears only when it is complete.
    with at_work(folder.parent, to=folder.name), whole_folder(folder) as beside:
        scored = [
            evaluate_model(
                part,
                own,
                question,
                store=store_at(store),
                device=device_named(device),
                workers=workers,
                on_prepared=saying(on_progress, "preparing"),
                on_scored=saying(on_progress, "scoring"),
                label_map=label_map_named(label_map, own.organs, part.organs) if label_map is not None else None,
                save_to=beside / "predictions" if predictions else None,
                as_begun=cohort is None,
            )
            for part, own, question in parts
        ]
        evaluation = joined(scored, model)
        write_evaluation(beside, evaluation, model, source, file)
    return Scored(folder, evaluation)


def _layers(config: Place | None, init: Place | None, settings: Settings) -> list[Layer]:
    layers: list[Layer] = [] if config is None else [Layer(str(config), read_yaml(Path(config)))]
    given = settings_of({**settings, **({} if init is None else {"start_from": init})})
    return [*layers, Layer("the keywords", given, "keywords")]


def _federation(like: "Run | Place | None", layers: list[Layer], on_case: OnCase | None) -> tuple[RunConfig, Cohort]:
    path = like.path if isinstance(like, Run) else None if like is None else Path(like)
    return federation_of(path, layers, on_case)


def _drawing(progress: bool, listener: Listener | None) -> OnCase | None:
    """The listener while the phantom is generated; prints a single line, because it takes a minute or two, once."""
    if not progress or listener is not None:
        return None

    def on_case(done: int, total: int, case: str) -> None:
        if done == 1:
            print(f"drawing the phantom: {total} synthetic scans, kept for later runs ...", flush=True)

    return on_case


def _carried_out(new: NewRun, out: Place | None, store: Place | None, listener: Listener) -> Run:
    path = new.create(Path(out) if out else None)
    carry_out(path, new.settings, new.cohort, store_at(store), listener)
    return Run(path)
