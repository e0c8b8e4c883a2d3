"""Settings for making a plan: memory, and whether the network sees the scans at full resolution."""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from amos_fl.volumes.plan import AUTO, MrPercentile, Plan

Resolution = Literal["full", "low"]


class PlanningSettings(BaseModel):
    """How a plan is made from a fingerprint."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    auto: bool = Field(
        default=False, description="Make the plan from the training sites' fingerprints; set by 'plan: auto'."
    )
    memory_gb: Annotated[float, Field(gt=0)] = Field(
        default=8.0, description="GPU memory in GB for a training step of two patches."
    )
    resolution: Resolution = Field(
        default="full",
        description="The scans' own, or coarser so that a patch sees a quarter of a scan (nnU-Net's low resolution).",
    )
    mr_percentile: MrPercentile = None

    def lacks(self, plan: Plan) -> bool:
        """Whether the run's plan is still to be made; its present plan is a placeholder until then."""
        return self.auto and plan.name != AUTO
