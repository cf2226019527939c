"""A recipe from texts to trained autoencoders; what is done is kept, what was killed goes on.

OUTPUT/activations-LAYER/     shards
OUTPUT/NAME/                  config.toml, metrics.jsonl, checkpoints/ while it runs, done.json
OUTPUT/NAME/sae/              the autoencoder, in SAELens's format
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from nlakit.config import FrozenModel, suggestion
from nlakit.console import notices
from nlakit.core.site import Site
from nlakit.data.extraction import target_sha256
from nlakit.errors import ConfigError
from nlakit.models.target import Target
from nlakit.train.progress import count_progress
from nlakit.train.run import RunDirectory, generator, train_steps

from .architectures import SaeSettings, made
from .batches import ActivationBatches
from .config import residual_hook
from .end_to_end import SpliceSteps
from .extraction import extract_passages
from .recipe import SaeRecipe
from .texts import TextSource
from .trainer import SaeTrainer

SAE_DIRECTORY = "sae"
SAMPLE_ROWS = 20_000
BATCH_SEED, WEIGHT_SEED = 1, 2


class SaeStage(FrozenModel):
    """What decides one autoencoder: a run directory refuses another."""

    seed: int
    target_sha256: str
    layer: int
    activations: str
    """Hash of the set of shards."""
    settings: SaeSettings


def run_recipe(
    recipe: SaeRecipe, target: Target, source: TextSource | None, output: Path, only: str | None
) -> Path:
    """Train every autoencoder of a recipe that is not done; returns the output directory.

    Args:
        source: the recipe's texts; None where it names shards and trains on activations alone.
        only: train this one and stop.

    Raises:
        ConfigError: there is no autoencoder `only`, or one needs texts that are not there.
        ResumeError: `output` holds a run of another recipe.
    """
    if only is not None and only not in recipe.sae:
        raise ConfigError(f"The recipe has no autoencoder {only!r}.{suggestion(only, recipe.sae)}")
    for name, settings in recipe.sae.items():
        if only in (None, name):
            notices().rule(f"{recipe.name}: {name}")
            layer = recipe.target.layer if settings.layer is None else settings.layer
            here = Target(target.model, target.tokenizer, Site(layer))
            _train(recipe, settings, here, source, output, name)
    return output


def _train(
    recipe: SaeRecipe,
    settings: SaeSettings,
    target: Target,
    source: TextSource | None,
    output: Path,
    name: str,
) -> None:
    shards = _shards(recipe, target, source, output)
    batches = ActivationBatches(
        shards,
        settings.batch_size,
        generator(recipe.seed, BATCH_SEED).initial_seed(),
        pairs=made(settings).needs_pairs,
    )
    manifest = batches.reader.manifest
    stage = SaeStage(
        seed=recipe.seed,
        target_sha256=target_sha256(target),
        layer=target.site.layer,
        activations=manifest.config_hash,
        settings=settings,
    )
    run = RunDirectory(output / name, stage)
    if run.done is not None:
        return
    device = target.model.device
    seeds = generator(recipe.seed, WEIGHT_SEED)
    trainer = SaeTrainer(settings, batches.sample(SAMPLE_ROWS), seeds, device)
    step = _steps(recipe, trainer, batches, target, source)
    train_steps(run, {"sae": trainer}, settings.steps, step, settings.checkpoint_every, name)
    trainer.finished(_site(recipe, stage)).save(run.path / SAE_DIRECTORY)
    run.finish({"steps": settings.steps, "skipped": trainer.skipped})


def _shards(recipe: SaeRecipe, target: Target, source: TextSource | None, output: Path) -> Path:
    if recipe.activations.shards is not None:
        return Path(recipe.activations.shards)
    assert source is not None, "a recipe names a corpus or shards"
    directory = output / f"activations-{target.site.layer}"
    documents = recipe.activations.documents
    with count_progress("activations", documents) as progress:
        extract_passages(target, source, directory, num_documents=documents, progress=progress)
    return directory


def _steps(
    recipe: SaeRecipe,
    trainer: SaeTrainer,
    batches: ActivationBatches,
    target: Target,
    source: TextSource | None,
) -> Callable[[int], dict[str, float]]:
    device = target.model.device
    if trainer.settings.objective == "local":
        return lambda number: trainer.step(batches.batch(number).to(device), number)
    if source is None:
        raise ConfigError(
            f"objective {trainer.settings.objective!r} runs the target on texts; the recipe names "
            "shards alone. Name the corpus, too."
        )
    passages = list(islice(source.passages(target, "train"), recipe.activations.documents))
    return SpliceSteps(trainer, target, passages, recipe.seed).step


def _site(recipe: SaeRecipe, stage: SaeStage) -> dict[str, Any]:
    metadata = {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "target_sha256": stage.target_sha256,
        "objective": stage.settings.objective,
        "trained_rows": stage.settings.steps * stage.settings.batch_size,
    }
    if stage.settings.architecture == "temporal":
        metadata["num_high"] = stage.settings.num_high
    hook = residual_hook(stage.layer)
    return {"model": recipe.target.model, "hook_name": hook, "metadata": metadata}
