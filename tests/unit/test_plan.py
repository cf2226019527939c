"""Plans: formulas by hand, the shipped recipes, and the smoke run as it was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nlakit.cli import run
from nlakit.cli.recipes import plan_of, read_recipe
from nlakit.errors import ConfigError
from nlakit.models.speed import product_speed
from nlakit.train.model_recipe import ModelRecipe
from nlakit.train.plan import (
    GIB,
    device_named,
    forward_flops,
    lora_parameters,
    plan,
    training_factor,
)
from nlakit.worlds.storyworld.recipe import StoryworldRecipe

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
MEASURED = json.loads((Path(__file__).parent / "data" / "smoke_run.json").read_text())
# Parameters as the makers state them, in billions; biases, norms and towers left out.
RELEASED = {
    "qwen2.5-0.5b-1gpu": (0.49, 16),
    "qwen2.5-7b-lora-1gpu": (7.61, 20),
    "qwen2.5-7b-8gpu": (7.61, 20),
    "gemma-3-12b": (11.8, 32),
    "llama-3.3-70b-fsdp": (70.6, 53),
}


def planned(name, *overrides):
    recipe = read_recipe(RECIPES / f"{name}.toml", overrides)
    assert isinstance(recipe, ModelRecipe)
    return plan(recipe, device_named(recipe.devices.kind), recipe.devices.count)


@pytest.mark.parametrize("name", RELEASED)
def test_shipped_recipes_of_released_models_parse_and_fit(name):
    billions, layer = RELEASED[name]
    found = planned(name)
    assert found.parameters / 1e9 == pytest.approx(billions, rel=0.01)
    assert read_recipe(RECIPES / f"{name}.toml").target.layer == layer
    assert 0.1 * found.device_memory_bytes < found.peak_bytes < found.device_memory_bytes
    assert all(stage.flops > 0 and stage.hours > 0 for stage in found.stages)
    assert found.label_dollars is not None


def test_the_smollm2_recipe_runs_every_stage_and_its_adapters_fit_the_package():
    recipe = read_recipe(RECIPES / "smollm2-135m.toml")
    assert isinstance(recipe, ModelRecipe) and recipe.lora is not None
    shape, rank = recipe.target.shape, recipe.lora.reconstructor_rank
    weights = lora_parameters(shape, recipe.lora.rank, shape.num_layers)
    weights += lora_parameters(shape, rank, recipe.target.layer + 1)
    assert 2 * weights + 4 * shape.d_model**2 < 45e6
    assert shape.parameters / 1e6 == pytest.approx(134.5, rel=0.01)
    found = planned("smollm2-135m")
    assert [each.name for each in found.stages][-6:] == [
        "grounded-verbalizer", "grounded-reconstructor", "grounded-rl", "abstention", "settling",
        "controls",
    ]  # fmt: skip
    documents = recipe.corpus.documents + recipe.corpus.rl_documents + recipe.grounding.documents
    documents += recipe.abstention.documents + recipe.settling.documents
    assert documents < 32_356 * 7 / 8  # those of the corpus that are not held out


def test_plain_recipes_are_still_the_storyworlds():
    assert isinstance(read_recipe(RECIPES / "smoke.toml"), StoryworldRecipe)


def test_a_recipe_that_contradicts_itself_is_refused():
    path = RECIPES / "qwen2.5-7b-lora-1gpu.toml"
    with pytest.raises(ConfigError, match="layer 28 of a model of 28 blocks"):
        read_recipe(path, ["target.layer=28"])
    with pytest.raises(ConfigError, match="count = 2"):
        read_recipe(path, ["devices.count=2"])
    with pytest.raises(ConfigError, match=r"rnak: unknown key.*'rank'"):
        read_recipe(path, ["lora.rnak=3"])


def test_formulas_by_hand():
    shape = read_recipe(RECIPES / "qwen2.5-7b-8gpu.toml").target.shape
    # q and o 3584², k and v 3584 x 512, three of 3584 x 18944
    assert shape.block_parameters == 2 * 3584**2 + 2 * 3584 * 512 + 3 * 3584 * 18944
    block = 2 * shape.block_parameters + 4 * 3584 * 100
    assert forward_flops(shape, 10, 100, 2, 0) == 20 * block
    assert training_factor(lora=False, checkpointing=False) == 3
    assert training_factor(lora=True, checkpointing=True) == 3
    assert lora_parameters(shape, 1, 1) == 4 * 3584 + 2 * (3584 + 512) + 3 * (3584 + 18944)


def test_grounding_trains_each_label_as_often_as_epochs_and_reads_it_three_times():
    plain = {stage.name: stage for stage in planned("qwen2.5-7b-lora-1gpu").stages}
    made = planned("qwen2.5-7b-lora-1gpu", "grounding.threshold=0.1", "grounding.epochs=3")
    stages = {stage.name: stage for stage in made.stages}
    grounded = [f"grounded-{name}" for name in ("verbalizer", "reconstructor", "rl")]
    assert [*stages] == ["activations", "grounding", *grounded]
    one_pass = plain["verbalizer"].flops / 3  # adapters, with checkpointing
    assert stages["grounding"].flops == pytest.approx((3 * 3 + 3) * one_pass)
    assert stages["grounded-verbalizer"].flops == plain["verbalizer"].flops
    assert stages["grounded-rl"].flops == plain["rl"].flops


def test_a_plan_has_the_stages_that_the_recipe_runs():
    whole = ("grounding.threshold=0.1", "grounding.documents=2000", "settling.vectors=4000",
             "settling.steps=100", "settling.optimizer.lr=1e-3", "settling.documents=1000",
             "comparison.controls=true",
             "rl.judge_weight=0.5", "rl.judge_neutral=0.1")  # fmt: skip
    stages = {each.name: each for each in planned("qwen2.5-0.5b-1gpu", *whole).stages}
    assert [*stages] == [
        "activations", "verbalizer", "reconstructor", "rl", "grounding", "grounded-verbalizer",
        "grounded-reconstructor", "grounded-rl", "settling", "controls",
    ]  # fmt: skip
    # A tenth of the documents is judged, by an AV that is there already.
    assert stages["grounding"].flops == pytest.approx(stages["verbalizer"].flops / 3 * 3 / 10)
    assert stages["grounded-rl"].flops > stages["rl"].flops
    without = planned("qwen2.5-0.5b-1gpu", *whole, "comparison.plain_pair=false")
    names = [each.name for each in without.stages]
    assert names[:4] == ["activations", "verbalizer", "reconstructor", "grounding"]
    assert "rl" not in names


@pytest.mark.parametrize(
    ("name", "part"),
    [("qwen2.5-7b-lora-1gpu", "frozen adapters"), ("qwen2.5-0.5b-1gpu", "frozen weights")],
)
def test_a_judge_in_rl_is_one_more_verbalizer_in_memory(name, part):
    judged = ("grounding.threshold=0.1", "rl.judge_weight=0.5", "rl.judge_neutral=0.1")
    shape = read_recipe(RECIPES / f"{name}.toml").target.shape
    more = planned(name, *judged).memory_bytes[part] - planned(name).memory_bytes[part]
    adapters = 4 * lora_parameters(shape, 64, shape.num_layers)
    assert more == pytest.approx(adapters if "lora" in name else 2 * shape.parameters)


def test_label_cost_is_tokens_times_price():
    found = planned("qwen2.5-7b-8gpu", "teacher.batch=false", "teacher.price=[2.0, 10.0]")
    assert found.label_dollars == pytest.approx(500_000 * ((300 + 300) * 2 + 130 * 10) / 1e6)


def test_sharding_and_adapters_save_memory():
    whole = planned("qwen2.5-7b-8gpu")
    fewer = planned("qwen2.5-7b-8gpu", "devices.count=4")
    # All but the AR's head is shared.
    assert fewer.memory_bytes["trained weights"] == pytest.approx(
        2 * whole.memory_bytes["trained weights"] - 18 * 3584**2
    )
    adapters = planned("qwen2.5-7b-lora-1gpu").memory_bytes
    assert adapters["frozen weights"] / GIB == pytest.approx(14.2, abs=0.1)
    assert adapters["trained weights"] < 0.05 * whole.memory_bytes["trained weights"] * 8
    assert adapters["gathered weights"] == 0


def test_a_shared_base_of_70_billion_by_hand():
    found = planned("llama-3.3-70b-fsdp").memory_bytes
    assert found["frozen weights"] == pytest.approx(70.6e9 * 2 / 16, rel=0.01)
    # Rank 64 on q, k, v, o, gate, up and down of 80 blocks and of 54, and the AR's head.
    sides = 2 * (8192 + 8192) + 2 * (8192 + 1024) + 3 * (8192 + 28672)
    trained = 134 * 64 * sides + 8192**2
    assert found["trained weights"] == 18 * trained
    assert found["frozen adapters"] == 4 * trained
    # Embedding and head, and as much received; two blocks, of which one's keys are an eighth.
    block = 2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28672
    gathered = 2 * (2 * 2 * 8192 * 128256 + 2 * block)
    assert found["gathered weights"] == pytest.approx(gathered, rel=1e-4)


def test_bits_shrink_the_blocks_of_the_base_alone():
    whole = planned("qwen2.5-7b-lora-1gpu").memory_bytes["frozen weights"]
    vocabulary = 2 * 2 * 152064 * 3584
    for bits, share in ((8, 0.5), (4, 0.258)):
        rounded = planned("qwen2.5-7b-lora-1gpu", f"lora.base_bits={bits}").memory_bytes
        assert rounded["frozen weights"] - vocabulary == pytest.approx(
            share * (whole - vocabulary), rel=1e-3
        )


def test_a_base_of_few_bits_is_not_sharded():
    with pytest.raises(ConfigError, match="not sharded"):
        read_recipe(RECIPES / "llama-3.3-70b-fsdp.toml", ["lora.base_bits=4"])


def test_twice_the_devices_take_half_the_time_but_for_decoding():
    recipe = read_recipe(RECIPES / "qwen2.5-7b-8gpu.toml")
    one, two = (plan(recipe, device_named("h100"), n) for n in (8, 16))
    assert one.stages[1].hours == pytest.approx(2 * two.stages[1].hours)
    assert one.flops == two.flops
    assert two.hours > one.hours / 2


def test_smoke_run_took_what_was_planned_within_30_percent():
    """One rate, taken from the AV's stage, predicts the time of the other stages."""
    recipe = read_recipe(RECIPES / "smoke.toml")
    assert isinstance(recipe, StoryworldRecipe)
    flops = {stage.name: stage.flops for stage in plan_of(recipe, device_named("cpu")).stages}
    rate = flops["verbalizer"] / MEASURED["seconds"]["verbalizer"]
    found = plan_of(recipe, device_named("cpu", rate))
    seconds = {stage.name: stage.hours * 3600 for stage in found.stages}
    for name in ("target", "reconstructor"):
        assert seconds[name] == pytest.approx(MEASURED["seconds"][name], rel=0.3), name
    total = sum(MEASURED["seconds"].values())
    assert found.hours * 3600 == pytest.approx(total, rel=0.3)


def test_plan_prints_json(capsys):
    path = str(RECIPES / "qwen2.5-7b-lora-1gpu.toml")
    assert run(["plan", path, "--device", "h200", "--devices", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["device"], found["num_devices"]) == ("h200", 1)
    assert found["hours"] == pytest.approx(sum(stage["hours"] for stage in found["stages"]))
    assert run(["plan", path, "--device", "abacus"]) == 2
    assert "abacus" in capsys.readouterr().err


def test_a_plan_for_a_cpu_starts_from_this_machines_products(capsys, monkeypatch):
    path = str(RECIPES / "qwen2.5-7b-lora-1gpu.toml")
    arguments = ["plan", path, "--device", "cpu", "--devices", "1", "--json"]
    found = []
    for speed in (200e9, 400e9):
        monkeypatch.setattr("nlakit.models.speed.product_speed", lambda dtype, speed=speed: speed)
        assert run(arguments) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert [each["rate"] for each in found] == [80e9, 160e9]
    assert "this machine's products in" in found[0]["rate_from"]
    slow, fast = (each["stages"][1]["hours"] for each in found)
    assert slow == pytest.approx(2 * fast)
    # A rate that is given is taken as it is.
    assert run([*arguments, "--flops", "80e9"]) == 0
    given = json.loads(capsys.readouterr().out)
    assert (given["hours"], given["rate_from"]) == (found[0]["hours"], "as given")


def test_the_speed_of_products_is_that_of_the_fastest():
    # Starts and ends of three products: 2, 0.5 and 1 seconds.
    readings = iter([0.0, 0.0, 2.0, 0.1, 0.6, 0.5, 1.5])
    assert product_speed(torch.float32, lambda: next(readings)) == 2 * 1024**3 / 0.5
