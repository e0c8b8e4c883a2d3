"""The ClientApp of the amos-fl that is installed at the site."""

from amos_fl_clients.deployed import app as _app

app = _app
