"""Steering over HTTP gives what the pair gives."""

from __future__ import annotations

import pytest
from support.serving import client_for

import nlakit

COUPLET = "The lonely rose shone near the house,\nInes"


@pytest.fixture(scope="module")
def pair():
    return nlakit.load()


@pytest.fixture(scope="module")
def client(pair, tmp_path_factory):
    with client_for(pair, tmp_path_factory.mktemp("steer")) as found:
        yield found


def test_an_edited_rhyme_is_taken_up_and_costs_something_elsewhere(client, pair):
    body = {"text": COUPLET, "position": -1, "edit": {"mouse": "night"}, "completion_tokens": 12}
    found = client.post("/v1/steer", json=body).json()
    ours = pair.steer(COUPLET, -1, {"mouse": "night"}, max_new_tokens=12)
    assert (found["before"], found["after"]) == (ours.plain, ours.steered)
    assert found["changed"] and '"night"' in found["edited"] and '"mouse"' in found["original"]
    assert found["shift"] > 0.1 and found["kl_unrelated"] == pytest.approx(ours.side_effect)
    assert found["kl_unrelated"] > 0
    assert found["position"] == len(pair.encode(COUPLET).ids) - 1
    assert "mouse" in found["before"] and found["after"].split(".")[0].endswith(" night")
    once = client.post("/v1/steer", json=body | {"once": True}).json()
    assert (found["once"], once["once"]) == (False, True)
    assert once["after"] == pair.steer(COUPLET, -1, {"mouse": "night"}, once=True,
                                       max_new_tokens=12).steered != found["after"]  # fmt: skip


def test_no_strength_changes_nothing(client):
    body = {"text": COUPLET, "edit": {"mouse": "night"}, "alpha": 0, "completion_tokens": 8}
    found = client.post("/v1/steer", json=body).json()
    assert not found["changed"] and found["kl_unrelated"] == pytest.approx(0, abs=1e-6)


def test_the_page_s_own_explanation_is_edited_where_it_is_given(client):
    words = 'A mournful poem. The rhyme will be "mouse".'
    body = {"text": COUPLET, "explanation": words, "edit": words.replace("mouse", "night")}
    found = client.post("/v1/steer", json=body).json()
    assert found["original"] == words


def test_a_place_in_a_section_is_the_pair_s(client, pair):
    messages = [{"role": "system", "content": "You help near the pier, it is a rehearsal."},
                {"role": "user", "content": "I want to mend the boat."}]  # fmt: skip
    body = {"messages": messages, "position": -1, "section": "content", "completion_tokens": 4,
            "edit": "A sad chat."}  # fmt: skip
    found = client.post("/v1/steer", json=body).json()
    ours = pair.steer(messages, -1, "A sad chat.", section="content", max_new_tokens=4,
                      add_generation_prompt=True)  # fmt: skip
    assert (found["original"], found["after"]) == (ours.original, ours.steered)
    without = client.post("/v1/steer", json={**body, "section": None}).json()
    assert found["position"] < without["position"]


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"section": "thinking"}, 400),
        ({"section": "thoughts"}, 422),
        ({"edit": {"elephant": "night"}}, 400),
        ({"position": 99}, 400),
        ({"alpha": 17}, 422),
        ({"edit": 3}, 422),
        ({"completion_tokens": 65}, 422),
    ],
)
def test_what_cannot_be_steered_is_refused(client, wrong, status):
    body = {"text": COUPLET, "edit": {"mouse": "night"}, **wrong}
    assert client.post("/v1/steer", json=body).status_code == status
