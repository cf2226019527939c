"""Latents over HTTP: what a text, a dashboard, a witness and a steered text say."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from support.serving import client_for

import nlakit
from nlakit.errors import CheckpointError
from nlakit.evals.lens import read_lens
from nlakit.models.lens import Lens
from nlakit.sae.autoencoder import SparseAutoencoder
from nlakit.sae.config import SaeConfig
from nlakit.sae.dashboard import DirectionReading, build_dashboards, read_activity
from nlakit.sae.dual_map import DualMap, MapPoint, read_dual_map
from nlakit.sae.features import features_of
from nlakit.sae.steering import steer_by_latent
from nlakit.sae.store import DashboardStore
from nlakit.sae.witness import witness_text
from nlakit.serve.latents import ServedLatents
from nlakit.worlds.storyworld.sae import StoryworldTexts

TEXT = "Ines walked to the pier and"
INTERVALS = ((0.5, 1.0), (0.5, 1.0))
MAP = DualMap(
    names=("x", "y"),
    seed=1,
    across=((1,), (1,)),
    within=((1,), (1,)),
    mean_across=(0.7, 0.6),
    mean_across_intervals=INTERVALS,
    mean_within=(0.3, 0.2),
    mean_within_intervals=INTERVALS,
    points=(MapPoint(dictionary=0, latent=3, x=0.0, y=1.0, nearest=1, cosine=0.9),),
)


def made(width):
    """The eight largest of random directions."""
    rows = torch.randn(64, width, generator=torch.Generator().manual_seed(0))
    rows /= rows.norm(dim=-1, keepdim=True)
    config = SaeConfig(architecture="topk", d_in=width, d_sae=64, k=8)
    zeros = {"b_enc": torch.zeros(64), "b_dec": torch.zeros(width)}
    return SparseAutoencoder(config, {"W_enc": rows.T.contiguous(), "W_dec": rows, **zeros})


DIRECTION = DirectionReading(
    nla="storyworld",
    latent=5,
    label="piers",
    vector="direction",
    explanation="A pier.",
    fidelity=0.1,
    off_manifold=0.02,
    says_it=False,
)


@pytest.fixture(scope="module")
def pair():
    return nlakit.load()


@pytest.fixture(scope="module")
def beside(pair, tmp_path_factory):
    sae, path = made(pair.card.d_model), tmp_path_factory.mktemp("store") / "dashboards.sqlite"
    passages = list(islice(StoryworldTexts(5).passages(pair.target, "heldout"), 4))
    activity = read_activity(sae, pair.target, passages)
    with DashboardStore(path) as store:
        labels = {5: "piers"}
        store.write(build_dashboards(sae, pair.target, activity, labels=labels), {})
        store.keep_readings([DIRECTION])
    return ServedLatents(sae, "mine/topk", path, MAP)


@pytest.fixture(scope="module")
def client(pair, beside, tmp_path_factory):
    with client_for(pair, tmp_path_factory.mktemp("latents"), latents=beside) as found:
        yield found


def test_the_server_says_what_it_has(client, pair):
    assert client.get("/v1/latents").json() == {
        "name": "mine/topk",
        "architecture": "topk",
        "d_sae": 64,
        "layer_index": pair.card.layer,
        "has_dashboards": True,
        "has_map": True,
    }
    assert DualMap.model_validate(client.get("/v1/latents/map").json()) == MAP
    assert client.get("/v1/models").json()["models"][0]["has_reading_map"] is False
    refused = client.get("/v1/reading-map")
    assert refused.status_code == 404 and "--reading-map FILE" in refused.json()["detail"]


def test_the_jacobian_lens_is_asked_for_by_name(client, pair, tmp_path):
    body = {"text": TEXT, "position": 3, "lens": "jacobian"}
    refused = client.post("/v1/lens", json=body)
    assert refused.status_code == 404 and "nlakit lens fit" in refused.json()["detail"]
    width = pair.card.d_model
    # With the identity in place of each Jacobian it is the logit lens.
    lens = Lens(
        {layer: torch.eye(width) for layer in range(pair.target.model.config.num_hidden_layers - 1)}
    )
    with client_for(pair, tmp_path, jacobian_lens=lens) as found:
        assert found.get("/v1/models").json()["models"][0]["has_jacobian_lens"] is True
        asked = found.post("/v1/lens", json=body).json()
        plain = found.post("/v1/lens", json={**body, "lens": "logit"}).json()
    assert (asked["lens"], plain["lens"]) == ("jacobian", "logit")
    assert asked["tokens"][0]["layers"][0] == plain["tokens"][0]["layers"][0]


def test_a_map_of_readings_is_served_without_an_autoencoder(pair, tmp_path):
    readings = MAP.model_copy(update={"of": "readings"})
    with client_for(pair, tmp_path, reading_map=readings) as found:
        assert found.get("/v1/models").json()["models"][0]["has_reading_map"] is True
        assert DualMap.model_validate(found.get("/v1/reading-map").json()) == readings


def test_features_are_those_of_the_text(client, pair, beside):
    body = {"text": TEXT, "top": 3}
    found = client.post("/v1/latents/features", json=body).json()
    encoded = pair.target.encode(TEXT)
    ours = features_of(
        beside.sae, pair.target, encoded, name="mine/topk", top=3, labels={5: "piers"}
    )
    assert found == ours.model_dump(mode="json")
    one = client.post("/v1/latents/features", json={**body, "positions": [-1], "latents": [5]})
    (token,) = one.json()["tokens"]
    assert {each["index"] for each in token["features"]} <= {5}


def test_a_dashboard_is_found_by_number_and_by_words(client):
    shown = client.get("/v1/latents/5").json()
    assert (shown["label"], shown["readings"]) == ("piers", [DIRECTION.model_dump()])
    assert client.get("/v1/latents/6").json()["readings"] == []
    found = client.get("/v1/latents/search", params={"q": "pier"}).json()["found"]
    assert found[0]["latent"] == 5
    missing = client.get("/v1/latents/64")
    assert (missing.status_code, "no dashboard of latent 64" in missing.text) == (404, True)


def test_the_witness_is_that_of_the_pair(client, pair, beside):
    (ours,) = witness_text(pair, beside.sae, TEXT, name="x", positions=[4]).tokens
    body = {"text": TEXT, "position": 4, "explanation": ours.explanation}
    found = client.post("/v1/latents/witness", json=body).json()
    assert found["jaccard"] == pytest.approx(ours.jaccard)
    for fate in ("shared", "lost", "invented"):
        assert [each["index"] for each in found[fate]] == [e.index for e in getattr(ours, fate)]
    assert (found["residual"], found["residual_fidelity"]) == (None, None)


def test_what_the_autoencoder_leaves_out_is_read_when_asked(client, pair, beside):
    (ours,) = witness_text(pair, beside.sae, TEXT, name="x", positions=[4], residual=True).tokens
    body = {"text": TEXT, "position": 4, "explanation": ours.explanation, "residual": True}
    found = client.post("/v1/latents/witness", json=body).json()
    assert ours.residual and found["residual"] == ours.residual
    assert found["residual_fidelity"] == pytest.approx(ours.residual_fidelity)


def test_a_latent_steers(client, pair, beside):
    body = {"text": TEXT, "latent": 5, "value": 60.0, "completion_tokens": 6}
    found = client.post("/v1/latents/steer", json=body).json()
    ids = pair.target.encode(TEXT).ids
    about = {"name": "mine/topk", "max_new_tokens": 6}
    ours = steer_by_latent(beside.sae, pair.target, ids, 5, 60.0, **about)
    assert (found["before"], found["after"]) == (ours.before, ours.after)
    refused = client.post("/v1/latents/steer", json={**body, "latent": 64})
    assert (refused.status_code, "0 to 63" in refused.text) == (400, True)


def test_the_logit_lens_of_a_token_ends_in_what_the_target_says(client, pair):
    found = client.post("/v1/lens", json={"text": TEXT, "position": 2}).json()
    encoded = pair.target.encode(TEXT)
    assert found == read_lens(Lens(), pair.target, encoded, [2]).model_dump(mode="json")
    last = pair.target.model.config.num_hidden_layers - 1
    assert found["tokens"][0]["layers"][-1]["layer"] == last


def test_without_an_autoencoder_there_is_nothing(pair, tmp_path):
    with client_for(pair, tmp_path) as bare:
        for path in ("/v1/latents", "/v1/latents/3", "/v1/latents/map"):
            assert bare.get(path).status_code == 404
        answer = bare.post("/v1/latents/features", json={"text": TEXT})
        assert answer.status_code == 404 and "--sae" in answer.json()["detail"]


def test_a_map_is_read_from_its_file(tmp_path):
    path = tmp_path / "map.json"
    path.write_text(MAP.model_dump_json())
    assert read_dual_map(path) == MAP
    path.write_text("{}")
    with pytest.raises(CheckpointError, match="no map of two dictionaries"):
        read_dual_map(path)
