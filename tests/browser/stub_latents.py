"""What the stub says of a sparse autoencoder: four latents, one of them about boats."""

from __future__ import annotations

from typing import Any

NAMES = {7: "boats", 2: "genre=couplet (F1 0.95)"}
POINTS = (
    (0, 7, 0.0, 0.0, 1, 0.92),
    (0, 2, 4.0, 4.0, 3, 0.41),
    (1, 1, 0.5, 0.2, 7, 0.92),
    (1, 3, 4.0, 3.0, 2, 0.41),
)


def _active(index: int, activation: float) -> dict[str, Any]:
    return {"index": index, "activation": activation, "label": NAMES.get(index)}


def about() -> dict[str, Any]:
    """`GET /v1/latents`."""
    sizes = {"d_sae": 768, "layer_index": 4, "has_dashboards": True, "has_map": True}
    return {"name": "sae-storyworld/topk", "architecture": "topk", **sizes}


def asked(path: str) -> Any:
    """The answer to a GET below `/v1/latents`; None for an unknown one."""
    if path == "/v1/latents":
        return about()
    if path == "/v1/latents/search":
        return {"found": [{"latent": 7, "label": "boats", "density": 0.031, "score": 2.5}]}
    if path == "/v1/latents/map":
        return dual_map()
    last = path.rsplit("/", 1)[-1]
    return dashboard(int(last)) if last.isdigit() else None


def dashboard(latent: int) -> dict[str, Any]:
    """Active at "boat"."""
    example = {"document": "1", "tokens": ["the ", "old ", "boat ", "sank"], "peak": 2}
    values = {"values": [0.0, 0.5, 4.0, 0.0], "interval": None, "interval_share": None}
    return {
        "latent": latent,
        "label": NAMES.get(latent),
        "density": 0.031,
        "max_activation": 4.0,
        "promoted": [{"token": " pier", "value": 2.0}],
        "suppressed": [{"token": " hill", "value": -1.0}],
        "activations": {"values": [1.0, 2.0], "heights": [9.0, 3.0]},
        "logits": {"values": [0.0], "heights": [1.0]},
        "neighbours": [{"latent": 2, "cosine": 0.33}],
        "examples": [{**example, **values}],
        "readings": [] if latent != 7 else direction_readings(),
    }


def direction_readings() -> list[dict[str, Any]]:
    """Of latent 7: alone it looks like no activation, on the mean like one."""
    both = {"nla": "storyworld", "latent": 7, "label": "boats"}
    alone = {"fidelity": -0.62, "off_manifold": 0.03, "says_it": False}
    added = {"fidelity": 0.81, "off_manifold": 0.94, "says_it": True}
    return [
        {**both, "vector": "direction", "explanation": "A rhyme to come.", **alone},
        {**both, "vector": "mean + direction", "explanation": "A boat at sea.", **added},
    ]


def dual_map() -> dict[str, Any]:
    """Two latents of each dictionary, nearest in pairs."""
    keys = ("dictionary", "latent", "x", "y", "nearest", "cosine")
    return {
        "names": ["topk, local", "end-to-end"],
        "across": [[0, 1, 1], [1, 0, 1]],
        "mean_across": [0.66, 0.65],
        "mean_within": [0.39, 0.28],
        "points": [dict(zip(keys, point, strict=True)) for point in POINTS],
        "note": "UMAP is no metric: distances between clusters mean nothing.",
    }


def reading_map() -> dict[str, Any]:
    """What two NLAs say of the same two tokens."""
    told = (("A story of boats.", "Boats at sea."), ("A poem.", "A rhyme to come."))
    points = [
        {
            **{"dictionary": side, "latent": token, "x": 4.0 * token, "y": 4.0 * token + side},
            **{"nearest": token, "cosine": 0.8, "text": told[token][side], "same": 0.76},
            "around": f"the words before token {token}",
        }
        for side in (0, 1)
        for token in (0, 1)
    ]
    same = {"cosine": 0.76, "interval": [0.75, 0.77], "identical": 0.25, "embedder": "minilm"}
    other = {"other_document": 0.4, "other_document_interval": [0.38, 0.42], "by_meaning": True}
    words = {"of": "readings", "names": ["storyworld", "plain-rl"], "points": points}
    return {**dual_map(), **words, "same_token": {**same, **other}}


def lens(position: int, name: str) -> dict[str, Any]:
    """Two blocks, the second surer than the first."""
    layers = [
        {"layer": layer, "top": [{"token": " pier", "probability": 0.2 + 0.5 * layer}]}
        for layer in (0, 1)
    ]
    return {"lens": name, "tokens": [{"position": position, "token": "x", "layers": layers}]}


def answer(path: str, body: dict[str, Any]) -> Any:
    """The answer to a POST below `/v1/latents`; None for an unknown one."""
    if path == "/v1/latents/features":
        words = body["text"].split(" ")
        tokens = [
            {"position": at, "token": f"{word} ", "features": [_active(7, 4.0)] * (word == "boat")}
            for at, word in enumerate(words)
        ]
        return {"text": body["text"], "tokens": tokens}
    if path == "/v1/latents/witness":
        fates = {"shared": [_active(7, 4.0)], "lost": [_active(3, 1.5)], "invented": []}
        left = {"residual": "A list of names.", "residual_fidelity": -0.2}
        told = left if body.get("residual") else {}
        return {"position": body["position"], "jaccard": 0.5, **fates, **told}
    if path == "/v1/latents/steer":
        words = {"before": " sank.", "after": " by the pier.", "changed": True}
        return {**words, "found": 0.0, "value": body["value"], "strength": 0.8, "kl_unrelated": 0.3}
    return None
