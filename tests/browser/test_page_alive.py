"""The page answers while words stream in: nothing holds its main thread for long."""

import json

import pytest

from browser.waiting import expect

pytestmark = pytest.mark.browser
MOST_MS = 400
"""Of one task of the page, in processor time: what else runs does not lengthen it. It takes about a
quarter of this (`benchmarks/page_speed.py` measures)."""
BLOCK = """() => new Promise((done) => setTimeout(() => {
  let sum = 0;
  for (let i = 0; i < 4e8; i++) sum += i % 7;
  setTimeout(() => done(sum), 0);
}))"""
LONG = "The lantern fished near the grey sun. " * 264


def _opened(visit, address, num_words):
    page = visit(address)
    page.get_by_label("Text to read").fill(" ".join(["sun", "rose"] * (num_words // 2)))
    _watch(page)
    page.get_by_role("button", name="Only its last token").click()
    page.locator(".token.scored").first.wait_for()
    return page


def _watch(page):
    page.context.browser.start_tracing(page=page, categories=["toplevel"])


def _longest_ms(page):
    """Of the tasks of the page's main thread since it is watched."""
    events = json.loads(page.context.browser.stop_tracing())["traceEvents"]
    names = [each for each in events if each["name"] == "thread_name"]
    mains = {_thread(each) for each in names if each["args"]["name"] == "CrRendererMain"}
    return max(each.get("tdur", 0) for each in events if _thread(each) in mains) / 1000


def _thread(event):
    return event["pid"], event["tid"]


def _read_all(page):
    page.get_by_role("button", name="Read all").click()
    page.get_by_role("button", name="All read").wait_for(timeout=60_000)


def test_a_long_task_would_be_seen(stub, visit):
    page = visit(stub()[0])
    _watch(page)
    page.evaluate(BLOCK)
    assert _longest_ms(page) > 100


def test_sixty_tokens_stream_in_without_a_pause(stub, visit):
    page = _opened(visit, stub(delay=0.05)[0], 60)
    _read_all(page)
    assert _longest_ms(page) < MOST_MS
    expect(page.locator(".transcript .token.scored")).to_have_count(60)


def test_five_hundred_tokens_of_ten_thousand_characters_hold_nothing_up(stub, visit):
    assert len(LONG) > 10_000
    page = _opened(visit, stub(script=(LONG,))[0], 500)
    _read_all(page)
    page.locator("[data-place='250']").click()
    page.get_by_role("button", name="Search explanations").click()
    page.get_by_role("searchbox").fill("lantern")
    page.locator(".hits button").first.wait_for()
    page.wait_for_timeout(1000)  # the history is written when the page rests
    assert 0 < _longest_ms(page) < MOST_MS
