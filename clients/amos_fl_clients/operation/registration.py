"""Check whether a SuperLink knows a site's key, as a finding of `amos-fl deploy check`."""

from pathlib import Path

from amos_fl.deploy.findings import Finding, holds, skipped, wrong
from amos_fl.deploy.keys import read_private_key, spoken_fingerprint
from amos_fl.deploy.layout import AUTHORITY, SiteConnection, address_of

CHECK = "registered"
_KNOWN = "the SuperLink knows this key; that it is this site's and no other's, the coordinator's register shows"


def ask_registered(folder: Path, connection: SiteConnection) -> Finding:
    """Ask the SuperLink whether it knows the key of the site in `folder`; the request is signed with that key."""
    import httpx

    from amos_fl_clients.flower.fleet import knows_key

    key = read_private_key(folder / connection.key)
    try:
        known = knows_key(address_of(connection.host, connection.port), folder / AUTHORITY, key)
    except httpx.HTTPStatusError as error:
        if error.response.status_code == httpx.codes.UNAUTHORIZED:
            return wrong(
                CHECK, "the SuperLink refuses this site's signature", "set this machine's clock, and try again"
            )
        return skipped(CHECK, f"the SuperLink answers {error.response.status_code}, which says nothing about the key")
    except httpx.HTTPError as error:
        return skipped(CHECK, f"the question got no answer ({type(error).__name__})")
    if known is None:
        return skipped(CHECK, "the SuperLink gave an answer that it should not give")
    if known:
        return holds(CHECK, _KNOWN)
    return wrong(
        CHECK,
        f"the SuperLink does not know the key {spoken_fingerprint(key.public_key())}",
        "send keys/site.pub to the coordinator, who runs 'amos-fl deploy register' and then 'amos-fl deploy admit'",
    )
