"""The folder of a deployment, the folder of a site, and the two files that describe them.

DIR/deployment.yaml         where the SuperLink is reached, and the sites
DIR/authority/              ca.key (0600), ca.crt: signs the SuperLink's certificate, and is needed for nothing else
DIR/superlink/              server.key (0600), server.crt, ca.crt, submitters.json, state/, modules/: what it mounts
DIR/submit/token            (0600) by which runs may be submitted
DIR/registered/site-a.pub   the public key that site A handed over
DIR/sites/site-a/           the folder of a site, as the site gets it:

site-a/site.yaml            who this site is and where the SuperLink is: the coordinator's words
site-a/settings.yaml        what the site computes with and what it allows: the hospital's own words
site-a/organs.csv           which label value is which organ in the deployment's runs
site-a/ca.crt, README.md    the authority to trust, and a page of instructions
site-a/keys/                site.key (0600), site.pub
site-a/data/, state/        cohort.csv and the scans (only read); the store and what is kept between rounds
"""

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from amos_fl.errors import AmosError
from amos_fl.files import write_text
from amos_fl.invalid import wrong_setting
from amos_fl.safe_yaml import NotYaml, read_yaml_file

SERVICE = "superlink"
"""The SuperLink's name on the network of a compose file."""
LOCAL_NAMES = (SERVICE, "localhost", "127.0.0.1")
DEPLOYMENT, SITE, SETTINGS, AUTHORITY, INSTRUCTIONS = (
    "deployment.yaml",
    "site.yaml",
    "settings.yaml",
    "ca.crt",
    "README.md",
)
ORGANS = "organs.csv"
"""The file of the organs that a deployment's runs learn (AMOS's if there is none), in its folder and in a site's."""
KEY, PUBLIC_KEY = "keys/site.key", "keys/site.pub"
DEMONSTRATION_KEY = "keys/for-the-demonstration-only.key"

_SITE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,62}")
_Read = TypeVar("_Read", bound=BaseModel)


class Deployment(BaseModel):
    """The SuperLink's address for hospitals, the names that its certificate covers, and the sites."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    host: str
    port: int = Field(ge=1, le=65535)
    names: tuple[str, ...]
    sites: tuple[str, ...]
    demonstration_keys: bool = False
    phantom: bool = False


class SiteConnection(BaseModel):
    """A site's name, its SuperLink's address, and the versions there."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    site: str
    host: str
    port: int = Field(ge=1, le=65535)
    key: str = KEY
    flwr: str
    amos_fl: str


def site_folder_name(site: str) -> str:
    """The name of a site's folder and service.

    >>> site_folder_name("A"), site_folder_name("St.Mary")
    ('site-a', 'site-st.mary')
    """
    return f"site-{site.lower()}"


def checked_sites(sites: list[str]) -> tuple[str, ...]:
    """Site names that can name folders, each once.

    Raises:
        AmosError: a name that cannot, or two that differ only in case.
    """
    for site in sites:
        if not _SITE_NAME.fullmatch(site):
            raise AmosError(f"site {site!r}: a site's name may hold letters, digits, '.', '_' and '-' only")
    folders = [site_folder_name(site) for site in sites]
    if twice := {folder for folder in folders if folders.count(folder) > 1}:
        same = ", ".join(site for site in sites if site_folder_name(site) in twice)
        raise AmosError(f"sites {same}: would share one folder; give every site its own name")
    if not sites:
        raise AmosError("a deployment needs a site; give --sites A,B or --cohort")
    return tuple(sites)


def site_folder(root: Path, site: str) -> Path:
    return root / "sites" / site_folder_name(site)


def registered_key(root: Path, site: str) -> Path:
    return root / "registered" / f"{site_folder_name(site)}.pub"


def address_of(host: str, port: int) -> str:
    """A host and a port as one string.

    >>> address_of("superlink", 8000), address_of("::1", 8000)
    ('superlink:8000', '[::1]:8000')
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def versions() -> dict[str, str]:
    """This installation's versions of what both ends of a deployment must share."""
    found = {}
    for name in ("flwr", "amos-fl"):
        try:
            found[name.replace("-", "_")] = version(name)
        except PackageNotFoundError:
            found[name.replace("-", "_")] = "unknown"
    return found


def read_deployment(root: Path) -> Deployment:
    """The deployment in a folder.

    Raises:
        AmosError: it holds none, or a wrong setting.
    """
    deployment = _read(root / DEPLOYMENT, Deployment, "make it with 'amos-fl deploy init'")
    checked_sites(list(deployment.sites))
    return deployment


def organs_of(root: Path) -> dict[int, str]:
    """The organs that the runs of a deployment learn, by label."""
    from amos_fl.cohort.organs import AMOS_ORGANS
    from amos_fl.cohort.table import read_organs

    return read_organs(root / ORGANS) if (root / ORGANS).is_file() else dict(AMOS_ORGANS)


def read_site(folder: Path) -> SiteConnection:
    """The coordinator's description of the site in a folder.

    Raises:
        AmosError: it holds none, or a wrong setting.
    """
    return _read(folder / SITE, SiteConnection, "unpack the coordinator's bundle into this folder")


def _read(path: Path, model: type[_Read], remedy: str) -> _Read:
    try:
        return model.model_validate(_read_mapping(path))
    except FileNotFoundError:
        raise AmosError(f"{path}: no such file; {remedy}") from None
    except ValidationError as error:
        raise wrong_setting(error, model, str(path)) from None


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        found = read_yaml_file(path)
    except FileNotFoundError:
        raise
    except OSError:
        raise AmosError(f"{path}: cannot be read as a text file") from None
    except NotYaml as error:
        where = f", line {error.line}" if error.line else ""
        raise AmosError(f"{path}{where}: is not valid YAML; compare it with the page on deploying") from None
    if not isinstance(found, dict):
        raise AmosError(f"{path}: must hold settings, one 'name: value' per line")
    return found


def write_deployment(root: Path, deployment: Deployment) -> None:
    """Write deployment.yaml with what each setting means."""
    names = "".join(f"  - {_plain(name)}\n" for name in deployment.names)
    sites = "".join(f"  - {_plain(site)}\n" for site in deployment.sites)
    demonstration = str(deployment.demonstration_keys).lower()
    write_text(
        root / DEPLOYMENT,
        f"""\
# A deployment of amos-fl. Nothing in this file is secret.

# Where the hospitals reach the SuperLink. Their bundles say this, so make them again after a change.
host: {_plain(deployment.host)}
port: {deployment.port}

# What the SuperLink's certificate is good for. After a change: amos-fl deploy init DIR --renew-certificates
names:
{names}
# Who takes part. To add a hospital, add a line here and make its bundle.
sites:
{sites}
# true: the keys of all sites were made here, for the demonstration only. Never with anybody's scans.
demonstration_keys: {demonstration}

# true: the sites hold the phantom, so runs have the demonstration's rounds and steps where nobody says otherwise.
phantom: {str(deployment.phantom).lower()}
""",
    )


def write_site(folder: Path, connection: SiteConnection) -> None:
    """Write site.yaml with what each setting means."""
    mark = "# THE KEY WAS MADE CENTRALLY: FOR THE DEMONSTRATION ONLY.\n" if connection.key == DEMONSTRATION_KEY else ""
    write_text(
        folder / SITE,
        f"""\
# Who this site is and where it reports to, as its coordinator says. What the site allows stands in {SETTINGS}.
site: {_plain(connection.site)}
host: {_plain(connection.host)}
port: {connection.port}

{mark}# This site's key, which never leaves it.
key: {_plain(connection.key)}

# What the SuperLink runs; this site needs the same.
flwr: {_plain(connection.flwr)}
amos_fl: {_plain(connection.amos_fl)}
""",
    )


def write_settings(folder: Path, site: str) -> None:
    """Write the settings that a hospital begins with; its own are left as they are."""
    if (folder / SETTINGS).exists():
        return
    write_text(
        folder / SETTINGS,
        f"""\
# What this site computes with and what it allows. These are the hospital's own words; no other file overrides them.
# Paths are relative to this file.
site: {_plain(site)}
cohort: data/cohort.csv
store: state/store
state: state

# cpu, cuda, or cuda:1 for the second GPU
device: cpu

# The coordinator can read each update of this site: there is no secure aggregation and no differential privacy.

# Scores of single cases: none leave the site (only sums and counts of scores and volumes do; of one test case they
# are its own), pseudonyms, or named
share_case_scores: none

# Histograms of spacing, shape and CT intensity of the training scans, of which a run can make its plan: do they leave?
# Bins with fewer cases or voxels than withhold_counts_below never do.
share_histograms: false
withhold_counts_below: 3

# Slices of the test cases, with label and prediction, and their scores, for 'amos-fl-site report'; they stay here
pictures: state/pictures

# What else this site may refuse; take the # away:
# refuse_evaluation_on: [test]     # splits on which no network is scored
# max_steps_per_round: 500         # a request for more training in one round is refused
# allowed_methods: [fedavg]        # 'amos-fl methods' lists them

# A researcher's own module runs here only if it is listed with the SHA-256 of its file, as
# 'amos-fl-site module-hash my_lab.nets' prints it; read the file first, and put it into modules/ beside this one.
# allowed_modules:
#   my_lab.nets: 9f370da529c5...
""",
    )


def _plain(value: str) -> str:
    """A string in YAML on one line, in quotes where it would be read as something else ("on", "1e3")."""
    return yaml.safe_dump(value, default_style=None, width=10_000).removesuffix("...\n").strip()
