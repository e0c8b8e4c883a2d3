"""`amos-fl methods`: the federated methods that `--strategy` can name."""

import json
import re
from typing import Any

from rich.table import Table

from amos_fl.cli.options import JsonOption
from amos_fl.cli.progress import plain_console
from amos_fl.methods import METHODS, options_of
from amos_fl.methods.base import Method
from amos_fl.wording import MISSING


def methods(as_json: JsonOption = False) -> None:
    """List the federated methods: what each does, its options, and what it costs beyond FedAvg."""
    rows = [_row(name, kind) for name, kind in METHODS.items()]
    if as_json:
        print(json.dumps(rows, indent=2))
        return

    table = Table("method", "what it does", "options", "sent", "at a site", "at the server", "from", show_lines=True)
    for row in rows:
        options = "\n".join(f"{name}={_shown(value)}" for name, value in row["options"].items()) or MISSING
        models = [str(row[key] or MISSING) for key in ("sent_models", "site_models", "server_models")]
        table.add_row(row["method"], row["what"], options, *models, row["paper"])
    console = plain_console()
    console.print(table)
    console.print(
        "Sent: what each site receives besides the weights. At a site, at the server: what is kept between rounds. "
        "All three as multiples of the size of the network's trained weights. Options are given as --set "
        "strategy_options.NAME=VALUE, Flower's strategies by import path: --strategy "
        "flwr.serverapp.strategy:FedMedian",
        soft_wrap=True,
    )


def _shown(value: float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"


def _row(name: str, kind: type[Method]) -> dict[str, Any]:
    what = re.split(r"(?<=[.]) ", " ".join((kind.__doc__ or "").split()))[0]
    return {
        "method": name,
        "what": what,
        "options": options_of(kind),
        "sent_models": len(kind.sends),
        "site_models": kind.site_models + kind.second_model,
        "server_models": kind.server_models,
        "paper": kind.paper,
    }
