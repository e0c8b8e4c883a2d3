"""What Flower's own command needs to speak to a deployment: the address, the authority, and the submitter's token."""

import json
from base64 import b64encode
from pathlib import Path

import yaml
from flwr.cli.constant import ACCESS_TOKEN_STORE_KEY, AUTHN_TYPE_STORE_KEY, REFRESH_TOKEN_STORE_KEY
from flwr.common.constant import AuthnType

from amos_fl.deploy.keys import write_secret
from amos_fl.deploy.layout import address_of, read_deployment
from amos_fl.files import write_text
from amos_fl_server.operation.connection import read_token

CONNECTION = "deployment"


def write_flower_home(root: Path, home: Path, *, host: str | None = None) -> None:
    """Make a folder for FLWR_HOME in which `flwr run APP deployment` reaches the SuperLink of the deployment in `root`.

    `host` is the name by which the SuperLink is reached from here; by default that for hospitals. The folder holds the
    submitter's token, in a file of mode 0600.

    Raises:
        AmosError: no deployment there, or no token that may be read.
    """
    deployment = read_deployment(root)
    address = address_of(host or deployment.host, deployment.port)
    # Flower knows one kind of login, by tokens of OpenID Connect; it sends the first with each request and keeps the
    # second for renewals, which the SuperLink of a deployment does not offer.
    credentials = {
        AUTHN_TYPE_STORE_KEY: AuthnType.OIDC,
        ACCESS_TOKEN_STORE_KEY: read_token(root),
        REFRESH_TOKEN_STORE_KEY: "none",
    }
    encoded = {key % address: b64encode(value.encode()).decode() for key, value in credentials.items()}
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_secret(home / "credentials.yaml", yaml.safe_dump(encoded).encode())
    authority = json.dumps(str((root / "superlink/ca.crt").resolve()))
    write_text(
        home / "config.toml",
        f'[superlink]\ndefault = "{CONNECTION}"\n\n'
        f"[superlink.{CONNECTION}]\naddress = {json.dumps(address)}\nroot-certificates = {authority}\n",
    )
