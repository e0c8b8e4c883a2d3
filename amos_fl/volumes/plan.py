"""The plan: the one physical scale at which a run's network sees every scan.

Axes are NIfTI's canonical x (to the patient's left in RAS: right to left), y, z everywhere in this
program. The paper writes z first: its CT patch 64x160x160 at 2.0x0.69x0.69 mm is (160, 160, 64) at
(0.69, 0.69, 2.0) mm here.
"""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from amos_fl.errors import AmosError

Triple = tuple[int, int, int]
Spacing = tuple[float, float, float]
"""mm, along x, y and z."""
ANISOTROPIC = 3.0
"""More than this many times longer than short is anisotropic (nnU-Net's ANISO_THRESHOLD): spacings are not interpolated
with splines across slices, an axis of so much coarser spacing and fewer voxels is planned as thick slices, and a patch
of so few slices is rotated and scaled in its plane only."""
Positive = Annotated[float, Field(gt=0)]
MrPercentile = Annotated[
    float | None,
    Field(
        gt=50,
        lt=100,
        description="Percentile of the voxels inside the body, such as 99.5, to which an MR scan is clipped; mean and "
        "standard deviation are taken between it and its opposite (0.5). none: all voxels count, or a given plan's.",
    ),
]
_Side = Annotated[int, Field(ge=1, le=4096)]
_Sides = tuple[_Side, _Side, _Side]
_Stages = Annotated[tuple[_Sides, ...], Field(max_length=16)]


AUTO = "auto"
"""The name of a plan that a run makes from its own training cases."""


class Plan(BaseModel):
    """Spacing, patch, pooling and CT intensity normalisation of a run, the same for all its sites.

    `strides[i]` is the pooling before stage i of the network (the first is 1, 1, 1) and `kernels[i]`
    the convolution kernel of that stage's encoder.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(default="custom", description="Name of the plan.")
    spacing_mm: tuple[Positive, Positive, Positive] = Field(description="Voxel spacing (x, y, z) in mm.")
    patch: _Sides = Field(description="Sides (x, y, z) of a patch in voxels, multiples of the strides' product.")
    strides: _Stages = Field(description="Pooling (x, y, z) before each stage of the network.")
    kernels: _Stages = Field(description="Convolution kernel (x, y, z) of each stage.")
    ct_clip_hu: tuple[float, float] = Field(
        default=(-991.0, 362.0), description="Lowest and highest CT intensity in HU; values beyond are clipped."
    )
    ct_mean_hu: float = Field(default=50.0, description="Mean of the CT normalisation, in HU.")
    ct_sd_hu: Positive = Field(default=141.0, description="Standard deviation of the CT normalisation, in HU.")
    mr_percentile: MrPercentile = None

    @model_validator(mode="after")
    def _consistent(self) -> "Plan":
        if len(self.strides) != len(self.kernels):
            raise ValueError("strides and kernels must have one entry per stage each")
        for axis, size in enumerate(self.patch):
            factor = self.divisor[axis]
            if size < factor or size % factor:
                raise ValueError(f"patch {self.patch} must be a multiple of the strides' product {self.divisor}")
        return self

    @property
    def divisor(self) -> Triple:
        """The divisor of a patch's sides: the product of the strides per axis."""
        product = [1, 1, 1]
        for stride in self.strides:
            product = [p * s for p, s in zip(product, stride, strict=True)]
        return (product[0], product[1], product[2])

    def preparation(self) -> dict[str, object]:
        """The part of the plan on which a prepared case depends (the key of the training store)."""
        names = {"spacing_mm", "patch", "ct_clip_hu", "ct_mean_hu", "ct_sd_hu"}
        if self.mr_percentile is not None:  # so that cases prepared earlier are still found
            names.add("mr_percentile")
        return self.model_dump(mode="json", include=names)


def isotropic(stages: int) -> dict[str, Any]:
    """The strides and kernels of a plan that treats all axes alike and halves them before each stage but the first."""
    return {"strides": ((1, 1, 1), *[(2, 2, 2)] * (stages - 1)), "kernels": ((3, 3, 3),) * stages}


PLANS: dict[str, Plan] = {
    plan.name: plan
    for plan in (
        # A scale at which two CPU cores can train: a patch covers 18 cm, and many fit into a minute.
        Plan(name="coarse", spacing_mm=(7.5, 7.5, 7.5), patch=(24, 24, 24), **isotropic(4)),
        # The paper's CT patch; target spacing, pooling and kernels as nnU-Net's planner gives them for AMOS CT.
        Plan(
            name="amos-ct",
            spacing_mm=(0.69, 0.69, 2.0),
            patch=(160, 160, 64),
            strides=((1, 1, 1), (2, 2, 1), *[(2, 2, 2)] * 4),
            kernels=((3, 3, 1), *[(3, 3, 3)] * 5),
        ),
        # The paper's MR patch and the planner's values for AMOS MR.
        Plan(
            name="amos-mr",
            spacing_mm=(1.19, 1.19, 3.0),
            patch=(224, 160, 48),
            strides=((1, 1, 1), (2, 2, 1), *[(2, 2, 2)] * 3, (2, 2, 1)),
            kernels=((3, 3, 1), *[(3, 3, 3)] * 5),
        ),
    )
}


def plan_named(name: str) -> Plan:
    """The built-in plan of that name.

    Raises:
        AmosError: no such plan.
    """
    try:
        return PLANS[name]
    except KeyError:
        raise AmosError(
            f"no plan {name!r}", f"there are {', '.join(PLANS)}, {AUTO} (made from the training cases), and files"
        ) from None
