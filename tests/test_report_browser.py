"""The report in a real browser: Chromium, headless, without a network."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from browsing import WITHOUT_CUE, Opened
from made_runs import compared, everything, made_run, noisy
from playwright.sync_api import Browser, Page
from reports import Pages

from amos_fl.cohort.statistics import statistics_of
from amos_fl.cohort.table import read_cohort
from amos_fl.comparison.write import write_comparison
from amos_fl.report.cohort_page import write_cohort_page
from amos_fl.report.page import write_annotation_report, write_comparison_report
from amos_fl.report.site_page import write_site_report

LONG_NAMES = (
    *("fedavg_without_normalisation", "fedavg_with_momentum_at_server", "scaffold, as its authors have it"),
    *("fedprox.proximal-term-of-0.01", "ditto_personalised_at_each_site", "federated without synthetic scans"),
    *("leave_one_scanner_out_everywhere", "light augmentation, larger patches"),
)


@pytest.fixture
def pages(report_pages: Pages) -> Pages:
    return report_pages


@pytest.fixture(scope="module")
def every_page(
    report_pages: Pages, begun: Path, tiny_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A page of each kind; the large comparison has 13 arms, eight of them with long names."""
    from amos_fl.annotate.project import open_project

    folder = tmp_path_factory.mktemp("pages")
    names = {f"other-{i}": f"{name}_of_{i + 1}_steps" for i, name in enumerate(LONG_NAMES)}
    others = [made_run(run, noisy(0.7, name=run), local_steps=i + 1) for i, run in enumerate(names)]
    records = [*everything(seeds=(0, 1)), *others]
    large = compared([replace(record, folder=report_pages.run.folder) for record in records], names=names)
    assert len(large.main_arms) >= 12
    write_comparison(large, folder / "large")
    cohort = read_cohort(tiny_root)
    cases, _ = statistics_of(cohort)
    project = shutil.copytree(begun, begun.parent / "shown")  # beside it, so that its relative paths hold
    run, comparison = report_pages.run_page, report_pages.comparison_page
    at_site = report_pages.run.folder.site("D")
    return {
        "run": run,
        "comparison": comparison,
        "large comparison": write_comparison_report(large, folder / "large"),
        "case of a run": next((run.parent / "cases" / "D").glob("*.html")),
        "case of a comparison": next((comparison.parent / "cases" / "A").glob("*.html")),
        "cohort": write_cohort_page(cohort, cases, folder / "stats"),
        "labelling": write_annotation_report(open_project(project)),
        "site": write_site_report("D", at_site / "pictures", folder / "site", at_site / "cohort.csv"),
    }


KINDS = (
    "run",
    "comparison",
    "large comparison",
    "case of a run",
    "case of a comparison",
    "cohort",
    "labelling",
    "site",
)
OPEN = "() => { for (const part of document.querySelectorAll('details')) part.open = true }"
CUT = """() => [...document.querySelectorAll('.scroll:has(table)')].filter(e => e.scrollWidth > e.clientWidth + 1)
  .map(e => e.querySelector('table').id)"""
BEYOND = "() => document.documentElement.scrollWidth - innerWidth"


@pytest.mark.parametrize("kind", KINDS)
def test_no_page_cuts_a_table_or_loads_anything(browser: Browser, every_page: dict[str, Path], kind: str) -> None:
    opened = Opened(browser, every_page[kind], width=1400)
    page = opened.page
    page.evaluate(OPEN)
    assert page.evaluate(CUT) == []
    assert page.evaluate(BEYOND) <= 0
    # On a phone what is wider scrolls sideways in its own place, and says so; nothing else does.
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_function(f"() => ({WITHOUT_CUE})().length === 0", timeout=60_000)
    assert page.evaluate(BEYOND) <= 0
    assert opened.said == []
    assert [url for url in opened.asked if not url.startswith("data:")] == [every_page[kind].as_uri()]


def test_the_first_column_of_a_wide_table_stays_in_sight_on_a_phone(
    browser: Browser, every_page: dict[str, Path]
) -> None:
    page = Opened(browser, every_page["large comparison"], width=390).page
    place = page.locator(".scroll:has(#arms)")
    place.evaluate("e => e.scrollLeft = 300")
    assert place.evaluate("e => e.scrollLeft") > 0
    name = page.locator("#arms tbody th").first.bounding_box()
    assert name is not None
    assert 0 <= name["x"] < 60


@pytest.mark.parametrize(("kind", "table"), [("large comparison", "main-scores"), ("run", "sites")])
def test_a_row_of_the_main_table_is_a_card_on_a_phone(
    browser: Browser, every_page: dict[str, Path], kind: str, table: str
) -> None:
    page = Opened(browser, every_page[kind], width=390).page
    place = page.locator(f".scroll:has(#{table})")
    assert place.evaluate("e => e.scrollWidth <= e.clientWidth")
    row = page.locator(f"#{table} tbody tr").first
    boxes = [cell.bounding_box() for cell in row.locator("td").all()]
    assert len({round(box["x"]) for box in boxes if box}) == 1  # one below another
    heads = page.locator(f"#{table} thead th").all_text_contents()[1:]
    said = row.locator("td").evaluate_all("all => all.map(e => getComputedStyle(e, '::before').content)")
    assert [text.strip('"') for text in said] == heads
    page.set_viewport_size({"width": 1400, "height": 900})
    assert page.locator(f"#{table} thead").is_visible()


def test_findings_are_on_the_first_screen_below_the_folded_words(browser: Browser, every_page: dict[str, Path]) -> None:
    page = Opened(browser, every_page["large comparison"], width=1400).page
    words, lead = page.locator(".words").bounding_box(), page.locator(".lead").bounding_box()
    assert words is not None
    assert lead is not None
    assert words["y"] + words["height"] <= lead["y"] < 450
    page.locator(".words summary").click()
    assert page.locator(".words dd").first.is_visible()


def test_long_tables_and_the_cases_of_further_sites_are_folded(browser: Browser, every_page: dict[str, Path]) -> None:
    page = Opened(browser, every_page["large comparison"]).page
    assert page.locator("#runs").is_hidden()
    page.get_by_text(re.compile(r"^The runs \(\d+\)$")).click()
    assert page.locator("#runs").is_visible()
    page = Opened(browser, every_page["run"]).page
    assert [box.is_visible() for box in page.locator("details.site .viewer").all()][:2] == [True, False]


@pytest.mark.parametrize("width", [390, 1400])
def test_an_organs_number_can_be_read_however_small_the_picture_is(
    browser: Browser, every_page: dict[str, Path], width: int
) -> None:
    opened = Opened(browser, every_page["run"], width=width)
    page = opened.page
    page.evaluate(OPEN)
    small = """() => [...document.querySelectorAll('svg.plane .organ-numbers text')]
      .filter(e => parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().a < 10.9).length"""
    assert page.locator("svg.plane .organ-numbers text").count() > 3
    page.wait_for_function(f"() => ({small})() === 0")
    slider = page.get_by_role("slider", name="axial slice").first
    slider.fill(str(int(slider.get_attribute("max") or 0) // 2))
    canvas = page.locator("canvas").first
    canvas.wait_for()
    page.wait_for_function(
        """() => { const c = document.querySelector('canvas');
          const size = parseFloat(c.getContext('2d').font.replace(/^\\D*\\d00 /, ''));
          return size > 0 && size * c.clientWidth / c.width >= 10.9 }"""
    )
    assert opened.said == []


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


def test_the_way_to_the_top_stays_in_sight_and_the_first_tab_leads_to_the_content(
    browser: Browser, pages: Pages
) -> None:
    page = Opened(browser, pages.run_page).page
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "content"
    page.evaluate("() => scrollTo({ top: document.body.scrollHeight, behavior: 'instant' })")
    top = page.get_by_role("link", name="Top", exact=True)
    box = top.bounding_box()
    assert box is not None
    assert 0 <= box["y"] < 60
    top.click()
    page.wait_for_function("() => scrollY === 0")


@pytest.mark.parametrize("kind", ["case of a comparison", "run"])
def test_the_arrow_keys_scroll_through_the_slices_of_a_case_in_all_rows(
    browser: Browser, every_page: dict[str, Path], kind: str
) -> None:
    opened = Opened(browser, every_page[kind])
    viewer = opened.page.locator(".viewer").first
    slider = viewer.get_by_role("slider", name="axial slice")
    rows = viewer.locator('.pane[data-view="0"]')
    before = rows.first.locator(".where").inner_text()
    slider.focus()
    opened.page.keyboard.press("Home")
    rows.first.locator("canvas").wait_for()
    opened.page.keyboard.press("ArrowRight")
    told = slider.get_attribute("aria-valuetext")
    assert told is not None
    assert re.match(r"axial \d+ of 20", told)
    for row in rows.all():
        row.locator('canvas[data-slice="1"]').wait_for()
        assert row.locator(".where").inner_text() == told != before
        assert row.locator("canvas").get_attribute("aria-label") == told
    assert rows.count() == (2 if kind == "case of a comparison" else 1)
    assert opened.said == []


def test_an_organ_can_be_hidden_in_a_slice_that_was_scrolled_to(browser: Browser, every_page: dict[str, Path]) -> None:
    page = Opened(browser, every_page["case of a run"]).page
    slider = page.get_by_role("slider", name="axial slice")
    middle = int(slider.get_attribute("max") or 0) // 2
    slider.fill(str(middle))
    canvas = page.locator(f'.pane[data-view="0"] canvas[data-slice="{middle}"]')
    canvas.wait_for()
    coloured = """canvas => { const d = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
      let n = 0; for (let i = 0; i < d.length; i += 4) if (Math.abs(d[i] - d[i + 2]) > 40) n++; return n }"""
    assert canvas.evaluate(coloured) > 0
    for box in page.locator(".organs input").all():
        box.uncheck()
    page.wait_for_function(f"() => ({coloured})(document.querySelector('.pane[data-view=\"0\"] canvas')) === 0")
    assert page.locator(".pane svg path:visible").count() == 0


def test_a_view_says_its_sides_scale_and_slice_in_sight(browser: Browser, every_page: dict[str, Path]) -> None:
    page = Opened(browser, every_page["case of a run"]).page
    pane = page.locator('.pane[data-view="0"]')
    assert pane.locator(".side.left").inner_text() == "R"
    assert pane.locator(".side.right").inner_text() == "L"
    scale, whole = pane.locator(".scale").bounding_box(), pane.locator("svg").bounding_box()
    assert scale is not None
    assert whole is not None
    # The pixels of a tiny cohort's pictures are 8 mm wide.
    width_mm = 8 * int((pane.locator("svg").get_attribute("viewBox") or "").split()[2])
    said_mm = float(pane.locator(".scale").inner_text().removesuffix(" mm"))
    assert scale["width"] / whole["width"] == pytest.approx(said_mm / width_mm, abs=0.01)
    assert "HU" in page.locator(".window").inner_text()
    assert re.search(r"\d ball", page.locator(".organs").inner_text())


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
        " cell.textContent = '-'; delete cell.dataset.value }"
    )
    for _ in range(2):
        page.locator("#sites thead button").nth(4).click()
        assert column(page, "sites", 5)[-1] == "-"


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
    assert page.locator("details[open]").count() == 1  # the cases of the first site
    page.evaluate("() => window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    page.emulate_media(media="print")
    found = page.evaluate(COLOURS)
    assert luminance(found["paper"]) > 0.9
    assert all(contrast(colour, found["paper"]) >= 4.5 for colour in (*found["texts"], *found["labels"]))
    page.evaluate("() => window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 1
    assert page.pdf(path=tmp_path / "report.pdf")[:5] == b"%PDF-"


def test_label_and_prediction_can_be_hidden(browser: Browser, pages: Pages) -> None:
    page = Opened(browser, pages.run_page).page
    label, prediction = page.locator(".planes path.label").first, page.locator(".planes path.prediction").first
    fill = "e => getComputedStyle(e).fill"
    assert label.evaluate(fill) != prediction.evaluate(fill) == "none"
    page.get_by_label("label: filled").uncheck()
    shown = "e => getComputedStyle(e).display"
    assert (label.evaluate(shown), prediction.evaluate(shown)) == ("none", "inline")
    page.get_by_label("label: filled").check()
    assert label.evaluate(shown) == "inline"


def test_figures_are_images_with_a_name_for_those_who_listen(browser: Browser, pages: Pages) -> None:
    page = Opened(browser, pages.run_page).page
    for name in ("Learning curves by site", "DSC of the test cases by organ", "DSC against cost"):
        assert page.get_by_role("img", name=re.compile(re.escape(name))).count() == 1
