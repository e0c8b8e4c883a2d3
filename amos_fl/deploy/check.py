"""Everything that a site needs, tried from the site: its folder, the way to the SuperLink, and its own machine."""

from collections.abc import Callable
from pathlib import Path

from amos_fl.deploy.connection import check_connection
from amos_fl.deploy.findings import Finding, skipped, wrong
from amos_fl.deploy.layout import SiteConnection, read_site
from amos_fl.deploy.place import check_device, check_disk, check_key, check_scans, check_version, read_place
from amos_fl.errors import AmosError

AskRegistered = Callable[[Path, SiteConnection], Finding]
"""Asks the SuperLink whether it knows a site's key; Flower's protocol is the business of the site's package."""


def check_site(folder: Path, ask_registered: AskRegistered, *, timeout_s: float = 10.0) -> list[Finding]:
    """Try everything that a site needs and say what is wrong; nothing is changed anywhere.

    Raises:
        AmosError: the folder holds no bundle, so that there is nothing to check.
    """
    connection = read_site(folder)
    findings = check_connection(folder, connection, timeout_s=timeout_s)
    findings += [check_version(connection), check_key(folder, connection)]
    outcomes = {finding.check: finding.outcome for finding in findings}
    if broken := next((name for name in ("SuperLink", "key") if outcomes[name] != "ok"), None):
        findings.append(skipped("registered", f"needs: {broken}"))
    else:
        findings.append(ask_registered(folder, connection))
    try:
        place = read_place(folder)
    except AmosError as error:
        found, _, remedy = str(error).partition("; ")
        unknown = [skipped(name, "needs: settings") for name in ("scans", "device", "disk")]
        return [*findings, wrong("settings", found, remedy or "correct it"), *unknown]
    scans, cases = check_scans(place, connection.site)
    return [*findings, scans, check_device(place), check_disk(place, cases)]
