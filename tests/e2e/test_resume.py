"""A killed run loses nothing, and a grounded one publishes what it is to be compared with."""

import hashlib
import json
from pathlib import Path

import pytest
from benchmarks import ablation
from support.killed import killed
from support.recipes import SMOKE, start

pytestmark = pytest.mark.e2e

MICRO = (
    "checkpoint_every=3", "target.steps=12", "target.probe_every=12", "target.hidden_size=48",
    "target.tokenizer_documents=100", "target.vocab_size=640", "target.batch_size=4",
    "extraction.documents=80", "verbalizer.steps=4", "verbalizer.batch_size=8",
    "verbalizer.held_out=16", "reconstructor.steps=4", "reconstructor.batch_size=8",
    "reconstructor.held_out=16", "rl.steps=8", "rl.vectors=2", "rl.group=2",
    "rl.max_new_tokens=12", "rl.evaluate_every=4", "rl.evaluation_documents=8",
    "report.documents=32", "report.probe_rows=300",
)  # fmt: skip
SFT = "{ steps = 2, batch_size = 8, held_out = 16, optimizer = { lr = 1e-3 } }"
GROUNDED = (
    *MICRO, "grounding.documents=16", "grounding.extra_documents=4",
    "grounding.curve_rows=8", f"grounding.judge={SFT}",
    f"grounding.verbalizer={SFT}", f"grounding.reconstructor={SFT}",
    "grounded_rl={ steps = 2, vectors = 2, group = 2, max_new_tokens = 12, evaluate_every = 2, "
    "evaluation_documents = 8, verbalizer = { lr = 1e-4 }, reconstructor = { lr = 1e-3 }, "
    "independent_share = 0.5, writing_cost = 0.1, "
    "settling = { vectors = 32, steps = 2, batch_size = 8, held_out = 16, "
    "optimizer = { lr = 1e-3 } } }",
    "abstention = { documents = 8, batch_size = 4, optimizer = { lr = 1e-3 } }",
)  # fmt: skip


def weights(pair: Path) -> dict[str, str]:
    files = sorted(pair.rglob("*.safetensors"))
    return {str(f.relative_to(pair)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_killed_run_ends_as_the_uninterrupted_one(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(whole, *MICRO).wait() == 0
    words = ["train", str(SMOKE), *MICRO, "--output", str(broken)]
    killed("*/1-target/metrics.jsonl", 5, words)
    killed("*/5-rl/metrics.jsonl", 6, words)
    assert start(broken, *MICRO).wait() == 0
    assert len(weights(whole / "nla")) == 9  # five models, two heads, the mean, the probes
    assert weights(broken / "nla") == weights(whole / "nla")


@pytest.fixture(scope="module")
def grounded(tmp_path_factory) -> Path:
    """A finished run of a recipe with a grounding."""
    run = tmp_path_factory.mktemp("grounded")
    assert start(run, *GROUNDED).wait() == 0
    return run


def test_grounded_recipe_publishes_its_rows(grounded):
    made = {str(file.parent) for file in map(Path, weights(grounded / "nla"))}
    pairs = {"", "warm_start/", "rows/plain-warm-start/", "rows/plain-rl/"}
    assert made == {f"{pair}{part}" for pair in pairs for part in ("av", "ar")} | {
        ".", "target", "control_ar", "rows/plain-rl/control_ar",
    }  # fmt: skip
    report = json.loads((grounded / "nla" / "report.json").read_text())
    assert report["fve_control_ar"] is not None
    assert (grounded / "nla" / "run" / "curves.json").exists()
    assert len((grounded / "10-abstention/written-00000.jsonl").read_text().splitlines()) == 32


def test_ablation_starts_where_the_run_stood_and_goes_on(grounded, tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "measure_probes", lambda *_: {})  # slow, and tested elsewhere
    before, results = weights(grounded), tmp_path / "ablation.json"

    def rows(*options: str) -> list[str]:
        common = ["--recipe", str(SMOKE), "--steps", "1", "--documents", "32"]
        command = [str(grounded), *GROUNDED, *common, "--results", str(results), *options]
        assert ablation.main(command) == 0
        return [row["terms"] for row in json.loads(results.read_text())["rows"]]

    assert rows("--only", "judge") == [ablation.START, "+ judge"]
    first = results.read_text()
    assert rows("--only", "judge") == [ablation.START, "+ judge"]
    assert results.read_text() == first
    after = weights(grounded)
    made = {name for name in after if name not in before}
    assert made and all(name.startswith("ablation/judge/9-grounded-rl/best/") for name in made)
    assert {name: after[name] for name in before} == before
    assert json.loads(first)["rows"][0]["fve_control_ar"] is not None
    assert ablation.main([str(grounded), "--recipe", str(SMOKE), "--results", str(results)]) == 2
