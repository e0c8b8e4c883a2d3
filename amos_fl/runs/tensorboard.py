"""Write losses and scores of a run as TensorBoard events, if the `tensorboard` extra is installed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amos_fl.runs.events import Event, Listener, RoundFinished, RoundScored, SiteWork


@contextmanager
def with_tensorboard(folder: Path, listener: Listener) -> Iterator[Listener]:
    """A listener that also writes events below `folder`; `listener` itself without TensorBoard."""
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        yield listener
        return
    writer = SummaryWriter(str(folder))

    def also_write(event: Event) -> None:
        match event:
            case SiteWork(activity="train", loss=float(loss)) if event.done == event.total:
                writer.add_scalar(f"loss/{event.site}", loss, event.round)
            case RoundFinished():
                writer.add_scalar("loss/mean", event.mean_loss, event.round)
                writer.flush()
            case RoundScored():
                for name, dsc in event.by_name().items():
                    if dsc is not None:
                        writer.add_scalar(f"DSC/{name}", dsc, event.round)
                writer.flush()
        listener(event)

    try:
        yield also_write
    finally:
        writer.close()
