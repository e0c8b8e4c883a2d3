"""Pack exactly what one hospital needs into a single file."""

import os
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from amos_fl.deploy.create import make_site_folder
from amos_fl.deploy.enroll import known_site
from amos_fl.deploy.layout import (
    AUTHORITY,
    DEMONSTRATION_KEY,
    INSTRUCTIONS,
    ORGANS,
    PUBLIC_KEY,
    SETTINGS,
    SITE,
    read_deployment,
    site_folder,
    site_folder_name,
)
from amos_fl.errors import AmosError
from amos_fl.files import whole_file

FILES = (SITE, ORGANS, AUTHORITY, INSTRUCTIONS)
"""The files of every bundle. Settings are not included: unpacking a newer bundle must not undo a site's decisions."""
DEMONSTRATION_FILES = (DEMONSTRATION_KEY, PUBLIC_KEY, SETTINGS)
"""The files that `enroll` makes at a hospital, and that a demonstration includes."""
FOLDERS = ("data", "state", "keys")


def write_bundle(
    root: Path, site: str, out: Path, *, beside: Mapping[str, str] = MappingProxyType({})
) -> tuple[str, ...]:
    """Pack a site's folder, as far as the hospital needs it; return the names in the archive.

    `beside` are further texts, by name, that are the same for every site, such as its compose file.

    The hospital's own key, scans and state are never packed. A centrally made key is, under a name that says what it is
    for, and then the archive is readable by its owner alone.

    Raises:
        AmosError: no such site, or `out` exists.
    """
    deployment = read_deployment(root)
    known_site(deployment.sites, site, root)
    if out.is_dir():
        out = out / f"{site_folder_name(site)}.zip"
    if out.exists():
        raise AmosError(f"{out}: there is such a file already; remove it, or name another with --out")
    connection = make_site_folder(root, deployment, site)
    files = [*FILES, *(DEMONSTRATION_FILES if connection.key == DEMONSTRATION_KEY else ())]
    top = site_folder_name(site)
    with whole_file(out, private=True) as partial:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in FOLDERS:
                _add(archive, f"{top}/{name}/", b"", 0o40700)
            for name in files:
                mode = 0o100600 if name == DEMONSTRATION_KEY else 0o100644
                _add(archive, f"{top}/{name}", (site_folder(root, site) / name).read_bytes(), mode)
            for name, text in beside.items():
                _add(archive, f"{top}/{name}", text.encode(), 0o100644)
            names = tuple(archive.namelist())
    return names


def _add(archive: zipfile.ZipFile, name: str, data: bytes, mode: int) -> None:
    entry = zipfile.ZipInfo(name, time.localtime()[:6])
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = mode << 16
    archive.writestr(entry, data)
