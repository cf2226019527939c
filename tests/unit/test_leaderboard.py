"""Submissions to the storyworld benchmark: what is let in, how it is kept, sorted and shown."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.pairs import make_pair

from nlakit.cli import bench_truth, run
from nlakit.engines.fake import FakeEngine
from nlakit.errors import CheckpointError, InputError
from nlakit.evals.bootstrap import Interval
from nlakit.evals.claims import KindScore
from nlakit.evals.probes import ProbeScore
from nlakit.pair.source import comparison_parts, find_pair, weight_hashes
from nlakit.registry import resolve
from nlakit.worlds.storyworld.leaderboard import (
    SEED,
    check_target,
    kinds_table,
    leaderboard,
    load_entry,
    ranked,
    read_submission,
    read_submissions,
    submission_of,
    write_submission,
)
from nlakit.worlds.storyworld.report import evaluate

ROOT = Path(__file__).parents[2]
WEIGHTS = {"target/model.safetensors": "ab12", "av/model.safetensors": "cd34"}


@pytest.fixture(scope="module")
def report(tiny_target):
    def vector_of(text):
        return torch.randn(16, generator=torch.Generator().manual_seed(len(text)))

    engine = FakeEngine(['A calm story about the sea. It ends on "x".'], 16, vector_of)
    pair = make_pair("fake", tiny_target, engine, torch.full((16,), 0.1), weights=WEIGHTS)
    return evaluate(pair, documents=8, seed=SEED, probe_rows=60)


@pytest.fixture(scope="module")
def submission(report):
    return submission_of("plain", report)


def known(submission, **changes):
    """A submission whose figures are known, but for `changes`."""
    figures = {
        "name": "known", "documents": 2000, "temperature": 0.0, "precision": 0.96,
        "readable_recall": 0.9, "recall": 0.5, "abstained": 0.25, "ece": None, "fve": 0.8124,
        "fve_interval": Interval(0.80, 0.82), "fve_frozen_ar": -0.5, "fve_control_ar": 0.7,
        "paraphrase_kept": 0.95, "mean_words": 21.26,
        "per_kind": {"mood": KindScore(precision=0.9, recall=None, claims=10, facts=0)},
        "probes": {"mood": ProbeScore(linear=0.8, mlp=0.95, chance=0.125, num_train=9, num_test=9)},
    }  # fmt: skip
    return submission.model_copy(update=figures | changes)


# -- files -----------------------------------------------------------------------------------------
def test_submission_says_what_the_report_says_and_comes_back(report, submission, tmp_path):
    assert submission.target == {"model.safetensors": "ab12"}
    assert submission.weights == WEIGHTS
    assert (submission.fve, submission.fve_interval) == (report.fve, report.fve_interval)
    assert (submission.precision, submission.recall) == (
        report.claims.precision,
        report.claims.recall,
    )
    assert submission.per_kind == report.claims.per_kind
    assert submission.mean_words == report.lengths.mean_words == 10.0
    write_submission(submission, tmp_path / "plain.json")
    assert read_submission(tmp_path / "plain.json") == submission


def test_what_is_no_submission_is_refused(report, tmp_path):
    (tmp_path / "wrong.json").write_text(report.model_dump_json())
    with pytest.raises(CheckpointError, match="wrong.json is not a valid Submission"):
        read_submissions(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="found no JSON file"):
        read_submissions(tmp_path / "empty")


@pytest.mark.parametrize("name", ["a|b", "../up", "", "x" * 61])
def test_name_that_breaks_a_table_or_a_path_is_refused(report, name):
    with pytest.raises(InputError, match="cannot be called"):
        submission_of(name, report)


def test_report_of_another_seed_or_without_its_weights_is_refused(report):
    with pytest.raises(InputError, match="found seed 7"):
        submission_of("x", report.model_copy(update={"seed": 7}))
    with pytest.raises(InputError, match="names no weights of a target"):
        submission_of("x", report.model_copy(update={"weights": {"av/a": "1"}}))


# -- what is measured ------------------------------------------------------------------------------
def test_foreign_target_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"other")
    with pytest.raises(InputError, match="not the benchmark's target: expected weights model"):
        check_target(tmp_path)
    with pytest.raises(InputError, match="found none"):
        check_target(tmp_path / "nothing")
    source = replace(find_pair(), target=tmp_path)
    with pytest.raises(InputError, match="not the benchmark's target"):
        load_entry("x", source)


def test_parts_are_read_over_a_copy_of_the_target(tmp_path):
    copy = shutil.copytree(resolve() / "target", tmp_path / "copy")
    bare = replace(find_pair(), target=copy, paths=None)
    pair = load_entry("mine", bare)
    assert (pair.name, pair.warm_start, pair.control_ar) == ("mine", None, None)
    bundled = weight_hashes(resolve())
    assert pair.weights == {
        name: bundled[name]
        for name in bundled
        if name.split("/")[0] in ("target", "av", "ar", "mean.safetensors")
    }
    assert pair.mean_D.abs().sum() > 0


def test_what_lies_beside_a_pair_is_a_part_of_its_entry():
    source = find_pair()
    assert list(comparison_parts(source)) == ["warm_start", "control_ar"]
    assert comparison_parts(replace(source, paths=None)) == {}


# -- tables ----------------------------------------------------------------------------------------
def test_best_is_first_by_truth_and_then_by_fve(submission):
    rows = [
        known(submission, name="silent", precision=1.0, readable_recall=0.3, fve=0.9),
        known(submission, name="tied", fve=0.7),
        known(submission, name="best", fve=0.8),
        known(submission, name="blind", precision=1.0, readable_recall=None, fve=0.99),
    ]
    assert [row.name for row in ranked(rows)] == ["best", "tied", "silent", "blind"]


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"documents": 500}, "differ in documents .2000 documents.*500 documents"),
        ({"seed": 3}, "differ in seed"),
        ({"target": {"model.safetensors": "ff"}}, "differ in target"),
    ],
)
def test_mixed_conditions_stand_in_no_table(submission, changes, told):
    rows = [known(submission), known(submission, name="other", **changes)]
    with pytest.raises(InputError, match=told):
        leaderboard(rows)
    with pytest.raises(InputError, match=told):
        kinds_table(rows)


def test_table_says_the_numbers(submission):
    lines = leaderboard([known(submission)]).splitlines()
    assert "2,000 held-out documents (seed 90001), sorted by precision × readable" in lines[0]
    assert lines[4] == (
        "| known | 0 | 0.864 | 0.960 | 0.900 | 0.500 | 0.250 | – | 0.812 [0.800, 0.820] "
        "| −0.500 | 0.700 | 0.950 | 21.3 |"
    )
    assert {line.count("|") for line in lines[2:]} == {14}
    assert leaderboard([]) == "No submission yet.\n"


def test_kinds_stand_beside_their_probe(submission):
    other = {"goal": KindScore(precision=0.5, recall=0.25, claims=4, facts=8)}
    rows = [known(submission), known(submission, name="b", fve=0.1, per_kind=other)]
    lines = kinds_table(rows).splitlines()
    assert lines[2] == "| kind | MLP probe | chance | known | b |"
    assert lines[4] == "| mood | 0.950 | 0.125 | 0.900 / – | – |"
    assert lines[5] == "| goal | – | – | – | 0.500 / 0.250 |"


# -- the verb --------------------------------------------------------------------------------------
@pytest.fixture
def measured(report, tmp_path, monkeypatch):
    """The verb in an empty directory, with loading and measuring recorded instead of done."""
    calls = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench_truth, "load_entry", lambda name, entry, where: entry)

    def measure(pair, **settings):
        calls.append((pair, settings["documents"], settings["seed"], settings["temperature"]))
        return report

    monkeypatch.setattr(bench_truth, "evaluate", measure)
    return calls


def test_verb_writes_its_file_once(measured, capsys):
    assert run(["bench-truth", "--name", "mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(Path("mine.json").read_text())
    assert measured == [(find_pair(), 2000, SEED, 0.0)]
    assert run(["bench-truth", "--name", "mine"]) == 2
    assert "mine.json is there already" in capsys.readouterr().err
    assert len(measured) == 1
    assert run(["bench-truth", "--name", "mine", "--again", "--temperature", "1"]) == 0
    assert measured[1][3] == 1.0


def test_verb_prints_the_leaderboard(measured, submission, capsys):
    write_submission(known(submission), "known.json")
    assert run(["bench-truth", "--render", "."]) == 0
    assert capsys.readouterr().out == leaderboard([known(submission)])
    assert run(["bench-truth", "--render", ".", "--json"]) == 0
    assert [each["name"] for each in json.loads(capsys.readouterr().out)] == ["known"]


@pytest.mark.parametrize(
    "arguments, told",
    [
        ((), "Give --name"),
        (("--name", "a/b"), "cannot be called"),
        (("--name", "a", "--render", "."), "not both"),
        (("--name", "a", "--av", "x"), "both --av and --ar"),
        (("--name", "a", "--output", "."), "is a directory"),
    ],
)
def test_verb_refuses_before_it_measures(measured, capsys, arguments, told):
    assert run(["bench-truth", *arguments]) == 2
    assert told in capsys.readouterr().err
    assert measured == []


# -- the page --------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def render():
    spec = importlib.util.spec_from_file_location("render", ROOT / "docs" / "render.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_tells_greedy_submissions_from_sampled_ones(render, submission, tmp_path):
    assert render.source_text(tmp_path) is None
    for temperature, name in ((0.0, "greedy"), (1.0, "sampled")):
        row = known(submission, name=name, temperature=temperature)
        write_submission(row, tmp_path / f"{name}.json")
    text = render.source_text(tmp_path)
    assert "| greedy | 0 |" in render.greedy_truth(text)
    assert "| sampled | 1 |" in render.sampled_truth(text)
    assert "sampled" not in render.greedy_truth(text) + render.truth_kinds(text)


def test_pages_have_every_block_of_the_storyworld(render):
    pages = (ROOT / "docs").glob("*.md")
    names = {
        match[2]
        for page in pages
        for match in render.BLOCK.finditer(page.read_text(encoding="utf-8"))
    }
    ours = {
        "figures",
        "truth",
        "truth_sampled",
        "truth_kinds",
        "grounding_curve",
        "ablation",
        "differences",
    }
    sections = {path.stem.replace("-", "_") for path in render.SECTIONS.glob("*.json")}
    assert ours | sections <= names <= set(render.SOURCES)


def test_curves_stand_side_by_side(render):
    def curve(score, precision):
        points = [{"threshold": 0.05, "precision": precision, "kept": 1.0}]
        return {"score": score, "claims": 1234, "auroc": 0.917, "points": points}

    lines = render.grounding_curve(
        json.dumps({"curves": [curve("probability", 0.61), curve("gain", None)]})
    ).splitlines()
    assert lines[0] == "Of 1,234 claims; AUROC: probability 0.92, gain 0.92."
    assert lines[4] == "| 0.05 | 0.61 | 1.00 | – | 1.00 |"
    assert {line.count("|") for line in lines[2:]} == {6}
