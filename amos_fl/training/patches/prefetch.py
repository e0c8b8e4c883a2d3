"""Prefetch the batches of many steps with worker processes, if the settings ask for them."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch.utils.data import DataLoader, Dataset

from amos_fl.training.patches.sampler import Batch, TrainingCase, draw_batch
from amos_fl.training.settings import TrainingSettings
from amos_fl.volumes.plan import Plan
from amos_fl.workers import main_module_hidden


class _Steps(Dataset[Batch]):
    def __init__(self, draw: Callable[..., Batch]):
        self.draw = draw

    def __getitem__(self, step: int) -> Batch:
        return self.draw(step=step)


def draw_batches(
    cases: Sequence[TrainingCase],
    plan: Plan,
    settings: TrainingSettings,
    organs: Sequence[int],
    *,
    seed: int,
    site: str,
    steps: range,
    changes_later: bool = False,
) -> Iterator[Batch]:
    """Yield the batch of each of `steps`, as `draw_batch`; the same with `settings.workers` processes as with none."""
    dataset = _Steps(
        partial(draw_batch, cases, plan, settings, organs, seed=seed, site=site, changes_later=changes_later)
    )
    if settings.workers == 0:
        yield from (dataset[step] for step in steps)
        return
    # batch_size=None: an item is a whole batch. A generator is given so that the global one is not used.
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=steps,
        num_workers=settings.workers,
        generator=torch.Generator(),
    )
    with main_module_hidden():  # processes start here; spawned ones would run a plain script again
        batches = iter(loader)
    yield from batches
