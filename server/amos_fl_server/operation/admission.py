"""Synchronise a SuperLink's list of SuperNodes with the keys that the coordinator registered."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from amos_fl.deploy.enroll import registered_keys
from amos_fl.deploy.keys import read_public_key
from amos_fl_clients.flower.control import public_key_bytes
from amos_fl_server.operation.connection import Connection, connection_of, control_of


@dataclass(frozen=True)
class Admission:
    """The SuperNode of each admitted site, which sites are new, and how many keys were removed."""

    nodes: dict[str, int]
    status: dict[str, str]
    new: tuple[str, ...]
    removed: int


def admit_sites(root: Path, *, host: str | None = None) -> Admission:
    """Register every site's present key at the running SuperLink, and remove keys that no longer belong to a site.

    A SuperNode whose key is removed is rejected at its next request. `host` is the name by which the SuperLink is
    reached from here; by default that for hospitals.

    Raises:
        AmosError: the SuperLink does not answer, is not trusted, or refuses the token.
    """
    wanted = {
        public_key_bytes(read_public_key(path)): site for site, path in registered_keys(root).items()
    }  # by PEM, as Flower keeps them
    with control_of(connection_of(root, host)) as client:
        known = client.nodes()
        gone = [node for key, node in known.items() if key not in wanted and node.status != "unregistered"]
        for node in gone:
            client.unregister(node.node_id)
        new = {key: site for key, site in wanted.items() if key not in known}
        for key, site in new.items():
            client.register(key, site)
        after = client.nodes()
    admitted = {site: after[key] for key, site in wanted.items() if key in after}
    return Admission(
        nodes={site: node.node_id for site, node in admitted.items()},
        status={site: node.status for site, node in admitted.items()},
        new=tuple(sorted(new.values())),
        removed=len(gone),
    )


def not_admitted(root: Path, sites: Sequence[str], connection: Connection) -> dict[str, str]:
    """Those of these sites that the running SuperLink does not let in, each with what is missing.

    Raises:
        AmosError: the SuperLink does not answer, is not trusted, or refuses the token.
    """
    keys = {site: public_key_bytes(read_public_key(path)) for site, path in registered_keys(root).items()}
    with control_of(connection) as client:
        known = {key for key, node in client.nodes().items() if node.status != "unregistered"}
    return {
        site: "is registered here and not admitted" if site in keys else "has no key registered here"
        for site in sites
        if keys.get(site) not in known
    }
