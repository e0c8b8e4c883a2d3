"""A site's own settings: the places of its scans and state, its device, and what it allows."""

import os
import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from amos_fl.cohort.table import Split
from amos_fl.errors import AmosError
from amos_fl.files import write_json
from amos_fl.invalid import wrong_setting
from amos_fl.methods import METHODS
from amos_fl.own_code import is_path
from amos_fl.safe_yaml import NotYaml, read_yaml_file
from amos_fl.wording import nearest

SHIPPED = "shipped"
"""The name, among the apps that a site allows, of the Flower app that comes with its own amos-fl."""


def _app(name: str) -> str:
    name = name.strip().lower()
    if name != SHIPPED and not re.fullmatch(r"[0-9a-f]{64}", name):
        raise ValueError(f"must be {SHIPPED!r} or the SHA-256 of a Flower app, 64 hexadecimal digits")
    return name


def _sha256(digits: str) -> str:
    digits = digits.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise ValueError("must be the SHA-256 of the module's file, 64 hexadecimal digits ('amos-fl-site module-hash')")
    return digits


def _method(name: str) -> str:
    if name not in METHODS and not is_path(name):
        raise ValueError(f"no method {name!r}; {nearest(name, METHODS)}")
    return name


class SiteSettings(BaseModel):
    """The settings of one site's app, with nothing about other sites; no server can override them."""

    # The texts below the settings are their descriptions, for the documentation and the schema.
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    site: str
    """Name of the site, as in the column `site` of its cohort."""
    cohort: Path
    """The site's `cohort.csv`, or its folder. Relative paths, here and below, are relative to this file."""
    store: Path
    """Folder for prepared cases."""
    state: Path
    """Folder for the site's state between rounds, such as momentum."""
    device: str = "cpu"
    """The device that the site computes on: `cpu`, `cuda`, `cuda:1`, `mps`, or `auto`: a GPU if there is one."""
    share_case_scores: Literal["none", "pseudonyms", "named"] = "none"
    """Scores of single cases: not at all, under names that only this site can undo, or under the cases' own names."""
    share_histograms: bool = False
    """Whether histograms of spacing, shape and CT intensity of the training cases may leave, from which a run makes its
    plan."""
    withhold_counts_below: int = Field(default=3, ge=1)
    """Bins of such a histogram with fewer cases or voxels than this are withheld; 1: none are."""
    share_error_details: bool = False
    """Whether an error is sent in its own words, which may name files and cases. For simulations."""
    refuse_evaluation_on: tuple[Split, ...] = ()
    """Splits on which no network is scored; the site may still train."""
    max_steps_per_round: int | None = Field(default=None, ge=0)
    """A request for more optimizer steps in one round is refused; 0: this site does not train."""
    allowed_methods: tuple[Annotated[str, AfterValidator(_method)], ...] | None = None
    """The methods (`amos-fl methods`) with which this site trains; none: all of them."""
    allowed_modules: dict[str, Annotated[str, AfterValidator(_sha256)]] | None = Field(default_factory=dict)
    """Modules of a researcher's own code (methods, networks, augmentation, losses) that may run here, each with the
    SHA-256 of its file; null: any, for simulations."""
    allowed_apps: tuple[Annotated[str, AfterValidator(_app)], ...] = (SHIPPED,)
    """The Flower apps that may run here: `shipped`, or the SHA-256 of others."""
    predictions: Path | None = None
    """A folder at the site for the predictions of its test cases; none: they are not kept."""
    pictures: Path | None = None
    """A folder at the site for planes of its test cases, which a report shows; none: they are not kept."""


def write_settings(settings: SiteSettings, path: Path) -> None:
    write_json(path, settings.model_dump(mode="json"))


def read_settings(path: Path) -> SiteSettings:
    """Read a site's settings, as YAML or JSON; relative paths in them are relative to the file.

    Raises:
        AmosError: the file is missing or a setting is invalid.
    """
    try:
        data = read_yaml_file(path)
    except OSError:
        raise AmosError(f"{path}: cannot be read as a text file") from None
    except NotYaml as error:
        where = f", line {error.line}" if error.line else ""
        what = f"{path}{where}: is neither YAML nor JSON ({error})"
        raise AmosError(what, "write one 'name: value' per line") from None
    if not isinstance(data, dict):
        raise AmosError(f"{path}: must hold settings, one 'name: value' per line")
    try:
        settings = SiteSettings.model_validate(data)
    except ValidationError as error:
        raise wrong_setting(error, SiteSettings, str(path)) from None
    settings = settings.model_copy(update=_from(path.parent, settings))
    for name in _PATHS:
        try:
            os.stat(getattr(settings, name) or path)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (OSError, ValueError) as error:  # a name that is too long for any file, say
            why = error.strerror if isinstance(error, OSError) else error
            raise AmosError(f"{path}: {name}: cannot be a file or folder here ({why})") from None
    return settings


_PATHS = ("cohort", "store", "state", "predictions", "pictures")


def _from(folder: Path, settings: SiteSettings) -> dict[str, Path]:
    """The settings with relative paths resolved against `folder`."""
    values = {name: getattr(settings, name) for name in _PATHS}
    return {name: folder / path for name, path in values.items() if path is not None and not path.is_absolute()}
