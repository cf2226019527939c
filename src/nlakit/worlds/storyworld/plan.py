"""What a storyworld recipe will take, by the formulas of `train.plan`."""

from __future__ import annotations

from dataclasses import dataclass

from nlakit.train.model_recipe import ModelShape
from nlakit.train.plan import (
    FULL_TRAINING_BYTES,
    Device,
    Plan,
    Setting,
    check_count,
    forward_flops,
)

from .recipe import StoryworldRecipe


@dataclass(frozen=True)
class WorldText:
    """Tokens of the storyworld's texts under its own tokenizers, counted once (docs/plan.md)."""

    rows_kept: float = 0.886  # of a batch; the rest are of the held-out split
    document: float = 107.4
    row_padded: float = 172.0  # a training row, padded to the longest of its batch
    label: float = 45.5
    label_padded: float = 49.0
    prefix: int = 9
    suffix: int = 14
    ar_prompt: int = 12


WORLD = WorldText()


def plan(recipe: StoryworldRecipe, device: Device, num_devices: int = 1) -> Plan:
    """The plan of a storyworld recipe. Raises `ConfigError` for fewer devices than one."""
    check_count(num_devices)
    config = recipe.target
    shape = ModelShape(
        d_model=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        num_kv_heads=config.num_heads,
        head_dim=config.hidden_size // config.num_heads,
        intermediate_size=config.intermediate_size,
        vocab_size=config.vocab_size,
        tied_embeddings=True,
    )
    setting = Setting(
        shape, recipe.extraction.layer + 1, 3.0, device, num_devices,
        WORLD.prefix, WORLD.suffix, WORLD.ar_prompt,
    )  # fmt: skip
    tokens = config.steps * config.batch_size * WORLD.rows_kept * WORLD.row_padded
    heads = 1 if config.future_words is None else 2
    target = 3 * forward_flops(
        shape, tokens, WORLD.row_padded / 2, shape.num_layers, heads * tokens
    )
    read_tokens = recipe.extraction.documents * WORLD.document
    read = forward_flops(shape, read_tokens, WORLD.document / 2, setting.num_blocks, 0)
    av_rows = recipe.verbalizer.steps * recipe.verbalizer.batch_size
    ar_rows = recipe.reconstructor.steps * recipe.reconstructor.batch_size
    rl = recipe.rl
    stages = (
        setting.stage("target", tokens, target),
        setting.stage("activations", read_tokens, read),
        setting.verbalizer(av_rows, WORLD.label_padded),
        setting.reconstructor(ar_rows, WORLD.label_padded),
        setting.rl(rl.steps, rl.vectors * rl.group, round(WORLD.label)),
    )
    trained = shape.parameters * 2 + shape.d_model**2
    memory = {
        "frozen weights": 3.0 * shape.parameters * 4,
        "trained weights": float(trained * FULL_TRAINING_BYTES),
    }
    return Plan(
        recipe=recipe.name,
        device=device.name,
        num_devices=num_devices,
        parameters=shape.parameters,
        stages=stages,
        memory_bytes=memory,
        device_memory_bytes=device.memory,
        label_dollars=0.0,
    )
