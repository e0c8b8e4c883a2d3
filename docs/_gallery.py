"""The pictures of `docs/gallery.md`, taken in Chromium of the pages that `make demo` and the commands there leave.

make demo
amos-fl data stats demo/federated/cohort.csv -o demo/statistics
python docs/_gallery.py demo docs/images/gallery
"""

import csv
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from amos_fl.csv_table import write_table
from amos_fl.report.site_page import write_site_report

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking")


@dataclass(frozen=True)
class Shot:
    """A page, and the part of it that is shown: what is `height` pixels below the top, or below an element's."""

    name: str
    address: str
    height: int = 900
    below: str = ""
    width: int = 1000
    wait_for: str = ""


def take(page: Page, shot: Shot, folder: Path) -> None:
    page.set_viewport_size({"width": shot.width, "height": shot.height})
    page.goto(shot.address)
    if shot.wait_for:
        page.locator(shot.wait_for).first.wait_for()
    if shot.below:
        page.locator(shot.below).first.evaluate("element => window.scrollTo(0, element.offsetTop - 60)")
    page.screenshot(path=folder / f"{shot.name}.png")


@contextmanager
def served(run: Path) -> Iterator[str]:
    """The address of the live page of a run."""
    command = [shutil.which("amos-fl") or "amos-fl", "watch", str(run), "--page"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        words = next(line for line in process.stdout if "http://" in line).split()
        yield next(word for word in words if word.startswith("http://")).rstrip(".,;")
    finally:
        process.terminate()
        process.wait()


def main(demo: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    program = next(found for name in PROGRAMS if (found := shutil.which(name)))
    site_page(demo, "A")
    case = sorted((demo / "comparison/cases/F").glob("*.html"))[0]
    with served(demo / "federated") as live, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=FLAGS, headless=True)
        page = browser.new_context(color_scheme="light").new_page()
        for shot in shots(demo, case, live):
            take(page, shot, folder)
        browser.close()


def site_page(demo: Path, site: str) -> None:
    """A site's page, from what a deployed site would keep: its pictures and the scores of its cases."""
    kept = shutil.copytree(demo / f"federated/sites/{site}/pictures", demo / "kept", dirs_exist_ok=True)
    with (demo / "federated/scores.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["site"] == site]
    write_table(kept / "scores.csv", list(rows[0]), rows)
    write_site_report(site, kept, demo / "site", demo / "federated/cohort.csv")


def shots(demo: Path, case: Path, live: str) -> list[Shot]:
    run, comparison = ((demo / name / "report.html").resolve().as_uri() for name in ("federated", "comparison"))
    return [
        Shot("comparison", comparison, height=1130),
        Shot("run", run, height=1000),
        Shot("organs", run, below="#organs"),
        Shot("case", case.resolve().as_uri()),
        Shot("watch", live, wait_for="tbody tr"),
        Shot("cohort", (demo / "statistics/stats.html").resolve().as_uri()),
        Shot("site", (demo / "site/report.html").resolve().as_uri()),
        Shot("narrow", comparison, width=390, height=800),
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
