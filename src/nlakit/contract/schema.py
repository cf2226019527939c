"""`nla_meta.yaml`, schema 2: the models, and reading and writing them.

Older files and the other vocabulary are brought here by `upgrade`; this module knows one form only.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import pydantic
import yaml
from pydantic import BeforeValidator, Field, JsonValue

from nlakit.config import FrozenModel, suggestion, write_text_atomic
from nlakit.contract.upgrade import upgrade
from nlakit.errors import ContractError, InputError
from nlakit.files import read_small_text

META_NAME = "nla_meta.yaml"
MAX_META_BYTES = 256 << 10
"""Real ones have a few kilobytes, and YAML is parsed at a tenth of a megabyte a second."""
AV_SLOT = "{injection_char}"
AR_SLOT = "{explanation}"
SQRT_D_MODEL = "sqrt_d_model"

Role = Literal["av", "ar"]
Index = Annotated[int, Field(ge=0, strict=True)]
Size = Annotated[int, Field(gt=0, strict=True)]
Name = Annotated[str, Field(min_length=1)]


def _check_scale(value: Any) -> Any:
    if value is None or value == SQRT_D_MODEL:
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and value > 0:
        return value
    raise ValueError(f"a positive number, {SQRT_D_MODEL!r} or null")


def _check_slot(slot: str) -> Any:
    def check(template: Any) -> Any:
        if template is None or (isinstance(template, str) and template.count(slot) == 1):
            return template
        raise ValueError(f"text with exactly one {slot}")

    return BeforeValidator(check)


Scale = Annotated[float | Literal["sqrt_d_model"] | None, BeforeValidator(_check_scale)]
"""A norm to bring vectors to: a number, √d_model, or None for leaving them as they are."""


class Extraction(FrozenModel):
    """Where the activations came from and how they are scaled."""

    base_model: Name | None = None
    """Name of the target the activations were read from."""
    layer_index: Index
    """K: the activation is the output of decoder block K."""
    injection_scale: Scale
    """Norm of the vector in the verbalizer's prompt. Never defaulted: a wrong one is fatal."""
    mse_scale: Scale = SQRT_D_MODEL
    """Norm to which both vectors are brought before they are compared."""


class Injection(FrozenModel):
    """How the vector gets into the verbalizer. The two conventions are not interchangeable."""

    convention: Literal["replace", "add"] = "replace"
    """replace: the marker's embedding becomes the vector at `injection_scale`. add: the vector, at
    the norm of the residual that is there, is added to the output of block `layer`."""
    layer: Index = 1
    """Of `add`: the block whose output is changed, counted from 0."""
    coefficient: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Of `add`: how many times the residual's norm."""


class Tokens(FrozenModel):
    """Ids fixed when the checkpoint was made; a tokenizer that disagrees is another tokenizer."""

    injection_char: Name
    """The marker: a rare character that is one token and stands where the vector goes."""
    injection_token_id: Index
    injection_left_neighbor_id: Index
    injection_right_neighbor_id: Index
    critic_suffix_ids: Annotated[tuple[Index, ...], Field(min_length=1)] | None = None
    """Ids that a reconstructor prompt ends with: a check, not an address."""


class PromptTemplates(FrozenModel):
    """Literal prompt texts; the slot is filled by plain replacement."""

    av: Annotated[Name | None, _check_slot(AV_SLOT)] = None
    """User turn of the verbalizer, with one `{injection_char}`."""
    ar: Annotated[Name | None, _check_slot(AR_SLOT)] = None
    """Whole prompt of the reconstructor, with one `{explanation}`."""


class NlaMeta(FrozenModel):
    """The sidecar of a verbalizer's or reconstructor's directory."""

    schema_version: Literal[2] = 2
    kind: Literal["nla_model"] = "nla_model"
    role: Role
    d_model: Size
    extraction: Extraction
    tokens: Tokens
    prompt_templates: PromptTemplates
    injection: Injection = Injection()
    provenance: dict[str, JsonValue] = {}
    """What the makers noted about the run: read and kept, never acted on."""

    @pydantic.model_validator(mode="after")
    def _has_own_template(self) -> Self:
        if getattr(self.prompt_templates, self.role) is None:
            raise ContractError(
                field=f"prompt_templates.{self.role}",
                found="nothing",
                expected=f"a template, the role being {self.role!r}",
            )
        return self


class DatasetExtraction(FrozenModel):
    """Where a table's activations came from. They are raw: scales belong to models."""

    base_model: Name | None = None
    d_model: Size
    layer_index: Index
    norm: Literal["none"] = "none"


class DatasetMeta(FrozenModel):
    """The sidecar `<file>.nla_meta.yaml` of a training parquet."""

    schema_version: Literal[2] = 2
    kind: Literal["nla_dataset"] = "nla_dataset"
    extraction: DatasetExtraction
    tokens: Tokens
    prompt_templates: PromptTemplates
    provenance: dict[str, JsonValue] = {}


MetaT = TypeVar("MetaT", NlaMeta, DatasetMeta)


def read_meta(directory: str | Path) -> NlaMeta:
    """Read `nla_meta.yaml` of a model directory, whatever its schema version and vocabulary.

    Raises:
        ContractError: the file is missing, is not YAML, or a field is wrong; names the field.
    """
    return _parse(NlaMeta, _read_yaml(Path(directory) / META_NAME))


def write_meta(directory: str | Path, meta: NlaMeta) -> None:
    """Write `nla_meta.yaml` into a model directory, atomically."""
    raw = meta.model_dump(mode="json")
    if meta.injection == Injection():
        del raw["injection"]  # the reference layout does not have it
    # Other readers look for the layer here, and it costs one line.
    raw["critic"] = {"extraction_layer_index": meta.extraction.layer_index}
    _write_yaml(Path(directory) / META_NAME, raw)


def read_dataset_meta(parquet: str | Path) -> DatasetMeta:
    """Read the sidecar of a parquet file. Raises ContractError as `read_meta` does."""
    return _parse(DatasetMeta, _read_yaml(_sidecar(parquet)))


def write_dataset_meta(parquet: str | Path, meta: DatasetMeta) -> None:
    """Write the sidecar of a parquet file, atomically."""
    _write_yaml(_sidecar(parquet), meta.model_dump(mode="json"))


def _sidecar(parquet: str | Path) -> Path:
    path = Path(parquet)
    return path.with_name(f"{path.name}.{META_NAME}")


class _Dumper(yaml.SafeDumper):
    """Quotes strings that hold Unicode line breaks: unquoted, YAML would fold them to spaces."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = '"' if any(char in text for char in "\x85\u2028\u2029") else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


def _write_yaml(path: Path, raw: dict[str, Any]) -> None:
    text = yaml.dump(raw, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    write_text_atomic(path, text)


class _Loader(yaml.SafeLoader):
    """Plain values only; an alias, by which a few lines stand for gigabytes, is refused."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it holds an alias, which no contract needs")
        return super().compose_node(parent, index)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = read_small_text(path, InputError, MAX_META_BYTES)
    except InputError as error:
        found, expected = str(error), "a small file that can be read"
        raise ContractError(field="(file)", found=found, expected=expected) from error
    try:
        raw = yaml.load(text, _Loader)  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        found = f"{path} is not YAML: {error}"
        raise ContractError(field="(file)", found=found, expected="YAML in UTF-8") from error
    if not isinstance(raw, dict):
        raise ContractError(field="(file)", found=raw, expected="a mapping of fields")
    return raw


def _parse(model_cls: type[MetaT], raw: dict[str, Any]) -> MetaT:
    kind = model_cls.model_fields["kind"].default
    if raw.get("kind") != kind:
        raise ContractError(field="kind", found=raw.get("kind"), expected=kind)
    try:
        return model_cls.model_validate(upgrade(raw))
    except pydantic.ValidationError as error:
        raise _contract_error(error) from error


def _contract_error(error: pydantic.ValidationError) -> ContractError:
    """The first wrong field, unknown keys before the rest: a typo makes its field missing too."""
    items = error.errors(include_url=False)
    item = next((each for each in items if each["type"] == "extra_forbidden"), items[0])
    cause = item.get("ctx", {}).get("error")
    if isinstance(cause, ContractError):
        return cause
    field = ".".join(str(part) for part in item["loc"])
    if item["type"] == "missing":
        return ContractError(
            field=field, found="nothing", expected="a value, there being no default"
        )
    if item["type"] == "extra_forbidden":
        hint = suggestion(str(item["loc"][-1]), _SECTION_KEYS.get(str(item["loc"][0]), ()))
        expected = "no key of this name"
        return ContractError(field=field, found=item["input"], expected=expected, hint=hint.strip())
    expected = item["msg"].removeprefix("Value error, ")
    return ContractError(field=field, found=item["input"], expected=expected)


_SECTION_KEYS = {
    "extraction": tuple(Extraction.model_fields),
    "injection": tuple(Injection.model_fields),
    "tokens": tuple(Tokens.model_fields),
    "prompt_templates": tuple(PromptTemplates.model_fields),
}
