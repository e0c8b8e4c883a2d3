"""The report in a real browser: Chromium, headless, without a network."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from reports import Pages

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


@pytest.fixture
def pages(report_pages: Pages) -> Pages:
    return report_pages


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
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


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("which", ["run_page", "comparison_page"])
def test_a_page_opens_without_an_error_and_asks_for_nothing(
    browser: Browser, pages: Pages, which: str, scheme: str
) -> None:
    file = getattr(pages, which)
    opened = Opened(browser, file, scheme)
    assert opened.said == []
    assert [url for url in opened.asked if not url.startswith("data:")] == [file.as_uri()]
    broken = "() => [...document.images].filter(i => !i.naturalWidth).length"
    assert opened.page.evaluate(broken) == 0


def test_what_a_page_may_load_is_limited_to_itself(browser: Browser, pages: Pages) -> None:
    opened = Opened(browser, pages.run_page)
    opened.page.evaluate(
        "() => { const i = new Image(); i.src = 'https://example.org/x.png'; document.body.append(i) }"
    )
    opened.page.wait_for_function("() => document.images.length > 0 && document.images[0].complete")
    assert any("Content Security Policy" in text for text in opened.said)


def column(page: Page, table: str, index: int) -> list[str]:
    return [cell.strip() for cell in page.locator(f"#{table} tbody tr > :nth-child({index})").all_inner_texts()]


def test_a_click_on_a_head_sorts_by_number_and_another_turns_it_round(browser: Browser, pages: Pages) -> None:
    page = Opened(browser, pages.run_page).page
    head = page.locator("#sites thead th", has_text=re.compile("^DSC[^(]*$"))
    assert head.get_attribute("aria-sort") == "none"
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    values = [float(text) for text in column(page, "sites", 5)]
    assert values == sorted(values, reverse=True)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert [float(text) for text in column(page, "sites", 5)] == sorted(values)


def test_a_table_sorts_from_the_keyboard_and_text_as_people_count(browser: Browser, pages: Pages) -> None:
    page = Opened(browser, pages.run_page).page
    page.evaluate(
        "() => { const rows = document.querySelectorAll('#cohort tbody tr');"
        " ['site 10', 'site 9', 'site 2'].forEach((name, i) => { rows[i].cells[0].textContent = name }) }"
    )
    page.locator("#cohort thead button").first.focus()
    page.keyboard.press("Enter")
    assert [name for name in column(page, "cohort", 1) if " " in name] == ["site 2", "site 9", "site 10"]
    page.keyboard.press("Space")
    assert [name for name in column(page, "cohort", 1) if " " in name] == ["site 10", "site 9", "site 2"]
    assert page.locator("#cohort thead th[aria-sort=descending]").count() == 1


def test_what_has_no_value_stays_last_however_a_table_is_sorted(browser: Browser, pages: Pages) -> None:
    page = Opened(browser, pages.run_page).page
    page.evaluate(
        "() => { const cell = document.querySelector('#sites tbody tr').cells[4];"
        " cell.textContent = '–'; delete cell.dataset.value }"
    )
    for _ in range(2):
        page.locator("#sites thead button").nth(4).click()
        assert column(page, "sites", 5)[-1] == "–"


def luminance(colour: str) -> float:
    """The relative luminance of a CSS colour (WCAG 2.2)."""
    parts = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


COLOURS = """() => {
  const read = (element, part) => getComputedStyle(element)[part];
  const paths = [...document.querySelectorAll('.scroll > svg [style*="var(--series"]')];
  return {
    paper: read(document.body, 'backgroundColor'),
    texts: [...new Set([...document.querySelectorAll('p, li, td, dt, dd, figcaption, caption, a, summary')]
      .map(e => read(e, 'color')))],
    labels: [...new Set([...document.querySelectorAll('.scroll > svg text')]
      .filter(e => !/#000000|#ffffff/.test(e.getAttribute('style')))
      .map(e => read(e, 'fill')))],
    lines: [...new Set(paths.map(e => read(e, 'stroke')).filter(c => c !== 'none'))],
  };
}"""


@pytest.mark.parametrize("which", ["run_page", "comparison_page"])
def test_texts_and_lines_stand_out_on_light_and_on_dark(browser: Browser, pages: Pages, which: str) -> None:
    papers = []
    for scheme in ("light", "dark"):
        found = Opened(browser, getattr(pages, which), scheme).page.evaluate(COLOURS)
        papers.append(luminance(found["paper"]))
        assert found["labels"]
        assert found["lines"]
        for colour in (*found["texts"], *found["labels"]):
            assert contrast(colour, found["paper"]) >= 4.5, (scheme, colour)
        for colour in found["lines"]:
            assert contrast(colour, found["paper"]) >= 3, (scheme, colour)
    light, dark = papers
    assert light > 0.9
    assert dark < 0.05


@pytest.mark.parametrize("which", ["run_page", "comparison_page"])
def test_a_narrow_screen_scrolls_tables_and_not_the_page(browser: Browser, pages: Pages, which: str) -> None:
    page = Opened(browser, getattr(pages, which), width=400).page
    assert page.evaluate("() => document.documentElement.scrollWidth") == 400
    assert page.locator(".scroll").first.evaluate("e => e.scrollWidth > e.clientWidth || e.clientWidth <= 400")


def test_print_is_dark_on_white_with_everything_open(browser: Browser, pages: Pages, tmp_path: Path) -> None:
    page = Opened(browser, pages.run_page, "dark").page
    assert page.locator("details[open]").count() == 0
    page.evaluate("() => window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    page.emulate_media(media="print")
    found = page.evaluate(COLOURS)
    assert luminance(found["paper"]) > 0.9
    assert all(contrast(colour, found["paper"]) >= 4.5 for colour in (*found["texts"], *found["labels"]))
    page.evaluate("() => window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0
    assert page.pdf(path=tmp_path / "report.pdf")[:5] == b"%PDF-"


def test_outlines_of_label_and_prediction_can_be_hidden(browser: Browser, pages: Pages) -> None:
    page = Opened(browser, pages.run_page).page
    label, prediction = page.locator(".planes path.label").first, page.locator(".planes path.prediction").first
    stroke = "e => getComputedStyle(e).stroke"
    assert label.evaluate(stroke) != prediction.evaluate(stroke)
    page.get_by_label("label (thick, blue)").uncheck()
    shown = "e => getComputedStyle(e).display"
    assert (label.evaluate(shown), prediction.evaluate(shown)) == ("none", "inline")
    page.get_by_label("label (thick, blue)").check()
    assert label.evaluate(shown) == "inline"


def test_figures_are_images_with_a_name_for_those_who_listen(browser: Browser, pages: Pages) -> None:
    page = Opened(browser, pages.run_page).page
    for name in ("Learning curves by site", "DSC of the test cases by organ", "DSC against cost"):
        assert page.get_by_role("img", name=re.compile(re.escape(name))).count() == 1
