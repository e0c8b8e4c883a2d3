"""A SuperExec that accepts only ClientApps, each in the site's own process, as soon as its SuperNode rings."""

import subprocess
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from amos_fl_clients.flower import parts
from amos_fl_clients.flower.backoff import Doorbell
from amos_fl_clients.flower.endings import bell_here, end_with_the_supernode
from amos_fl_clients.flower.preloaded import PreloadedProcess, can_fork
from amos_fl_clients.flower.programs import OwnProcess, check_command, run_program, say_nothing_to_others


def run(arguments: Sequence[str], own_process: OwnProcess) -> None:
    """`flower-superexec`, running only ClientApps."""
    say_nothing_to_others()
    end_with_the_supernode()
    replace(own_process)
    run_program("flower-superexec", "flwr.supercore.cli", arguments)


def replace(own_process: OwnProcess) -> None:
    """Replace everything that a SuperExec of amos-fl does differently from Flower's."""
    parts.EXECUTOR.replace(lambda *_, **__: client_apps_only(own_process))
    for descriptor in bell_here():
        bell = Doorbell.at(descriptor)
        parts.SUPEREXEC_WAITS.replace(SimpleNamespace(sleep=bell.wait))


def client_apps_only(own_process: OwnProcess) -> Any:
    """Flower's executor without its other kinds of tasks: agents, connectors, models, servers, simulations."""
    from flwr.supercore.constant import TaskType
    from flwr.supercore.superexec.executor import LaunchResult, SubprocessExecutor

    preloaded = PreloadedProcess(own_process("preloaded", [])) if can_fork() else None

    def start(command: Sequence[str], **options: Any) -> Any:
        check_command(command, "flwr-clientapp")
        if preloaded is not None and preloaded.launch(command[1:], quiet="stdout" in options):
            return None
        return subprocess.Popen(own_process("clientapp", command[1:]), pass_fds=bell_here(), **options)

    parts.START_CLIENTAPP.replace(SimpleNamespace(Popen=start, DEVNULL=subprocess.DEVNULL))

    class ClientAppsOnly(SubprocessExecutor):
        def get_eligible_capacity(self, supported_task_types: Any, **_: Any) -> Any:
            return {TaskType.CLIENT_APP} & set(supported_task_types), set()

        def launch(self, spec: Any) -> LaunchResult:
            if spec.task_type is not TaskType.CLIENT_APP or spec.runtime_dependency_install:
                return LaunchResult.failed("this site runs only ClientApps, and installs nothing for them")
            return super().launch(spec)

        def close(self) -> None:
            if preloaded is not None:
                preloaded.close()

    return ClientAppsOnly()
