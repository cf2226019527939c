"""How fast the page feels, measured in Chromium against a running `nlakit serve`.

    python benchmarks/page_speed.py http://127.0.0.1:8000 --json

Prints the seconds from a click to the first words on the screen, until a passage of 60 tokens is
wholly explained, and the longest time the page's main thread was held up meanwhile. The exit status
is 1 where the first words take more than a second or the passage more than twenty.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
import urllib.request
from typing import Any

from playwright.sync_api import sync_playwright

from nlakit.storyworld.grammar import document

# As in tests/browser/conftest.py: Debian's Chromium, without a display and without a network.
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
NUM_TOKENS = 60
FIRST_WORDS_S, WHOLE_S = 1.0, 20.0
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
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    result = measure(options.address, passage(options.address), options.runs)
    print(json.dumps(result, indent=2) if options.json else as_text(result))
    slow = result["first_words_s"] > FIRST_WORDS_S or result["whole_passage_s"] > WHOLE_S
    sys.exit(1 if slow else 0)


def passage(address: str) -> str:
    """The head of a story that the target reads as 60 tokens, a BOS included."""
    body = json.dumps({"text": document(SEED, INDEX, "story").text}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/tokenize", body, headers)
    with urllib.request.urlopen(request) as answer:
        tokens = json.load(answer)["tokens"]
    return "".join(token["token"] for token in tokens[1:NUM_TOKENS])


def measure(address: str, text: str, runs: int) -> dict[str, Any]:
    """The worst of several runs, each on a page of its own."""
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        found = [run(browser, address, text) for _ in range(runs)]
        browser.close()
    worst = {name: round(max(each[name] for each in found), 3) for name in found[0]}
    return {"tokens": NUM_TOKENS, "runs": runs, **worst}


def run(browser: Any, address: str, text: str) -> dict[str, float]:
    """One person who reads a passage: its last token at once, then all."""
    page = browser.new_page()
    page.set_default_timeout(LONGEST_WAIT_MS)
    page.goto(address)
    page.get_by_label("Text to read").fill(text)
    page.evaluate(WATCH)
    started = time.monotonic()
    page.get_by_role("button", name="Read this").click()
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


def as_text(result: dict[str, Any]) -> str:
    """One line a number."""
    return "\n".join(f"{name:16} {value}" for name, value in result.items())


if __name__ == "__main__":
    main()
