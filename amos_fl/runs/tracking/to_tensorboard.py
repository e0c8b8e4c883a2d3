"""Losses and scores as TensorBoard's events, in the run's folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch.utils.tensorboard.writer import SummaryWriter

from amos_fl.runs.tracking.tracker import End, TrackedRun, Tracker


class TensorBoard(Tracker):
    """Writes `tensorboard/` below the run's folder; it is on wherever the package is installed."""

    def begin(self, run: TrackedRun) -> str:
        self._writer = SummaryWriter(str(run.folder / "tensorboard"))
        if run.known_as is None:  # a run that is continued has its settings there already
            lines = [f"    {key}: {value}" for key, value in run.parameters.items()]  # Markdown, as it stands
            self._writer.add_text("settings", "\n".join(lines))
            self._writer.flush()
        return run.name

    def round(self, number: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name.replace(" ", "_"), value, number)
        self._writer.flush()

    def end(self, how: End, values: Mapping[str, float], files: Sequence[Path]) -> None:
        self._writer.close()
