"""Pictures of the page for the documents: `python tests/browser/shots.py ADDRESS FOLDER`.

ADDRESS is a running `nlakit serve` (or `stub.py`); Chromium must be installed.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
WIDE, NARROW = (1600, 1000), (390, 844)
LONG_MS = 120_000


def _read(page: Any, number: int) -> None:
    """Opens demo passage `number`, reads it all and goes to its last token."""
    page.locator(".passage").nth(number).click()
    page.get_by_role("button", name="All read").wait_for(timeout=LONG_MS)
    page.locator(".transcript .token").last.click()
    page.mouse.move(2, 300)
    page.evaluate("scrollTo(0, 0)")


def _samples(page: Any) -> None:
    page.get_by_role("button", name="How to read").click()
    page.get_by_label("Samples per token").fill("4")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Close").click()
    page.get_by_role("button", name="Read again").click()
    page.locator(".agreement").wait_for(timeout=LONG_MS)
    page.mouse.move(2, 300)


def _shoot(browser: Any, address: str, folder: Path, size: tuple[int, int], theme: str) -> None:
    name = f"{'wide' if size == WIDE else 'narrow'}-{theme}"
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=theme,
        has_touch=size == NARROW,
        is_mobile=size == NARROW,
    )
    page = context.new_page()
    page.set_default_timeout(LONG_MS)
    page.goto(address)
    page.locator(".passage").first.wait_for()
    page.screenshot(path=folder / f"page-start-{name}.png")
    _read(page, 0)
    page.wait_for_timeout(300)
    page.screenshot(path=folder / f"page-{name}.png")
    if size == WIDE and theme == "light":
        page.get_by_role("button", name="New text").click()
        _read(page, 3)
        _samples(page)
        page.wait_for_timeout(300)
        page.screenshot(path=folder / "page-samples.png")
    page.goto(f"{address}/docs")
    page.screenshot(path=folder / f"docs-{name}.png")
    context.close()


def main(address: str, folder: Path) -> None:
    """The start, a reading and the reference at both widths in both themes; several samples."""
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        for size in (WIDE, NARROW):
            for theme in ("light", "dark"):
                _shoot(browser, address, folder, size, theme)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
