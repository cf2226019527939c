"""Two processes train what one does: same figures, same adapters."""

from __future__ import annotations

import json
import multiprocessing
import socket
from itertools import islice
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from support.families import make
from support.serving import tiny_tokenizer
from torch import nn

from nlakit.core.site import Site
from nlakit.engines.base import Completion
from nlakit.engines.local import LocalEngine, Row
from nlakit.models.target import Target
from nlakit.storyworld.grammar import generate
from nlakit.train import distributed
from nlakit.train.checkpoint_recipe import CheckpointRecipe, read_recipe
from nlakit.train.checkpoint_run import CheckpointRun, run_checkpoint

RECIPE = Path(__file__).parents[2] / "recipes" / "qwen2.5-7b-lora-1gpu.toml"
TINY = (
    "precision=float32", "target.layer=1", "target.injection_scale=5.0", "teacher.model=fake",
    "corpus.documents=9", "corpus.rl_documents=0", "corpus.positions_per_document=3",
    "corpus.minimum_position=4", "corpus.max_tokens=64", "corpus.held_out_documents=4",
    "lora.rank=4", "lora.alpha=8", "warm_start.batch_size=7", "warm_start.micro_batch=2",
    "warm_start.optimizer.lr=1e-3", "warm_start.optimizer.warmup_steps=1", "rl.steps=2",
    "rl.vectors=3", "rl.group=2", "rl.max_new_tokens=8", "rl.micro_batch=2",
    "rl.optimizer.lr=1e-4", "rl.optimizer.warmup_steps=1",
)  # fmt: skip
STAGES = {"3-verbalizer": "model", "4-reconstructor": "model", "5-rl": "best/av"}
WORK = 120
"""Seconds a child may take."""


def test_shares_are_the_whole_batch(monkeypatch):
    monkeypatch.setattr(distributed, "num_processes", lambda: 3)
    found = []
    for number in range(3):
        monkeypatch.setattr(distributed, "rank", lambda number=number: number)
        found.append(list(distributed.share(7)))
    assert found == [[0, 1], [2, 3], [4, 5, 6]]


def recipe_for(root: Path, *more: str) -> CheckpointRecipe:
    paths = (f"target.checkpoint={root / 'base'}", f"corpus.source={root / 'corpus.jsonl'}")
    found = read_recipe(RECIPE, [*paths, *TINY, *more])
    assert isinstance(found, CheckpointRecipe)
    return found


def join(rank: int, port: int) -> None:
    torch.set_num_threads(1)
    address = f"tcp://localhost:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)


def train_as(rank: int, port: int, root: Path) -> None:
    join(rank, port)
    recipe = recipe_for(root, "devices.count=2", "devices.parallel=ddp")
    run_checkpoint(recipe, root / "two")
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


def in_two_processes(function, *arguments) -> None:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=function, args=(r, port, *arguments)) for r in (0, 1)]
    for each in started:
        each.start()
    for each in started:
        each.join(WORK)
    codes = [each.exitcode for each in started]
    for each in started:
        each.kill()
    assert codes == [0, 0]


def test_gradients_are_summed_and_missing_ones_are_zero(tmp_path):
    in_two_processes(sum_as, tmp_path)
    for rank in (0, 1):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [[[3.0, 6.0], [5.0]], 2.0]


def closed(engine: LocalEngine, row: Row) -> Completion:
    """What a random model never does: end every explanation with its tag."""
    text = engine.reconstructor.fitting(engine.verbalizer.parse(row.ids).text)
    return Completion(text, text, tuple(row.ids), tuple(row.logprobs), closed=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A directory with the same run by one process and by two."""
    root = tmp_path_factory.mktemp("distributed")
    tokenizer = tiny_tokenizer()
    model = make("qwen2", len(tokenizer))
    model.config.max_position_embeddings = 1024
    Target(model, tokenizer, Site(1)).save(root / "base")
    made = [*islice(generate(3, "train"), 9), *islice(generate(3, "heldout"), 4)]
    lines = [json.dumps({"text": each.text}) for each in made]
    (root / "corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalEngine, "completion", closed)
        patch.setattr(CheckpointRun, "publish", lambda self: None)
        run_checkpoint(recipe_for(root), root / "one")
        in_two_processes(train_as, root)
    return root


def steps_of(run: Path, stage: str) -> list[dict[str, float]]:
    """What each step logged, but for the seconds."""
    records = map(json.loads, (run / stage / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in each.items() if k != "seconds"} for each in records]


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_learn_what_one_does(runs, stage):
    one, two = (steps_of(runs / name, stage) for name in ("one", "two"))
    assert len(one) == len(two) > 0
    for expected, found in zip(one, two, strict=True):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
    weights = [
        load_file(runs / name / stage / STAGES[stage] / "adapter_model.safetensors")
        for name in ("one", "two")
    ]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=0, atol=1e-5)


def test_the_steps_compared_had_something_to_learn(runs):
    _, first, second = steps_of(runs / "two", "5-rl")
    assert first["reward_spread"] > 0 and first["av_grad_norm"] > 0 and first["mse"] > 0
    assert second["kl"] > 0
