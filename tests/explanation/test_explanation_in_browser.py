"""The page of explanations in a real browser: policy, hostile names, keyboard, narrow screens."""

import shutil

import pytest
from example_explanation import explanation_page

pytestmark = pytest.mark.thorough
_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_is_quiet_and_fits(explanation, tmp_path, scheme):
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip("there is no Chromium on the path")
    file, found = tmp_path / "page.html", []
    file.write_text(explanation_page([explanation, explanation]), encoding="utf-8")
    with sync_api.sync_playwright() as playwright:
        # Containers run as root, for whom Chromium has no sandbox.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        size = {"width": 390, "height": 844}
        page = browser.new_context(viewport=size, offline=True, color_scheme=scheme).new_page()
        for event in ("console", "pageerror", "dialog"):
            page.on(event, lambda each: found.append(each))
        page.on("request", lambda request: found.append(request.url))
        page.goto(file.as_uri())
        assert [each for each in found if not str(each).startswith("data:")] == [file.as_uri()]
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        wide = page.evaluate(
            "[...document.querySelectorAll('.strip .bar')].filter(bar => "
            "bar.getBoundingClientRect().width > bar.closest('li').clientWidth + 1).length"
        )
        assert wide == 0
        shown = page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        assert shown and page.locator("img").count() == 24
        # The first stops of the keyboard are the links to the videos.
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.getAttribute('href')") == "#video0"
        page.keyboard.press("Enter")
        assert page.evaluate("location.hash") == "#video0"
        browser.close()
