"""Explanations are model output: whatever they say, the page shows it and does nothing."""

import re

import pytest

from browser.waiting import expect

pytestmark = pytest.mark.browser
WIDTHS = [(1600, 1000), (390, 844)]
MARKUP = '<img src=x onerror="document.title=1"><script>document.title=2</script> It ends on "a".'
LINK = "[click me](javascript:document.title=3) and https://example.org/x.png ![i](https://e.org/i)"
BIDI = "Harmless \u202egnp.exe\u202c end \u200bhidden\u200b \x1b[31mred\x00 \u2066x\u2069."
LONG = "A" * 10_000
ZALGO = "Z" + "\u0301\u0327" * 400
SCRIPT = (MARKUP, LINK, BIDI, LONG, ZALGO)


def _opened(stub, visit, size):
    page = visit(stub(script=SCRIPT)[0], size)
    page.locator(".passage").first.click()
    page.get_by_role("button", name="All read").wait_for()
    return page


def _at(page, kind):
    """The explanation whose place deals it the line `kind` of the script."""
    token = page.locator(f"[data-place='{kind or len(SCRIPT)}']")
    token.click()
    expect(token).to_have_class(re.compile("focused"))
    return page.locator(".reading .explanation").inner_text()


@pytest.mark.parametrize("size", WIDTHS)
def test_markup_and_links_stay_text(stub, visit, size):
    page = _opened(stub, visit, size)
    assert '<img src=x onerror="document.title=1">' in _at(page, 0)
    assert "[click me](javascript:document.title=3)" in _at(page, 1)
    expect(page.locator(".reading img, .reading a, .reading script")).to_have_count(0)
    assert page.title() == "nlakit"


def test_unseen_and_turning_characters_become_marks(stub, visit):
    page = _opened(stub, visit, WIDTHS[0])
    shown = _at(page, 2)
    for mark in ("U+202E", "U+202C", "U+200B", "U+001B", "U+0000", "U+2066"):
        assert mark in shown
    assert not set("\u202e\u202c\u200b\x1b\x00\u2066") & set(shown)
    title = page.locator(".unseen").first.get_attribute("title")
    assert title == "U+202E right-to-left override"


@pytest.mark.parametrize("size", WIDTHS)
@pytest.mark.parametrize("kind", [3, 4])
def test_endless_words_and_piled_marks_break_no_layout(stub, visit, size, kind):
    page = _opened(stub, visit, size)
    _at(page, kind)
    more = page.get_by_role("button", name="Show all")
    if kind == 3:
        more.click()
        expect(page.locator(".reading .explanation")).to_contain_text("A" * 10_000)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= size[0]


def test_exports_carry_the_words_and_no_markup(stub, visit):
    page = _opened(stub, visit, WIDTHS[0])
    page.get_by_role("button", name="Export and copy").click()
    with page.expect_download() as download:
        page.get_by_role("menuitem", name="HTML").click()
    text = download.value.path().read_text(encoding="utf-8")
    assert "<img" not in text and "<script" not in text and "\u202e" not in text
    assert "&#60;img src=x onerror=" in text


def test_a_search_for_markup_marks_it_as_text(stub, visit):
    page = _opened(stub, visit, WIDTHS[0])
    page.get_by_role("button", name="Search explanations").click()
    page.get_by_role("searchbox").fill("<script>")
    page.locator(".hits mark").first.wait_for()
    expect(page.locator(".hits mark").first).to_have_text("<script>", use_inner_text=True)
