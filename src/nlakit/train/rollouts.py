"""Who writes the explanations of joint RL: the local engine, or vLLM over the same pair."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from nlakit.engines.base import PolicyEngine
from nlakit.engines.local import LocalEngine
from nlakit.engines.vllm import VllmEngine, VllmSettings
from nlakit.errors import ConfigError, MissingExtraError

from .model_recipe import ModelRecipe


def check_rollouts(recipe: ModelRecipe) -> None:
    """Refuse before the first stage what would fail in the last.

    Raises:
        ConfigError: rollouts by vLLM with more than one device.
        MissingExtraError: vLLM is not installed.
    """
    if recipe.rl.rollouts == "local":
        return
    if recipe.devices.count > 1:
        raise ConfigError(
            f"{recipe.name}: rl.rollouts = 'vllm' with devices.count = {recipe.devices.count}: one "
            "process trains beside one vLLM. Give rl.rollouts=local, where each process writes its "
            "share, or devices.count=1 devices.parallel=none."
        )
    if importlib.util.find_spec("vllm") is None:
        raise MissingExtraError("vllm", "vllm")


@contextmanager
def policy_engine(recipe: ModelRecipe, base: Path, local: LocalEngine) -> Iterator[PolicyEngine]:
    """The engine that the recipe asks for, over the pair of `local`, while the block is open.

    Args:
        base: directory of the target's checkpoint, to which adapters belong.
    """
    if recipe.rl.rollouts == "local":
        yield local
        return
    settings = vllm_settings(recipe, base)
    made = VllmEngine(local.target, local.verbalizer, local.reconstructor, settings)
    with closing(made) as engine:
        yield engine


def vllm_settings(recipe: ModelRecipe, base: Path) -> VllmSettings:
    """How the recipe starts vLLM: in the precision of the trainer's matrix products."""
    return VllmSettings(
        base=None if recipe.lora is None else base,
        dtype="float32" if recipe.precision == "float32" else "bfloat16",
        max_new_tokens=recipe.rl.max_new_tokens,
        max_rows=recipe.rl.vectors * recipe.rl.group,
        memory=recipe.rl.vllm.memory,
        eager=recipe.rl.vllm.eager,
    )
