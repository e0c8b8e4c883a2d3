"""Check that a Flower app may run at a site: its settings must allow the app's hash, before any of it is run.

A Flower app is code that a server sends. The one that belongs to amos-fl is a stub that imports the packages installed
at the site; it is identified by the SHA-256 of its archive, which has no compression and no dates and is therefore the
same wherever it is built.
"""

import hashlib
from functools import cache
from pathlib import Path

from amos_fl.deploy.shipped import shipped
from amos_fl.errors import AmosError
from amos_fl_clients.federation.policy import Refusal
from amos_fl_clients.federation.settings import SHIPPED, SiteSettings


def shipped_app() -> Path:
    """The folder of the Flower app that comes with this installation: in the wheel, or in the checkout beside it.

    Raises:
        AmosError: it is not there.
    """
    return shipped("amos_fl_server", "flower-app")


def archive_of(app: Path) -> bytes:
    """The archive (FAB) that Flower makes from an app's folder.

    Raises:
        AmosError: the folder holds no Flower app.
    """
    from amos_fl_clients.flower.control import build_app

    if not (app / "pyproject.toml").is_file():
        raise AmosError(f"{app}: is not a Flower app (it has no pyproject.toml)")
    try:
        return build_app(app)
    except ValueError as error:
        raise AmosError(f"{app}: is not a Flower app ({' '.join(str(error).split())})") from None


def sha256_of_app(content: bytes) -> str:
    """The hash by which an app's archive is allowed.

    >>> sha256_of_app(b"")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(content).hexdigest()


@cache
def sha256_of_shipped_app() -> str:
    """The hash of the app that comes with this installation."""
    return sha256_of_app(archive_of(shipped_app()))


def check_app(settings: SiteSettings, content: bytes) -> None:
    """Check that the site's settings allow an app's archive, which is hashed but not opened.

    Raises:
        Refusal: they do not.
    """
    found = sha256_of_app(content)
    allowed = {sha256_of_shipped_app() if app == SHIPPED else app for app in settings.allowed_apps}
    if found not in allowed:
        raise Refusal(settings.site, f"its settings do not allow the Flower app with the SHA-256 {found}")
