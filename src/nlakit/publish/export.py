"""A pair as directories that other clients of the method read: full weights, contract, model card.

    DIR/av, DIR/ar     Hugging Face model directories with `nla_meta.yaml` and a README.md
    DIR/target         the base model
    DIR/nla.json, DIR/mean.safetensors   the card, and what a fidelity is measured against

DIR is then an NLA of its own: `nlakit explain --nla DIR`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from nlakit.card import CARD_NAME, MEAN_NAME, NlaCard, write_card
from nlakit.config import write_text_atomic
from nlakit.contract import read_meta
from nlakit.core.fidelity import Baseline
from nlakit.errors import CheckpointError, InputError
from nlakit.models.io import stored_dtype
from nlakit.models.lora import open_checkpoint
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer
from nlakit.pair.load import read_facts
from nlakit.pair.source import PairSource
from nlakit.publish.model_card import Facts, render_card
from nlakit.registry import bundled_path

REPORT_NAME = "report.json"
TARGET_NAME = "target"
LICENSE_OF_OURS = "apache-2.0"


def export(
    source: PairSource,
    output: Path,
    *,
    license_name: str | None = None,
    data: str | None = None,
    dtype: torch.dtype | None = None,
) -> list[Path]:
    """Write the pair; returns what was written.

    Args:
        license_name: of the base; None: as its own README says.
        data: what the pair was trained on; None: as the contract's notes say.
        dtype: of the weights on disk; None: the base's. A float32 head stays so.

    Raises:
        InputError: `output` holds something else already.
        CheckpointError, ContractError: a part cannot be read.
    """
    _check_output(output, source)
    card, baseline = read_facts(source)
    facts = gather(source, card, license_name, data)
    _save(Verbalizer, source.av, output / "av", source.target, dtype)
    _save(Reconstructor, source.ar, output / "ar", source.target, dtype)
    for role in ("av", "ar"):
        write_text_atomic(output / role / "README.md", render_card(facts, role))
    target = Target.load(source.target, card.layer, stored_dtype(source.target))
    target.save(output / TARGET_NAME)
    if baseline is not None:
        _write_baseline(baseline, output)
    write_card(output, card)
    files = ("av", "ar", TARGET_NAME, MEAN_NAME, CARD_NAME)
    return [output / name for name in files if (output / name).exists()]


def gather(source: PairSource, card: NlaCard, license_name: str | None, data: str | None) -> Facts:
    """What a model card says, from the contract, the card, the report and the base's README."""
    meta = read_meta(source.av)
    home = None if source.paths is None else source.paths.pair
    report, bundled = _read_report(home), home == bundled_path()
    notes = {**meta.provenance, **card.provenance}
    described = "storyworld documents, generated (nlakit.storyworld)" if bundled else None
    found = LICENSE_OF_OURS if bundled else _license_in(source.target)
    known = card.baseline == "training_mean"
    return Facts(
        name=card.name,
        base=meta.extraction.base_model or source.target.name,
        target=TARGET_NAME,
        layer=meta.extraction.layer_index,
        d_model=meta.d_model,
        injection=meta.injection.convention,
        injection_scale=meta.extraction.injection_scale,
        data=data or described or _noted(notes, "trained_on", "dataset_id", "recipe"),
        license_name=license_name or found,
        fve=report.get("fve", card.fve),
        fve_interval=report.get("fve_interval"),
        variance=report.get("variance", card.variance if known else None),
        documents=report.get("documents"),
        floors=card.floors,
        claims=report.get("claims", {}),
    )


def _save(
    model_cls: type[Verbalizer] | type[Reconstructor],
    directory: Path,
    output: Path,
    base: Path,
    dtype: torch.dtype | None,
) -> None:
    """One model at a time, in the precision it is stored in: a whole pair need not fit twice."""
    stored = stored_dtype(open_checkpoint(directory, base).weights)
    model_cls.load(directory, dtype or stored, base=base).save(output, dtype or stored)


def _write_baseline(baseline: Baseline, output: Path) -> None:
    tensors = {"mean": baseline.mean_D, "variance": torch.tensor([baseline.variance])}
    save_file(tensors, output / MEAN_NAME)


def _check_output(output: Path, source: PairSource) -> None:
    if output.exists() and not output.is_dir():
        raise InputError(f"--output {output} is a file. Give a directory, there or not.")
    for part in source.models.values():
        if output.resolve() in (part.resolve(), part.resolve().parent):
            raise InputError(f"--output {output} holds the pair that is exported. Give another.")
    output.mkdir(parents=True, exist_ok=True)


def _read_report(directory: Path | None) -> dict[str, Any]:
    path = None if directory is None else directory / REPORT_NAME
    if path is None or not path.is_file():
        return {}
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}. Make the report again.") from error
    return raw if isinstance(raw, dict) else {}


def _license_in(directory: Path) -> str | None:
    """The `license:` line at the head of a README.md, as models on the hub have it."""
    path = directory / "README.md"
    if not path.is_file():
        return None
    head = path.read_text(encoding="utf-8", errors="replace").split("\n---", 1)[0]
    lines = [line.partition(":") for line in head.splitlines()]
    return next((value.strip() for key, _, value in lines if key == "license"), None)


def _noted(notes: dict[str, Any], *keys: str) -> str | None:
    return next((f"{key}: {notes[key]}" for key in keys if notes.get(key)), None)
