"""From how a place ended to the record that is sent."""

from __future__ import annotations

from typing import Any

from .queue import Outcome, ScoredSample
from .schemas import DescribeResult, ExplainResult
from .schemas_v1 import DescribeResultV1, ExplainResultV1, SampleResult
from .tokens import Prompt
from .truth import ClaimsOf, UnsaidOf


def best(samples: tuple[ScoredSample, ...]) -> ScoredSample:
    """The sample of highest fidelity, the first of several."""
    return max(samples, key=lambda each: float("-inf") if each.fidelity is None else each.fidelity)


def words_of(outcome: Outcome) -> dict[str, Any]:
    """Description and scores, or what went wrong."""
    if outcome.error is not None:
        empty = {"description": "", "mse": None, "cosine_similarity": None}
        return {**empty, "error": outcome.error}
    sample = best(outcome.samples)
    return {
        "description": sample.text,
        "mse": sample.mse,
        "cosine_similarity": sample.cosine,
    }


def more_of(outcome: Outcome, claims_of: ClaimsOf | None) -> dict[str, Any]:
    """What /v1 adds; `claims_of`: None where nobody can say what is claimed."""
    if outcome.error is not None:
        claims = None if claims_of is None else []
        empty = {"fidelity": None, "word": None, "closed": False, "samples": []}
        return {**empty, "claims": claims}
    sample = best(outcome.samples)
    return {
        "fidelity": sample.fidelity,
        "word": sample.word,
        "closed": sample.closed,
        "samples": [sample_record(each, claims_of) for each in outcome.samples],
        "claims": None if claims_of is None else claims_of(sample),
    }


def sample_record(sample: ScoredSample, claims_of: ClaimsOf | None) -> SampleResult:
    """One sample."""
    return SampleResult(
        description=sample.text,
        fidelity=sample.fidelity,
        mse=sample.mse,
        cosine_similarity=sample.cosine,
        closed=sample.closed,
        claims=None if claims_of is None else claims_of(sample),
    )


def token_fields(prompt: Prompt, position: int, norm: float) -> dict[str, Any]:
    """What a result says of its token."""
    return {**prompt.info(position).model_dump(), "l2_norm": norm}


def explained(prompt: Prompt, position: int, norm: float, outcome: Outcome) -> ExplainResult:
    """A record of `/explain`."""
    return ExplainResult(**token_fields(prompt, position, norm), **words_of(outcome))


def explained_v1(
    prompt: Prompt,
    position: int,
    norm: float,
    outcome: Outcome,
    claims_of: ClaimsOf | None,
    unsaid_of: UnsaidOf | None = None,
) -> ExplainResultV1:
    """A record of `/v1/explain`."""
    fields = token_fields(prompt, position, norm)
    unsaid = None
    if unsaid_of is not None and outcome.error is None:
        unsaid = unsaid_of(best(outcome.samples).text)
    more = more_of(outcome, claims_of)
    return ExplainResultV1(**fields, **words_of(outcome), **more, unsaid=unsaid)


def described(outcome: Outcome) -> DescribeResult:
    """A record of `/describe`."""
    return DescribeResult(**words_of(outcome))


def described_v1(outcome: Outcome, claims_of: ClaimsOf | None) -> DescribeResultV1:
    """A record of `/v1/describe`."""
    more = more_of(outcome, claims_of)
    return DescribeResultV1(index=outcome.place, **words_of(outcome), **more)
