"""A site's own settings: where its scans and its state lie, and what it computes with."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from amos_fl.errors import AmosError
from amos_fl.files import write_json


class SiteSettings(BaseModel):
    """What one site's app needs to know, and nothing of any other site."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    site: str
    cohort: Path
    store: Path
    state: Path
    device: str = "cpu"
    share_case_scores: Literal["none", "named"] = "none"
    predictions: Path | None = None
    """A folder at the site for the predictions of its test cases; none: they are not kept."""
    pictures: Path | None = None
    """A folder at the site for planes of its test cases, which a report shows; none: they are not kept."""


def write_settings(settings: SiteSettings, path: Path) -> None:
    write_json(path, settings.model_dump(mode="json"))


def read_settings(path: Path) -> SiteSettings:
    """Read a site's settings.

    Raises:
        AmosError: no such file or a setting that is none.
    """
    try:
        return SiteSettings.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError:
        raise AmosError(f"{path}: no such site settings") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise AmosError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
