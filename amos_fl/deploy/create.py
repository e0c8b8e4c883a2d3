"""Make a deployment: its authority, the SuperLink's certificate, the submitter's token, and the sites' folders."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.cohort.table import Cohort, write_cohort, write_organs
from amos_fl.deploy.certificates import (
    checked_host,
    new_authority,
    read_authority,
    write_authority,
    write_server_certificate,
)
from amos_fl.deploy.instructions import instructions
from amos_fl.deploy.keys import fingerprint, make_key, read_private_key, read_public_key, site_comment, write_token
from amos_fl.deploy.layout import (
    AUTHORITY,
    DEMONSTRATION_KEY,
    INSTRUCTIONS,
    KEY,
    LOCAL_NAMES,
    ORGANS,
    PUBLIC_KEY,
    SERVICE,
    Deployment,
    SiteConnection,
    checked_sites,
    organs_of,
    read_deployment,
    registered_key,
    site_folder,
    versions,
    write_deployment,
    write_settings,
    write_site,
)
from amos_fl.errors import AmosError
from amos_fl.files import private_folder, whole_folder, write_json, write_text
from amos_fl.scan_files import case_of, parts_of

PORT = 8000
SERVER_DAYS = 365
SUBMITTER = "coordinator"


def create_deployment(
    root: Path,
    sites: Sequence[str],
    *,
    hosts: Sequence[str] = (),
    port: int = PORT,
    days: int = SERVER_DAYS,
    cohort: Cohort | None = None,
    demonstration_keys: bool = False,
    beside: Mapping[str, str] = MappingProxyType({}),
) -> Deployment:
    """Make the folder of a deployment, whole or not at all.

    The first of `hosts` is the SuperLink's address for hospitals; without one it is reached by its name in a compose
    file, only on this machine. With a cohort, each site's cases are copied into its folder. `beside` are further texts,
    by name, such as the SuperLink's compose file.

    Raises:
        AmosError: the folder is not empty; an invalid name; a site that the cohort does not have.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise AmosError(
            f"{root}: is not empty; choose another folder, "
            "or give --renew-certificates to renew the certificate of a deployment"
        )
    hosts = [checked_host(host) for host in hosts]
    deployment = Deployment(
        host=hosts[0] if hosts else SERVICE,
        port=port,
        names=_each_once([*LOCAL_NAMES, *hosts]),
        sites=checked_sites(list(sites)),
        demonstration_keys=demonstration_keys,
        phantom=cohort is not None and cohort.synthetic(),
    )
    if cohort is not None:
        cohort = cohort.only(deployment.sites)
    with whole_folder(root) as folder:
        private_folder(folder / "authority")
        authority = new_authority(root.resolve().name)
        write_authority(folder / "authority", authority)
        private_folder(folder / "superlink")
        (folder / "superlink/state").mkdir()
        (folder / "superlink/modules").mkdir()
        (folder / "registered").mkdir()
        (folder / "runs").mkdir()
        write_server_certificate(folder / "superlink", authority, deployment.names, days=days)
        shutil.copy(folder / "authority/ca.crt", folder / "superlink" / AUTHORITY)
        private_folder(folder / "submit")
        write_json(folder / "superlink/submitters.json", {SUBMITTER: write_token(folder / "submit/token")})
        # Keys do not belong in a repository, and this folder may be inside one.
        write_text(folder / ".gitignore", "*\n")
        write_deployment(folder, deployment)
        write_organs(cohort.organs if cohort else AMOS_ORGANS, folder / ORGANS)
        for name, text in beside.items():
            write_text(folder / name, text)
        for site in deployment.sites:
            make_site_folder(folder, deployment, site)
            if cohort is not None:
                copy_cases(cohort.only([site]), site_folder(folder, site) / "data")
    if not (root / "authority").is_dir():
        raise AmosError(f"{root}: another process wrote something there meanwhile; choose another folder")
    return deployment


def make_site_folder(root: Path, deployment: Deployment, site: str) -> SiteConnection:
    """Make the folder of a site or bring it up to date; the hospital's own settings, key and data stay."""
    folder = site_folder(root, site)
    for name in ("data", "state"):
        private_folder(folder / name)
    private_folder(folder / "keys")
    shutil.copy(root / "authority/ca.crt", folder / AUTHORITY)
    demonstration = deployment.demonstration_keys and not _has_own_key(root, site)
    key = DEMONSTRATION_KEY if demonstration else KEY
    connection = SiteConnection(site=site, host=deployment.host, port=deployment.port, key=key, **versions())
    write_site(folder, connection)
    write_settings(folder, site)
    organs = organs_of(root)
    write_organs(organs, folder / ORGANS)
    write_text(folder / INSTRUCTIONS, instructions(connection, organs))
    if demonstration and not (folder / key).exists():
        make_key(folder / key, folder / PUBLIC_KEY, f"{site_comment(site)}, for the demonstration only")
        shutil.copy(folder / PUBLIC_KEY, registered_key(root, site))
    return connection


def _has_own_key(root: Path, site: str) -> bool:
    """Whether a demonstration site has made its own key since, here or at a hospital that sent it."""
    folder, registered = site_folder(root, site), registered_key(root, site)
    if (folder / KEY).exists():
        return True
    if not registered.exists():
        return False
    if not (folder / DEMONSTRATION_KEY).exists():
        return True
    made_here = read_private_key(folder / DEMONSTRATION_KEY).public_key()
    return fingerprint(read_public_key(registered)) != fingerprint(made_here)


def renew_certificate(root: Path, *, hosts: Sequence[str] = (), days: int = SERVER_DAYS) -> Deployment:
    """Give the SuperLink a new key and certificate from the same authority; sites are not affected.

    Further `hosts` are added to what the certificate covers.

    Raises:
        AmosError: no deployment there, or its authority is missing or damaged.
    """
    deployment = read_deployment(root)
    authority = read_authority(root / "authority")
    names = _each_once([checked_host(name) for name in (*deployment.names, deployment.host, *hosts)])
    write_server_certificate(root / "superlink", authority, names, days=days)
    if names != deployment.names:
        deployment = deployment.model_copy(update={"names": names})
        write_deployment(root, deployment)
    return deployment


def copy_cases(cohort: Cohort, folder: Path) -> None:
    """Copy a site's scans and label maps into its data folder, and write their cohort.csv."""
    copied = []
    for case in cohort.cases:
        image = _copied(case.image, folder / "images", case.case)
        label = _copied(case.label, folder / "labels", case.case) if case.label else None
        copied.append(replace(case, image=image, label=label))
        # A phantom's mark is copied, so that its scores are never taken for patients'.
        said = case.image.parent.parent / "dataset.json"
        if said.is_file() and not (folder / said.name).exists():
            shutil.copy(said, folder / said.name)
    write_cohort(replace(cohort, cases=tuple(copied)), folder / "cohort.csv")


def _copied(source: Path, folder: Path, case: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        copies = [
            Path(shutil.copyfile(part, folder / f"{case}{part.name[len(case_of(part)) :].lower()}"))
            for part in parts_of(source)
        ]
        return copies[0]
    except FileNotFoundError:
        raise AmosError(f"{source}: no such file, which the cohort names for case {case}; correct the cohort") from None


def _each_once(names: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
