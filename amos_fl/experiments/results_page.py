"""Write `docs/results.md`: experiments' tables, and the runs behind them with scores, commit, settings and budget.

Runs of several seeds are shown by the comparison of their arms, others in a row each. Everything is read from folders
of experiments and runs, so the page can be regenerated at any time.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from amos_fl.errors import AmosError
from amos_fl.escape import markdown
from amos_fl.experiments.drops import drops_page
from amos_fl.experiments.others import others_page
from amos_fl.experiments.outcome import outcome, outcome_in_markdown, overviews, quick_note
from amos_fl.experiments.pictures import write_pictures
from amos_fl.experiments.preset import Evaluate, Preset, PresetForm, preset_names, read_preset
from amos_fl.experiments.quick_data import PHANTOMS
from amos_fl.experiments.workspace import StepWork, Workspace
from amos_fl.metrics.rows import mean_rows, rows_by, sums_by_case
from amos_fl.metrics.table import organs_of_scores, read_scores
from amos_fl.runs.as_begun import cohort_as_begun, config_as_begun
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.listing import ListedGroup, list_runs
from amos_fl.runs.record import RunCost
from amos_fl.runs.stored import Stored, read_stored
from amos_fl.runs.summary import PHANTOM_NOTE, number
from amos_fl.runs.work import steps_in_words
from amos_fl.wording import MISSING

QUICK_NOTE = (
    "A few optimizer steps on the phantom show that the experiment works and teach a network nothing. The names "
    "of data sets and numbers of cases are those of the full form."
)
ROWS_NOTE = (
    "A row of a table of runs is a run on its own test cases, or (on other cases) its weights scored anew: mean DSC / "
    "NSD over the scanners that it trained on (seen) and those that it did not (unseen). Budget: rounds x steps x "
    "trainers, and the patches that they see together. Seconds are those of the rounds. The commit is that of the "
    "program that began the run.\n"
)
SCANNER_GROUPS = ("seen CT", "seen MR", "unseen CT", "unseen MR")


class _About(Stored):
    """Whether the scans of an evaluation, or of its training, are a phantom's."""

    synthetic: bool
    synthetic_training: bool


@dataclass(frozen=True)
class PageRow:
    """A row of the page: a run, or a run's scores on other cases."""

    name: str
    trained: str
    seed: int
    network: str
    budget: str
    scores: dict[str, str]
    seconds: str
    commit: str
    synthetic: bool

    def cells(self, groups: Sequence[str]) -> list[str]:
        mark = "*" if self.synthetic else ""
        shown = [f"{self.scores[group]}{mark}" if group in self.scores else MISSING for group in groups]
        trained = f"{self.trained}, seed {self.seed}"
        return [f"{self.name}{mark}", trained, self.network, self.budget, *shown, self.seconds, self.commit]


def results_page(
    folders: Sequence[Path],
    command: str,
    form: PresetForm = "full",
    *,
    names: Sequence[str] | None = None,
    pictures: Path | None = None,
) -> str:
    """The page over folders of experiments (OUT of `amos-fl experiments run`), of runs, or runs themselves.

    `command` is the command that made it, which is printed on it; `form` is that of the experiments, and `names` are
    those shown (None: all). Experiments' pictures are written into the folder `pictures` beside the page, if there is
    one.

    Raises:
        AmosError: a folder does not exist, or nothing in the folders is finished.
    """
    sections: list[str] = []
    rows: list[PageRow] = []
    for folder in folders:
        if not folder.is_dir():
            raise AmosError(f"{folder}: no such folder; give folders of experiments or of runs")
        found, mine = _experiments(Workspace(folder, form), preset_names() if names is None else names, pictures)
        if not found:
            mine = list(_runs(folder))
            found = [f"## {markdown.text(folder.resolve().name)}\n", _table(mine)] if mine else []
        sections += found
        rows += mine
    if not rows:
        named = ", ".join(map(str, folders))
        raise AmosError(f"{named}: contains no finished run; make some with: amos-fl experiments run NAME")
    headings = [section for section in sections if section.startswith("## ")]
    if len(headings) == 1:  # it is the page's title
        sections.remove(headings[0])
        sections = [section.removeprefix("#") if section.startswith("### ") else section for section in sections]
    title = headings[0][3:] if len(headings) == 1 else "Results\n"
    parts = [f"# {title}", f"Written by `{command}` from run folders; do not edit it by hand.\n"]
    if any(row.synthetic for row in rows):
        parts.append(f"> \\* synthetic. {PHANTOM_NOTE}\n")
    if any("| run |" in section for section in sections):
        parts.append(ROWS_NOTE)
    return "\n".join([*parts, *filter(None, sections)])


def _experiments(workspace: Workspace, names: Sequence[str], pictures: Path | None) -> tuple[list[str], list[PageRow]]:
    """Sections for those of these presets that left something in a workspace, in their order."""
    sections: list[str] = []
    rows: list[PageRow] = []
    for name in names:
        works, preset = workspace.works(name), read_preset(name)
        ordered = {step: works[step] for step in preset.steps if step in works}
        mine = [row for step in ordered for row in _rows_of(workspace, preset, step, works)]
        missing = list(dict.fromkeys(work.missing for work in works.values() if work.missing))
        pages = [step for step, work in ordered.items() if work.kind == "statistics" and workspace.done(work)]
        if mine or missing or pages:
            sections += _section(workspace, preset, mine)
            shown = [] if pictures is None else write_pictures(preset, workspace, pictures)
            sections += ["### Pictures\n", *shown] if shown else []
            if pages:
                where = f"Pages with tables and figures: {', '.join(pages)} (below `{workspace.runs}`)."
                sections.append(f"{where}\n")
            sections += [f"Missing: {markdown.text(sentence)}.\n" for sentence in missing]
        rows += mine
    return sections, rows


def _section(workspace: Workspace, preset: Preset, rows: Sequence[PageRow]) -> list[str]:
    quick = workspace.form == "quick"
    source = f" ({', '.join(preset.paper)} of the paper)" if preset.paper else ""
    parts = [
        f"## {preset.title}{', quick form' if quick else ''}\n",
        f"`{preset.name}`{source}. {preset.question.strip()}\n",
        *([f"{preset.about.strip()}\n"] if preset.about and not quick else []),
        *([f"{quick_note(preset, workspace)} {QUICK_NOTE}\n"] if quick and rows else []),
    ]
    if cells := outcome(preset, workspace):
        parts.append(outcome_in_markdown([cell for cell in cells if not cell.organ], note=False))
    compared = overviews(preset, workspace)
    if drops := drops_page(preset, workspace):
        parts += ["### What holding a scanner out costs\n", drops]
    for heading, overview in compared.items():
        parts += [f"### {markdown.text(heading)}\n", overview]
    if others := others_page(workspace.preset(preset.name)):
        parts += ["### Another program\n", others]
    if compared and len({row.seed for row in rows}) > 1:
        parts += ["### How the runs were made\n", _how(preset, rows)]
    elif rows:
        parts.append(_table(rows))
    return parts


def _how(preset: Preset, rows: Sequence[PageRow]) -> str:
    """How the runs of arms were made, if they have no rows of their own."""
    networks, commits = (", ".join(sorted({getattr(row, of) for row in rows})) for of in ("network", "commit"))
    given = "".join(f" --data {name}=FOLDER" for name in preset.data_sets() if name not in PHANTOMS)
    return (
        f"Made by `amos-fl experiments run {preset.name}{given}`: {len(rows)} trainings of the network {networks}, "
        f"begun by commit {commits}.\n"
    )


def _rows_of(workspace: Workspace, preset: Preset, step: str, works: dict[str, StepWork]) -> Iterator[PageRow]:
    work = works[step]
    folder = workspace.root / work.folder
    definition = preset.resolved(step)[1]
    if work.missing or not folder.is_dir():
        return
    if work.kind == "run" and workspace.done(work):
        yield _row(folder, step)
    elif work.kind == "group":
        for member in sorted(path.parent for path in folder.glob("*/config.yaml")):
            if RunFolder(member).finished:
                yield _row(member, f"{step} {member.name}")
    elif isinstance(definition, Evaluate) and workspace.done(work):
        about: _About = read_stored(folder / "evaluation.json", _About, f"remove {folder} and run the experiment again")
        base = _row(workspace.root / works[definition.evaluate].folder, step)
        yield replace(
            base,
            name=f"{step} (on other cases)",
            scores=_scores(folder / "scores.csv"),
            seconds=MISSING,
            synthetic=about.synthetic or about.synthetic_training,
        )


def _runs(folder: Path) -> Iterator[PageRow]:
    for entry in list_runs([folder]):
        members = entry.runs if isinstance(entry, ListedGroup) else (entry,)
        for run in members:
            if run.state == "finished":
                yield _row(run.path, run.name if run is entry else f"{entry.name}/{run.name}")


def _row(path: Path, name: str) -> PageRow:
    folder = RunFolder(path)
    config = config_as_begun(folder)
    cohort = cohort_as_begun(folder)
    cost = RunCost.of(folder.ledger(), config)
    trainers = 1 if config.arm == "centralized" else len(cohort.seen_sites)
    each = steps_in_words(config).removesuffix(" steps")
    arm = config.strategy if config.arm == "federated" else f"{config.arm}"
    return PageRow(
        name=name,
        trained=f"{arm} on {' '.join(cohort.seen_sites)}",
        seed=config.seed,
        network=f"{config.model}, {config.plan.name}",
        budget=f"{config.rounds} x {each} x {trainers}, {cost.patches:,} patches",
        scores=_scores(path / "scores.csv"),
        seconds=f"{cost.seconds:.0f}",
        commit=folder.about().versions.get("commit", "-"),
        synthetic=folder.synthetic,
    )


def _scores(file: Path) -> dict[str, str]:
    """DSC / NSD by group of scanners, without groups that have no score."""
    organs = organs_of_scores(file)
    rows = mean_rows(rows_by(sums_by_case(read_scores(file), organs), organs, "group", "modality"))
    return {row.name: f"{number(row.dsc)} / {number(row.nsd)}" for row in rows if not math.isnan(row.dsc)}


def _table(rows: Sequence[PageRow]) -> str:
    groups = [group for group in SCANNER_GROUPS if any(group in row.scores for row in rows)]
    head = ["run", "trained", "network, plan", "budget", *groups, "seconds", "commit"]
    return markdown.table(head, [row.cells(groups) for row in rows]) + "\n"
