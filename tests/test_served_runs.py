"""The run folders beside a SuperLink: which of them are its own."""

from pathlib import Path

from federations import tiny_config

from amos_fl.cohort.table import Cohort
from amos_fl.runs.folder import create_run
from amos_fl_server.served_runs import ServedRuns, prepare_run


def test_a_simulation_beside_a_superlinks_runs_is_none_of_them(tmp_path: Path, tiny_cohort: Cohort) -> None:
    """The submit service would otherwise bring it up, as a run that nobody has come to submit."""
    create_run(tmp_path / "simulated", tiny_config(), tiny_cohort)
    prepare_run(tmp_path / "made", tiny_config(), tiny_cohort.organs)
    assert [(run.name, run.state) for run in ServedRuns(tmp_path).states()] == [("made", "created")]
