"""Which layer of a model to read: the same recipe at several, as far as its labels tell.

At each layer the activations are read, labelled and both warm starts trained, each layer in a run
directory of its own. Held against each other are the AR's held-out FVE from label text, the AV's
gap between shuffled and real vectors, and what probes read of the labels' facts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nlakit.config import FrozenModel, write_text_atomic
from nlakit.data.labels import SET_NAME, LabelSet
from nlakit.data.shards import read_model
from nlakit.errors import ConfigError
from nlakit.evals.probes import measure_probes
from nlakit.teachers.named import CACHE_NAME

from .corpus_world import WARM_START, CorpusWorld, train_model_recipe
from .model_recipe import JUDGED, ModelRecipe

RESULT_NAME = "sweep.json"
WARM_STARTS = ("verbalizer", "reconstructor")


class SweptLayer(FrozenModel):
    """What was measured at one layer.

    Attributes:
        fve: of held-out labels, read by the warm-started AR.
        gap: nats a token by which shuffled vectors raise the AV's loss.
        probes: accuracy of an MLP on held-out documents, by kind of fact.
        chance: the same of the commonest value.
    """

    layer: int
    fve: float
    gap: float
    probes: dict[str, float] = {}
    chance: dict[str, float] = {}


class Sweep(FrozenModel):
    """What `nlakit sweep` writes.

    Attributes:
        teacher: who wrote the labels; "" in files from before it was kept.
        labels: rows that had one, at each layer.
    """

    recipe: str
    teacher: str = ""
    labels: int | None = None
    layers: tuple[SweptLayer, ...]


UNSWEPT = ("grounding", "abstention", "settling", "comparison")
"""Sections of what follows the warm starts."""


def up_to_warm_starts(raw: dict[str, Any]) -> None:
    """Take from a recipe what a sweep does not run, lest the recipe be refused for it.

    A teacher whose claims nobody can check has warm starts like any other.
    """
    for section in UNSWEPT:
        raw.pop(section, None)
    for key in JUDGED:
        raw.get("rl", {}).pop(key, None)


def sweep(
    recipe: ModelRecipe, layers: Sequence[int], output: Path, probe_rows: int, documents: int
) -> Sweep:
    """Measure a recipe at each layer; what is done is kept, as in any run.

    Args:
        recipe: read with `up_to_warm_starts`.
        probe_rows: rows of the training split for probes; 0: none are trained.
        documents: held-out ones that probes are tested on.

    Raises:
        ConfigError: no layer, or one that the model does not have.
        UserError: as `train_model_recipe`.
    """
    depth = recipe.target.shape.num_layers
    if not layers or not all(0 <= layer < depth for layer in layers):
        asked = ", ".join(map(str, layers)) or "none"
        raise ConfigError(f"--layers {asked}: expected some of 0 to {depth - 1}.")
    # A world at a time: each has a model in memory.
    found = [_measured(_world(recipe, layer, output), probe_rows, documents) for layer in layers]
    labels = _world(recipe, layers[0], output).labels(WARM_START)
    made = read_model(LabelSet, labels / SET_NAME)
    result = Sweep(
        recipe=recipe.name,
        teacher=made.teacher,
        labels=made.num_rows - made.num_refused,
        layers=tuple(found),
    )
    write_text_atomic(output / RESULT_NAME, result.model_dump_json(indent=2) + "\n")
    return result


def _world(recipe: ModelRecipe, layer: int, output: Path) -> CorpusWorld:
    """The recipe at a layer; chat models' answers are shared by all layers."""
    cache = recipe.teacher.cache or output / CACHE_NAME
    changed = {
        "target": recipe.target.model_copy(update={"layer": layer}),
        "teacher": recipe.teacher.model_copy(update={"cache": cache}),
    }
    return CorpusWorld(recipe.model_copy(update=changed), output / f"layer-{layer}")


def _measured(world: CorpusWorld, probe_rows: int, documents: int) -> SweptLayer:
    recipe = world.recipe
    for stage in WARM_STARTS:
        train_model_recipe(recipe, world.space.root, stage)
    last = {stage: _last_figures(world.space.stage(stage)) for stage in WARM_STARTS}
    probes = {}
    if probe_rows:
        target, held_out = world.models.target(), world.eval_set
        rows = held_out.sample(target, "heldout", recipe.report.seed, documents)
        probes = measure_probes(target, held_out, rows, probe_rows)
    return SweptLayer(
        layer=recipe.target.layer,
        fve=last["reconstructor"]["held_out_fve"],
        gap=last["verbalizer"]["gap"],
        probes={kind: found.score.mlp for kind, found in probes.items()},
        chance={kind: found.score.chance for kind, found in probes.items()},
    )


def _last_figures(directory: Path) -> dict[str, float]:
    lines = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return json.loads(lines[-1])
