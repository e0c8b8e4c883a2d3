"""`amos-fl-site`: the command with which a hospital runs its own site."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from amos_fl.errors import AmosError
from amos_fl.escape.terminal import visible
from amos_fl.files import final_name, in_words, private_folder
from amos_fl.own_code import sha256_of_module
from amos_fl.threads import spin_briefly
from amos_fl_clients.federation.settings import SiteSettings, read_settings
from amos_fl_clients.flower.programs import options_in

app = typer.Typer(
    name="amos-fl-site",
    help="A hospital's own site: start it, pause it, see what was asked of it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
SettingsArgument = Annotated[Path, typer.Argument(metavar="SETTINGS", help="The site's settings file, or its folder.")]
_FLOWERS_OWN = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def _settings_file(path: Path) -> Path:
    if path.is_dir():
        names = ("settings.yaml", "settings.yml", "site.json")
        return next((path / name for name in names if (path / name).is_file()), path / names[0])
    return path


def _settings(path: Path) -> SiteSettings:
    file = _settings_file(path)
    if not file.exists():
        raise AmosError(f"{file}: no such file", "give the site's folder, or its settings file")
    return read_settings(file)


@app.command()
def pause(
    settings: SettingsArgument, why: Annotated[str, typer.Option(help="A note for yourselves; it stays here.")] = ""
) -> None:
    """Refuse every request from now on. Work in progress ends before its next step."""
    from amos_fl_clients.federation.policy import pause as pause_site

    site = _settings(settings)
    try:
        pause_site(site.state, why)
    except OSError as error:
        raise AmosError(
            f"site {site.site} is NOT paused: {site.state} may not be written ({error.strerror})", "stop its SuperNode"
        ) from None
    typer.echo(f"site {site.site} is paused; every request is refused until: amos-fl-site resume {settings}")


@app.command()
def resume(settings: SettingsArgument) -> None:
    """Take part again."""
    from amos_fl_clients.federation.policy import resume as resume_site

    site = _settings(settings)
    try:
        was_paused = resume_site(site.state)
    except OSError as error:
        raise AmosError(
            f"site {site.site} is still paused: {site.state} may not be written ({error.strerror})",
            f"let the user with id {os.getuid()} write there",
        ) from None
    typer.echo(f"site {site.site} takes part again" if was_paused else f"site {site.site} was not paused")


@app.command()
def status(
    settings: SettingsArgument, lines: Annotated[int, typer.Option(min=0, help="Of the audit log.")] = 10
) -> None:
    """Show whether this site is connected and paused, what it allows, and the last lines of its audit log."""
    from amos_fl.deploy.running import connection_in_words
    from amos_fl_clients.federation.audit import AUDIT_LOG
    from amos_fl_clients.federation.policy import is_paused

    site = _settings(settings)
    typer.echo(f"site {site.site} {'is PAUSED' if is_paused(site.state) else 'takes part'}")
    typer.echo(f"connection:          {connection_in_words(settings, site.state)}")
    typer.echo(f"steps a round:       {'any' if site.max_steps_per_round is None else site.max_steps_per_round}")
    typer.echo(f"methods allowed:     {'any' if site.allowed_methods is None else ', '.join(site.allowed_methods)}")
    modules = "any" if site.allowed_modules is None else ", ".join(site.allowed_modules) or "none"
    typer.echo(f"own code allowed:    {modules}")
    typer.echo(f"evaluation refused:  {', '.join(site.refuse_evaluation_on) or 'on no split'}")
    typer.echo(f"scores per case:     {site.share_case_scores}")
    shares = f"yes, without counts below {site.withhold_counts_below}" if site.share_histograms else "no"
    typer.echo(f"histograms of scans: {shares}")
    typer.echo(f"apps allowed:        {', '.join(site.allowed_apps) or 'none'}")
    log = site.state / AUDIT_LOG
    typer.echo(f"audit log:           {log}")
    if lines and log.is_file():
        for line in log.read_text(encoding="utf-8").splitlines()[-lines:]:
            typer.echo(f"  {line}")


@app.command()
def watch(
    settings: SettingsArgument,
    page: Annotated[bool, typer.Option("--page", help="Serve it as one page, to this machine alone.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="With --page: the port; 0: a free one.")] = 0,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks at the files.")] = 2.0,
) -> None:
    """Watch this site's own part: what it was asked, what it answered, and what it does now.

    It only reads the site's files, and asks nothing of anybody.
    """
    from amos_fl.escape.console import Console
    from amos_fl.live.command import watch_view
    from amos_fl_clients.operation.site_view import WatchedSite

    watch_view(WatchedSite(_settings(settings)).look, Console(highlight=False), page=page, port=port, every_s=every)


@app.command()
def report(
    settings: SettingsArgument,
    out: Annotated[Path | None, typer.Option(help="The folder of the page; by default that of the pictures.")] = None,
) -> None:
    """Make a page of this site's own test cases, with the last network that was scored on them; it stays here."""
    from amos_fl.report.site_page import write_site_report
    from amos_fl_clients.operation.scores_sent import scores_in_words

    site = _settings(settings)
    if site.pictures is None:
        raise AmosError(
            f"site {site.site} keeps no pictures of its test cases; write 'pictures: state/pictures' into "
            f"{_settings_file(settings)}, and try again when a run has scored them"
        )
    private_folder(out or site.pictures)
    page = write_site_report(site.site, site.pictures, out or site.pictures, site.cohort, scores_in_words(site))
    typer.echo(f"wrote {page}; it holds pictures of patients")


@app.command("app-hash")
def app_hash(
    folder: Annotated[Path | None, typer.Argument(help="A Flower app; none: the one of this installation.")] = None,
) -> None:
    """Print the SHA-256 by which a site's settings allow a Flower app."""
    from amos_fl_clients.operation.allowed_apps import archive_of, sha256_of_app, shipped_app

    typer.echo(sha256_of_app(archive_of(folder or shipped_app())))


@app.command("module-hash")
def module_hash(module: Annotated[str, typer.Argument(help="A module installed here, like my_lab.methods.")]) -> None:
    """Print the line by which a site's allowed_modules allow a researcher's module; nothing of it is run."""
    digest = sha256_of_module(module)
    if digest is None:
        raise AmosError(f"{module}: no file found for this module; install it, or run this in its folder")
    typer.echo(f"{module}: {digest}")


@app.command(context_settings=_FLOWERS_OWN)
def supernode(context: typer.Context, settings: SettingsArgument) -> None:
    """Start this site: `flower-supernode` with its own options after SETTINGS, and a check of every app.

    In a folder with site.yaml, the SuperLink's address, the authority and the key come from it unless options say
    otherwise.
    """
    from amos_fl_clients.flower.refusals import Site
    from amos_fl_clients.operation.processes import only_supernode, run_supernode

    site = _settings_to_start(settings, context.args)
    if any(argument.startswith("--node-config") for argument in context.args):
        raise AmosError("amos-fl-site supernode: gives the SuperNode its --node-config itself; leave it out")
    path = str(_settings_file(settings).resolve())
    if any(sign in path for sign in "'\"\\\n"):
        raise AmosError(f"{path}: Flower cannot be given a path with quotes or backslashes; rename the folder")
    node_config = f'site="{site.site}" site-settings="{path}"'
    arguments = [*_connection(settings, context.args), *context.args, "--node-config", node_config]
    superlink = options_in(arguments).get("--superlink", "its address")
    with only_supernode(site.site, site.state):
        _check_port(context.args)
        run_supernode(arguments, Site(site.site, settings, site.state, superlink))


def _settings_to_start(path: Path, given: list[str]) -> SiteSettings:
    """The settings of the site, after what `amos-fl deploy check` checks on this machine alone, without the scans.

    Raises:
        AmosError: something is wrong, so that the site could not take part.
    """
    from amos_fl.deploy.check import check_start
    from amos_fl.deploy.keys import read_private_key
    from amos_fl.deploy.layout import SITE
    from amos_fl.deploy.local_checks import check_device

    said = options_in(given)
    if key := said.get("--auth-supernode-private-key"):
        read_private_key(Path(key).expanduser())
    if (path / SITE).is_file():
        encrypted = "--insecure" not in given
        key, trust = encrypted and not key, encrypted and "--root-certificates" not in said
        check_start(path, read_settings, key=key, trust=trust)
        return _settings(path)
    site = _settings(path)
    if (device := check_device(site)).outcome == "wrong":
        raise AmosError(f"site {site.site}: device: {device.found}", device.remedy)
    return site


def _check_port(given: list[str]) -> None:
    """Refuse to start where another program has the SuperNode's own port, of which Flower makes a traceback.

    Raises:
        AmosError: it is taken.
    """
    from amos_fl.deploy.running import OWN_PORT, free_port, is_free

    said = options_in(given)
    port, host = said.get("--port", str(OWN_PORT)), said.get("--host", "127.0.0.1")
    if port.isdigit() and 0 < int(port) < 65536 and not is_free(int(port), host):
        raise AmosError(
            f"port {port} of this machine is taken, perhaps by another site's SuperNode",
            f"add --port {free_port(int(port))} (only this machine's processes use it)",
        )


def _connection(folder: Path, given: list[str]) -> list[str]:
    """The options that site.yaml provides, except those given."""
    from amos_fl.deploy.layout import AUTHORITY, SITE, address_of, read_site

    if not (folder / SITE).is_file():
        return []
    site = read_site(folder)
    options = {"--superlink": address_of(site.host, site.port)}
    if "--insecure" not in given:
        options["--root-certificates"] = str(folder / AUTHORITY)
        options["--auth-supernode-private-key"] = str(folder / site.key)
    said = {argument.partition("=")[0] for argument in given}
    return [part for option, value in options.items() if option not in said for part in (option, value)]


@app.command(context_settings=_FLOWERS_OWN)
def superexec(context: typer.Context) -> None:
    """Start this site's SuperExec separately from its SuperNode: `flower-superexec` with a check of every app."""
    from amos_fl_clients.operation.processes import run_superexec

    run_superexec(context.args)


def main() -> None:
    """Run the command line. Exit code 0: done. 2: wrong input or settings, reported in one line."""
    spin_briefly()
    try:
        app(prog_name="amos-fl-site")
    except AmosError as error:
        print(f"amos-fl-site: {visible(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if not error.filename:
            raise
        said = in_words(error) or AmosError(f"{final_name(error)}: cannot be read or written ({error.strerror})")
        print(f"amos-fl-site: {visible(str(said))}", file=sys.stderr)
        sys.exit(said.exit_code)


if __name__ == "__main__":
    main()
