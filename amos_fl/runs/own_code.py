"""A run's own code, by import path: its strategy, network, augmentation and loss; checked, recorded, and compared."""

from amos_fl.errors import AmosError
from amos_fl.own_code import is_path, modules_of, sha256_of_module
from amos_fl.runs.about import AboutRun
from amos_fl.runs.config import RunConfig
from amos_fl.training.settings import TrainingSettings


def own_paths(strategy: str, model: str, training: TrainingSettings) -> tuple[str, ...]:
    """The import paths among what a run's settings name."""
    return tuple(filter(is_path, (strategy, model, training.transforms or "", training.loss or "")))


def own_modules(config: RunConfig) -> dict[str, str]:
    """The modules of a run's own code, each with the SHA-256 of its file.

    Raises:
        AmosError: a module has no file.
    """
    return modules_of(own_paths(config.strategy, config.model, config.training))


def changed_modules(about: AboutRun) -> dict[str, list[str]]:
    """The changes of a run's own code since it began, by module."""
    if about.modules is None:  # begun by a version that did not record them, or without any
        return {}
    return {
        f"module {module}": [f"its file had the SHA-256 {then} and has {now or 'none: it is not here'}"]
        for module, then in about.modules.items()
        if (now := sha256_of_module(module)) != then
    }


def check_own_code(config: RunConfig, organ_count: int) -> None:
    """Try out what a user brings, before anything is trained; a strategy of Flower's is left to the server.

    Raises:
        AmosError: it cannot be imported, or cannot be trained with; it names the setting and the remedy.
    """
    if not own_paths(config.strategy, config.model, config.training):
        return
    from amos_fl.methods import kind_of, method_named  # with these come NumPy and PyTorch
    from amos_fl.methods.own import try_out
    from amos_fl.networks.registry import check_own_network
    from amos_fl.training.own import check_loss, check_transforms

    if is_path(config.strategy) and kind_of(config.strategy) is not None:
        try_out(config.strategy, method_named(config.strategy, config.strategy_options))
    check_own_network(config.model, config.plan, organ_count)
    if config.training.transforms is not None:
        check_transforms(config.training.transforms, config.plan, organ_count)
    if config.training.loss is not None:
        check_loss(config.training.loss, config.plan, organ_count)


def check_same_modules(about: AboutRun) -> None:
    """Check that a run's own code is still what it was begun with, where another run is to be like it.

    Raises:
        AmosError: it is not; it names the module.
    """
    for module, changes in changed_modules(about).items():
        what = f"{module}: is not what the run was begun with ({changes[0]})"
        raise AmosError(what, "put it back, or start a new run")
