"""The ClientApp of a deployed site, which the Flower app that travels names."""

from amos_fl.runs.events import Listener, ProgressFile
from amos_fl_clients.app import make_client_app
from amos_fl_clients.locate import settings_of
from amos_fl_clients.settings import SiteSettings


def _progress(settings: SiteSettings) -> Listener:
    return ProgressFile(settings.state / "progress.json")


app = make_client_app(settings_of, listener_of=_progress)
