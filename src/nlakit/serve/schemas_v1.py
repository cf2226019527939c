"""The records of our own interface under /v1."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, JsonValue

from nlakit.fidelity_scale import GradeKey, GradeWord
from nlakit.models.chat_spans import Section
from nlakit.pair.steer import STRENGTH

from .schemas import (
    DescribeRequest,
    DescribeResult,
    ExplainRequest,
    ExplainResult,
    PromptRequest,
    SamplingFields,
    Temperature,
    Text,
    WireModel,
    spellable,
)
from .settings import LIMITS

MAX_SAMPLES = 16
MAX_SEED = 2**63 - 1
MAX_TITLE = 200
MAX_DEPTH = 64


def _plain_json(value: dict[str, Any]) -> dict[str, Any]:
    """Refuse what cannot be written as JSON again: deep nests, NaN, halves of surrogate pairs."""
    stack: list[tuple[Any, int]] = [(value, 1)]
    while stack:
        item, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"a reading may be nested {MAX_DEPTH} levels deep")
        if isinstance(item, dict):
            stack += [(each, depth + 1) for pair in item.items() for each in pair]
        elif isinstance(item, list):
            stack += [(each, depth + 1) for each in item]
        elif isinstance(item, str):
            spellable(item)
        elif isinstance(item, float) and not math.isfinite(item):
            raise ValueError("a reading holds finite numbers only")
    return value


class MoreSampling(WireModel):
    """What /v1 adds to the wire's sampling."""

    samples: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] = 1
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    """The same seed gives the same words; without one each request draws its own."""
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0


class DocumentRef(WireModel):
    """A document of the world that the server knows, by the numbers that make it."""

    seed: Annotated[int, Field(ge=0, le=2**31 - 1)]
    index: Annotated[int, Field(ge=0, le=2**31 - 1)]
    genre: Literal["story", "couplet", "answers", "sums", "chat", "spanish"] | None = None


class ExplainRequestV1(ExplainRequest, MoreSampling):
    document: DocumentRef | None = None
    """Says that the text is the head of that document, so that claims can be checked."""


class DescribeRequestV1(DescribeRequest, MoreSampling):
    pass


class DescribeQuery(SamplingFields, MoreSampling):
    """What goes with vectors sent as safetensors, in the query string."""


class ExtractRequestV1(PromptRequest):
    positions: Annotated[list[int], Field(max_length=LIMITS.max_positions_per_request)] | None = (
        None
    )
    """None or []: all tokens."""


class ChatRequest(PromptRequest):
    """A conversation, `messages`, that the target is to answer."""

    completion_tokens: Annotated[int, Field(ge=1)] = 256
    """Clamped to 512, however many are asked for."""
    temperature: Temperature = 0.7
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    """The same seed gives the same answer; without one each request draws its own."""
    stream: bool = False


class ChatMessage(WireModel):
    """An answer, as `messages` takes it back."""

    role: Literal["assistant"] = "assistant"
    content: str
    reasoning_content: str | None = None
    """What stood in a block of thoughts."""


class ChatResult(WireModel):
    message: ChatMessage
    finish_reason: Literal["stop", "length"]
    """length: the answer was cut off."""
    prompt_tokens: int
    completion_tokens: int
    notices: list[str] = []
    """What the chat template left out of the messages, or took in another form."""


class SteerRequest(PromptRequest):
    """Edit the explanation at a token, and see what the target writes then."""

    position: int = -1
    """The token; negative ones count from the end."""
    section: Section | None = None
    """Of a conversation: `position` then counts this section's tokens, such as `thinking`'s."""
    explanation: Annotated[str, Field(max_length=LIMITS.max_description_chars)] | None = None
    """The explanation that is edited; None: the verbalizer writes it, greedily."""
    edit: (
        Annotated[str, Field(max_length=LIMITS.max_description_chars)]
        | Annotated[dict[str, str], Field(max_length=32)]
    )
    """The whole new explanation, or words of it and what to put in their place."""
    alpha: Annotated[float, Field(ge=-16, le=16, allow_inf_nan=False)] = STRENGTH
    """Strength, as a share of the activation's norm; negative: the opposite of the edit."""
    once: bool = False
    """Change the token alone, and none of the later ones."""
    completion_tokens: Annotated[int, Field(ge=1, le=64)] = 20


class SteerResult(WireModel):
    layer_index: int
    position: int
    original: str
    edited: str
    before: str
    """What the target writes after the prompt, greedily."""
    after: str
    """The same, with the edit's direction added at the site, from the token on."""
    changed: bool
    alpha: float
    once: bool
    shift: float
    """Norm of the difference of the two reconstructions, each of norm 1: near 0 the AR makes
    nothing of the edit."""
    kl_unrelated: float
    """Mean KL in nats at the next token of unrelated texts: what the edit costs elsewhere."""


class ProbeReading(WireModel):
    """What a linear probe reads from the activation itself, whatever the words say."""

    value: str
    confidence: float
    """The probability that the probe gives to `value`."""
    accuracy: float
    """How often this probe is right on held-out documents that have such a fact."""
    chance: float
    """How often always naming the commonest value would be right there."""


class ClaimResult(WireModel):
    """`description[start:end]`, counted in code points, says that `kind` is `value`."""

    kind: str
    value: str
    start: int
    end: int
    verdict: Literal["true", "false", "uncheckable"] | None
    """None: nobody said which document the text is."""
    confidence: float | None = None
    """The chance that it is true, by the NLA's calibrator; None where it has none."""
    probe: ProbeReading | None = None
    """None: the NLA has no probe of this kind."""


class SampleResult(WireModel):
    description: str
    fidelity: float | None
    """`1 - mse / variance`: 1 perfect, 0 no better than the training mean."""
    mse: float | None
    cosine_similarity: float | None
    closed: bool
    """False: the verbalizer was cut off before its closing tag."""
    claims: list[ClaimResult] | None = None
    """None where nobody knows what is true there."""


class BestSample(WireModel):
    """The sample of highest fidelity, and all of them in the order they were drawn."""

    fidelity: float | None
    word: GradeWord | None
    """The grade of the fidelity on the model's `scale`."""
    closed: bool
    samples: list[SampleResult]
    claims: list[ClaimResult] | None = None
    """Of the best sample; None where nobody knows what is true there."""


class FactResult(WireModel):
    """A fact that is true at a token and that the explanation does not say."""

    kind: str
    value: str
    planned: bool
    """Whether it is fixed there, but not written yet."""
    probe: ProbeReading | None = None
    """None: the NLA has no probe of this kind."""


class ExplainResultV1(ExplainResult, BestSample):
    unsaid: list[FactResult] | None = None
    """None: nobody said which document the text is."""


class DescribeResultV1(DescribeResult, BestSample):
    index: int


class Baseline(WireModel):
    """What fidelities are measured against."""

    variance: float
    floors: dict[str, float]


class ExplainedV1(Baseline):
    layer_index: int
    model: str
    results: list[ExplainResultV1]


class DescribedV1(Baseline):
    layer_index: int
    model: str
    results: list[DescribeResultV1]


class GradeInfo(WireModel):
    """A word for a range of fidelities."""

    key: GradeKey
    word: GradeWord
    threshold: float | None
    """Lowest fidelity of the grade; None: it has none of its own, the floors decide."""
    meaning: str


class FloorInfo(WireModel):
    """What a reader that knows nothing reaches."""

    name: str
    label: str
    value: float


class ScaleInfo(WireModel):
    """The one scale of fidelities: what page, terminal and notebook show."""

    low: float
    """Low end of the axis, whose high end is 1."""
    knowing_nothing: float
    """The best floor; a fidelity below it is worse than knowing nothing."""
    floors: list[FloorInfo]
    grades: list[GradeInfo]
    """Best first."""
    about: list[str]
    """What is shown, in four sentences."""


class ModelInfo(WireModel):
    name: str
    description: str
    domain: str
    """The texts that the pair was trained on, as a phrase; empty where nobody said."""
    warnings: list[str]
    """What a reader has to know before believing anything, such as a target that was replaced."""
    layer: int
    d_model: int
    variance: float
    floors: dict[str, float]
    scale: ScaleInfo | None
    """None where the pair has no baseline: its scores are bare cosines without a grade."""
    fve: float | None
    target: str
    """The model that is read."""
    can_chat: bool
    """Whether the target has a chat template."""
    can_complete: bool
    """Whether it can write: a target that was truncated at the site cannot."""
    has_latents: bool = False
    """Whether a sparse autoencoder is served beside it (`/v1/latents`)."""
    has_reading_map: bool = False
    """Whether a map of two NLAs' readings is served (`/v1/reading-map`)."""
    has_jacobian_lens: bool = False
    """Whether `/v1/lens` has it beside the logit lens."""
    max_tokens: int
    num_training_rows: int
    max_new_tokens: int
    """The longest answer that the verbalizer's context has room for."""
    contract: dict[str, JsonValue]
    """`nla_meta.yaml` of the verbalizer."""


class Models(WireModel):
    models: list[ModelInfo]


class PassageMessage(WireModel):
    role: str
    content: str


class Passage(WireModel):
    id: str
    title: str
    case: str
    note: str
    text: str | None = None
    messages: list[PassageMessage] | None = None
    document: DocumentRef | None = None
    """Of which it is the head, where the server knows a world of documents."""


class Passages(WireModel):
    passages: list[Passage]


class NewReading(WireModel):
    title: Annotated[Text, Field(min_length=1, max_length=MAX_TITLE)]
    reading: Annotated[dict[str, Any], AfterValidator(_plain_json)]
    """Any JSON object."""


class SavedHead(WireModel):
    id: str
    title: str
    created: str
    """UTC, ISO 8601."""


class SavedReading(SavedHead):
    reading: dict[str, Any]


class SavedList(WireModel):
    readings: list[SavedHead]
    total: int
    """How many match, whatever `limit`."""


class Health(WireModel):
    status: Literal["ok", "draining", "failed"]
    version: str
    uptime_s: float
    requests: int
    rows_active: int
    rows_waiting: int
