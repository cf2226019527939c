"""Features of a text, dashboards, their store, and their exchange with Neuronpedia."""

from __future__ import annotations

import gzip
import json
from itertools import islice

import numpy as np
import pytest
import torch

from nlakit.cli import run
from nlakit.errors import CheckpointError, InputError
from nlakit.sae import neuronpedia
from nlakit.sae.autoencoder import SparseAutoencoder
from nlakit.sae.config import SaeConfig
from nlakit.sae.dashboard import (
    WINDOW,
    DirectionReading,
    build_dashboards,
    direct_logits,
    read_activity,
)
from nlakit.sae.features import features_of
from nlakit.sae.neuronpedia import Source
from nlakit.sae.store import DashboardStore
from nlakit.worlds.storyworld.sae import StoryworldTexts, fact_labels


def parts(width, **more):
    """Latents are the positive and the negative part of every component."""
    both = torch.cat([torch.eye(width), -torch.eye(width)])
    config = SaeConfig(architecture="standard", d_in=width, d_sae=2 * width, **more)
    weights = {
        "W_enc": both.T.contiguous(),
        "b_enc": torch.zeros(2 * width),
        "W_dec": both.clone(),
        "b_dec": torch.zeros(width),
    }
    return SparseAutoencoder(config, weights)


@pytest.fixture(scope="module")
def passages(tiny_target):
    return list(islice(StoryworldTexts(5).passages(tiny_target, "heldout"), 12))


@pytest.fixture(scope="module")
def made(tiny_target, passages):
    sae = parts(16)
    activity = read_activity(sae, tiny_target, passages)
    return activity, list(build_dashboards(sae, tiny_target, activity))


def test_features_are_the_strongest_parts_of_each_activation(tiny_target):
    encoded = tiny_target.encode("the old boat by the pier")
    found = features_of(parts(16), tiny_target, encoded, name="x", top=3, labels={0: "first"})
    x = tiny_target.activations([encoded.ids])[0]
    assert [token.token for token in found.tokens] == [t for t in encoded.tokens if t != "<bos>"][
        -len(found.tokens) :
    ]
    for token in found.tokens:
        row = x[token.position]
        strongest = torch.cat([row, -row]).relu().topk(3)
        assert [each.index for each in token.features] == strongest.indices.tolist()
        assert token.l0 == int((torch.cat([row, -row]) > 0).sum())
        assert token.error == pytest.approx(0, abs=1e-5)
    labels = {each.label for token in found.tokens for each in token.features if each.index == 0}
    assert labels <= {"first"}


def test_one_latent_can_be_asked_for_and_must_exist(tiny_target):
    encoded = tiny_target.encode("the old boat")
    found = features_of(parts(16), tiny_target, encoded, name="x", latents=[2])
    assert {each.index for token in found.tokens for each in token.features} <= {2}
    with pytest.raises(InputError, match="0 to 31"):
        features_of(parts(16), tiny_target, encoded, name="x", latents=[32])


def test_a_dashboard_shows_where_a_latent_is_strongest(made, tiny_target, passages):
    activity, dashboards = made
    vectors = tiny_target.activations(
        [p.encoded.ids for p in passages], [p.positions for p in passages]
    )
    values = torch.cat(vectors)[:, 3].relu()
    dashboard = dashboards[3]
    assert dashboard.density == pytest.approx((values > 0).float().mean().item())
    assert dashboard.max_activation == pytest.approx(values.max().item(), rel=1e-5)
    top = [each for each in dashboard.examples if each.interval is None]
    peaks = [each.values[each.peak] for each in top]
    best = sorted((v[:, 3].relu().max().item() for v in vectors), reverse=True)
    assert peaks == pytest.approx([value for value in best if value > 0][: len(peaks)], rel=1e-5)
    assert len({each.document for each in top}) == len(top)
    assert all(len(each.tokens) <= WINDOW for each in dashboard.examples)
    assert dashboard.neighbours[-1].cosine == pytest.approx(0.0)


def test_examples_of_an_interval_are_within_it(made):
    _, dashboards = made
    inside = [each for each in dashboards[3].examples if each.interval is not None]
    assert len({each.interval for each in inside}) == 5
    for each in inside:
        low, high = each.interval
        assert low < each.values[each.peak] <= high * 1.0001
    shares = {each.interval: each.interval_share for each in inside}
    assert sum(shares.values()) == pytest.approx(1.0)


def test_a_latent_that_is_never_active_has_an_empty_dashboard(tiny_target, passages):
    sae = parts(16)
    sae.weights["b_enc"][5] = -1e6
    activity = read_activity(sae, tiny_target, passages)
    (dashboard,) = build_dashboards(sae, tiny_target, activity, latents=[5])
    assert (dashboard.density, dashboard.max_activation, dashboard.examples) == (0.0, 0.0, ())


def test_a_direction_promotes_the_tokens_whose_unembedding_it_is_like(tiny_target):
    unembedding = tiny_target.model.lm_head.weight.detach()
    norm = tiny_target.model.model.norm.weight.detach()
    direction = torch.nn.functional.normalize(unembedding[17] / norm, dim=0)
    logits = direct_logits(tiny_target, direction)
    expected = unembedding @ (direction * norm)
    assert torch.cosine_similarity(logits, expected, dim=0) > 0.9999
    assert logits.argmax() == expected.argmax()


def test_latents_are_called_by_the_fact_that_they_say(made, passages):
    activity, _ = made
    facts = [held for passage in passages for held in passage.facts]
    wanted = next(iter(sorted(facts[-1])))
    rows = np.array([row for row, held in enumerate(facts) if wanted in held])
    told = activity.__class__(
        activity.passages,
        np.array([0, len(rows)]),
        rows,
        np.ones(len(rows), dtype=np.float32),
        activity.first_rows,
    )
    labels = fact_labels(told)
    assert labels[0].endswith("(F1 1.00)")


def test_a_store_finds_by_label_by_example_and_by_text(tmp_path, made, tiny_target):
    _, dashboards = made
    with DashboardStore(tmp_path / "d.sqlite") as store:
        assert store.write(dashboards, {"model": "m"}) == 32
        store.set_labels({4: "boats and harbors"})
        assert store.dashboard(3) == dashboards[3]
        assert store.search("harbor boat")[0].latent == 4
        assert store.search("!!") == []
        word = "".join(dashboards[7].examples[0].tokens).split()[1]
        assert store.search(word, limit=40)
        read = features_of(parts(16), tiny_target, tiny_target.encode("the boat"), name="x")
        found = store.search_by_text(read)
        assert [each.score for each in found] == sorted((e.score for e in found), reverse=True)
        with pytest.raises(InputError, match="latent 99"):
            store.dashboard(99)
    with DashboardStore(tmp_path / "d.sqlite") as again:
        assert again.labels() == {4: "boats and harbors"}
        assert again.about()["model"] == "m"
        assert len(list(again)) == 32


def direction_reading(latent, vector="direction", explanation="A boat."):
    shared = {"nla": "x", "label": None, "fidelity": 0.5, "off_manifold": 0.1, "says_it": True}
    return DirectionReading(latent=latent, vector=vector, explanation=explanation, **shared)


def test_a_store_keeps_the_last_reading_of_each_vector(tmp_path, made):
    _, dashboards = made
    alone, added = direction_reading(3), direction_reading(3, "mean + direction")
    with DashboardStore(tmp_path / "d.sqlite") as store:
        store.write(dashboards[:5], {})
        # Latent 9 has no dashboard here.
        assert store.keep_readings([alone, added, direction_reading(9)]) == 2
        assert store.dashboard(3).readings == (alone, added)
        later = direction_reading(3, "direction", "A pier.")
        assert store.keep_readings([later]) == 1
    with DashboardStore(tmp_path / "d.sqlite") as again:
        assert again.dashboard(3) == dashboards[3].model_copy(update={"readings": (added, later)})
        assert again.dashboard(4).readings == ()


def test_a_store_from_before_readings_still_opens(tmp_path, made):
    _, dashboards = made
    with DashboardStore(tmp_path / "d.sqlite") as store:
        store.write(dashboards[:5], {})
        with store.connection:
            store.connection.execute("UPDATE dashboards SET json = json_remove(json, '$.readings')")
    with DashboardStore(tmp_path / "d.sqlite") as old:
        assert list(old) == dashboards[:5]
        assert old.keep_readings([direction_reading(3)]) == 1
        assert old.dashboard(3).readings == (direction_reading(3),)


def test_a_file_of_something_else_is_no_store(tmp_path):
    (tmp_path / "d.sqlite").write_text("not a database, but long enough to look at" * 10)
    with pytest.raises(CheckpointError, match="not a store"):
        DashboardStore(tmp_path / "d.sqlite")


SOURCE = Source(model_id="tiny", layer=3, sae_set="nlakit", dataset="storyworld", num_prompts=12)


def rounded(dashboard, digits):
    return json.loads(
        dashboard.model_dump_json(), parse_float=lambda text: round(float(text), digits)
    )


def without_documents(raw):
    for example in raw["examples"]:
        example["document"] = ""
    return raw


def test_saedashboard_batches_go_round(tmp_path, made):
    _, dashboards = made
    # The format has no place for what an NLA says.
    told = [e.model_copy(update={"readings": (direction_reading(e.latent),)}) for e in dashboards]
    (path,) = neuronpedia.write_saedashboard(told, SOURCE, tmp_path)
    batch = json.loads(path.read_text())
    assert (batch["model_id"], batch["layer"], batch["sae_set"]) == ("tiny", 3, "nlakit")
    feature = batch["features"][3]
    assert feature["frac_nonzero"] == dashboards[3].density
    assert feature["activations"][0]["bin_min"] == -1
    assert feature["activations"][0]["qualifying_token_index"] == dashboards[3].examples[0].peak
    again = list(neuronpedia.read_saedashboard(tmp_path))
    kept = [each for each in dashboards if each.examples]
    for one, two in zip(kept, again, strict=True):
        ours, theirs = without_documents(rounded(one, 3)), rounded(two, 3)
        # What is told by example only is as exact as the examples.
        assert theirs.pop("density") == pytest.approx(ours.pop("density"), abs=1e-3)
        assert theirs == ours


def test_neuronpedia_exports_go_round(tmp_path, made):
    _, dashboards = made
    labelled = [dashboards[0].model_copy(update={"label": "boats"}), *dashboards[1:]]
    told = [e.model_copy(update={"readings": (direction_reading(e.latent),)}) for e in labelled]
    place = neuronpedia.write_neuronpedia(told, SOURCE, tmp_path)
    assert place == tmp_path / "tiny" / "3-nlakit"
    lines = gzip.decompress((place / "activations" / "batch-0.jsonl.gz").read_bytes()).decode()
    row = json.loads(lines.splitlines()[0])
    assert (row["modelId"], row["layer"], row["index"]) == ("tiny", "3-nlakit", "0")
    assert row["maxValue"] == row["values"][row["maxValueTokenIndex"]]
    again = list(neuronpedia.read_neuronpedia(place))
    kept = [each for each in labelled if each.examples]
    assert again[0].label == ("boats" if kept[0].latent == 0 else None)
    for one, two in zip(kept, again, strict=True):
        assert rounded(two, 3) == rounded(one, 3)


def test_what_the_site_answers_is_read():
    raw = {
        "modelId": "gpt2-small",
        "layer": "9-res-jb",
        "index": "12",
        "maxActApprox": 30.5,
        "frac_nonzero": 0.01,
        **{f"{sign}_{kind}": [] for sign in ("pos", "neg") for kind in ("str", "values")},
        **{
            f"{name}_hist_data_bar_{kind}": []
            for name in ("freq", "logits")
            for kind in ("heights", "values")
        },
        "topkCosSimIndices": [3],
        "topkCosSimValues": [0.5],
        "activations": [
            {"tokens": ["a", "b"], "values": [0, 2.5], "maxValue": 2.5, "maxValueTokenIndex": 1}
        ],
        "explanations": [{"description": "letters", "typeName": "oai_token-act-pair"}],
    }
    found = neuronpedia.read_feature(raw)
    assert (found.latent, found.label, found.max_activation) == (12, "letters", 30.5)
    assert (found.examples[0].peak, found.examples[0].interval) == (1, None)
    del raw["frac_nonzero"]
    with pytest.raises(CheckpointError, match="frac_nonzero"):
        neuronpedia.read_feature(raw)


def test_files_of_others_that_are_broken_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="has no batch"):
        list(neuronpedia.read_saedashboard(tmp_path))
    (tmp_path / "batch-0.json").write_text("{")
    with pytest.raises(CheckpointError, match="not JSON"):
        list(neuronpedia.read_saedashboard(tmp_path))
    (tmp_path / "batch-0.json").write_text('{"features": [{"feature_index": 1}]}')
    with pytest.raises(CheckpointError, match="activations"):
        list(neuronpedia.read_saedashboard(tmp_path))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("sae") / "kept"
    return parts(192, model="bundled", hook_name="blocks.3.hook_resid_post").save(path)


def test_verbs_from_features_to_an_export(tmp_path, saved, capsys):
    name = str(saved)
    assert run(["dashboards", "build", "--sae", name, "--documents", "6"]) == 0
    assert run(["features", "the boat by the pier", "--sae", name, "--json", "--top", "2"]) == 0
    printed = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert printed["layer"] == 3
    assert all(len(token["features"]) == 2 for token in printed["tokens"])
    assert run(["dashboards", "show", "5", "--sae", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["readings"] == []
    assert run(["dashboards", "read", "5", "--sae", name, "--documents", "2"]) == 0
    read = capsys.readouterr()
    assert "Kept 2 of 2 readings" in read.err
    assert run(["dashboards", "show", "5", "--sae", name]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert " ".join(read.out.split()) in shown
    assert "off-manifold" in shown
    assert run(["dashboards", "search", "the", "--sae", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert run(["dashboards", "search", "a boat", "--sae", name, "--by", "text", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["score"] > 0
    out = str(tmp_path / "out")
    assert run(["dashboards", "export", "--sae", name, "--output", out]) == 0
    place = capsys.readouterr().out.strip()
    store = str(tmp_path / "again.sqlite")
    assert run(["dashboards", "import", place, "--store", store, "--format", "neuronpedia"]) == 0


def test_dashboards_that_were_not_made_are_asked_for_by_name(tmp_path, capsys):
    parts(4).save(tmp_path / "bare")
    assert run(["dashboards", "show", "5", "--sae", str(tmp_path / "bare")]) == 2
    assert "nlakit dashboards build" in capsys.readouterr().err
