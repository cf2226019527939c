"""Two processes train what one does: same figures, same adapters, the base whole or in halves."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from support.docs import DOCS
from support.families import make
from support.processes import WORK, in_two_processes, join
from support.serving import closed, tiny_tokenizer
from torch import nn

import nlakit
from nlakit.claims.grounding import ClaimJudge
from nlakit.claims.spans import SPANS
from nlakit.cli.recipes import read_recipe
from nlakit.core.site import Site
from nlakit.data.datasets import PairSet
from nlakit.engines.base import Sampling
from nlakit.engines.local import LocalEngine
from nlakit.evals.evaluation import evaluate
from nlakit.models import forward
from nlakit.models.io import load_backbone, load_sharded
from nlakit.models.likelihood import text_logprobs
from nlakit.models.recompute import recomputing
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.sharding import held_bytes, is_sharded
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer
from nlakit.storyworld.grammar import generate
from nlakit.train import distributed
from nlakit.train.config import SftConfig
from nlakit.train.corpus_world import CorpusWorld, train_model_recipe
from nlakit.train.learner import Learner, OptimizerConfig
from nlakit.train.model_recipe import ModelRecipe
from nlakit.train.run import RunDirectory
from nlakit.train.sft import train_reconstructor, train_verbalizer

RECIPES = Path(__file__).parents[2] / "recipes"
ADAPTERS, WHOLE = (RECIPES / f"qwen2.5-7b-{name}.toml" for name in ("lora-1gpu", "8gpu"))
TINY = (
    "precision=float32", "target.layer=1", "target.injection_scale=5.0", "teacher.model=fake",
    "corpus.documents=7", "corpus.rl_documents=0", "corpus.shard_rows=6",
    "corpus.positions_per_document=3",
    "corpus.minimum_position=4", "corpus.max_tokens=64", "corpus.held_out_documents=4",
    "warm_start.batch_size=5", "warm_start.micro_batch=2",
    "warm_start.optimizer.lr=1e-3", "warm_start.optimizer.warmup_steps=1", "rl.steps=2",
    "rl.vectors=3", "rl.group=2", "rl.max_new_tokens=8", "rl.micro_batch=2",
    "rl.optimizer.lr=1e-4", "rl.optimizer.warmup_steps=1",
)  # fmt: skip
# Adam makes a step of any gradient, also of one that is rounding: whole models take small ones. Its
# first steps are g / (|g| + 1e-8) times the rate of 1e-3, so that where |g| is not far above 1e-8
# the last bits of g, which follow the order of sums (a pack of two rows adds up otherwise than two
# packs of one), are hundredths of a step: hence 5e-5 for weights, beside 1e-5 for gradients.
SMALL = {
    ADAPTERS: ("lora.rank=4", "lora.alpha=8"),
    WHOLE: ("warm_start.optimizer.lr=1e-4",),
}
STAGES = {"3-verbalizer": "model", "4-reconstructor": "model", "5-rl": "best/av"}
PUBLISHED = (ADAPTERS, "fsdp")
# Whose first gradients are compared, in the order in which they are made. A fresh adapter's are
# half zeros; RL goes on with one that has learned, the same for one process and for two.
WARM_START, RL = ("av", "ar"), ("ar", "av")
COMPARED = [
    *((ADAPTERS, parallel, stage) for parallel in ("ddp", "fsdp") for stage in STAGES),
    *((WHOLE, "fsdp", stage) for stage in ("3-verbalizer", "4-reconstructor")),
]
# Directories of bases, and how many blocks are loaded: embedding and head apart, in one, no head.
BASES = {"base": None, "tied": None, "cut": 2}
RATE = OptimizerConfig(lr=1e-2, warmup_steps=0)
IDS = torch.arange(5, 17).view(2, 6)
TEXTS = (
    "Basil rowed home with Clara before the rain began, and said no word of it.",
    "The old miller's lamp is green.",
    "",
    "A letter came.",
    "Nobody at the inn had seen the captain, the two sailors or their dog since Friday.",
)
SHARES = {"uneven": (range(3), range(3, 5)), "one has none": (range(0), range(5))}
BATCH_SIZES = (1, 5)  # of the first the one process has no row, the other one
SUM_GRADIENTS = Learner._sum_gradients


def test_shares_are_the_whole_batch(monkeypatch):
    monkeypatch.setattr(distributed, "num_processes", lambda: 3)
    found = []
    for number in range(3):
        monkeypatch.setattr(distributed, "rank", lambda number=number: number)
        found.append(list(distributed.share(7)))
    assert found == [[0, 1], [2, 3], [4, 5, 6]]


def recipe_for(root: Path, recipe: Path, count: int = 1, parallel: str = "none") -> ModelRecipe:
    devices = (f"devices.count={count}", f"devices.parallel={parallel}")
    found = read_recipe(recipe, [*overrides(root, recipe), *devices])
    assert isinstance(found, ModelRecipe)
    return found


def overrides(root: Path, recipe: Path) -> list[str]:
    """What makes a recipe tiny."""
    paths = (f"target.checkpoint={root / 'base'}", f"corpus.source={root / 'corpus.jsonl'}")
    return [*paths, *TINY, *SMALL[recipe]]


def train_as(rank: int, port: int, root: Path, parallel: str, recipe: Path) -> None:
    join(rank, port)
    asked = recipe_for(root, recipe, 2, parallel)
    directory = root / f"{recipe.stem}-{parallel}"
    Learner._sum_gradients = recording(directory)
    train(asked, directory, None if (recipe, parallel) == PUBLISHED else "rl")
    dist.destroy_process_group()


def go_on_as(rank: int, port: int, root: Path, parallel: str) -> None:
    """RL alone, after a warm start that is there."""
    join(rank, port)
    directory = root / f"rl-{parallel}"
    Learner._sum_gradients = recording(directory)
    train_model_recipe(recipe_for(root, ADAPTERS, 2, parallel), directory, only="rl")
    dist.destroy_process_group()


def recording(directory: Path) -> Callable[[Learner], None]:
    """In place of `Learner._sum_gradients`: does it, and writes down each learner's first sums."""
    seen: list[Learner] = []

    def sum_gradients(self: Learner) -> None:
        SUM_GRADIENTS(self)
        if self not in seen:
            seen.append(self)
            found = {name: p.grad for name, p in self.parameters.items() if p.grad is not None}
            save_file(found, gradients_file(directory, len(seen) - 1, distributed.rank()))

    return sum_gradients


def gradients_file(directory: Path, number: int, rank: int) -> Path:
    return directory / f"gradients-{number}.{rank}.safetensors"


def train(recipe: ModelRecipe, directory: Path, last: str | None = "rl") -> None:
    """All stages up to `last`; of models that are trained whole the warm start, to save time."""
    if recipe.lora is not None:
        train_model_recipe(recipe, directory, last)
        return
    for stage in ("verbalizer", "reconstructor"):
        train_model_recipe(recipe, directory, only=stage)


def hold_as(rank: int, port: int, root: Path) -> None:
    """What each process keeps of a base, and what it computes with it."""
    join(rank, port)
    held, found = {}, {}
    for name, num_blocks in BASES.items():
        model = load_sharded(root / name, num_blocks, device="cpu", headless=num_blocks is not None)
        held[name] = held_bytes(model)
        with torch.inference_mode():
            found[name] = model(IDS)[0]
    save_file(found, root / f"outputs-{rank}.safetensors")
    (root / f"held-{rank}.json").write_text(json.dumps(held))
    dist.destroy_process_group()


def resume_as(rank: int, port: int, root: Path) -> None:
    """After a step, a fresh model and learner find weights and moments as they were left."""
    join(rank, port)
    run = RunDirectory(root / "parts", RATE)
    (model, learner), (fresh, other) = (learner_on(root / "base") for _ in range(2))
    with recomputing(model.model):
        model(IDS, use_cache=False).logits.square().mean().backward()
    assert learner.update(0) > 0
    run.save(1, {"av": learner}, {})
    assert run.resume({"av": other}) == (1, {})
    state, found = learner.state(), other.state()
    assert state.keys() == found.keys() and "exp_avg_sq.lm_head.weight" in state
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    with torch.inference_mode():
        assert torch.equal(fresh(IDS).logits, model(IDS).logits)
    distributed.wait()
    dist.destroy_process_group()


def learner_on(base: Path) -> tuple[Any, Learner]:
    model = load_sharded(base, device="cpu", trained=True)
    return model, Learner(dict(model.named_parameters()), RATE, 2)


def work_as(rank: int, port: int, root: Path) -> None:
    """Work that comes in unequal shares, on models that both hold a part of."""
    join(rank, port)
    world = CorpusWorld(recipe_for(root, ADAPTERS, 2, "fsdp"), root / "none")
    for name, shares in SHARES.items():
        found = work_on(world, shares[rank])
        (root / f"work-{name}.{rank}.json").write_text(json.dumps(found))
    whole = CorpusWorld(recipe_for(root, WHOLE, 2, "fsdp"), root / "none")
    for batch_size in BATCH_SIZES:
        steps_on(whole, root / f"steps-{batch_size}-fsdp", batch_size)
    dist.destroy_process_group()


def work_on(world: CorpusWorld, rows: range) -> dict[str, Any]:
    """What one makes of some of five rows; each turn of an engine holds two answers."""
    models, target = world.models, world.models.target()
    av, ar, vectors = pair_of(world)
    texts = TEXTS[rows.start : rows.stop]
    engine = LocalEngine(target, av, ar, max_rows=2)
    sampling = Sampling(samples=2, temperature=1.0, max_new_tokens=5, seed=1)
    groups = engine.verbalize(vectors[list(rows)], sampling, first=rows.start)
    judged = ClaimJudge(av, SPANS, "float32", 1).judge(vectors[list(rows)], texts)
    assert is_sharded(av.model) == (models.devices.parallel == "fsdp")
    return {
        "ids": [list(each.ids) for group in groups for each in group],
        "logprobs": text_logprobs(target, texts).total_N.tolist(),
        "claims": [each.probability for claims in judged for each in claims],
        # Nobody may ask for the vectors of no text.
        "vectors": ar.reconstruct(texts or TEXTS[:1])[: len(rows)].tolist(),
    }


def pair_of(world: CorpusWorld) -> tuple[Verbalizer, Reconstructor, torch.Tensor]:
    """An untrained pair, and a vector for each of `TEXTS`."""
    width = world.models.target().d_model
    vectors = torch.randn(len(TEXTS), width, generator=torch.Generator().manual_seed(0))
    metas = [world.models.new_meta(role, world.tokens(), vectors) for role in ("av", "ar")]
    pair = world.models.new_verbalizer(metas[0]), world.models.new_reconstructor(metas[1])
    return *pair, vectors


def steps_on(world: CorpusWorld, directory: Path, batch_size: int) -> None:
    """A step of each warm start: the last eight rows are held out."""
    av, ar, vectors = pair_of(world)
    texts = [f"{text} It was {number}." for number, text in enumerate((*TEXTS, *TEXTS, *TEXTS))]
    rows = pa.table({"doc_id": [str(number) for number in range(13)]})
    pairs = PairSet(torch.cat([vectors] * 3)[:13], texts[:13], rows)
    config = SftConfig(steps=1, batch_size=batch_size, optimizer=RATE, held_out=8)
    settings, mean_D = world.recipe.settings, torch.zeros(vectors.shape[1])
    av.recompute = ar.recompute = batch_size == 1
    train_verbalizer(av, pairs, config, settings, RunDirectory(directory / "av", config))
    train_reconstructor(ar, pairs, mean_D, config, settings, RunDirectory(directory / "ar", config))


def go_on_extracting_as(rank: int, port: int, root: Path, directory: Path) -> None:
    join(rank, port)
    train_model_recipe(recipe_for(root, ADAPTERS, 2, "fsdp"), directory, only="activations")
    dist.destroy_process_group()


def sum_as(rank: int, port: int, out: Path) -> None:
    """One rank has a gradient for one of two parameters, the other for both."""
    join(rank, port)
    pair = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    pair[0].grad = torch.tensor([1.0, 2.0]) * (rank + 1)
    if rank == 1:
        pair[1].grad = torch.tensor([5.0])
    distributed.sum_gradients(pair)
    summed = [p.grad.tolist() for p in pair if p.grad is not None]
    (out / f"{rank}.json").write_text(json.dumps([summed, distributed.total(rank + 0.5)]))
    dist.destroy_process_group()


def test_gradients_are_summed_and_missing_ones_are_zero(tmp_path):
    assert in_two_processes(sum_as, tmp_path) == [0, 0]
    for rank in (0, 1):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [[[3.0, 6.0], [5.0]], 2.0]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A directory with a random base and a corpus, for runs to be made in."""
    root = tmp_path_factory.mktemp("distributed")
    tokenizer = tiny_tokenizer()
    model = make("qwen2", len(tokenizer))
    model.config.max_position_embeddings = 1024
    Target(model, tokenizer, Site(1)).save(root / "base")
    made = [*islice(generate(3, "train"), 9), *islice(generate(3, "heldout"), 4)]
    lines = [json.dumps({"text": each.text}) for each in made]
    (root / "corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def runs(root) -> dict[tuple[Path, str], Path]:
    """The same runs by one process and by two."""
    found = [(ADAPTERS, "none"), (WHOLE, "none"), (ADAPTERS, "ddp"), PUBLISHED, (WHOLE, "fsdp")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalEngine, "completion", closed)
        # A sharded base is run by Hugging Face's modules, which round otherwise than our blocks.
        patch.setattr(forward, "_is_plain", lambda _: False)
        for recipe, parallel in found[2:]:
            assert in_two_processes(train_as, root, parallel, recipe) == [0, 0]
        for recipe in (ADAPTERS, WHOLE):
            directory = root / f"{recipe.stem}-none"
            patch.setattr(Learner, "_sum_gradients", recording(directory))
            train(recipe_for(root, recipe), directory)
    return {(recipe, parallel): root / f"{recipe.stem}-{parallel}" for recipe, parallel in found}


def steps_of(run: Path, stage: str) -> list[dict[str, float]]:
    """What each step logged, but for the seconds."""
    records = map(json.loads, (run / stage / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in each.items() if k != "seconds"} for each in records]


@pytest.mark.parametrize(("recipe", "parallel", "stage"), COMPARED)
def test_two_processes_learn_what_one_does(runs, recipe, parallel, stage):
    assert_same_training(runs[recipe, "none"], runs[recipe, parallel], recipe, stage)


def assert_same_training(one: Path, two: Path, recipe: Path, stage: str) -> None:
    """What the steps of a stage logged, and what they made."""
    steps = [steps_of(run, stage) for run in (one, two)]
    assert len(steps[0]) == len(steps[1]) > 0
    for expected, found in zip(*steps, strict=True):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
    name = "adapter_model.safetensors" if recipe == ADAPTERS else "model.safetensors"
    weights = [load_file(run / stage / STAGES[stage] / name) for run in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=0, atol=5e-5)


@pytest.fixture(scope="module")
def rl_runs(root, runs) -> dict[str, Path]:
    """RL by one process and by two, after the same warm start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalEngine, "completion", closed)
        patch.setattr(forward, "_is_plain", lambda _: False)
        for parallel in ("none", "ddp", "fsdp"):
            directory = root / f"rl-{parallel}"
            shutil.copytree(runs[ADAPTERS, "none"], directory)
            shutil.rmtree(directory / "5-rl")
            if parallel != "none":
                assert in_two_processes(go_on_as, root, parallel) == [0, 0]
        patch.setattr(Learner, "_sum_gradients", recording(root / "rl-none"))
        train_model_recipe(recipe_for(root, ADAPTERS), root / "rl-none", only="rl")
    return {parallel: root / f"rl-{parallel}" for parallel in ("none", "ddp", "fsdp")}


def largest_difference(one: Path, two: Path, number: int) -> float:
    """Of any tensor of the gradients of two processes, relative to that of one process."""
    expected = load_file(gradients_file(one, number, 0))
    parts = [load_file(gradients_file(two, number, rank)) for rank in (0, 1)]
    assert len(expected) > 0 and all(each.keys() == expected.keys() for each in parts)
    found = {}
    for name, whole in expected.items():
        first, second = (each[name] for each in parts)
        if first.shape != whole.shape:
            first = second = torch.cat([first, second])
        assert torch.equal(first, second)
        norm, difference = whole.norm(), (first - whole).norm()
        found[name] = float(difference / norm) if norm > 0 else float(difference)
    return max(found.values())


@pytest.mark.parametrize("number", range(len(WARM_START)), ids=WARM_START)
@pytest.mark.parametrize(
    ("recipe", "parallel"), [(ADAPTERS, "ddp"), (ADAPTERS, "fsdp"), (WHOLE, "fsdp")]
)
def test_gradients_of_a_warm_start_are_those_of_one_process(runs, recipe, parallel, number):
    assert 0 < largest_difference(runs[recipe, "none"], runs[recipe, parallel], number) < 1e-5


@pytest.mark.parametrize("number", range(len(RL)), ids=RL)
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_gradients_of_rl_are_those_of_one_process(rl_runs, parallel, number):
    # An advantage is divided by the spread of its group's rewards, which magnifies rounding.
    assert 0 < largest_difference(rl_runs["none"], rl_runs[parallel], number) < 1e-4


def torchrun_line() -> list[str]:
    """What `docs/scale-out.md` tells the owner of eight devices to type; for two."""
    page = (DOCS / "scale-out.md").read_text(encoding="utf-8")
    first = page.split("```\n", 1)[1].split("```", 1)[0]
    return shlex.split(first.replace("\\\n", "").replace("8 ", "2 ").replace("=8", "=2"))


def test_the_line_of_the_docs_trains_what_one_process_does(root, runs):
    launcher, *line = torchrun_line()
    assert launcher == "torchrun" and line.count("2") == 1 and "devices.count=2" in line
    output = root / "torchrun"
    command = [sys.executable, "-m", "torch.distributed.run", *line, *overrides(root, ADAPTERS)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    launched = subprocess.Popen(
        [*command, "--output", str(output)], cwd=RECIPES.parent, env=environment
    )
    try:
        assert launched.wait(2 * WORK) == 0
    finally:
        launched.terminate()  # it ends its children
    for stage in ("3-verbalizer", "4-reconstructor"):
        assert_same_training(runs[ADAPTERS, "none"], output, ADAPTERS, stage)
    assert nlakit.load(output / "nla").explain("Basil rowed.", last=1, max_new_tokens=4).tokens


def test_the_steps_compared_had_something_to_learn(runs):
    _, first, second = steps_of(runs[ADAPTERS, "ddp"], "5-rl")
    assert first["reward_spread"] > 0 and first["av_grad_norm"] > 0 and first["mse"] > 0
    assert second["kl"] > 0


def test_a_pair_on_a_sharded_base_is_measured_by_both_and_published_by_one(root, runs, monkeypatch):
    run = runs[PUBLISHED]
    found = json.loads((run / "nla" / "report.json").read_text())
    monkeypatch.setattr(LocalEngine, "completion", closed)
    alone = CorpusWorld(recipe_for(root, ADAPTERS), run)
    pair, asked = alone.published_pair(run / "nla"), alone.recipe.report
    expected = evaluate(
        pair, alone.eval_set, asked.documents, asked.seed, max_new_tokens=alone.max_new_tokens
    )
    assert found["fve"] == pytest.approx(expected.fve, abs=1e-5)
    weights = load_file(run / "nla" / "target" / "model.safetensors")
    for name, tensor in load_file(run.parent / "base" / "model.safetensors").items():
        assert torch.equal(weights[name], tensor.bfloat16())


def test_parts_of_trained_weights_are_kept_and_found_again(root):
    assert in_two_processes(resume_as, root) == [0, 0]
    kept = (root / "parts" / "checkpoints" / "step-1").glob("*.safetensors")
    assert {path.name for path in kept} == {f"av.{n}-of-2.safetensors" for n in (1, 2)}


def test_each_process_keeps_half_of_a_sharded_base(root):
    tokenizer = tiny_tokenizer()
    for name in ("tied", "cut"):
        Target(make("gemma3_text", len(tokenizer)), tokenizer, Site(1)).save(root / name)
    assert in_two_processes(hold_as, root) == [0, 0]
    for name, num_blocks in BASES.items():
        whole = load_backbone(root / name, num_blocks, headless=num_blocks is not None)
        with torch.inference_mode():
            expected = whole(IDS)[0]
        for rank in (0, 1):
            held = json.loads((root / f"held-{rank}.json").read_text())[name]
            assert held == held_bytes(whole) / 2
            found = load_file(root / f"outputs-{rank}.safetensors")[name]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.fixture
def small_packs(monkeypatch):
    """Every row is a pack of its own, so that processes have different numbers of them."""
    monkeypatch.setattr(forward, "TOKENS_UNDER_A_MASK", 60)
    monkeypatch.setattr(forward, "_is_plain", lambda _: False)


def test_processes_with_unequal_shares_make_what_one_does(root, small_packs):
    assert in_two_processes(work_as, root) == [0, 0]
    alone = CorpusWorld(recipe_for(root, ADAPTERS), root / "none")
    for name, shares in SHARES.items():
        found = [json.loads((root / f"work-{name}.{rank}.json").read_text()) for rank in (0, 1)]
        for rows, one in zip(shares, found, strict=True):
            expected = work_on(alone, rows) if rows else dict.fromkeys(one, [])
            assert one["ids"] == expected["ids"] and len(one["ids"]) == 2 * len(rows)
            for key in ("logprobs", "claims"):
                assert one[key] == pytest.approx(expected[key], rel=1e-4)
            assert torch.tensor(one["vectors"]).allclose(torch.tensor(expected["vectors"]), 1e-4)
    assert len(found[1]["claims"]) > 0
    whole = CorpusWorld(recipe_for(root, WHOLE), root / "none")
    for batch_size in BATCH_SIZES:
        runs = [root / f"steps-{batch_size}-{parallel}" for parallel in ("none", "fsdp")]
        steps_on(whole, runs[0], batch_size)
        for role in ("av", "ar"):
            steps = [steps_of(run, role) for run in runs]
            assert steps[1] == [pytest.approx(steps[0][0], rel=1e-4, abs=1e-5)]
            assert steps[0][0]["grad_norm"] > 0


def test_two_processes_extract_what_is_missing_and_one_writes(root, runs):
    before, again = runs[PUBLISHED] / "1-activations", root / "again" / "1-activations"
    shutil.copytree(before, again)
    for name in ("manifest.json", "shard-00001.json", "shard-00003.json"):
        (again / "warm-start" / name).unlink()
    assert in_two_processes(go_on_extracting_as, root, root / "again") == [0, 0]
    written = {path.relative_to(again) for path in again.rglob("*") if path.is_file()}
    assert len(written) > 10 and written == {
        path.relative_to(before) for path in before.rglob("*") if path.is_file()
    }
    assert all((again / path).read_bytes() == (before / path).read_bytes() for path in written)
