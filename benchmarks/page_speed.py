"""How fast the page feels, measured in Chromium against a running `nlakit serve`.

    python benchmarks/page_speed.py http://127.0.0.1:8000 --json

Prints the seconds from a click to the first words on the screen, until a passage of 60 tokens is
wholly explained, and the longest time the page's main thread was held up meanwhile; then the
seconds until a click is answered (explained and scored) while a request of another client runs, of
500 positions (`--beside`). The exit status is 1 where the first words or the answered click take
more than a second, or the passage more than twenty.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from itertools import cycle, islice
from typing import Any

from playwright.sync_api import sync_playwright

from nlakit.storyworld.grammar import document

# As in tests/browser/conftest.py: Debian's Chromium, without a display and without a network.
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
NUM_TOKENS = 60
BESIDE = 500
FIRST_WORDS_S, WHOLE_S, CLICK_S = 1.0, 20.0, 1.0
CLICKED = 20
"""The token that is clicked while the other client's request runs: one that nobody has read."""
LONGEST_WAIT_MS = 180_000
SEED, INDEX = 20_001, 3
WATCH = """() => {
  window.longest = 0;
  new PerformanceObserver((list) => {
    for (const each of list.getEntries()) window.longest = Math.max(window.longest, each.duration);
  }).observe({type: "longtask"});
}"""
WORDS = "() => document.querySelector('.reading .explanation p')?.textContent.trim()"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("address")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--beside", type=int, default=BESIDE, help="positions of another client")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    result = measure(options.address, passage(options.address), options.runs, options.beside)
    print(json.dumps(result, indent=2) if options.json else as_text(result))
    limits = {"first_words_s": FIRST_WORDS_S, "whole_passage_s": WHOLE_S, "click_beside_s": CLICK_S}
    sys.exit(int(any(result[name] > limit for name, limit in limits.items())))


def passage(address: str) -> str:
    """The head of a story that the target reads as 60 tokens, a BOS included."""
    text = document(SEED, INDEX, "story").text
    with posted(address, "/tokenize", {"text": text}) as answer:
        tokens = json.load(answer)["tokens"]
    return "".join(token["token"] for token in tokens[1:NUM_TOKENS])


def posted(address: str, path: str, body: dict[str, Any]) -> HTTPResponse:
    """The answer to a request of a client that is not the page."""
    headers = {"Content-Type": "application/json", "X-Client-Id": "another"}
    request = urllib.request.Request(address + path, json.dumps(body).encode(), headers)
    return urllib.request.urlopen(request)


@contextmanager
def large_request(address: str, text: str, positions: int) -> Iterator[None]:
    """While another client's request runs: from its first words on, until it is left.

    Raises:
        RuntimeError: it was answered before it was left, so nothing was measured beside it.
    """
    with posted(address, "/extract", {"text": text}) as answer:
        vectors = [each["activation"] for each in json.load(answer)["tokens"]]
    body = {"activations": list(islice(cycle(vectors), positions)), "stream": True}
    running, over = threading.Event(), threading.Event()

    def read(stream: HTTPResponse) -> None:
        for line in stream:
            running.set()
            if line.startswith(b"data: [DONE]") or over.is_set():
                break
        stream.close()
        over.set()

    stream = posted(address, "/v1/describe", body)
    reader = threading.Thread(target=read, args=(stream,), daemon=True)
    reader.start()
    running.wait()
    yield
    if over.is_set():
        raise RuntimeError(f"The {positions} positions ended too early. Give more with --beside.")
    over.set()
    reader.join()


def measure(address: str, text: str, runs: int, beside: int) -> dict[str, Any]:
    """The worst of several runs, each on a page of its own."""
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        found = [
            run(browser, address, text) | click_beside(browser, address, text, beside)
            for _ in range(runs)
        ]
        browser.close()
    worst = {name: round(max(each[name] for each in found), 3) for name in found[0]}
    return {"tokens": NUM_TOKENS, "beside": beside, "runs": runs, **worst}


def opened(browser: Any, address: str, text: str) -> Any:
    """A page on which a text is about to be read."""
    page = browser.new_page()
    page.set_default_timeout(LONGEST_WAIT_MS)
    page.goto(address)
    page.get_by_label("Text to read").fill(text)
    page.evaluate(WATCH)
    return page


def run(browser: Any, address: str, text: str) -> dict[str, float]:
    """One person who reads a passage: its last token at once, then all."""
    page = opened(browser, address, text)
    started = time.monotonic()
    page.get_by_role("button", name="Only its last token").click()
    page.wait_for_function(WORDS, polling="raf")
    first_words = time.monotonic() - started
    page.locator(".token.scored").first.wait_for()
    one_token = time.monotonic() - started
    started = time.monotonic()
    page.get_by_role("button", name="Read all").click()
    page.get_by_role("button", name="All read").wait_for()
    whole = time.monotonic() - started
    longest = page.evaluate("window.longest")
    page.close()
    return {
        "first_words_s": first_words,
        "one_token_s": one_token,
        "whole_passage_s": whole,
        "longest_task_ms": longest,
    }


def click_beside(browser: Any, address: str, text: str, positions: int) -> dict[str, float]:
    """One person who clicks a token while somebody else's large request is being read."""
    page = opened(browser, address, text)
    page.get_by_role("button", name="Only its last token").click()
    page.locator(".token.scored").first.wait_for()
    with large_request(address, text, positions):
        started = time.monotonic()
        page.locator(f"[data-place='{CLICKED}']").click()
        page.locator(f"[data-place='{CLICKED}'].scored").wait_for()
        answered = time.monotonic() - started
    page.close()
    return {"click_beside_s": answered}


def as_text(result: dict[str, Any]) -> str:
    """One line a number."""
    return "\n".join(f"{name:16} {value}" for name, value in result.items())


if __name__ == "__main__":
    main()
