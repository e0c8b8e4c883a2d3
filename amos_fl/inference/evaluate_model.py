"""Score a trained network on any cohort, as the sites of its run scored it on theirs."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from amos_fl.cohort.label_map import LabelMap, Match, matches, relabelled
from amos_fl.cohort.organ_names import organ_key
from amos_fl.cohort.table import Case, Cohort, Split, write_organs
from amos_fl.errors import AmosError
from amos_fl.escape import markdown
from amos_fl.files import write_json, write_text
from amos_fl.inference.evaluate import evaluate_cases
from amos_fl.metrics.table import CaseScores
from amos_fl.prepared.prepare import prepare_cases
from amos_fl.runs.changes import check_contents
from amos_fl.runs.model import Model
from amos_fl.runs.results import Results, write_tables
from amos_fl.runs.selection import ChosenRound, choose_round
from amos_fl.runs.summary import PHANTOM_NOTE, score_table
from amos_fl.wording import counted, limits, listed, must_be


@dataclass(frozen=True)
class Question:
    """Which cases are scored, and how. `seen` are the sites whose scanners the network was trained on."""

    split: Split
    sites: tuple[str, ...]
    seen: frozenset[str]
    tolerance_mm: float

    @classmethod
    def of(
        cls,
        model: Model,
        cohort: Cohort,
        *,
        split: Split = "test",
        sites: Collection[str] | None = None,
        seen: Collection[str] | None = None,
        tolerance_mm: float | None = None,
    ) -> "Question":
        """By default the run's own settings: all sites, its tolerance, its training sites by name.

        Raises:
            AmosError: a site that the cohort does not have, a tolerance below 0, or no labelled case to score.
        """
        named = cohort.sites if sites is None else tuple(sorted(set(sites)))
        cohort.only({*named, *(seen or ())})
        if seen is None:
            seen = {site for member in model.members if member.run for site in member.run.cohort().seen_sites}
        if tolerance_mm is None:
            tolerance_mm = model.run.config().evaluation.tolerance_mm if model.run else 1.0
        if tolerance_mm <= 0:
            raise AmosError(f"tolerance_mm is {tolerance_mm:g}: {must_be(float, limits(gt=0))}")
        question = cls(split, named, frozenset(seen) & set(named), tolerance_mm)
        if not question.cases(cohort):
            raise AmosError(f"no labelled {split} case at {', '.join(named)}; there is nothing to score")
        return question

    def cases(self, cohort: Cohort) -> list[Case]:
        """The labelled cases, by site and then in the cohort's order."""
        return [case for site in self.sites for case in cohort.of(site=site, split=self.split, labelled=True)]


@dataclass(frozen=True)
class ModelScores:
    """The scores of a network on some cases; `notes` is what a reader needs to know about them."""

    question: Question
    results: Results
    notes: list[str]
    synthetic: bool


@dataclass(frozen=True)
class Common:
    """What a network and a cohort have in common.

    `cohort` is the cohort in the organs that are compared; `channels` has their label value for each of the
    network's organs, 0 for none. `only_network` and `only_cohort` are the organs that the other side lacks.
    """

    cohort: Cohort
    channels: tuple[int, ...]
    only_network: tuple[str, ...]
    only_cohort: tuple[str, ...]


def in_common(model: Model, cohort: Cohort, label_map: LabelMap | None = None) -> Common:
    """The organs that network and cohort share: by name, or as a label map relates the cohort's to the network's.

    A label map may join organs on either side: both the cohort's label maps and the network's predictions are joined
    before they are compared.

    Raises:
        AmosError: they have no organ in common, or a label map that names what one of them does not have.
    """
    if label_map is None:
        values = {organ_key(name): label for label, name in cohort.organs.items()}
        channels = tuple(values.get(organ_key(name), 0) for name in model.organs.values())
        if not any(channels):
            raise AmosError(
                f"the network knows {', '.join(model.organs.values())} and the cohort "
                f"{', '.join(cohort.organs.values())}; they share no organ by name, see organs.csv beside cohort.csv, "
                "or give a label map"
            )
        compared, taken = cohort, set(channels)
    else:
        found = matches(label_map, cohort.organs, model.organs, "the network")
        organs = {match.ours[0]: _name(match, cohort.organs, model.organs) for match in found}
        values = {label: match.ours[0] for match in found for label in match.ours}
        compared, taken = relabelled(cohort, values, organs), set(values)
        theirs = {label: match.ours[0] for match in found for label in match.theirs}
        channels = tuple(theirs.get(label, 0) for label in model.organs)
    return Common(
        compared,
        channels,
        tuple(name for name, label in zip(model.organs.values(), channels, strict=True) if not label),
        tuple(name for label, name in cohort.organs.items() if label not in taken),
    )


def _name(match: Match, ours: Mapping[int, str], theirs: Mapping[int, str]) -> str:
    """The name of what is compared: that on the side where it is a single organ."""
    if len(match.ours) > 1 and len(match.theirs) == 1:
        return theirs[match.theirs[0]]
    return " and ".join(ours[label] for label in match.ours)


def evaluate_model(
    model: Model,
    cohort: Cohort,
    question: Question,
    *,
    store: Path,
    device: str = "cpu",
    workers: int = 1,
    on_prepared: Callable[[int, int, str], None] | None = None,
    on_scored: Callable[[int, int, str], None] | None = None,
    save_to: Path | None = None,
    label_map: LabelMap | None = None,
    as_begun: bool = False,
) -> ModelScores:
    """Score the chosen weights on the cases of `question`; on the run's own test cases it gives the run's own scores.

    Organs that only one of network and cohort has are not scored; `in_common` says which they share. `on_prepared` and
    `on_scored` are called with (done, total, case) and may raise. With `save_to` label maps in the values of the shared
    organs are written to `save_to/SITE/CASE.nii.gz`. With `as_begun` the cohort is the run's, and must still have the
    content with which the run began.

    Raises:
        AmosError: no common organ, a file that is missing, damaged or on another grid than its scan, or with `as_begun`
            a scan that has another content than when the run began.
    """
    common = in_common(model, cohort, label_map)
    known = {case.case: case for case in common.cohort.cases if case.label is not None}
    cases = [case for case in question.cases(cohort) if case.case in known]
    if not cases:
        raise AmosError("none of these cases has an annotated organ that the network knows; there is nothing to score")
    if as_begun and model.run is not None:
        check_contents(model.run, question.cases(cohort), store)
    if save_to is not None:
        write_organs(common.cohort.organs, save_to / "organs.csv")
    network = model.network(device)
    turns = model.turns(network, model.inference)
    torch.set_num_threads(model.inference.threads)
    # All organs of the cohort, so that the prepared cases are shared with its runs.
    prepared = prepare_cases(cases, model.plan, store, tuple(cohort.organs), workers=workers, on_case=on_prepared)
    scored: list[CaseScores] = []
    for number, (case, ready) in enumerate(zip(cases, prepared, strict=True), start=1):
        scored += evaluate_cases(
            network,
            [(known[case.case], ready)],
            model.plan,
            organs=common.channels,
            labels=common.cohort.organs,
            tolerance_mm=question.tolerance_mm,
            device=device,
            inference=model.inference,
            save_to=save_to / case.site if save_to else None,
            unlearned=model.unlearned_channels,
            seen=question.seen,
            turns=turns,
        )
        if on_scored is not None:
            on_scored(number, len(cases), case.case)
    chosen = ChosenRound(model.round, f"round {model.round}")
    if model.others:
        rounds = [f"round {member.round} of {member.name}" for member in model.members]
        chosen = ChosenRound(model.round, listed(rounds, 10))
    elif model.run is not None:
        config = model.run.config()
        chosen = choose_round(model.run, config, config.rounds)
    organs = dict(common.cohort.organs)
    notes = notes_on(model, cohort, question, common)
    if len(question.cases(cohort)) > len(cases):
        notes.append(f"{counted(len(question.cases(cohort)) - len(cases), 'case')} without a common organ left out")
    return ModelScores(question, Results(chosen, [], scored, organs), notes, cohort.synthetic())


def joined(parts: Sequence[ModelScores], model: Model) -> ModelScores:
    """The scores of a cross-validation: each part is of one fold's validation cases, by the networks of that fold."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    cases = sorted((case for part in parts for case in part.results.cases), key=lambda case: (case.site, case.case))
    rounds = [f"round {member.round} of {member.name}" for member in model.members]
    chosen = ChosenRound(first.results.chosen.round, listed(rounds, 10))
    said = f"cross-validation over {len(parts)} folds: each case was predicted by the networks that it validated, alone"
    notes = dict.fromkeys([said, *(note for part in parts for note in part.notes)])
    results = Results(chosen, [], cases, first.results.organs)
    return ModelScores(first.question, results, list(notes), any(part.synthetic for part in parts))


def notes_on(model: Model, cohort: Cohort, question: Question, common: Common) -> list[str]:
    """What a reader of the scores needs to know: who counts as seen, what was left out, what was trained on."""
    cases = question.cases(cohort)
    sites = sorted({case.site for case in cases})
    parted = [[site for site in sites if (site in question.seen) == wanted] for wanted in (True, False)]
    seen, unseen = (" ".join(group) or "none" for group in parted)
    notes = [f"scanners that count as seen: {seen}; unseen: {unseen}"]
    if model.inference.test_time_adaptation:
        notes.append("test-time adaptation: the network's normalisation was fitted to each scan, without its labels")
    notes += model.notes
    drawn = {value for i, value in enumerate(common.channels, start=1) if i not in model.unlearned_channels}
    names = {case.case for case in cases}
    annotated = {organ for case in common.cohort.cases if case.case in names for organ in case.annotated}
    if empty := sorted((set(common.channels) - drawn - {0}) & annotated):
        organs = ", ".join(common.cohort.organs[organ] for organ in empty)
        notes.append(f"annotated in these cases but not learned, so the prediction counts as empty: {organs}")
    if common.cohort is not cohort:
        joined = [
            f"{name} = {' + '.join(parts)}"
            for label, name in common.cohort.organs.items()
            if (parts := [n for n, value in zip(model.organs.values(), common.channels, strict=True) if value == label])
        ]
        notes.append(f"the cohort's organs as the network's, by the label map: {', '.join(joined)}")
    for who, alone in (
        ("only the network knows", common.only_network),
        ("only the cohort labels", common.only_cohort),
    ):
        if alone:
            notes.append(f"not scored, because {who} it: {', '.join(alone)}")
    everyone = [case for site in sites for case in cohort.of(site=site, split=question.split)]
    if unlabelled := len(everyone) - len(cases):
        notes.append(f"{counted(unlabelled, 'case')} without a label map left out")
    runs = [member.run for member in model.members if member.run]
    trained = {(c.site, c.case) for run in runs for c in run.cohort().of(split="train")}
    if repeated := sum((case.site, case.case) in trained for case in cases):
        it = "a network of the ensemble" if model.others else "this network"
        notes.append(f"{counted(repeated, 'case')} of these {len(cases)} trained {it}; they measure memory")
    new = sorted({case.modality for case in cases} - set(model.modalities)) if model.modalities else []
    if new:
        notes.append(f"the network was trained on {' and '.join(model.modalities)} only but scored on {new[0]}, too")
    return notes


def write_evaluation(folder: Path, evaluation: ModelScores, model: Model, source: Path, cohort_file: Path) -> None:
    """Write scores.csv, scores_by_site.csv, scores_by_organ.csv, evaluation.json and summary.md into a folder."""
    results, question = evaluation.results, evaluation.question
    write_tables(folder, results)
    about: dict[str, Any] = {
        "run": str(source),
        "weights_sha256": model.weights_sha256(),
        "round": model.round,
        **({"members": [str(member.folder) for member in model.members]} if model.others else {}),
        "cohort": str(cohort_file),
        "split": question.split,
        "sites": list(question.sites),
        "seen": sorted(question.seen),
        "tolerance_mm": question.tolerance_mm,
        "synthetic": evaluation.synthetic,
        "synthetic_training": model.synthetic,
        "notes": evaluation.notes,
    }
    write_json(folder / "evaluation.json", about)
    name = f"{len(model.members)} networks together" if model.others else source.resolve().name
    title = f"Scores of {name} on {cohort_file.resolve().parent.name}, {question.split} cases"
    parts = [f"# {markdown.text(title)}\n"]
    if evaluation.synthetic:
        parts.append(f"> {PHANTOM_NOTE}\n")
    parts.append(_bulleted([results.chosen.sentence, f"NSD at {question.tolerance_mm:g} mm", *evaluation.notes]))
    parts += [
        "## By site\n",
        score_table(results.by_site, "site") + "\n",
        score_table(results.by_group, "group") + "\n",
    ]
    parts += ["## By organ\n", score_table(results.by_organ, "organ") + "\n"]
    write_text(folder / "summary.md", "\n".join(parts))


def _bulleted(lines: Sequence[str]) -> str:
    return "".join(f"- {markdown.text(line)}\n" for line in lines)
