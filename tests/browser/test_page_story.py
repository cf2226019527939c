"""What a first-time reader meets: start page, summary, honest silence, a server that stops."""

import math
import re

import pytest

from browser.waiting import expect, until

pytestmark = pytest.mark.browser
TEXT = "The lantern fished near the grey sun today"
WIDE, NARROW = (1600, 1000), (390, 844)
PRESS = "all => all.forEach((button) => button.click())"


def _read(page, text=TEXT):
    page.get_by_label("Text to read").fill(text)
    page.get_by_role("button", name="Read this").click()
    page.locator(".summary").wait_for()
    page.get_by_role("button", name="All read", exact=True).wait_for()


def _copied(page):
    return page.evaluate("navigator.clipboard.readText()")


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_start_says_which_model_what_a_reading_is_and_when_to_disbelieve(stub, visit, size):
    page = visit(stub()[0], size)
    page.locator(".composer-lead", has_text="after block 4").wait_for()
    told = page.locator(".composer-lead").inner_text()
    assert "You read storyworld after block 4, with an NLA trained on one invented world" in told
    assert "A reading is an explanation of the model's activation at one token" in told
    assert "a fidelity below 0.20" in told and "below 0.04 it is worse than knowing nothing" in told
    box = page.locator(".composer-lead").bounding_box()
    assert box["y"] >= 0 and box["y"] + box["height"] <= size[1]  # seen without scrolling


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_reading_a_text_opens_a_summary_with_the_most_telling_first(stub, visit, size):
    page = visit(stub()[0], size)
    _read(page)
    shown = page.locator(".summary-list .badge b").all_inner_texts()
    fidelities = [float(text.replace("−", "-")) for text in shown]
    assert fidelities == sorted(fidelities, reverse=True) and len(fidelities) > 2
    expect(page.locator(".summary-verdict")).not_to_be_empty()
    page.locator(".summary-row").first.click()
    page.locator(".gauge").wait_for()
    page.get_by_role("button", name="Summary").click()
    page.locator(".summary-list").wait_for()


def test_tokens_are_counted_while_a_text_is_typed(stub, visit):
    page = visit(stub()[0])
    page.get_by_label("Text to read").fill(TEXT)
    page.get_by_text("9 of 512 tokens").wait_for()


def test_below_the_floors_nothing_is_asserted(reading):
    page = reading()
    low = page.locator(".transcript").locator(".token.shade-worse, .token.shade-doubtful")
    reasons = 0
    for index in range(low.count()):
        low.nth(index).click()
        expect(low.nth(index)).to_have_class(re.compile("focused"))
        page.locator(".gauge").wait_for()
        reasons += page.locator(".void-reason").count()
        expect(page.locator(".claim-confidence")).to_have_count(0)
        expect(page.locator(".claims > ul .claim-probe")).to_have_count(0)
    assert reasons > 0


def test_a_demo_passage_lists_the_true_facts_that_were_not_said(reading):
    page = reading()
    head = page.locator(".claims h4").first.inner_text()
    assert "true facts not said" in head or "true fact not said" in head
    page.locator(".unsaid summary").click()
    expect(page.locator(".unsaid .claim-item").first).to_be_visible()


def test_a_claim_that_one_sample_makes_says_so(reading):
    page = reading()
    page.get_by_role("button", name="How to read").click()
    page.get_by_label("Samples per token").fill("5")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Close").click()
    page.get_by_role("button", name="Read again").click()
    page.locator(".agreement").wait_for()
    made = page.locator(".claim-made").all_inner_texts()
    assert made and all("of 5 samples" in text for text in made)


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_a_server_that_stops_shows_one_banner_and_continues(stub, visit, size):
    address, world = stub(hold_after=0)
    page = visit(address, size, refusals=True)
    page.get_by_label("Text to read").fill(TEXT)
    page.get_by_role("button", name="Read this").click()
    page.locator(".token.writing").first.wait_for()
    world.down = True
    page.locator(".banner").wait_for()
    expect(page.locator(".token.failed")).to_have_count(0)
    world.down, world.hold_after = False, math.inf
    # By hand, unless the page has just tried again by itself.
    page.get_by_role("button", name="Reconnect and continue").evaluate_all(PRESS)
    page.get_by_role("button", name="All read", exact=True).wait_for()
    expect(page.locator(".banner")).to_have_count(0)


def test_a_reading_that_waits_says_where_in_the_queue_it_stands(stub, visit):
    address, world = stub(queue=3)
    page = visit(address)
    page.get_by_label("Text to read").fill(TEXT)
    page.get_by_role("button", name="Read this").click()
    page.get_by_text("number 3 in the queue").wait_for()
    world.served.set()
    page.get_by_role("button", name="All read", exact=True).wait_for()


def test_back_returns_to_the_start_and_forward_to_the_reading(stub, visit):
    page = visit(stub()[0])
    page.locator(".composer").wait_for()
    _read(page)
    page.go_back()
    page.locator(".composer").wait_for()
    page.go_forward()
    page.locator(".transcript").wait_for()


def test_escape_closes_the_menu_of_some_tokens(stub, visit):
    page = visit(stub()[0])
    _read(page)
    page.get_by_role("button", name="Some…").click()
    page.locator(".read-some").wait_for()
    page.keyboard.press("Escape")
    expect(page.locator(".read-some")).to_have_count(0)


def test_a_replaced_text_is_no_branch_and_an_edited_one_is(stub, visit):
    page = visit(stub()[0])
    _read(page)
    page.get_by_role("button", name="Export and copy").click()
    page.get_by_role("menuitem", name="Edit the text").click()
    _read(page, "Something else entirely was written here")
    expect(page.get_by_text("branched from")).to_have_count(0)
    page.get_by_role("button", name="Export and copy").click()
    page.get_by_role("menuitem", name="Edit the text").click()
    _read(page, "Something else entirely was said")
    page.get_by_text("branched from").wait_for()


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_the_text_can_be_copied(stub, visit, size):
    page = visit(stub()[0], size)
    _read(page)
    page.get_by_role("button", name="Export and copy").click()
    page.get_by_role("menuitem", name="Copy the text").click()
    page.get_by_text("Text copied.").wait_for()
    assert _copied(page) == TEXT


def test_a_comment_on_some_tokens_travels_in_the_link_and_in_the_file(stub, visit):
    page = visit(stub()[0])
    _read(page)
    page.locator("[data-place='2']").click()
    page.locator("[data-place='4']").click(modifiers=["Shift"])
    page.get_by_role("button", name="Export and copy").click()
    page.get_by_role("menuitem", name="Share…").click()
    page.get_by_label("Comment").fill("Look <here>, 🦊")
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save as an HTML file").click()
    html = saved.value.path().read_text(encoding="utf-8")
    assert "Look &#60;here&#62;" in html and html.count("said") >= 3
    page.get_by_role("button", name="Copy a link").click()
    page.get_by_text("Link copied.").wait_for()
    other = visit(_copied(page))
    other.locator(".remark").wait_for()
    expect(other.locator(".remark")).to_contain_text("Look <here>, 🦊", use_inner_text=True)
    chosen = other.locator(".token.selected").evaluate_all("all => all.map(t => +t.dataset.place)")
    assert sorted(chosen) == [2, 3, 4]


def test_the_target_answers_in_a_streaming_chat_with_its_thinking_apart(stub, visit):
    page = visit(stub(chat=("a plan", "</think>", "Hello", " there"))[0])
    page.get_by_role("button", name="Chat with the model").click()
    page.get_by_label("Your message").fill("Hi")
    page.get_by_role("button", name="Send").click()
    page.locator(".chat-turns .turn").nth(1).wait_for()
    page.get_by_role("button", name="Send").wait_for()
    expect(page.locator(".chat-text").last).to_have_text("Hello there", use_inner_text=True)
    page.locator(".thinking summary").click()
    expect(page.locator(".thinking p")).to_have_text("a plan", use_inner_text=True)
    page.get_by_role("button", name="Read its thoughts").click()
    page.locator(".transcript").wait_for()


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_an_edited_explanation_steers_the_model(stub, visit, size):
    address, world = stub()
    page = visit(address, size)
    _read(page)
    page.locator(".summary-row").first.click()
    page.get_by_text("Edit it and steer the model").click()
    assert page.get_by_role("button", name="Steer", exact=True).is_disabled()
    page.get_by_label("The edited explanation").fill("A poem about the night.")
    page.get_by_role("button", name="Steer", exact=True).click()
    page.locator(".steered").wait_for()
    told = page.locator(".steered").inner_text()
    assert "by the mouse." in told and "by the night." in told and "0.64 nats" in told
    asked = [body for path, body in world.requests if path == "/v1/steer"][-1]
    assert asked["edit"] == "A poem about the night."
    assert (asked["alpha"], asked["once"]) == (0.5, False)
    page.get_by_label("At this token alone").check()
    page.get_by_role("button", name="Steer", exact=True).click()
    until(page, lambda: [b["once"] for p, b in world.requests if p == "/v1/steer"][-1], True)


def test_about_explains_every_figure_of_the_card(stub, visit):
    page = visit(stub()[0])
    page.get_by_role("button", name="About this NLA").click()
    facts = page.locator(".explained div").all_inner_texts()
    assert len(facts) == 7 and all(len(fact.split("\n")) >= 3 for fact in facts)
