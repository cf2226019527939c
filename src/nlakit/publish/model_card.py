"""The README.md of a published model: what it is, how good, and how to load it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from nlakit.config import FrozenModel

UNKNOWN = "not known"
ROLES = {
    "av": "activation verbalizer (AV): reads one activation vector and explains it in words",
    "ar": "activation reconstructor (AR): reads an explanation and gives the vector back",
}


class Facts(FrozenModel):
    """What a model card says of a pair; what is None was never measured or noted."""

    name: str
    base: str
    target: str
    """Where to get the model that is read: the directory written beside the pair, or its name."""
    layer: int
    d_model: int
    injection: str
    injection_scale: float | str | None
    data: str | None = None
    license_name: str | None = None
    fve: float | None = None
    fve_interval: Sequence[float] | None = None
    variance: float | None = None
    documents: int | None = None
    floors: Mapping[str, float] = {}
    claims: Mapping[str, Any] = {}


def render_card(facts: Facts, role: str) -> str:
    """The card of one of the pair's two directories, YAML head included.

    Args:
        role: "av" or "ar".
    """
    license_name = facts.license_name or UNKNOWN
    sections = [
        _head(facts),
        f"# {facts.name}: {role.upper()}",
        f"The {ROLES[role]}. One half of a natural language autoencoder; the other half is "
        f"`{'ar' if role == 'av' else 'av'}`.",
        "\n".join(f"- {name}: {value}" for name, value in _facts(facts, license_name)),
        "## How far to believe it\n\n" + "\n".join(_measures(facts)),
        _usage(facts.target),
    ]
    return "\n\n".join(sections) + "\n"


def _head(facts: Facts) -> str:
    lines = ["---", f"base_model: {json.dumps(facts.base, ensure_ascii=False)}"]
    if facts.license_name:
        lines.append(f"license: {json.dumps(facts.license_name, ensure_ascii=False)}")
    lines += ["library_name: transformers", "tags:", "- natural-language-autoencoder", "---"]
    return "\n".join(lines)


def _facts(facts: Facts, license_name: str) -> list[tuple[str, str]]:
    scale = "as they are" if facts.injection_scale is None else str(facts.injection_scale)
    return [
        ("base model", f"`{facts.base}`"),
        ("layer", f"output of decoder block {facts.layer}, width {facts.d_model}"),
        ("injection", f"{facts.injection}, vectors brought to norm {scale}"),
        ("trained on", facts.data or UNKNOWN),
        ("licence of the base model", license_name),
    ]


def _measures(facts: Facts) -> list[str]:
    if facts.fve is None:
        return ["No fraction of variance explained (FVE) is known for this pair."]
    interval = _interval(facts.fve_interval)
    rows = f" over {facts.documents} held-out documents" if facts.documents else ""
    denominator = f" {facts.variance:.3f}" if facts.variance is not None else ""
    lines = [
        f"- FVE **{facts.fve:.3f}**{interval}{rows}. Its denominator is the variance{denominator} "
        "about the plain mean of the training vectors, all vectors first brought to norm √d."
    ]
    if facts.floors:
        floors = ", ".join(f"{name} {value:.2f}" for name, value in facts.floors.items())
        lines.append(f"- Floors, the FVE of what knows nothing: {floors}.")
    precision, recall = facts.claims.get("precision"), facts.claims.get("recall")
    if precision is not None and recall is not None:
        checked = facts.claims.get("checked", UNKNOWN)
        lines.append(
            f"- Of {checked} claims that could be checked, {precision:.1%} are true; "
            f"{recall:.1%} of what could have been said is said."
        )
    else:
        lines.append("- The truth of its claims was not measured: fluent words may be invented.")
    return lines


def _interval(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f" (95 % interval {interval[0]:.3f} to {interval[1]:.3f})"


def _usage(target: str) -> str:
    parts = f"--av av --ar ar --target {shlex.quote(target)}"
    return (
        "## Use\n\n"
        f"```console\n$ nlakit doctor {parts}\n"
        f'$ nlakit explain {parts} "A sentence to read."\n```\n\n'
        "`nla_meta.yaml` is the contract: prompts, marker, scale and layer. Weights are "
        "safetensors only; no code comes with them."
    )
