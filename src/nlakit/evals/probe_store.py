"""Probes kept beside a pair: what a linear classifier reads from an activation, kind by kind.

`probes.safetensors` holds `weight` (C x D) and `bias` (C) over raw activations, the values of all
kinds one after the other; `probes.json` says which values these are, how often each kind's probe is
right, and of which target. They are made once, when a pair is published, so that a server needs no
training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import pydantic
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from nlakit.card import read_card
from nlakit.claim import Fact
from nlakit.config import FrozenModel, describe_errors, validate_json, write_text_atomic
from nlakit.data.shards import file_sha256
from nlakit.errors import CheckpointError
from nlakit.models.target import Target
from nlakit.models.tensor_files import write_tensors

from .claims import facts_of
from .eval_set import EvalSet
from .probes import (
    MANY_VALUES,
    MIN_TRAIN_ROWS,
    PROBE_POSITIONS,
    PROBE_ROWS,
    PROBE_SEED,
    PROBES_NAME,
    ProbeTraining,
    linear_probe,
    train_probe,
    with_fact,
)

PROBE_CARD_NAME = "probes.json"
DOCUMENTS = PROBE_ROWS // PROBE_POSITIONS
TEST_SEED, TEST_DOCUMENTS = 70_002, 1_000
AGAIN = "Copy the NLA again; whoever trained it makes its probes."


class ProbedKind(FrozenModel):
    """One kind's probe: its values in the order of its rows, and how often it is right."""

    values: tuple[str, ...]
    accuracy: float
    """Share of held-out rows with the fact whose value it names."""
    chance: float
    """Share of the commonest value among those rows."""
    num_test: int


class ProbeCard(FrozenModel):
    """What `probes.json` holds."""

    format_version: Literal[1] = 1
    target_sha256: str
    """Of the target's `model.safetensors`: another target's activations mean something else."""
    layer: int
    num_train: int
    """Rows of the training split that were drawn; a kind learned from those that have its fact."""
    kinds: dict[str, ProbedKind]


class ProbeAnswer(NamedTuple):
    """What a probe reads, and the probability it gives to that."""

    value: str
    confidence: float


@dataclass(frozen=True)
class Probes:
    """One linear probe a kind of fact, all in one matrix.

    Attributes:
        weight_CD, bias_C: over raw activations; rows in the order of `card.kinds`.
    """

    card: ProbeCard
    weight_CD: Float[Tensor, "C D"]
    bias_C: Float[Tensor, " C"]

    def read(self, vector_D: Float[Tensor, " D"]) -> dict[str, ProbeAnswer]:
        """Each kind's likeliest value at an activation; nothing where it is not finite."""
        logits_C = self.weight_CD @ vector_D.float() + self.bias_C
        if not bool(logits_C.isfinite().all()):
            return {}
        sizes = [len(kind.values) for kind in self.card.kinds.values()]
        answers = {}
        for (name, kind), part in zip(self.card.kinds.items(), logits_C.split(sizes), strict=True):
            confidence, best = part.softmax(-1).max(-1)
            answers[name] = ProbeAnswer(kind.values[int(best)], float(confidence))
        return answers


def fit_store(
    target: Target,
    target_sha256: str,
    eval_set: EvalSet,
    num_documents: int = DOCUMENTS,
    test_documents: int = TEST_DOCUMENTS,
) -> Probes:
    """Probes of a target, trained on the training split and tested on held-out documents.

    They are the report's linear probes: the same rows, the same training.
    """
    train = eval_set.sample(target, "train", PROBE_SEED, num_documents, PROBE_POSITIONS)
    test = eval_set.sample(target, "heldout", TEST_SEED, test_documents)
    train_facts, test_facts = (
        facts_of(each.states or (), eval_set.claims) for each in (train, test)
    )
    center_D = train.vectors_ND.mean(0)
    spread_D = train.vectors_ND.std(0).clamp_min(1e-6)
    weights, biases = [train.vectors_ND[:0]], [center_D[:0]]
    kinds: dict[str, ProbedKind] = {}
    for kind in eval_set.claims.known().probed:
        rows, found = with_fact(train_facts, kind)
        values = [each[0] for each in found]
        several = any(len(each) > 1 for each in found) or len(set(values)) > MANY_VALUES
        if several or len(rows) < MIN_TRAIN_ROWS or len(set(values)) < 2:
            continue
        probe, classes = _fit_kind((train.vectors_ND[rows] - center_D) / spread_D, values)
        # Probes learn from standardised activations; what is kept reads raw ones.
        weight_CD = probe.weight / spread_D
        bias_C = probe.bias - weight_CD @ center_D
        weights.append(weight_CD)
        biases.append(bias_C)
        kinds[kind] = _test(test.vectors_ND, test_facts, kind, classes, weight_CD, bias_C)
    card = ProbeCard(
        target_sha256=target_sha256,
        layer=target.site.layer,
        num_train=len(train.vectors_ND),
        kinds=kinds,
    )
    return Probes(card, torch.cat(weights), torch.cat(biases))


def save_probes(probes: Probes, directory: Path) -> None:
    """Write both files, the JSON last: without it there are no probes."""
    tensors = {"weight": probes.weight_CD.contiguous(), "bias": probes.bias_C.contiguous()}
    write_tensors(directory / PROBES_NAME, tensors)
    write_text_atomic(directory / PROBE_CARD_NAME, probes.card.model_dump_json(indent=1) + "\n")


def load_probes(directory: Path) -> Probes | None:
    """The probes beside a pair; None where it has none.

    Raises:
        CheckpointError: they cannot be read, or belong to another target.
    """
    path = directory / PROBE_CARD_NAME
    if not path.is_file():
        return None
    try:
        card = validate_json(ProbeCard, path.read_text(encoding="utf-8"))
        tensors = load_file(directory / PROBES_NAME)
        weight_CD, bias_C = tensors["weight"], tensors["bias"]
    except pydantic.ValidationError as error:
        raise CheckpointError(describe_errors(ProbeCard, error, str(path))) from error
    except (OSError, UnicodeDecodeError, SafetensorError, KeyError) as error:
        raise CheckpointError(
            f"The probes in {directory} cannot be read: {error}. {AGAIN}"
        ) from error
    _check(directory, card, weight_CD, bias_C)
    return Probes(card, weight_CD.float(), bias_C.float())


def _check(directory: Path, card: ProbeCard, weight_CD: Tensor, bias_C: Tensor) -> None:
    num_values = sum(len(kind.values) for kind in card.kinds.values())
    expected = (num_values, read_card(directory).d_model)
    if weight_CD.shape != expected or bias_C.shape != expected[:1]:
        raise CheckpointError(
            f"{directory / PROBES_NAME}: expected a weight of {expected}, found "
            f"{tuple(weight_CD.shape)} and a bias of {tuple(bias_C.shape)}. {AGAIN}"
        )
    if card.target_sha256 != target_hash(directory):
        raise CheckpointError(f"The probes in {directory} belong to another target. {AGAIN}")


def target_hash(directory: Path) -> str:
    """SHA-256 of a pair's target."""
    return file_sha256(directory / "target" / "model.safetensors")


def _fit_kind(x_ND: Tensor, values: Sequence[str]) -> tuple[nn.Linear, tuple[str, ...]]:
    classes = tuple(sorted(set(values)))
    number = {value: index for index, value in enumerate(classes)}
    training = ProbeTraining()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        probe = linear_probe(x_ND.shape[1], len(classes))
    y_N = torch.tensor([number[value] for value in values])
    train_probe(probe, x_ND, y_N, training.linear_lr, training)
    return probe, classes


def _test(
    vectors_MD: Tensor,
    known: Sequence[Mapping[str, Fact]],
    kind: str,
    classes: tuple[str, ...],
    weight_CD: Tensor,
    bias_C: Tensor,
) -> ProbedKind:
    rows, found = with_fact(known, kind)
    values = [each[0] for each in found]
    said = [classes[best] for best in (vectors_MD[rows] @ weight_CD.T + bias_C).argmax(-1).tolist()]
    num = max(1, len(rows))
    commonest = Counter(values).most_common(1)
    return ProbedKind(
        values=classes,
        accuracy=sum(a == b for a, b in zip(said, values, strict=True)) / num,
        chance=commonest[0][1] / num if commonest else 0.0,
        num_test=len(rows),
    )
