"""Find a deployed site's settings. Separate from the site's app, so that a refusal need not import torch.

A SuperNode is started with `--node-config 'site-settings="/path/settings.yaml"'`, so that the site decides which
settings apply. In Flower's own simulation there is no such site; its nodes are the sites of the run folder.
"""

import logging
from pathlib import Path

from flwr.app import Context

from amos_fl.errors import AmosError
from amos_fl_clients.federation.error_replies import SiteFailure
from amos_fl_clients.federation.settings import SiteSettings, read_settings

SITE_SETTINGS = "site-settings"


def settings_of(context: Context) -> SiteSettings:
    """The settings of the site that this process works for.

    Raises:
        SiteFailure: there are none, or one is wrong; the reason stays in the site's own log.
    """
    given = context.node_config.get(SITE_SETTINGS)
    try:
        return read_settings(Path(str(given)) if given else _simulated(context))
    except AmosError as error:
        logging.getLogger(__name__).error("%s", error)
    raise SiteFailure("a site's settings cannot be read; its own log says why")


def _simulated(context: Context) -> Path:
    """The settings of a site in Flower's simulation: those in the run folder, by its number among the site names."""
    try:
        sites = Path(str(context.run_config["run-folder"])) / "sites"
        names = sorted(folder.name for folder in sites.iterdir())
        return sites / names[int(str(context.node_config["partition-id"]))] / "site.json"
    except (KeyError, IndexError, ValueError, OSError):
        raise AmosError(f"start this site with --node-config '{SITE_SETTINGS}=\"/path/settings.yaml\"'") from None
