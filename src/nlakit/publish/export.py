"""A pair as directories that other clients of the method read: full weights, contract, model card.

    DIR/av, DIR/ar     Hugging Face model directories with `nla_meta.yaml` and a README.md
    DIR/target         the base model
    DIR/nla.json, DIR/mean.safetensors   the card, and what a fidelity is measured against
    DIR/export.json    what was written, so that nothing else is ever overwritten

DIR is then an NLA of its own: `nlakit explain --nla DIR`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from nlakit.card import CARD_NAME, MEAN_NAME, NlaCard, write_card
from nlakit.claims.confidence import CONFIDENCE_NAME
from nlakit.config import write_text_atomic
from nlakit.contract import NlaMeta, read_meta
from nlakit.core.fidelity import Baseline
from nlakit.core.scale import resolve_scale
from nlakit.errors import CheckpointError, InputError
from nlakit.files import read_json_object
from nlakit.models.fingerprint import target_fingerprint
from nlakit.models.placement import ON_CPU, Placement
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer
from nlakit.pair.load import load_reconstructor, load_target, load_verbalizer, read_facts
from nlakit.pair.source import PairSource
from nlakit.publish.model_card import Facts, render_card
from nlakit.registry import bundled_path

REPORT_NAME, MANIFEST_NAME = "report.json", "export.json"
TARGET_NAME = "target"
LICENSE_OF_OURS = "apache-2.0"
PROBE_TEXT = "The ship left at 17:45, late again."
TOLERANCE = 1e-3
"""Of the largest number that a model gives, between what was read and what was written."""


def export(
    source: PairSource,
    output: Path,
    *,
    license_name: str | None = None,
    data: str | None = None,
    where: Placement = ON_CPU,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write the pair, one model at a time, and check that what was written computes the same.

    Args:
        license_name: of the base; None: as its own README says.
        data: what the pair was trained on; None: as the contract's notes say.
        where: device and precision in which models are held and compared.
        dtype: of the weights on disk; None: as they are stored. A float32 head stays so.
        overwrite: take the place of an earlier export, if nothing else is in `output`.

    Raises:
        InputError: `output` holds something already.
        CheckpointError, ContractError: a part cannot be read, or was not written as it is.
    """
    check_output(output, source, overwrite)
    card, baseline = read_facts(source)
    facts = gather(source, card, license_name, data)
    output.mkdir(parents=True, exist_ok=True)
    # Named before anything is written: what a killed export leaves may be overwritten too.
    _write_manifest(output, [])
    base = source.target
    _write_av(load_verbalizer(source.av, base, _stored(where)), output / "av", where, dtype)
    _write_ar(load_reconstructor(source.ar, base, _stored(where)), output / "ar", where, dtype)
    target = load_target(base, card.layer, _stored(where))
    _write_target(target, output / TARGET_NAME, where, dtype)
    for role in ("av", "ar"):
        write_text_atomic(output / role / "README.md", render_card(facts, role))
    if baseline is not None:
        _write_baseline(baseline, output)
    if source.paths is not None and (source.paths.pair / CONFIDENCE_NAME).is_file():
        shutil.copyfile(source.paths.pair / CONFIDENCE_NAME, output / CONFIDENCE_NAME)
    known = card.target_fingerprint or target_fingerprint(target)
    write_card(output, card.model_copy(update={"target_fingerprint": known}))
    files = [path for path in sorted(output.rglob("*")) if path.is_file()]
    _write_manifest(output, [path.relative_to(output).as_posix() for path in files])
    names = ("av", "ar", TARGET_NAME, MEAN_NAME, CARD_NAME)
    return [output / name for name in names if (output / name).exists()]


# -- models ----------------------------------------------------------------------------------------
def _stored(where: Placement) -> Placement:
    """The device, with each model in the precision it is stored in."""
    return where._replace(dtype=None)


def _write_av(
    verbalizer: Verbalizer, output: Path, where: Placement, dtype: torch.dtype | None
) -> None:
    verbalizer.meta = _with_numbers(verbalizer.meta)
    verbalizer.save(output, dtype)
    _compare(verbalizer, load_verbalizer(output, output, _stored(where)), _of_av, output, dtype)


def _write_ar(
    reconstructor: Reconstructor, output: Path, where: Placement, dtype: torch.dtype | None
) -> None:
    reconstructor.meta = _with_numbers(reconstructor.meta)
    reconstructor.save(output, dtype)
    again = load_reconstructor(output, output, _stored(where))
    _compare(reconstructor, again, _of_ar, output, dtype)


def _write_target(
    target: Target, output: Path, where: Placement, dtype: torch.dtype | None
) -> None:
    target.save(output, dtype)
    again = load_target(output, target.site.layer, _stored(where))
    _compare(target, again, _of_target, output, dtype)


def _with_numbers(meta: NlaMeta) -> NlaMeta:
    """The contract with its scales as numbers: other clients call `float` on them."""
    scales = {"mse_scale", "injection_scale"}
    named = {name: resolve_scale(getattr(meta.extraction, name), meta.d_model) for name in scales}
    return meta.model_copy(update={"extraction": meta.extraction.model_copy(update=named)})


def _compare(
    model: Any,
    written: Any,
    probe: Callable[[Any], Tensor],
    output: Path,
    dtype: torch.dtype | None,
) -> None:
    """Raise `CheckpointError` unless a written model computes what the one in memory does."""
    if dtype is not None and dtype != _dtype_of(model):
        return  # rounded on purpose
    with torch.no_grad():
        expected, found = probe(model).float(), probe(written).float()
    difference = (expected - found).abs().max() / expected.abs().max().clamp_min(1e-12)
    if not float(difference) <= TOLERANCE:
        raise CheckpointError(
            f"{output} was written otherwise than it is in memory: its numbers differ by "
            f"{float(difference):.2g} of the largest. Do not use it, and report this."
        )


def _dtype_of(model: Any) -> torch.dtype:
    return model.backbone.dtype if isinstance(model, Reconstructor) else model.model.dtype


def _of_av(verbalizer: Verbalizer) -> Tensor:
    d_model = verbalizer.meta.d_model
    vector_1D = torch.linspace(-1, 1, d_model)[None]
    return verbalizer.logprobs(vector_1D, [verbalizer.encode_response(PROBE_TEXT)])[0]


def _of_ar(reconstructor: Reconstructor) -> Tensor:
    return reconstructor.reconstruct([PROBE_TEXT])


def _of_target(target: Target) -> Tensor:
    return target.activations([target.encode(PROBE_TEXT).ids])[0]


# -- what is known ---------------------------------------------------------------------------------
def gather(source: PairSource, card: NlaCard, license_name: str | None, data: str | None) -> Facts:
    """What a model card says, from the contract, the card, the report and the base's README."""
    meta = read_meta(source.av)
    home = None if source.paths is None else source.paths.pair
    report, bundled = _read_report(home), home == bundled_path()
    notes = {**meta.provenance, **card.provenance}
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
        data=data or card.domain or _noted(notes, "trained_on", "dataset_id", "recipe"),
        license_name=license_name or found,
        fve=report.get("fve", card.fve),
        fve_interval=report.get("fve_interval"),
        variance=report.get("variance", card.variance if known else None),
        documents=report.get("documents"),
        floors=card.floors,
        claims=report.get("claims") or {},
    )


def _write_baseline(baseline: Baseline, output: Path) -> None:
    tensors = {"mean": baseline.mean_D, "variance": torch.tensor([baseline.variance])}
    save_file(tensors, output / MEAN_NAME)


def _read_report(directory: Path | None) -> dict[str, Any]:
    path = None if directory is None else directory / REPORT_NAME
    if path is None or not path.is_file():
        return {}
    return read_json_object(path, CheckpointError)


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


# -- the directory ---------------------------------------------------------------------------------
def check_output(output: Path, source: PairSource, overwrite: bool = False) -> None:
    """Raise `InputError` where writing into `output` would lose anything of anybody's."""
    if output.exists() and not output.is_dir():
        raise InputError(f"--output {output} is a file. Give a directory, there or not.")
    for part in source.models.values():
        if output.resolve() in (part.resolve(), part.resolve().parent):
            raise InputError(f"--output {output} holds the pair that is exported. Give another.")
    there = _files_in(output)
    if not there:
        return
    strangers = sorted(there - _written_before(output))
    if strangers:
        raise InputError(
            f"--output {output} holds {len(there)} files, among them {strangers[0]}, which no "
            "export wrote. Give a directory that is new or empty."
        )
    if not overwrite:
        raise InputError(
            f"--output {output} holds an export already. Give another directory, or --overwrite."
        )


def _files_in(output: Path) -> set[str]:
    if not output.is_dir():
        return set()
    return {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}


def _written_before(output: Path) -> set[str]:
    """What an earlier export wrote there; of one that was killed, all of its directories."""
    path = output / MANIFEST_NAME
    if not path.is_file():
        return set()
    files = read_json_object(path, InputError).get("files")
    if not isinstance(files, list):
        return {MANIFEST_NAME}
    if files:
        return {*map(str, files), MANIFEST_NAME}
    ours = ("av/", "ar/", f"{TARGET_NAME}/", ".", MEAN_NAME, CARD_NAME, CONFIDENCE_NAME)
    return {name for name in _files_in(output) if name.startswith((*ours, MANIFEST_NAME))}


def _write_manifest(output: Path, files: list[str]) -> None:
    raw = {"kind": "nla_export", "files": files}
    write_text_atomic(output / MANIFEST_NAME, json.dumps(raw, indent=2) + "\n")
