"""Chromium, headless, without a network: started where it is installed, and pages opened in it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
WITHOUT_CUE = """() => [...document.querySelectorAll('.scroll')]
  .filter(e => (e.scrollWidth > e.clientWidth + 1) !== (e.nextElementSibling.checkVisibility()))
  .map(e => e.getAttribute('aria-label'))"""
"""What is wider than its place without saying that it scrolls, or says so though it is not."""


@contextmanager
def started() -> Iterator[Browser]:
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium is installed here")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=[*FLAGS, "--disable-sync"], headless=True)
        yield browser
        browser.close()


class Opened:
    """A page, and all that it said and asked for."""

    def __init__(self, browser: Browser, file: Path, scheme: str = "light", width: int = 1000) -> None:
        self.page: Page = browser.new_context(
            color_scheme="dark" if scheme == "dark" else "light", viewport={"width": width, "height": 900}
        ).new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())
