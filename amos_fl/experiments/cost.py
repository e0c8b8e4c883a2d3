"""What an experiment costs in full: the steps of its trainings times the measured seconds of one.

The seconds stand in `shared/costs.yaml` with the device and the command that measured them. Scoring is not in them:
sliding windows over AMOS's hundreds of test cases take hours more.
"""

from dataclasses import dataclass

from amos_fl.experiments.outcome import model_of
from amos_fl.experiments.preset import Family, Preset, Train, shared

SITES_THAT_TRAIN = 5
_OF_THE_FEDERATION = {"local": 1.0, "leave-one-out": SITES_THAT_TRAIN - 1.0, "finetune": 0.2}
"""The steps of a family in those of its federation: each site its own; all but one site, in turn; a fifth."""


@dataclass(frozen=True)
class Cost:
    """Trainings, optimizer steps, and GPU hours, an estimate; `basis` says where the hours come from."""

    trainings: int
    steps: int
    gpu_hours: float
    basis: str


def cost_of(preset: Preset) -> Cost:
    """The cost of a preset's own trainings and of those it borrows, as if nothing were shared with other presets."""
    table = shared("costs")
    trainings, steps, seconds = 0, 0.0, 0.0
    for name in preset.steps:
        owner, step = preset.resolved(name)
        share = 1.0
        if isinstance(step, Family):
            share = _OF_THE_FEDERATION[step.family]
            base = owner.resolved(step.of)[1]
            trainings += SITES_THAT_TRAIN
        elif isinstance(step, Train):
            base = step
            trainings += 1
        else:
            continue
        budget = base.budget or owner.budget
        assert budget is not None, "the preset was checked"
        model = model_of(owner, step.of if isinstance(step, Family) else name)
        plan = str(base.settings.get("plan", owner.settings.get("plan", "amos-ct")))
        steps += share * budget.steps
        of_model = table["seconds_per_step"].get(model, {})
        seconds += share * budget.steps * of_model.get(plan, of_model.get("amos-ct", 0.0))
    return Cost(trainings, round(steps), seconds / 3600, table["basis"])
