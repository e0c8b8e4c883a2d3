"""Read a run's final network, from its run folder or from just a copy of its `model/` folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn

from amos_fl.errors import AmosError
from amos_fl.files import sha256_of_file, sha256_of_json
from amos_fl.networks.registry import build_network
from amos_fl.own_code import sha256_of_module
from amos_fl.runs.as_begun import config_as_begun
from amos_fl.runs.as_written import check_mark, check_weights
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.group import is_group
from amos_fl.runs.inference_settings import InferenceSettings, RecordedInference
from amos_fl.runs.learned import Learned, channels_unlearned, learned_in, names_unlearned, not_learned_in_words
from amos_fl.runs.network_file import read_network_file
from amos_fl.runs.origin import NETWORK, WEIGHTS, personal_model
from amos_fl.training.settings import NormStatistics
from amos_fl.volumes.plan import Plan
from amos_fl.weights import Arrays, load_arrays, read_arrays
from amos_fl.wording import listed


@dataclass(frozen=True)
class Model:
    """A trained network and all that is needed to use it.

    `organs` are label values and names in the order of the network's channels. `modalities` are those it was trained
    on, empty if a folder of an older version doesn't say. `run` is None for a `model/` folder apart from its run.
    `learned` are the labels of the learned organs (None: all), and `learned_note` says how they are known if the folder
    is of an older version.
    """

    folder: Path
    architecture: str
    plan: Plan
    organs: dict[int, str]
    round: int
    modalities: tuple[str, ...]
    synthetic: bool
    inference: RecordedInference
    run: RunFolder | None
    norm_statistics: NormStatistics = "average"
    learned: tuple[int, ...] | None = None
    learned_note: str = ""
    modules: Mapping[str, str] = field(default_factory=dict)
    """The module of a network of the user's own, with the SHA-256 of its file when it was trained."""
    others: "tuple[Model, ...]" = ()
    """The other members of an ensemble, of the same form; class probabilities are the mean over all members."""

    @property
    def members(self) -> "tuple[Model, ...]":
        """The networks whose probabilities are averaged; of a single model it alone."""
        return (replace(self, others=()), *self.others)

    @property
    def name(self) -> str:
        """Its run's name, with the group's before it if it has one; or the model folder's path."""
        if self.run is None:
            return str(self.folder)
        path = self.run.path.resolve()
        return f"{path.parent.name}/{path.name}" if is_group(path.parent) else path.name

    @property
    def unlearned(self) -> tuple[str, ...]:
        """The organs that no training case annotated: the network's predictions of them count as background."""
        return () if self.learned is None else names_unlearned(self.organs, self.learned)

    @property
    def unlearned_channels(self) -> tuple[int, ...]:
        """The channels of organs that no training case had; they are predicted as background."""
        return channels_unlearned(self.organs, self.learned)

    @property
    def notes(self) -> list[str]:
        """Notes about its organs for anyone who predicts with it."""
        notes = [self.learned_note] if self.learned_note else []
        if self.others:
            names = listed([member.name for member in self.members], 10)
            notes.append(f"the mean of the probabilities of {len(self.members)} networks: {names}")
        if self.unlearned:
            notes.append(not_learned_in_words(self.unlearned))
        return notes

    def network(self, device: str = "cpu") -> nn.Module:
        """The network with its weights, in evaluation mode on `device`.

        Raises:
            AmosError: the weights are missing, damaged, of another network, or not those that the run's ledger names,
            or the file of the user's own network has changed.
        """
        for module, trained in self.modules.items():
            if sha256_of_module(module) != trained:
                what = f"{self.folder}: the file of {module}, which builds its network, is not what it was trained with"
                raise AmosError(what, "put that file back")
        network = build_network(
            self.architecture, self.plan, len(self.organs), seed=0, norm_statistics=self.norm_statistics
        )
        self._load_into(network, self._checked_weights())
        for other in self.others:
            other._checked_weights()
        return network.to(device).eval()

    def _checked_weights(self) -> Arrays:
        """The weights, which in a run's folder must be those of the chosen round in its ledger."""
        weights = self._weights()
        if self.run is not None and self.folder == self.run.path / "model":
            check_weights(self.run, self.round, weights)
        return weights

    def _weights(self) -> Arrays:
        return read_arrays(self.folder / WEIGHTS, "copy it again from its run")

    def _load_into(self, network: nn.Module, weights: Arrays | None = None) -> None:
        weights = self._weights() if weights is None else weights
        try:
            load_arrays(network, weights)
        except AmosError as error:
            raise AmosError(f"{self.folder}: {error}; was it trained by another version of amos-fl?") from None

    def turns(self, network: nn.Module, inference: InferenceSettings) -> tuple[Callable[[], None], ...]:
        """Per member of an ensemble a function that loads its weights into `network`; none for a single model.

        Raises:
            AmosError: settings of inference that an ensemble cannot follow.
        """
        if not self.others:
            return ()
        if inference.test_time_adaptation:
            raise AmosError(
                "test-time adaptation fits one network to a scan, and these are several; turn it off "
                "(--no-test-time-adaptation), or name one run"
            )
        return tuple(partial(member._load_into, network) for member in self.members)

    def check_single(self, what: str) -> None:
        """Check that it is a single network, as `what` needs.

        Raises:
            AmosError: it is an ensemble.
        """
        if self.others:
            raise AmosError(f"{what} is of one network, and this is an ensemble of {len(self.members)}; name one run")

    def weights_sha256(self) -> str:
        """The SHA-256 of the file of weights; of an ensemble that of its members' as a list."""
        if self.others:
            return sha256_of_json([member.weights_sha256() for member in self.members])
        return sha256_of_file(self.folder / WEIGHTS)


def read_model(path: Path, site: str | None = None) -> Model:
    """Read the model in a run folder (`RUN/model/`), or in a `model/` folder copied elsewhere.

    With `site`, the model that a personal method left that site, of a simulated run.

    Raises:
        AmosError: there is none, the run has not finished, or a file of it is damaged or contradicts another.
    """
    run = RunFolder(path) if (path / "config.yaml").is_file() else None
    folder = path / "model" if run else path
    if not (folder / NETWORK).is_file() and run is None and (path.parent / "config.yaml").is_file():
        raise AmosError(f"{path}: holds no model; give the run folder {path.parent}")
    if not (folder / NETWORK).is_file() or not (folder / WEIGHTS).is_file():
        if run is not None and (path / "summary.md").is_file():
            gone = next(file for file in (folder / NETWORK, folder / WEIGHTS) if not file.is_file())
            raise AmosError(f"{gone}: is missing; copy it from another copy of the run, or resume the run")
        if run is not None:
            raise AmosError(f"{path}: this run has not finished; continue it with 'amos-fl simulate --resume'")
        what = "holds neither a run nor a model" if path.is_dir() else "no such folder"
        raise AmosError(f"{path}: {what}; give a run folder, or a copy of its model/ with {NETWORK} and {WEIGHTS}")
    if run is not None:
        check_mark(run)
    if site is not None:
        folder = _of_site(path, run, site)
    try:
        about: dict[str, Any] = {**read_network_file(folder / NETWORK)}
        known = run is not None and "inference" not in about  # written before network.json recorded it
        learned = _learned(about, run)
        return Model(
            folder=folder,
            architecture=about["model"],
            plan=Plan.model_validate(about["plan"]),
            organs=dict(sorted((int(label), str(organ)) for label, organ in about["organs"].items())),
            round=int(about["round"]),
            modalities=tuple(about.get("modalities", ())),
            synthetic=bool(about.get("synthetic", run.synthetic if run else False)),
            inference=(
                config_as_begun(run).recorded_inference
                if run and known
                else RecordedInference.model_validate(about.get("inference", {}))
            ),
            run=run,
            norm_statistics=about.get("norm_statistics", "average"),
            learned=learned.organs,
            learned_note=learned.note,
            modules=about.get("modules", {}),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError):
        raise AmosError(f"{folder / NETWORK}: is damaged; copy it again from its run") from None


def _of_site(path: Path, run: RunFolder | None, site: str) -> Path:
    """The folder of a site's own model.

    Raises:
        AmosError: there is none.
    """
    if run is None:
        raise AmosError(f"{path}: is one model, not a run whose sites have their own; leave out the site {site}")
    folders = {each: personal_model(run.site(each) / "state", run.run_id) for each in run.cohort().sites}
    have = [each for each, folder in folders.items() if (folder / NETWORK).is_file()]
    if site in have:
        return folders[site]
    there_are = f"there are {', '.join(have)}" if have else f"{run.config().strategy} leaves models at no site"
    if not have and run.config().engine.name == "deployment":
        there_are = "those of a deployed run stay at the hospitals, below models/ in the folder of a site's state"
    raise AmosError(f"{path}: holds no model of site {site}'s own; {there_are}")


def _learned(about: dict[str, Any], run: RunFolder | None) -> Learned:
    if "learned" in about:
        return Learned(tuple(sorted(int(organ) for organ in about["learned"])))
    if run is None:
        return Learned(
            tuple(int(organ) for organ in about["organs"]),
            "this model does not say which organs its run learned, being of an older version: all count as learned",
        )
    return learned_in(run, run.cohort())
