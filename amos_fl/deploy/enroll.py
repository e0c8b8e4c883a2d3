"""Make a hospital's key, and register its public half at the coordinator."""

import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from amos_fl.deploy.keys import fingerprint, make_key, public_line, read_public_key, site_comment
from amos_fl.deploy.layout import (
    DEMONSTRATION_KEY,
    KEY,
    PUBLIC_KEY,
    SITE,
    checked_sites,
    read_deployment,
    read_site,
    registered_key,
    write_settings,
    write_site,
)
from amos_fl.errors import AmosError, is_disk_full
from amos_fl.files import private_folder, write_text


@dataclass(frozen=True)
class Enrolled:
    """A site, the file to send to the coordinator, and its content."""

    site: str
    public_key_file: Path
    public_key: ec.EllipticCurvePublicKey


def enroll(folder: Path, site: str | None = None, *, replace: bool = False) -> Enrolled:
    """Make the key of the site in `folder`, before or after its bundle is unpacked there.

    Raises:
        AmosError: there is a key already and `replace` is not set; the folder is another site's, or no site's.
    """
    described = (folder / SITE).exists()
    if described:
        connection = read_site(folder)
        if site is not None and site != connection.site:
            raise AmosError(f"{folder / SITE}: is the folder of site {connection.site}, not {site}; leave out --site")
        site = connection.site
    if site is None:
        raise AmosError(f"{folder}: holds no bundle of a site; unpack it there first, or say which site with --site")
    checked_sites([site])
    if folder.exists() and not folder.is_dir():
        raise AmosError(f"{folder}: is a file; give the folder into which the site's bundle was unpacked")
    present = [path for path in (folder / KEY, folder / DEMONSTRATION_KEY) if path.exists()]
    if present and not replace:
        raise AmosError(
            f"{present[0]}: site {site} has its key already; to make another, which the coordinator "
            "has to register again, give --replace"
        )
    try:
        private_folder((folder / KEY).parent)
        write_settings(folder, site)
        public = make_key(folder / KEY, folder / PUBLIC_KEY, site_comment(site))
    except OSError as error:
        if is_disk_full(error):
            raise
        raise AmosError(
            f"{folder}: may not be written ({error.strerror or type(error).__name__})",
            f"let the user with id {os.getuid()} write there, or unpack the bundle into another folder",
        ) from None
    if described and connection.key != KEY:
        write_site(folder, connection.model_copy(update={"key": KEY}))
    (folder / DEMONSTRATION_KEY).unlink(missing_ok=True)
    return Enrolled(site, folder / PUBLIC_KEY, public)


def register(root: Path, site: str, public_key_file: Path, *, replace: bool = False) -> Enrolled:
    """Register the public key that a site sent.

    Raises:
        AmosError: no such site, no public key, another site's key, or the site has another key already.
    """
    deployment = read_deployment(root)
    known_site(deployment.sites, site, root)
    key = read_public_key(public_key_file)
    for other in deployment.sites:
        kept = registered_key(root, other)
        if not kept.exists():
            continue
        same = fingerprint(read_public_key(kept)) == fingerprint(key)
        if other != site and same:
            raise AmosError(f"{public_key_file}: is the key of site {other}; every site makes a key of its own")
        if other == site and not same and not replace:
            raise AmosError(f"site {site}: has another key already; give --replace if this one takes its place")
    kept = registered_key(root, site)
    write_text(kept, public_line(key, site_comment(site)))
    return Enrolled(site, kept, key)


def registered_keys(root: Path) -> dict[str, Path]:
    """The public keys that this deployment admits, by site."""
    sites = read_deployment(root).sites
    return {site: registered_key(root, site) for site in sites if registered_key(root, site).exists()}


def known_site(sites: tuple[str, ...], site: str, root: Path) -> None:
    """Raises: AmosError: the deployment has no such site."""
    if site not in sites:
        raise AmosError(f"site {site}: is not in {root}, which has {', '.join(sites)}; add it to deployment.yaml")
