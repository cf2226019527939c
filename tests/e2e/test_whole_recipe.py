"""Every stage of a model recipe, on a tiny model: labels by rule, both pairs, rows, controls."""

from __future__ import annotations

import json
import tomllib
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.families import make
from support.recipes import RECIPES
from support.serving import tiny_tokenizer

import nlakit
from nlakit.claims.text.checking import TEXT
from nlakit.cli import run
from nlakit.cli.recipes import read_recipe
from nlakit.core.site import Site
from nlakit.data.shards import ShardReader
from nlakit.errors import ConfigError
from nlakit.models.target import Target
from nlakit.storyworld.grammar import generate
from nlakit.teachers.prompt import BRIEF
from nlakit.train.corpus_world import CorpusWorld
from nlakit.train.pair_stages import recipe_stages
from nlakit.train.publication import published_pairs
from nlakit.train.run import read_json
from nlakit.train.stage import needed_for

pytestmark = pytest.mark.e2e

TINY = (
    "target.layer=1", "target.injection_scale=5.0", "teacher.model=text", "precision=float32",
    "corpus.documents=8", "corpus.rl_documents=5", "corpus.positions_per_document=3",
    "corpus.minimum_position=4", "corpus.max_tokens=64", "corpus.held_out_documents=4",
    "warm_start.batch_size=8", "warm_start.optimizer.warmup_steps=1", "warm_start.claim_weight=2",
    "warm_start.reconstructor_epochs=2", "lora.rank=4", "lora.alpha=8", "lora.reconstructor_rank=2",
    "teacher.shares.subject=0.5", "grounding.threshold=0.0", "grounding.documents=7",
    "rl.steps=2", "rl.vectors=2", "rl.group=2", "rl.max_new_tokens=8", "rl.micro_batch=2",
    "rl.evaluate_every=1", "rl.optimizer.warmup_steps=1", "rl.judge_weight=0.5",
    "rl.judge_neutral=0.5", "rl.reword_share=0.5", "rl.reconstructor_updates=2",
    "abstention.documents=7", "abstention.least_confidence=0.4", "abstention.batch_size=8",
    "abstention.optimizer.lr=1e-3", "settling.documents=4", "settling.vectors=12",
    "settling.steps=2", "settling.batch_size=4", "settling.held_out=8",
    "settling.optimizer.lr=1e-3", "comparison.controls=true", "report.documents=8",
)  # fmt: skip
STAGES = ("verbalizer", "reconstructor", "rl", "grounded-verbalizer", "grounded-reconstructor",
          "grounded-rl", "settling", "controls-plain", "controls-grounded")  # fmt: skip


@pytest.fixture(scope="module")
def command(tmp_path_factory) -> list[str]:
    root = tmp_path_factory.mktemp("whole")
    tokenizer = tiny_tokenizer()
    model = make("qwen2", len(tokenizer))
    model.config.max_position_embeddings = 1024
    Target(model, tokenizer, Site(1)).save(root / "base")
    made = [*islice(generate(3, "train"), 36), *islice(generate(3, "heldout"), 16)]
    lines = [json.dumps({"id": f"fiction-{i}", "text": each.text}) for i, each in enumerate(made)]
    (root / "corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")
    paths = [f"target.checkpoint={root / 'base'}", f"corpus.source={root / 'corpus.jsonl'}"]
    return ["train", str(RECIPES / "qwen2.5-7b-lora-1gpu.toml"), *paths, *TINY]


@pytest.fixture(scope="module")
def trained(command, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("run")
    assert run([*command, "--output", str(output)]) == 0
    return output


def test_every_stage_leaves_what_it_should(trained):
    logs = {path.stem for path in (trained / "nla" / "run").glob("*.jsonl")}
    assert logs == set(STAGES)
    rows = {path.parent.relative_to(trained / "nla").as_posix()
            for path in (trained / "nla").rglob("av/config.json")}  # fmt: skip
    pairs = (".", "warm_start", "rows/plain-warm-start", "rows/plain-rl")
    assert rows == {f"{pair}/av".removeprefix("./") for pair in pairs}
    for control in ("control_ar", "rows/plain-rl/control_ar"):
        assert (trained / "nla" / control / "model.safetensors").is_file()


def test_the_grounded_pair_goes_on_from_the_plain_one_on_other_documents(trained):
    counts = read_json(trained / "nla" / "run" / "counts.json")
    assert counts["labels"] == 21 and not any(counts["dropped"].values())
    metrics = [json.loads(line) for line in
               (trained / "9-grounded-rl" / "metrics.jsonl").read_text().splitlines()]  # fmt: skip
    assert "claims" in metrics[-1] and "held_out_precision" in metrics[0]
    plain = (trained / "5-rl" / "metrics.jsonl").read_text()
    assert '"claims"' not in plain
    ranks = [json.loads((trained / name / "model/adapter_config.json").read_text())
             for name in ("7-grounded-verbalizer", "11-settling")]  # fmt: skip
    assert [(each["r"], each["lora_alpha"]) for each in ranks] == [(4, 8), (2, 4)]


def test_the_grounded_reconstructor_goes_on_from_the_plain_one(command, tmp_path):
    still = ("grounding.warm_start.batch_size=8", "grounding.warm_start.optimizer.lr=1e-12")
    only = ["--only", "grounded-reconstructor", "--output", str(tmp_path)]
    assert run([*command, *still, *only]) == 0
    plain, grounded = (
        load_file(tmp_path / name / "model" / "adapter_model.safetensors")
        for name in ("4-reconstructor", "8-grounded-reconstructor")
    )
    assert max(float(each.abs().max()) for name, each in plain.items() if "lora_B" in name) > 1e-4
    for name, each in plain.items():
        torch.testing.assert_close(grounded[name], each, atol=1e-6, rtol=0)


def test_without_the_plain_pair_its_warm_start_is_made_all_the_same(command, trained):
    overrides = [*command[2:], "comparison.plain_pair=false"]
    recipe = read_recipe(Path(command[1]), overrides)
    stages = recipe_stages(CorpusWorld(recipe, trained))
    names = [stage.name for stage in needed_for(stages, "report")]
    assert names[2:5] == ["verbalizer", "reconstructor", "grounding"] and "rl" not in names
    rows = {*published_pairs(CorpusWorld(recipe, trained))}
    assert rows == {".", "warm_start", "rows/plain-warm-start"}


def test_the_kept_recipe_names_no_place_of_this_machine(command, trained):
    kept = (trained / "nla" / "run" / "recipe.toml").read_text(encoding="utf-8")
    assert 'source = "corpus.jsonl"' in kept
    named = read_recipe(Path(command[1]), [*command[2:], "target.name=org/model"])
    written = CorpusWorld(named, trained).resolved.model_dump_json()
    assert str(Path(named.corpus.source).parent) not in written


def test_a_teacher_of_several_is_named_without_places_of_this_machine(command, tmp_path):
    asked = ["teacher.model=hf:/home/me/chat+text", "teacher.brief=true"]
    recipe = read_recipe(Path(command[1]), [*command[2:], *asked])
    assert recipe.claims is TEXT and recipe.teacher.task is BRIEF
    assert "/home" not in CorpusWorld(recipe, tmp_path).resolved.model_dump_json()
    decided = recipe.grounded_source.model_dump_json()
    assert '"teacher":"hf:chat+text"' in decided and '"brief":true' in decided


def test_labels_of_other_shares_are_made_again_and_not_taken_for_these(command, trained, capsys):
    changed = [*command, "teacher.shares.subject=0.25", "--output", str(trained)]
    assert run([*changed, "--only", "labels"]) == 2
    assert "subject" in capsys.readouterr().err


def test_a_kind_that_the_labels_do_not_have_is_refused(command):
    for wrong in ("grounding.thresholds.nxt=0.5", "teacher.shares.topic=0.5"):
        with pytest.raises(ConfigError, match="form, subject, name"):
            read_recipe(Path(command[1]), [*command[2:], wrong])
    with pytest.raises(ConfigError, match="quote, number, name, phrase"):
        prose = ["teacher.model=fake", "teacher.shares={}", "grounding.thresholds.next=0.5"]
        read_recipe(Path(command[1]), [*command[2:], *prose])


def test_the_reconstructor_settles_on_documents_of_its_own(command, trained):
    read = {
        name: {each for _, rows in ShardReader(trained / "1-activations" / name)
               for each in rows.column("doc_id").to_pylist()}
        for name in ("warm-start", "rl", "grounding", "abstention", "settling")
    }  # fmt: skip
    assert len(read["settling"]) == 4
    assert len(set.union(*read.values())) == sum(map(len, read.values()))
    with pytest.raises(ConfigError, match="its 4 documents have 12 positions"):
        read_recipe(Path(command[1]), [*command[2:], "settling.vectors=13"])
    of_rl = [*command[2:], "settling.documents=0", "settling.vectors=16"]
    with pytest.raises(ConfigError, match="its 5 documents have 15 positions"):
        read_recipe(Path(command[1]), of_rl)


def test_the_pair_reads_and_its_report_has_what_it_is_compared_with(trained):
    report = read_json(trained / "nla" / "report.json")
    assert report["fve_warm_start"] is not None and report["fve_control_ar"] is not None
    assert report["claims"] is not None and report["claims_teacher"]["precision"] > 0.95
    pair = nlakit.load(trained / "nla")
    assert pair.card.claims == "text" and pair.card.target_fingerprint
    recipe = tomllib.loads((trained / "nla" / "run" / "recipe.toml").read_text())
    span = pair.card.span
    assert span is not None
    assert span.minimum_position == recipe["corpus"]["minimum_position"]
    assert span.max_tokens == recipe["corpus"]["max_tokens"]
    assert pair.explain("Basil rowed by the pier.", last=1, max_new_tokens=4).tokens


def test_a_finished_run_does_nothing_again(command, trained, capsys):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*.safetensors")}
    assert run([*command, "--output", str(trained)]) == 0
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*.safetensors")} == before
    assert "Resuming; done before: activations, labels, verbalizer" in capsys.readouterr().err


def test_what_comes_later_may_change_and_what_is_done_may_not(command, trained, capsys):
    changed = [*command, "settling.steps=3", "--output", str(trained)]
    assert run([*changed, "--only", "grounded-rl"]) == 0
    assert run([*changed, "--only", "settling"]) == 2
    assert "settling.steps was 2, is 3" in capsys.readouterr().err


def test_the_pair_lies_beside_as_adapters_of_a_named_base(trained):
    adapters, merged = trained / "nla-adapters", trained / "nla"
    files = {path.name for path in adapters.rglob("*.safetensors")}
    assert files == {"adapter_model.safetensors", "value_head.safetensors", "mean.safetensors"}
    assert not (adapters / "target").exists()
    for path in ("control_ar", "rows/plain-rl/av", "rows/plain-rl/control_ar", "warm_start/ar"):
        assert (adapters / path / "adapter_config.json").is_file()
    one, other = (nlakit.load(each) for each in (adapters, merged))
    texts = ["A novel about the sea.", 'It stops at "sang".']
    found, expected = (each.engine.reconstruct(texts) for each in (one, other))
    # The merged weights were rounded to bfloat16 once more.
    assert torch.cosine_similarity(found, expected).min() > 0.999
    assert one.explain("Basil rowed.", last=1, max_new_tokens=4).tokens
    assert one.notes == ()


def test_a_run_is_packed_into_what_a_reader_needs_and_what_it_is_compared_with(
    trained, tmp_path, capsys
):
    command = ["pack", str(trained), "--name", "tiny", "--package", str(tmp_path / "package"),
               "--assets", str(tmp_path / "assets")]  # fmt: skip
    assert run(command) == 0
    package, assets = tmp_path / "package" / "tiny", tmp_path / "assets" / "tiny"
    assert {"av", "ar", "nla.json", "report.json"} <= {each.name for each in package.iterdir()}
    compared = {"rows", "warm_start", "control_ar", "run"}
    assert {each.name for each in assets.iterdir()} == compared
    assert not compared & {each.name for each in package.iterdir()}
    assert nlakit.load(package).name == "tiny"
    # The base has the tokenizer already.
    assert not [*package.rglob("tokenizer.json"), *assets.rglob("tokenizer.json")]
    assert "MB" in capsys.readouterr().out
    assert run(command) == 2 and "is there" in capsys.readouterr().err
    assert run([*command, "--overwrite"]) == 0
    (tmp_path / "empty").mkdir()
    assert run(["pack", str(tmp_path / "empty"), "--name", "x"]) == 2


def test_layers_are_compared_by_the_same_recipe(command, tmp_path, capsys):
    asked = ["sweep", *command[1:], "--layers", "0,1", "--output", str(tmp_path), "--json",
             "--probe-rows", "60", "--documents", "8"]  # fmt: skip
    assert run(asked) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["layer"] for each in found["layers"]] == [0, 1]
    assert found["layers"][0]["fve"] != found["layers"][1]["fve"]
    assert all(each["fve"] < 1 and "gap" in each for each in found["layers"])
    assert not (tmp_path / "layer-0" / "5-rl").exists()
    assert run([each if each != "0,1" else "99" for each in asked]) == 2
    assert "--layers 99: expected some of 0 to" in capsys.readouterr().err


def test_a_sweep_takes_teachers_whose_claims_nobody_checks(command, tmp_path, capsys):
    # Grounding and abstention of the recipe need claims that can be checked; a sweep runs neither.
    other = ["teacher.model=fake", "teacher.shares={}"]
    asked = ["sweep", *command[1:], *other, "--layers", "1", "--json", "--probe-rows", "0"]
    assert run([*asked, "--output", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["layers"][0]["probes"] == {}
    assert run(["train", *command[1:], *other, "--output", str(tmp_path / "whole")]) == 2
