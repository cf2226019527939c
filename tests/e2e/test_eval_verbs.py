"""Every evaluation on pairs of the released layout: an AV, an AR and a target, nothing beside."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.loose import FAMILIES, save_pair, target_of
from support.pairs import make_pair

from nlakit.cli import run
from nlakit.cli.pairs import PairOptions
from nlakit.engines.base import Completion
from nlakit.engines.local import LocalEngine
from nlakit.evals import baseline
from nlakit.pair.pair import Pair
from nlakit.publish.doctor import write_mean
from nlakit.worlds.storyworld.eval_set import StoryworldSet
from nlakit.worlds.storyworld.steering import steering

DOCUMENTS, TOKENS, BANK = 3, 16, 30
SECTIONS = {
    "private-code": "private-code",
    "cause": "cause",
    "baselines": "baselines",
    "round-trips --trips 2": "round-trips",
    "planned": "planned",
    "steer": "steer",
    "confidence --thorough": "confidence",
    "select": "select",
    "compare": "compare",
}
FLOORED = {"private-code", "cause", "baselines", "round-trips"}
"""Those with lines that every pair has to beat; the others name what to beat in a column."""
TOLD = (
    'A calm story about the sea. The rhyme will be "night". It ends on "wet sand"; then a noun.',
    'An angry poem about the kitchen. The rhyme will be "house". It ends on "x"; then a verb.',
)


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    return save_pair(tmp_path_factory.mktemp("released"), "qwen2")


@pytest.fixture
def small(monkeypatch):
    """Banks of a few documents; short answers, since a random AV never comes to an end."""
    whole, sample = LocalEngine.verbalize, StoryworldSet.sample

    def few(self, target, split, seed, documents, *rest):
        return sample(self, target, split, seed, min(documents, BANK), *rest)

    def short(self, vectors_ND, sampling, on_text=None, first=0):
        return whole(self, vectors_ND, replace(sampling, max_new_tokens=TOKENS), on_text, first)

    monkeypatch.setattr(StoryworldSet, "sample", few)
    monkeypatch.setattr(LocalEngine, "verbalize", short)


def parts(directory: Path) -> list[str]:
    names = (("av", "av"), ("ar", "ar"), ("target", "base"))
    return [word for name, part in names for word in (f"--{name}", str(directory / part))]


def numbers(found: Any) -> list[float]:
    """All numbers of a JSON, however deep."""
    if isinstance(found, dict):
        return [each for value in found.values() for each in numbers(value)]
    if isinstance(found, list):
        return [each for value in found for each in numbers(value)]
    return [found] if isinstance(found, int | float) else []


def told(capsys) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out, parse_constant=lambda name: math.nan)


@pytest.mark.parametrize("verb", SECTIONS)
def test_verb_measures_a_released_pair(verb, released, small, capsys):
    arguments = ["eval", *verb.split(), *parts(released), "--documents", str(DOCUMENTS), "--json"]
    if verb == "compare":
        arguments += ["--other-av", str(released / "av"), "--other-ar", str(released / "ar")]
    assert run(arguments) == 0, capsys.readouterr().err
    section = told(capsys)
    assert (section["name"], section["nla"]) == (SECTIONS[verb], str(released / "av"))
    assert section["documents"] >= DOCUMENTS and section["rows"] >= section["documents"]
    assert all(math.isfinite(each) for each in numbers(section["lines"]))
    assert len(numbers(section["lines"])) >= 2
    assert any(line["floor"] for line in section["lines"]) == (SECTIONS[verb] in FLOORED)
    mean, beside = section["notes"]
    assert "training documents of storyworld" in mean and "no control AR" in beside


def test_report_of_a_released_pair(released, small, capsys, tmp_path):
    arguments = ["eval", "storyworld", *parts(released), "--documents", str(DOCUMENTS)]
    assert run([*arguments, "--json", "--output", str(tmp_path)]) == 0
    report = told(capsys)
    assert (report["nla"], report["documents"]) == (str(released / "av"), DOCUMENTS)
    assert report["fve_interval"][0] <= report["fve"] <= report["fve_interval"][1]
    assert report["fve_control_ar"] is None and report["fve_warm_start"] is None
    assert set(report["floors"]) == {"mean", "shuffled", "empty", "generic", "zero_vector"}
    assert all(math.isfinite(each) for each in numbers(report))
    assert {name.split("/")[0] for name in report["weights"]} == {"av", "ar", "target"}
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "not of what the pair was" in page and "<polyline" not in page


# -- the mean --------------------------------------------------------------------------------------
def loaded(directory: Path, mean: Path | None = None) -> Pair:
    names = {"av": "av", "ar": "ar", "target": "base"}
    parts = {name: str(directory / part) for name, part in names.items()}
    return PairOptions(**parts, mean=mean).load_for_evaluation(StoryworldSet())


def test_mean_is_of_training_positions_or_what_was_given(released, small, tmp_path):
    measured = loaded(released)
    rows = StoryworldSet().sample(measured.target, "train", baseline.MEAN_SEED, BANK, 5)
    vectors_ND = rows.vectors_ND
    unit_ND = vectors_ND / vectors_ND.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(measured.mean_D, measured.scale * unit_ND.mean(0))
    assert measured.card.baseline == "training_mean" and 0 < measured.card.variance < 2
    write_mean(measured, ["Basil rowed by the pier."], tmp_path / "mean.safetensors")
    given = loaded(released, tmp_path / "mean.safetensors")
    assert not torch.allclose(given.mean_D, measured.mean_D)
    assert str(tmp_path / "mean.safetensors") in given.notes[0]


# -- what is refused -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--av", "AV"], "both --av and --ar"),
        (["--av", "AV", "--ar", "AR", "--nla", "bundled"], "no --nla beside"),
        (["--mean", "mean.safetensors"], "both --av and --ar"),
        (["--av", "AV", "--ar", "AR", "--target", "BUNDLED"], "Give the target that it was"),
        (["--av", "AV", "--ar", "AR", "--target", "BASE", "--write"], "--write leaves"),
    ],
)
def test_parts_that_make_no_pair_are_refused(arguments, said, released, capsys):
    from nlakit.registry import bundled_path

    names = {
        "AV": released / "av", "AR": released / "ar", "BASE": released / "base",
        "BUNDLED": bundled_path() / "target",
    }  # fmt: skip
    assert run(["eval", "confidence", *(str(names.get(word, word)) for word in arguments)]) == 2
    assert said in capsys.readouterr().err


def test_comparison_needs_a_second_pair_of_the_same_target(released, small, capsys):
    assert run(["eval", "compare", *parts(released)]) == 2
    assert "--other-av and --other-ar" in capsys.readouterr().err
    arguments = ["eval", "compare", "bundled", *parts(released), "--documents", "2"]
    assert run(arguments) == 2
    assert "read different targets" in capsys.readouterr().err


def test_target_too_short_for_any_document_is_refused(released, small, capsys, monkeypatch):
    monkeypatch.setattr("nlakit.models.target.Target.max_tokens", 20)
    assert run(["eval", "cause", *parts(released), "--documents", "2"]) == 2
    assert "fits the target's context of 20 tokens" in capsys.readouterr().err


# -- claims, under tokenizers that are not ours ----------------------------------------------------
class Telling(LocalEngine):
    """Tells two explanations by turns, as the verbalizer would have written them."""

    @torch.no_grad()
    def verbalize(self, vectors_ND, sampling, on_text=None, first=0):
        rows = range(len(vectors_ND))
        return [[self._told(vectors_ND[row], TOLD[row % 2])] * sampling.samples for row in rows]

    def _told(self, vector_D, text) -> Completion:
        ids = self.verbalizer.encode_response(text)
        logprobs, _ = self.verbalizer.logprobs(vector_D[None], [ids])
        raw = self.verbalizer.decode(ids)
        return Completion(text, raw, tuple(ids), tuple(logprobs[0].tolist()), True)


@pytest.fixture(scope="module", params=FAMILIES)
def telling(request, tmp_path_factory) -> Pair:
    """A pair that makes claims, of each family."""
    from nlakit.models.reconstructor import Reconstructor
    from nlakit.models.verbalizer import Verbalizer

    directory = save_pair(tmp_path_factory.mktemp("telling"), request.param)
    target = target_of(request.param)
    verbalizer = Verbalizer.load(directory / "av")
    engine = Telling(target, verbalizer, Reconstructor.load(directory / "ar"))
    return make_pair("telling", target, engine, torch.ones(target.d_model) * 0.1)


def test_claims_have_their_tokens_and_confidences(telling):
    from nlakit.claims.confidence import token_spans
    from nlakit.evals.confidence import measure
    from nlakit.evals.rows import read_sample
    from nlakit.storyworld.claims import parse

    sample = read_sample(telling, StoryworldSet(), 8, 3)
    completion = sample.reading.completions[0]
    spans = token_spans(telling.engine.verbalizer, completion)
    for claim in parse(completion.text):
        covering = [(a, b) for a, b in spans if a < claim.end and b > claim.start]
        start, end = covering[0][0], covering[-1][1]
        assert completion.text[claim.start : claim.end] in completion.text[max(0, start) : end]
    section = measure(sample)
    assert section.figure("confidence", "ECE").count > 16
    assert math.isfinite(section.figure("confidence", "Brier").value)


def test_edited_rhymes_are_tried_on_the_target(telling, monkeypatch):
    monkeypatch.setattr("nlakit.worlds.storyworld.steering.UNRELATED_DOCUMENTS", 4)
    section = steering(telling, 2, 5, (1.0,), (2.0,), 6)
    for place in ("line end", "before the hint"):
        assert section.figure(f"{place}: names a rhyme", "share").value == 1.0
        assert section.figure(f"{place}: edit, alpha 1", "shift").value > 0
        assert section.figure(f"{place}: edit, alpha 1", "KL").value > 0
        assert section.figure(f"{place}: edit at one token, alpha 2", "shift").value > 0
