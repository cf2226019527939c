"""Latents on the page: of a token, by words, on your own text, steering, and two dictionaries."""

import pytest

from browser.waiting import expect

pytestmark = pytest.mark.browser
WIDE, NARROW = (1600, 1000), (390, 844)
BOTH = pytest.mark.parametrize("size", [WIDE, NARROW])


def _at_token(reading, size):
    page = reading(size, latents=True)
    page.locator("[data-place='3']").click()
    page.get_by_text("Latents of this token").click()
    page.get_by_role("region", name="Shared latents").wait_for()
    return page


@BOTH
def test_a_token_says_which_latents_its_explanation_shares_loses_and_invents(reading, size):
    page = _at_token(reading, size)
    shared = page.get_by_role("region", name="Shared latents")
    expect(shared).to_contain_text("boats")
    expect(shared).to_contain_text("1, in the activation")
    expect(page.get_by_role("region", name="Invented latents")).to_contain_text(
        "None.", use_inner_text=True
    )
    expect(page.locator(".token-latents")).to_contain_text("overlap by 0.50", use_inner_text=True)


@BOTH
def test_a_dashboard_tests_your_own_text_and_steers(reading, size):
    page = _at_token(reading, size)
    page.get_by_role("region", name="Shared latents").get_by_role("button").click()
    box = page.get_by_role("dialog", name="Latent 7")
    board = box.get_by_role("region", name="Dashboard")
    expect(board).to_contain_text("3.1 % of tokens", use_inner_text=True)
    expect(board.locator("mark.active-5")).to_have_text("boat ", use_inner_text=True)
    box.get_by_label("Where it is active in your own text").fill("a boat and a hill")
    box.get_by_role("button", name="Encode").click()
    own = box.get_by_role("status", name="Activations in your text")
    expect(own.locator("mark")).to_have_text(["boat "])
    box.get_by_text("Steer with this latent").click()
    box.get_by_label("Text to continue").fill("The ship")
    box.get_by_role("button", name="Steer", exact=True).click()
    expect(box.locator(".steered")).to_contain_text("by the pier")
    expect(box.locator(".steered")).to_contain_text("The continuation changed")


@BOTH
def test_a_dashboard_says_what_the_nla_reads_in_the_direction(reading, size):
    page = _at_token(reading, size)
    page.get_by_role("region", name="Shared latents").get_by_role("button").click()
    box = page.get_by_role("dialog", name="Latent 7")
    told = box.get_by_role("region", name="What the NLA says of its direction")
    alone, added = told.get_by_role("listitem").first, told.get_by_role("listitem").last
    expect(alone).to_contain_text("A rhyme to come.")
    expect(alone.locator(".badge-worse")).to_contain_text("−0.62")
    expect(alone.locator(".off-manifold")).to_have_text("off-manifold 0.03")
    expect(alone).to_contain_text("does not have the latent active")
    expect(added).to_contain_text("A boat at sea.")
    expect(added.locator(".badge-faithful, .badge-partly")).to_contain_text("0.81")
    expect(added).to_contain_text("has the latent active again")
    expect(told).to_contain_text("looks like no activation")
    box.get_by_role("button", name="2 (0.33)").click()
    other = page.get_by_role("dialog", name="Latent 2")
    expect(other.get_by_role("region", name="Dashboard")).to_be_visible()
    expect(other.get_by_role("region", name="What the NLA says")).to_have_count(0)


@BOTH
def test_what_the_dictionary_leaves_out_is_read_when_asked(reading, size):
    page = _at_token(reading, size)
    page.get_by_role("button", name="Read what the dictionary leaves out").click()
    left = page.get_by_label("What the dictionary leaves out")
    expect(left).to_contain_text("A list of names.")
    expect(left.locator(".badge-worse")).to_contain_text("−0.20")
    expect(left.locator(".off-manifold")).to_have_text("off-manifold")


@BOTH
def test_latents_are_found_by_words(reading, size):
    page = reading(size, latents=True)
    page.get_by_role("button", name="Latents", exact=True).click()
    box = page.get_by_role("dialog", name="Latents")
    box.get_by_label("Words of labels").fill("boat")
    box.get_by_role("button", name="Search", exact=True).click()
    box.get_by_label("Latents found").get_by_role("button").click()
    page.get_by_role("dialog", name="Latent 7").get_by_text("boats").wait_for()


@BOTH
def test_a_selection_on_one_panel_lights_up_in_the_other(reading, size):
    page = reading(size, latents=True)
    page.get_by_role("button", name="Latents", exact=True).click()
    page.get_by_role("button", name="Two dictionaries on one map").click()
    box = page.get_by_role("dialog", name="Two dictionaries on one map")
    box.get_by_text("UMAP is no metric").wait_for()
    first = box.get_by_role("img", name="Map of topk, local, 2 latents")
    first.scroll_into_view_if_needed()
    place = first.bounding_box()
    page.mouse.move(place["x"] + 2, place["y"] + 2)
    page.mouse.down()
    for x, y in ((0.4, 0.01), (0.4, 0.4), (0.01, 0.4)):
        page.mouse.move(place["x"] + x * place["width"], place["y"] + y * place["height"])
    page.mouse.up()
    box.get_by_text("2 latents are selected.").wait_for()
    assert box.locator("circle.chosen title").all_text_contents() == ["latent 7", "latent 1"]
    expect(box.get_by_label("Selected latents")).to_contain_text(
        "nearest 1, cosine 0.92", use_inner_text=True
    )
    box.get_by_role("button", name="Select all of end-to-end").click()
    box.get_by_text("4 latents are selected.").wait_for()


@BOTH
def test_the_logit_lens_says_the_next_token_after_each_block(reading, size):
    page = reading(size)
    page.locator("[data-place='3']").click()
    page.get_by_text("Logit lens", exact=True).click()
    page.locator(".lens").wait_for()
    rows = page.locator(".lens tr").all_inner_texts()
    assert [row.split() for row in rows] == [["0", "pier", "0.20"], ["1", "pier", "0.70"]]


@BOTH
def test_two_nlas_readings_of_a_token_stand_together(reading, size):
    page = reading(size, latents=True)
    page.get_by_role("button", name="Two NLAs' readings on one map").click()
    box = page.get_by_role("dialog", name="Two NLAs' readings on one map")
    expect(box).to_contain_text("cosine 0.76 [0.75, 0.77]")
    box.get_by_role("button", name="Select all of storyworld").click()
    box.get_by_text("4 readings are selected.").wait_for()
    first = box.get_by_role("list", name="Selected readings").get_by_label("Token 0")
    expect(first).to_contain_text("A story of boats.")
    expect(first).to_contain_text("Boats at sea.")
    expect(box.get_by_role("img", name="Map of storyworld, 2 readings")).to_be_visible()
    box.get_by_label("Lay one over the other").check()
    expect(box.locator("svg.map-panel")).to_have_count(1)
    expect(box.locator("svg.map-panel circle")).to_have_count(4)
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_a_fitted_jacobian_lens_stands_beside_the_logit_lens(reading):
    page = reading(WIDE, latents=True)
    page.locator("[data-place='3']").click()
    page.get_by_text("Jacobian lens", exact=True).click()
    expect(page.locator(".lens tr")).to_have_count(2)
    expect(page.locator(".lens tr").last).to_contain_text("pier")


def test_without_an_autoencoder_the_page_has_no_latents(reading):
    page = reading(WIDE)
    page.locator("[data-place='3']").click()
    page.get_by_text("Try your own words").wait_for()
    expect(page.get_by_text("Latents of this token")).to_have_count(0)
    expect(page.get_by_role("button", name="Latents", exact=True)).to_have_count(0)


@BOTH
def test_nothing_is_wrong_with_a_dashboard_by_axe(reading, size, axe_source):
    page = _at_token(reading, size)
    page.get_by_role("region", name="Shared latents").get_by_role("button").click()
    page.get_by_role("region", name="Dashboard").wait_for()
    page.evaluate(axe_source)
    found = page.evaluate("() => axe.run({resultTypes: ['violations']})")["violations"]
    serious = [each["id"] for each in found if each["impact"] in ("serious", "critical")]
    assert serious == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
