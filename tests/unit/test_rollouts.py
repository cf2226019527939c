"""Which engine writes the rollouts of RL, and whether it runs the policy that is trained."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import torch
from support.rollouts import tiny_pair, tiny_target, vectors

from nlakit.cli.recipes import read_recipe
from nlakit.engines.base import Completion
from nlakit.engines.local import LocalEngine
from nlakit.engines.vllm import VllmEngine
from nlakit.errors import ConfigError, MissingExtraError
from nlakit.models.adapters import shared_copy
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.verbalizer import Verbalizer
from nlakit.train.config import RlConfig, TrainingSettings
from nlakit.train.learner import Learner, OptimizerConfig
from nlakit.train.model_recipe import ModelRecipe
from nlakit.train.rl import JointRl, check_policy, rl_step
from nlakit.train.rollouts import check_rollouts, policy_engine, vllm_settings

RECIPES = Path(__file__).parents[2] / "recipes"
LORA, WHOLE = RECIPES / "qwen2.5-7b-lora-1gpu.toml", RECIPES / "qwen2.5-0.5b-1gpu.toml"
OPTIMIZER = OptimizerConfig(lr=1e-3, warmup_steps=0)
LORA_BASE = Path("base")


def recipe_for(path: Path, *more: str) -> ModelRecipe:
    found = read_recipe(path, ["rl.rollouts=vllm", *more])
    assert isinstance(found, ModelRecipe)
    return found


class Drifted(LocalEngine):
    """Says of each token that it is `drift` likelier than it is, in log-probability."""

    drift = 0.0

    def verbalize(self, *arguments, **options) -> list[list[Completion]]:
        groups = super().verbalize(*arguments, **options)
        return [
            [
                Completion(
                    each.text,
                    each.raw_text,
                    each.ids,
                    tuple(value + self.drift for value in each.logprobs),
                    each.closed,
                )
                for each in group
            ]
            for group in groups
        ]


SETTINGS = TrainingSettings(seed=3, precision="float32")
RL = RlConfig(
    steps=1, vectors=2, group=2, max_new_tokens=8, micro_batch=3,
    verbalizer=OPTIMIZER, reconstructor=OPTIMIZER,
)  # fmt: skip


@pytest.fixture(scope="module")
def pair() -> tuple[Verbalizer, Reconstructor]:
    return tiny_pair(tiny_target(), "replace")


def joint(pair: tuple[Verbalizer, Reconstructor], drift: float, most_k3: float | None) -> JointRl:
    av, ar = pair
    engine = Drifted(None, av, ar)
    engine.drift = drift
    reference = Verbalizer(shared_copy(av.model), av.tokenizer, av.meta)
    learners = [
        Learner(dict(parameters), OPTIMIZER, 1)
        for parameters in (av.model.named_parameters(), ar.named_parameters())
    ]
    return JointRl(RL, SETTINGS, engine, reference, ar, *learners, most_k3=most_k3)


def test_the_engines_log_probabilities_are_compared_with_the_trainers(pair):
    drift = 0.05
    figures = rl_step(joint(pair, drift, 0.01), vectors(4), 0)
    # k3 is e^d - 1 - d for the trainer's log-probability minus the engine's, d.
    assert figures["rollout_k3"] == pytest.approx(math.expm1(-drift) + drift, rel=1e-2)
    same = rl_step(joint(pair, 0.0, 0.01), vectors(4), 1)
    assert same["rollout_k3"] < 1e-9


def test_a_step_of_another_policy_is_refused_before_the_update(pair):
    before = {name: p.clone() for name, p in pair[0].model.named_parameters()}
    with pytest.raises(ConfigError, match=r"k3 = 0\.0\d+, more than 0\.01"):
        rl_step(joint(pair, 0.2, 0.01), vectors(4), 2)
    assert all(torch.equal(p, before[name]) for name, p in pair[0].model.named_parameters())


def test_without_a_bound_nothing_is_compared(pair):
    assert "rollout_k3" not in rl_step(joint(pair, 0.2, None), vectors(4), 3)
    with pytest.raises(ConfigError):
        check_policy(0.01, math.nan)


def test_recipes_say_who_writes(pair):
    local = read_recipe(LORA)
    assert isinstance(local, ModelRecipe)
    assert (local.rl.rollouts, local.rl.most_k3) == ("local", None)
    check_rollouts(local)
    asked = recipe_for(LORA)
    assert asked.rl.most_k3 == 0.01
    # What was learnt so far does not depend on who wrote: a run goes on with either.
    decided = [each.decided_by("rl", each.plain(100)) for each in (asked, local)]
    assert decided[0] == decided[1]
    engine = LocalEngine(None, *pair)
    with policy_engine(local, LORA_BASE, engine) as found:
        assert found is engine
    with policy_engine(recipe_for(WHOLE), LORA_BASE, engine) as found:
        assert isinstance(found, VllmEngine) and found.verbalizer is engine.verbalizer


def test_vllm_runs_in_the_trainers_precision_and_room():
    found = vllm_settings(recipe_for(LORA, "rl.vllm.memory=0.3"), LORA_BASE)
    assert (found.base, found.dtype, found.memory) == (LORA_BASE, "bfloat16", 0.3)
    assert (found.max_rows, found.max_new_tokens) == (128 * 8, 150)
    whole = vllm_settings(recipe_for(WHOLE, "precision=float32"), LORA_BASE)
    assert (whole.base, whole.dtype) == (None, "float32")


def test_what_would_fail_in_the_last_stage_is_refused_before_the_first(monkeypatch):
    with pytest.raises(ConfigError, match=r"devices\.count = 8"):
        check_rollouts(recipe_for(LORA, "devices.count=8", "devices.parallel=ddp"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"nlakit\[vllm\]"):
        check_rollouts(recipe_for(LORA))
