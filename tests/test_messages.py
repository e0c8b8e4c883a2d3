"""What a run asks of a site goes over the wire and comes back."""

from federations import tiny_config

from amos_fl.runs.config import EvaluationSettings
from amos_fl.runs.inference_settings import InferenceSettings
from amos_fl_clients.federation.messages import Task
from amos_fl_server.federation.requests import task_for

ADAPTING = {"overlap": 0.25, "batch_size": 3, "mirror": True, "test_time_adaptation": True}


def asked() -> Task:
    config = tiny_config()
    evaluation = EvaluationSettings.model_validate({**config.evaluation.model_dump(), **ADAPTING})
    return task_for(config.model_copy(update={"evaluation": evaluation}), {1: "spleen"}, "a-run")


def test_a_site_is_told_every_setting_of_inference_as_the_run_has_it():
    received = Task.model_validate_json(asked().model_dump_json())
    assert received == asked()
    assert received.inference == InferenceSettings(**ADAPTING)
    assert received.inference.model_dump().keys() == ADAPTING.keys()
