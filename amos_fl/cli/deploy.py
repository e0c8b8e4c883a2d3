"""`amos-fl deploy`: keys, certificates and folders of a deployment, a check from a site's side, and its runs."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from amos_fl.cli.deploy_run import HostOption, RootArgument, deployment_folder
from amos_fl.cli.progress import plain_console
from amos_fl.cli.settings import names, phantom
from amos_fl.cohort.table import Cohort, read_cohort
from amos_fl.deploy.bundle import write_bundle
from amos_fl.deploy.certificates import certificate_fingerprint, read_certificate
from amos_fl.deploy.check import check_site
from amos_fl.deploy.create import PORT, create_deployment, renew_certificate
from amos_fl.deploy.enroll import Enrolled
from amos_fl.deploy.enroll import enroll as make
from amos_fl.deploy.enroll import register as keep
from amos_fl.deploy.findings import Finding
from amos_fl.deploy.keys import fingerprint, spoken, spoken_fingerprint
from amos_fl.deploy.layout import AUTHORITY, DEMONSTRATION_KEY, read_deployment, site_folder_name
from amos_fl.deploy.running import OWN_PORT
from amos_fl.deploy.shipped import SERVER_FILES, SITE_FILES, texts_of
from amos_fl.errors import AmosError
from amos_fl.files import sha256_of_file
from amos_fl.wording import counted
from amos_fl_clients.federation.settings import read_settings
from amos_fl_clients.operation.registration import ask_registered

DeploymentArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the deployment.")]
SiteArgument = Annotated[str, typer.Argument(metavar="SITE", help="A site of the deployment, e.g. A.")]
FolderArgument = Annotated[Path, typer.Argument(metavar="FOLDER", help="The site's folder, as its bundle unpacks.")]

DEMONSTRATION_WARNING = (
    "The keys of all sites were made here: FOR THE DEMONSTRATION ONLY. "
    "Whoever holds this folder can pose as any site; with real scans, every site makes its own key."
)


def init(
    root: DeploymentArgument,
    cohort: Annotated[
        str | None,
        typer.Option(help="Divide these scans among the sites' folders: cohort.csv, its folder, or phantom."),
    ] = None,
    sites: Annotated[
        str | None, typer.Option(help="The sites, e.g. A,B,C.  [default: those of the cohort, or A to H]")
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option(help="A name or address of the SuperLink; the first is the one for hospitals. May be repeated."),
    ] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="The SuperLink's port.  [default: 8000]")] = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long the SuperLink's certificate is valid.")] = 365,
    demo_keys: Annotated[
        bool, typer.Option("--demo-keys", help="Make the keys of all sites here, for the demonstration only.")
    ] = False,
    renew_certificates: Annotated[
        bool, typer.Option("--renew-certificates", help="Only renew the SuperLink's certificate; the authority stays.")
    ] = False,
) -> None:
    """Make a deployment: its authority, the SuperLink's certificate, and a folder for each site."""
    if renew_certificates:
        if unused := [
            option
            for option, given in (
                ("--cohort", cohort),
                ("--sites", sites),
                ("--port", port),
                ("--demo-keys", demo_keys),
            )
            if given
        ]:
            raise AmosError(f"--renew-certificates renews the certificate alone; leave out {', '.join(unused)}")
        _renew(root, host or [], days)
        return

    found = _cohort(cohort)
    wanted = names(sites) or list(found.sites if found else "ABCDEFGH")
    deployment = create_deployment(
        root,
        wanted,
        hosts=host or [],
        port=port or PORT,
        days=days,
        cohort=found,
        demonstration_keys=demo_keys,
        beside={**texts_of("amos_fl_server", SERVER_FILES), ".env": f"AMOS_FL_PORT={port or PORT}\n"},
    )
    typer.echo(f"wrote {root}: {counted(len(deployment.sites), 'site')} ({', '.join(deployment.sites)})")
    typer.echo(f"hospitals reach the SuperLink at {deployment.host}, port {deployment.port}")
    if not host:
        typer.echo("  that name is valid on this machine only; for other machines give --host")
    _say_authority(root / "authority/ca.crt")
    typer.echo(f"keep {root / 'authority'} off the SuperLink's machine; only renewing a certificate needs it")
    if demo_keys:
        typer.secho(DEMONSTRATION_WARNING, err=True, fg="red")
    else:
        first = deployment.sites[0]
        typer.echo(
            f"next: amos-fl deploy bundle {root} {first} -o site-{first.lower()}.zip, and likewise for every site"
        )


def _renew(root: Path, hosts: list[str], days: int) -> None:
    deployment = renew_certificate(root, hosts=hosts, days=days)
    ends = read_certificate(root / "superlink/server.crt").not_valid_after_utc
    typer.echo(f"renewed {root / 'superlink/server.crt'}, valid until {ends:%Y-%m-%d}")
    typer.echo(f"  for {', '.join(deployment.names)}")
    typer.echo("restart the SuperLink; sites need nothing, because the authority is the same")


def _say_authority(certificate: Path) -> None:
    typer.echo(f"authority:   {spoken(certificate_fingerprint(read_certificate(certificate)))}")


def _cohort(text: str | None) -> Cohort | None:
    if text is None:
        return None
    if text != "phantom":
        return read_cohort(text)

    return phantom()


def enroll(
    folder: FolderArgument,
    site: Annotated[str | None, typer.Option(help="The site's name, if its bundle has not arrived yet.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the present key with a new one.")] = False,
) -> None:
    """At a hospital: make this site's key here; only its public half is to be sent."""
    done = make(folder, site, replace=replace)
    typer.echo(f"site {done.site}: made its key, which stays in {folder}")
    typer.echo(f"send this file to the coordinator: {done.public_key_file}")
    _say_fingerprint(done)
    if (folder / AUTHORITY).exists():
        _say_authority(folder / AUTHORITY)
    typer.echo("compare both with the coordinator over the phone")
    if replace:
        typer.echo("until the coordinator has registered it, this site cannot take part")


def register(
    root: DeploymentArgument,
    site: SiteArgument,
    public_key: Annotated[Path, typer.Argument(metavar="PUB", help="The .pub file that the site sent.")],
    replace: Annotated[bool, typer.Option("--replace", help="Replace the site's present key with this one.")] = (False),
) -> None:
    """At the coordinator: keep the public key that a site sent."""
    done = keep(root, site, public_key, replace=replace)
    typer.echo(f"site {done.site}: registered as {done.public_key_file}")
    _say_fingerprint(done)
    _say_authority(root / "authority/ca.crt")
    typer.echo(f"compare both with the site over the phone; then: amos-fl deploy admit {root}")


def _say_fingerprint(done: Enrolled) -> None:
    typer.echo(f"fingerprint: {spoken_fingerprint(done.public_key)}   ({fingerprint(done.public_key)})")


def bundle(
    root: DeploymentArgument,
    site: SiteArgument,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file to write.  [default: site-SITE.zip]")
    ] = None,
) -> None:
    """Pack exactly what one hospital needs, and nothing of the others'."""
    out = out or Path(f"{site_folder_name(site)}.zip")
    if out.is_dir():
        out = out / f"{site_folder_name(site)}.zip"
    packed = write_bundle(root, site, out, beside=texts_of("amos_fl_clients", SITE_FILES))
    files = [name.partition("/")[2] for name in packed if not name.endswith("/")]
    typer.echo(f"wrote {out} for site {site}: {', '.join(files)}")
    typer.echo(f"SHA-256:     {sha256_of_file(out)}")
    _say_authority(root / "authority/ca.crt")
    if any(name.endswith(DEMONSTRATION_KEY) for name in packed):
        typer.secho(f"It holds a private key. {DEMONSTRATION_WARNING}", err=True, fg="red")


def admit(root: RootArgument = None, host: HostOption = None) -> None:
    """At the coordinator: tell the running SuperLink the registered keys, and no others."""
    from amos_fl_server.operation.admission import admit_sites

    place = deployment_folder(root)
    done = admit_sites(place, host=host)
    for site in read_deployment(place).sites:
        status = done.status.get(site, "no key registered")
        typer.echo(f"site {site}: {status}{', new' if site in done.new else ''}")
    if done.removed:
        typer.echo(f"removed {counted(done.removed, 'key')} that no site has any more")


def check(
    folder: FolderArgument,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for each answer.")] = 10.0,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="The --port that the site's SuperNode is started with.")
    ] = OWN_PORT,
) -> None:
    """At a hospital: test everything this site needs, and report what is wrong. Exit code 2 if anything is."""
    findings = check_site(folder, ask_registered, read_settings, timeout_s=timeout, port=port)
    _show(findings)
    failed = sum(finding.outcome == "wrong" for finding in findings)
    unknown = sum(finding.outcome == "not checked" for finding in findings)
    rest = f", {unknown} not checked" if unknown else ""
    typer.echo(
        f"{len(findings)} checks: {failed} wrong{rest}" if failed else f"{len(findings)} checks: all is well{rest}"
    )
    if failed:
        raise typer.Exit(2)


def _show(findings: list[Finding]) -> None:
    table = Table("check", "", "what was found", "what to do")
    styles = {"ok": "green", "wrong": "bold red", "not checked": "dim"}
    for finding in findings:
        table.add_row(finding.check, finding.outcome, finding.found, finding.remedy, style=styles[finding.outcome])
    plain_console().print(table)
