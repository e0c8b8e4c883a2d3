"""`amos-fl models`: what each network costs, beside what is published of it."""

import json
import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table

from amos_fl.cli.options import DeviceOption, JsonOption
from amos_fl.cli.progress import plain_console
from amos_fl.cli.setting_options import setting
from amos_fl.errors import AmosError
from amos_fl.escape.csv_cells import DictWriter
from amos_fl.networks.catalogue import NETWORKS, network_named
from amos_fl.volumes.plan import Triple
from amos_fl.wording import MISSING


def models(
    names: Annotated[list[str] | None, typer.Argument(help="Only these networks; default: all.")] = None,
    timing: Annotated[bool, typer.Option("--timing/--no-timing", help="Measure time and memory, too.")] = True,
    device: DeviceOption = None,
    patch: Annotated[
        str | None, typer.Option(help="Patch in voxels for time and memory; default: 64,64,64, on a GPU 160,160,64.")
    ] = None,
    batch_size: Annotated[int, setting("training.batch_size", flag="--batch-size")] = 2,
    threads: Annotated[int, setting("training.threads")] = 2,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print it as CSV.")] = False,
) -> None:
    """List the networks: parameters and multiply-accumulates beside the published, time and memory on this device."""
    from amos_fl.device import device_named
    from amos_fl.networks.cost import network_cost
    from amos_fl.networks.measure import measure

    for name in names or ():
        network_named(name)
    chosen = device_named(device or "auto")
    size = _patch(patch, chosen)
    rows: list[dict[str, Any]] = []
    for name in names or NETWORKS:
        cost = network_cost(name)
        row = {
            "model": name,
            "description": network_named(name).description,
            "parameters": cost.parameters,
            "macs": cost.macs,
        }
        row |= {f"paper_{key}": value for key, value in (asdict(cost.published) if cost.published else {}).items()}
        if timing:
            if sys.stderr.isatty():
                print(f"measuring {name}", file=sys.stderr)
            try:
                found = measure(name, device=chosen, patch=size, batch_size=batch_size, threads=threads)
                row |= {"device": chosen, "patch": "x".join(map(str, size)), "batch_size": batch_size, **asdict(found)}
            except AmosError as error:
                row["failed"] = str(error)
        rows.append(row)
    if as_json:
        print(json.dumps(rows, indent=2))
    elif as_csv:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        writer = DictWriter(sys.stdout, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        about = f"{chosen}, {'x'.join(map(str, size))} voxels, batch {batch_size}" if timing else ""
        _show(rows, about)


def _patch(text: str | None, device: str) -> Triple:
    if text is None:
        return (64, 64, 64) if device == "cpu" else (160, 160, 64)
    try:
        x, y, z = (int(side) for side in text.replace("x", ",").split(","))
        if min(x, y, z) < 1:
            raise ValueError
    except ValueError:
        raise AmosError(f"--patch {text}: must be three sides in voxels, like 64,64,64") from None
    return (x, y, z)


def _show(rows: list[dict[str, Any]], about: str) -> None:
    console = plain_console()
    table = Table(title="parameters, and multiply-accumulates of one 1x128x128x128 input")
    columns = ["", "million parameters", "published", "", "GMAC", "published", ""]
    for column in columns + (["window s", "window GiB", "step s", "step GiB"] if about else []):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        millions, giga = row["parameters"] / 1e6, row["macs"] / 1e9
        cells = [
            row["model"],
            *_beside(millions, row.get("paper_parameters_millions"), "%+.3f %%"),
            *_beside(giga, row.get("paper_flops_giga"), "%+.2f %%", "*" if row.get("paper_note") else ""),
        ]
        if about:
            for kind in ("window", "step"):
                seconds = row.get(f"{kind}_seconds")
                cells += [MISSING if seconds is None else f"{seconds:.2f}", _gib(row.get(f"{kind}_bytes"))]
        table.add_row(*cells)
    console.print(table)
    for row in rows:
        if row.get("paper_note"):
            console.print(f"* {row['model']}: {row['paper_note']}", soft_wrap=True)
        if row.get("failed"):
            console.print(row["failed"], soft_wrap=True)
    console.print(
        "Published, where nothing else is said, by Table 4 of Ji et al., AMOS, NeurIPS 2022; its FLOPs are "
        "multiply-accumulates. Counted are convolutions, linear layers, attention and interpolation, deep-supervision "
        "heads included.",
        soft_wrap=True,
    )
    if about:
        console.print(
            f"Time and memory: {about} (a window has one patch); memory in addition to the bare program's.",
            soft_wrap=True,
        )


def _beside(value: float, published: float | None, form: str, mark: str = "") -> list[str]:
    if published is None:
        return [f"{value:.2f}", "", ""]
    return [f"{value:.2f}", f"{published:.2f}{mark}", form % (100 * (value / published - 1))]


def _gib(size: int | None) -> str:
    return MISSING if size is None else f"{size / 2**30:.2f}"
