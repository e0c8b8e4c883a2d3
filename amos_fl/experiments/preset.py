"""A preset: one experiment as data, with its question, data, steps and results table.

One YAML file each, in the folder `experiments/` of the checkout; the wheel carries them as data.

title: Six networks on CT and MR
paper: [Table 4, Table 10]           # empty: an experiment of ours
question: Which network ...?
budget: {steps: 250000, rounds: 1000}   # of each training run: optimizer steps at all trainers together
recipe: paper                        # that of `shared/paper.yaml`; `network`: the network's own
settings: {...}                      # of all training runs; they override the recipe's
each: {network: [unet, vnet]}        # whatever names {network} in steps, results and comparisons is repeated for each;
                                     # if these are mappings, {network.key} is a value of theirs
steps:                               # in the order in which they are carried out
  "{network}-ct": {train: centralized, data: amos/release, modality: CT, settings: {model: "{network}"}}
  "{network}-test": {evaluate: "{network}-ct", data: amos/paper, modality: CT}
results:
  - {row: "{network}", column: CT-val, step: "{network}-ct", published: {table: 4, cases: CT-val}}
drops:                               # what a scanner loses that is held out, against a step that trained there
  - {site: G, row: "{network}", trained: "{network}-ct", held_out: "{network}-without-G"}
"""

import itertools
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from amos_fl.cohort.table import Modality, Split
from amos_fl.errors import AmosError
from amos_fl.experiments.data import data_sets
from amos_fl.experiments.shared import presets_folder
from amos_fl.invalid import wrong_setting
from amos_fl.runs.layers import read_yaml
from amos_fl.wording import nearest

PresetForm = Literal["full", "quick"]
"""A preset in full, or quick: on the phantom in a few steps."""


class _Part(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")


class Budget(_Part):
    """The optimizer steps of a training, over all its trainers, and its rounds."""

    steps: int = Field(ge=1)
    rounds: int = Field(ge=1)

    def local_steps(self, trainers: int) -> int:
        """The steps of one trainer in one round.

        >>> Budget(steps=250_000, rounds=1000).local_steps(5)
        50
        """
        return max(1, round(self.steps / (self.rounds * trainers)))


class OnData(_Part):
    """The cases of a step: a data set, AMOS under a protocol (`amos/release`), and the modality.

    `hold_out` names sites that train nothing, all of whose cases are test cases; of `sites`, if there are any, no other
    is there.
    """

    data: str
    modality: Modality | None = None
    hold_out: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()

    @property
    def needs(self) -> str:
        """The data set's name, without the protocol."""
        return self.data.partition("/")[0]

    @property
    def protocol(self) -> str:
        return self.data.partition("/")[2]


class Train(OnData):
    """One training: pooled (`centralized`) or federated.

    `take` draws that many training cases of a modality; `start` names the step from whose weights it starts.
    """

    train: Literal["centralized", "federated"]
    take: dict[Modality, int] = {}
    quick_take: dict[Modality, int] = {}
    start: str | None = None
    budget: Budget | None = None
    settings: dict[str, Any] = {}


class Family(_Part):
    """A run for each seen site, derived from a federated step: as `amos-fl local`, `leave-one-out` and `finetune`."""

    family: Literal["local", "leave-one-out", "finetune"]
    of: str


class Evaluate(OnData):
    """The chosen weights of a training, scored on other cases."""

    evaluate: str
    split: Split = "test"


class Compare(_Part):
    """A comparison of steps, as `amos-fl compare`; `names` says what a step's arm is called, by that name.

    `title` heads its tables, if the step's name does not say enough.
    """

    compare: tuple[str, ...]
    title: str = ""
    reference: str | None = None
    names: dict[str, str] = {}


class Statistics(OnData):
    """Tables and figures of a cohort, as `amos-fl data stats`."""

    statistics: Literal["cohort"] = "cohort"


class Borrowed(_Part):
    """The step of that name of another preset, carried out once for both."""

    borrow: str


_KINDS = {
    "train": Train,
    "family": Family,
    "evaluate": Evaluate,
    "compare": Compare,
    "statistics": Statistics,
    "borrow": Borrowed,
}
Step = Annotated[
    Annotated[Train, Tag("train")]
    | Annotated[Family, Tag("family")]
    | Annotated[Evaluate, Tag("evaluate")]
    | Annotated[Compare, Tag("compare")]
    | Annotated[Statistics, Tag("statistics")]
    | Annotated[Borrowed, Tag("borrow")],
    Discriminator(lambda value: _kind(value)),
]


def _kind(value: Any) -> str | None:
    keys = value if isinstance(value, dict) else type(value).model_fields
    return next((kind for kind in _KINDS if kind in keys), None)


class Pictures(_Part):
    """Slices of `cases` test cases of a site, each with what the networks of several steps see there, by their title.

    The cases are those whose DSC under the first step is nearest to the quartiles of the site's cases.
    """

    site: str
    title: str
    steps: dict[str, str] = Field(min_length=1)
    cases: int = Field(default=1, ge=1, le=3)


class Drop(_Part):
    """What a site loses that is held out: two steps scored on its cases, one that trained there and one that did not.

    Drops of the same site and `row` are one row of the table, the seeds of an arm.
    """

    site: str
    row: str
    trained: str
    held_out: str


class Published(_Part):
    """The place of the paper's number in `published.csv`, by its columns; the network is that of the step.

    The paper trained on pooled scans alone, so only a centralized training has one.
    """

    table: int
    cases: str
    training: str | None = None


class Result(_Part):
    """A cell of the preset's table: a step's mean over the cases of all, the seen or the unseen scanners."""

    row: str
    column: str
    step: str
    among: Literal["all", "seen", "unseen"] = "all"
    modality: Modality | None = None
    organs: bool = Field(default=False, description="also by organ")
    shared_with: str | None = Field(default=None, description="only the organs of this step's cases, too")
    published: Published | None = None


class Preset(_Part):
    """An experiment. `name` is its file's; `each` is resolved when it is read, so steps and results are plain."""

    name: str
    title: str
    paper: tuple[str, ...] = ()
    question: str
    about: str = ""
    takes: str = Field(default="", description="how long it takes and on which machine, if measured")
    budget: Budget | None = None
    recipe: Literal["paper", "network"] = "paper"
    settings: dict[str, Any] = {}
    quick_settings: dict[str, Any] = {}
    quick_budget: Budget | None = None
    steps: dict[str, Step]
    results: tuple[Result, ...] = ()
    pictures: tuple[Pictures, ...] = ()
    drops: tuple[Drop, ...] = ()

    def data_sets(self) -> tuple[str, ...]:
        """The names of the data sets that its steps need, including borrowed steps, in order."""
        found: dict[str, None] = {}
        for name in self.steps:
            _, step = self.resolved(name)
            if isinstance(step, (Train, Evaluate, Statistics)):
                found[step.needs] = None
        return tuple(found)

    def resolved(self, name: str) -> tuple["Preset", Any]:
        """A step and the preset that owns it: this one, or the one it is borrowed from."""
        step = self.steps[name]
        if isinstance(step, Borrowed):
            return read_preset(step.borrow).resolved(name)
        return self, step


def preset_names() -> tuple[str, ...]:
    """The names of all presets, in the order of the paper, ours last."""
    return tuple(sorted((file.stem for file in presets_folder().glob("*.yaml")), key=_place))


def _place(name: str) -> tuple[float, str]:
    tables = [int(n) for n in re.findall(r"Table (\d+)", str(read_preset(name).paper))]
    return min((t for t in tables if t >= 3), default=2 if tables else float("inf")), name


@cache
def read_preset(name: str) -> Preset:
    """The preset of that name, or one of your own in a file: `mine/seeds.yaml`.

    Raises:
        AmosError: there is none, or its file is invalid; the message names the file and the place in it.
    """
    file = Path(name) if name.endswith(".yaml") else presets_folder() / f"{name}.yaml"
    if not file.is_file():
        names = [other.stem for other in presets_folder().glob("*.yaml")]
        raise AmosError(f"no experiment {name!r}; {nearest(name, sorted(names))}")
    return preset_from(file)


def preset_from(file: Path) -> Preset:
    """Read and check one preset's file.

    Raises:
        AmosError: naming the file, the place in it and what is wrong there.
    """
    data = read_yaml(file)
    each = data.pop("each", None) or {}
    try:
        steps = [(name, _with_all_compared(step, each)) for name, step in (data.get("steps") or {}).items()]
        data["steps"] = dict(_expanded(steps, each))
        for name in ("results", "drops"):
            data[name] = list(_expanded(data.get(name) or [], each))
        preset = Preset.model_validate({"name": file.stem, **data})
    except ValidationError as error:
        raise wrong_setting(error, Preset, str(file)) from None
    except (TypeError, ValueError, AttributeError) as error:
        raise AmosError(
            f"{file}: steps must be a mapping, results and drops lists and each a mapping ({error})"
        ) from None
    _check(file, preset)
    return preset


def _with_all_compared(step: Any, each: dict[str, list[Any]]) -> Any:
    """A comparison stays one step, with each of its names expanded; any other step as it is."""
    if not (isinstance(step, dict) and isinstance(step.get("compare"), list)):
        return step
    names = dict(_expanded(list((step.get("names") or {}).items()), each))
    return {**step, "compare": list(_expanded(step["compare"], each)), **({"names": names} if names else {})}


def _expanded(entries: list[Any], each: dict[str, list[Any]]) -> Iterator[Any]:
    """Expand every entry once for each combination of the values of the names in its braces.

    A value that is only such a name keeps its type.

    >>> list(_expanded(["{a}-{b.x}"], {"a": [1, 2], "b": [{"x": "y"}]}))
    ['1-y', '2-y']
    >>> list(_expanded([["seed-{a}", {"seed": "{a}"}]], {"a": [1, 2]}))
    [['seed-1', {'seed': 1}], ['seed-2', {'seed': 2}]]
    """
    for entry in entries:
        text = json.dumps(entry)
        named = [name for name in each if re.search(rf"\{{{name}[.}}]", text)]
        for values in itertools.product(*(each[name] for name in named)):
            filled = text
            for name, value in zip(named, values, strict=True):
                for key, part in value.items() if isinstance(value, dict) else [("", value)]:
                    braces = f"{{{name}.{key}}}" if key else f"{{{name}}}"
                    filled = filled.replace(f'"{braces}"', json.dumps(part)).replace(braces, str(part))
            yield json.loads(filled)


def _is_pooled(preset: Preset, name: str) -> bool:
    """Whether a step is a centralized training, or the scores of one."""
    owner, step = preset.resolved(name)
    if isinstance(step, Evaluate):
        return _is_pooled(owner, step.evaluate)
    return isinstance(step, Train) and step.train == "centralized"


def _check(file: Path, preset: Preset) -> None:
    """Check what the models cannot: every named step and data set exists, and steps come before they are needed."""
    done: set[str] = set()
    for name, step in preset.steps.items():
        if isinstance(step, Borrowed) and name not in read_preset(step.borrow).steps:
            raise AmosError(f"{file}: steps.{name}: {step.borrow} has no step of that name")
        needed: tuple[str, ...] = ()
        match preset.resolved(name)[1]:
            case Train(start=str(start)):
                needed = (start,)
            case Family(of=of):
                needed = (of,)
            case Evaluate(evaluate=of):
                needed = (of,)
            case Compare(compare=compared, names=names):
                needed = compared
                if others := [step for step in names.values() if step not in compared]:
                    raise AmosError(f"{file}: steps.{name}: names {others[0]!r}, which it does not compare")
        for other in needed:
            if other not in done:
                raise AmosError(f"{file}: steps.{name}: no step {other!r} above it; {nearest(other, done)}")
        if isinstance(step, Train) and (step.budget or preset.budget) is None:
            raise AmosError(f"{file}: steps.{name}: a training needs a budget, its own or the preset's")
        done.add(name)
    for result in preset.results:
        for named in (result.step, result.shared_with):
            if named is not None and named not in preset.steps:
                raise AmosError(f"{file}: results: no step {named!r}; {nearest(named, preset.steps)}")
        if result.published is not None and not _is_pooled(preset, result.step):
            raise AmosError(
                f"{file}: results: {result.step!r} is not a centralized training, and AMOS published no other result; "
                "leave out its 'published'"
            )
    for drop in preset.drops:
        for named in (drop.trained, drop.held_out):
            if named not in preset.steps:
                raise AmosError(f"{file}: drops: no step {named!r}; {nearest(named, preset.steps)}")
    for shown in preset.pictures:
        if unknown := [step for step in shown.steps.values() if step not in preset.steps]:
            raise AmosError(f"{file}: pictures: no step {unknown[0]!r}; {nearest(unknown[0], preset.steps)}")
    for name in preset.data_sets():
        if name not in data_sets():
            raise AmosError(f"{file}: no data set {name!r} in shared/data.yaml; {nearest(name, data_sets())}")
