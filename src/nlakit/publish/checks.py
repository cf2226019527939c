"""What can be wrong with a pair, one function a check: from its files, or from what it said."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from nlakit.config import FrozenModel
from nlakit.contract import NlaMeta, Role, disagreements, render_ar, render_chat
from nlakit.core.fidelity import fve
from nlakit.core.inject import check_vectors
from nlakit.core.scale import resolve_scale
from nlakit.engines.base import Completion
from nlakit.errors import ContractError
from nlakit.evals.floors import derangement

Status = Literal["ok", "warn", "fail"]
PROBES = (
    "The ship left at 17:45 — late again!",
    "def area(r):\n    return 3.14159 * r ** 2",
    "Grüße aus Köln; ça va? Привет, 世界.",
    "<concept>x</concept> <text> </text> <summary>",
)
"""Texts on which two tokenizers that differ are likely to differ."""
MOST, GAP, SCALE_FACTOR = 0.9, 0.02, 5.0
OTHER_PAIR = "Give the tokenizer and base model that the pair was made with."


class Check(FrozenModel):
    """One thing that was looked at."""

    name: str
    status: Status
    found: str
    expected: str
    advice: str = ""
    """What to do; empty where all is well."""


@dataclass(frozen=True)
class Part:
    """One model's files, read without its weights. A target has no contract."""

    role: Literal["av", "ar", "target"]
    config: Any
    tokenizer: PreTrainedTokenizerBase
    meta: NlaMeta | None


@dataclass(frozen=True)
class Evidence:
    """What a pair said of some vectors, N of them.

    Attributes:
        texts: what the vectors were read in.
        vectors_ND, rebuilt_ND: raw activations, and what the AR made of the answers.
        answers: one of the AV per vector.
        scale: norm at which vectors are compared.
        mean_D: mean of activations brought to `scale`.
        gap: by how many nats a token an answer is likelier under its own vector than under
            another; None where the engine gives no probabilities.
        sources: the number of the text of each vector.
    """

    texts: Sequence[str]
    vectors_ND: Tensor
    answers: Sequence[Completion]
    rebuilt_ND: Tensor
    scale: float
    mean_D: Tensor
    gap: float | None
    sources: Sequence[int]


# ---- from the files


def check_contract(av: Part, ar: Part) -> Iterator[Check]:
    """Marker, template, BOS, layer and width, each of the two against its own tokenizer."""
    problems: dict[str, list[tuple[Role, ContractError]]] = {}
    parts: tuple[tuple[Part, Role], ...] = ((av, "av"), (ar, "ar"))
    for part, role in parts:
        assert part.meta is not None, "only a target has no contract"
        for error in disagreements(part.meta, part.tokenizer, part.config, role):
            problems.setdefault(_name_of(error), []).append((role, error))
    for name, advice in _CONTRACT_ADVICE.items():
        found = problems.get(name, [])
        if not found:
            yield Check(name=name, status="ok", found="as recorded", expected="as recorded")
        for role, error in found:
            yield Check(
                name=name,
                status="fail",
                found=f"{role}: {error.field} is {error.found}",
                expected=str(error.expected),
                advice=advice,
            )


_CONTRACT_ADVICE = {
    "marker": OTHER_PAIR,
    "template": f"The chat template or the prompts have changed. {OTHER_PAIR}",
    "bos": "The prompt must start with one BOS: put back the tokenizer's own post-processor.",
    "layer": "Take the AV and AR of one layer, and a base model that has it.",
    "width": "Take the AV, AR and target of one base model.",
    "role": "Give the verbalizer as --av and the reconstructor as --ar.",
}


def _name_of(error: ContractError) -> str:
    if "BOS" in str(error.expected):
        return "bos"
    if error.field in ("role", "d_model"):
        return {"role": "role", "d_model": "width"}[error.field]
    if error.field.endswith(("layer_index", "injection.layer")):
        return "layer"
    if error.field in ("tokens.injection_char", "tokens.injection_token_id"):
        return "marker"
    return "template"


def check_vocabulary(part: Part, target: Part) -> Check:
    """The pair's tokenizer encodes as the target's, and the model has a row for each id."""
    name = f"vocabulary of {part.role}"
    for text in PROBES:
        found, expected = (_plain_ids(each, text) for each in (part, target))
        if found != expected:
            return Check(
                name=name,
                status="fail",
                found=f"{text!r} is {found}",
                expected=f"{expected}, as the target's tokenizer has it",
                advice=OTHER_PAIR,
            )
    num_rows, num_ids = part.config.vocab_size, len(part.tokenizer)
    fits = num_ids <= num_rows
    return Check(
        name=name,
        status="ok" if fits else "fail",
        found=f"{num_ids} tokens, {num_rows} embeddings",
        expected="the target's tokens, and an embedding for each",
        advice="" if fits else "The tokenizer has grown tokens that the model was not trained on.",
    )


def _plain_ids(part: Part, text: str) -> list[int]:
    return part.tokenizer.encode(text, add_special_tokens=False)


def check_template(av: Part, target: Part) -> Check:
    """The AV's chat template renders as the target's, where both have one."""
    message = [{"role": "user", "content": "Read this."}]
    found, expected = (
        render_chat(part.tokenizer, message, add_generation_prompt=True)
        if part.tokenizer.chat_template
        else None
        for part in (av, target)
    )
    same = found == expected or expected is None
    return Check(
        name="template of av",
        status="ok" if same else "warn",
        found=repr(found),
        expected=repr(expected),
        advice=""
        if same
        else "The AV's own template is used. If it was trained with the target's, put that back.",
    )


def check_ar_bos(ar: Part, target: Part) -> Check:
    """Where the target's tokenizer starts texts with BOS, the AR's prompt starts so too."""
    assert ar.meta is not None, "only a target has no contract"
    bos = target.tokenizer.bos_token_id
    expects = bos is not None and target.tokenizer.encode("a")[:1] == [bos]
    has = render_ar(ar.meta, ar.tokenizer).prefix_ids[:1] == [bos]
    return Check(
        name="bos of ar",
        status="ok" if has or not expects else "fail",
        found="BOS first" if has else "no BOS",
        expected="BOS first" if expects else "whatever the tokenizer does",
        advice="" if has or not expects else _CONTRACT_ADVICE["bos"],
    )


def check_match(av: Part, ar: Part, target: Part) -> Iterator[Check]:
    """The three belong together: layer, depth, width and scale of comparison."""
    assert av.meta is not None and ar.meta is not None, "only a target has no contract"
    layers = av.meta.extraction.layer_index, ar.meta.extraction.layer_index
    depth = target.config.num_hidden_layers
    fits = layers[0] == layers[1] < depth
    yield Check(
        name="layer of the pair",
        status="ok" if fits else "fail",
        found=f"AV {layers[0]}, AR {layers[1]}, target of {depth} blocks",
        expected="one layer, that the target has",
        advice="" if fits else _CONTRACT_ADVICE["layer"],
    )
    widths = av.meta.d_model, ar.meta.d_model, target.config.hidden_size
    yield Check(
        name="width of the pair",
        status="ok" if len(set(widths)) == 1 else "fail",
        found=f"AV {widths[0]}, AR {widths[1]}, target {widths[2]}",
        expected="one width",
        advice="" if len(set(widths)) == 1 else _CONTRACT_ADVICE["width"],
    )


def check_padding(ar: Part) -> Check:
    """The AR is read at the last token; nlakit finds it on either side, other clients do not."""
    side = ar.tokenizer.padding_side
    return Check(
        name="padding side of ar",
        status="ok" if side == "right" else "warn",
        found=side,
        expected="right",
        advice=""
        if side == "right"
        else "nlakit reads it rightly; a client that pads as the tokenizer says and looks for the "
        "last token by length reads another one. Set padding_side to right.",
    )


# ---- from what it said


def check_scale(av: NlaMeta, vectors_ND: Tensor) -> Check:
    """The injected norm is near the 75th percentile of activation norms, where pairs have it."""
    check_vectors(vectors_ND, av.d_model)
    usual = vectors_ND.float().norm(dim=-1).quantile(0.75).item()
    expected = f"within {SCALE_FACTOR:g} times of {usual:.4g}, the 75th percentile of norms"
    scale = resolve_scale(av.extraction.injection_scale, av.d_model)
    if av.injection.convention == "add":
        return Check(name="scale", status="ok", found="norm of the residual", expected=expected)
    if scale is None:
        return Check(name="scale", status="ok", found="vectors as they are", expected=expected)
    factor = max(scale / usual, usual / scale)
    status: Status = "ok" if factor <= SCALE_FACTOR else "warn"
    return Check(
        name="scale",
        status="fail" if factor > SCALE_FACTOR**3 else status,
        found=f"{scale:g}",
        expected=expected,
        advice="" if status == "ok" else "Check injection_scale, and that this is the right layer.",
    )


def check_closed(answers: Sequence[Completion]) -> Check:
    """Answers have their closing tag."""
    share = sum(each.closed for each in answers) / len(answers)
    return Check(
        name="closed",
        status="ok" if share >= MOST else "warn" if share >= 0.5 else "fail",
        found=f"{share:.0%} of {len(answers)} explanations end in their tag",
        expected=f"{MOST:.0%}",
        advice=""
        if share >= MOST
        else "Give a larger --max-new-tokens; if that does not help, the weights are not those of "
        "a verbalizer, or its prompt is another one.",
    )


def check_script(answers: Sequence[Completion], texts: Sequence[str]) -> Check:
    """Explanations are not all in one foreign script: so a verbalizer talks of its bare marker."""
    said, read = (_scripts(each) for each in ([a.text for a in answers], texts))
    top, share = _top(said)
    foreign = share >= MOST and top not in read
    return Check(
        name="script",
        status="fail" if foreign else "ok",
        found=f"{share:.0%} of letters are {top}",
        expected=f"scripts of the texts that were read: {', '.join(sorted(read)) or 'none'}",
        advice="The vector does not reach the model, which talks about the marker instead: check "
        "the injection convention and the marker."
        if foreign
        else "",
    )


def check_dependence(answers: Sequence[Completion], gap: float | None) -> Check:
    """Different vectors give different explanations, each likelier under its own vector."""
    distinct = len({each.text for each in answers})
    varied = distinct > len(answers) / 2 or len(answers) == 1
    told = gap is None or gap > GAP
    known = "" if gap is None else f"; own vector over another: {gap:.3f} nats a token"
    return Check(
        name="dependence",
        status="ok" if varied and told else "fail",
        found=f"{distinct} different explanations of {len(answers)} vectors{known}",
        expected=f"more than half, and more than {GAP} nats",
        advice=""
        if varied and told
        else "The explanations do not depend on the vector: check convention, marker and scale.",
    )


def check_fidelity(evidence: Evidence) -> Check:
    """Reconstructions beat the mean activation, and those of other texts' explanations."""
    vectors_ND, rebuilt_ND = evidence.vectors_ND, evidence.rebuilt_ND
    against = evidence.mean_D, evidence.scale
    own = fve(vectors_ND, rebuilt_ND, *against).fve
    others, of = _others(evidence.sources)
    shuffled = fve(vectors_ND, rebuilt_ND[others], *against).fve
    good = own > max(0.0, shuffled)
    return Check(
        name="fidelity",
        status="ok" if good else "fail",
        found=f"FVE {own:.3f}; with the explanations of other {of} {shuffled:.3f}",
        expected="above 0, the error of the plain mean, and above other explanations",
        advice=""
        if good
        else "Check that AV and AR are of one pair and layer, the AR's prompt and BOS, and that "
        "the texts are of the kind it was trained on (--file).",
    )


def _others(sources: Sequence[int]) -> tuple[list[int], str]:
    """For each row one of another text, as the floor of reports has it; else the next row."""
    counts = Counter(sources)
    if 2 * max(counts.values()) <= len(sources):
        return derangement([str(each) for each in sources]), "texts"
    return [(row - 1) % len(sources) for row in range(len(sources))], "tokens"


def _scripts(texts: Iterable[str]) -> Counter[str]:
    """Letters per script, by the first word of their Unicode names."""
    letters = (char for text in texts for char in text if char.isalpha())
    return Counter(unicodedata.name(char, "UNKNOWN").split()[0] for char in letters)


def _top(counts: Counter[str]) -> tuple[str, float]:
    if not counts:
        return "none", 0.0
    name, count = counts.most_common(1)[0]
    return name, count / counts.total()


def likelihood_gap(own: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
    """Nats a token; each pair is (logprobs_BT, mask_BT) of the same answers."""
    difference_BT = torch.where(own[1], own[0] - other[0], torch.zeros_like(own[0]))
    return (difference_BT.sum() / own[1].sum().clamp_min(1)).item()
