"""Faulty tables, settings and data sets: what somebody wrote, sorted or downloaded wrongly.

A function for a table gets the path of a good `cohort.csv` of the cases good (A, train), unseen (A, test) and bad (B);
one for settings gets the path of a run's YAML; one for a data set the folder of a good one with `dataset.json`.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bad_scans import enter, situation


def replaced(path: Path, old: str, new: str) -> None:
    content = path.read_text(encoding="utf-8")
    assert old in content, f"{path.name} does not hold {old}"
    path.write_text(content.replace(old, new), encoding="utf-8")


def of_bad(path: Path, pattern: str, new: str) -> None:
    """Another text in the row of the case bad."""
    lines = path.read_text(encoding="utf-8").splitlines()
    lines = [re.sub(pattern, new, line) if line.startswith("bad,") else line for line in lines]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def with_column(path: Path, name: str, values: tuple[str, ...]) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = zip(lines, (name, *values), strict=True)
    path.write_text("".join(f"{line},{value}\n" for line, value in rows), encoding="utf-8")


def marked(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def begun_with(line: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(f"{line}\n{path.read_text()}")

    return change


def in_organs(old: str, new: str) -> Callable[[Path], None]:
    return lambda path: replaced(path.with_name("organs.csv"), old, new)


# --- cohort.csv and organs.csv --------------------------------------------------------------------

enter("table", "the column `split` twice", lambda path: with_column(path, "split", ("train", "test", "val")))
enter("table", "a column that no program knows", lambda path: with_column(path, "slpit", ("a", "b", "c")))
enter("table", "no column `modality`", lambda path: replaced(path, "modality", "kind"))
enter(
    "table", "a byte order mark in front (harmless)", lambda path: path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
)
enter("table", "backslashes in paths (harmless)", lambda path: replaced(path, "images/", "images\\"))
enter("table", "a path that leads nowhere", lambda path: replaced(path, "images/bad", "image/bad"))
enter("table", "not UTF-8", lambda path: path.write_bytes(path.read_bytes().replace(b"bad,B", b"bad,H\xf4pital")))
enter("table", "empty", lambda path: path.write_bytes(b""))
enter("table", "semicolons instead of commas", lambda path: replaced(path, ",", ";"))
enter("table", "a case twice", lambda path: path.write_text(path.read_text() + path.read_text().splitlines()[-1]))
enter("table", "a split that does not exist", lambda path: of_bad(path, r",(train|test),", ",training,"))
enter("table", "PET as the modality", lambda path: of_bad(path, ",CT,", ",PET,"))
enter("table", "two sites with one scan", lambda path: of_bad(path, "images/bad", "images/good"))
enter("table", "an organ annotated that is not in organs.csv", lambda path: of_bad(path, "1 2$", "1 9"))
enter("table", "one organ annotated nowhere", lambda path: replaced(path, ",1 2", ",1"))
enter("table", "organs.csv with one label twice", in_organs("2,box", "1,box"))
enter(
    "table",
    "organs.csv with other organs under the same numbers",
    lambda path: replaced(path.with_name("organs.csv"), "box", "heart"),
)


@situation("table", "one patient in two splits")
def patient_in_two_splits(path: Path) -> None:
    with_column(path, "patient", ("p1", "p1", "p2"))


# --- settings -------------------------------------------------------------------------------------

enter("settings", "a key that is set twice", begun_with("rounds: 1000"))
enter("settings", "a setting that does not exist", begun_with("lokal_steps: 3"))
enter(
    "settings",
    "a byte order mark in front (harmless)",
    lambda path: path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes()),
)
enter("settings", "a number where a list belongs", begun_with("sites: 3"))
enter("settings", "not YAML", lambda path: path.write_text("rounds: [1\n"))
enter("settings", "nested a thousand times", lambda path: path.write_text(f"rounds: {'[' * 1000}{']' * 1000}\n"))


# --- data sets ------------------------------------------------------------------------------------


def described(folder: Path, **about: Any) -> None:
    file = folder / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | about))


def moved(folder: Path, pattern: str, old: str, new: str) -> None:
    """The first file of this pattern under another name."""
    found = sorted(folder.glob(pattern))[0]
    found.rename(found.with_name(found.name.replace(old, new)))


def first(folder: Path, pattern: str) -> Path:
    return sorted(folder.glob(pattern))[0]


enter("data set", "numTraining is 100, and there are 3", lambda path: described(path, numTraining=100))
enter("data set", "one image without its `_0000`", lambda path: moved(path, "imagesTr/*", "_0000", ""))
enter("data set", "one image missing", lambda path: first(path, "imagesTr/*").unlink())
enter("data set", "one label map missing", lambda path: first(path, "labelsTr/*").unlink())
enter("data set", "one image as .nii among .nii.gz", lambda path: moved(path, "imagesTr/*", ".nii.gz", ".nii"))
enter(
    "data set", "two organs of one number", lambda path: described(path, labels={"background": 0, "ball": 1, "box": 1})
)
enter("data set", "dataset.json cut in half", lambda path: cut(path / "dataset.json"))
enter("data set", "no dataset.json", lambda path: (path / "dataset.json").unlink())
enter("data set", "an empty image", lambda path: first(path, "imagesTr/*").write_bytes(b""))


def cut(file: Path) -> None:
    file.write_text(file.read_text()[: file.stat().st_size // 2])
