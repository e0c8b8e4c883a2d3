"""The ServerApp of the amos-fl that is installed beside the SuperLink."""

from amos_fl_server.operation.server_app import app as _app

app = _app
