"""What the eye finds first, at both widths: nothing runs into anything else, and the ways about the
page hold on a phone in the dark as they do on a desk.
"""

import pytest

from browser.waiting import expect

pytestmark = pytest.mark.browser
SIZES = [(1600, 1000), (390, 844)]
OVERLAP = 4
"""Pixels of line height that two labels may share: their letters still stand apart."""
TEXT = "The lantern fished near the grey sun today"
RECTANGLES = "all => all.map(one => one.getBoundingClientRect()).map(one => [one.top, one.bottom])"


@pytest.mark.parametrize("size", SIZES)
def test_labels_of_the_timeline_stand_apart(reading, size):
    page = reading(size)
    labels = page.locator(".timeline .plot-label")
    labels.first.wait_for()
    found = sorted(labels.evaluate_all(RECTANGLES))
    assert len(found) >= 2
    neighbours = zip(found, found[1:], strict=False)
    assert all(lower - upper > -OVERLAP for (_, upper), (lower, _) in neighbours)


def test_the_way_back_to_the_summary_is_one_line(reading):
    page = reading()
    page.locator(".transcript .token").last.click()
    back = page.get_by_role("button", name="Summary")
    icon, button = back.locator("svg").bounding_box(), back.bounding_box()
    middles = [box["y"] + box["height"] / 2 for box in (icon, button)]
    assert abs(middles[0] - middles[1]) < 2


def _button(page, name):
    return page.get_by_role("button", name=name, exact=True)


@pytest.mark.parametrize(
    ("size", "theme"), [(size, theme) for size in SIZES for theme in ("light", "dark")]
)
def test_a_first_visit_from_the_start_to_a_reading_and_back(stub, visit, size, theme):
    page = visit(stub()[0], size, theme)
    _button(page, "About this NLA").click()
    expect(page.locator(".explained div")).to_have_count(7)
    page.keyboard.press("Escape")
    page.get_by_label("Text to read").fill(TEXT)
    page.get_by_text("9 of 512 tokens").wait_for()
    _button(page, "Read this").click()
    _button(page, "All read").wait_for()
    page.locator(".summary-row").first.click()
    page.locator(".gauge").wait_for()
    _button(page, "Some…").click()
    page.locator(".read-some").wait_for()
    page.keyboard.press("Escape")
    expect(page.locator(".read-some")).to_have_count(0)
    page.go_back()
    page.locator(".composer").wait_for()
    page.go_forward()
    page.locator(".transcript").wait_for()


@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_wider_than_the_screen(reading, size):
    page = reading(size)
    page.locator(".transcript .token").last.click()
    page.locator(".gauge").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_talking_to_the_model_and_sharing_on_a_phone(stub, visit, theme):
    chat = ("a plan", "</think>", "Hello", " there")
    page = visit(stub(chat=chat)[0], SIZES[1], theme)
    _button(page, "Chat with the model").click()
    page.get_by_label("Your message").fill("Hi")
    _button(page, "Send").click()
    expect(page.locator(".chat-text").last).to_have_text("Hello there", use_inner_text=True)
    _button(page, "Read its thoughts").click()
    page.locator(".transcript .token").first.wait_for()
    _button(page, "Export and copy").click()
    page.get_by_role("menuitem", name="Share…").click()
    page.get_by_label("Comment").fill("Look here")
    _button(page, "Copy a link").click()
    page.get_by_text("Link copied.").wait_for()
    other = visit(page.evaluate("navigator.clipboard.readText()"), SIZES[1], theme)
    expect(other.locator(".remark")).to_contain_text("Look here", use_inner_text=True)


@pytest.mark.parametrize("size", SIZES)
def test_readings_of_the_summary_start_at_one_edge(stub, visit, size):
    page = visit(stub()[0], size)
    page.get_by_label("Text to read").fill(TEXT)
    _button(page, "Read this").click()
    _button(page, "All read").wait_for()
    edges = page.locator(".summary-text").evaluate_all(
        "all => all.map(one => Math.round(one.getBoundingClientRect().left))"
    )
    assert len(edges) > 2 and len(set(edges)) == 1
