"""The ClientApp of a deployed site, which the transmitted Flower app names."""

from amos_fl_clients.federation.app import make_client_app, progress_file
from amos_fl_clients.operation.settings_lookup import settings_of

app = make_client_app(settings_of, listener_of=progress_file)
