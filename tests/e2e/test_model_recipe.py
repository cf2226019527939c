"""`nlakit train` on a released model's stand-in: corpus, labels, both warm starts, RL, a pair."""

from __future__ import annotations

import json
import shutil
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.families import D_MODEL, make
from support.serving import tiny_tokenizer
from support.teacher_server import teacher_server

import nlakit
from nlakit.cli import run
from nlakit.cli.recipes import read_recipe
from nlakit.contract import read_meta
from nlakit.core.site import Site
from nlakit.data.shards import ShardReader
from nlakit.errors import ConfigError, InputError, ResumeError
from nlakit.models.target import Target
from nlakit.storyworld.grammar import generate
from nlakit.train.corpus_world import train_model_recipe
from nlakit.train.model_recipe import ModelRecipe
from nlakit.train.run import read_json

RECIPES = Path(__file__).parents[2] / "recipes"
LORA = RECIPES / "qwen2.5-7b-lora-1gpu.toml"
WHOLE = RECIPES / "qwen2.5-0.5b-1gpu.toml"
TEXT = "Basil rowed by the pier and sang."
TINY = (
    "target.layer=1", "teacher.model=fake",
    "corpus.documents=8", "corpus.rl_documents=4", "corpus.positions_per_document=3",
    "corpus.minimum_position=4", "corpus.max_tokens=64", "corpus.held_out_documents=4",
    "corpus.shard_rows=15", "warm_start.batch_size=8", "warm_start.micro_batch=5",
    "warm_start.optimizer.lr=5e-3", "rl.steps=1", "rl.vectors=2", "rl.group=2",
    "rl.max_new_tokens=8", "rl.micro_batch=2", "rl.evaluate_every=1", "rl.optimizer.lr=1e-3",
    "rl.optimizer.warmup_steps=1", "warm_start.optimizer.warmup_steps=1",
)  # fmt: skip
ADAPTERS = ("lora.rank=4", "lora.alpha=8", "target.injection_scale=5.0")


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A directory with a tiny random Qwen2 checkpoint and a corpus, as the recipes name them."""
    root = tmp_path_factory.mktemp("checkpoint")
    tokenizer = tiny_tokenizer()
    model = make("qwen2", len(tokenizer))
    model.config.max_position_embeddings = 1024
    Target(model, tokenizer, Site(1)).save(root / "base")
    made = [*islice(generate(3, "train"), 30), *islice(generate(3, "heldout"), 8)]
    lines = [json.dumps({"text": each.text}) for each in made]
    (root / "corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return root


def arguments(here: Path, *more: str) -> list[str]:
    paths = (f"target.checkpoint={here / 'base'}", f"corpus.source={here / 'corpus.jsonl'}")
    return [*paths, *TINY, *more]


def recipe_for(here: Path, path: Path = LORA, *more: str) -> ModelRecipe:
    found = read_recipe(path, arguments(here, *more))
    assert isinstance(found, ModelRecipe)
    return found


@pytest.fixture(scope="module")
def trained(here) -> Path:
    """The run directory of the LoRA recipe, by the command."""
    command = ["train", str(LORA), *arguments(here, *ADAPTERS), "--output", str(here / "lora")]
    assert run(command) == 0
    return here / "lora"


def test_a_pair_comes_out_that_explains(trained, here):
    nla = nlakit.load(trained / "nla")
    assert nla.card.provenance["base_model"] == str(here / "base")
    reading = nla.explain(TEXT, last=2, max_new_tokens=6)
    assert len(reading.tokens) == 2
    report = read_json(trained / "nla" / "report.json")
    assert set(report["floors"]) == {"mean", "shuffled", "empty", "generic", "zero_vector"}
    assert report["fve"] == nla.card.fve and 2 <= report["documents"] <= 8
    assert read_meta(trained / "nla" / "ar").d_model == D_MODEL
    labels = read_json(trained / "2-labels" / "labels.json")
    assert (labels["teacher"], labels["num_rows"], labels["num_refused"]) == ("fake", 24, 0)


def test_stages_keep_adapters_only(trained):
    for stage in ("3-verbalizer/model", "4-reconstructor/model", "5-rl/best/av"):
        assert (trained / stage / "adapter_model.safetensors").is_file()
        assert not (trained / stage / "model.safetensors").exists()
    assert (trained / "nla" / "av" / "model.safetensors").is_file()


def test_rl_and_report_read_other_documents_than_the_warm_start(trained):
    sets = [
        set(ShardReader(trained / "1-activations" / name).load()[1].column("doc_id").to_pylist())
        for name in ("warm-start", "rl", "held-out")
    ]
    assert [len(each) for each in sets] == [8, 4, 4]
    assert len(set.union(*sets)) == 16


def test_a_killed_run_ends_as_the_uninterrupted_one(trained, here):
    again = here / "again"
    shutil.copytree(trained, again)
    for gone in ("nla", "5-rl"):
        shutil.rmtree(again / gone)
    (again / "1-activations" / "warm-start" / "shard-00001.safetensors").unlink()
    made = train_model_recipe(recipe_for(here, LORA, *ADAPTERS), again)
    for part in ("av", "ar"):
        one, two = (root / "nla" / part / "model.safetensors" for root in (trained, again))
        assert one.read_bytes() == two.read_bytes()
    assert read_json(made / "report.json") == read_json(trained / "nla" / "report.json")


def test_whole_models_are_trained_without_adapters(here):
    made = train_model_recipe(recipe_for(here, WHOLE, "precision=float32"), here / "whole")
    assert (here / "whole" / "3-verbalizer" / "model" / "model.safetensors").is_file()
    assert nlakit.load(made).explain(TEXT, last=1, max_new_tokens=4).tokens


def test_a_rounded_base_is_published_unrounded(here, trained):
    made = train_model_recipe(
        recipe_for(here, LORA, *ADAPTERS, "lora.base_bits=4"), here / "rounded"
    )
    assert (here / "rounded" / "5-rl" / "best" / "av" / "adapter_model.safetensors").is_file()
    moves = []
    for nla in (trained / "nla", made):
        target, av = (load_file(nla / role / "model.safetensors") for role in ("target", "av"))
        name = "model.layers.0.self_attn.q_proj.weight"
        moves.append((av[name] - target[name]).norm() / target[name].norm())
        assert torch.equal(
            target[name], load_file(here / "base/model.safetensors")[name].bfloat16()
        )
    # Rounding alone would move a matrix by 0.09.
    assert 0 < moves[1] < min(0.09, 2 * moves[0])


def test_labels_of_a_server_are_paid_once_for_all_layers(here, tmp_path):
    with teacher_server(stop="stop") as server:
        asked = (
            "teacher.model=openai:llama", f"teacher.base_url={server.url}/v1",
            "teacher.batch=false", "teacher.concurrency=2",
            f"teacher.cache={tmp_path / 'answers.sqlite'}",
        )  # fmt: skip
        for layer, paid in ((1, 24), (0, 24)):
            recipe = recipe_for(here, LORA, *asked, f"target.layer={layer}")
            labels = train_model_recipe(recipe, tmp_path / f"layer-{layer}", only="labels")
            assert server.paid == paid and server.most_at_once <= 2
            found = read_json(labels / "labels.json")
            assert (found["teacher"], found["num_rows"]) == ("openai:llama", 24)
            assert not (labels / "answers.sqlite").exists()


def test_marker_and_chat_template_are_checked_before_anything_is_paid_for(here, tmp_path):
    message = r"target.marker = 'Basil rowed' .* tokens: .* Give target.marker=(.)\."
    with pytest.raises(ConfigError, match=message) as error:
        train_model_recipe(recipe_for(here, LORA, "target.marker=Basil rowed"), tmp_path / "run")
    advised = str(error.value)[-2]
    assert len(tiny_tokenizer().encode(advised, add_special_tokens=False)) == 1
    shutil.copytree(here / "base", tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="base' has no chat template"):
        other = recipe_for(here, LORA, f"target.checkpoint={tmp_path / 'base'}")
        train_model_recipe(other, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_run_is_refused(here, trained, tmp_path):
    eight = recipe_for(here, RECIPES / "qwen2.5-7b-8gpu.toml")
    with pytest.raises(ConfigError, match="asks for 8 devices, found 1"):
        train_model_recipe(eight, tmp_path)
    muon = recipe_for(here, RECIPES / "qwen2.5-7b-8gpu.toml", "rl.optimizer.muon_lr=0.01")
    with pytest.raises(ConfigError, match="Muon needs whole"):
        train_model_recipe(muon, tmp_path)
    with pytest.raises(ConfigError, match="asks for 2 devices, found 1"):
        two = recipe_for(here, LORA, "devices.count=2", "devices.parallel=ddp")
        train_model_recipe(two, tmp_path)
    with pytest.raises(ConfigError, match="no stage 'target'"):
        train_model_recipe(recipe_for(here), tmp_path, only="target")
    with pytest.raises(InputError, match="6 labels; training needs 16"):
        few = recipe_for(here, LORA, "corpus.documents=2")
        train_model_recipe(few, tmp_path / "few", only="verbalizer")
    with pytest.raises(ResumeError):
        other = recipe_for(here, LORA, *ADAPTERS, "lora.rank=3")
        train_model_recipe(other, trained, only="verbalizer")
