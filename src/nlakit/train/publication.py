"""The directory of a finished pair: weights, card, mean, logs, what it is compared with, report."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from nlakit.card import MEAN_NAME, NlaCard, read_card, write_card
from nlakit.claims.confidence import ClaimConfidence
from nlakit.config import write_resolved
from nlakit.console import notice
from nlakit.core.scale import resolve_scale
from nlakit.data.datasets import training_variance
from nlakit.data.streams import Vectors
from nlakit.errors import InputError
from nlakit.evals.confidence import CALIBRATION_DOCUMENTS, fit_confidence
from nlakit.evals.eval_set import EvalSet
from nlakit.evals.evaluation import evaluate
from nlakit.evals.report import training_curves, write_report
from nlakit.models.fingerprint import target_fingerprint
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.models.tensor_files import write_tensors
from nlakit.models.verbalizer import Verbalizer
from nlakit.pair.pair import Pair
from nlakit.registry import (
    CONTROL_AR,
    PLAIN_RL,
    PLAIN_WARM_START,
    ROWS,
    RUN,
    WARM_START,
    PairPaths,
)

from . import distributed
from .pair_models import mean_vector
from .run import ABSTAINED_NAME, COUNTS_NAME, read_json
from .world import World

PLAIN_WARM_START_ROW, PLAIN_RL_ROW = (f"{ROWS}/{name}" for name in (PLAIN_WARM_START, PLAIN_RL))
REPORT_NAME = "report.json"  # written last
ADAPTERS_NAME = "nla-adapters"
"""Beside the pair of a recipe with `[lora]`."""
LOGS = ("metrics.jsonl", "curves.json", COUNTS_NAME, ABSTAINED_NAME)
"""Files of a stage that go into the pair's directory."""


def publish(world: World) -> None:
    """Assemble the pair's directory and measure the pair, unless that is done."""
    nla = world.space.stage("report")
    is_published = (nla / REPORT_NAME).exists()
    distributed.wait()
    if is_published:
        return
    if distributed.is_first():
        _assemble(world, nla)
    distributed.wait()
    measure(world, world.published_pair(nla), nla)
    if distributed.is_first() and world.models.lora is not None:
        write_adapters(world, nla)
    distributed.wait()


def measure(world: World, pair: Pair, directory: Path) -> None:
    """Calibrate the pair, measure it, and put its figures on its card and beside it.

    All processes measure, and the first writes.
    """
    asked, eval_set = world.recipe.report, world.eval_set
    if eval_set.claims.checker is not None:
        documents = min(CALIBRATION_DOCUMENTS, asked.documents)
        pair = replace(pair, confidence=calibrate(pair, eval_set, documents, directory))
    report = evaluate(
        pair,
        eval_set,
        asked.documents,
        asked.seed,
        probe_rows=asked.probe_rows,
        max_new_tokens=world.max_new_tokens,
    )
    if not distributed.is_first():
        return
    figures = {"fve": report.fve, "floors": report.floors.model_dump()}
    write_card(directory, read_card(directory).model_copy(update=figures))
    write_report(report, directory, training_curves(PairPaths(directory, directory)))


def calibrate(
    pair: Pair, eval_set: EvalSet, documents: int, directory: Path
) -> ClaimConfidence | None:
    """Fit a calibrator and leave it in `directory`.

    None, and nothing, where the claims are all alike, or there are none.
    """
    try:
        found = fit_confidence(pair, eval_set, documents)
    except InputError as error:
        said = f"No confidence for the claims of {pair.name}: {error}"
        notice(said)
        return None
    if distributed.is_first():
        found.save(directory)
    return found


def final_pair(world: World) -> tuple[Path, Path]:
    """AV and AR of the recipe's pair, as the last of its stages left them."""
    recipe, best = world.recipe, final_rl(world) / "best"
    av, ar = best / "av", best / "ar"
    if recipe.has_grounding and recipe.abstention is not None:
        av = world.space.stage("abstention") / "model"
    if recipe.has_grounding and recipe.settling is not None:
        ar = world.space.stage("settling") / "model"
    return av, ar


def final_rl(world: World) -> Path:
    """The stage whose best checkpoint is the recipe's pair."""
    return world.space.stage("grounded-rl" if world.recipe.has_grounding else "rl")


def main_control(world: World) -> str:
    """The control that the recipe's own pair is compared with."""
    return "grounded" if world.recipe.has_grounding else "plain"


def published_pairs(world: World) -> dict[str, tuple[Path, Path]]:
    """AV and AR of the pair (`.`), of its warm start, and of the plain rows to compare it with."""
    recipe, stage = world.recipe, world.space.stage

    def warm_start(prefix: str) -> tuple[Path, Path]:
        av, ar = (stage(prefix + name) / "model" for name in ("verbalizer", "reconstructor"))
        return av, ar

    found = {".": final_pair(world)}
    if recipe.has_rows:
        found[WARM_START] = warm_start("grounded-" if recipe.has_grounding else "")
        if recipe.has_grounding and (recipe.has_plain_pair or world.grounded_start[1]):
            found[PLAIN_WARM_START_ROW] = warm_start("")
        if recipe.has_grounding and recipe.has_plain_pair:
            best = stage("rl") / "best"
            found[PLAIN_RL_ROW] = (best / "av", best / "ar")
    return found


def published_controls(world: World) -> dict[str, Path]:
    """The control AR of the pair (`.`), and that of the plain row."""
    if not world.recipe.has_rows:
        return {}
    directories = {
        "." if name == main_control(world) else PLAIN_RL_ROW: (
            world.space.stage("controls") / name / "model"
        )
        for name in ("plain", "grounded")
    }
    return {row: directory for row, directory in directories.items() if directory.is_dir()}


def _assemble(world: World, nla: Path) -> None:
    """Everything but the report, in bfloat16, under a temporary name until it is whole."""
    temporary = nla.with_name(f"{nla.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    target = Target.load(world.models.basis.directory, world.models.basis.layer, torch.bfloat16)
    target.save(temporary / "target")
    _save_pairs(world, temporary)
    vectors_ND = world.pairs().vectors
    mean_D = mean_vector(vectors_ND)
    write_tensors(temporary / MEAN_NAME, {"mean": mean_D})
    card = _card(world, vectors_ND, mean_D)
    known = target_fingerprint(target)
    write_card(temporary, card.model_copy(update={"target_fingerprint": known}))
    world.furnish(temporary)
    copy_run(world, temporary / RUN)
    shutil.rmtree(nla, ignore_errors=True)
    temporary.rename(nla)


def _save_pairs(world: World, directory: Path) -> None:
    """From the files: the base in memory may be sharded or quantized. Adapters are merged."""
    models = world.models
    base, dtype = models.basis.directory, torch.bfloat16
    for name, (av, ar) in published_pairs(world).items():
        Verbalizer.load(av, models.dtype, base).save(directory / name / "av", dtype)
        Reconstructor.load(ar, models.dtype, base).save(directory / name / "ar", dtype)
    for name, control in published_controls(world).items():
        Reconstructor.load(control, models.dtype, base).save(directory / name / CONTROL_AR, dtype)


def write_adapters(world: World, nla: Path) -> None:
    """The same pair, with what it is compared with, as adapters of a base that is named alone.

    Megabytes in place of gigabytes; `nlakit.load` finds the base by its name in the contract.
    """
    output = nla.with_name(ADAPTERS_NAME)
    temporary = output.with_name(f"{output.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    models, dtype = {"target", "av", "ar", CONTROL_AR, WARM_START, ROWS}, torch.bfloat16
    shutil.copytree(nla, temporary, ignore=lambda path, names: models & set(names))
    load = world.models
    for name, (av, ar) in published_pairs(world).items():
        load.verbalizer(av, frozen=True).save(temporary / name / "av", dtype)
        load.reconstructor(ar, frozen=True).save(temporary / name / "ar", dtype)
    for name, control in published_controls(world).items():
        load.reconstructor(control, frozen=True).save(temporary / name / CONTROL_AR, dtype)
    shutil.rmtree(output, ignore_errors=True)
    temporary.rename(output)


def _card(world: World, vectors_ND: Vectors, mean_D: Tensor) -> NlaCard:
    norm = resolve_scale("sqrt_d_model", vectors_ND.shape[1])
    best = read_json(final_rl(world) / "best" / "best.json")
    return NlaCard(
        name=world.recipe.name,
        description=world.description,
        domain=world.domain,
        layer=world.models.basis.layer,
        d_model=vectors_ND.shape[1],
        variance=training_variance(vectors_ND, mean_D, norm),
        num_training_rows=len(vectors_ND),
        span=world.span,
        claims=world.claims.name,
        provenance={
            **world.provenance(),
            "recipe": world.recipe.name,
            "seed": world.recipe.settings.seed,
            **best,
        },
    )


def copy_run(world: World, directory: Path) -> None:
    """Keep what a reader needs to see how the pair was made: the recipe and every stage's log."""
    directory.mkdir(parents=True)
    write_resolved(world.resolved, directory / "recipe.toml")
    for name in set(world.space.directories) - {"report"}:
        stage = world.space.stage(name)
        for log in sorted(each for kind in LOGS for each in stage.rglob(kind)):
            parts = (name, *log.parent.relative_to(stage).parts)
            is_metrics = log.name == "metrics.jsonl"
            kept = f"{'-'.join(parts)}.jsonl" if is_metrics else log.name
            shutil.copy(log, directory / kept)
