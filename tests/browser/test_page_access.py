"""Accessibility by axe-core, and a layout that holds at both widths and in both themes."""

import pytest

from browser.axe import serious
from browser.conftest import NARROW, SIZE, THEME
from browser.waiting import expect

pytestmark = pytest.mark.browser
LOOKS = sorted({(SIZE, THEME), (NARROW, "dark")})
"""`make test-looks` tries the others."""


@pytest.mark.parametrize(("size", "theme"), LOOKS)
def test_the_first_view_and_a_reading_have_no_serious_finding(stub, visit, axe_source, size, theme):
    page = visit(stub()[0], size, theme)
    page.locator(".passage", has_text="A drill noticed").click(trial=True)
    assert serious(page, axe_source) == []
    page.locator(".passage", has_text="A drill noticed").click()
    page.get_by_role("button", name="All read").wait_for()
    assert serious(page, axe_source) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


@pytest.mark.parametrize("name", ["Search explanations", "History", "How to read", "About the NLA"])
def test_the_windows_have_no_serious_finding(reading, axe_source, name):
    if name == "About the NLA" and SIZE == NARROW:
        pytest.skip("on a phone it opens from the start page")
    page = reading()
    page.get_by_role("button", name=name).click()
    page.get_by_role("dialog").wait_for()
    assert serious(page, axe_source) == []
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_pins_samples_and_own_words_have_no_serious_finding(reading, axe_source):
    page = reading()
    for place in (3, 6):
        page.locator(f"[data-place='{place}']").click()
        page.get_by_role("button", name="Pin to compare").click()
    page.get_by_text("Try your own words").click()
    page.get_by_text("Numbers and raw text").click()
    page.get_by_role("button", name="Some…").click()
    assert serious(page, axe_source) == []


def test_every_shade_differs_in_more_than_colour(reading):
    page = reading()
    style = "all => all.map(t => getComputedStyle(t).textDecoration.replace(/rgb.*/, ''))"
    assert len(set(page.locator(".legend .swatch").evaluate_all(style))) == 5
    words = page.locator(".legend li").all_inner_texts()
    assert [word.split("\n")[-1][:5] for word in words] and "do not believe" in words[3]
