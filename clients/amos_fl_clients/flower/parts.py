"""The parts of Flower that are replaced in processes of amos-fl: where each is, why, and what it looks like there."""

import ast
import importlib
import inspect
from dataclasses import dataclass
from types import ModuleType
from typing import Any

_PULLS = "https://github.com/flwrlabs/flower/pull/"
_CLIENT = "flwr.supernode.fleet_http_client"
_SUPERNODE = "flwr.supernode.start_client_internal"
_SUPEREXEC = "flwr.supercore.superexec.run_superexec"
_CLIENTAPP = "flwr.supernode.runtime.run_clientapp"
_COMMAND = "flwr.superlink.cli.flower_superlink"


@dataclass(frozen=True)
class Part:
    """A part of Flower that is replaced; `name` is in `module`, or in a class of it."""

    module: str
    name: str
    shape: str
    """The parameters of a function or class, the names used from a module that it imports, or a constant's value."""
    why: str
    thread: str | None = None
    """The public thread in which Flower's developers discuss it."""

    @property
    def _owner(self) -> Any:
        owner = importlib.import_module(self.module)
        for name in self.name.split(".")[:-1]:
            owner = getattr(owner, name)
        return owner

    @property
    def present(self) -> Any:
        """What is currently there.

        Raises:
            AttributeError: nothing; in this version of Flower a replacement would have no effect.
        """
        return getattr(self._owner, self.name.split(".")[-1])

    def replace(self, own: Any) -> None:
        """Put `own` there, in this process.

        Raises:
            AttributeError: nothing is there to be replaced.
        """
        _ = self.present
        setattr(self._owner, self.name.split(".")[-1], own)

    @property
    def present_shape(self) -> str:
        """What the part looks like in the Flower that is installed."""
        present = self.present
        if isinstance(present, ModuleType):
            tree = ast.parse(inspect.getsource(self._owner))
            used = {
                node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _is(node.value, self.name)
            }
            return ", ".join(sorted(used))
        return ", ".join(inspect.signature(present).parameters) if callable(present) else repr(present)


def _is(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


ACTIVATE_NODE = Part(
    _CLIENT,
    "FleetHttpClient.ActivateNode",
    "self, request",
    "For a minute after a kill, a SuperLink refuses the new SuperNode because it believes the old one to be online.",
    f"{_PULLS}6003",
)
ASKED_AGAIN = tuple(
    Part(
        _CLIENT,
        f"FleetHttpClient.{name}",
        "self, request",
        "If the SuperLink fails at a request, a SuperNode drops the message or reply in hand; asked again, "
        "the SuperLink sees what it has done of the first request.",
        f"{_PULLS}7618",
    )
    for name in (
        "PullMessages",
        "PushMessages",
        "PullObject",
        "PushObject",
        "ConfirmMessageReceived",
        "GetRun",
        "GetFab",
    )
)
CONNECTION_LEAVES = Part(
    "flwr.supernode.fleet_http_connection",
    "flwr_exit",
    "code, message, event_type, event_details, emit_telemetry",
    "A SuperNode that is refused prints a code and a page's address, not what its hospital can do.",
)
HEARTBEATS = tuple(
    Part(
        module,
        "HEARTBEAT_DEFAULT_INTERVAL",
        "30",
        "The time after which a lost site counts as lost cannot be set.",
        f"{_PULLS}4968",
    )
    for module in ("flwr.supernode.fleet_http_connection", "flwr.supercore.heartbeat")
)
HEARTBEAT = Part(
    _CLIENT,
    "FleetHttpClient.SendNodeHeartbeat",
    "self, request",
    "Nothing at a site says when its SuperLink last answered.",
)
START_SUPEREXEC = Part(
    _SUPERNODE,
    "subprocess",
    "Popen",
    "A SuperNode starts its SuperExec by Flower's command, but must start the one that checks apps.",
    f"{_PULLS}6084",
)
PULL_MESSAGE = Part(
    _SUPERNODE,
    "_pull_and_store_message",
    "state, object_store, node_config, receive, get_run, get_fab, pull_object, confirm_message_received, "
    "trusted_entities",
    "The SuperExec is told of a message when it arrives, and the loop remembers which one it received.",
)
PUSH_MESSAGES = Part(
    _SUPERNODE,
    "_push_messages",
    "state, object_store, send, push_object",
    "The loop takes any reply for the one to its last message; it is then one message late until it is restarted.",
    f"{_PULLS}5628",
)
SUPERNODE_WAITS = Part(
    _SUPERNODE,
    "time",
    "sleep",
    "A SuperNode looks for a message every three seconds, longer than a round of a small network takes.",
)
EXECUTOR = Part(
    _SUPEREXEC,
    "get_executor",
    "executor_type, executor_config, insecure, root_certificates_path",
    "A SuperExec runs tasks of every kind, but a site accepts only ClientApps.",
    f"{_PULLS}6084",
)
SUPEREXEC_WAITS = Part(
    _SUPEREXEC, "time", "sleep", "A SuperExec looks for a task once a second; here it is told.", f"{_PULLS}8041"
)
START_CLIENTAPP = Part(
    "flwr.supercore.superexec.executor.subprocess_executor",
    "subprocess",
    "DEVNULL, Popen",
    "A new process per message imports torch again; here it is forked from one that has, and it checks the app.",
    "https://github.com/flwrlabs/flower/issues/3670",
)
PULL_TASK = Part(
    _CLIENTAPP, "pull_task_input", "client", "The check of an app needs the site's settings, which are in the context."
)
INSTALL_APP = Part(
    _CLIENTAPP,
    "install_from_fab",
    "fab_file, install_dir, skip_prompt",
    "An app is unpacked unseen: Flower checks signatures of a publisher, and a site allows apps by their hash.",
    f"{_PULLS}6084",
)
LOAD_APP = Part(
    _CLIENTAPP,
    "get_load_client_app_fn",
    "default_app_ref, app_path, multi_app",
    "The server chooses the folder that is imported, and could choose another than that of the checked app.",
)
ERROR = Part(
    _CLIENTAPP,
    "Error",
    "code, reason",
    "An error of a ClientApp is sent in its own words, which may name a patient's file.",
    f"{_PULLS}3191",
)
AUTHN_PLUGIN = Part(
    _COMMAND,
    "load_control_authn_plugin",
    "",
    "Accounts are part of another distribution; without them anybody may submit runs and register SuperNodes.",
    f"{_PULLS}5630",
)
CREATE_APP = Part(
    "flwr.superlink.main",
    "create_app",
    "config, superlink_lifespan_class",
    "Requests of the SuperLink's own processes are answered for anyone at its one port, the only way in for runs.",
)
PRAGMAS = Part(
    "flwr.supercore.sql_mixin",
    "SQLITE_PRAGMAS",
    "(('busy_timeout', '5000'), ('journal_mode', 'WAL'), ('synchronous', 'NORMAL'), ('foreign_keys', 'ON'), "
    "('cache_size', '-64000'), ('temp_store', 'MEMORY'), ('mmap_size', '268435456'))",
    "A request that waits five seconds for the database fails, and its message is lost.",
    f"{_PULLS}6178",
)
