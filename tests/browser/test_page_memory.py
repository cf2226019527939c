"""What the page remembers: history, saved readings, links, branches, theme."""

import re

import pytest

from browser.waiting import expect, until

pytestmark = pytest.mark.browser


def _chat(visit, address):
    page = visit(address)
    page.locator(".passage", has_text="A drill noticed").click()
    page.get_by_role("button", name="All read").wait_for()
    return page


def test_a_reload_brings_back_text_token_and_readings(reading):
    page = reading()
    page.locator("[data-place='7']").click()
    before = page.locator(".reading .explanation").inner_text()
    page.reload()
    page.locator(".reading .explanation").wait_for()
    expect(page.locator(".reading .explanation")).to_have_text(before, use_inner_text=True)
    read = page.locator(".transcript .token.scored").count()
    assert read == page.locator(".transcript .token").count() - 1 > 20  # all but the opening mark


def test_history_lists_opens_and_forgets(reading):
    page = reading()
    first = page.locator(".heading h2").inner_text()
    page.get_by_role("button", name="New text").click()
    page.locator(".passage").nth(1).click()
    page.get_by_role("button", name="All read").wait_for()
    page.get_by_role("button", name="History").click()
    page.locator(".library-open").nth(1).click()
    expect(page.locator(".heading h2")).to_have_text(first, use_inner_text=True)
    page.get_by_role("button", name="History").click()
    page.get_by_role("button", name="Remove").last.click()
    expect(page.locator(".library-open")).to_have_count(1)


def _copy_link(page):
    page.get_by_role("button", name="Export and copy").click()
    page.get_by_role("menuitem", name="Share…").click()
    page.get_by_label("About").select_option("whole")
    page.get_by_role("button", name="Copy a link").click()
    page.get_by_text("Link copied.").wait_for()
    page.get_by_role("button", name="Close").click()


def test_a_saved_reading_has_a_link_that_another_browser_opens(stub, visit):
    address, world = stub()
    page = _chat(visit, address)
    page.locator("[data-place='6']").click()
    page.get_by_role("button", name="Save this reading").click()
    page.get_by_text("Saved on this machine.").wait_for()
    _copy_link(page)
    link = page.evaluate("navigator.clipboard.readText()")
    assert link.endswith("#reading=1&at=6")
    other = visit(link)
    other.locator(".token.focused[data-place='6']").wait_for()
    until(other, lambda: other.locator(".reading .part").count() >= 2, True)


def test_a_link_carries_the_text_itself_where_nothing_was_saved(stub, visit):
    address, _ = stub()
    page = visit(address)
    page.get_by_label("Text to read").fill("Ein Wörtchen 🦊 und mehr")
    page.get_by_role("button", name="Only its last token").click()
    page.locator(".token.scored").first.wait_for()
    _copy_link(page)
    other = visit(page.evaluate("navigator.clipboard.readText()"))
    other.locator(".prose").wait_for()
    expect(other.locator(".prose")).to_contain_text("Ein Wörtchen 🦊 und mehr", use_inner_text=True)


def test_an_edited_turn_branches_and_keeps_the_old(stub, visit):
    page = _chat(visit, stub()[0])
    old = page.locator(".transcript").inner_text()
    page.get_by_role("button", name="Edit the user turn").click()
    page.get_by_label("Content of turn 2").fill("I want to hide the rope.")
    page.get_by_role("button", name="Branch and drop what follows").click()
    page.get_by_text("branched from").wait_for()
    expect(page.locator(".turn")).to_have_count(3)  # system, user, and the assistant's next
    expect(page.locator(".transcript")).to_contain_text("hide the rope", use_inner_text=True)
    page.get_by_text("branched from").click()
    page.locator(".turn").nth(4).wait_for()
    expect(page.locator(".transcript")).to_have_text(old, use_inner_text=True)


def test_the_model_goes_on_writing_in_a_branch(reading):
    page = reading()
    page.get_by_role("button", name="Some…").click()
    page.get_by_role("button", name="Let the model continue the text").click()
    page.get_by_text("branched from").wait_for()
    expect(page.locator(".prose")).to_have_text(re.compile(r" and so on\.$"))


def test_the_theme_is_kept_and_set_before_the_first_paint(stub, visit):
    page = visit(stub()[0], theme="light")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.get_by_role("button", name="Theme: as the system").click()
    page.get_by_role("button", name="Theme: light").click()
    until(page, lambda: page.evaluate(paper) != light, True)
    page.reload()
    page.get_by_role("button", name="Theme: dark").wait_for()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_the_tour_opens_a_passage_and_walks_through_the_page(stub, visit):
    page = visit(stub()[0])
    page.get_by_role("button", name="Tour of the page").click()
    for title in ("A question", "Reading it", "The answer", "Can it be believed?"):
        page.locator(".tour h2", has_text=title).wait_for()
        page.get_by_role("button", name="Next", exact=True).click()
    page.get_by_role("button", name="Done").click()
    expect(page.locator(".tour")).to_have_count(0)
