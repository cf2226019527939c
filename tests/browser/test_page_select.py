"""Choosing tokens: by mouse, touch and keys; and what is asked of the server for them."""

import math

import pytest

from browser.conftest import SIZE
from browser.waiting import expect, until

pytestmark = pytest.mark.browser
NARROW = (390, 844)


def _opened(visit, address, text="The lantern fished near the grey sun today", size=SIZE):
    page = visit(address, size)
    page.get_by_label("Text to read").fill(text)
    page.get_by_role("button", name="Only its last token").click()
    page.locator(".transcript").wait_for()
    page.locator(".token.scored").first.wait_for()
    return page


def _asked(world):
    return [body["positions"] for path, body in world.requests if path == "/v1/explain"]


def _selected(page):
    found = page.locator(".token.selected").evaluate_all("all => all.map(t => +t.dataset.place)")
    return sorted(found)


def test_a_text_opens_on_its_last_token_and_reads_it(stub, visit):
    address, world = stub()
    page = _opened(visit, address)
    until(page, lambda: _asked(world), [[8]])
    expect(page.locator(".token.focused")).to_have_text(" today", use_inner_text=True)
    until(page, lambda: page.locator(".reading .part").count() >= 2, True)


def test_a_click_reads_one_token_and_only_once(stub, visit):
    address, world = stub()
    page = _opened(visit, address)
    for _ in range(2):
        page.locator("[data-place='2']").click()
        page.locator("[data-place='2'].scored").wait_for()
    until(page, lambda: _asked(world), [[8], [2]])


def test_shift_click_and_drag_select_a_stretch(stub, visit):
    page = _opened(visit, stub()[0])
    page.locator("[data-place='2']").click()
    page.locator("[data-place='5']").click(modifiers=["Shift"])
    until(page, lambda: _selected(page), [2, 3, 4, 5])
    page.locator("[data-place='3']").hover()
    page.mouse.down()
    page.locator("[data-place='6']").hover()
    page.mouse.up()
    until(page, lambda: _selected(page), [3, 4, 5, 6])


def test_ctrl_click_adds_and_takes_away(stub, visit):
    page = _opened(visit, stub()[0])
    page.locator("[data-place='2']").click()
    page.locator("[data-place='5']").click(modifiers=["Control"])
    until(page, lambda: _selected(page), [2, 5])
    page.locator("[data-place='2']").click(modifiers=["Control"])
    until(page, lambda: _selected(page), [5])


def test_arrow_keys_walk_select_and_read(stub, visit):
    address, world = stub()
    page = _opened(visit, address)
    page.locator("[data-place='8']").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    until(page, lambda: _selected(page), [2, 3])
    page.keyboard.press("Enter")
    page.locator("[data-place='3'].scored").wait_for()
    until(page, lambda: _asked(world)[-1], [2, 3])


def test_a_tap_reads_and_range_mode_stands_for_shift(stub, visit):
    page = _opened(visit, stub()[0], size=NARROW)
    page.locator("[data-place='2']").tap()
    page.locator("[data-place='2'].scored").wait_for()
    page.get_by_role("button", name="Range").tap()
    page.locator("[data-place='4']").tap()
    until(page, lambda: _selected(page), [2, 3, 4])
    expect(page.get_by_role("button", name="Read 3 selected")).to_be_visible()


@pytest.mark.parametrize(
    ("field", "count", "expected"),
    [
        ("How many tokens from the end", "3", [6, 7, 8]),
        ("Every how many tokens", "3", [2, 5, 8]),
    ],
)
def test_some_tokens_are_read_counted_from_the_end(stub, visit, field, count, expected):
    address, world = stub()
    page = _opened(visit, address)
    page.get_by_role("button", name="Some…").click()
    page.get_by_label(field).fill(count)
    page.get_by_label(field).press("Enter")
    page.locator(f"[data-place='{expected[0]}'].scored").wait_for()
    until(page, lambda: _asked(world)[-1], expected[:-1])  # the last one had been read before


def test_read_all_leaves_the_opening_mark_out(stub, visit):
    address, world = stub()
    page = _opened(visit, address)
    page.get_by_role("button", name="Read all").click()
    page.locator("[data-place='1'].scored").wait_for()
    until(page, lambda: _asked(world)[-1], [1, 2, 3, 4, 5, 6, 7])


def test_cancel_keeps_what_is_read_and_frees_the_rest(stub, visit):
    address, world = stub(hold_after=4)
    page = visit(address)
    page.locator(".passage").first.click()
    page.locator(".token.scored").first.wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Read all").wait_for()
    expect(page.locator(".token.queued, .token.writing")).to_have_count(0)
    assert 0 < page.locator(".token.scored").count() < 30
    world.hold_after = math.inf


def test_words_stream_in_before_the_score(stub, visit):
    address, world = stub(hold_after=0)
    page = visit(address)
    page.get_by_label("Text to read").fill("A short one")
    page.get_by_role("button", name="Only its last token").click()
    page.locator(".token.writing").wait_for()
    page.locator(".explanation .caret").wait_for()
    expect(page.locator(".explanation")).not_to_be_empty()
    expect(page.locator(".gauge")).to_have_count(0)
    world.hold_after = math.inf
    page.locator(".gauge").wait_for()


def test_a_failed_token_says_so_and_the_others_are_read(stub, visit):
    page = visit(stub(failing=frozenset({8}))[0])
    page.get_by_label("Text to read").fill("The lantern fished near the grey sun today")
    page.get_by_role("button", name="Only its last token").click()
    page.get_by_role("alert").wait_for()
    expect(page.get_by_role("alert")).to_contain_text("the row was refused", use_inner_text=True)
    page.get_by_role("button", name="Read all").click()
    page.locator("[data-place='7'].scored").wait_for()
    expect(page.locator(".token.failed")).to_have_count(1)
