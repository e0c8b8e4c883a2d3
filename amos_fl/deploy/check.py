"""Check everything that a site needs, from the site: its folder, the route to the SuperLink, and its own machine."""

from collections.abc import Callable
from pathlib import Path

from amos_fl.deploy.connection import check_authority, check_connection, check_flwr
from amos_fl.deploy.findings import Finding, holds, skipped, wrong
from amos_fl.deploy.layout import SETTINGS, SITE, SiteConnection, read_site
from amos_fl.deploy.local_checks import (
    SitePlace,
    check_device,
    check_disk,
    check_key,
    check_organs,
    check_scans,
    check_version,
)
from amos_fl.deploy.running import OWN_PORT, check_own_port
from amos_fl.errors import AmosError

AskRegistered = Callable[[Path, SiteConnection], Finding]
"""A callback that asks the SuperLink whether it knows a site's key, because the site's package has Flower's
protocol."""
ReadSettings = Callable[[Path], SitePlace]
"""A callback that reads a hospital's settings file, whose model is in the site's package."""


_CORRECT = "correct it; the page on running a site lists the settings"


def check_site(
    folder: Path,
    ask_registered: AskRegistered,
    read_settings: ReadSettings,
    *,
    timeout_s: float = 10.0,
    port: int = OWN_PORT,
) -> list[Finding]:
    """Check everything that a site needs and report what is wrong, without changing anything.

    `port` is the SuperNode's own, for which another than Flower's can be given at its start.

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
    settings, place = _settings(folder, connection, read_settings)
    findings.append(settings)
    if place is None:
        return findings + [
            skipped(name, "needs: settings") for name in ("own port", "scans", "organs", "device", "disk")
        ]
    scans, cases = check_scans(place)
    organs = check_organs(folder, place) if cases else skipped("organs", "needs: scans")
    return [*findings, check_own_port(place.state, port), scans, organs, check_device(place), check_disk(place, cases)]


def check_start(folder: Path, read_settings: ReadSettings, *, key: bool = True, trust: bool = True) -> None:
    """Check what can be checked at once on a site's own machine, before its SuperNode starts.

    `key` and `trust` say whether the folder's key and authority are used.

    Raises:
        AmosError: something is wrong; the sentence says which site and what.
    """
    connection = read_site(folder)
    findings = [check_version(connection), check_flwr(connection.flwr, "by the bundle")]
    findings += [check_key(folder, connection)] if key else []
    findings += [check_authority(folder)[0]] if trust else []
    settings, place = _settings(folder, connection, read_settings)
    findings.append(settings)
    if place is not None:
        findings.append(check_device(place))
    if failed := next((finding for finding in findings if finding.outcome == "wrong"), None):
        raise AmosError(f"site {connection.site}: {failed.check}: {failed.found}", failed.remedy)


def _settings(folder: Path, connection: SiteConnection, read: ReadSettings) -> tuple[Finding, SitePlace | None]:
    path = folder / SETTINGS
    if not path.exists():
        return wrong("settings", f"{path} is not there", "'amos-fl deploy enroll' writes one; or restore yours"), None
    try:
        place = read(path)
    except AmosError as error:
        return wrong("settings", error.what, error.remedy or _CORRECT), None
    if place.site != connection.site:
        found = f"{path} is for site {place.site}, and {SITE} for site {connection.site}"
        return wrong("settings", found, "use the settings of this site, or its own bundle"), None
    return holds("settings", f"those of site {place.site}"), place
