"""The settings of a run: one pydantic model, from YAML and the command line, written to the run folder."""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from amos_fl.codecs import Codec, CodecName
from amos_fl.errors import AmosError
from amos_fl.invalid import setting_keys, wrong_setting
from amos_fl.networks.catalogue import NETWORKS
from amos_fl.planning.settings import PlanningSettings
from amos_fl.runs.inference_settings import InferenceSettings, RecordedInference
from amos_fl.runs.layers import Layer, merge, read_yaml
from amos_fl.safe_yaml import parsed_yaml
from amos_fl.training.settings import NormStatistics, TrainingSettings
from amos_fl.volumes.plan import AUTO, PLANS, Plan, plan_named
from amos_fl.wording import nearest

ArmKind = Literal["federated", "centralized", "local", "finetune", "leave-one-out"]

ALONE: dict[str, Any] = {
    "strategy": "fedavg",
    "strategy_options": {},
    "optimizer_state": "keep",
    "weighting": "cases",
    "min_sites": None,
    "local_epochs": None,
    "site_steps": {},
    "sites_per_round": None,
    "update_codec": "none",
    "top_k_share": 0.1,
}
"""Settings of a run with one trainer, where there is nothing to average."""


class _Settings(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class EvaluationSettings(InferenceSettings):
    """How and when a run's weights are scored."""

    every: int = Field(default=5, ge=1, description="Score the validation cases every this many rounds.")
    unseen: bool = Field(default=True, description="Score the unseen sites then, too.")
    tolerance_mm: float = Field(default=1.0, gt=0, description="Tolerance of the NSD, in mm.")
    predictions: bool = Field(default=False, description="Keep the test predictions as NIfTI files in the run folder.")

    @property
    def inference(self) -> InferenceSettings:
        """How a network is applied: those of these settings that a site is told, and that go with the model."""
        return InferenceSettings.model_validate(self.model_dump(include=set(InferenceSettings.model_fields)))


class EngineSettings(_Settings):
    """Settings of the engine, which carries the messages between server and sites."""

    name: Literal["inline", "ray", "deployment"] = Field(
        default="inline",
        description="inline: one site after another in this process; ray: sites in parallel; deployment: hospitals' "
        "own machines, set by 'amos-fl deploy run'.",
    )
    parallel_sites: int | None = Field(
        default=None, ge=1, description="Sites that train at the same time (ray); none: as many as fit."
    )
    cpus_per_site: int | None = Field(
        default=None, ge=1, description="CPU cores reserved for a site (ray); none: as many as training.threads."
    )
    gpus_per_site: float = Field(
        default=0.0, ge=0, description="Share of a GPU that a site takes (ray); 0.5: two sites on one."
    )
    address: str | None = Field(
        default=None, description="An existing Ray cluster, as host:port; none: one is started here."
    )
    site_nodes: dict[str, str] = Field(
        default={},
        description="Where in a Ray cluster a site works: the name or address of a machine, or a label of some as "
        "KEY=VALUE; none: wherever there is room.",
    )
    site_settings: dict[str, str] = Field(
        default={},
        description="For a Ray cluster whose machines share no disk: the settings file of each site (site.yaml), which "
        "lies on its own machine beside its scans; none: sites are laid out in the run's folder.",
    )

    @model_validator(mode="after")
    def _placed(self) -> "EngineSettings":
        if lacking := sorted(set(self.site_settings) - set(self.site_nodes)):
            raise ValueError(f"site_settings of {lacking[0]} lies on a machine that site_nodes does not name")
        return self


class RunConfig(_Settings):
    """Everything that decides what a run computes, and where and how it is carried out."""

    arm: ArmKind = Field(default="federated", description="What the run is in a comparison; set by the commands.")
    cohort: Path | None = Field(default=None, description="cohort.csv or its folder; none: the embedded phantom.")
    sites: tuple[str, ...] | None = Field(
        default=None, description="Only these sites take part, e.g. A,B,C; none: all."
    )
    hold_out: tuple[str, ...] = Field(
        default=(), description="Sites that train nothing and are scored as unseen, e.g. C."
    )
    fold: int | None = Field(
        default=None,
        ge=0,
        description="Cross-validation: the training and validation cases are divided by patient, and those of this "
        "fold (0, 1, ...) validate; none: as the cohort says.",
    )
    folds: int = Field(default=5, ge=2, le=1000, description="Folds of the cross-validation.")
    seed: int = Field(default=0, ge=0, lt=2**63, description="Decides all randomness of the run.")
    model: str = Field(
        default="small",
        description=f"Network: {', '.join(sorted(NETWORKS))}, or module:function of your own.",
    )
    plan: Plan = Field(
        default_factory=lambda: plan_named("coarse"),
        description="coarse, amos-ct, amos-mr, a plan's file, auto (made from the training cases), or spacing, patch, "
        "strides and kernels; by default the model's.",
    )
    planning: PlanningSettings = Field(default_factory=PlanningSettings, description="How the plan auto is made.")
    strategy: str = Field(
        default="fedavg", description="A method (amos-fl methods lists them), or module:Class of a Flower strategy."
    )
    strategy_options: dict[str, float | int | bool | str] = Field(
        default_factory=dict,
        description="The strategy's own parameters, such as fedprox's mu; those of a Flower strategy's constructor.",
    )
    rounds: int = Field(default=10, ge=1, le=1_000_000, description="Rounds of the federation.")
    local_steps: int = Field(default=50, ge=0, le=1_000_000_000, description="Optimizer steps at each site in a round.")
    local_epochs: float | None = Field(
        default=None,
        gt=0,
        le=1_000_000,
        description="Local work in place of local_steps: an epoch is as many patches as the site has training cases.",
    )
    local_seconds: float | None = Field(
        default=None,
        gt=0,
        description="A site ends its round after so many seconds, short of its steps; such a run cannot be repeated "
        "to the bit.",
    )
    site_steps: dict[str, Annotated[int, Field(ge=0, le=1_000_000_000)]] = Field(
        default_factory=dict, description="Steps in a round of sites that do other work than the rest, by site."
    )
    sites_per_round: float | None = Field(
        default=None,
        gt=0,
        description="Training sites asked in a round, drawn by the seed: a number of them, or a share below 1; none: "
        "all.",
    )
    weighting: Literal["cases", "equal", "steps", "modality"] = Field(
        default="cases",
        description="An update counts by its site's training cases, equally, by its steps, or by its cases within its "
        "modality, CT and MR together alike.",
    )
    update_codec: CodecName = Field(
        default="none",
        description="How sites send their updates: in full, in half precision, in 8 bits, or only the largest changes; "
        "what is left out is added to the site's next update.",
    )
    top_k_share: float = Field(
        default=0.1, gt=0, le=1, description="Share of an update's numbers that the codec top-k sends."
    )
    optimizer_state: Literal["reset", "keep"] = Field(
        default="reset", description="Momentum starts at zero in each round, or is kept at the site; it is never sent."
    )
    norm_statistics: NormStatistics = Field(
        default="average",
        description="Running statistics of batch normalisation: pooled by the server (average), each site's own "
        "(local), or none, with group normalisation instead (group).",
    )
    start_from: Path | None = Field(
        default=None,
        description="A finished run, its model/ folder or a file of weights to begin with; its model and plan count "
        "where nothing else is said, and its head is remade where organs differ; none: fresh.",
    )
    training: TrainingSettings = Field(default_factory=TrainingSettings, description="How a site trains.")
    evaluation: EvaluationSettings = Field(
        default_factory=EvaluationSettings, description="How and when the weights are scored."
    )
    selection: Literal["best", "last"] = Field(
        default="best",
        description="Weights that the run keeps: of the round that validates best on the seen sites, or of the last.",
    )
    min_sites: int | None = Field(
        default=None, ge=1, description="Updates below which the run stops; none: half of the sites asked in the round."
    )
    max_update_norm: float | None = Field(
        default=100.0,
        gt=0,
        description="Updates further from the weights than this many times their norm are refused; none: no bound.",
    )
    site_timeout_s: float | None = Field(
        default=None, gt=0, description="Seconds that a site has for one round's training; none: no limit."
    )
    engine: EngineSettings = Field(
        default_factory=EngineSettings, description="What carries the messages between server and sites."
    )
    device: str = Field(default="auto", description="cpu, cuda, cuda:1, mps, or auto: a GPU if there is one.")
    prepare_workers: int = Field(default=1, ge=1, le=4096, description="Processes that prepare a site's cases.")
    trackers: tuple[str, ...] = Field(
        default=(),
        description="Where losses, scores and results are sent beside the run folder: mlflow, wandb, or module:name of "
        "your own.",
    )
    keep_checkpoints: Literal["needed", "all"] = Field(
        default="needed", description="Checkpoints that stay: the last two and the best, or those of all rounds."
    )

    @field_validator("sites", "hold_out", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """Sites may be written as options have them: "A, B"."""
        return value.replace(",", " ").split() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _belongs_together(self) -> "RunConfig":
        if self.sites_per_round is not None and self.sites_per_round > 1 and self.sites_per_round % 1:
            raise ValueError(f"sites_per_round {self.sites_per_round:g} is neither a whole number nor a share below 1")
        if self.fold is not None and self.fold >= self.folds:
            raise ValueError(f"fold {self.fold}: of {self.folds} folds the last is {self.folds - 1}")
        if self.weighting == "steps" and self.local_seconds is not None:
            raise ValueError("weighting steps needs steps that are known beforehand; leave local_seconds out")
        return self

    def science(self) -> dict[str, Any]:
        """The settings that decide the weights: two runs with the same ones, cohort and start give the same weights."""
        where = {
            "cohort",
            "engine",
            "prepare_workers",
            "keep_checkpoints",
            "site_timeout_s",
            "device",
            "start_from",
            "trackers",
        }
        # A plan made from the cases follows from the planning settings, and a given plan does not need them.
        where.add("plan" if self.planning.auto else "planning")
        if self.update_codec != "top-k":
            where.add("top_k_share")
        if self.fold is None:
            where |= {"fold", "folds"}
        unused: dict[str, Any] = dict.fromkeys(where, True)
        if self.training.synthetic_share == 0:
            unused["training"] = {"synthetic_share", "synthetic_in"}
        elif self.training.synthetic_in == "all":  # so that runs begun without the setting are still found
            unused["training"] = {"synthetic_in"}
        return self.model_dump(mode="json", exclude=unused)

    @property
    def recorded_inference(self) -> RecordedInference:
        """What whoever predicts with the run's network goes by."""
        return RecordedInference(**self.evaluation.inference.model_dump(), threads=self.training.threads)

    @property
    def lacks_plan(self) -> bool:
        """Whether the plan is to be made before the first round; until then `plan` is a placeholder."""
        return self.planning.lacks(self.plan)

    @property
    def codec(self) -> Codec:
        """How sites encode their updates."""
        return Codec(self.update_codec, self.top_k_share)

    @property
    def exchanges_weights(self) -> bool:
        """Whether this run's arm exchanges weights between sites and a server; otherwise one trainer keeps them."""
        return has_strategy(self.arm)


def has_strategy(arm: str | None) -> bool:
    """Whether a server combines sites' updates in this arm; otherwise there is one trainer, and nothing to combine."""
    return arm in ("federated", "leave-one-out")


_BY_NAME = ("strategy_options.", "site_steps.", "plan.", "engine.site_nodes.", "engine.site_settings.")
"""What begins the keys of settings whose parts have names of the user's."""


def parse_assignment(text: str) -> dict[str, Any]:
    """One `--set key=value` as nested settings; the value is read as YAML.

    >>> parse_assignment("training.learning_rate=0.02")
    {'training': {'learning_rate': 0.02}}

    Raises:
        AmosError: no `=`, an unknown key, or a value that is not YAML.
    """
    source = f"--set {text}"
    key, equals, value = text.partition("=")
    if not equals:
        raise AmosError(f"{source}: must have the form key=value, like training.learning_rate=0.02")
    return nested_setting(key, parsed_value(value, source), source)


def parsed_value(text: str, source: str) -> Any:
    """A value of a setting, read as YAML.

    Raises:
        AmosError: it is not YAML; it begins with `source`.
    """
    try:
        data: Any = parsed_yaml(text, source)
    except ValueError:
        raise AmosError(f"{source}: {text!r} is not a value") from None
    if isinstance(data, str):
        with contextlib.suppress(ValueError):  # YAML reads 1e-3 as text, Python and every user as a number.
            data = float(data)
    return data


def nested_setting(key: str, value: Any, source: str) -> dict[str, Any]:
    """A setting by its dotted key as nested settings.

    Raises:
        AmosError: there is no such setting, or it is not the user's to set; it begins with `source`.
    """
    known = setting_keys(RunConfig)
    if key not in known and not key.startswith(_BY_NAME):
        raise AmosError(f"{source}: no setting {key!r}", _meant(key))
    if key == "arm":
        raise AmosError(f"{source}: a run's role in a comparison follows from the command", "leave it out")
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _meant(key: str) -> str:
    """What may have been meant by a name that no setting has."""
    from amos_fl.methods import METHODS, options_of  # it imports NumPy

    last, known = key.rpartition(".")[2], setting_keys(RunConfig)
    of_methods = {option for kind in METHODS.values() for option in options_of(kind)}
    if last in of_methods and not any(other.endswith(f".{key}") for other in known):
        return f"an option of a method goes under strategy_options: {{{last}: ...}}"
    return nearest(key, known, "amos-fl simulate --help lists them")


def read_plan(path: Path) -> Plan:
    """A plan from a YAML file, as `amos-fl plan` writes it: under `plan`, or the plan's settings alone.

    Raises:
        AmosError: no such file, or no plan in it.
    """
    data = read_yaml(path)
    data = data.get("plan", data)
    if not isinstance(data, dict):
        raise AmosError(f"{path}: 'plan' must hold a plan's settings, as 'amos-fl plan -o FILE' writes them")
    try:
        return Plan.model_validate({"name": "custom", **data})
    except ValidationError as error:
        raise wrong_setting(error, Plan, str(path)) from None


def _plan_of(text: str) -> Plan:
    """The built-in plan of that name, or the one in that file."""
    if text in PLANS:
        return PLANS[text]
    if Path(text).is_file():
        return read_plan(Path(text))
    if Path(text).suffix in (".yaml", ".yml", ".json"):
        raise AmosError(f"{text}: no such plan file; write one with 'amos-fl plan COHORT -o {text}'")
    return plan_named(text)


def _with_plan(layer: dict[str, Any]) -> dict[str, Any]:
    """A layer with its plan in full. A given plan replaces one that was still to be made."""
    plan, planning = layer.get("plan"), dict(layer.get("planning") or {})
    if plan == AUTO:
        stand_in = PLANS["coarse"].model_dump()
        return {**layer, "plan": stand_in, "planning": {**planning, "auto": True}}
    if isinstance(plan, str):
        return {**layer, "plan": _plan_of(plan).model_dump(), "planning": {**planning, "auto": False}}
    if isinstance(plan, dict):
        return {**layer, "plan": {"name": "custom", **plan}, "planning": {"auto": False, **planning}}
    return layer


def resolve(layers: Iterable[Layer]) -> RunConfig:
    """The run's settings from layers, later ones over earlier ones.

    A plan may be given by its name, by its file, or as `auto`, to be made from the training sites' fingerprints.
    Raises an AmosError that names the setting if one is invalid.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = merge(merged, _with_plan(layer.settings))
        try:
            RunConfig.model_validate(merged)
        except ValidationError as error:
            raise wrong_setting(error, RunConfig, layer.source, meant=_meant) from None
    config = RunConfig.model_validate(merged)
    if (percentile := config.planning.mr_percentile) is None or config.lacks_plan:
        return config
    return config.model_copy(update={"plan": config.plan.model_copy(update={"mr_percentile": percentile})})
