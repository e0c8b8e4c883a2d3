"""The messages between server and sites: the names of the records, and their content beside weights.

A request carries a `config` record (and weights under `arrays`); a reply carries `metrics`, `site` and, after training,
`arrays`. `reply_models` defines what may be in a reply.
"""

import json
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from pydantic import BaseModel, ConfigDict, Field

from amos_fl.codecs import Codec, CodecName
from amos_fl.methods.base import Work
from amos_fl.runs.inference_settings import InferenceSettings
from amos_fl.runs.learned import channels_unlearned
from amos_fl.runs.own_code import own_paths
from amos_fl.training.settings import NormStatistics, TrainingSettings
from amos_fl.volumes.plan import Plan
from amos_fl_clients.federation.records import size_of

ARRAYS, CONFIG, METRICS, SITE = "arrays", "config", "metrics", "site"
DESCRIBE, FINGERPRINT = "query.describe", "query.fingerprint"
PREPARE = "prepare"
"""In a request to describe: whether the site prepares its cases now (the default), for which it needs a plan."""
PROXIMAL_MU = "proximal-mu"
"""In a request to train: the mu of Flower's own FedProx."""
KEPT_AFTER = "kept-after"
"""In a request: the round whose state the site should still have; 0: it has not taken part yet."""
BEST_ROUND = "best-round"
"""In a request to train: the round whose personal model did best at the site up to now; 0: none was scored."""
MODEL, SHARED, PERSONAL = "model", "shared", "personal"
"""In a request to evaluate: which model is scored, the shared one, which is the default, or the site's own."""
RESTARTED = "restarted"
"""In a reply, where the site has lost what it keeps between rounds and trained on without it: a number of `Lost`."""
FIRST_STEP, TOTAL_STEPS = "first-step", "total-steps"
"""In a request to train: the number of its first step, and how many the site is asked for in all rounds."""
WEIGHT = "num-examples"
"""The key by which Flower's own strategies weight a reply."""


class Task(BaseModel):
    """A run's task for every site, the same for all sites and rounds."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    name: str = Field(default="", max_length=200)
    """What the coordinator calls the run, for the people of a site."""
    seed: int
    model: str
    plan: Plan
    organs: dict[int, str]
    training: TrainingSettings
    optimizer_state: Literal["reset", "keep"]
    weighting: Literal["cases", "equal", "steps", "modality"]
    method: str = "fedavg"
    """The method whose site half is carried out; Flower's strategies, which are the server's alone, have FedAvg's."""
    method_options: dict[str, float | int | bool | str] = Field(default_factory=dict)
    modules: dict[str, str] = Field(default_factory=dict)
    """The modules of the run's own code, each with the SHA-256 of the file that the server has of it."""
    update_codec: CodecName = "none"
    top_k_share: float = Field(default=0.1, gt=0, le=1)
    local_seconds: float | None = None
    """A site ends its training in a round after this many seconds, even before its last step."""
    tolerance_mm: float
    inference: InferenceSettings
    site_timeout_s: float | None = None
    prepare_workers: int = 1
    norm_statistics: NormStatistics = "average"
    learned: tuple[int, ...] | None = None
    """The organs that were learned up to now; those of other channels are predicted as background. None: all."""

    @property
    def own_code(self) -> tuple[str, ...]:
        """The import paths of custom code that a site would run."""
        return own_paths(self.method, self.model, self.training)

    @property
    def codec(self) -> Codec:
        return Codec(self.update_codec, self.top_k_share)

    @property
    def unlearned_channels(self) -> tuple[int, ...]:
        return channels_unlearned(self.organs, self.learned)


def agreed_weight(task: Task, cases: int, steps: int) -> int:
    """The weight of a site's update in a round, known to site and server alike, and 1 where it trains no step.

    With the weighting by modality the server shares out what the sites of each modality weigh together.
    """
    return {"cases": cases, "modality": cases, "steps": max(steps, 1), "equal": 1}[task.weighting]


def request_config(task: Task, **values: str | int | float) -> ConfigRecord:
    """The `config` record of a request: the task as JSON and the values of this one request."""
    return ConfigRecord({"task": task.model_dump_json(), **{k.replace("_", "-"): v for k, v in values.items()}})


def task_of(message: Message) -> Task:
    return Task.model_validate_json(cast(str, message.content.config_records[CONFIG]["task"]))


def config_of(work: Work) -> dict[str, int]:
    """What `work_of` reads in the `config` of a request to train."""
    return {"round": work.number, "steps": work.steps, FIRST_STEP: work.first_step, TOTAL_STEPS: work.total_steps}


def work_of(task: Task, config: ConfigRecord) -> Work:
    """What a request to train asks for, by its `config`."""
    number, steps, first, total = (int(cast(int, config[key])) for key in ("round", "steps", FIRST_STEP, TOTAL_STEPS))
    return Work(number, first, steps, total, task.training)


def value_of(message: Message, key: str, default: Any = None) -> Any:
    return message.content.config_records[CONFIG].get(key, default)


def reply_with(
    message: Message,
    site: str,
    *,
    metrics: Mapping[str, int | float] | None = None,
    arrays: ArrayRecord | None = None,
    **texts: Any,
) -> Message:
    """A reply: numbers in `metrics`, the site's name and JSON values in `site`, weights in `arrays`."""
    records: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {
        METRICS: MetricRecord(dict(metrics or {})),
        SITE: ConfigRecord({"site": site, **{key: json.dumps(value) for key, value in texts.items()}}),
    }
    if arrays is not None:
        records[ARRAYS] = arrays
    return Message(RecordDict(cast(Any, records)), reply_to=message)


def size_in_bytes(message: Message) -> int:
    """The size of a message's weights in bytes, as they are sent."""
    if not message.has_content():
        return 0
    return sum(size_of(array) for record in message.content.array_records.values() for array in record.values())
