"""Metrics with known answers, and the report over a pair that was never trained."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import save_file
from support.pairs import load_whole, make_pair

from nlakit.card import NlaCard, write_card
from nlakit.cli import run
from nlakit.contract import Extraction, NlaMeta, PromptTemplates, measure_tokens
from nlakit.core.fidelity import fve, row_errors, row_fidelity
from nlakit.engines.fake import FakeEngine
from nlakit.errors import CheckpointError, InputError
from nlakit.evals.bootstrap import fve_interval, ratio_interval
from nlakit.evals.claims import KindScore, facts_of, readable_facts, score_claims
from nlakit.evals.floors import derangement, measure_floors
from nlakit.evals.probes import ProbeResult, ProbeScore, ProbeTraining, fit_probes
from nlakit.evals.report import (
    SECTION_NAMES,
    make_panel,
    read_metrics,
    read_report,
    render_html,
    training_curves,
    write_report,
)
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.verbalizer import Verbalizer
from nlakit.pair.load import read_baseline
from nlakit.registry import PairPaths, bundled_path, comparison_path, resolve_pair
from nlakit.storyworld.document import State
from nlakit.worlds.storyworld.claims import PROBED, STORYWORLD, facts
from nlakit.worlds.storyworld.report import evaluate

AV, AR = "Say: <concept>{injection_char}</concept> now.", "Text: {explanation} <summary>"


def state(next_slot=None, **facts):
    return State(facts, frozenset(), ("the", "cat"), next_slot, ())


def random_rows(num, width=8, seed=0):
    return torch.randn(num, width, generator=torch.Generator().manual_seed(seed))


# -- bootstrap -------------------------------------------------------------------------------------
def test_interval_of_a_constant_ratio_is_that_ratio():
    top, bottom = torch.full((20,), 0.5), torch.full((20,), 2.0)
    low, high = ratio_interval(top, bottom, [str(row) for row in range(20)])
    assert (low, high) == (pytest.approx(0.25), pytest.approx(0.25))


def test_interval_matches_the_normal_approximation():
    values = random_rows(400, 1).squeeze(1) + 5
    low, high = ratio_interval(values, torch.ones(400), [str(row) for row in range(400)])
    half = 1.96 * values.std().item() / 20
    assert low == pytest.approx(values.mean().item() - half, abs=0.02)
    assert high == pytest.approx(values.mean().item() + half, abs=0.02)


def test_repeated_rows_of_a_document_narrow_nothing():
    values = random_rows(50, 1).squeeze(1) + 5
    names = [str(row) for row in range(50)]
    once = ratio_interval(values, torch.ones(50), names)
    thrice = ratio_interval(values.repeat(3), torch.ones(150), names * 3)
    assert thrice == pytest.approx(once)


def test_fve_interval_holds_the_score_in_order():
    mse, variance = torch.rand(60), torch.rand(60) + 1
    low, high = fve_interval(mse, variance, [str(row // 2) for row in range(60)])
    assert low < 1 - mse.sum() / variance.sum() < high


def test_one_document_has_no_interval():
    with pytest.raises(InputError, match="found 1"):
        ratio_interval(torch.ones(3), torch.ones(3), ["a", "a", "a"])


# -- fidelity and floors ---------------------------------------------------------------------------
def test_row_fidelities_average_to_fve():
    h, h_hat, mean = random_rows(30), random_rows(30, seed=1), torch.full((8,), 0.1)
    errors = row_errors(h, h_hat, mean, 8**0.5)
    assert row_fidelity(errors).mean().item() == pytest.approx(fve(h, h_hat, mean, 8**0.5).fve)
    assert row_fidelity(row_errors(h, h, mean, 8**0.5)).tolist() == [1.0] * 30


@pytest.mark.parametrize("names", [list("aabbcc"), list("abcdef"), list("aaabbc")])
def test_derangement_leaves_every_document(names):
    other = derangement(names, seed=3)
    assert sorted(other) == list(range(len(names)))
    assert all(names[a] != names[b] for a, b in enumerate(other))


def test_derangement_without_enough_documents_is_refused():
    with pytest.raises(InputError, match="3 of 4 rows"):
        derangement(list("aaab"))


def test_floors_of_a_perfect_reconstruction_are_at_the_bottom():
    h, scale = random_rows(200), 8**0.5
    names = [str(row) for row in range(200)]
    vector_of = {"": h[0], "zero": h[1]}

    def reconstruct(texts):
        return torch.stack([vector_of.get(text, h[2]) for text in texts])

    floors = measure_floors(reconstruct, h, h, names, torch.zeros(8) + 1e-3, scale, "zero")
    assert floors.shuffled == pytest.approx(-1, abs=0.2)
    assert floors.empty == fve(h, h[0].expand_as(h), torch.zeros(8) + 1e-3, scale).fve
    assert len({floors.empty, floors.zero_vector, floors.generic}) == 3
    assert floors.mean == pytest.approx(-1, abs=0.3)


# -- claims ----------------------------------------------------------------------------------------
def test_precision_and_recall_by_hand():
    states = [
        state(mood="calm", topic="sea", day="Monday", language="english"),
        state(mood="angry", topic="sea"),
    ]
    texts = ['A calm text about the sea and a garden. It ends on "cat".', "A calm text."]
    found = score_claims(texts, states, STORYWORLD)
    assert (found.true, found.false, found.checked) == (3, 2, 5)
    assert found.precision == pytest.approx(3 / 5)
    # Facts: mood, topic, last in both rows; the day and unsaid English do not count.
    assert found.facts == 6
    assert found.recall == pytest.approx(3 / 6)
    assert found.per_kind["mood"] == KindScore(
        precision=0.5, recall=0.5, claims=2, facts=2, abstained=0.0
    )
    assert found.abstained == pytest.approx(2 / 6)
    assert found.per_kind["topic"].precision == 0.5
    assert found.per_kind["day"].facts == 1


def test_next_counts_as_a_fact_only_where_it_is_forced():
    assert "next" in facts(state(next_slot="manner"))
    assert "next" not in facts(state())
    states = [state(next_slot="manner"), state()]
    found = score_claims(["It ends, then an adverb."] * 2, states, STORYWORLD)
    assert (found.checked, found.uncheckable, found.per_kind["next"].recall) == (1, 1, 1.0)


def test_nothing_said_scores_zero():
    found = score_claims([""], [state(mood="calm")], STORYWORLD)
    assert (found.precision, found.recall, found.checked) == (0.0, 0.0, 0)
    assert found.per_kind["mood"].precision is None


# -- probes ----------------------------------------------------------------------------------------
def probe_data(num, seed):
    x = random_rows(num, 6, seed)
    moods = ["calm" if row[0] > 0 else "angry" for row in x]
    drills = ["yes" if row[1] * row[2] > 0 else "no" for row in x]
    days = ["Monday" if row % 4 else "Friday" for row in range(num)]
    values = zip(moods, drills, days, strict=True)
    return x, [facts(state(mood=m, drill=d, day=day, switch="spanish")) for m, d, day in values]


def test_probes_read_what_is_there_and_nothing_else():
    x, states = probe_data(1500, 1)
    y, test_states = probe_data(400, 2)
    found = fit_probes(x, states, y, test_states, PROBED, training=ProbeTraining(rounds=20))
    assert set(found) == {"mood", "drill", "day"}
    assert found["mood"].score.linear > 0.9
    assert found["drill"].score.linear < 0.65 < 0.85 < found["drill"].score.mlp
    assert found["day"].score.mlp == pytest.approx(found["day"].score.chance, abs=0.06)
    assert found["day"].score.chance == 0.75


def probe_result(classes, rows, mlp_RC, mlp=0.5):
    score = ProbeScore(linear=0.0, mlp=mlp, chance=0.5, num_train=1, num_test=len(rows))
    mlp_RC = torch.tensor(mlp_RC)
    return ProbeResult(score, classes, rows, mlp_RC, mlp_RC)


def test_readable_facts_are_those_a_probe_is_sure_of_and_right_about():
    states = [state(mood="calm"), state(mood="angry"), state(mood="calm")]
    sure = [[0.9, 0.1], [0.9, 0.1], [0.79, 0.21]]  # right, wrong, not sure enough
    probes = {"mood": probe_result(("calm", "angry"), [0, 1, 2], sure)}
    assert readable_facts(probes, facts_of(states, STORYWORLD)) == {(0, "mood")}
    silent = score_claims(["A text.", "An angry text.", "A calm text."], states, STORYWORLD, probes)
    assert (silent.readable_recall, silent.readable_facts) == (0.0, 1)
    assert silent.per_kind["mood"].recall == pytest.approx(2 / 3)
    assert silent.per_kind["mood"].abstained == pytest.approx(1 / 3)


def test_efficiency_is_precision_by_probe_and_silence_is_told_apart():
    states = [state(mood="calm")] * 4
    probes = {"mood": probe_result(("calm",), [0, 1, 2, 3], [[1.0]] * 4, mlp=0.8)}
    found = score_claims(["A calm text.", "An angry text.", "", ""], states, STORYWORLD, probes)
    assert found.reading_efficiency == {"mood": pytest.approx(0.5 / 0.8)}
    assert found.per_kind["mood"].abstained == 0.5
    # The last two words of each row are facts too, of which nothing is said.
    assert found.abstained == pytest.approx(6 / 8)


def test_wrong_claim_is_no_abstention():
    found = score_claims(["An angry text."], [state(mood="calm")], STORYWORLD)
    assert found.per_kind["mood"].abstained == 0.0
    assert found.readable_recall is None


def test_probe_results_say_which_rows_they_are_of():
    x, states = probe_data(200, 1)
    y, test_states = probe_data(40, 2)
    test_states[3] = facts(state(day="Monday"))
    result = fit_probes(x, states, y, test_states, kinds=("mood",))["mood"]
    assert 3 not in result.rows
    assert (result.score.num_train, result.score.num_test) == (200, 39)
    torch.testing.assert_close(result.mlp_RC.sum(-1), torch.ones(39))


def test_value_never_seen_in_training_is_missed():
    x, states = probe_data(200, 1)
    unseen = [facts(state(mood="fearful"))] * 10
    result = fit_probes(x, states, x[:10], unseen, kinds=("mood",))["mood"]
    assert (result.score.linear, result.score.chance) == (0.0, 1.0)


# -- the storyworld report -------------------------------------------------------------------------
SCRIPT = ['A calm story about the sea. It ends on "x"; then punctuation.', None, "<b>sum</b>"]


def vector_of(text):
    return random_rows(1, 16, seed=len(text))[0]


def write_pair(target, directory):
    """An untrained pair, the warm start being the same."""
    meta = {
        "d_model": 16,
        "extraction": Extraction(layer_index=0, injection_scale=1.0),
        "tokens": measure_tokens(target.tokenizer, "㈎", AV, AR),
        "prompt_templates": PromptTemplates(av=AV, ar=AR),
    }
    parts = (target.model, target.tokenizer)
    for place in (directory, directory / "warm_start"):
        Verbalizer.from_target(*parts, NlaMeta(role="av", **meta)).save(place / "av")
        Reconstructor.from_target(*parts, NlaMeta(role="ar", **meta)).save(place / "ar")
    target.save(directory / "target")
    save_file({"mean": torch.full((16,), 0.1)}, directory / "mean.safetensors")
    card = NlaCard(name="tiny", layer=0, d_model=16, variance=1.0, num_training_rows=1)
    write_card(directory, card)


@pytest.fixture(scope="module")
def report(tiny_target):
    engine = FakeEngine(SCRIPT, 16, vector_of)
    warm = FakeEngine(["A gloomy tale."], 16, vector_of)
    pair = make_pair("fake <pair>", tiny_target, engine, torch.full((16,), 0.1), warm_start=warm)
    return evaluate(pair, documents=40, seed=12, positions_per_document=2, probe_rows=300)


def test_report_has_the_names_that_checks_rely_on(report):
    raw = json.loads(report.model_dump_json())
    assert raw.keys() >= {
        "fve", "fve_interval", "fve_warm_start", "fve_frozen_ar", "floors", "claims", "probes",
        "documents", "seed",
    }  # fmt: skip
    assert raw["floors"].keys() == {"mean", "shuffled", "empty", "generic", "zero_vector"}
    assert raw["claims"].keys() >= {"precision", "recall", "checked", "per_kind"}
    assert raw.keys() >= {"fve_control_ar", "paraphrase_kept"}
    assert raw["claims"].keys() >= {
        "abstained", "readable_recall", "reading_efficiency", "ece",
    }  # fmt: skip
    assert all(probe.keys() >= {"linear", "mlp", "chance"} for probe in raw["probes"].values())
    assert (raw["documents"], raw["rows"], raw["seed"]) == (40, 80, 12)


def test_report_numbers_hang_together(report):
    assert report.fve == pytest.approx(1 - report.mse / report.variance)
    assert report.fve_interval.low < report.fve < report.fve_interval.high
    assert report.extraction_rate == pytest.approx(53 / 80)
    assert report.claims.explanations == 80
    assert report.claims_teacher.precision > 0.98
    assert len(report.samples) == 30
    assert "topic" in report.probes


def test_report_without_a_warm_start_says_so(tiny_target):
    pair = make_pair("bare", tiny_target, FakeEngine(["x"], 16, vector_of), torch.ones(16))
    found = evaluate(pair, documents=4, seed=1, probe_rows=60)
    assert (found.fve_warm_start, found.fve_frozen_ar, found.claims_warm_start) == (None,) * 3


def test_pair_on_disk_is_evaluated(tiny_target, tmp_path):
    write_pair(tiny_target, tmp_path)
    found = evaluate(load_whole(tmp_path), documents=3, seed=1, probe_rows=60)
    # Warm start and final pair are the same here, so must be their figures.
    assert found.nla == "tiny"
    assert found.fve_warm_start == pytest.approx(found.fve)
    assert found.fve_frozen_ar == pytest.approx(found.fve)
    assert found.claims_warm_start == found.claims


def test_row_beside_a_pair_shares_its_target_and_is_read_by_its_control_ar(tiny_target, tmp_path):
    write_pair(tiny_target, tmp_path)
    row = tmp_path / "rows" / "plain-rl"
    for part, name in (("av", "av"), ("ar", "ar"), ("ar", "control_ar")):
        shutil.copytree(tmp_path / part, row / name)
    pair = load_whole(row)
    found = evaluate(pair, documents=3, seed=1, probe_rows=60)
    assert found.nla == "tiny plain-rl"
    assert found.fve_control_ar == pytest.approx(found.fve)
    assert found.fve_warm_start is None
    assert "target/model.safetensors" in found.weights
    assert "control_ar/model.safetensors" in found.weights
    assert not any("rows" in name for name in load_whole(tmp_path).weights)


def test_row_that_is_not_there_or_not_whole_is_refused(tiny_target, tmp_path):
    write_pair(tiny_target, tmp_path)
    shutil.copytree(tmp_path / "av", tmp_path / "rows" / "half" / "av")
    with pytest.raises(InputError, match="Rows there: half"):
        load_whole(tmp_path / "rows" / "plain-rl")
    with pytest.raises(CheckpointError, match="missing: ar"):
        load_whole(tmp_path / "rows" / "half")


def test_evaluation_of_one_document_is_refused(tiny_target):
    pair = make_pair("bare", tiny_target, FakeEngine(["x"], 16), torch.ones(16))
    with pytest.raises(InputError, match="at least 2"):
        evaluate(pair, documents=1, seed=1)


def test_missing_mean_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="mean.safetensors"):
        read_baseline(tmp_path / "mean.safetensors", 4)


def test_report_files_come_back(report, tmp_path):
    json_path, html_path = write_report(report, tmp_path)
    assert read_report(json_path) == report
    assert html_path.read_text(encoding="utf-8") == render_html(report)
    json_path.write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match="not a report"):
        read_report(json_path)


def test_page_escapes_and_asks_for_nothing(report):
    metrics = [{"step": step, "reward": step * 0.1, "kl": None} for step in range(1, 6)]
    page = render_html(report, metrics)
    assert "<b>sum</b>" not in page
    assert "&lt;b&gt;sum&lt;/b&gt;" in page
    assert "fake &lt;pair&gt;" in page
    assert not re.search(r"https?:|<script|<link|@import|url\(", page)
    assert page.count("<polyline") == 1
    assert "40 held-out documents" in page


def test_page_works_without_numbers_that_are_missing(report):
    bare = report.model_copy(update={"fve_warm_start": None, "claims_warm_start": None})
    assert "–" in render_html(bare)


def test_panel_puts_steps_and_values_in_their_places():
    records = [{"step": 0, "kl": 1.0}, {"step": 10, "kl": 3.0}, {"step": 5}]
    panel = make_panel("KL", {"kl": "KL", "reward": "reward"}, records)
    assert panel is not None
    (line,) = panel.lines
    assert line.marks == ((46.0, 146.0), (410.0, 10.0))
    assert [tick.label for tick in panel.y_ticks] == ["1", "2", "3"]
    assert make_panel("Reward", {"reward": "reward"}, records) is None


def test_metrics_cut_by_a_kill_are_read_to_the_last_whole_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st', encoding="utf-8")
    assert [record["step"] for record in read_metrics(path)] == [1, 2]


@pytest.mark.parametrize(
    ("name", "log"),
    [
        ("bundled", "grounded-rl"),
        ("plain-rl", "rl"),
        ("plain-warm-start", None),
        ("grounded-warm-start", None),
    ],
)
def test_curves_are_of_the_rl_that_made_the_pair(name, log):
    """The bundled pair's run holds the log of plain RL too."""
    expected = read_metrics(comparison_path() / "run" / f"{log}.jsonl") if log else []
    assert training_curves(resolve_pair(name)) == expected
    assert log is None or len(expected) > 10


def test_curves_of_a_run_without_grounding_are_its_own(tmp_path):
    assert training_curves(PairPaths(tmp_path, tmp_path)) == []
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "rl.jsonl").write_text('{"step": 7}\n', encoding="utf-8")
    assert training_curves(PairPaths(tmp_path, tmp_path)) == [{"step": 7}]


@pytest.mark.parametrize(("name", "log"), [("bundled", "grounded-rl"), ("plain-rl", "rl")])
def test_verb_draws_the_curves_of_the_pair_it_measured(name, log, monkeypatch, tmp_path, capsys):
    committed = read_report(bundled_path() / "report.json")
    monkeypatch.setattr("nlakit.cli.eval.report._measure", lambda *_: committed)
    assert run(["eval", "storyworld", "--nla", name, "--output", str(tmp_path)]) == 0
    metrics = read_metrics(comparison_path() / "run" / f"{log}.jsonl")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page == render_html(committed, metrics) != render_html(committed)
    assert committed.nla in capsys.readouterr().out


def test_every_section_has_its_place_in_the_report(capsys):
    assert run(["eval", "--help"]) == 0
    verbs = re.findall(r"^\s*\W?\s*([a-z][a-z-]+)  ", capsys.readouterr().out, re.MULTILINE)
    assert set(verbs) - {
        "storyworld",
        "corpus",
        "sae",
        "lens",
        "latent-facts",
        "autointerp",
    } == set(SECTION_NAMES)
