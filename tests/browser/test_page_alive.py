"""The page answers while words stream in: nothing holds its main thread for long."""

import pytest

pytestmark = pytest.mark.browser
MOST_MS = 400
"""Of one task of the page. It takes about a quarter of this where nothing else runs; tests do not
run alone (`benchmarks/page_speed.py` measures)."""

WATCH = """() => {
  window.longest = 0;
  new PerformanceObserver((list) => {
    for (const each of list.getEntries()) window.longest = Math.max(window.longest, each.duration);
  }).observe({type: "longtask"});
}"""
BLOCK = """() => new Promise((done) => setTimeout(() => {
  const end = performance.now() + 300;
  while (performance.now() < end);
  setTimeout(done, 100);
}))"""
LONG = "The lantern fished near the grey sun. " * 264


def _opened(visit, address, num_words):
    page = visit(address)
    page.get_by_label("Text to read").fill(" ".join(["sun", "rose"] * (num_words // 2)))
    page.evaluate(WATCH)
    page.get_by_role("button", name="Only its last token").click()
    page.locator(".token.scored").first.wait_for()
    return page


def _read_all(page):
    page.get_by_role("button", name="Read all").click()
    page.get_by_role("button", name="All read").wait_for(timeout=60_000)
    return page.evaluate("window.longest")


def test_a_long_task_would_be_seen(stub, visit):
    page = visit(stub()[0])
    page.evaluate(WATCH)
    page.evaluate(BLOCK)
    assert page.evaluate("window.longest") >= 300


def test_sixty_tokens_stream_in_without_a_pause(stub, visit):
    page = _opened(visit, stub(delay=0.05)[0], 60)
    assert _read_all(page) < MOST_MS
    assert page.locator(".transcript .token.scored").count() == 60


def test_five_hundred_tokens_of_ten_thousand_characters_hold_nothing_up(stub, visit):
    assert len(LONG) > 10_000
    page = _opened(visit, stub(script=(LONG,))[0], 500)
    assert _read_all(page) < MOST_MS
    page.locator("[data-place='250']").click()
    page.get_by_role("button", name="Search explanations").click()
    page.get_by_role("searchbox").fill("lantern")
    page.locator(".hits button").first.wait_for()
    page.wait_for_timeout(1000)  # the history is written when the page rests
    assert page.evaluate("window.longest") < MOST_MS
