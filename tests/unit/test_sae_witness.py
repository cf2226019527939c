"""An autoencoder as witness of an NLA, and its latents as judge, against answers that are known."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
import torch

from nlakit.claim import Claim
from nlakit.cli import run
from nlakit.errors import InputError
from nlakit.evals.eval_set import EvalRows
from nlakit.sae.autoencoder import SparseAutoencoder
from nlakit.sae.config import SaeConfig
from nlakit.sae.judge import LatentJudge, TiedLatent, facts_of
from nlakit.sae.witness import at_norm_of, overlap
from nlakit.worlds.storyworld.claims import STORYWORLD


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


def test_latents_are_shared_lost_and_invented():
    h = torch.tensor([[3.0, 0.0, 4.0], [0.0, 5.0, 0.0]])
    rebuilt = torch.tensor([[0.6, 0.8, 0.0], [0.0, 1.0, 0.0]])
    found = overlap(parts(3), h, rebuilt)
    assert found.both_NM.nonzero().tolist() == [[0, 0], [1, 1]]
    figures = found.figures(["a", "b"])
    counts = {name: figures[name].value for name in ("shared", "lost", "invented")}
    assert counts == {"shared": 1.0, "lost": 0.5, "invented": 0.5}
    assert figures["Jaccard"].value == pytest.approx((1 / 3 + 1) / 2)
    assert figures["precision"].value == pytest.approx(2 / 3)
    assert figures["recall"].value == pytest.approx(2 / 3)
    assert figures["weight"].value == pytest.approx((3 + 5) / (7 + 5))
    # Latent 1 is silent in the first row, and made; 0 and 2 are silent in the second, and not.
    assert found.silent_figures(["a", "b"])["recall"].value == pytest.approx(1 / 3)


def test_a_reconstruction_is_compared_at_the_norm_of_the_activation():
    h = torch.tensor([[3.0, 4.0]])
    assert torch.allclose(at_norm_of(torch.tensor([[0.0, 9.0]]), h), torch.tensor([[0.0, 5.0]]))


def test_a_judge_supports_what_a_tied_latent_says_and_is_silent_on_the_rest():
    judge = LatentJudge(parts(2), {"mood=calm": TiedLatent(1, 0.5)})
    latents = torch.tensor([0.0, 0.6, 0.0, 0.0])
    assert judge.supports(Claim("mood", "calm", 0, 4), latents) is True
    assert judge.supports(Claim("mood", "calm", 0, 4), latents * 0.8) is False
    assert judge.supports(Claim("mood", "angry", 0, 4), latents) is None


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("sae") / "kept"
    return str(parts(192, model="bundled", hook_name="blocks.3.hook_resid_post").save(path))


def test_the_verb_witnesses_each_token(saved, capsys):
    arguments = ["witness", "the boat was near the pier", "--sae", saved, "--last", "2"]
    assert run([*arguments, "--residual", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert len(printed["tokens"]) == 2
    token = printed["tokens"][0]
    # Every component is positive or negative in both.
    assert len(token["shared"]) + len(token["lost"]) == 192
    assert 0.3 < token["jaccard"] < 1
    # This autoencoder leaves nothing out, so there is nothing to read.
    assert token["residual"] is not None
    strengths = [each["activation"] for each in token["shared"]]
    assert strengths == sorted(strengths, reverse=True)


def test_explanations_keep_more_latents_than_those_of_other_documents(saved, capsys):
    assert run(["eval", "witness", "--sae", saved, "--documents", "24", "--json"]) == 0
    lines = {each["name"]: each for each in json.loads(capsys.readouterr().out)["lines"]}
    own = lines["explanation"]["figures"]["recall"]["value"]
    assert "latents that are silent in the activation" in lines
    for name, line in lines.items():
        if name != "explanation":
            assert line["floor"]
            assert line["figures"]["recall"]["value"] < own


def test_directions_are_read_alone_and_on_the_mean(saved, capsys):
    arguments = ["dashboards", "read", "3", "200", "--sae", saved, "--documents", "4", "--json"]
    assert run(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [(each["latent"], each["vector"]) for each in printed] == [
        (3, "direction"),
        (3, "mean + direction"),
        (200, "direction"),
        (200, "mean + direction"),
    ]
    assert abs(printed[0]["off_manifold"]) < printed[1]["off_manifold"]
    assert all(each["explanation"] for each in printed)


def test_facts_of_latents_and_of_explanations_are_scored_on_the_same_rows(saved, tmp_path, capsys):
    path = tmp_path / "beside.json"
    arguments = ["eval", "latent-facts", "--sae", saved, "--documents", "60", "--choose", "60"]
    assert run([*arguments, "--output", str(path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(path.read_text())
    counts = [printed[name] for name in ("both", "sae_only", "nla_only", "neither")]
    assert sum(counts) == len(printed["facts"])
    by_name = {each["fact"]: each for each in printed["facts"]}
    assert by_name["genre=story"]["nla_f1"] > 0.8


def test_an_autoencoder_of_another_site_is_no_witness(tmp_path, capsys):
    path = parts(8, model="bundled", hook_name="blocks.3.hook_resid_post").save(tmp_path / "other")
    assert run(["witness", "a boat", "--sae", str(path)]) == 2
    assert "width 8" in capsys.readouterr().err


def test_facts_cannot_be_asked_for_where_nobody_knows_the_truth():
    rows = EvalRows(torch.zeros(1, 2), pa.table({"doc_id": ["a"]}), [[1]], states=None)
    with pytest.raises(InputError, match="Nobody knows"):
        facts_of(rows, STORYWORLD.known())
