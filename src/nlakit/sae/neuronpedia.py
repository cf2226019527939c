"""Dashboards as others keep them: SAEDashboard's batches, which Neuronpedia imports, and
Neuronpedia's exports.

    SAEDashboard: DIR/batch-N.json, run_settings.json, skipped_indexes.json
    Neuronpedia:  DIR/{release,model,sourceset,source}.jsonl, features/batch-N.jsonl.gz,
                  activations/batch-N.jsonl.gz, explanations/batch-N.jsonl.gz
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from nlakit.config import FrozenModel, write_text_atomic
from nlakit.data.shards import write_atomic
from nlakit.errors import CheckpointError

from .dashboard import Dashboard, Example, Histogram, Neighbour, TokenWeight

SAEDASHBOARD_BATCH, NEURONPEDIA_BATCH = 128, 1024
T = TypeVar("T")
TOP_BIN = -1
"""SAEDashboard's lower bound of the strongest examples, which are of no interval."""


class Source(FrozenModel):
    """Whose dashboards they are, by Neuronpedia's names."""

    model_id: str
    layer: int
    sae_set: str
    """Such as res-16k: the source's id is LAYER-SET."""
    release: str = "nlakit"
    dataset: str = ""
    num_prompts: int = 0
    tokens_in_prompt: int = 0

    @property
    def source_id(self) -> str:
        """Neuronpedia's id, which it keeps in the column `layer`."""
        return f"{self.layer}-{self.sae_set}"


# -- SAEDashboard ----------------------------------------------------------------------------------
def write_saedashboard(
    dashboards: Iterable[Dashboard], source: Source, directory: Path
) -> list[Path]:
    """Write batches that SAEDashboard 0.8 would have; latents that were never active are skipped.

    Numbers are rounded to three decimals, as there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    skipped: list[int] = []
    paths = []
    for number, batch in enumerate(_batched(_alive(dashboards, skipped), SAEDASHBOARD_BATCH)):
        raw = {
            "model_id": source.model_id,
            "layer": source.layer,
            "sae_set": source.sae_set,
            "sae_id_suffix": None,
            "features": [_to_feature(each, source) for each in batch],
        }
        paths.append(directory / f"batch-{number}.json")
        write_text_atomic(paths[-1], json.dumps(raw))
    settings = {
        "model_id": source.model_id,
        "layer": source.layer,
        "sae_set": source.sae_set,
        "huggingface_dataset_path": source.dataset,
        "n_prompts_total": source.num_prompts,
        "n_tokens_in_prompt": source.tokens_in_prompt,
    }
    write_text_atomic(directory / "run_settings.json", json.dumps(settings, indent=2))
    skipped_indexes = {"model_id": source.model_id, "layer": str(source.layer)}
    skipped_indexes |= {"sae_set": source.sae_set}
    text = json.dumps({**skipped_indexes, "skipped_indexes": skipped})
    write_text_atomic(directory / "skipped_indexes.json", text)
    return paths


def read_saedashboard(directory: Path) -> Iterator[Dashboard]:
    """Dashboards of SAEDashboard's batches, in their order.

    Raises:
        CheckpointError: there is no batch, or one cannot be read.
    """
    for path in _numbered(directory, "batch-*.json"):
        raw = _parsed(path, path.read_text(encoding="utf-8"))
        for feature in raw.get("features", []):
            yield _reading(path, _from_feature, feature)


def _to_feature(dashboard: Dashboard, source: Source) -> dict[str, Any]:
    return {
        "feature_index": dashboard.latent,
        "neuron_alignment_indices": [],
        "neuron_alignment_values": [],
        "neuron_alignment_l1": [],
        "correlated_neurons_indices": [],
        "correlated_neurons_l1": [],
        "correlated_neurons_pearson": [],
        "correlated_features_indices": [each.latent for each in dashboard.neighbours],
        # The column that Neuronpedia shows as cosine similarity is called l1 there.
        "correlated_features_l1": [_rounded(each.cosine) for each in dashboard.neighbours],
        "correlated_features_pearson": [],
        **_shared(dashboard),
        "n_prompts_total": source.num_prompts,
        "n_tokens_in_prompt": source.tokens_in_prompt,
        "dataset": source.dataset,
        "decoder_weights_dist": [],
        "activations": [_to_activation(each, dashboard) for each in dashboard.examples],
    }


def _to_activation(example: Example, dashboard: Dashboard) -> dict[str, Any]:
    low, high = example.interval or (TOP_BIN, dashboard.max_activation)
    share = TOP_BIN if example.interval_share is None else example.interval_share
    return {
        "bin_min": _rounded(low),
        "bin_max": _rounded(high),
        "bin_contains": _rounded(share),
        "tokens": list(example.tokens),
        "values": [_rounded(value) for value in example.values],
        "qualifying_token_index": example.peak,
    }


def _from_feature(raw: Mapping[str, Any]) -> Dashboard:
    examples = tuple(
        _example(each, "bin_min", "bin_max", "bin_contains", "qualifying_token_index")
        for each in raw["activations"]
    )
    pairs = zip(raw["correlated_features_indices"], raw["correlated_features_l1"], strict=True)
    return _dashboard(raw, int(raw["feature_index"]), examples, pairs)


# -- Neuronpedia -----------------------------------------------------------------------------------
def write_neuronpedia(dashboards: Iterable[Dashboard], source: Source, directory: Path) -> Path:
    """Write an export `DIR/MODEL/LAYER-SET/`; returns that directory.

    Latents that were never active are left out.
    """
    place = directory / source.model_id / source.source_id
    key = {"modelId": source.model_id, "layer": source.source_id}
    _write_lines(place / "release.jsonl", [{"name": source.release}])
    _write_lines(place / "model.jsonl", [{"id": source.model_id}])
    sourceset = {"modelId": source.model_id, "name": source.sae_set}
    _write_lines(place / "sourceset.jsonl", [{**sourceset, "releaseName": source.release}])
    described = {"id": source.source_id, "modelId": source.model_id, "setName": source.sae_set}
    _write_lines(place / "source.jsonl", [{**described, "dataset": source.dataset}])
    for number, batch in enumerate(_batched(_alive(dashboards, []), NEURONPEDIA_BATCH)):
        name = f"batch-{number}.jsonl.gz"
        _write_lines(place / "features" / name, [_to_neuron(each, key, source) for each in batch])
        activations = [row for each in batch for row in _to_rows(each, key)]
        _write_lines(place / "activations" / name, activations)
        explained = [_to_explanation(each, key) for each in batch if each.label]
        _write_lines(place / "explanations" / name, explained)
    return place


def read_neuronpedia(directory: Path) -> Iterator[Dashboard]:
    """Dashboards of an export's directory `MODEL/LAYER-SET`.

    Raises:
        CheckpointError: there is no batch of features, or one cannot be read.
    """
    for path in _numbered(directory / "features", "batch-*.jsonl*"):
        name = path.name.removesuffix(".gz")
        examples: dict[str, list[Example]] = {}
        for row in _optional_lines(directory / "activations", name):
            made = _reading(path, _from_activation, row)
            examples.setdefault(str(row["index"]), []).append(made)
        explained = _optional_lines(directory / "explanations", name)
        labels = {str(row["index"]): str(row["description"]) for row in explained}
        for row in _lines(path):
            index = str(row["index"])
            found = tuple(examples.get(index, ()))
            yield _reading(path, lambda r, f=found: _from_neuron(r, f), row).model_copy(
                update={"label": labels.get(index)}
            )


def read_feature(raw: Mapping[str, Any]) -> Dashboard:
    """A dashboard from what GET /api/feature/MODEL/SOURCE/INDEX answers.

    Raises:
        CheckpointError: a field is missing.
    """
    place = Path("the feature")
    found = tuple(_reading(place, _from_activation, each) for each in raw.get("activations", []))
    made = _reading(place, lambda r: _from_neuron(r, found), raw)
    explained = raw.get("explanations") or [{}]
    return made.model_copy(update={"label": explained[0].get("description")})


def _to_neuron(dashboard: Dashboard, key: Mapping[str, str], source: Source) -> dict[str, Any]:
    return {
        **key,
        "index": str(dashboard.latent),
        "sourceSetName": source.sae_set,
        "maxActApprox": dashboard.max_activation,
        **_shared(dashboard),
        "topkCosSimIndices": [each.latent for each in dashboard.neighbours],
        "topkCosSimValues": [each.cosine for each in dashboard.neighbours],
        "neuron_alignment_indices": [],
        "neuron_alignment_l1": [],
        "neuron_alignment_values": [],
        "correlated_neurons_indices": [],
        "correlated_neurons_l1": [],
        "correlated_neurons_pearson": [],
        "decoder_weights_dist": [],
        "hasVector": False,
    }


def _to_rows(dashboard: Dashboard, key: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for number, each in enumerate(dashboard.examples):
        low, high = each.interval or (None, None)
        yield {
            "id": f"{key['modelId']}/{key['layer']}/{dashboard.latent}/{number}",
            **key,
            "index": str(dashboard.latent),
            "dataSource": each.document,
            "tokens": list(each.tokens),
            "values": list(each.values),
            "maxValue": max(each.values),
            "minValue": min(each.values),
            "maxValueTokenIndex": each.values.index(max(each.values)),
            "qualifyingTokenIndex": each.peak,
            "binMin": low,
            "binMax": high,
            "binContains": each.interval_share,
        }


def _to_explanation(dashboard: Dashboard, key: Mapping[str, str]) -> dict[str, Any]:
    return {
        "id": f"{key['modelId']}/{key['layer']}/{dashboard.latent}",
        **key,
        "index": str(dashboard.latent),
        "description": dashboard.label,
        "typeName": "nlakit",
    }


def _from_neuron(raw: Mapping[str, Any], examples: tuple[Example, ...]) -> Dashboard:
    indices, values = raw.get("topkCosSimIndices") or (), raw.get("topkCosSimValues") or ()
    pairs = zip(indices, values, strict=True)
    return _dashboard(raw, int(raw["index"]), examples, pairs)


def _from_activation(raw: Mapping[str, Any]) -> Example:
    return _example(
        {"qualifyingTokenIndex": raw.get("maxValueTokenIndex"), **_not_none(raw)},
        "binMin",
        "binMax",
        "binContains",
        "qualifyingTokenIndex",
    )


# -- what both have --------------------------------------------------------------------------------
def _shared(dashboard: Dashboard) -> dict[str, Any]:
    return {
        "pos_str": [each.token for each in dashboard.promoted],
        "pos_values": [_rounded(each.value) for each in dashboard.promoted],
        "neg_str": [each.token for each in dashboard.suppressed],
        "neg_values": [_rounded(each.value) for each in dashboard.suppressed],
        "frac_nonzero": dashboard.density,
        "freq_hist_data_bar_values": list(map(_rounded, dashboard.activations.values)),
        "freq_hist_data_bar_heights": list(dashboard.activations.heights),
        "logits_hist_data_bar_values": list(map(_rounded, dashboard.logits.values)),
        "logits_hist_data_bar_heights": list(dashboard.logits.heights),
    }


def _dashboard(
    raw: Mapping[str, Any],
    latent: int,
    examples: tuple[Example, ...],
    neighbours: Iterable[tuple[int, float]],
) -> Dashboard:
    largest = max((max(each.values) for each in examples), default=0.0)
    return Dashboard(
        latent=latent,
        density=raw["frac_nonzero"],
        max_activation=raw.get("maxActApprox") or largest,
        promoted=_weights(raw["pos_str"], raw["pos_values"]),
        suppressed=_weights(raw["neg_str"], raw["neg_values"]),
        activations=_histogram(raw, "freq"),
        logits=_histogram(raw, "logits"),
        neighbours=tuple(Neighbour(latent=i, cosine=cosine) for i, cosine in neighbours),
        examples=examples,
    )


def _example(raw: Mapping[str, Any], low: str, high: str, share: str, peak: str) -> Example:
    is_top = raw.get(low) in (None, TOP_BIN) or raw.get(high) is None
    return Example(
        document=str(raw.get("dataSource") or ""),
        tokens=tuple(raw["tokens"]),
        values=tuple(raw["values"]),
        peak=int(raw[peak]),
        interval=None if is_top else (raw[low], raw[high]),
        interval_share=None if is_top else raw.get(share),
    )


def _weights(tokens: Sequence[str], values: Sequence[float]) -> tuple[TokenWeight, ...]:
    pairs = zip(tokens, values, strict=True)
    return tuple(TokenWeight(token=token, value=value) for token, value in pairs)


def _histogram(raw: Mapping[str, Any], name: str) -> Histogram:
    key = f"{name}_hist_data_bar"
    return Histogram(values=tuple(raw[f"{key}_values"]), heights=tuple(raw[f"{key}_heights"]))


def _rounded(value: float) -> float:
    return round(float(value), 3)


def _not_none(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in raw.items() if value is not None}


def _alive(dashboards: Iterable[Dashboard], skipped: list[int]) -> Iterator[Dashboard]:
    for each in dashboards:
        if each.examples:
            yield each
        else:
            skipped.append(each.latent)


def _batched(items: Iterator[Dashboard], size: int) -> Iterator[list[Dashboard]]:
    while batch := list(islice(items, size)):
        yield batch


# -- files -----------------------------------------------------------------------------------------
def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix != ".gz":
        write_text_atomic(path, text)
        return
    packed = gzip.compress(text.encode(), mtime=0)
    write_atomic(path, lambda temporary: _write_bytes(temporary, packed))


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        content = path.read_bytes()
        text = gzip.decompress(content).decode() if path.suffix == ".gz" else content.decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    return [_parsed(path, line) for line in text.splitlines() if line.strip()]


def _optional_lines(directory: Path, name: str) -> list[dict[str, Any]]:
    for path in (directory / f"{name}.gz", directory / name):
        if path.is_file():
            return _lines(path)
    return []


def _numbered(directory: Path, pattern: str) -> list[Path]:
    found = {
        path: path.name.partition("-")[2].partition(".")[0] for path in directory.glob(pattern)
    }
    paths = sorted((path for path, n in found.items() if n.isdigit()), key=lambda p: int(found[p]))
    if not paths:
        raise CheckpointError(f"{directory} has no {pattern}. Is it an export of dashboards?")
    return paths


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not JSON: {error}.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a {type(found).__name__}, not an object.")
    return found


def _reading(path: Path, read: Callable[[Mapping[str, Any]], T], raw: Mapping[str, Any]) -> T:
    try:
        return read(raw)
    except KeyError as error:
        raise CheckpointError(f"{path}: a feature without {error}.") from error
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: a feature that cannot be read: {error}") from error
