"""Examines a pair, first its files and then what it says, and tells what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from nlakit.config import FrozenModel
from nlakit.contract import read_meta
from nlakit.core.fidelity import mean_of
from nlakit.engines.base import OnText, Sampling
from nlakit.errors import InputError, UserError
from nlakit.models.families import cut_config
from nlakit.models.fingerprint import target_fingerprint
from nlakit.models.io import load_config, load_tokenizer, save_tensors
from nlakit.models.lora import open_checkpoint
from nlakit.pair.pair import Pair
from nlakit.pair.source import PairSource
from nlakit.publish.checks import (
    Check,
    Evidence,
    Part,
    check_ar_bos,
    check_closed,
    check_contract,
    check_dependence,
    check_fidelity,
    check_match,
    check_padding,
    check_scale,
    check_script,
    check_template,
    check_vocabulary,
    likelihood_gap,
)

PLACES = 3
"""Vectors explained per text, spread over its second half."""
TEXTS = (
    "The kettle had boiled twice before anyone came down. Rain ran along the gutter, and from the "
    "window you could see the postman under the neighbour's porch, waiting for it to stop.",
    "To merge two sorted lists, compare their first items, move the smaller one to the result, "
    "and repeat until one list is empty; then append what is left of the other.",
    "The committee met on Tuesday to discuss the bridge. Engineers reported that the repairs would "
    "cost twice the estimate, and the mayor asked whether the work could wait until spring.",
    "Sugar maples store starch in their roots during summer. When nights freeze and days thaw, "
    "pressure in the wood drives the sap upward, and it can be tapped for about six weeks.",
)
"""Plain prose of our own, for pairs that were trained on anything like it."""


class Diagnosis(FrozenModel):
    """All checks, in order."""

    checks: tuple[Check, ...]

    @property
    def failed(self) -> bool:
        """Whether something is wrong that must be put right."""
        return any(check.status == "fail" for check in self.checks)


def diagnose(
    source: PairSource,
    load: Callable[[], Pair],
    texts: Sequence[str],
    *,
    max_new_tokens: int = 120,
    on_text: OnText | None = None,
) -> Diagnosis:
    """Examine the files; where they allow it, load the pair and examine what it says.

    Args:
        load: gives the pair; called only when the files are sound.
    """
    checks = tuple(check_files(source))
    if any(check.status == "fail" for check in checks):
        return Diagnosis(checks=checks)
    said = check_behaviour(load(), texts, max_new_tokens=max_new_tokens, on_text=on_text)
    return Diagnosis(checks=checks + tuple(said))


def check_files(source: PairSource) -> Iterator[Check]:
    """Everything that can be told without running a model."""
    parts = {}
    for role in ("av", "ar", "target"):
        try:
            parts[role] = _read_part(role, source)
        except UserError as error:
            yield Check(
                name=f"files of {role}",
                status="fail",
                found=str(error),
                expected="config, tokenizer and contract that can be read",
                advice="Copy or download it again.",
            )
    if len(parts) < len(source.models):
        return
    av, ar, target = parts["av"], parts["ar"], parts["target"]
    yield Check(name="files", status="ok", found="all there", expected="all there")
    yield from check_contract(av, ar)
    yield from check_match(av, ar, target)
    yield check_vocabulary(av, target)
    yield check_vocabulary(ar, target)
    yield check_template(av, target)
    yield check_ar_bos(ar, target)
    yield check_padding(ar)


def check_behaviour(
    pair: Pair, texts: Sequence[str], *, max_new_tokens: int = 120, on_text: OnText | None = None
) -> Iterator[Check]:
    """What the pair says of vectors of some texts."""
    evidence = gather(pair, texts, max_new_tokens, on_text)
    if pair.verbalizer is not None:
        yield check_scale(pair.verbalizer.meta, evidence.vectors_ND)
    yield check_weights(pair, evidence.vectors_ND)
    yield check_closed(evidence.answers)
    yield check_script(evidence.answers, evidence.texts)
    yield check_dependence(evidence.answers, evidence.gap)
    yield check_fidelity(evidence)


def check_weights(pair: Pair, vectors_ND: Tensor) -> Check:
    """The target has the weights that the pair was trained on, or how far it has moved."""
    known = pair.card.target_fingerprint
    found = target_fingerprint(pair.target)
    name, expected = "target weights", "those that the pair was trained on"
    if known is None or found is None:
        told = "the card does not say them" if known is None else "not told in this precision"
        return Check(name=name, status="ok", found=told, expected=expected)
    if known == found:
        return Check(name=name, status="ok", found="the same", expected=expected)
    moved = torch.cosine_similarity(mean_of(vectors_ND).mean_D, pair.mean_D, dim=0).item()
    norm = vectors_ND.norm(dim=-1).median().item()
    return Check(
        name=name,
        status="warn",
        found=f"others; the mean of these activations has a cosine of {moved:.3f} with the mean "
        f"of the training vectors, and their median norm is {norm:.4g}",
        expected=expected,
        advice="Give the target that the pair was trained on, or believe less: its figures were "
        "measured there.",
    )


def gather(
    pair: Pair,
    texts: Sequence[str],
    max_new_tokens: int,
    on_text: OnText | None = None,
) -> Evidence:
    """Explain some vectors of the texts, greedily, and reconstruct them.

    Raises:
        InputError: no texts, or one that the target cannot read.
    """
    per_text = [extract_all(pair, text) for text in texts]
    if not per_text:
        raise InputError("There is no text to read. Give at least one.")
    read = [rows[_places(len(rows))] for rows in per_text]
    vectors_ND = torch.cat(read)
    sampling = Sampling(max_new_tokens=max_new_tokens)
    answers = [group[0] for group in pair.engine.verbalize(vectors_ND, sampling, on_text)]
    return Evidence(
        texts=texts,
        vectors_ND=vectors_ND,
        answers=answers,
        rebuilt_ND=pair.rebuild([each.text for each in answers]),
        scale=pair.scale,
        mean_D=_mean(pair, torch.cat(per_text)),
        gap=_gap(pair, vectors_ND, [list(each.ids) for each in answers]),
        sources=[number for number, rows in enumerate(read) for _ in rows],
    )


def _mean(pair: Pair, vectors_ND: Tensor) -> Tensor:
    """The training mean, or that of the vectors of the texts in its place."""
    return mean_of(vectors_ND).mean_D if pair.card.baseline == "none" else pair.mean_D


def write_mean(pair: Pair, texts: Sequence[str], path: Path) -> int:
    """Write `mean` and `variance` of all activations of the texts; returns how many there were."""
    vectors_ND = torch.cat([extract_all(pair, text) for text in texts])
    found = mean_of(vectors_ND)
    tensors = {"mean": found.mean_D, "variance": torch.tensor([found.variance])}
    save_tensors(path, tensors, None)
    return len(vectors_ND)


def extract_all(pair: Pair, text: str) -> Tensor:
    """Activations at the text's tokens, BOS left out: P x D."""
    encoded = pair.encode(text)
    places = [place for place, (start, end) in enumerate(encoded.offsets) if end > start]
    return pair.engine.extract(encoded, places).cpu()


def _places(num_tokens: int) -> list[int]:
    """Places in the second half, where there is something to know."""
    half = num_tokens // 2
    return sorted(
        {half + (num_tokens - 1 - half) * index // PLACES for index in range(1, PLACES + 1)}
    )


def _gap(pair: Pair, vectors_ND: Tensor, responses: list[list[int]]) -> float | None:
    verbalizer = pair.verbalizer
    if verbalizer is None or len(vectors_ND) < 2:
        return None
    with torch.no_grad():
        own = verbalizer.logprobs(vectors_ND, responses)
        other = verbalizer.logprobs(vectors_ND.roll(1, dims=0), responses)
    return likelihood_gap(own, other)


def _read_part(role: str, source: PairSource) -> Part:
    if role == "target":
        found = open_checkpoint(source.target)
        return Part("target", load_config(found.weights), load_tokenizer(found.tokenizer), None)
    directory = source.models[role]
    parts = open_checkpoint(directory, source.target)
    meta, config = read_meta(directory), load_config(parts.weights)
    if role == "ar" and parts.adapter is not None:
        config = cut_config(config, meta.extraction.layer_index + 1)
    tokenizer = load_tokenizer(parts.tokenizer)
    return Part("av" if role == "av" else "ar", config, tokenizer, meta)
