"""The directory of a finished storyworld pair: weights, card, probes, logs, calibrator, report."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor

from nlakit.card import MEAN_NAME, NlaCard, read_card, write_card
from nlakit.config import write_resolved
from nlakit.core.scale import resolve_scale, to_norm
from nlakit.errors import InputError
from nlakit.evals import probe_store
from nlakit.evals.confidence import CALIBRATION_DOCUMENTS, fit_confidence
from nlakit.evals.report import training_curves, write_report
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.verbalizer import Verbalizer
from nlakit.pair.load import load_source
from nlakit.pair.source import find_pair
from nlakit.registry import CONTROL_AR, PLAIN_RL, PLAIN_WARM_START, ROWS, WARM_START, PairPaths
from nlakit.train.run import finished, read_json

from .claims import STORYWORLD
from .eval_set import StoryworldSet
from .grounded_stages import CURVES_NAME, grounded_rl_of
from .plain_stages import make_pairs, make_target
from .probes import write_probes
from .recipe import StoryworldRecipe
from .report import evaluate
from .workspace import STAGES, Workspace, mean_vector

PLAIN_WARM_START_ROW, PLAIN_RL_ROW = (f"{ROWS}/{name}" for name in (PLAIN_WARM_START, PLAIN_RL))
REPORT_NAME = "report.json"  # written last


def publish(recipe: StoryworldRecipe, space: Workspace) -> None:
    """Assemble the pair's directory: bf16 weights, what it is compared with, mean and card."""
    temporary = space.root / "nla.new"
    shutil.rmtree(temporary, ignore_errors=True)
    target, pairs = make_target(recipe, space), make_pairs(recipe, space)
    target.save(temporary / "target", torch.bfloat16)
    for name, (av, ar) in pairs_to_publish(recipe, space).items():
        Verbalizer.load(av).save(temporary / name / "av", torch.bfloat16)
        Reconstructor.load(ar).save(temporary / name / "ar", torch.bfloat16)
    if recipe.grounding is not None:
        controls = space.stage("controls")
        for name, control in ((".", "grounded"), (PLAIN_RL_ROW, "plain")):
            directory = temporary / name / CONTROL_AR
            Reconstructor.load(controls / control / "model").save(directory, torch.bfloat16)
    mean_D = mean_vector(pairs.vectors)
    save_file({"mean": mean_D}, temporary / MEAN_NAME)
    write_card(temporary, _card(recipe, space, pairs.vectors, mean_D))
    write_probes(
        temporary,
        min(probe_store.DOCUMENTS, recipe.extraction.documents),
        min(probe_store.TEST_DOCUMENTS, recipe.report.documents),
    )
    copy_run(recipe, space, temporary / "run")
    shutil.rmtree(space.nla, ignore_errors=True)
    temporary.rename(space.nla)


def final_rl(recipe: StoryworldRecipe, space: Workspace) -> Path:
    """The stage whose best checkpoint is the recipe's pair."""
    return space.stage("rl" if recipe.grounding is None else "grounded-rl")


def pairs_to_publish(recipe: StoryworldRecipe, space: Workspace) -> dict[str, tuple[Path, Path]]:
    """AV and AR of the pair (`.`), of its warm start, and of the plain rows to compare it with."""

    def warm_start(prefix: str) -> tuple[Path, Path]:
        av, ar = (space.stage(prefix + name) / "model" for name in ("verbalizer", "reconstructor"))
        return av, ar

    def trained(stage: Path) -> tuple[Path, Path]:
        return stage / "best" / "av", stage / "best" / "ar"

    av, ar = trained(final_rl(recipe, space))
    if recipe.grounding is None:
        return {".": (av, ar), WARM_START: warm_start("")}
    if grounded_rl_of(recipe).settling is not None:
        ar = finished(space.stage("settling")) / "model"
    return {
        ".": (av, ar),
        WARM_START: warm_start("grounded-"),
        PLAIN_WARM_START_ROW: warm_start(""),
        PLAIN_RL_ROW: trained(space.stage("rl")),
    }


def write_pair_report(recipe: StoryworldRecipe, space: Workspace) -> None:
    """Calibrate the published pair, measure it, and put its figures on its card and beside it."""
    calibrate(space.nla, min(CALIBRATION_DOCUMENTS, recipe.report.documents))
    pair = load_source(find_pair(space.nla), comparisons=True)
    report = evaluate(pair, recipe.report.documents, recipe.report.seed)
    card = read_card(space.nla)
    measured = {"fve": report.fve, "floors": report.floors.model_dump()}
    write_card(space.nla, card.model_copy(update=measured))
    write_report(report, space.nla, training_curves(PairPaths(space.nla, space.nla)))


def calibrate(pair: Path, documents: int) -> None:
    """Leave `calibrator.json` beside a pair, unless its claims are all alike or there are none."""
    try:
        fit_confidence(load_source(find_pair(pair)), StoryworldSet(), documents).save(pair)
    except InputError as error:
        Console(stderr=True).print(f"No confidence for the claims of {pair.name}: {error}")


def _card(
    recipe: StoryworldRecipe, space: Workspace, vectors_ND: Tensor, mean_D: Tensor
) -> NlaCard:
    unit_ND = to_norm(vectors_ND, resolve_scale("sqrt_d_model", vectors_ND.shape[1]))
    best = read_json(final_rl(recipe, space) / "best" / "best.json")
    return NlaCard(
        name=recipe.name,
        description="Storyworld NLA: target, verbalizer and reconstructor trained from scratch.",
        layer=recipe.extraction.layer,
        d_model=vectors_ND.shape[1],
        variance=float((unit_ND - mean_D).square().mean()),
        num_training_rows=len(vectors_ND),
        claims=STORYWORLD.name,
        provenance={"recipe": recipe.name, "seed": recipe.seed, **best},
    )


def copy_run(recipe: StoryworldRecipe, space: Workspace, directory: Path) -> None:
    """Keep what a reader needs to see how the pair was made: the recipe and every stage's log."""
    directory.mkdir(parents=True)
    write_resolved(recipe, directory / "recipe.toml")
    for name in STAGES:
        for log in sorted(space.stage(name).rglob("metrics.jsonl")):
            parts = (name, *log.parent.relative_to(space.stage(name)).parts)
            shutil.copy(log, directory / f"{'-'.join(parts)}.jsonl")
    curves = space.stage("grounding") / CURVES_NAME
    if curves.exists():
        shutil.copy(curves, directory / CURVES_NAME)
