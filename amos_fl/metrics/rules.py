"""Parse the organs to score and the tolerances, as a user writes them."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amos_fl.cohort.table import read_organs
from amos_fl.errors import AmosError
from amos_fl.metrics.surface import checked_tolerance
from amos_fl.safe_yaml import NotYaml, read_yaml_file
from amos_fl.strict import csv_rows

DEFAULT = "default"


def organs_asked_for(text: str | None, known: Mapping[int, str]) -> tuple[dict[int, str], tuple[int, ...] | None]:
    """The organs that label maps may hold and, if only some are to be scored, those.

    `text` is the path of an `organs.csv` (`label,organ`), which says both, or names or label values of `known`
    organs, separated by commas.

    >>> organs_asked_for("spleen, 6", {1: "spleen", 6: "liver", 7: "stomach"})[1]
    (1, 6)

    Raises:
        AmosError: no such file, or no such organ.
    """
    if text is None:
        return dict(known), None
    if text.lower().endswith(".csv") or Path(text).is_file():
        if not Path(text).is_file():
            raise AmosError(f"--organs {text}: no such file; it has the columns label and organ")
        return read_organs(Path(text)), None
    wanted = {organ_called(word, known, "--organs") for word in text.split(",") if word.strip()}
    if not wanted:
        raise AmosError(f"--organs {text!r}: names no organ; give names or label values, or an organs.csv")
    return dict(known), tuple(organ for organ in known if organ in wanted)


def organ_called(word: Any, known: Mapping[int, str], where: str) -> int:
    """The label value of an organ given by name or label value.

    Raises:
        AmosError: no such organ; the sentence begins with `where`.
    """
    text = str(word).strip().casefold().replace("_", " ")
    for label, name in known.items():
        if text in (name.casefold(), str(label)):
            return label
    raise AmosError(f"{where}: no organ {str(word).strip()!r}; there are {', '.join(known.values())}")


def tolerance_asked_for(text: str, organs: Mapping[int, str]) -> float | dict[int, float]:
    """A tolerance in mm for all organs, or one for each.

    `text` is a number, or the path of a YAML file (`organ: mm`) or CSV file (`organ,tolerance_mm`) with organs by name
    or label value; `default` applies to the others.

    Raises:
        AmosError: neither number nor file, an unknown organ, or an organ without a tolerance.
    """
    try:
        return checked_tolerance(float(text))
    except ValueError:
        pass
    path = Path(text)
    if not path.is_file():
        raise AmosError(f"--tolerance-mm {text}: is neither a number of mm nor a file with one per organ")
    given = _csv_rows(path) if path.suffix.lower() == ".csv" else _yaml_rows(path)
    tolerances: dict[int, float] = {}
    default: float | None = None
    for word, value in given:
        try:
            tolerance = checked_tolerance(float(value))
        except (TypeError, ValueError, AmosError):
            raise AmosError(
                f"{path}: the tolerance of {word} is {value!r}; it must be a number of mm, 0 or more"
            ) from None
        if str(word).strip() == DEFAULT:
            default = tolerance
            continue
        organ = organ_called(word, organs, str(path))
        if organ in tolerances:
            raise AmosError(f"{path}: {organs[organ]} is listed twice; give every organ one tolerance")
        tolerances[organ] = tolerance
    missing = [name for organ, name in organs.items() if organ not in tolerances]
    if missing and default is None:
        raise AmosError(f"{path}: names no tolerance for {', '.join(missing)}; add them, or a line 'default'")
    return {organ: tolerances.get(organ, default or 0.0) for organ in organs}


def _csv_rows(path: Path) -> list[tuple[Any, Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [(row["organ"], row["tolerance_mm"]) for row in csv_rows(file, path)]
    except (KeyError, UnicodeDecodeError, csv.Error):
        raise AmosError(f"{path}: must be a CSV file with the columns organ and tolerance_mm") from None


def _yaml_rows(path: Path) -> list[tuple[Any, Any]]:
    try:
        data = read_yaml_file(path)
    except NotYaml:
        data = None
    if not isinstance(data, dict) or not data:
        raise AmosError(f"{path}: must say 'organ: mm', one organ per line")
    return list(data.items())
