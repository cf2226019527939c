"""What the server says of the pair it serves: card, contract, and the scale of its fidelities."""

from __future__ import annotations

import math
from typing import Any

from nlakit.fidelity_scale import ABOUT, FLOOR_LABELS, GRADES, FidelityScale, Grade
from nlakit.serve.schemas_v1 import FloorInfo, GradeInfo, ModelInfo, ScaleInfo
from nlakit.serve.service import Service

OWN_FIELDS = {
    *(
        "scale",
        "target",
        "can_chat",
        "can_complete",
        "has_latents",
        "has_reading_map",
        "has_jacobian_lens",
        "max_tokens",
        "max_new_tokens",
        "contract",
        "warnings",
    )
}
"""Fields of `ModelInfo` that are not the card's."""


def model_info(service: Service) -> ModelInfo:
    """The pair's card, and the contract of its verbalizer."""
    card, target = service.nla.card, service.nla.target
    verbalizer = service.nla.verbalizer
    contract = {} if verbalizer is None else verbalizer.meta.model_dump(mode="json")
    return ModelInfo(
        **card.model_dump(include=set(ModelInfo.model_fields) - OWN_FIELDS),
        scale=None if card.baseline == "none" else scale_info(FidelityScale(card.floors)),
        target=target_name(card.provenance, contract) or card.name,
        warnings=list(service.nla.notes),
        can_complete=service.can_complete,
        has_latents=service.latents is not None,
        has_reading_map=service.reading_map is not None,
        has_jacobian_lens=service.jacobian_lens is not None,
        can_chat=bool(target.tokenizer.chat_template),
        max_tokens=target.max_tokens,
        max_new_tokens=service.longest_answer,
        contract=contract,
    )


def target_name(provenance: dict[str, Any], contract: dict[str, Any]) -> str | None:
    """The model that is read, as the card or else the contract names it."""
    named = provenance.get("base_model") or contract.get("extraction", {}).get("base_model")
    return str(named) if named else None


def scale_info(scale: FidelityScale) -> ScaleInfo:
    """The scale as a page draws it: floors and grades best first."""
    ordered = sorted(scale.floors.items(), key=lambda item: -item[1])
    return ScaleInfo(
        low=scale.low,
        knowing_nothing=scale.knowing_nothing,
        floors=[
            FloorInfo(name=name, label=FLOOR_LABELS.get(name, name), value=value)
            for name, value in ordered
        ],
        grades=[grade_info(each) for each in GRADES],
        about=list(ABOUT),
    )


def grade_info(grade: Grade) -> GradeInfo:
    """A grade; JSON has no infinity, so one without a threshold of its own says None."""
    threshold = grade.threshold if math.isfinite(grade.threshold) else None
    return GradeInfo(key=grade.key, word=grade.word, threshold=threshold, meaning=grade.meaning)
