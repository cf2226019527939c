"""The page against the real server, from `nlakit serve` to the words on the screen."""

import json
import subprocess
import sys
import urllib.request

import pytest

from browser.axe import serious
from browser.conftest import NARROW, SIZE, THEME
from browser.waiting import expect, until

pytestmark = pytest.mark.browser
TEXT = "The rose shone near the sun."


def _opened(visit, server):
    page = visit(server)
    page.get_by_label("Text to read").fill(TEXT)
    page.get_by_role("button", name="Only its last token").click()
    page.locator(".token.scored").first.wait_for()
    return page


def _get(server, path):
    with urllib.request.urlopen(server + path) as answer:
        return json.load(answer)


def test_every_token_of_a_text_is_read(visit, server):
    page = _opened(visit, server)
    page.get_by_role("button", name="Read all").click()
    page.get_by_role("button", name="All read").wait_for()
    tokens = page.locator(".transcript .token")
    assert page.locator(".transcript .token.scored").count() == tokens.count() - 1
    assert "".join(tokens.all_text_contents()[1:]) == TEXT


def test_a_demo_conversation_is_read_turn_by_turn(visit, server):
    page = visit(server)
    page.locator(".passage", has_text="drill").click()
    page.get_by_role("button", name="All read").wait_for(timeout=60_000)
    assert page.locator(".turn-role").all_inner_texts()[:2] == ["system", "user"]
    expect(page.locator(".token.failed")).to_have_count(0)


def test_difference_own_words_and_vector_of_a_token(visit, server):
    page = _opened(visit, server)
    for place in (2, 4):
        page.locator(f"[data-place='{place}']").click()
        page.get_by_role("button", name="Pin to compare").click()
    page.get_by_role("button", name="Read the difference").click()
    page.locator(".difference").wait_for()
    page.get_by_text("Try your own words").click()
    page.get_by_label("Your description").fill("A story about a garden.")
    page.get_by_role("button", name="Score", exact=True).click()
    page.locator(".own-words .badge").wait_for()


def test_the_vector_of_a_token_can_be_pasted_back(visit, server):
    page = _opened(visit, server)
    page.get_by_role("button", name="New text").click()
    page.get_by_role("button", name="Or paste a vector").click()
    page.get_by_role("button", name="Take that of the token in focus").click()
    page.get_by_text("1 vector", exact=True).wait_for()
    page.get_by_role("button", name="Read it").click()
    page.locator(".vector-result .badge").wait_for()


def test_a_reading_is_saved_found_opened_and_deleted(visit, server):
    page = _opened(visit, server)
    page.get_by_role("button", name="Save this reading").click()
    page.get_by_text("Saved on this machine.").wait_for()
    assert _get(server, "/v1/readings")["total"] == 1
    other = visit(server)
    other.get_by_role("button", name="Search explanations").click()
    other.get_by_role("searchbox").fill("shone")
    other.locator(".library-open").click()
    other.locator(".token.scored").first.wait_for()
    other.get_by_role("button", name="History").click()
    other.get_by_role("button", name="Delete").click()
    other.get_by_text("Save a reading to find it").wait_for()
    until(page, lambda: _get(server, "/v1/readings")["total"], 0)


def test_the_copied_python_runs(visit, server):
    page = _opened(visit, server)
    page.locator("[data-place='2']").click()
    page.get_by_role("button", name="Export and copy").click()
    page.get_by_role("menuitem", name="Copy as Python").click()
    page.get_by_text("Python copied.").wait_for()
    script = page.evaluate("navigator.clipboard.readText()")
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert "A " in answer.stdout or answer.stdout.strip() != ""


def test_the_model_goes_on_writing(visit, server):
    page = _opened(visit, server)
    page.get_by_role("button", name="Some…").click()
    page.get_by_role("button", name="Let the model continue the text").click()
    page.get_by_text("branched from").or_(page.get_by_text("it wrote nothing more")).wait_for()


@pytest.mark.parametrize(("size", "theme"), sorted({(SIZE, THEME), (NARROW, "dark")}))
def test_the_http_reference_has_no_serious_finding(server, visit, axe_source, size, theme):
    page = visit(f"{server}/docs", size, theme)
    page.get_by_role("heading", name="POST /v1/chat").wait_for()
    assert serious(page, axe_source) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
