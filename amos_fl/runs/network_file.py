"""`network.json`: the network of the weights file beside it, and how its run used it."""

from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from amos_fl.runs.stored import read_stored
from amos_fl.training.settings import NormStatistics

_Label = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,2}$")]
_Name = Annotated[str, Field(min_length=1, max_length=1000)]


@with_config(ConfigDict(strict=True, extra="allow"))
class NetworkFile(TypedDict):
    """The plan and the settings of inference are checked by their own models where they are read.

    `modules` are those of a network of the user's own, with the SHA-256 of each one's file. Files of older versions end
    after `organs`; those that travel with weights to a SuperLink have no `round`.
    """

    model: _Name
    plan: dict[str, Any]
    organs: Annotated[dict[_Label, _Name], Field(min_length=1, max_length=255)]
    norm_statistics: NotRequired[NormStatistics | None]
    round: NotRequired[Annotated[int, Field(ge=0, le=10**9)]]
    modalities: NotRequired[list[_Name]]
    synthetic: NotRequired[bool]
    inference: NotRequired[dict[str, Any]]
    modules: NotRequired[dict[_Name, _Name]]


_NETWORK_FILE: TypeAdapter[NetworkFile] = TypeAdapter(NetworkFile)


def read_network_file(file: Path) -> NetworkFile:
    """Read a `network.json`.

    Raises:
        AmosError: it is missing or damaged.
    """
    return read_stored(file, _NETWORK_FILE, "copy it again from its run")
