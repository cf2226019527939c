"""From every form of `nla_meta.yaml` in the wild to the one of schema 2.

Steps, in order, each named and each on plain dicts:

    unversioned_to_1   no `schema_version`; the role may be told by the only template
    v1_to_v2           `critic.num_hidden_layers` becomes `critic.extraction_layer_index`
    translate          actor, verbalizer -> av; critic, reconstructor -> ar
    place              one field for the layer, the width and the makers' notes
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from nlakit.config import suggestion
from nlakit.errors import ContractError

Raw = dict[str, Any]

ROLE_NAMES = {
    "av": "av",
    "actor": "av",
    "verbalizer": "av",
    "ar": "ar",
    "critic": "ar",
    "reconstructor": "ar",
}
KINDS = ("nla_model", "nla_dataset")
SECTIONS = ("extraction", "tokens", "prompt_templates", "critic", "injection", "provenance")
KNOWN_KEYS = ("schema_version", "kind", "role", "d_model", "extraction_layer_index", *SECTIONS)
# What public writers note beside the contract; kept under `provenance`, never acted on.
PROVENANCE_KEYS = (
    "base_checkpoint",
    "created_at",
    "created_by",
    "dataset_id",
    "generation",
    "keep_debug_metadata",
    "parent_checkpoints",
    "row_count",
    "stage",
    "trained_on",
    "training",
)


def upgrade(raw: Mapping[str, Any]) -> Raw:
    """Bring the content of a sidecar to schema 2 in the av/ar vocabulary; schema 2 stays as it is.

    Values are not checked here beyond what the moves need; the schema does that.

    Raises:
        ContractError: an unknown version or key, or two places that say different things.
    """
    result: Raw = dict(raw)
    if result.get("kind") not in KINDS:
        raise ContractError(
            field="kind", found=result.get("kind"), expected=f"one of {', '.join(KINDS)}"
        )
    for name in SECTIONS:
        if name in result:
            result[name] = _section(result, name)
    result = _unversioned_to_1(result)
    result = _v1_to_v2(result)
    return _place(_translate(result))


def _section(raw: Raw, name: str) -> Raw:
    value = raw[name]
    if value is None and name == "critic":
        return {}
    if not isinstance(value, Mapping):
        raise ContractError(field=name, found=value, expected="a mapping of fields")
    return dict(value)


def _unversioned_to_1(raw: Raw) -> Raw:
    if "schema_version" in raw:
        return raw
    result = {**raw, "schema_version": 1}
    templates = {ROLE_NAMES.get(name, name) for name in raw.get("prompt_templates", {})}
    if result.get("kind") == "nla_model" and "role" not in result and len(templates) == 1:
        result["role"] = templates.pop()
    return result


def _v1_to_v2(raw: Raw) -> Raw:
    version = raw["schema_version"]
    if version == 2 and version is not True:
        return raw
    if version != 1 or version is True:
        raise ContractError(
            field="schema_version",
            found=version,
            expected="1, 2 or nothing",
            hint="A newer file needs a newer nlakit.",
        )
    critic = raw.get("critic", {})
    if "num_hidden_layers" in critic:
        # The same number under another name: the layer K, not the K+1 blocks that are kept.
        layer = critic.pop("num_hidden_layers")
        _settle(critic, "extraction_layer_index", layer, "critic.num_hidden_layers")
    return {**raw, "schema_version": 2}


def _translate(raw: Raw) -> Raw:
    if raw.get("kind") == "nla_model" and "role" in raw:
        raw["role"] = _one_of_ours(raw["role"], "role")
    templates: Raw = {}
    for name, text in raw.get("prompt_templates", {}).items():
        field = f"prompt_templates.{name}"
        _settle(templates, _one_of_ours(name, field), text, field)
    return {**raw, "prompt_templates": templates} if "prompt_templates" in raw else raw


def _one_of_ours(name: Any, field: str) -> str:
    if not isinstance(name, str) or name not in ROLE_NAMES:
        raise ContractError(field=field, found=name, expected=f"one of {', '.join(ROLE_NAMES)}")
    return ROLE_NAMES[name]


def _place(raw: Raw) -> Raw:
    result = _gather_provenance(raw)
    extraction = result.get("extraction", {})
    for holder, field in (
        (result, "extraction_layer_index"),
        (result.pop("critic", {}), "critic.extraction_layer_index"),
    ):
        if "extraction_layer_index" in holder:
            layer = holder.pop("extraction_layer_index")
            _settle(extraction, "layer_index", layer, field)
        if field.startswith("critic.") and holder:
            key, found = next(iter(holder.items()))
            raise ContractError(field=f"critic.{key}", found=found, expected="no key of this name")
    if extraction:
        result["extraction"] = extraction
    return _place_width(result)


def _place_width(raw: Raw) -> Raw:
    """`d_model` stands at the top of a model's file and under `extraction` in a dataset's."""
    extraction = raw.get("extraction", {})
    if raw.get("kind") == "nla_model":
        if "d_model" in extraction:
            _settle(raw, "d_model", extraction.pop("d_model"), "extraction.d_model")
        norm = extraction.pop("norm", "none")
        if norm != "none":
            expected = "'none', vectors being kept raw"
            raise ContractError(field="extraction.norm", found=norm, expected=expected)
    if raw.get("kind") == "nla_dataset":
        if "d_model" in raw:
            _settle(extraction, "d_model", raw.pop("d_model"), "d_model")
        for name in ("injection_scale", "mse_scale"):
            if name in extraction:
                raw["provenance"] = {**raw.get("provenance", {}), name: extraction.pop(name)}
    return raw


def _gather_provenance(raw: Raw) -> Raw:
    notes = {key: _as_json(raw.pop(key)) for key in PROVENANCE_KEYS if key in raw}
    for key in raw:
        if key not in KNOWN_KEYS:
            hint = suggestion(str(key), KNOWN_KEYS).strip()
            expected = "no key of this name"
            raise ContractError(field=str(key), found=raw[key], expected=expected, hint=hint)
    if notes:
        raw["provenance"] = {**raw.get("provenance", {}), **notes}
    return raw


def _as_json(value: Any) -> Any:
    """YAML reads an unquoted date as a date."""
    return value.isoformat() if isinstance(value, datetime.date) else value


def _settle(target: Raw, key: str, value: Any, field: str) -> None:
    """Put a value where it belongs; a different one already there is a contradiction."""
    if target.get(key, value) != value:
        raise ContractError(
            field=field, found=value, expected=f"{target[key]!r}, as the same file says elsewhere"
        )
    target[key] = value
