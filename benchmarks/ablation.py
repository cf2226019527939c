"""What each term of the grounded reward does: short runs of RL from one start, measured alike.

    python -m benchmarks.ablation RUN --recipe recipes/storyworld.toml
    python -m benchmarks.ablation RUN --recipe RECIPE --only judge --steps 40

RUN is a finished run of RECIPE. Each variant has a directory of its own in RUN/ablation, whose
stages before RL are links to RUN's; a killed run goes on where it stopped. What has been measured
stands in the result file, one row after the other; rows of other conditions are refused, not mixed
in. A row that is there is not measured again: remove the file to start over.

The checkpoint that is measured is the one of highest held-out FVE, whatever became of its claims:
to choose by precision, as the recipe does, would hide what a term does to it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from torch import Tensor

from nlakit.card import NlaCard
from nlakit.config import parse_config, write_text_atomic
from nlakit.engines.local import LocalEngine
from nlakit.errors import InputError, UserError
from nlakit.evals.bootstrap import fve_interval
from nlakit.evals.claims import score_claims
from nlakit.evals.eval_set import EvalRows
from nlakit.evals.probes import ProbeResult, measure_probes
from nlakit.evals.readings import read_rows
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer
from nlakit.pair.pair import Pair
from nlakit.storyworld.rewording import reword
from nlakit.train.pair_models import mean_vector
from nlakit.train.pair_stages import GROUNDED, warm_started
from nlakit.train.stage import Workspace
from nlakit.worlds.storyworld.claims import STORYWORLD
from nlakit.worlds.storyworld.eval_set import StoryworldSet
from nlakit.worlds.storyworld.recipe import StoryworldRecipe
from nlakit.worlds.storyworld.world import Storyworld, train_storyworld_recipe

from .ablation_rows import Ablation, Row, read_ablation
from .results import path_of

STEPS, DOCUMENTS = 60, 1000
RESULTS = path_of("ablation")
START = "grounded warm start"
LINKED = ("target", "activations", "verbalizer", "reconstructor", "grounding",
          "grounded-verbalizer", "grounded-reconstructor", "controls")  # fmt: skip
"""Stages that no variant makes again; the controls only where they are there."""


@dataclass(frozen=True)
class Variant:
    """A reward.

    Attributes:
        name: of its directory.
        terms: what is rewarded, for the table.
        changes: keys of `[grounded_rl]` that differ from the recipe's.
    """

    name: str
    terms: str
    changes: tuple[str, ...] = ()

    @property
    def overrides(self) -> list[str]:
        """As `key=value` pairs of the recipe. FVE alone chooses the checkpoint."""
        return [f"grounded_rl.{change}" for change in ("precision_slack=1.0", *self.changes)]


VARIANTS = (
    Variant("reconstruction", "reconstruction, length", ("judge_weight=0.0", "reword_share=0.0")),
    Variant("judge", "+ judge", ("reword_share=0.0",)),
    Variant("reworded", "+ judge, re-worded for the AR"),
    Variant("no-length", "+ judge, re-worded, without length", ("length_cost=0.0",)),
    Variant("independent", "+ judge, re-worded, independent AR", ("independent_share=0.5",)),
    Variant("writing", "+ judge, re-worded, writing quality", ("writing_cost=0.2",)),
)


@dataclass(frozen=True)
class Held:
    """Held-out positions, and what everything read at them is held against."""

    target: Target
    sample: EvalRows
    probes: dict[str, ProbeResult]
    mean_D: Tensor
    control: Reconstructor | None


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status: 2 for what the person can put right."""
    options = parse(arguments)
    try:
        run(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ablation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="a run with all stages before grounded RL")
    parser.add_argument("overrides", nargs="*", help="key=value pairs that RUN was made with")
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS, help="of RL, in each variant")
    parser.add_argument("--documents", type=int, default=DOCUMENTS, help="held-out, to measure on")
    parser.add_argument("--temperature", type=float, default=0.0, help="of what is measured")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of what was measured")
    parser.add_argument("--only", choices=[each.name for each in VARIANTS], metavar="NAME")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Train and measure what is missing.

    Raises:
        InputError: RUN lacks a stage, or the result file holds rows of other conditions.
    """
    given = [*options.overrides, f"grounded_rl.steps={options.steps}"]
    recipe = parse_config(StoryworldRecipe, options.recipe, given)
    found = Ablation(
        recipe=recipe.name,
        steps=options.steps,
        documents=options.documents,
        seed=recipe.report.seed,
        temperature=options.temperature,
    )
    found = found.joined(read_ablation(options.results))
    wanted = [each for each in VARIANTS if options.only in (None, each.name)]
    due = [each for each in wanted if found.row(each.terms) is None]
    for each in due:  # A typo in the last one should not be found after hours.
        parse_config(StoryworldRecipe, options.recipe, [*given, *each.overrides])
    if found.row(START) is not None and not due:
        return
    world, console = Storyworld(recipe, options.run), Console(stderr=True)
    held = hold(world, options.documents)
    if found.row(START) is None:
        console.rule(START)
        av, ar = warm_started(world, GROUNDED)
        found = keep(options.results, found, measure(held, av, ar, START, (), found))
    for number, variant in enumerate(due, start=1):
        console.rule(f"{number} of {len(due)}: {variant.terms}")
        best = train(options.recipe, [*given, *variant.overrides], world.space, variant.name)
        row = measure(held, best / "av", best / "ar", variant.terms, variant.changes, found)
        found = keep(options.results, found, row)


def train(recipe_path: Path, overrides: list[str], space: Workspace, name: str) -> Path:
    """Run a variant's RL, or what is left of it; returns the directory of its pair."""
    directory = space.root / "ablation" / name
    directory.mkdir(parents=True, exist_ok=True)
    for stage in LINKED:
        name = space.directories[stage].partition("/")[0]
        source, link = (space.root / name).resolve(), directory / name
        if source.is_dir() and not link.is_symlink():
            link.symlink_to(source, target_is_directory=True)
    recipe = parse_config(StoryworldRecipe, recipe_path, overrides)
    return train_storyworld_recipe(recipe, directory, only="grounded-rl") / "best"


def hold(world: Storyworld, documents: int) -> Held:
    """Held-out positions of the report's seed, with probes trained on others.

    Raises:
        InputError: RUN lacks a stage that the variants start from.
    """
    needed, space = LINKED[:-1], world.space
    missing = [space.stage(name).name for name in needed if not space.stage(name).is_dir()]
    if missing:
        raise InputError(
            f"{space.root} lacks {', '.join(missing)}. Run these stages first: nlakit train RECIPE "
            "--output RUN --only grounded-reconstructor."
        )
    target, seed = world.models.target(), world.recipe.report.seed
    sample = StoryworldSet().sample(target, "heldout", seed, documents)
    control = space.stage("controls") / "grounded" / "model"
    return Held(
        target,
        sample,
        measure_probes(target, StoryworldSet(), sample),
        mean_vector(world.pairs().vectors),
        Reconstructor.load(control) if control.is_dir() else None,
    )


def measure(
    held: Held, av: Path, ar: Path, terms: str, changes: tuple[str, ...], of: Ablation
) -> Row:
    """The figures of a pair, defined as in the storyworld's report."""
    engine = LocalEngine(held.target, Verbalizer.load(av), Reconstructor.load(ar))
    # FVE here is of the rows' own variance, so the card's is not asked.
    card = NlaCard(
        name=terms,
        layer=held.target.site.layer,
        d_model=held.target.d_model,
        variance=1.0,
        num_training_rows=1,
    )
    pair = Pair(engine, held.target, card, held.mean_D)
    vectors_ND, documents = held.sample.vectors_ND, held.sample.rows.column("doc_id").to_pylist()
    reading = read_rows(pair, engine, vectors_ND, of.temperature, of.seed)
    claims = score_claims(reading.texts, held.sample.states or (), STORYWORLD, held.probes)
    other_words = [reword(text, row) for row, text in enumerate(reading.texts)]
    kept = pair.fve_of(vectors_ND, pair.rebuild(other_words)).fve
    by_control = None
    if held.control is not None:
        rebuilt_ND = held.control.reconstruct(reading.texts).cpu()
        by_control = pair.fve_of(vectors_ND, rebuilt_ND).fve
    fve = reading.result.fve
    return Row(
        terms=terms,
        changes=changes,
        fve=fve,
        fve_interval=fve_interval(reading.errors.mse_N, reading.errors.variance_N, documents),
        fve_control_ar=by_control,
        precision=claims.precision,
        recall=claims.recall,
        readable_recall=claims.readable_recall,
        abstained=claims.abstained,
        tokens=sum(len(each.ids) for each in reading.completions) / len(documents),
        paraphrase_kept=kept / fve if fve > 0 else None,
    )


def keep(path: Path, found: Ablation, row: Row) -> Ablation:
    """The ablation with one more row, on disk too."""
    more = found.model_copy(update={"rows": (*found.rows, row)})
    write_text_atomic(path, more.model_dump_json(indent=2) + "\n")
    return more


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
