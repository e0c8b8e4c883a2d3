"""The page that a hospital's engineer gets with the bundle."""

from collections.abc import Mapping

from amos_fl.deploy.layout import DEMONSTRATION_KEY, SiteConnection, site_folder_name

_IN_IMAGE = "docker compose exec site amos-fl-site"
_WORK = (
    ("make the key (1)", "`amos-fl deploy enroll {folder}`", "docker compose run --rm enroll"),
    ("make the cohort (2)", "as under 2", "docker compose run --rm cohort --site {site}"),
    ("check everything (4)", "`amos-fl deploy check {folder}`", "docker compose run --rm check"),
    ("**start**", "`amos-fl-site supernode {folder}`", "docker compose up -d"),
    ("**look**: connected? what was asked, what left?", "`amos-fl-site status {folder}`", f"{_IN_IMAGE} status /site"),
    ("see its part in a run, live", "`amos-fl-site watch {folder}`", f"{_IN_IMAGE} watch /site"),
    ("see its own test cases: a page that stays here", "`amos-fl-site report {folder}`", f"{_IN_IMAGE} report /site"),
    ("read its log", "in its terminal", "docker compose logs -f site"),
    ("**pause**: refuse every request", "`amos-fl-site pause {folder}`", f"{_IN_IMAGE} pause /site"),
    ("take part again", "`amos-fl-site resume {folder}`", f"{_IN_IMAGE} resume /site"),
    ("**stop**", "Ctrl-C, or `kill -TERM` with its number", "docker compose down"),
)
"""What is done at a site, without a container and in one."""


def _table(site: str, folder: str) -> str:
    rows = [("to", "", "in a container"), ("---",) * 3]
    for what, here, in_image in _WORK:
        rows.append((what, here.format(folder=folder), f"`{in_image.format(site=site)}`"))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def instructions(connection: SiteConnection, organs: Mapping[int, str]) -> str:
    """The page for one site, in Markdown; `organs` are those that the deployment's runs learn, by label."""
    numbers = "".join(f"    {label},{name}\n" for label, name in organs.items())
    site, folder = connection.site, site_folder_name(connection.site)
    demonstration = connection.key == DEMONSTRATION_KEY
    key = (
        "The key in this folder was made centrally and is **for the demonstration only**: whoever made it can pose as\n"
        f"this site. Before real scans come near, make the site's own: `amos-fl deploy enroll {folder} --replace`."
        if demonstration
        else f"    amos-fl deploy enroll {folder}\n\n"
        "This makes the site's key and its `settings.yaml`, and prints two fingerprints. Send `keys/site.pub` to the\n"
        "coordinator (by e-mail is fine), call them, and compare both: the key's, so that no one else's key is\n"
        "registered as yours, and the authority's, so that this site trusts theirs and no other. `keys/site.key`\n"
        "never leaves this machine."
    )
    return f"""\
# Site {site} of a federation with amos-fl

This folder is all that site {site} needs. Scans stay here: what leaves is network weights, counts, losses and sums of
scores and volumes, and only over connections that this machine opens, to `{connection.host}`, port {connection.port},
with TLS. Nothing has to be opened inwards. The coordinator can read each of your updates: there is no secure
aggregation and no differential privacy.

You need amos-fl {connection.amos_fl} with flwr {connection.flwr}, as the container image that the coordinator names or
from `pip install 'amos-fl[dicom]'`, whose extra `dicom` reads the archive's export.

## 1. The key

{key}

## 2. The scans

An export of the hospital's archive, DICOM series with structure sets (RTSTRUCT) or segmentations (SEG), becomes
`data/` with

    amos-fl data dicom EXPORT --organs {folder}/organs.csv --dry-run --suggestion PRIVATE/map.csv
    amos-fl data dicom EXPORT --organs {folder}/organs.csv --label-map PRIVATE/map.csv --site {site} \\
        --out {folder}/data --private PRIVATE

The first lists what is there; `map.csv` says which structure is which organ, to be corrected in between: a structure
without an organ there becomes nothing. No name, number or date of a patient is copied; PRIVATE leads back to them
(`map.csv`, too, may hold names) and stays outside this folder. In a container (5), `AMOS_FL_EXPORT` and
`AMOS_FL_PRIVATE` in the file `.env` name the two folders, which must be there, and the rest is given to its command:

    docker compose run --rm cohort --dry-run --suggestion /private/map.csv
    docker compose run --rm cohort --label-map /private/map.csv --site {site}

Or put scans and label maps in NIfTI below `data/`, or mount them
there read-only, and describe them in `data/cohort.csv`:

    case,site,modality,split,image,label,annotated
    p0001,{site},CT,train,images/p0001.nii.gz,labels/p0001.nii.gz,1 2 3 6

One line per scan: a name (no patient's name), this site, CT or MR, one of train, val and test, the two files, and the
label values of the organs that were looked for. `amos-fl data check {folder}/data` reads every file and says what is
wrong.

In this federation the label values mean (`organs.csv` in this folder):

{numbers}
If yours mean something else, name them in `data/organs.csv` in the same way, and renumber the label maps with
`amos-fl data relabel`. Without a `data/organs.csv` the numbers are taken for AMOS's. A site whose numbers mean other
organs is left out of a run, with a sentence that says which; having fewer organs does no harm.

## 3. What this site allows

Read `settings.yaml`: where prepared scans are kept, cpu or GPU, and what may be shared. It is yours; an update from
the coordinator never changes it.

## 4. Is everything in place?

    amos-fl deploy check {folder}

tests the way to the SuperLink, the certificate, the clock, the versions, the key, the scans, the GPU and the disk, and
says in words what is wrong and what to do.

## 5. Take part

Without a container, the commands of the first column; in one, those of the second, typed in this folder, after
`docker load < amos-fl.tar.gz` (the image, as the coordinator sends it) and a file `.env` here with
`AMOS_FL_USER=1000:1000`, which is what `id -u` and `id -g` print. What else can be set stands in `docker-compose.yml`.

{_table(site, folder)}
Without a container and without a terminal to keep open, start it with

    nohup amos-fl-site supernode {folder} > {folder}/state/supernode.log 2>&1 &
    echo $! > {folder}/state/supernode.pid

and stop it with `kill -TERM $(cat {folder}/state/supernode.pid)`, or make a unit of systemd of the same command
(the page on running a site has one). It is connected when `status` says `its SuperNode runs; the SuperLink answered`
and how long ago.

The coordinator has the network of a finished run: ask for a copy of its folder `model/`, with which
`amos-fl predict model SCANS` works here.

The site may be started before the coordinator begins a run, and stays up between runs. Stopping it in a round loses its
work on that round alone: the federation goes on without it, and it takes part again when it is started. Every request
and every answer is a line in `state/audit.log`. With a GPU: `device: cuda` in `settings.yaml`, and in a container
`docker compose -f docker-compose.yml -f docker-compose.gpu.yml up -d`.

If port 9094 of this machine is taken, as by a second site on it, add `--port 9095` to `supernode` and to `check`; only
this machine's own processes use it.

## Updating

Compare the SHA-256 of the new bundle with the coordinator's, stop the site, and unpack it over this folder: it replaces
this page, `site.yaml`, `organs.csv`, `ca.crt` and the compose files, and leaves `settings.yaml`, the key, the scans and
`.env`. Install the version of amos-fl that the new page names (`pip install 'amos-fl[dicom]'`, or `docker load` of the
new image), check (4) and start (5).

## Keep

`keys/` and `settings.yaml` belong into the backup of this machine. `state/` can be made again from the scans, at the
price of preparing them once more.
"""
