"""Where the stages of a storyworld run keep their files, and what they work out alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from nlakit.contract import Extraction, NlaMeta, PromptTemplates, Role, measure_tokens
from nlakit.core.scale import resolve_scale, to_norm
from nlakit.evals.claims import score_claims
from nlakit.models.target import Target
from nlakit.storyworld.document import State
from nlakit.train.config import RlConfig
from nlakit.train.evaluation import CheckClaims, ClaimShares, HeldOut
from nlakit.train.prompts import AR_TEMPLATE, AV_TEMPLATE

from .claims import STORYWORLD
from .documents import states_of
from .extraction import sample_storyworld
from .recipe import StoryworldRecipe
from .tokenizer import MARKER

PLAIN_STAGES = ("target", "activations", "verbalizer", "reconstructor", "rl")
GROUNDED_STAGES = (
    "grounding", "grounded-verbalizer", "grounded-reconstructor", "grounded-rl", "settling",
    "controls",
)  # fmt: skip
STAGES = (*PLAIN_STAGES, *GROUNDED_STAGES)
HELD_OUT_SEED = 5
PERCENTILE = 0.75


@dataclass(frozen=True)
class Workspace:
    """Where the stages of one run keep their files."""

    root: Path

    def stage(self, name: str) -> Path:
        return self.root / f"{STAGES.index(name) + 1}-{name}"

    @property
    def nla(self) -> Path:
        return self.root / "nla"


def mean_vector(vectors_ND: Tensor) -> Tensor:
    """The plain mean of the normalised vectors: what an FVE of zero predicts."""
    return (
        to_norm(vectors_ND.double(), resolve_scale("sqrt_d_model", vectors_ND.shape[1]))
        .mean(0)
        .float()
    )


def injection_scale(vectors_ND: Tensor) -> float:
    """A round number (two digits) near the 75th percentile of activation norms (method.md §1)."""
    return float(f"{vectors_ND.norm(dim=1).quantile(PERCENTILE):.2g}")


def pair_meta(recipe: StoryworldRecipe, target: Target, vectors_ND: Tensor, role: Role) -> NlaMeta:
    return NlaMeta(
        role=role,
        d_model=target.d_model,
        extraction=Extraction(
            base_model=f"nlakit/{recipe.name}",
            layer_index=recipe.extraction.layer,
            injection_scale=injection_scale(vectors_ND[:20_000]),
        ),
        tokens=measure_tokens(target.tokenizer, MARKER, AV_TEMPLATE, AR_TEMPLATE),
        prompt_templates=PromptTemplates(av=AV_TEMPLATE, ar=AR_TEMPLATE),
    )


def held_out_rows(
    recipe: StoryworldRecipe, config: RlConfig, target: Target, mean_D: Tensor
) -> HeldOut:
    """One place in each of the held-out documents that RL's figures are taken on."""
    seed = recipe.seed * 10 + HELD_OUT_SEED
    vectors, rows = sample_storyworld(target, seed, "heldout", config.evaluation_documents)
    return HeldOut(vectors, against(states_of(rows)), mean_D)


def against(states: Sequence[State]) -> CheckClaims:
    """A check of one explanation for each state."""

    def check(explanations: Sequence[str]) -> ClaimShares:
        found = score_claims(explanations, states, STORYWORLD)
        return ClaimShares(found.precision, found.recall)

    return check
