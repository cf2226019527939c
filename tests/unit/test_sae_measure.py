"""Figures of autoencoders whose answers are known: one that keeps everything, one that keeps
nothing, and latents made from the facts themselves."""

from __future__ import annotations

import json

import pytest
import torch

from nlakit.cli import run
from nlakit.errors import InputError
from nlakit.sae.autoencoder import SparseAutoencoder
from nlakit.sae.config import SaeConfig
from nlakit.sae.facts import LabelledRows, score_facts
from nlakit.sae.measure import measure
from nlakit.worlds.storyworld.sae import StoryworldTexts


def keeping(width, scale=1.0, **more):
    """Latents are the positive and the negative part of every component."""
    both = torch.cat([torch.eye(width), -torch.eye(width)])
    config = SaeConfig(architecture="standard", d_in=width, d_sae=2 * width, **more)
    weights = {
        "W_enc": both.T.contiguous(),
        "b_enc": torch.zeros(2 * width),
        "W_dec": both * scale,
        "b_dec": torch.zeros(width),
    }
    return SparseAutoencoder(config, weights)


def report_of(sae, target, **more):
    settings = {"name": "x", "documents": 6} | more
    return measure(sae, target, StoryworldTexts(7), **settings)


def test_what_keeps_everything_and_what_keeps_nothing(tiny_target):
    everything = report_of(keeping(16), tiny_target)
    assert everything.fve == pytest.approx(1.0, abs=1e-9)
    assert everything.ce_recovered == pytest.approx(1.0, abs=1e-3)
    assert everything.kl == pytest.approx(0.0, abs=1e-5)
    assert everything.l0 == pytest.approx(16, abs=0.1)
    nothing = report_of(keeping(16, scale=0.0), tiny_target)
    assert nothing.fve < 0  # zeros are farther away than the mean is
    assert nothing.ce_recovered == pytest.approx(0.0, abs=1e-6)
    assert nothing.kl_recovered == pytest.approx(0.0, abs=1e-6)
    assert nothing.fve_interval.low <= nothing.fve <= nothing.fve_interval.high
    assert nothing.rows == everything.rows > 100
    assert sum(nothing.density.values()) == 32


def test_an_autoencoder_of_another_site_is_refused(tiny_target):
    with pytest.raises(InputError, match="width 8"):
        report_of(keeping(8), tiny_target)
    with pytest.raises(InputError, match="layer 3"):
        report_of(keeping(16, hook_name="blocks.3.hook_resid_post"), tiny_target)
    with pytest.raises(InputError, match=r"hook_z"):
        report_of(keeping(16, hook_name="blocks.0.attn.hook_z"), tiny_target)


@pytest.fixture(scope="module")
def known():
    """Facts a (one latent), b (two latents, half of its rows each), c (absorbed by the latent of
    something rarer at a third of its rows) and d (no latent)."""
    seeds = torch.Generator().manual_seed(0)
    count = 4000
    draw = torch.rand(count, 5, generator=seeds)
    a, b, c, d = (draw[:, i] < share for i, share in enumerate((0.3, 0.4, 0.3, 0.3)))
    rare = c & (draw[:, 4] < 1 / 3)
    half = torch.rand(count, generator=seeds) < 0.5
    noise = 0.05 * torch.randn(count, 6, generator=seeds)
    latents = torch.stack([a, b & half, b & ~half, c & ~rare, rare], dim=1).float()
    x = torch.stack([a, b, c, d, rare, rare & ~rare], dim=1).float() * 4 + noise
    directions = torch.zeros(5, 6)
    directions[[0, 1, 2, 3], [0, 1, 1, 2]] = 1
    directions[4, 2] = directions[4, 4] = 0.5**0.5
    named = {"a": a, "b": b, "c": c, "d": d}
    facts = [frozenset(name for name, held in named.items() if held[row]) for row in range(count)]
    rows = LabelledRows(x, latents * 6, facts, [f"doc{row // 10}" for row in range(count)])
    report = score_facts(rows, directions)
    return report, {each.fact: each for each in report.scores}


def test_a_latent_of_a_fact_is_found(known):
    report, scores = known
    assert (scores["a"].latent, scores["a"].f1, scores["a"].split) == (0, 1.0, (0,))
    assert scores["a"].absorbed == 0.0
    assert (report.found, report.readable, report.total) == (1, 4, 4)


def test_a_fact_in_two_halves_is_split(known):
    _, scores = known
    assert set(scores["b"].split) == {1, 2}
    assert scores["b"].f1 == pytest.approx(2 / 3, abs=0.05)
    assert scores["b"].probes[1] == pytest.approx(2 / 3, abs=0.05)
    assert scores["b"].probes[2] == 1.0


def test_a_rarer_latent_absorbs_a_fact_unless_it_counts_as_split(known):
    _, scores = known
    # A third of c's rows is enough to raise F1, so the rare latent joins the split ...
    assert set(scores["c"].split) == {3, 4}
    assert scores["c"].absorbed == 0.0


def test_what_is_missed_and_carried_by_another_latent_is_absorbed():
    seeds = torch.Generator().manual_seed(1)
    count = 4000
    draw = torch.rand(count, 2, generator=seeds)
    c = draw[:, 0] < 0.5
    rare = c & (draw[:, 1] < 0.04)  # too rare to raise F1 by 0.03
    x = torch.stack([c, rare], dim=1).float() * 4 + 0.05 * torch.randn(count, 2, generator=seeds)
    latents = torch.stack([c & ~rare, rare], dim=1).float() * 4
    facts = [frozenset("c") if held else frozenset() for held in c.tolist()]
    rows = LabelledRows(x, latents, facts, [f"doc{row // 10}" for row in range(count)])
    directions = torch.tensor([[1.0, 0.0], [0.5**0.5, 0.5**0.5]])
    (score,) = score_facts(rows, directions).scores
    assert score.split == (0,)
    assert score.absorbed == pytest.approx(0.04, abs=0.015)


def test_a_fact_without_a_latent_is_not_found_though_a_probe_reads_it(known):
    _, scores = known
    assert scores["d"].dense == 1.0
    assert scores["d"].f1 < 0.7


def test_facts_need_two_documents_and_enough_rows():
    x = torch.randn(100, 4)
    facts = [frozenset("a")] * 100
    with pytest.raises(InputError, match="at least two"):
        score_facts(LabelledRows(x, x.relu(), facts, ["one"] * 100), torch.eye(4))
    documents = [f"d{row}" for row in range(100)]
    with pytest.raises(InputError, match="No fact holds"):
        score_facts(LabelledRows(x, x.relu(), facts, documents), torch.eye(4))


def test_the_verb_prints_one_object(tmp_path, capsys):
    width = 192
    made = keeping(width, model="bundled", hook_name="blocks.3.hook_resid_post")
    made.save(tmp_path / "kept")
    arguments = ["eval", "sae", "--sae", str(tmp_path / "kept"), "--documents", "8", "--json"]
    assert run([*arguments, "--output", str(tmp_path / "report.json")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "report.json").read_text())
    assert printed["fve"] == pytest.approx(1.0, abs=1e-6)
    assert printed["ce_recovered"] == pytest.approx(1.0, abs=1e-3)
    assert {"l0", "alive", "facts"} <= printed.keys()
    assert printed["facts"]["total"] > 0


def test_a_corpus_has_no_known_facts(tmp_path, capsys):
    made = keeping(192, model="bundled", hook_name="blocks.3.hook_resid_post")
    made.save(tmp_path / "kept")
    lines = [
        json.dumps({"text": f"the rose number {n} was planted by the pier"}) for n in range(60)
    ]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    arguments = ["eval", "sae", "--sae", str(tmp_path / "kept"), "--documents", "4", "--json"]
    assert run([*arguments, "--corpus", str(tmp_path / "texts.jsonl")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["facts"] is None
    assert printed["documents"] == 4


def test_an_unknown_name_says_what_there_is(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keeping(4).save(tmp_path / "runs" / "one" / "topk" / "sae")
    assert run(["eval", "sae", "--sae", "nosuch"]) == 2
    assert "one/topk" in capsys.readouterr().err
