"""`nlakit eval lens`: the logit and the Jacobian lens at every block."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nlakit.evals.lens import LensText, lens_section
from nlakit.models.lens import Lens, load_lens
from nlakit.models.target import Target
from nlakit.registry import BUNDLED
from nlakit.sae.texts import Passage
from nlakit.worlds.storyworld.sae import CORPUS_NAME

from ..devices import AUTOMATIC, DeviceOptions
from ..lens import default_path
from ..saes import load_target, texts_of
from .common import Documents, Json, Output, Seed, check_output, give, measuring


def lens(
    *,
    model: str = BUNDLED,
    corpus: str = CORPUS_NAME,
    documents: Documents = 100,
    seed: Seed = 90_001,
    lens_file: Annotated[Path | None, Parameter(negative=())] = None,
    devices: DeviceOptions = AUTOMATIC,
    output: Output = None,
    json: Json = False,
) -> None:
    """Read every block with the logit lens, and with the Jacobian lens where one was fitted.

    Parameters
    ----------
    model
        bundled, a model directory, or a name on the hub.
    corpus
        storyworld, where it is known what is planned, or a corpus as `nlakit extract` takes it.
    lens_file
        The Jacobian lens; by default the one that `nlakit lens fit` has made.
    """
    check_output(output)
    target = load_target(model, 0, devices)
    path = lens_file or default_path(target)
    fitted = [load_lens(path, target.d_model)] if path.exists() or lens_file else []
    with measuring():
        passages = islice(texts_of(corpus, seed).passages(target, "heldout"), documents)
        texts = [lens_text(target, each) for each in passages]
        section = lens_section(target, [Lens(), *fitted], texts, model, seed)
    give(section, output, json)


def lens_text(target: Target, passage: Passage) -> LensText:
    """A passage as the evaluation takes it, what is planned as the first token of its value."""
    planned = None
    if passage.planned is not None:
        planned = [
            sorted({first_token(target, fact.partition("=")[2]) for fact in facts})
            for facts in passage.planned
        ]
    return LensText(passage.id, passage.encoded.ids, passage.positions, planned)


def first_token(target: Target, value: str) -> int:
    """The token that a value starts with in running text."""
    return target.tokenizer.encode(f" {value}", add_special_tokens=False)[0]
