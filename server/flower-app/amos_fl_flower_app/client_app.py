"""The ClientApp of the amos-fl that is installed at the site."""

from amos_fl_clients.operation.client_app import app as _app

app = _app
