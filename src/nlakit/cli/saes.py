"""What verbs about sparse autoencoders share: finding one, its target, and texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nlakit import sae
from nlakit.config import load_toml, parse_config
from nlakit.errors import InputError
from nlakit.models.hub import locate
from nlakit.models.placement import placement
from nlakit.models.target import Target
from nlakit.registry import BUNDLED, DEFAULT_NAME, bundled_path
from nlakit.sae.autoencoder import SparseAutoencoder
from nlakit.sae.recipe import KIND, SaeRecipe
from nlakit.sae.run import SAE_DIRECTORY, run_recipe
from nlakit.sae.texts import CorpusTexts, TextSource
from nlakit.worlds.storyworld.sae import CORPUS_NAME, StoryworldTexts

from .devices import AUTOMATIC, DeviceOptions

RUNS = Path("runs")


def is_sae_recipe(path: Path, overrides: Sequence[str] = ()) -> bool:
    """Whether a recipe says `kind = "sae"`. Raises `ConfigError` for one that cannot be read."""
    return load_toml(path, overrides).get("kind") == KIND


def train_saes(path: Path, overrides: Sequence[str], output: Path, only: str | None) -> Path:
    """Train the autoencoders of a recipe; returns the directory.

    Raises:
        ConfigError, InputError, CheckpointError, ResumeError: as `run_recipe` and `load_target`.
    """
    recipe = parse_config(SaeRecipe, path, overrides)
    devices = DeviceOptions(dtype=recipe.target.dtype)
    target = load_target(recipe.target.model, recipe.target.layer, devices)
    activations = recipe.activations
    source = None
    if activations.corpus is not None:
        limits = (activations.max_tokens, activations.first_position)
        source = texts_of(activations.corpus, recipe.seed, *limits)
    return run_recipe(recipe, target, source, output, only)


def load_target(model: str, layer: int, devices: DeviceOptions = AUTOMATIC) -> Target:
    """The target of the bundled NLA, or a model by its directory or its name on the hub.

    Raises:
        InputError: there is no such model or layer.
        CheckpointError: its weights cannot be read.
    """
    is_bundled = model in (DEFAULT_NAME, BUNDLED)
    directory = bundled_path() / "target" if is_bundled else locate(model)
    where = placement(devices.device, devices.dtype)
    target = Target.load(directory, layer, where.dtype_of(directory))
    target.model.to(where.device)
    return target


def texts_of(corpus: str, seed: int, max_tokens: int = 256, first_position: int = 1) -> TextSource:
    """The storyworld by its name, or a corpus."""
    if corpus == CORPUS_NAME:
        return StoryworldTexts(seed)
    return CorpusTexts(corpus, max_tokens, first_position)


def load_sae(name: str) -> SparseAutoencoder:
    """An autoencoder by its directory, or by RUN/NAME (or NAME alone) of those trained here.

    Raises:
        InputError: there is none, or several runs have one of this name.
        CheckpointError: its files cannot be read.
    """
    return sae.load(find_sae(name))


def find_sae(name: str) -> Path:
    """Where an autoencoder lies. Raises `InputError` as `load_sae`."""
    path = Path(name)
    if path.exists():
        inside = path / SAE_DIRECTORY
        return inside if inside.is_dir() else path
    trained = sorted(RUNS.glob(f"*/*/{SAE_DIRECTORY}"))
    names = {f"{each.parent.parent.name}/{each.parent.name}": each for each in trained}
    found = [each for full, each in names.items() if name in (full, each.parent.name)]
    if len(found) == 1:
        return found[0]
    told = "several runs have one" if found else "there is none"
    known = ", ".join(names) or "none; `nlakit train recipes/sae-storyworld.toml` makes some"
    raise InputError(
        f"Asked for the autoencoder {name!r}; {told}. Give its directory, or RUN/NAME of those "
        f"trained here: {known}."
    )


def target_of(
    autoencoder: SparseAutoencoder, model: str | None, devices: DeviceOptions = AUTOMATIC
) -> Target:
    """The target whose activations an autoencoder reads: the one given, or the one it names.

    Raises:
        InputError: neither names one, or its site is not a block's output.
    """
    config = autoencoder.config
    named = model or config.model
    if named is None:
        raise InputError("The autoencoder does not name its target. Give one with --target.")
    if config.layer is None:
        raise InputError(
            f"The autoencoder reads {config.hook_name or 'a site that it does not name'}; nlakit "
            "runs those of a block's output, such as blocks.3.hook_resid_post."
        )
    return load_target(named, config.layer, devices)
