"""Write `summary.md`: a run on one page, problems first."""

import math
from typing import TYPE_CHECKING

from amos_fl.escape import markdown
from amos_fl.wording import MISSING

if TYPE_CHECKING:  # nothing here needs torch, and a command that only prints PHANTOM_NOTE should not wait for it
    from amos_fl.cohort.table import Cohort
    from amos_fl.metrics.rows import ScoreRow
    from amos_fl.runs.config import RunConfig
    from amos_fl.runs.folder import RunFolder
    from amos_fl.runs.results import Results

PHANTOM_NOTE = (
    "The scans of this run are synthetic: a phantom cohort that amos-fl made itself. "
    "Its scores say that the program works and nothing about patients."
)


def number(value: float, digits: int = 3) -> str:
    """A score for a table; a dash if there is none."""
    return MISSING if math.isnan(value) else f"{value:.{digits}f}"


def score_table(rows: "list[ScoreRow]", first: str) -> str:
    """Rows of scores as Markdown."""
    from amos_fl.metrics.catalogue import IN_RUNS, title_of

    head = [first, "modality", "scanner", "cases", *map(title_of, IN_RUNS), "DSC (present)", "missed", "hallucinated"]
    body = [
        [
            row.name,
            row.modality,
            row.group,
            str(row.cases),
            *(number(getattr(row, metric)) for metric in (*IN_RUNS, "dsc_present")),
            str(row.missed),
            str(row.hallucinated),
        ]
        for row in rows
    ]
    return markdown.table(head, body)


def _where(config: "RunConfig") -> str:
    if config.engine.name == "deployment":
        return "a deployment, each site on its own machine and device"
    return f"engine {config.engine.name}, device {config.device}"


def _plan_sources(folder: "RunFolder") -> str:
    """A line that names the sites from which the run made its plan; empty if the plan was given."""
    sites, left_out = folder.plan_sources()
    if not sites:
        return ""
    without = "".join(f"; without {site} ({why})" for site, why in left_out.items())
    sources = f"the plan was made from the fingerprints of {', '.join(sites)}{without}"
    return f"- {markdown.text(sources)}\n"


def summary(folder: "RunFolder", config: "RunConfig", cohort: "Cohort", results: "Results") -> str:
    """The text of `summary.md`."""
    from amos_fl.runs.wording import (
        left_out_in_mr,
        spent_in_words,
        unlearned_in_words,
        untrained_in_words,
        untrained_sites,
        work_in_words,
    )

    costs = [(entry["seconds"], entry["bytes_down"], entry["bytes_up"]) for entry in folder.entries()]
    seconds, down, up = (sum(column) for column in zip(*costs, strict=True)) if costs else (0, 0, 0)
    parts = ["# Run summary\n"]
    if folder.synthetic:
        parts.append(f"> {PHANTOM_NOTE}\n")
    untrained = untrained_sites(config, cohort, folder.entries())
    if problems := [*untrained_in_words(untrained), *results.problems]:
        parts.append("## What went wrong\n")
        parts.append("\n".join(f"- {markdown.text(problem)}" for problem in problems) + "\n")
    parts.append("## What was run\n")
    parts.append(
        f"- {markdown.text(work_in_words(config, cohort, untrained))}\n"
        f"- unseen scanners: {markdown.text(', '.join(cohort.unseen_sites)) or 'none'}\n"
        f"- network {config.model} on the plan {markdown.text(config.plan.name)}, {_where(config)}\n"
        f"{_plan_sources(folder)}"
        + (f"- it {markdown.text(folder.start_sentence)}\n" if folder.start_sentence else "")
        + f"- {results.chosen.sentence}\n"
        + (f"- {results.little_learned}\n" if results.little_learned else "")
        + "".join(f"- {markdown.text(sentence)}\n" for sentence in unlearned_in_words(folder, cohort))
        + f"- {spent_in_words(config, seconds, down, up)}\n"
    )
    if results.by_site:
        parts += ["## Test scores by site\n", score_table(results.by_site, "site") + "\n"]
        parts += ["Seen and unseen scanners:\n", score_table(results.by_group, "group") + "\n"]
        if results.personal is not None:
            parts += ["## Each site's own model, on its own test cases\n"]
            parts += [score_table(results.personal.by_site, "site") + "\n"]
        parts += ["## Test scores by organ\n", score_table(results.by_organ, "organ") + "\n"]
        parts.append(
            f"DSC and NSD (tolerance {config.evaluation.tolerance_mm:g} mm) are means over cases, then over organs, "
            "on the scans' own grids. An organ that only one of prediction and reference has scores 0 and is "
            "counted as missed or hallucinated; `DSC (present)` leaves the hallucinated out. "
            f"{left_out_in_mr(cohort.organs, [row.modality for row in results.by_group])}".rstrip()
            + "\n"
        )
    else:
        parts.append("No site has a labelled test case, so nothing was scored.\n")
    parts.append("Every number is in `scores.csv`, `scores_by_site.csv`, `scores_by_organ.csv` and `ledger.jsonl`.\n")
    return "\n".join(parts)
