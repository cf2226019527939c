"""The stages of a recipe, of whichever world: one list.

    target, activations, labels    the world's own (`World.first_stages`)
    verbalizer, reconstructor, rl  the plain pair: warm start on the labels, joint RL
    grounding                      labels without the claims that no activation carries
    grounded-verbalizer, grounded-reconstructor, grounded-rl, settling
                                   the grounded pair: the same, with a judge in RL's reward; then
                                   the AR continues training alone on what the AV writes
    controls                       ARs trained on labels alone, as long as the pairs' own
    report                         the directory of the pair, and its figures

Without grounding the plain pair is the one that is published; with it, the plain one is a row
beside the grounded one where the recipe asks for it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from nlakit.claims.grounding import ClaimJudge
from nlakit.console import notices
from nlakit.core.site import Site
from nlakit.data.datasets import PairSet
from nlakit.engines.base import Sampling
from nlakit.engines.local import LocalEngine
from nlakit.models.families import backbone_of, truncated
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.verbalizer import Verbalizer

from . import distributed
from .abstention import abstain
from .config import GroundedRlConfig, PairTraining, RlConfig, SettlingConfig, SftConfig
from .pair_models import mean_vector
from .progress import Example
from .publication import REPORT_NAME, final_pair, publish
from .rl import TruthTerms, train_rl
from .run import RunDirectory
from .sft import train_reconstructor, train_verbalizer
from .stage import Stage
from .world import World
from .writing import WriteRows, written_lines

DIRECTORIES = {
    "verbalizer": "3-verbalizer",
    "reconstructor": "4-reconstructor",
    "rl": "5-rl",
    "grounding": "6-grounding",
    "grounded-verbalizer": "7-grounded-verbalizer",
    "grounded-reconstructor": "8-grounded-reconstructor",
    "grounded-rl": "9-grounded-rl",
    "abstention": "10-abstention",
    "settling": "11-settling",
    "controls": "12-controls",
    "report": "nla",
}
"""Below a run's directory; those of a world's own stages are numbered before these."""
GROUNDED = "grounded-"
EXAMPLE_TOKENS = 120
CONTROL_RUNS = {"plain": "rl", "grounded": "grounded-rl"}


def recipe_stages(world: World) -> list[Stage]:
    """Every stage of a world's recipe, in order; the last one publishes the pair."""
    recipe, first = world.recipe, list(world.first_stages())
    stages = [*first, *_pair_stages(world, "", ("labels",))]
    if recipe.has_grounding:
        stages.append(world.grounding_stage())
        # A pair that goes on from the plain one's warm start needs both of it.
        start = () if world.grounded_start[1] is None else ("verbalizer", "reconstructor")
        stages += _pair_stages(world, GROUNDED, ("labels", "grounding", *start))
        inputs = ("grounded-rl",)
        if recipe.abstention is not None:
            outputs = ("model", "done.json")
            stages.append(_stage(world, "abstention", inputs, outputs, abstain_after_rl))
            inputs = (*inputs, "abstention")
        if recipe.settling is not None:
            stages.append(_stage(world, "settling", inputs, ("done.json",), settle))
    if recipe.has_controls:
        pairs = [name for name, rl in CONTROL_RUNS.items() if rl in published_runs(world)]
        done = tuple(f"{name}/done.json" for name in pairs)
        labels = ("labels", *(["grounding"] if "grounded" in pairs else []))
        stages.append(_stage(world, "controls", labels, done, train_controls))
    published = [*published_runs(world), "abstention", "settling", "controls"]
    there = {stage.name for stage in stages}
    inputs = tuple(name for name in published if name in there)
    return [*stages, _stage(world, "report", inputs, (REPORT_NAME,), publish)]


def published_runs(world: World) -> list[str]:
    """The stages of joint RL whose pairs are published, the recipe's own last."""
    recipe = world.recipe
    plain = ["rl"] if recipe.has_plain_pair else []
    return [*plain, "grounded-rl"] if recipe.has_grounding else ["rl"]


def _pair_stages(world: World, prefix: str, labels: tuple[str, ...]) -> list[Stage]:
    warm_start = (f"{prefix}verbalizer", f"{prefix}reconstructor")
    return [
        _stage(
            world, warm_start[0], labels, ("model", "done.json"),
            partial(warm_start_verbalizer, prefix=prefix),
        ),
        _stage(
            world, warm_start[1], labels, ("model", "done.json"),
            partial(warm_start_reconstructor, prefix=prefix),
        ),
        _stage(
            world, f"{prefix}rl", (*labels, *warm_start), ("best", "done.json"),
            partial(joint_rl, prefix=prefix),
        ),
    ]  # fmt: skip


def _stage(
    world: World,
    name: str,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    run: Callable[[World], None],
) -> Stage:
    directory = world.space.stage(name)
    return Stage(name, inputs, tuple(directory / each for each in outputs), partial(run, world))


def labelled(world: World, prefix: str) -> tuple[PairSet, PairTraining]:
    """What a pair's warm start is trained on, and how."""
    if prefix == GROUNDED:
        pairs = world.grounded_pairs()
        return pairs, world.recipe.grounded(len(pairs))
    pairs = world.pairs()
    return pairs, world.recipe.plain(len(pairs))


def run_directory(
    world: World, stage: str, training: PairTraining, trained: SftConfig | None = None
) -> RunDirectory:
    """Where a stage trains. Raises `ResumeError` where it holds a run of other settings."""
    decided = world.recipe.decided_by(stage, training, trained)
    return RunDirectory(world.space.stage(stage), decided)


# -- warm start ------------------------------------------------------------------------------------
def warm_start_verbalizer(world: World, prefix: str) -> None:
    """Train an AV to write the labels."""
    pairs, training = labelled(world, prefix)
    run = run_directory(world, f"{prefix}verbalizer", training)
    if run.done is None:
        start = world.grounded_start[0] if prefix == GROUNDED else None
        if start is None:
            meta = world.models.new_meta("av", world.tokens(), world.pairs().vectors)
            verbalizer = world.models.new_verbalizer(meta)
        else:
            verbalizer = world.models.verbalizer(start)
        train_verbalizer(
            verbalizer,
            pairs,
            training.verbalizer,
            world.recipe.settings,
            run,
            world.claims.find,
            example_of(verbalizer, pairs.vectors[-1:]),
        )


def example_of(verbalizer: Verbalizer, vectors_1D: Tensor) -> Example:
    """Writes the explanation of a vector as the verbalizer's weights are when it is asked."""
    width = verbalizer.meta.d_model
    site = Site(verbalizer.meta.extraction.layer_index)
    # An engine wants a reconstructor, of whose weights none is used to write.
    head = nn.Linear(width, width, bias=False, device="meta")
    cut = truncated(backbone_of(verbalizer.model), site.num_blocks)
    idle = Reconstructor(cut, head, verbalizer.tokenizer, verbalizer.meta)

    def write() -> str:
        engine = LocalEngine(None, verbalizer, idle)
        sampling = Sampling(max_new_tokens=EXAMPLE_TOKENS)
        return engine.verbalize(vectors_1D, sampling)[0][0].text

    return write


def warm_start_reconstructor(world: World, prefix: str) -> None:
    """Train an AR to rebuild activations from the labels."""
    pairs, training = labelled(world, prefix)
    run = run_directory(world, f"{prefix}reconstructor", training)
    start = world.grounded_start[1] if prefix == GROUNDED else None
    _train_on_labels(world, pairs, training.reconstructor, run, start)


def _train_on_labels(
    world: World, pairs: PairSet, config: SftConfig, run: RunDirectory, start: Path | None
) -> None:
    """Train an AR on labels alone: one that a stage left, or a new one."""
    if run.done is None:
        vectors_ND, models = world.pairs().vectors, world.models
        if start is None:
            reconstructor = models.new_reconstructor(
                models.new_meta("ar", world.tokens(), vectors_ND)
            )
        else:
            reconstructor = models.reconstructor(start)
        mean_D = mean_vector(vectors_ND)
        train_reconstructor(reconstructor, pairs, mean_D, config, world.recipe.settings, run)


# -- RL --------------------------------------------------------------------------------------------
def joint_rl(world: World, prefix: str) -> None:
    """Train AV and AR on from the warm start; the same adapters, since fresh ones would lose it."""
    _, training = labelled(world, prefix)
    config, models = training.rl, world.models
    run = run_directory(world, f"{prefix}rl", training)
    if run.done is not None:
        return
    av, ar = warm_started(world, prefix)
    engine = models.engine(av, ar, config.vectors * config.group)
    with world.policy_engine(engine) as policy:
        train_rl(
            policy,
            models.verbalizer(av, frozen=True),
            models.reconstructor(ar, frozen=True),
            world.rl_rows(grounded=prefix == GROUNDED).vectors_ND,
            world.held_out(config, mean_vector(world.pairs().vectors)),
            config,
            world.recipe.settings,
            run,
            truth_terms(world, config),
            most_k3=world.most_k3,
        )


def warm_started(world: World, prefix: str) -> tuple[Path, Path]:
    """AV and AR of a pair before RL."""
    names = (f"{prefix}verbalizer", f"{prefix}reconstructor")
    av, ar = (world.space.stage(name) / "model" for name in names)
    return av, ar


def rl_best(world: World, prefix: str) -> Path:
    """The checkpoint of joint RL that a pair goes on with: `av/` and `ar/`."""
    return world.space.stage(f"{prefix}rl") / "best"


def truth_terms(world: World, config: RlConfig) -> TruthTerms | None:
    """The judge that stays on in the RL of a grounded pair; None where claims earn nothing."""
    if not isinstance(config, GroundedRlConfig):
        return None
    verbalizer = world.models.verbalizer(world.judge, frozen=True)
    precision = world.recipe.settings.precision
    judge = ClaimJudge(verbalizer, world.claims, precision, config.micro_batch)
    return TruthTerms(config, judge, world.models.target(), world.claims.reword)


def abstain_after_rl(world: World) -> None:
    """Train the AV on what is left of its own explanations without what it was unsure of."""
    _, training = labelled(world, GROUNDED)
    run, best = run_directory(world, "abstention", training), rl_best(world, GROUNDED)
    abstain(world, training.rl, run, (best / "av", best / "ar"))


def settle(world: World) -> None:
    """Train the AR on alone, on explanations of the AV as its last stage left it.

    RL pays for a rollout, a judgement and two policies with each of its steps; the AR, which has
    the most left to learn, needs the rollout alone.
    """
    _, training = labelled(world, GROUNDED)
    settling = world.recipe.settling
    assert settling is not None, "the stage of a recipe without one is never made"
    run = run_directory(world, "settling", training, settling)
    if run.done is not None:
        return
    found = world.settling_rows()
    number = min(settling.vectors, len(found.vectors_ND))
    if number < settling.vectors:
        notices(shown=distributed.is_first()).print(
            f"settling: its documents have {number} activations, where {settling.vectors} are "
            "asked for; it goes on with those.",
            markup=False,
        )
    chosen = random.Random(world.recipe.settings.seed).sample(range(len(found.vectors_ND)), number)
    # In order: the last ones are held out, and are to share no document with the others.
    rows = sorted(chosen)
    vectors_ND = found.vectors_ND[rows]
    texts = _explanations_to_settle_on(world, training.rl, settling, vectors_ND)
    lessons = PairSet(vectors_ND, texts, found.rows.take(rows))
    reconstructor = world.models.reconstructor(rl_best(world, GROUNDED) / "ar")
    mean_D = mean_vector(world.pairs().vectors)
    train_reconstructor(reconstructor, lessons, mean_D, settling, world.recipe.settings, run)


def _explanations_to_settle_on(
    world: World, config: RlConfig, settling: SettlingConfig, vectors_ND: Tensor
) -> list[str]:
    """The AV's, a share of them greedy and a share paraphrased as in RL."""
    seed, rng = world.recipe.settings.seed, random.Random(world.recipe.settings.seed)
    is_greedy = [rng.random() < settling.greedy_share for _ in vectors_ND]

    def writer() -> WriteRows:
        pair = (final_pair(world)[0], rl_best(world, GROUNDED) / "ar")
        engine = world.models.engine(*pair, config.vectors * config.group, frozen=True)

        def texts_of(rows: range) -> list[str]:
            own = distributed.share(len(rows))
            mine = list(rows[own.start : own.stop])
            found: dict[int, str] = {}
            for row_set, temperature in (
                ([row for row in mine if is_greedy[row]], 0.0),
                ([row for row in mine if not is_greedy[row]], config.temperature),
            ):
                # Each part has a seed of its own; within it a row is the share's.
                sampling = Sampling(
                    temperature=temperature,
                    max_new_tokens=config.max_new_tokens,
                    seed=seed + rows.start,
                )
                if row_set:
                    groups = engine.verbalize(vectors_ND[row_set], sampling, first=own.start)
                    found |= {
                        row: group[0].text for row, group in zip(row_set, groups, strict=True)
                    }
            return distributed.gathered([json.dumps(found[row]) for row in mine])

        return texts_of

    directory = world.space.stage("settling")
    lines = written_lines(directory, len(vectors_ND), "explanations to settle on", writer)
    return _reworded(world, config, [json.loads(line) for line in lines], seed)


def _reworded(world: World, config: RlConfig, texts: list[str], seed: int) -> list[str]:
    reword = world.claims.reword
    share = config.reword_share if isinstance(config, GroundedRlConfig) else 0.0
    if reword is None:
        return texts
    rng = random.Random(seed)
    chosen = [rng.random() < share for _ in texts]
    return [
        reword(text, row) if other else text
        for row, (text, other) in enumerate(zip(texts, chosen, strict=True))
    ]


# -- controls --------------------------------------------------------------------------------------
def train_controls(world: World) -> None:
    """Train ARs on labels alone, for as many updates as those that went through RL with an AV.

    What they make of an AV's explanations says how much of a rise in FVE is the AR's own learning.
    """
    for name, stage in CONTROL_RUNS.items():
        if stage in published_runs(world):
            _train_control(world, name, stage)


def _train_control(world: World, name: str, rl_stage: str) -> None:
    pairs, training = labelled(world, GROUNDED if name == "grounded" else "")
    rl, settling = training.rl, world.recipe.settling
    steps = training.reconstructor.steps + rl.steps * min(rl.reconstructor_updates, rl.group)
    if settling is not None and name == "grounded":
        steps += settling.steps
    longer = training.reconstructor.model_copy(update={"steps": steps, "batch_size": rl.vectors})
    decided = world.recipe.decided_by(f"control-{name}", training, longer)
    run = RunDirectory(world.space.stage("controls") / name, decided)
    start = world.grounded_start[1] if name == "grounded" else None
    _train_on_labels(world, pairs, longer, run, start)
