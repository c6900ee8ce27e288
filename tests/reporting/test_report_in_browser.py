"""The page in a real browser without a network: script, policy, keyboard and narrow screens."""

import contextlib
import shutil

import pytest
from example_runs import hostile_run

from trn_jax.reporting.report_page import compared, run_page
from trn_jax.reporting.runs import read_run

pytestmark = pytest.mark.thorough
_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip("there is no Chromium on the path")
    with sync_api.sync_playwright() as playwright:
        # Containers run as root, for whom Chromium has no sandbox.
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        with contextlib.closing(started):
            yield started


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A page with all sections, and hostile names."""
    folder = tmp_path_factory.mktemp("page")
    runs = [
        read_run(str(hostile_run(folder / name, seed=seed))) for name, seed in (("a", 1), ("b", 2))
    ]
    text = run_page(runs[0], against=runs[1], difference=compared(*runs))
    (folder / "page.html").write_text(text, encoding="utf-8")
    return folder / "page.html"


@contextlib.contextmanager
def opened(browser, file, *, width=1200, **options):
    """The page; fails if anything is logged, thrown, asked or fetched."""
    context = browser.new_context(viewport={"width": width, "height": 800}, offline=True, **options)
    found = []
    page = context.new_page()
    page.on("console", lambda message: found.append(message.text))
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("dialog", lambda dialog: (found.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: found.append(request.url))
    page.goto(file.as_uri())
    assert [each for each in found if not each.startswith("data:")] == [file.as_uri()]
    found.clear()
    yield page
    assert [each for each in found if not each.startswith("data:")] == []
    context.close()


def column(page, section, number):
    rows = page.locator(f"#{section} table[data-sortable] tbody tr").all()
    return [row.locator("th, td").nth(number).get_attribute("data-value") for row in rows]


def test_tables_are_sorted_by_keyboard(browser, file):
    with opened(browser, file) as page:
        before = [float(value) for value in column(page, "classes", 3)]
        assert before == sorted(before)
        page.locator("#classes thead button").nth(2).focus()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        head = page.locator("#classes thead th").nth(3)
        assert head.get_attribute("aria-sort") == "descending"
        assert [float(v) for v in column(page, "classes", 3)] == sorted(before, reverse=True)
        page.keyboard.press("Space")
        assert head.get_attribute("aria-sort") == "ascending"
        assert [float(v) for v in column(page, "classes", 3)] == before
        page.locator("#classes thead button").first.press("Enter")
        names = column(page, "classes", 0)
        assert len(set(names)) == len(names) == 6 and head.get_attribute("aria-sort") is None


def test_the_threshold_follows_the_keyboard(browser, file):
    with opened(browser, file) as page:
        slider = page.locator("#threshold")
        shown = {}
        for key in ("Home", "End"):
            slider.press(key)
            shown[key] = page.locator("[data-measure=coverage]").inner_text()
        assert shown["Home"] == "100.0 %" and shown["End"] != "100.0 %"
        for _ in range(7):
            slider.press("ArrowLeft")
        assert page.locator("#thresholds output").inner_text() == "0.93"
        described = slider.get_attribute("aria-valuetext")
        for key in ("precision", "recall", "F1", "coverage"):
            assert f"{key} {page.locator(f'[data-measure={key}]').inner_text()}" in described
        # The numbers are those of the static table.
        for _ in range(3):
            slider.press("ArrowLeft")
        row = page.locator("#thresholds tbody tr").last.locator("th, td").all_inner_texts()
        assert row[0] == "0.9"
        assert f"{row[1]} %" == page.locator("[data-measure=precision]").inner_text()
        lines = page.locator("#thresholds polyline").first.get_attribute("points")
        page.locator("#threshold-class").focus()
        page.keyboard.press("ArrowDown")
        assert page.locator("#threshold-class").input_value() == "0"
        assert page.locator("#thresholds polyline").first.get_attribute("points") != lines


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_is_wider_than_the_screen(browser, file, width, scheme):
    with opened(browser, file, width=width, color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        wide = page.evaluate(
            "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') && "
            "e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
        )
        assert wide == []
        colors = [
            page.evaluate(f"getComputedStyle(document.body).{name}")
            for name in ("color", "backgroundColor")
        ]
        light = [sum(map(int, color[4:-1].split(","))) > 380 for color in colors]
        assert light == ([False, True] if scheme == "light" else [True, False])


def test_regions_that_scroll_take_the_keyboard(browser, file):
    with opened(browser, file, width=390) as page:
        region = page.locator("#classes .scroll")
        region.focus()
        assert region.evaluate("e => e.scrollWidth > e.clientWidth")
        page.keyboard.press("ArrowRight")
        for _ in range(100):  # it scrolls smoothly
            if region.evaluate("e => e.scrollLeft"):
                break
            page.wait_for_timeout(50)
        assert region.evaluate("e => e.scrollLeft") > 0


def test_the_page_is_complete_without_script(browser, file):
    with opened(browser, file, java_script_enabled=False) as page:
        assert page.locator("#threshold").is_hidden()
        assert page.locator("#thresholds tbody tr").first.is_visible()
        assert page.locator("thead button").count() == 0


def test_the_policy_stops_foreign_code(browser, file):
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.goto(file.as_uri())
    refused = []
    page.on("console", lambda message: refused.append(message.text))
    page.evaluate(
        "() => { const e = document.createElement('script'); e.textContent = 'window.bad = 1';"
        "document.body.append(e); const i = new Image(); i.src = 'https://example.org/a.png';"
        "document.body.append(i); document.body.setAttribute('onclick', 'window.bad = 1');"
        "document.body.click(); }"
    )
    page.wait_for_timeout(200)
    assert page.evaluate("window.bad") is None
    assert sum("Content Security Policy" in text for text in refused) >= 3
    context.close()


def test_printed_pages_show_whole_tables(browser, file):
    with opened(browser, file, color_scheme="dark") as page:
        page.emulate_media(media="print")
        whole = page.evaluate(
            "[...document.querySelectorAll('.scroll')].every(e => e.scrollHeight <= "
            "e.clientHeight + 1)"
        )
        assert whole
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == "rgb(255, 255, 255)"
