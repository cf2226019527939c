"""Training steps of a pair of adapters on one base, in the shapes of real models, random weights.

They are the trainers' own calls: packed forwards in micro-batches, float32 masters under bfloat16,
one update. Each comes with the operations that it takes, for its share of the device's products.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from nlakit.core.fidelity import reconstruction_mse
from nlakit.core.scale import resolve_scale
from nlakit.core.site import Site
from nlakit.engines.local import LocalEngine
from nlakit.models.adapters import adapted
from nlakit.models.families import backbone_of, truncated
from nlakit.models.precision import bring_to, compute_dtype
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer
from nlakit.train.config import RlConfig, TrainingSettings
from nlakit.train.learner import Learner, OptimizerConfig
from nlakit.train.memory import keep_freed_memory
from nlakit.train.micro_batches import micro_batches, token_budget
from nlakit.train.rl import JointRl, rl_step

from . import checkpoints
from .flops import adapter_flops, explain_flops, forward_flops, step_flops
from .measure import Done, Task
from .operations import LORA_ALPHA, LORA_RANK, TOKENIZER, config_of
from .specs import PREFIX_TOKENS, SPECS, SUFFIX_TOKENS, Spec

OPTIMIZER = OptimizerConfig(lr=1e-4, warmup_steps=1)
STEPS = 1000
"""Of the schedule; no benchmark gets that far."""


@dataclass(frozen=True)
class Pair:
    """Target, AV and AR: one frozen base, and an adapter for each of the pair."""

    spec: Spec
    target: Target
    verbalizer: Verbalizer
    reconstructor: Reconstructor

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.verbalizer.model.device


def make_pair(name: str, device: str = "cpu", seed: int = 0) -> Pair:
    """A random pair of a spec's shape, in the precision that `auto` trains in."""
    spec, dtype = SPECS[name], compute_dtype("auto", device)
    tokenizer = checkpoints.make_tokenizer(min(spec.vocab_size, TOKENIZER))
    torch.manual_seed(seed)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config_of(spec), dtype=dtype).eval()
        head = nn.Linear(spec.d_model, spec.d_model, bias=False)
        nn.init.eye_(head.weight)
    cut = truncated(backbone_of(model), Site(spec.layer).num_blocks)
    verbalizer = new_verbalizer(model, spec, tokenizer)
    reconstructor = Reconstructor(
        adapted(cut, LORA_RANK, LORA_ALPHA, 1, name),
        head,
        tokenizer,
        checkpoints.make_meta(spec, tokenizer, "ar"),
    )
    bring_to(reconstructor.backbone, "auto")
    return Pair(spec, Target(model, tokenizer, Site(spec.layer)), verbalizer, reconstructor)


def new_verbalizer(model: Any, spec: Spec, tokenizer: Any) -> Verbalizer:
    """A view of a base with an adapter of its own, whose answers never end."""
    view = adapted(model, LORA_RANK, LORA_ALPHA, 0, spec.name)
    bring_to(view, "auto")
    made = Verbalizer(view, tokenizer, checkpoints.make_meta(spec, tokenizer, "av"))
    made.eos_ids = []
    return made


def av_step(pair: Pair, rows: int, new_tokens: int) -> Task:
    """One step of the AV's warm start."""
    verbalizer, spec = pair.verbalizer, pair.spec
    learner = Learner(dict(verbalizer.model.named_parameters()), OPTIMIZER, STEPS)
    vectors, responses = checkpoints.vectors(spec, rows), token_rows(rows, new_tokens)
    own = 1 + SUFFIX_TOKENS + new_tokens

    def run() -> Done:
        budget = token_budget(backbone_of(verbalizer.model), verbalizer.recompute)
        for chunk in micro_batches(range(rows), [own] * rows, None, budget):
            logprobs, mask = verbalizer.logprobs(vectors[chunk], [responses[r] for r in chunk])
            (-(logprobs * mask).sum() / (rows * new_tokens)).backward()
        learner.update(1)
        return Done(1)

    flops = step_flops(
        spec, rows, own, PREFIX_TOKENS, spec.num_layers, rows * new_tokens, LORA_RANK
    )
    return Task(run, run, flops)


def ar_step(pair: Pair, rows: int, tokens: int) -> Task:
    """One step of the AR's warm start, on prompts of `tokens` tokens."""
    reconstructor, spec = pair.reconstructor, pair.spec
    learner = Learner(dict(reconstructor.named_parameters()), OPTIMIZER, STEPS)
    vectors, ids = checkpoints.vectors(spec, rows), token_rows(rows, tokens)
    scale = resolve_scale("sqrt_d_model", spec.d_model)

    def run() -> Done:
        budget = token_budget(reconstructor.backbone, reconstructor.recompute)
        for chunk in micro_batches(range(rows), [tokens] * rows, None, budget):
            rebuilt = reconstructor.forward([ids[row] for row in chunk])
            wanted = vectors[chunk].to(rebuilt.device)
            (reconstruction_mse(wanted, rebuilt, scale).sum() / rows).backward()
        learner.update(1)
        return Done(1)

    flops = step_flops(spec, rows, tokens, 0, Site(spec.layer).num_blocks, 0, LORA_RANK)
    return Task(run, run, flops)


def joint_step(pair: Pair, vectors: int, group: int, new_tokens: int) -> Task:
    """One step of joint RL: rollouts, both updates, the reference policy included.

    Random answers are never closed, so that the AR reads them and learns from none.
    """
    spec, rows = pair.spec, vectors * group
    reference = new_verbalizer(pair.target.model, spec, pair.verbalizer.tokenizer)
    reference.model.requires_grad_(False)
    config = RlConfig(
        steps=STEPS,
        vectors=vectors,
        group=group,
        max_new_tokens=new_tokens,
        verbalizer=OPTIMIZER,
        reconstructor=OPTIMIZER,
    )
    joint = JointRl(
        config,
        TrainingSettings(),
        LocalEngine(None, pair.verbalizer, pair.reconstructor, rows),
        reference,
        pair.reconstructor,
        Learner(dict(pair.verbalizer.model.named_parameters()), OPTIMIZER, STEPS),
        Learner(dict(pair.reconstructor.named_parameters()), OPTIMIZER, STEPS),
    )
    pool = checkpoints.vectors(spec, 4 * vectors)
    figures: dict[str, float] = {}

    def run() -> Done:
        figures.update(rl_step(joint, pool, 1))
        return Done(1, dict(figures))

    return Task(run, run, joint_flops(spec, vectors, group, new_tokens))


def joint_flops(spec: Spec, vectors: int, group: int, new_tokens: int) -> float:
    """Operations of a step of joint RL: rollouts, the reference's forward, the policy's forward and
    backward, and the AR's on answers of as many tokens."""
    rows, own = vectors * group, 1 + SUFFIX_TOKENS + new_tokens
    head = rows * new_tokens
    shape = (spec, rows, own, PREFIX_TOKENS, spec.num_layers, head)
    adapters = (PREFIX_TOKENS + rows * own) * spec.num_layers * adapter_flops(spec, LORA_RANK)
    reference = sum(forward_flops(*shape)) + adapters
    blocks = Site(spec.layer).num_blocks
    ar = step_flops(spec, rows, new_tokens, 0, blocks, 0, LORA_RANK)
    rollouts = explain_flops(spec, rows, new_tokens)
    return rollouts + reference + step_flops(*shape, LORA_RANK) + ar


def token_rows(rows: int, tokens: int) -> list[list[int]]:
    """Random tokens of the benchmarks' tokenizer."""
    made = torch.randint(300, TOKENIZER, (rows, tokens), generator=checkpoints.seeded(7))
    return made.tolist()


def av_side(model: str, rows: int, new_tokens: int) -> Task:
    """`av_step` in a process of its own."""
    keep_freed_memory()
    return av_step(make_pair(model), rows, new_tokens)


STEP_KINDS: dict[str, Callable[..., Task]] = {"av": av_step, "ar": ar_step, "rl": joint_step}
SIDES = {"av_step": av_side}
