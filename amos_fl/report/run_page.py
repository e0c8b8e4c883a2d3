"""The page of one run: the content of each part, and the CSV files beside it."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, get_args

from amos_fl.cohort.table import SPLITS
from amos_fl.comparison.statistics import LEAST_COMPARED_CASES
from amos_fl.metrics.catalogue import IN_RUNS, title_of
from amos_fl.metrics.rows import ScoreRow
from amos_fl.report import series
from amos_fl.report.examples import Address, site_examples
from amos_fl.report.figures import score, signed
from amos_fl.report.run_figures import PageFigure, Section, page_figures
from amos_fl.report.series import GapRow
from amos_fl.report.sortable import Column, SortableTable, count, number, table, text
from amos_fl.report.words import INTERVAL, OUTCOMES, POOLED, TRAINED, words_of
from amos_fl.runs.config import has_strategy
from amos_fl.runs.folder import LEDGER
from amos_fl.runs.layers import dotted
from amos_fl.runs.record import RunRecord
from amos_fl.runs.summary import PHANTOM_NOTE
from amos_fl.runs.wording import (
    contributed_in_words,
    left_out_in_mr,
    unlearned_in_words,
    untrained_in_words,
    untrained_sites,
    work_in_words,
)
from amos_fl.runs.work import steps_in_words
from amos_fl.wording import MISSING, counted, duration, listed

KINDS = {
    "federated": "Federated run",
    "centralized": "Centralized run: all training cases pooled",
    "local": "Local run: one site alone",
    "finetune": "Fine-tuned run: a federated model continued at one site",
    "leave-one-out": "Leave-one-out run: federated without one site",
}
MOST_NAMED = 5
"""The most cases that a sentence names."""
_SCORE_COLUMNS = (
    Column("cases"),
    *(Column(title_of(metric)) for metric in IN_RUNS),
    Column("DSC (present)", what="over the organs that the reference has, without hallucinated ones"),
    Column("missed"),
    Column("hallucinated"),
)


def missing_cases(record: RunRecord) -> list[str]:
    """Labelled test cases without a score, one sentence per site.

    A deployment's server knows only their number; their sites use pseudonyms for them, or no names.
    """
    results, sentences = record.results, []
    scored = {case.case for case in results.cases}
    numbers = Counter(case.site for case in results.cases)
    numbers.update({part.site: part.scores.cases for part in results.withheld})
    for site in record.cohort.sites:
        cases = [case.case for case in record.cohort.of(site=site, split="test", labelled=True)]
        missing = [case for case in cases if case not in scored]
        if record.config.engine.name == "deployment" or any(part.site == site for part in results.withheld):
            if numbers[site] < len(cases):
                without = counted(len(cases) - numbers[site], "test case")
                sentences.append(f"no test scores of {without} of {len(cases)} at site {site}")
        elif missing:
            sentences.append(f"no test scores of {listed(missing, MOST_NAMED)} at site {site}")
    return sentences


def why_withheld(record: RunRecord) -> str:
    """Which sites withheld the scores of single cases, and what that means; empty if none did."""
    sites = sorted({part.site for part in record.results.withheld})
    if not sites:
        return ""
    who, its = (f"Site {sites[0]} sends", "its") if len(sites) == 1 else (f"Sites {listed(sites)} send", "their")
    return (
        f"{who} sums and counts, and the scores of single cases stay there (share_case_scores: none). Means and counts "
        f"are as exact as with them; what needs single cases (distributions, intervals, the list of cases) lacks {its} "
        "cases."
    )


def run_context(
    record: RunRecord, files: dict[str, str], case_pages: Mapping[Address, str] | None = None
) -> dict[str, Any]:
    """The context of the template `run.html`; `case_pages` are the addresses of cases on pages of their own."""
    case_pages = case_pages or {}
    results = record.results
    gaps = series.gap_rows(record)
    shown: dict[str, list[PageFigure]] = {section: [] for section in get_args(Section)}
    for drawn in page_figures(record, files, gaps):
        shown[drawn.section].append(drawn)
    scored, per_case, withheld = bool(results.by_site), bool(results.cases), why_withheld(record)
    context: dict[str, Any] = {
        "title": record.name,
        "kind": KINDS.get(record.arm, record.arm),
        "synthetic": record.synthetic,
        "phantom_note": PHANTOM_NOTE,
        "problems": [*untrained_in_words(_untrained(record)), *results.problems, *missing_cases(record)],
        "all_well": "Nothing went wrong: every site took part in every round, and every test case was scored.",
        "lead": lead(record),
        "words": [
            *words_of(IN_RUNS, record.config.evaluation.tolerance_mm),
            *(INTERVAL if any(not math.isnan(gap.low) for gap in gaps) else []),
            *TRAINED,
            *(POOLED if record.arm == "centralized" else []),
            *(OUTCOMES if results.by_site else []),
        ],
        "numbers": _key_numbers(record),
        "contents": _contents(scored, expected=bool(shown["expected"])),
        "figures": shown,
        "scored": scored,
        "run_facts": _run_facts(record),
        "cohort_table": _cohort_table(record),
        "settings_table": _settings_table(record),
        "versions_table": _versions_table(record),
        "rounds_table": _rounds_table(record, files["rounds"]),
        "cost_facts": _cost_facts(record),
        "examples": [],
    }
    if scored:
        examples = site_examples(record, case_pages)
        pictures = any(case["view"] for site in examples for case in site["cases"])
        context |= {
            "site_table": sortable_scores("sites", "Test scores by site", "site", results.by_site + results.by_group),
            "personal_table": personal_table(record),
            "organ_table": sortable_scores("by-organ", "Test scores by organ", "organ", results.by_organ),
            "definition": "DSC and NSD are means over cases, then over organs, on the scans' own grids. "
            + left_out_in_mr(record.cohort.organs, [row.modality for row in results.by_group]),
            "per_case": per_case,
            "withheld": withheld,
            "gap_sentences": gap_sentences(gaps, record),
            "examples": examples if pictures else [],
            "cases_text": EXAMPLES_TEXT if pictures else NO_PICTURES,
            "case_table": _case_table(series.case_rows(record), files["cases"], case_pages),
        }
    return context


EXAMPLES_TEXT = (
    "For each site its best, median and worst test case by the mean DSC of the case; the table below leads to all "
    "others. The slices shown at first are those that cut most organs and where label and prediction differ most, so "
    "they show more error than a slice taken at random. R and L are the patient's right and left, A and P front and "
    "back."
)
NO_PICTURES = (
    "No pictures: scans stay at their sites, and only a simulation keeps pictures of its test cases for its report. A "
    "deployed site has a page of its own: amos-fl-site report."
)


def _contents(scored: bool, *, expected: bool) -> list[tuple[str, str]]:
    parts = [("run", "What was run"), ("learning", "Learning curves")]
    if scored:
        parts += [("scores", "Scores by site and organ"), ("organs", "Distributions"), ("gap", "Seen and unseen")]
    if expected:
        parts.append(("expected", "Expected DSC"))
    return [*parts, ("cost", "Cost"), *([("cases", "Cases")] if scored else [])]


def _untrained(record: RunRecord) -> list[str]:
    return untrained_sites(record.config, record.cohort, record.ledger)


def _trained(record: RunRecord) -> list[str]:
    untrained = _untrained(record)
    return [site for site in record.seen_sites if site not in untrained]


def lead(record: RunRecord) -> str:
    """The run and its outcome in a few sentences."""
    config, seen = record.config, _trained(record)
    work = f"{counted(config.rounds, 'round')} of {steps_in_words(config)}"
    steps = counted(config.rounds * config.local_steps, "step")
    cases = counted(len(record.cohort.of(split="train", labelled=True)), "training case")
    what = {
        "centralized": f"One network was trained on the {cases} of {listed(seen)}, pooled, in {steps}.",
        "local": f"One network was trained at {listed(seen)} alone, on its {cases}, in {steps}.",
        "finetune": f"A network was trained further at {listed(seen)} alone, on its {cases}, in {steps}.",
    }.get(
        record.arm,
        f"{listed(seen)} trained one network together with {config.strategy}, in {work} at each of them.",
    )
    if untrained := _untrained(record):
        what += f" {contributed_in_words(record.cohort, untrained)}."
    if not record.results.by_group:
        return f"{what} No test case was scored."
    parts = []
    for group, words in (("seen", "scanners that it was trained on"), ("unseen", "scanners that it never saw")):
        rows = [row for row in record.results.by_group if row.group == group]
        if rows:
            parts.append(f"{listed([f'{score(row.dsc)} on {row.modality}' for row in rows])} of {words}")
    said = f"{what} Its mean DSC on test cases is {', and '.join(parts)}."
    return f"{said} {record.results.little_learned}".rstrip()


def _key_numbers(record: RunRecord) -> list[dict[str, str]]:
    numbers = [
        {
            "name": f"DSC, {row.group} {row.modality}",
            "value": score(row.dsc, 3),
            "more": f"NSD {score(row.nsd, 3)}, {counted(row.cases, 'case')}",
        }
        for row in record.results.by_group
    ]
    cost = record.cost
    exchanged = cost.bytes_down + cost.bytes_up
    more = f"{exchanged / 1e6:,.1f} MB exchanged".replace(",", "\u202f") if exchanged else "nothing exchanged"
    spent = {
        "name": "time in rounds",
        "value": duration(cost.seconds),
        "more": f"{count(cost.steps).text} steps, {more}",
    }
    return [*numbers, spent]


def last_round_ended(record: RunRecord) -> str:
    """When the run's last round ended, by the time of its ledger; a dash if that is gone."""
    try:
        ended = (record.folder.path / LEDGER).stat().st_mtime
    except OSError:
        return MISSING
    return f"{datetime.fromtimestamp(ended, UTC):%Y-%m-%d %H:%M} UTC"


def _run_facts(record: RunRecord) -> list[tuple[str, str]]:
    config, plan = record.config, record.config.plan
    options = ", ".join(f"{key} {value}" for key, value in config.strategy_options.items())
    about = record.folder.about().versions
    patches = counted(config.training.batch_size, "patch", "patches")
    facts = [
        ("Trained on", ", ".join(_trained(record))),
        ("Unseen scanners", ", ".join(record.unseen_sites) or "none"),
        ("Strategy", f"{config.strategy}{f' ({options})' if options else ''}, updates weighted by {config.weighting}"),
        (
            "Training",
            f"{counted(config.rounds, 'round')} of {steps_in_words(config)} at each site, {patches} a step"
            if has_strategy(record.arm)
            else f"{work_in_words(config, record.cohort)}; {patches} a step",
        ),
        (
            "Network",
            f"{config.model}, plan {plan.name}: spacing {' x '.join(f'{s:g}' for s in plan.spacing_mm)} mm, "
            f"patch {' x '.join(map(str, plan.patch))}",
        ),
        ("Weights", record.results.chosen.of),
        ("Seed", str(config.seed)),
        ("Last round ended", last_round_ended(record)),
        ("Engine", config.engine.name + ("" if config.engine.name == "deployment" else f", device {config.device}")),
        ("Cohort", f"{len(record.cohort.cases)} cases, SHA-256 {record.cohort_sha256[:16]}…"),
        ("amos-fl", about.get("amos-fl", "unknown") + (f", commit {about['commit']}" if about.get("commit") else "")),
    ]
    facts += [("Organs", sentence) for sentence in unlearned_in_words(record.folder, record.cohort)]
    return [fact for fact in facts if has_strategy(record.arm) or fact[0] != "Strategy"]


def _cohort_table(record: RunRecord) -> SortableTable:
    rows = []
    for site in record.cohort.sites:
        cases = record.cohort.of(site=site)
        role = "trained on" if site in record.seen_sites else "unseen"
        per_split = [count(len(record.cohort.of(site=site, split=split))) for split in SPLITS]
        rows.append([text(site), text(", ".join(sorted({c.modality for c in cases}))), text(role), *per_split])
    columns = [Column("site", False), Column("modality", False), Column("role", False)]
    columns += [Column(name) for name in ("training cases", "validation cases", "test cases")]
    return table("cohort", "Cases by site", columns, rows, "cohort.csv")


def _settings_table(record: RunRecord) -> SortableTable:
    rows = []
    for key, value in dotted(record.config.model_dump(mode="json")).items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        rows.append([text(key), text(MISSING if shown in (None, "", {}) else shown)])
    return table("settings", "All settings", [Column("setting", False), Column("value", False)], rows, "config.yaml")


def _versions_table(record: RunRecord) -> SortableTable:
    rows = [[text(name), text(value)] for name, value in record.folder.about().versions.items()]
    return table("versions", "Software and machine", [Column("package", False), Column("version", False)], rows)


def _rounds_table(record: RunRecord, file: str) -> SortableTable:
    rows = [
        [
            count(row.round),
            number(row.loss),
            number(row.seen_dsc),
            number(row.unseen_dsc),
            number(row.bytes_down / 1e6, 1),
            number(row.bytes_up / 1e6, 1),
            number(row.seconds, 1),
            text(row.missing or MISSING),
        ]
        for row in series.round_totals(record)
    ]
    names = ["round", "loss", "DSC seen", "DSC unseen", "MB to sites", "MB back", "seconds"]
    return table("rounds", "Every round", [*map(Column, names), Column("missing", False)], rows, file)


def _cost_facts(record: RunRecord) -> list[tuple[str, str]]:
    cost = record.cost
    return [
        ("Rounds", str(cost.rounds)),
        (
            "Optimizer steps",
            f"{count(cost.steps).text} at all trainers together, {count(cost.sequential_steps).text} one after another"
            if has_strategy(record.arm)
            else f"{count(cost.steps).text}, by one trainer",
        ),
        ("Patches", count(cost.patches).text),
        (
            "Weights",
            f"{cost.bytes_down / 1e6:.1f} MB to the sites, {cost.bytes_up / 1e6:.1f} MB back"
            if record.config.exchanges_weights
            else "nothing was exchanged",
        ),
        ("Time", f"{duration(cost.seconds)} in rounds, without scoring"),
    ]


def personal_table(record: RunRecord) -> SortableTable | None:
    """The scores of the sites' own models at home; None if the run's method leaves them none."""
    if record.results.personal is None:
        return None
    caption = "Each site's own model, on its own test cases"
    file = "scores_by_site_personal.csv"
    return sortable_scores("personal", caption, "site", record.results.personal.by_site, file)


def sortable_scores(
    name: str, caption: str, first: str, rows: Sequence[ScoreRow], file: str | None = None
) -> SortableTable:
    """Rows of scores; the group's name is not repeated if the row is named after it."""
    body = [
        [
            text(row.name),
            text(row.modality),
            text(row.group),
            count(row.cases),
            *(number(getattr(row, metric)) for metric in (*IN_RUNS, "dsc_present")),
            count(row.missed),
            count(row.hallucinated),
        ]
        for row in rows
    ]
    columns = [Column(first, False), Column("modality", False), Column("scanner", False), *_SCORE_COLUMNS]
    file = file or ("scores_by_organ.csv" if first == "organ" else "scores_by_site.csv")
    return table(name, caption, columns, body, file, stacks=first == "site")


def gap_sentences(gaps: Sequence[GapRow], record: RunRecord) -> list[str]:
    """The gap in words, one sentence per modality that has seen and unseen scanners."""
    found = []
    for gap in (g for g in gaps if g.metric == "dsc"):
        interval = (
            f"95 % interval {signed(gap.low)} to {signed(gap.high)}"
            if not math.isnan(gap.low)
            else "too few cases for an interval"
            if min(gap.seen_cases, gap.unseen_cases) < LEAST_COMPARED_CASES
            else "no interval, which needs scores per case"
        )
        found.append(
            f"On {gap.modality}, seen scanners score DSC {score(gap.seen, 3)} ({counted(gap.seen_cases, 'case')}) and "
            f"unseen ones {score(gap.unseen, 3)} ({counted(gap.unseen_cases, 'case')}): seen minus unseen is "
            f"{signed(gap.gap)} ({interval}). The patients differ, too, not only the scanners."
        )
    if not found and not record.unseen_sites:
        found.append("No scanner was left out of training, so it is unknown how the network does on an unseen one.")
    elif not found:
        found.append("No modality has test cases of both seen and unseen scanners.")
    return found


def _case_table(rows: Sequence[ScoreRow], file: str, pages: Mapping[Address, str]) -> SortableTable:
    body = [
        [
            text(row.case, pages.get((row.site, row.case), "")),
            text(row.site),
            text(row.modality),
            text(row.group),
            count(row.organs),
            *(number(getattr(row, metric)) for metric in IN_RUNS),
            count(row.missed),
            count(row.hallucinated),
        ]
        for row in rows
    ]
    columns = [Column(name, False) for name in ("case", "site", "modality", "scanner")]
    columns += [Column(head) for head in ("organs", *map(title_of, IN_RUNS), "missed", "hallucinated")]
    return table("all-cases", "Every test case: means over its organs", columns, body, file)
