"""The records of the wire interface: names and defaults are other people's, and never change.

Unknown request fields are ignored. Every number and list is bounded. Null fields are sent.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from nlakit.models.chat_spans import Section

from .settings import LIMITS, Limits

NUMBER_LIMIT = 3.4e38
"""Beyond it a number is infinite as float32."""
MAX_MESSAGES = 256
MAX_DEPTH = 32
"""Of a tool's schema, or of the arguments of a call."""
MAX_ROLE_CHARS = 1024


def spellable(text: str) -> str:
    """Refuse half a surrogate pair, which no tokenizer and no file can hold."""
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("text must be valid Unicode: it holds half of a surrogate pair")
    return text


def shallow(value: Any, depth: int = 0) -> Any:
    """Refuse JSON that is nested too deeply, and half a surrogate pair anywhere in it."""
    if depth > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    inner = list(value.items()) if isinstance(value, dict) else value
    for each in inner if isinstance(inner, list | tuple) else ():
        shallow(each, depth + 1)
    return spellable(value) if isinstance(value, str) else value


Text = Annotated[str, AfterValidator(spellable)]
JsonObject = Annotated[dict[str, Any], AfterValidator(shallow)]
Json = JsonObject | Text
Finite = Annotated[float, Field(ge=-NUMBER_LIMIT, le=NUMBER_LIMIT, allow_inf_nan=False)]
Vector = Annotated[list[Finite], pydantic.FailFast()]
"""Of any length: one other than the NLA's is refused with its length."""
RoleName = Annotated[Text, Field(max_length=MAX_ROLE_CHARS)]
Temperature = Annotated[float, Field(ge=0, le=5, allow_inf_nan=False)]
NewTokens = Annotated[int, Field(ge=1, le=LIMITS.max_new_tokens)]


class WireModel(BaseModel):
    """Base of all records."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())


# -- requests --------------------------------------------------------------------------------------
class WireMessage(WireModel):
    """A message; all but role, content and channel are ours, for templates that know them."""

    role: RoleName
    content: Text | Annotated[list[Json], Field(max_length=MAX_MESSAGES)] | None = ""
    channel: RoleName | None = None
    name: Text | None = None
    reasoning_content: Text | None = None
    thinking: Text | None = None
    reasoning: Text | None = None
    tool_calls: Annotated[list[JsonObject], Field(max_length=MAX_MESSAGES)] | None = None
    tool_call_id: Text | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """The message as a chat template takes it."""
        given = self.model_dump(exclude_unset=True)
        kept = {name: value for name, value in given.items() if value is not None}
        return {"role": self.role, "content": self.content, **kept}


class PromptRequest(WireModel):
    """A text, or messages, which win over it."""

    text: Annotated[Text, Field(max_length=LIMITS.max_input_chars)] | None = None
    messages: Annotated[list[WireMessage], Field(max_length=MAX_MESSAGES)] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    enable_thinking: bool | None = None
    tools: Annotated[list[JsonObject], Field(max_length=MAX_MESSAGES)] | None = None
    """Schemas of tools, for chat templates that list them."""


class CompletionRequest(PromptRequest):
    completion_tokens: Annotated[int, Field(ge=1)] = 16
    """Clamped to 512, however many are asked for."""
    temperature: Temperature = 0.7
    stream: bool = False


class SamplingFields(WireModel):
    temperature: Temperature = 0.7
    max_new_tokens: NewTokens = 200
    """Where the verbalizer's context is shorter, as many as it has room for."""
    stream: bool = False


class ExplainRequest(PromptRequest, SamplingFields):
    positions: Annotated[list[int], Field(max_length=LIMITS.max_positions_per_request)] | None = (
        None
    )
    reverse: bool = True


class DescribeRequest(SamplingFields):
    activations: Annotated[
        list[Vector],
        Field(min_length=1, max_length=LIMITS.max_describe_batch),
        pydantic.FailFast(),
    ]


class ScoreRequest(WireModel):
    description: Annotated[Text, Field(max_length=LIMITS.max_description_chars)]
    activation: Vector


class CompareRequest(WireModel):
    activation_a: Vector
    activation_b: Vector
    temperature: Temperature = 0.7
    max_new_tokens: NewTokens = 200


# -- responses -------------------------------------------------------------------------------------
class TokenInfo(WireModel):
    token: str
    token_id: int
    position: int
    fragment_index: int = 0
    fragment_count: int = 1
    role: str | None = None
    section: Section | None = None
    channel: str | None = None
    message_index: int | None = None


class Tokenized(WireModel):
    tokens: list[TokenInfo]
    prompt_length: int
    text: str
    notices: Annotated[list[str] | None, Field(exclude_if=lambda value: not value)] = None
    """What the chat template left out of the messages; sent only where there is something."""


class ExplainResult(WireModel):
    token: str
    token_id: int
    position: int
    l2_norm: float
    description: str
    mse: float | None
    cosine_similarity: float | None
    generated: Literal[False] = False
    fragment_index: int
    fragment_count: int
    role: str | None
    section: Section | None
    channel: str | None
    message_index: int | None
    error: Annotated[str | None, Field(exclude_if=lambda value: value is None)] = None
    """Sent only where this position failed; its description is empty then."""


class Explained(WireModel):
    layer_index: int
    results: list[ExplainResult]


class DescribeResult(WireModel):
    description: str
    mse: float | None
    cosine_similarity: float | None
    error: Annotated[str | None, Field(exclude_if=lambda value: value is None)] = None


class Described(WireModel):
    results: list[DescribeResult]


class Scored(WireModel):
    mse: float | None
    cosine_similarity: float | None


class Compared(WireModel):
    description: str
    diff_norm: float
    mse: float | None
    cosine_similarity: float | None


class ExtractedToken(WireModel):
    token: str
    token_id: int
    position: int
    activation: list[float]
    l2_norm: float


class Extracted(WireModel):
    layer_index: int
    tokens: list[ExtractedToken]


class Status(WireModel):
    """`GET /`: what runs here."""

    status: Literal["ok"] = "ok"
    verbalizer_model: str
    d_model: int
    verbalizer_quantization: str | None = None
    verbalizer_kv_cache_dtype: str | None = None
    verbalizer_cuda_graph_max_bs: int | None = None
    verbalizer_torch_compile: bool = False
    verbalizer_device: str
    reconstructor_available: bool = True
    reconstructor_fp8: bool = False
    reconstructor_int4: bool = False
    reconstructor_device: str
    source_model: str
    extraction_layer: int
    source_truncated: bool = False
    source_fp8: bool = False
    source_device: str
    completion_available: bool
    num_cuda_devices: int
    max_concurrent: int
    max_concurrent_explains: int
    source_max_concurrent: int
    reconstructor_max_concurrent: int
    max_describe_requests: int
    limits: Limits = LIMITS


class Problem(WireModel):
    """Any error but a validation error."""

    detail: str
