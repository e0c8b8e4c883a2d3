"""Engines, which carry the messages between the server and the sites of a simulation."""

from amos_fl.errors import AmosError
from amos_fl.runs.config import RunConfig
from amos_fl_server.federation.engines.base import Engine


def make_engine(config: RunConfig) -> Engine:
    """The engine of a simulation that the settings ask for; Ray is imported only when it is used.

    Raises:
        AmosError: it is a deployment.
    """
    if config.engine.name == "deployment":
        raise AmosError("engine.name is deployment: such a run is for 'amos-fl deploy run'; choose inline or ray")
    if config.engine.name == "ray":
        from amos_fl_server.federation.engines.ray import RayEngine

        return RayEngine(config.engine, config.training.threads)
    from amos_fl_server.federation.engines.inline import InlineEngine

    return InlineEngine()
