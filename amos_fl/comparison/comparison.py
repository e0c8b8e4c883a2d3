"""A comparison of runs as data, the source of the tables, the CSV files, LaTeX and the report.

`compare_runs` (in `amos_fl.comparison.compare`) makes one. Everything in it is sorted, independent of the order in
which the runs were given. Missing numbers are NaN: no case counts, or fewer than six cases for an interval.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from amos_fl.comparison.statistics import Estimate
from amos_fl.metrics.catalogue import MetricName
from amos_fl.metrics.rows import ScoreRow
from amos_fl.runs.config import ArmKind as ArmKind
from amos_fl.runs.record import RunCost, RunRecord

WITHOUT_EFFECT = {"training.workers", "evaluation.every", "evaluation.unseen", "evaluation.predictions"}
"""Settings whose values do not make two arms incomparable."""
ALPHA = 0.05
LEAST_SEEDS = 3
"""With fewer seeds of either arm none is called better, because the seed alone may have made the difference."""
View = Literal["", "at home", "elsewhere", "left out"]


@dataclass(frozen=True)
class Arm:
    """The unit of a comparison: one setting with all its seeds, or several models that answer one question together.

    `site` is set if the arm is one of a family of models: the site that a local or fine-tuned model was trained at, or
    that a leave-one-out run left out. The `main` arms are compared with one another; `view` says how a family becomes
    one of them: every case scored by its own site's model (`at home`), by the mean score of the other sites' models
    (`elsewhere`), or by the run that left out its site (`left out`).
    """

    name: str  # unique: "fedavg", "pooled", "local A", "local, at home"
    kind: ArmKind
    view: View
    site: str
    main: bool
    what: str  # what the arm is, in a few words: "each site's own model, on its own test cases"
    runs: tuple[str, ...]  # names of the runs behind it
    seeds: tuple[int, ...]  # each once
    cost: RunCost  # of one seed (the mean over the seeds), its runs together


@dataclass(frozen=True)
class Scope:
    """A set of test cases over which a mean is taken.

    A `site` (one scanner), a `group` (the seen or the unseen scanners of one modality, their cases pooled), or `sites`
    (the mean over the seen, or the unseen, sites' own means, with equal weight whatever their numbers of cases). `seen`
    says whether the reference arm trained on them.
    """

    name: str  # unique: "A", "seen CT", "unseen MR", "seen sites"
    kind: Literal["site", "group", "sites"]
    seen: bool
    modality: str  # "CT", "MR", "CT and MR" of a site that sends one sum over both, "" for `sites`
    sites: tuple[str, ...]
    cases: int
    withheld: bool = False  # whether one of its sites withholds the scores of single cases: no interval, no test


@dataclass(frozen=True)
class MeanScore:
    """An arm's score in a scope: for one organ, or with organ "" the mean of the organs.

    `missed` and `hallucinated` count organs of cases, per run of the arm.
    """

    arm: str
    scope: str
    organ: str
    metric: MetricName
    estimate: Estimate
    missed: float
    hallucinated: float


@dataclass(frozen=True)
class Difference:
    """A main arm minus the reference arm on the same cases, its paired p, and p after Holm's correction.

    `family` names the tests that are corrected together. `verdict` is one of "better", "worse" (only with three seeds
    of both arms or more), "higher", "lower" (the same on fewer seeds), "open" (not shown), "too few cases", "no scores
    per case" (a site withholds them), "not tested" (means over sites, which have only an interval).
    """

    arm: str
    reference: str
    scope: str
    organ: str
    metric: MetricName
    estimate: Estimate
    p: float
    p_holm: float
    family: str
    verdict: str


@dataclass(frozen=True)
class Spread:
    """The means of an arm's seeds in a scope, in the order of `seeds`, and their standard deviation (NaN for one)."""

    arm: str
    scope: str
    metric: MetricName
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    sd: float


@dataclass(frozen=True)
class Worst:
    """An arm's worst site among the seen or the unseen ones, or its worst organ in a group of scanners."""

    arm: str
    metric: MetricName
    what: Literal["site", "organ"]
    among: str  # "seen", "unseen", or a group's scope: "seen CT"
    name: str
    value: float
    cases: int


@dataclass(frozen=True)
class Gap:
    """One part of the gap: the mean of `minuend` in its scope minus that of `subtrahend` in its own.

    `kind`: "pooled - federated" (what federation costs), "federated - local" (what it gives, at home and elsewhere),
    "pooled - local" (the sum of these two),
    "seen - unseen" (one arm, two scopes: other patients), "trained on - left out" (the same cases of a scanner),
    "fine-tuned - federated".

    The two arms have equal settings, but for what makes them arms of two kinds. An arm that no arm of the other kind
    equals is paired with the reference, or with the first of that kind; `settings_differ` then names what differs.
    """

    kind: str
    minuend: str  # an arm
    subtrahend: str  # an arm
    scope: str
    other_scope: str  # the same as `scope`, except for "seen - unseen"
    metric: MetricName
    estimate: Estimate
    sentence: str
    settings_differ: tuple[str, ...] = ()

    @property
    def part(self) -> str:
        """The kind, for a table."""
        return f"{self.kind} (settings differ)" if self.settings_differ else self.kind


@dataclass(frozen=True)
class CurvePoint:
    """A run after a scored round: its cost so far, and its scores on validation cases.

    DSC is the mean over sites of their means; NaN if there are no such cases. Unseen sites are scored on test cases.
    """

    arm: str
    run: str
    round: int
    patches: int
    bytes: int  # both ways, all sites, since the first round
    seconds: float
    seen_dsc: float
    unseen_dsc: float


@dataclass(frozen=True)
class PublishedScore:
    """A number of the AMOS paper (in percent there, from 0 to 1 here): always shown as "published, real AMOS".

    `scope` names the scope of this comparison with the same setting, or is "" if there is none.
    """

    source: str  # "Table 7, UNet, CT-Test (ID)"
    network: str
    training: str
    cases: str
    organ: str  # "" is the mean of the organs
    metric: MetricName
    value: float
    scope: str


@dataclass(frozen=True)
class Comparison:
    """A comparison of runs on the same cases. See the module's docstring."""

    metrics: tuple[MetricName, ...]
    reference: str  # the arm that the others are compared with
    arms: tuple[Arm, ...]  # the main ones first
    scopes: tuple[Scope, ...]  # groups, `sites`, then single sites, seen before unseen
    organs: dict[int, str]
    tolerance_mm: float
    synthetic: bool
    seed: int
    resamples: int
    problems: tuple[str, ...]  # what went wrong in the runs, a sentence each
    notes: tuple[str, ...]  # what a reader must know: budgets, seeds, settings that differ
    findings: tuple[str, ...]  # the answer in words, the most important first
    cells: tuple[MeanScore, ...]
    differences: tuple[Difference, ...]
    spreads: tuple[Spread, ...]
    worst: tuple[Worst, ...]
    gaps: tuple[Gap, ...]
    curves: tuple[CurvePoint, ...]
    site_curves: tuple[ScoreRow, ...]  # each site after the rounds that were scored
    published: tuple[PublishedScore, ...]
    case_rows: tuple[ScoreRow, ...]  # one organ of one case in one arm: the mean over the arm's runs
    records: tuple[RunRecord, ...]

    @property
    def main_arms(self) -> tuple[Arm, ...]:
        return tuple(arm for arm in self.arms if arm.main)

    def scopes_of(self, *kinds: str) -> tuple[Scope, ...]:
        return tuple(scope for scope in self.scopes if scope.kind in kinds)

    def cell(self, arm: str, scope: str, metric: MetricName, organ: str = "") -> MeanScore | None:
        """The score of an arm in a scope; None if it has none there (a local model at home, for instance)."""
        return self._cells.get((arm, scope, metric, organ))

    def difference(self, arm: str, scope: str, metric: MetricName, organ: str = "") -> Difference | None:
        """An arm minus the reference; None if either has no score."""
        return self._differences.get((arm, scope, metric, organ))

    @cached_property
    def _cells(self) -> dict[tuple[str, str, MetricName, str], MeanScore]:
        return {(c.arm, c.scope, c.metric, c.organ): c for c in self.cells}

    @cached_property
    def _differences(self) -> dict[tuple[str, str, MetricName, str], Difference]:
        return {(d.arm, d.scope, d.metric, d.organ): d for d in self.differences}
