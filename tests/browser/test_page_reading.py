"""The reading and what can be done with it."""

import csv
import io
import json
import re
from pathlib import Path

import pytest

from browser.stub import VARIANCE, World, answer
from browser.waiting import expect, until
from nlakit.fidelity_scale import FidelityScale
from nlakit.reading import Reading

pytestmark = pytest.mark.browser


def _export(page, name):
    page.get_by_role("button", name="Export and copy").click()
    with page.expect_download() as download:
        page.get_by_role("menuitem", name=name).click()
    return Path(download.value.path()).read_bytes()


def _copied(page, name):
    page.get_by_role("button", name="Export and copy").click()
    page.get_by_role("menuitem", name=name).click()
    page.get_by_text("copied.").wait_for()
    return page.evaluate("navigator.clipboard.readText()")


def test_parts_fidelity_floors_and_claims_stand_together(reading):
    page = reading()
    labels = page.locator(".reading .part h4").all_inner_texts()
    assert labels[0] == "Setting" and labels[-1] == "This token and what follows"
    assert page.locator(".gauge .badge").inner_text().split()[1] in ("faithful", "partly", "weak")
    page.locator(".floors summary").click()
    expect(page.locator(".floors")).to_contain_text(
        "−0.62 another document's explanation", use_inner_text=True
    )
    verdicts = set(page.locator(".claim-verdict").all_inner_texts())
    assert verdicts and verdicts <= {"true", "false", "cannot be checked"}


def test_claims_of_a_text_of_ones_own_have_no_verdict(stub, visit):
    page = visit(stub()[0])
    page.get_by_label("Text to read").fill("The lantern fished near the grey sun")
    page.get_by_role("button", name="Only its last token").click()
    page.locator(".claims").wait_for()
    expect(page.locator(".claim-verdict")).to_have_count(0)
    expect(page.locator(".claims")).to_contain_text(
        "is not known for this text", use_inner_text=True
    )


def test_samples_show_what_they_agree_on(reading):
    page = reading()
    page.get_by_role("button", name="How to read").click()
    page.get_by_label("Samples per token").fill("4")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Close").click()
    page.get_by_role("button", name="Read again").click()
    page.locator(".agreement").wait_for()
    expect(page.locator(".samples button")).to_have_count(4)
    counts = page.locator(".agreed-count").all_inner_texts()
    assert counts[0] == "4 of 4" and counts == sorted(counts, reverse=True)


def test_every_sample_has_its_own_claims(reading):
    page = reading()
    page.get_by_role("button", name="How to read").click()
    page.get_by_label("Samples per token").fill("3")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Close").click()
    page.get_by_role("button", name="Read again").click()
    page.locator(".agreement").wait_for()
    shown = set()
    for sample in page.locator(".samples button").all():
        sample.click()
        marked = page.locator("mark.claim").all_inner_texts()
        listed = page.locator(".claim-item .claim-value").all_inner_texts()
        assert marked and len(listed) >= len(marked)
        shown.add(tuple(listed))
    assert len(shown) > 1


def test_samples_without_claims_agree_by_their_words(stub, visit):
    page = visit(stub(script=("The lantern shone.", "A lantern fell."))[0])
    page.get_by_role("button", name="How to read").click()
    page.get_by_label("Samples per token").fill("2")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Close").click()
    page.get_by_label("Text to read").fill("The rose shone")
    page.get_by_role("button", name="Only its last token").click()
    page.locator(".agreement").wait_for()
    expect(page.locator(".agreement")).to_contain_text("All say fell, lantern", use_inner_text=True)


def test_a_probe_stands_beside_each_claim(reading):
    page = reading()
    probes = page.locator(".claims > ul > .claim-item:has(.claim-probe)")
    for item in probes.all():
        said = item.locator(".claim-probe").inner_text()
        value = item.locator(".claim-value").inner_text()
        is_true = item.locator(".claim-verdict").inner_text() == "true"
        assert said.startswith("probe agrees (0.90)" if is_true else "probe: ")
        assert f"probe: {value} " not in said
    assert probes.count() > 1
    title = probes.first.locator(".claim-probe").get_attribute("title")
    assert title.startswith("Right on 95 % of held-out tokens")


def test_claims_said_with_little_confidence_are_dimmed(reading):
    page = reading()
    slider = page.get_by_label("Dim claims below")
    said = page.locator(".claim-confidence").all_inner_texts()
    confident = [float(text.split()[1]) for text in said]
    expect(page.locator(".claim-item.doubted")).to_have_count(0)
    slider.fill("0.5")
    expect(page.locator(".claim-item.doubted")).to_have_count(sum(each < 0.5 for each in confident))
    slider.fill("1")
    expect(page.locator(".claim-item.doubted")).to_have_count(sum(each < 1 for each in confident))
    assert len(confident) > 1


def test_two_pinned_tokens_are_compared_by_their_vectors(stub, visit):
    address, world = stub()
    page = visit(address)
    page.locator(".passage").first.click()
    page.get_by_role("button", name="All read").wait_for()
    for place in (3, 6):
        page.locator(f"[data-place='{place}']").click()
        page.get_by_role("button", name="Pin to compare").click()
    page.get_by_role("button", name="Read the difference").click()
    page.locator(".difference").wait_for()
    expect(page.locator(".difference")).to_contain_text("A shift of mood.", use_inner_text=True)
    extracted, compared = world.requests[-2:]
    assert extracted[1]["positions"] == [3, 6] and len(compared[1]["activation_b"]) == 8


def test_own_words_are_scored_against_the_variance(reading):
    page = reading()
    page.get_by_text("Try your own words").click()
    page.get_by_label("Your description").fill("Something about the sea")
    page.get_by_role("button", name="Score", exact=True).click()
    badge = page.locator(".own-words .badge")
    badge.wait_for()
    mse = answer(World(), "/score", {"description": "Something about the sea"})["mse"]
    assert badge.text_content().split()[0] == f"{1 - mse / VARIANCE:.2f}"


def test_a_pasted_vector_is_checked_then_read(stub, visit):
    page = visit(stub()[0])
    page.get_by_role("button", name="Or paste a vector").click()
    area = page.get_by_label("Numbers of the vector")
    area.fill("1, 2, 3")
    expect(page.get_by_text("3 numbers; a vector has 8.")).to_be_visible()
    area.fill("1 2 x")
    expect(page.get_by_text("“x” is not a finite number.")).to_be_visible()
    area.fill("[[1,2,3,4,5,6,7,8], [8,7,6,5,4,3,2,1]]")
    page.get_by_role("button", name="Read it").click()
    page.locator(".vector-result").nth(1).wait_for()


def test_search_finds_words_and_goes_there(reading):
    page = reading()
    page.locator("[data-place='1']").focus()
    page.keyboard.press("/")
    page.get_by_role("searchbox").fill("rhym")
    page.locator(".hits button").first.wait_for()
    expect(page.locator(".hits mark").first).to_have_text("rhym", ignore_case=True)
    page.locator(".hits button").last.click()
    expect(page.locator(".reading .explanation")).to_contain_text("rhym", ignore_case=True)


def test_the_timeline_jumps_and_shows_chosen_claims(reading):
    page = reading()
    plot = page.get_by_role("slider", name="Token in focus")
    plot.click(position={"x": 64, "y": 40})
    until(page, lambda: int(plot.get_attribute("aria-valuenow")) < 2, True)
    plot.press("ArrowRight")
    expect(page.locator(".token.focused")).to_have_attribute("data-place", re.compile("[12]"))
    rows = page.locator(".timeline .mark").count()
    page.get_by_role("button", name="rhyme", exact=True).click()
    until(page, lambda: page.locator(".timeline .mark").count() > rows, True)


def test_json_csv_and_html_hold_every_reading(reading):
    page = reading()
    num_read = page.locator(".transcript .token").count() - 1
    record = json.loads(_export(page, "JSON"))
    rows = list(csv.DictReader(io.StringIO(_export(page, "CSV").decode())))
    html = _export(page, "HTML").decode()
    again = Reading.model_validate(record)
    assert len(again) == len(rows) == html.count('<tr id="t') == num_read
    assert rows[5]["explanation"] == again.tokens[5].explanation
    assert again.floors["shuffled"] == -0.62
    assert rows[5]["word"] == FidelityScale(again.floors).grade(again.tokens[5].fidelity).word
    claims = again.tokens[5].claims
    assert claims and f"{claims[0].kind}={claims[0].value}" in rows[5]["claims"]
    assert html.count('<a href="#t') == num_read and f"{claims[0].kind}=" in html


def test_the_picture_is_a_png_of_some_size(reading):
    image = _export(reading(), "PNG")
    assert image[:8] == b"\x89PNG\r\n\x1a\n" and len(image) > 20_000


def test_copied_requests_run_and_never_hold_the_secret(stub, visit):
    page = visit(stub(secret="hush-hush")[0], refusals=True)
    page.get_by_role("textbox", name="Secret").fill("hush-hush")
    page.get_by_role("button", name="Go on").click()
    page.locator(".passage").first.click()
    page.get_by_role("button", name="All read").wait_for()
    curl, python = _copied(page, "Copy as curl"), _copied(page, "Copy as Python")
    assert "hush" not in curl + python
    assert '-H "X-SECRET-KEY: $NLAKIT_SECRET"' in curl
    compile(python, "copied", "exec")
    assert 'os.environ["NLAKIT_SECRET"]' in python
