"""The correctness gate: nothing is timed before these agree.

Greedy answers are those of Hugging Face `generate`; the first sampled token follows the softmax;
the AR gives the vectors of a plain forward; and the training forward has the gradients of the plain
one.
"""

from __future__ import annotations

from typing import Any

import torch
from scipy.stats import chi2
from torch import Tensor

from nlakit.engines.base import Sampling
from nlakit.engines.local import LocalEngine
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.verbalizer import Verbalizer

from . import checkpoints
from .hf import generate, prompt_embeddings
from .measure import Done, Task
from .naive import full_logprobs
from .ours import load_engine, training_rows
from .specs import SPECS

TIE = 1e-4
"""Two logits closer than this may change places by rounding: the order of a sum decides."""
NUM_BINS, QUANTILE = 32, 0.999
MAX_GRADIENT_ERROR = 1e-5
MIN_COSINE = 1 - 1e-6


def check(greedy: list[dict[str, Any]], draws: int) -> Task:
    """All checks: `greedy` names models, vectors and tokens of the first one; the rest is on S."""

    def run() -> Done:
        facts: dict[str, Any] = {"greedy": [on_model(**each) for each in greedy]}
        engine = load_engine("S", max_rows=256)
        facts["first_token"] = first_token(engine, draws)
        facts["reconstructor"] = compare_vectors(engine.reconstructor)
        facts["gradients"] = compare_gradients("S", rows=4)
        parts = [*facts["greedy"], *(facts[k] for k in facts if k != "greedy")]
        facts["equal"] = all(part["holds"] for part in parts)
        return Done(len(parts), facts)

    return Task(run)


def on_model(model: str, vectors: int, tokens: int) -> dict[str, Any]:
    """`compare_greedy` on random vectors of a model on disk."""
    given = checkpoints.vectors(SPECS[model], vectors)
    return {"model": model, **compare_greedy(load_engine(model), given, tokens)}


def compare_greedy(engine: LocalEngine, given: Tensor, tokens: int) -> dict[str, Any]:
    """Rows whose greedy ids are Hugging Face's, for raw vectors N x D.

    Where a row differs, its first difference must be between logits that tie (`TIE`).
    """
    expected = generate(engine.verbalizer, given, tokens, sampled=False).tolist()
    groups = engine.verbalize(given, Sampling(max_new_tokens=tokens))
    pairs = [(list(group[0].ids), row) for group, row in zip(groups, expected, strict=True)]
    differing = [row for row, (found, wanted) in enumerate(pairs) if found != wanted]
    ties = sum(is_tie(engine.verbalizer, given[row], *pairs[row]) for row in differing)
    return {
        "vectors": len(given),
        "tokens": tokens,
        "distinct": len({tuple(row) for row in expected}),
        "equal_rows": len(given) - len(differing),
        "tied_rows": ties,
        "holds": ties == len(differing),
    }


@torch.no_grad()
def is_tie(verbalizer: Verbalizer, vector_D: Tensor, found: list[int], wanted: list[int]) -> bool:
    """Whether two answers part where their two tokens are equally likely."""
    if len(found) != len(wanted):
        return False
    fork = next(t for t, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b)
    logits_V = next_logits(verbalizer, vector_D, wanted[:fork])
    return bool((logits_V[found[fork]] - logits_V[wanted[fork]]).abs() < TIE)


@torch.no_grad()
def next_logits(verbalizer: Verbalizer, vector_D: Tensor, written: list[int]) -> Tensor:
    """What comes after the prompt and these tokens, by a plain forward: V."""
    prompt_1PD = prompt_embeddings(verbalizer, vector_D[None])
    written_1TD = verbalizer.model.get_input_embeddings()(
        torch.tensor([written], dtype=torch.long, device=prompt_1PD.device)
    )
    whole = torch.cat([prompt_1PD, written_1TD], dim=1)
    return verbalizer.model(inputs_embeds=whole, use_cache=False).logits[0, -1].float()


def first_token(engine: LocalEngine, draws: int) -> dict[str, Any]:
    """A chi-squared test of the first token's distribution, in bins of about equal probability."""
    vector = checkpoints.vectors(SPECS["S"], 1)
    sampling = Sampling(draws, temperature=1.0, max_new_tokens=1)
    drawn = torch.tensor([each.ids[0] for each in engine.verbalize(vector, sampling)[0]])
    probability_V = next_logits(engine.verbalizer, vector[0], []).double().softmax(0).cpu()
    order = probability_V.argsort()
    edges = probability_V[order].cumsum(0)
    bin_V = torch.empty_like(order)
    bin_V[order] = (edges * NUM_BINS).long().clamp_max(NUM_BINS - 1)
    expected = torch.zeros(NUM_BINS).double().index_add(0, bin_V, probability_V) * draws
    counted = torch.bincount(bin_V[drawn], minlength=NUM_BINS)
    statistic = float(((counted - expected).square() / expected).sum())
    limit = float(chi2.ppf(QUANTILE, NUM_BINS - 1))
    return {"draws": draws, "chi2": statistic, "limit": limit, "holds": statistic < limit}


@torch.no_grad()
def compare_vectors(reconstructor: Reconstructor) -> dict[str, Any]:
    """Cosine of the AR's vectors, batched, to those of the plain forward of each text alone."""
    texts = [("The boat came home late. " * size).strip() for size in range(1, 9)]
    found_ND = reconstructor.reconstruct(texts)
    plain = []
    for text in texts:
        ids = torch.tensor([reconstructor.encode(text)], device=reconstructor.device)
        last_D = reconstructor.backbone(input_ids=ids).last_hidden_state[0, -1]
        plain.append(reconstructor.head.weight @ last_D.float())
    cosine = float(torch.cosine_similarity(found_ND, torch.stack(plain)).min())
    return {"texts": len(texts), "min_cosine": cosine, "holds": cosine > MIN_COSINE}


def compare_gradients(model: str, rows: int) -> dict[str, Any]:
    """Relative error of the gradient of shared-prefix log-probabilities to the plain form's."""
    verbalizer = checkpoints.load_verbalizer(model)
    vectors, responses = training_rows(model, rows, 40)
    # Answers of different lengths, so that padding is there to be masked.
    responses = [ids[: 40 - 9 * row] for row, ids in enumerate(responses)]
    gradients = []
    for logprobs_of in (verbalizer.logprobs, lambda *args: full_logprobs(verbalizer, *args)):
        logprobs_BT, mask_BT = logprobs_of(vectors, responses)
        (-(logprobs_BT * mask_BT).sum() / mask_BT.sum()).backward()
        parameters = list(verbalizer.model.parameters())
        gradients.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
        verbalizer.model.zero_grad(set_to_none=True)
    ours, plain = gradients
    error = float((ours - plain).norm() / plain.norm())
    return {"rows": rows, "relative_error": error, "holds": error < MAX_GRADIENT_ERROR}


SIDES = {"check": check}
