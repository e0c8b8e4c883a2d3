"""How a network is applied to a scan: said once, here, and handed on whole to where it acts.

A run's settings have these under `evaluation`, a request to a site and a model's file under `inference`. A new one is
a field with its description and range, its name in `InferenceKeywords`, and the place in `amos_fl.inference` where
it acts.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, TypedDict

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from amos_fl.errors import AmosError
from amos_fl.invalid import wrong_setting


class InferenceSettings(BaseModel):
    """How a prepared case goes through a network, window by window."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    overlap: float = Field(default=0.5, ge=0, lt=1, description="Overlap of neighbouring windows; 0.5: half a patch.")
    batch_size: int = Field(
        default=4,
        ge=1,
        le=4096,
        description="Windows that go through the network together; on a CPU fewer where they are large.",
    )
    mirror: bool = Field(default=False, description="Average the prediction over all eight mirror images.")
    test_time_adaptation: bool = Field(
        default=False,
        description="Adapt the network to each scan: batch normalisation takes the scan's statistics; in a network "
        "without, the scales and shifts of other normalisation take a few steps.",
    )


DEFAULT = InferenceSettings()
"""As a run has it that says nothing else."""


class RecordedInference(InferenceSettings):
    """How a run scored its test cases: what gives the same label maps again, on the same CPU type bit for bit."""

    # A model's file may say more, being of a newer version.
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    threads: int = Field(default=2, ge=1, description="CPU threads.")

    @property
    def decisive(self) -> dict[str, Any]:
        """The settings that decide the label map; the batch size and the threads change roundings at most."""
        return self.model_dump(mode="json", exclude={"batch_size", "threads"})

    def changed(self, given: Mapping[str, Any]) -> "RecordedInference":
        """With those of `given` that are not None.

        Raises:
            AmosError: an unknown name or an invalid value.
        """
        if unknown := sorted(set(given) - set(type(self).model_fields)):
            raise AmosError(f"{unknown[0]}: no setting of inference; there are {', '.join(type(self).model_fields)}")
        chosen = {name: value for name, value in given.items() if value is not None}
        try:
            return type(self).model_validate({**self.model_dump(), **chosen})
        except ValidationError as error:
            raise wrong_setting(error, type(self)) from None


class InferenceKeywords(TypedDict, total=False):
    """The fields of `RecordedInference` as keyword arguments; None: the run's own."""

    overlap: float | None
    batch_size: int | None
    mirror: bool | None
    test_time_adaptation: bool | None
    threads: int | None
