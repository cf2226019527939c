"""The training machinery: schedules, guards, runs that resume, batches that do not forget a row."""

import json

import pytest
import torch
from torch import nn

from nlakit.config import FrozenModel
from nlakit.errors import CheckpointError, ResumeError
from nlakit.train import rewards
from nlakit.train.learner import Learner, OptimizerConfig
from nlakit.train.muon import orthogonalized
from nlakit.train.run import RunDirectory, generator, train_steps
from nlakit.train.sft import Batches

SETTINGS = OptimizerConfig(lr=0.1, muon_lr=0.05, warmup_steps=2, final_fraction=0.1)


class Settings(FrozenModel):
    seed: int = 0


def small_learner(num_steps=10):
    torch.manual_seed(0)
    net = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(4, 3)]), "head": nn.Linear(3, 2)})
    return net, Learner(dict(net.named_parameters()), SETTINGS, num_steps)


def one_step(net, learner, number):
    x = torch.randn(5, 4, generator=generator(7, number))
    loss = net["head"](net["layers"][0](x).tanh()).square().mean()
    loss.backward()
    return {"loss": loss.item(), "norm": learner.update(number)}


def test_schedule_warms_up_then_falls_to_its_floor():
    _, learner = small_learner(num_steps=12)
    assert [learner.schedule(step) for step in (0, 1, 2)] == [0.5, 1.0, 1.0]
    assert learner.schedule(7) == pytest.approx(0.55)
    assert learner.schedule(12) == pytest.approx(0.1)


def test_only_block_matrices_go_to_muon():
    _, learner = small_learner()
    assert list(learner.muon.buffers) == ["layers.0.weight"]


def test_muon_brings_singular_values_near_one():
    stack = torch.randn(3, 8, 20, generator=generator(1)) * 100
    values = torch.linalg.svdvals(orthogonalized(stack))
    assert values.min() > 0.3
    assert values.max() < 1.3
    torch.testing.assert_close(orthogonalized(stack.mT), orthogonalized(stack).mT)


def test_non_finite_gradient_changes_nothing_and_is_counted():
    net, learner = small_learner()
    before = net["head"].weight.clone()
    (net["head"].weight.sum() * float("nan")).backward()
    learner.update(0)
    assert learner.skipped == 1
    assert torch.equal(net["head"].weight, before)
    assert net["head"].weight.grad is None


def test_interrupted_run_ends_as_the_uninterrupted_one(tmp_path):
    class Killed(Exception):
        pass

    def train(directory, die_at=None):
        net, learner = small_learner()
        run = RunDirectory(directory, Settings())

        def step(number):
            if number == die_at:
                raise Killed
            return one_step(net, learner, number)

        train_steps(run, {"net": learner}, 10, step, checkpoint_every=3, title="test")
        return learner.state(), run.metrics()

    whole, whole_metrics = train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "killed", die_at=8)
    resumed, metrics = train(tmp_path / "killed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert [m["loss"] for m in metrics] == [m["loss"] for m in whole_metrics]


def test_another_config_is_refused(tmp_path):
    RunDirectory(tmp_path, Settings(seed=1))
    with pytest.raises(ResumeError, match=r"config\.toml differs"):
        RunDirectory(tmp_path, Settings(seed=2))
    assert "seed = 1" in (tmp_path / "config.toml").read_text()


def test_broken_checkpoint_is_refused(tmp_path):
    _, learner = small_learner()
    run = RunDirectory(tmp_path, Settings())
    run.save(3, {"net": learner}, {})
    weights = tmp_path / "checkpoints" / "step-3" / "net.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="step-3"):
        run.resume({"net": learner})


def test_half_written_metrics_line_is_dropped(tmp_path):
    run = RunDirectory(tmp_path, Settings())
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 0}) + '\n{"step": 1, "lo')
    run.resume({})
    assert run.metrics() == [{"step": 0}]


def test_batches_use_every_row_once_an_epoch():
    batches = Batches([row % 7 for row in range(64)], batch_size=4, seed=0, place=1)
    rows = [row for step in range(16) for row in batches.rows(step)]
    assert sorted(rows) == list(range(64))
    assert batches.rows(3) == Batches([row % 7 for row in range(64)], 4, 0, 1).rows(3)
    assert batches.rows(0) != batches.rows(16)


def test_rewards_by_hand():
    assert rewards.reconstruction(torch.tensor([[1.0, 0.5]]))[0, 1] == pytest.approx(0.6931472)
    assert rewards.length_cost(torch.tensor([[10, 14]]), 10, 0.5).tolist() == [[0.0, -2.0]]
    closed = torch.tensor([[True, False]])
    assert rewards.with_unclosed(torch.tensor([[3.0, 3.0]]), closed, -2.0).tolist() == [[3.0, -2.0]]
