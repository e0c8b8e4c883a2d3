"""`amos-fl init`: the settings of a first run, from five questions or from options."""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from amos_fl.api.settings import settled
from amos_fl.cli.setting_options import leaves, takes_settings
from amos_fl.cli.settings import Flags, names
from amos_fl.cohort.table import SPLITS, Cohort
from amos_fl.errors import AmosError, already_exists
from amos_fl.escape.terminal import visible
from amos_fl.files import write_text
from amos_fl.runs.config import RunConfig
from amos_fl.runs.layers import Layer, merge

PHANTOM = "phantom"
ALL = "all"
SHOWN = ("cohort", "sites", "hold_out", "model", "plan", "strategy", "rounds", "local_steps", "device")
"""The settings that the file always speaks of, those left at their defaults in a comment."""

Known = tuple[RunConfig, Cohort]
"""What is known so far, with the defaults of the rest; of the phantom, the sites alone."""


@takes_settings("engine", "prepare_workers")
def init(
    flags: Flags,
    out: Annotated[Path, typer.Argument(help="The settings file to write.")] = Path("run.yaml"),
    ask: Annotated[
        bool | None, typer.Option("--ask/--no-ask", help="Ask for what no option says; default: on a terminal.")
    ] = None,
) -> None:
    """Write the settings of a first run, asking at most five questions; each answer is checked at once."""
    if out.exists():
        raise already_exists(out, "name another file, or remove it")
    given = {key: value for key, value in flags.items() if value not in (None, {})}
    settled([Layer("command line", given)])
    for keys, question in QUESTIONS.items():
        if (sys.stdin.isatty() if ask is None else ask) and not set(keys) & set(given):
            given = merge(given, _answer(question, given))
    config, cohort = settled([Layer("answers", given)])
    write_text(out, "\n".join([*_head(out), *_lines(given, config)]) + "\n")
    typer.echo(f"wrote {out}: {_in_words(config, cohort)}")
    typer.echo(f"see what it costs:  amos-fl simulate --config {out} --dry-run")
    typer.echo(f"start it:           amos-fl simulate --config {out}")


def _answer(question: "_Question", given: dict[str, Any]) -> dict[str, Any]:
    """The settings that the user answers with, asked again until they are valid."""
    text, default, settings_in = question(settled([Layer("answers", given)]))
    while True:
        try:
            said = input(f"{visible(text)} [{default}]: ").strip() or default
        except EOFError:
            raise AmosError("the questions ended without an answer; give options instead, or --no-ask") from None
        try:
            answer = settings_in(said)
            settled([Layer("answer", merge(given, answer))])
            return answer
        except AmosError as error:
            typer.echo(f"  {visible(str(error))}")


_Question = Callable[[Known], tuple[str, str, Callable[[str], dict[str, Any]]]]
"""From what is known: what to ask, the default, and how an answer becomes settings."""


def _data(known: Known) -> tuple[str, str, Callable[[str], dict[str, Any]]]:
    here = "cohort.csv" if Path("cohort.csv").is_file() else PHANTOM
    text = "Your scans: a cohort.csv or its folder (amos-fl data makes one), or phantom for synthetic ones"
    return text, here, lambda said: {} if said == PHANTOM else {"cohort": str(Path(said).expanduser().resolve())}


def _sites(known: Known) -> tuple[str, str, Callable[[str], dict[str, Any]]]:
    config, cohort = known
    there = []
    for site in cohort.sites:
        counts = [f"{len(cohort.of(site=site, split=split))} {split}" for split in SPLITS]
        about = "" if config.cohort is None else f": {', '.join(counts)}"
        there.append(f"  {site}{about}{'' if site in cohort.seen_sites else ' (unseen: scored, never trained on)'}")
    typer.echo(visible("\n".join(there)))

    def settings_in(said: str) -> dict[str, Any]:
        words = [word for word in names(said) or [] if word != ALL]
        held = [word[1:] for word in words if word.startswith("-")]
        part = [word for word in words if not word.startswith("-")]
        return ({"sites": [*part, *held]} if part else {}) | ({"hold_out": held} if held else {})

    return "Sites that take part, such as A,B,C; -C holds C out as an unseen scanner", ALL, settings_in


def _network(known: Known) -> tuple[str, str, Callable[[str], dict[str, Any]]]:
    config, _ = known
    default = "small" if config.cohort is None or config.device == "cpu" else "unet auto"

    def settings_in(said: str) -> dict[str, Any]:
        model, *plan = said.split()
        if plan[1:]:
            raise AmosError(f"{said}: give the network and at most one plan, such as: unet auto")
        return {"model": model} | ({"plan": plan[0]} if plan else {})

    text = "Network, and a plan if not its own: auto, amos-ct, amos-mr, a file (amos-fl models lists the networks)"
    return text, default, settings_in


def _strategy(known: Known) -> tuple[str, str, Callable[[str], dict[str, Any]]]:
    return "Method (amos-fl methods lists them)", known[0].strategy, lambda said: {"strategy": said}


def _budget(known: Known) -> tuple[str, str, Callable[[str], dict[str, Any]]]:
    config, _ = known

    def settings_in(said: str) -> dict[str, Any]:
        found = re.fullmatch(r"(\d+) *[x×] *(\d+)(?: +(?:on +)?(\S+))?", said)
        if found is None:
            raise AmosError(f"{said}: has the form ROUNDSxSTEPS DEVICE, such as 30x20 cpu")
        budget = {"rounds": int(found[1]), "local_steps": int(found[2])}
        return budget | ({"device": found[3]} if found[3] else {})

    text = "Rounds x steps at each site in a round, and where: cpu, cuda, mps or auto"
    return text, f"{config.rounds}x{config.local_steps} auto", settings_in


QUESTIONS: dict[tuple[str, ...], _Question] = {
    ("cohort",): _data,
    ("sites", "hold_out"): _sites,
    ("model", "plan", "start_from"): _network,
    ("strategy",): _strategy,
    ("rounds", "local_steps", "local_epochs", "device"): _budget,
}
"""The questions, by the settings that they are about: one that an option gives is not asked for."""


def _in_words(config: RunConfig, cohort: Cohort) -> str:
    unseen = ", ".join(cohort.unseen_sites) or "none"
    return f"{config.strategy} with {config.model} at {', '.join(cohort.seen_sites)}; unseen: {unseen}"


def _head(out: Path) -> Iterator[str]:
    yield "# A federation on this machine. What it costs, then the run itself:"
    yield f"#   amos-fl simulate --config {out} --dry-run"
    yield f"#   amos-fl simulate --config {out}"
    yield "# An option of the command goes before a line of this file. All settings, with their defaults:"
    yield "#   amos-fl simulate --help"


def _lines(given: Mapping[str, Any], config: RunConfig) -> Iterator[str]:
    """The file: every setting below its description, those that were not given in a comment."""
    default = config.model_dump(mode="json") | {"plan": "auto" if config.lacks_plan else config.plan.name}
    for key in RunConfig.model_fields:
        if key not in given and key not in SHOWN:
            continue
        yield ""
        yield f"# {_described(key)}"
        value = {key: given[key] if key in given else default[key]}
        text = yaml.safe_dump(value, sort_keys=False, default_flow_style=False, width=100, allow_unicode=True)
        yield from (line if key in given else f"# {line}" for line in text.splitlines())


def _described(key: str) -> str:
    field = RunConfig.model_fields[key]
    about = "; ".join(f"{name}: {leaf.description}" for name, leaf in leaves().items() if name.startswith(f"{key}."))
    return str(field.description) + (f" {about}" if about and key != "plan" else "")
