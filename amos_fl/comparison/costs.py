"""Costs of the arms in a comparison: whether their budgets are equal, and scores against rounds and bytes."""

from collections.abc import Sequence
from dataclasses import replace

from amos_fl.comparison.comparison import Arm, CurvePoint
from amos_fl.metrics.rows import ScoreRow
from amos_fl.runs.ledger import steps_taken
from amos_fl.runs.record import RunRecord
from amos_fl.runs.selection import macro_dsc

SAME = 0.01
"""Budgets that differ by less are equal: whole rounds and steps cannot always divide them exactly."""


def budget_notes(arms: Sequence[Arm], reference: Arm) -> list[str]:
    """One sentence per other main arm: whether it saw as many patches, or took as many sequential steps."""
    notes: list[str] = []
    for arm in arms:
        if arm.main and arm is not reference and arm.view != "elsewhere":
            notes.append(_budget_note(arm, reference))
    return notes


def _budget_note(arm: Arm, reference: Arm) -> str:
    name = f"the {arm.name.removesuffix(', at home')} models" if arm.view else arm.name
    if arm.kind == "finetune":
        return (
            f"Budget: {name} come on top of the federated run that they began from, with {arm.cost.patches} patches at "
            "all sites together."
        )
    if arm.kind == "leave-one-out":
        runs = max(1, round(len(arm.runs) / len(arm.seeds)))
        each = round(arm.cost.patches / runs)
        return (
            f"Budget: each run of {arm.name} trains without a site, on {each} patches; {reference.name} saw "
            f"{reference.cost.patches}."
        )
    patches = _ratio(arm.cost.patches, reference.cost.patches)
    steps = _ratio(arm.cost.sequential_steps, reference.cost.sequential_steps)
    subject, took = (f"{name} together", f"each of {name}") if arm.kind == "local" else (name, name)
    if abs(patches - 1) < SAME:
        return (
            f"Budget: {subject} saw as many patches as {reference.name} ({arm.cost.patches}; equal samples), in "
            f"{_times(steps)} its steps in sequence."
        )
    if abs(steps - 1) < SAME:
        return (
            f"Budget: {took} took as many steps in sequence as {reference.name} ({arm.cost.sequential_steps}; equal "
            f"steps); {subject} saw {_times(patches)} its patches."
        )
    return (
        f"Budgets differ: {subject} saw {_times(patches)} the patches of {reference.name} and took {_times(steps)} its "
        "steps in sequence, so that a difference in scores may be due to the training alone."
    )


def _ratio(a: int, b: int) -> float:
    return a / b if b else float("inf") if a else 1.0


def _times(ratio: float) -> str:
    return "exactly" if ratio == 1 else f"{ratio:.2f} times"


def curves_of(records: Sequence[RunRecord], arms: Sequence[Arm]) -> list[CurvePoint]:
    """The rounds of each run whose validation cases were scored, with the run's cost so far.

    A round with a site missing from its scoring is left out, because its mean is over other sites.
    """
    points: list[CurvePoint] = []
    arm_of = _arm_of(arms)
    for record in records:
        patches = transferred = 0
        seconds = 0.0
        for entry in record.ledger:
            patches += sum(steps_taken(site) for site in entry["sites"].values()) * record.config.training.batch_size
            transferred += entry["bytes_down"] + entry["bytes_up"]
            seconds += entry["seconds"]
            evaluation = record.folder.read_evaluation(entry["round"], "val")
            if evaluation is None or evaluation.missing:
                continue
            points.append(
                CurvePoint(
                    arm=arm_of.get(record.name, record.name),
                    run=record.name,
                    round=entry["round"],
                    patches=patches,
                    bytes=transferred,
                    seconds=round(seconds, 3),
                    seen_dsc=macro_dsc(evaluation, seen=True),
                    unseen_dsc=macro_dsc(evaluation, seen=False),
                )
            )
    return points


def site_curves_of(records: Sequence[RunRecord], arms: Sequence[Arm]) -> list[ScoreRow]:
    """The scores of each run at every site that was scored during training."""
    arm_of = _arm_of(arms)
    return [
        replace(row, arm=arm_of.get(record.name, record.name)) for record in records for row in record.scores_by_round()
    ]


def _arm_of(arms: Sequence[Arm]) -> dict[str, str]:
    """The arm that each run belongs to (not the per-site views)."""
    return {run: arm.name for arm in arms if not arm.view for run in arm.runs}
