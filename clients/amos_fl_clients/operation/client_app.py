"""The ClientApp of a deployed site, which the transmitted Flower app names."""

from amos_fl.runs.events import Listener, ProgressFile
from amos_fl_clients.federation.app import make_client_app
from amos_fl_clients.federation.settings import SiteSettings
from amos_fl_clients.operation.settings_lookup import settings_of


def _progress(settings: SiteSettings) -> Listener:
    return ProgressFile.of(settings.state)


app = make_client_app(settings_of, listener_of=_progress)
