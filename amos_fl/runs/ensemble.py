"""Several networks of one form as one model: the mean of their class probabilities, as of folds or seeds."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from amos_fl.errors import AmosError
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.group import is_group, read_group
from amos_fl.runs.layers import dotted
from amos_fl.runs.model import Model, read_model

APART = ("seed", "fold", "folds")
"""Settings in which the runs of a group may differ that is named as one ensemble."""


def read_ensemble(paths: Sequence[Path], site: str | None = None) -> Model:
    """The model in a folder or, of several folders or a group of runs, all models as one ensemble.

    A folder is a run's or a copy of its `model/`; with `site`, each run's own model of that site counts.

    Raises:
        AmosError: as `read_model`, networks that cannot be averaged, or a group whose runs differ in more than seed and
            fold.
    """
    folders = [member for path in paths for member in (_members(path) if is_group(path) else [path])]
    if twice := {folder.resolve() for folder in folders if [f.resolve() for f in folders].count(folder.resolve()) > 1}:
        raise AmosError(f"{min(twice)}: is named twice; name each run of an ensemble once")
    first, *others = [read_model(folder, site) for folder in folders]
    for other in others:
        _check_alike(first, other)
    known = [modality for modality in first.modalities if all(modality in other.modalities for other in others)]
    synthetic = any(model.synthetic for model in (first, *others))
    return replace(first, others=tuple(others), modalities=tuple(known), synthetic=synthetic)


def by_fold(model: Model) -> list[Model]:
    """Per fold the networks that left its cases out, if the members are runs of all folds of one division; else none.

    Several runs of a fold, of other seeds, are an ensemble by themselves.
    """
    found: dict[int, list[Model]] = {}
    folds: set[int] = set()
    for member in model.members:
        config = member.run.config() if member.run is not None else None
        if config is None or config.fold is None:
            return []
        found.setdefault(config.fold, []).append(replace(member, inference=model.inference))
        folds.add(config.folds)
    if len(folds) != 1 or sorted(found) != list(range(folds.pop())):
        return []
    return [replace(first, others=tuple(others)) for _, (first, *others) in sorted(found.items())]


def _members(path: Path) -> list[Path]:
    group = read_group(path)
    settings = [dotted(RunFolder(member).config().science()) for member in group.members]
    keys = sorted({key for each in settings for key in each if key not in APART})
    if differ := [key for key in keys if any(each.get(key) != settings[0].get(key) for each in settings)]:
        raise AmosError(
            f"{path}: its runs differ in {differ[0]}, not only in seed and fold; name those to be averaged: the first "
            f"as the run, like {path / group.names[0]}, each other one by --with"
        )
    return group.members


def _check_alike(first: Model, other: Model) -> None:
    """Check that the probabilities of two networks can be averaged, window by window.

    Raises:
        AmosError: naming the first thing in which they differ.
    """
    for what, mine, theirs in (
        ("network", first.architecture, other.architecture),
        ("organs", list(first.organs.items()), list(other.organs.items())),
        ("normalisation", first.norm_statistics == "group", other.norm_statistics == "group"),
        ("organs that were learned", first.unlearned, other.unlearned),
        ("file of its own network", dict(first.modules), dict(other.modules)),
    ):
        if mine != theirs:
            raise AmosError(f"{other.folder}: differs from {first.folder} in its {what}, so the two cannot be averaged")
    mine, theirs = (dotted(model.plan.model_dump(mode="json", exclude={"name"})) for model in (first, other))
    if differ := [key for key in mine if mine[key] != theirs.get(key)]:
        raise AmosError(
            f"{other.folder}: differs from {first.folder} in its plan ({differ[0]} is {theirs.get(differ[0])}, not "
            f"{mine[differ[0]]}), so the two cannot be averaged; train them with one plan, written by amos-fl plan"
        )
