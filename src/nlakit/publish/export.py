"""A pair as directories that other clients of the method read: full weights, contract, model card.

    DIR/av, DIR/ar     Hugging Face model directories with `nla_meta.yaml` and a README.md
    DIR/target         the base model, where nobody could download it
    DIR/mean.safetensors, DIR/nla.json   what a fidelity is measured against

With a target, DIR is an NLA of its own: `nlakit explain --nla DIR`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

from nlakit.card import CARD_NAME, MEAN_NAME, NlaCard, read_card, write_card
from nlakit.config import write_text_atomic
from nlakit.contract import read_meta
from nlakit.errors import CheckpointError, InputError
from nlakit.models.io import stored_dtype
from nlakit.models.lora import open_checkpoint
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer
from nlakit.pair.load import PairSource
from nlakit.publish.model_card import Facts, render_card
from nlakit.registry import bundled_path, resolve

REPORT_NAME = "report.json"
TARGET_NAME = "target"
LICENSE_OF_OURS = "apache-2.0"


class Source(NamedTuple):
    """What is exported.

    Attributes:
        pair: where the three models are.
        card: of the NLA; None for a loose pair.
        directory: of the NLA, with its mean and report; None for a loose pair.
    """

    pair: PairSource
    card: NlaCard | None
    directory: Path | None

    @property
    def has_target(self) -> bool:
        """Whether the target is written too: nobody can download that of an NLA."""
        return self.card is not None and self.directory is not None


def source_of_nla(name: str | Path | None) -> Source:
    """The parts of an NLA on disk. Raises as `registry.resolve` does."""
    directory = resolve(name)
    pair = PairSource(directory / "av", directory / "ar", directory / "target")
    return Source(pair, read_card(directory), directory)


def export(
    source: Source,
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
    facts = gather(source, license_name, data)
    pair = source.pair
    _save(Verbalizer, pair.av, output / "av", pair.target, dtype)
    _save(Reconstructor, pair.ar, output / "ar", pair.target, dtype)
    for role in ("av", "ar"):
        write_text_atomic(output / role / "README.md", render_card(facts, role))
    written = [output / "av", output / "ar"]
    if source.card is not None and source.directory is not None:
        target = Target.load(pair.target, source.card.layer, stored_dtype(pair.target))
        target.save(output / TARGET_NAME)
        _write_baseline(source.directory, source.card, output)
        written += [output / TARGET_NAME, output / MEAN_NAME, output / CARD_NAME]
    return written


def gather(source: Source, license_name: str | None, data: str | None) -> Facts:
    """What a model card says, from the contract, the card, the report and the base's README."""
    meta = read_meta(source.pair.av)
    report = _read_report(source.directory)
    bundled = source.directory == bundled_path()
    notes = {**meta.provenance, **(source.card.provenance if source.card else {})}
    described = "storyworld documents, generated (nlakit.storyworld)" if bundled else None
    found = LICENSE_OF_OURS if bundled else _license_in(source.pair.target)
    base = meta.extraction.base_model or source.pair.target.name
    return Facts(
        name=source.card.name if source.card else source.pair.av.resolve().name,
        base=base,
        target=TARGET_NAME if source.has_target else base,
        layer=meta.extraction.layer_index,
        d_model=meta.d_model,
        injection=meta.injection.convention,
        injection_scale=meta.extraction.injection_scale,
        data=data or described or _noted(notes, "trained_on", "dataset_id", "recipe"),
        license_name=license_name or found,
        fve=report.get("fve", source.card.fve if source.card else None),
        fve_interval=report.get("fve_interval"),
        variance=report.get("variance", source.card.variance if source.card else None),
        documents=report.get("documents"),
        floors=source.card.floors if source.card else {},
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


def _write_baseline(directory: Path, card: NlaCard, output: Path) -> None:
    mean_D = load_file(directory / MEAN_NAME)["mean"]
    tensors = {"mean": mean_D, "variance": torch.tensor([card.variance])}
    save_file(tensors, output / MEAN_NAME)
    write_card(output, card)


def _check_output(output: Path, source: Source) -> None:
    if output.exists() and not output.is_dir():
        raise InputError(f"--output {output} is a file. Give a directory, there or not.")
    for part in source.pair:
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
