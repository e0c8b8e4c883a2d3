"""The table of an experiment: the scores of its steps, beside the paper's numbers if the data is AMOS.

A published number is shown beside ours only if the scored cases are the paper's (or, in Tables 3 and 6, if the network
was trained on AMOS first), the network and its plan are the paper's, and nothing is synthetic.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from amos_fl.cohort.organ_names import organ_key
from amos_fl.cohort.table import Cohort, read_cohort
from amos_fl.comparison.published import (
    MARK,
    PAPER_PLANS,
    are_the_papers_cases,
    is_genuine,
    network_in_the_papers_words,
    published_scores,
    training_in_the_papers_words,
)
from amos_fl.csv_table import write_table
from amos_fl.escape import markdown
from amos_fl.experiments.preset import Compare, Evaluate, Preset, Published, Result, Train
from amos_fl.experiments.workspace import MARKS, StepWork, Workspace
from amos_fl.files import write_text
from amos_fl.metrics.rows import ScoreRow, rows_by, sums_by_case
from amos_fl.metrics.table import CaseScores, organs_of_scores, read_scores
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.summary import PHANTOM_NOTE, number
from amos_fl.runs.work import steps_by_site
from amos_fl.wording import MISSING

COLUMNS_OF_RESULTS = (
    *("row", "column", "organ", "cases", "dsc", "nsd", "published_dsc", "published_nsd", "synthetic", "steps"),
)
FEWER_STEPS = "The paper trained for 250,000 steps; where a run here had fewer, that explains most of a gap."


@dataclass(frozen=True, kw_only=True)
class ResultCell(ScoreRow):
    """A score in an experiment's table, and the paper's number (NaN if it has none)."""

    row: str
    column: str
    published_dsc: float
    published_nsd: float
    synthetic: bool
    steps: int


@dataclass(frozen=True)
class _Scored:
    """A step's scores, and the training behind them."""

    cases: list[CaseScores]
    organs: dict[int, str]
    synthetic: bool
    cohort: Cohort
    run: RunFolder


def outcome(preset: Preset, workspace: Workspace) -> list[ResultCell]:
    """The cells of a preset's table for which the steps are done."""
    works = workspace.works(preset.name)
    found: list[ResultCell] = []
    for result in preset.results:
        work = works.get(result.step)
        if work is None or work.missing or not workspace.done(work):
            continue
        scored = _scored(preset, result.step, works, workspace)
        among = {"all": (True, False), "seen": (True,), "unseen": (False,)}[result.among]
        cases = [c for c in scored.cases if result.modality in (None, c.modality) and c.seen in among]
        if result.shared_with is not None:
            cases = _only_organs_of(
                read_cohort(workspace.root / works[result.shared_with].cohort), cases, scored.organs
            )
        found += _cells(result, scored, cases, _first_training(preset, result.step, works, workspace))
    return found


def _only_organs_of(other: Cohort, cases: list[CaseScores], organs: dict[int, str]) -> list[CaseScores]:
    """The scores of the organs that another cohort has too, by name."""
    theirs = {organ_key(name) for name in other.organs.values()}
    shared = {label for label, name in organs.items() if organ_key(name) in theirs}
    return [replace(c, scores={label: s for label, s in c.scores.items() if label in shared}) for c in cases]


def _scored(preset: Preset, step: str, works: dict[str, StepWork], workspace: Workspace) -> _Scored:
    _, definition = preset.resolved(step)
    work = works[step]
    folder = workspace.root / work.folder
    cohort = read_cohort(workspace.root / work.cohort)
    trained = works[definition.evaluate] if isinstance(definition, Evaluate) else work
    run = RunFolder(workspace.root / trained.folder)
    synthetic = run.synthetic or cohort.synthetic()
    file = folder / "scores.csv"
    return _Scored(read_scores(file), organs_of_scores(file), synthetic, cohort, run)


def _first_training(preset: Preset, step: str, works: dict[str, StepWork], workspace: Workspace) -> RunFolder | None:
    """The first training of a step's network: its own, or the one whose weights it started from."""
    _, definition = preset.resolved(step)
    if isinstance(definition, Evaluate):
        return _first_training(preset, definition.evaluate, works, workspace)
    if isinstance(definition, Train) and definition.start:
        return _first_training(preset, definition.start, works, workspace)
    return RunFolder(workspace.root / works[step].folder)


def _cells(result: Result, scored: _Scored, cases: list[CaseScores], first: RunFolder | None) -> Iterable[ResultCell]:
    steps = _steps_of(scored.run)
    beside = _beside(result.published, scored, cases, first) if result.published else {}
    *organs, mean = rows_by(sums_by_case(cases, scored.organs), scored.organs)
    for row in [mean, *(organs if result.organs else ())]:
        yield ResultCell(
            **vars(row),
            row=result.row,
            column=result.column,
            published_dsc=beside.get((row.organ, "dsc"), math.nan),
            published_nsd=beside.get((row.organ, "nsd"), math.nan),
            synthetic=scored.synthetic,
            steps=steps,
        )


def _steps_of(run: RunFolder) -> int:
    """The optimizer steps of a run, at all its trainers together."""
    config = run.config()
    return config.rounds * sum(steps_by_site(config, run.cohort()).values())


def _beside(
    published: Published, scored: _Scored, cases: list[CaseScores], first: RunFolder | None
) -> dict[tuple[str, str], float]:
    """The paper's numbers by organ and score, if the setting is the paper's; otherwise none."""
    if scored.synthetic or first is None or first.synthetic:
        return {}
    config = scored.run.config()
    network = network_in_the_papers_words(config.model)
    trained_on = training_in_the_papers_words(first.cohort())
    if published.table in (3, 6):
        # Other data sets name their cases arbitrarily: only AMOS's cases can be recognised.
        fits = bool(trained_on) if published.training == "AMOS" else is_genuine(scored.cohort)
    else:
        names = [case.case for case in cases]
        plan = PAPER_PLANS.get("CT+MR" if "+" in trained_on else trained_on)
        fits = is_genuine(scored.cohort) and are_the_papers_cases(names, published.cases) and config.plan.name == plan
        fits = fits and published.training in (None, trained_on)
    wanted = published.training or trained_on
    tables = {published.table, 10} if published.table == 4 else {published.table}
    return {
        (score.organ, score.metric): score.value
        for score in published_scores()
        if fits
        and int(score.source.split(",")[0].removeprefix("Table ")) in tables
        and (score.network, score.training, score.cases) == (network, wanted, published.cases)
    }


def write_outcome(preset: Preset, workspace: Workspace) -> list[ResultCell]:
    """Write `results.csv` and `results.md` into the preset's folder; return the cells."""
    cells = outcome(preset, workspace)
    folder = workspace.preset(preset.name)
    write_table(folder / "results.csv", COLUMNS_OF_RESULTS, cells)
    text = outcome_in_words(preset, workspace, cells)
    write_text(folder / "results.md", f"# {preset.title}\n\n{preset.question.strip()}\n\n{text}")
    return cells


def outcome_in_words(preset: Preset, workspace: Workspace, cells: list[ResultCell]) -> str:
    """An experiment's results: its table, its comparisons at a glance, or the pages of one that has neither."""
    parts = [outcome_in_markdown(cells)] if preset.results else []
    for heading, overview in overviews(preset, workspace).items():
        parts += [f"## {markdown.text(heading)}\n", overview]
    text = "\n".join(parts) or pages_in_words(preset, workspace)
    return f"> {quick_note(preset, workspace)}\n\n{text}" if workspace.form == "quick" else text


def quick_note(preset: Preset, workspace: Workspace) -> str:
    """What a quick form is, with the optimizer steps of its trainings.

    It names the fewest and the most, if they differ.
    """
    works = workspace.works(preset.name)
    runs = [RunFolder(workspace.root / work.folder) for work in works.values() if work.kind == "run"]
    steps = sorted({_steps_of(run) for run in runs if (run.path / "config.yaml").is_file()})
    told = (
        f" {' to '.join(dict.fromkeys(map(str, (steps[0], steps[-1]))))} optimizer steps a training," if steps else ""
    )
    return f"Quick form:{told} on the phantom. Not a result."


def overviews(preset: Preset, workspace: Workspace) -> dict[str, str]:
    """The tables at a glance of its finished comparisons, by what is compared."""
    works, found = workspace.works(preset.name), {}
    for name in preset.steps:
        step, work = preset.resolved(name)[1], works.get(name)
        if work is None or not isinstance(step, Compare) or not workspace.done(work):
            continue
        file = workspace.root / work.folder / "overview.md"
        if file.is_file():
            found[step.title or name] = file.read_text(encoding="utf-8")
    return found


def pages_in_words(preset: Preset, workspace: Workspace) -> str:
    """A list of the pages of an experiment without a table."""
    works = workspace.works(preset.name)
    done = {step: works[step] for step in preset.steps if step in works and workspace.done(works[step])}
    lines = [f"- {step}: {workspace.root / work.folder / MARKS.get(work.kind, '')}\n" for step, work in done.items()]
    return "".join(lines) or "No page of this experiment has been made yet.\n"


def outcome_in_markdown(cells: list[ResultCell], *, note: bool = True) -> str:
    """The table of an experiment, DSC and NSD in each cell, and one by organ for each column that has organs.

    With `note` it says at the top which scans are synthetic, which a star marks in any case.
    """
    if not cells:
        return "Nothing of this experiment's table has been computed yet.\n"
    parts = [f"> {PHANTOM_NOTE}\n"] if note and any(cell.synthetic for cell in cells) else []
    parts.append(_table([cell for cell in cells if not cell.organ], "") + "\n")
    parts.append(
        "DSC / NSD, means over cases, then over organs (AMOS's MR: 13 organs)"
        + (f"; in brackets the paper's ({MARK}). {FEWER_STEPS}\n" if any(map(_has_published, cells)) else ".\n")
    )
    for column in dict.fromkeys(cell.column for cell in cells if cell.organ):
        mine = [cell for cell in cells if cell.organ and cell.column == column]
        parts.append(f"{markdown.text(column)}, by organ:\n\n{_by_organ(mine)}\n")
    return "\n".join(parts)


def _has_published(cell: ResultCell) -> bool:
    return not math.isnan(cell.published_dsc)


def _in_words(cell: ResultCell | None) -> str:
    if cell is None:
        return MISSING
    text = f"{number(cell.dsc)} / {number(cell.nsd)}{'*' if cell.synthetic else ''}"
    if _has_published(cell):
        text += f" ({number(cell.published_dsc, 4)} / {number(cell.published_nsd, 4)})"
    return text


def _table(cells: list[ResultCell], corner: str) -> str:
    columns = list(dict.fromkeys(cell.column for cell in cells))
    at = {(cell.row, cell.column): cell for cell in cells}
    head = [corner, *columns]
    return markdown.table(
        head, [[row, *(_in_words(at.get((row, c))) for c in columns)] for row in dict.fromkeys(c.row for c in cells)]
    )


def _by_organ(cells: list[ResultCell]) -> str:
    rows = list(dict.fromkeys(cell.row for cell in cells))
    at = {(cell.organ, cell.row): cell for cell in cells}
    organs = dict.fromkeys(cell.organ for cell in cells)
    return markdown.table(["", *rows], [[o, *(_in_words(at.get((o, row))) for row in rows)] for o in organs])


def published_of(preset: Preset) -> list[tuple[str, str, float, float]]:
    """The paper's numbers for the rows and columns of a preset, whatever was computed: (row, column, DSC, NSD)."""
    found = []
    for result in preset.results:
        if result.published is None:
            continue
        model = model_of(preset, result.step)
        mine = {
            score.metric: score.value
            for score in published_scores()
            if not score.organ
            and score.source.startswith(f"Table {result.published.table},")
            and score.cases == result.published.cases
            and score.network == network_in_the_papers_words(model)
            and result.published.training in (None, score.training)
        }
        found.append((result.row, result.column, mine.get("dsc", math.nan), mine.get("nsd", math.nan)))
    return found


def model_of(preset: Preset, step: str) -> str:
    """The network of a step, in the preset's full form."""
    owner, definition = preset.resolved(step)
    if isinstance(definition, Evaluate):
        return model_of(owner, definition.evaluate)
    own = definition.settings if isinstance(definition, Train) else {}
    return str(own.get("model", owner.settings.get("model", "small")))
