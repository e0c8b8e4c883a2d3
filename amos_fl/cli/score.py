"""`amos-fl score`: scores label maps of any program against the reference, as a challenge would."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from amos_fl.cli.progress import Progress, plain_console
from amos_fl.cli.score_tables import problem_table, show_scores
from amos_fl.cohort.metadata import read_metadata
from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.cohort.scanners import SCANNERS
from amos_fl.cohort.table import PHANTOM_MARK, Cohort, Modality, Split, read_cohort
from amos_fl.csv_table import write_table
from amos_fl.errors import AmosError
from amos_fl.files import write_json
from amos_fl.metrics.folders import Rules, score_pairs
from amos_fl.metrics.meaning import check_meaning
from amos_fl.metrics.pairs import Pairing, pair_up
from amos_fl.metrics.rows import write_scores
from amos_fl.metrics.rules import organs_asked_for, tolerance_asked_for
from amos_fl.metrics.scores import BothEmpty
from amos_fl.metrics.summary import COLUMNS_OF_TABLES, ScoreTables, tables_of
from amos_fl.metrics.table import CaseScores, scores_to_json
from amos_fl.runs.summary import PHANTOM_NOTE
from amos_fl.wording import counted

_WORKERS = min(4, os.cpu_count() or 1)


def score(
    predictions: Annotated[Path, typer.Argument(metavar="PRED", help="A folder of label maps in NIfTI, or one file.")],
    labels: Annotated[
        Path | None,
        typer.Argument(
            metavar="[LABELS]", help="The reference: files of the same names.  [default: the cohort's own label maps]"
        ),
    ] = None,
    cohort: Annotated[
        Path | None, typer.Option(help="A cohort.csv: says of each case its site, modality and annotated organs.")
    ] = None,
    split: Annotated[Split | None, typer.Option(help="Only the cohort's cases of one split.")] = None,
    hold_out: Annotated[
        list[str] | None, typer.Option(help="Sites of the cohort that did not train; may be repeated.")
    ] = None,
    modality: Annotated[
        Modality | None,
        typer.Option(case_sensitive=False, help="Of all cases, if there is no cohort. AMOS's MR counts 13 organs."),
    ] = None,
    metadata: Annotated[
        Path | None, typer.Option(help="AMOS's metadata table: the patients' sex, which tells prostate from uterus.")
    ] = None,
    organs: Annotated[
        str | None, typer.Option(help="An organs.csv, or names of the organs to score.  [default: AMOS's 15]")
    ] = None,
    tolerance_mm: Annotated[
        str, typer.Option(help="The NSD's tolerance: a number, or a YAML or CSV file with one per organ.")
    ] = "1.0",
    both_empty: Annotated[
        BothEmpty, typer.Option(help="An organ that neither map has; one: it scores 1, as FLARE does.")
    ] = "excluded",
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Count all organs of a case without prediction as missed.")
    ] = False,
    allow_extra: Annotated[bool, typer.Option("--allow-extra", help="Ignore predictions without a label map.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes; each holds one case in memory.")] = _WORKERS,
    out: Annotated[Path | None, typer.Option(help="A folder for scores.csv, by_organ.csv and summary.json.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON, and no tables.")] = False,
) -> None:
    """Score label maps of any program: DSC, NSD, HD95, volumes, organs missed and hallucinated.

    Unpaired cases, differing grids, unknown labels and unreadable files are all listed; then nothing is scored, and
    the exit code is 2.
    """
    _check_words(split, modality, cohort, hold_out)
    known = read_cohort(cohort) if cohort is not None else None
    held_out = [site for word in hold_out or () for site in word.replace(",", " ").split()]
    seen_sites = known.holding_out(held_out).seen_sites if known is not None else ()
    possible, scored = organs_asked_for(organs, known.organs if known is not None else AMOS_ORGANS)
    if scored is not None or organs is None:  # an organs.csv of the user's own says what all numbers mean
        whose = "the cohort" if known is not None else "AMOS"
        check_meaning(predictions, possible, whose)
        check_meaning(labels, possible, whose)
    tolerance = tolerance_asked_for(tolerance_mm, possible)
    rules = Rules(possible, scored, tolerance, both_empty)
    pairing = pair_up(
        predictions,
        labels,
        known,
        split=split,
        allow_missing=allow_missing,
        allow_extra=allow_extra,
    )
    names = [pair.case for pair in pairing.pairs]
    sexes, modalities = _from_metadata(metadata, names)
    if known is None and modality is not None:
        modalities = {name: str(modality) for name in names}
    if pairing.problems:  # the files are still read, so that everything that is wrong is reported at once
        rules = replace(rules, scored=())
    with Progress() as progress:
        cases, problems = score_pairs(
            pairing.pairs,
            rules,
            modalities=modalities,
            seen_sites=seen_sites,
            workers=workers,
            on_case=progress.of("scoring"),
        )
    problems = sorted([*pairing.problems, *problems], key=lambda problem: (problem.case, problem.side))
    if problems:
        if as_json:
            found = [{"case": p.case, "side": p.side, "problem": p.message} for p in problems]
            typer.echo(json.dumps({"problems": found}, indent=2))
        else:
            plain_console().print(problem_table(problems))
        typer.echo(f"amos-fl: nothing is scored: {counted(len(problems), 'problem')}", err=True)
        raise typer.Exit(2)
    tables = tables_of(cases, possible, sexes)
    notes = _notes(pairing, cases, sexes, metadata, known, labels)
    settings = {
        "tolerance_mm": {possible[organ]: value for organ, value in tolerance.items()}
        if isinstance(tolerance, dict)
        else tolerance,
        "both_empty": both_empty,
        "organs": [name for organ, name in possible.items() if scored is None or organ in scored],
    }
    summary = {
        "settings": settings,
        "notes": notes,
        "missing": list(pairing.missing),
        "left_aside": list(pairing.extra),
        **tables.to_dict(),
        "scores": {
            case.case: {possible[int(organ)]: marks for organ, marks in scores_to_json(case.scores).items()}
            for case in cases
        },
    }
    if out is not None:
        _write(out, summary, tables, cases, possible, sexes)
    if as_json:
        typer.echo(json.dumps(summary, indent=2, allow_nan=False))
        return
    show_scores(plain_console(), tables, notes, tolerance_mm)
    if out is not None:
        typer.echo(f"wrote {out / 'scores.csv'}, by_organ.csv and summary.json")


def _check_words(split: str | None, modality: str | None, cohort: Path | None, hold_out: list[str] | None) -> None:
    if cohort is not None and modality is not None:
        raise AmosError("--modality: the cohort says the modality of each case; leave out one of the two")
    if cohort is None and (split is not None or hold_out):
        raise AmosError(
            f"--{'split' if split is not None else 'hold-out'}: needs a --cohort, which says who holds what"
        )


def _from_metadata(table: Path | None, cases: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Sex and modality by case, of the cases that have AMOS's names, as far as the table knows them."""
    if table is None:
        return {}, {}

    records = read_metadata(table).records
    ids = {case: int(found[1]) for case in cases if (found := re.fullmatch(r"amos_(\d{4})", case))}
    known = {case: records[amos_id] for case, amos_id in ids.items() if amos_id in records}
    sexes = {case: record.sex for case, record in known.items() if record.sex}
    return sexes, {case: SCANNERS[record.domain].modality for case, record in known.items()}


def _notes(
    pairing: Pairing,
    cases: list[CaseScores],
    sexes: dict[str, str],
    metadata: Path | None,
    cohort: Cohort | None,
    labels: Path | None,
) -> list[str]:
    """What a reader of the scores needs to know."""
    notes = []
    release = [folder / "dataset.json" for folder in (labels, labels.parent)] if labels else []
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in release if path.is_file()]
    if (cohort is not None and cohort.synthetic()) or any(PHANTOM_MARK in text for text in texts):
        notes.append(PHANTOM_NOTE)
    if pairing.missing:
        notes.append(
            f"{counted(len(pairing.missing), 'case')} without prediction, all organs counted as missed: "
            + ", ".join(pairing.missing)
        )
    if pairing.extra:
        notes.append(
            f"{counted(len(pairing.extra), 'case')} ignored, without label map or not in the cohort: "
            + ", ".join(pairing.extra)
        )
    if unknown := sum(not case.modality for case in cases):
        notes.append(
            f"the modality of {counted(unknown, 'case')} is unknown, so all organs count there; give "
            "--modality, --cohort or --metadata"
        )
    if metadata is not None:
        notes.append(f"the patient's sex is known for {len(sexes)} of {counted(len(cases), 'case')}")
    return notes


def _write(
    out: Path,
    summary: dict[str, Any],
    tables: ScoreTables,
    cases: list[CaseScores],
    organs: dict[int, str],
    sexes: dict[str, str],
) -> None:
    write_scores(out / "scores.csv", cases, organs, sexes)
    write_table(out / "by_organ.csv", COLUMNS_OF_TABLES, tables.organs)
    if tables.sites:
        write_table(out / "by_site.csv", COLUMNS_OF_TABLES, [*tables.sites, *tables.groups])
    write_json(out / "summary.json", summary)
