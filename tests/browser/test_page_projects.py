"""The auditor's desk: projects, search over all thoughts, the thought map, two transcripts.

Against the real routes over a project put together by hand; no model runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch
from support.audit import FakeEmbedder, project_of
from support.serving import ScriptedEngine, scripted_nla, served

from browser.conftest import NARROW, WIDE
from browser.waiting import expect, until
from nlakit.audit import thought_map
from nlakit.serve import desk
from nlakit.serve.settings import Settings

pytestmark = pytest.mark.browser
TEXT = " ".join(f"word{n}" for n in range(23)) + " bread"
TURNS = ["A boat at sea."] * 12 + ["The model suspects a drill; bread of a baker."] * 12
QUIET = ["A boat at sea."] * 24


@pytest.fixture
def desk_server(tmp_path, monkeypatch) -> Iterator[str]:
    """The address of a server with one project of eight transcripts; one suspects a drill."""
    quiet = {f"calm {n}": (TEXT, QUIET) for n in range(7)}
    project_of(tmp_path / "chats", {"turns": (TEXT, TURNS), **quiet})
    project_of(tmp_path / "later", {"turns": (TEXT, QUIET)})
    rows = torch.eye(4)[[0 if n < 12 else 1 for n in range(24)]]
    monkeypatch.setattr(thought_map, "vectors_of", lambda project, found: rows[: len(found)])
    monkeypatch.setattr(desk, "embedder", lambda *a, **k: FakeEmbedder())
    settings = Settings(
        port=0, data_dir=tmp_path / "data", projects=(tmp_path / "chats", tmp_path / "later")
    )
    with served(scripted_nla(ScriptedEngine()), settings) as running:
        yield running.url


def _searched(visit, address, size):
    page = visit(address, size)
    page.get_by_role("button", name="Projects").click()
    page.locator(".desk-card", has_text="8 transcripts, 192 readings").click()
    page.get_by_label("Search over all thoughts").get_by_role("searchbox").fill("drill")
    page.get_by_role("button", name="Search", exact=True).click()
    page.get_by_role("list", name="Results").locator("li").first.wait_for()
    return page


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_a_thought_is_found_and_opens_at_its_token(visit, desk_server, size):
    page = _searched(visit, desk_server, size)
    expect(page.get_by_role("list", name="Results").locator("li")).to_have_count(12)
    page.get_by_role("list", name="Results").get_by_role("button").first.click()
    sheet = page.get_by_role("article", name="Transcript turns")
    sheet.get_by_role("slider").wait_for()
    expect(sheet.locator(".desk-reading")).to_contain_text("suspects a drill", use_inner_text=True)
    expect(sheet.locator(".desk-reading")).to_contain_text("a turning point", use_inner_text=True)
    expect(sheet.locator("[aria-current='true']")).to_have_text("word12")
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    until(page, lambda: page.evaluate(overflow) <= 0, True)
    expect(page).to_have_url(re.compile("position=12"))


def test_the_plot_is_clicked_and_moved_through_by_keys(visit, desk_server):
    page = visit(f"{desk_server}/#project=chats&transcript=turns-id&position=3")
    plot = page.get_by_role("slider")
    plot.wait_for()
    expect(plot).to_have_attribute("aria-valuenow", "3")
    box = plot.bounding_box()
    plot.click(position={"x": box["width"] - 9, "y": 40})
    expect(plot).to_have_attribute("aria-valuenow", "23")
    plot.press("ArrowLeft")
    expect(plot).to_have_attribute("aria-valuenow", "22")
    expect(page).to_have_url(re.compile("position=22"))
    page.get_by_role("button", name="word4, token 4").click()
    expect(plot).to_have_attribute("aria-valuenow", "4")


def test_a_detectors_hits_are_labelled_and_shown_on_the_map(visit, desk_server):
    page = visit(f"{desk_server}/#project=chats")
    page.get_by_label("Detector: phrases").fill("suspects a drill, being tested")
    page.get_by_role("button", name="Ask every reading").click()
    hit = page.get_by_role("list", name="Hits").get_by_role("button")
    hit.wait_for()
    expect(hit).to_contain_text("found")
    expect(hit).to_contain_text("12 unsupported of 12 hits")
    hit.click()
    sheet = page.get_by_role("article", name="Transcript turns")
    sheet.locator(".desk-hit").first.wait_for()
    expect(sheet.locator(".desk-hit")).to_have_count(12)
    expect(sheet.locator("[data-hit='true']")).to_have_count(12)


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_two_transcripts_stand_side_by_side(visit, desk_server, size):
    page = visit(f"{desk_server}/#project=chats&transcript=turns-id", size)
    page.get_by_label("Side by side with").select_option("calm 3")
    other = page.get_by_role("article", name="Transcript calm 3")
    other.get_by_role("slider").wait_for()
    first = page.get_by_role("article", name="Transcript turns").bounding_box()
    second = other.bounding_box()
    beside = second["x"] >= first["x"] + first["width"]
    below = second["y"] >= first["y"] + first["height"]
    assert (beside, below) == ((True, False) if size == WIDE else (False, True))
    expect(page).to_have_url(re.compile("beside=calm"))
    page.go_back()
    other.wait_for(state="detached")


def test_two_models_stand_side_by_side(visit, desk_server):
    page = visit(f"{desk_server}/#project=chats&transcript=turns-id&position=20")
    page.get_by_label("Side by side with").select_option("this one in later")
    page.get_by_role("article", name="Transcript turns in later").get_by_role("slider").wait_for()
    expect(page.get_by_role("article", name="turns in chats")).to_contain_text(
        "suspects a drill", use_inner_text=True
    )
    page.reload()
    page.get_by_role("article", name="Transcript turns in later").get_by_role("slider").wait_for()


def test_reading_goes_on_where_the_desk_is_left(visit, desk_server):
    page = visit(f"{desk_server}/#project=chats")
    page.get_by_role("button", name="Back to reading").click()
    page.get_by_label("Text to read").wait_for()
    page.get_by_role("button", name="Projects").click()
    page.get_by_role("heading", name="Projects").wait_for()
