"""Probe ceilings: what a linear and a small non-linear classifier read from the activation.

An explanation cannot be expected to say more than the activation holds; these say how much that
is. Trained on rows of the training split and tested on held-out rows, one probe a kind of fact.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nlakit.claim import Fact
from nlakit.config import FrozenModel
from nlakit.models.target import Target

from .eval_set import EvalRows, EvalSet

PROBE_SEED, PROBE_ROWS, PROBE_POSITIONS = 70_001, 12_000, 5
"""Of the training rows that a report's probes learn from."""

PROBES_NAME = "probes.safetensors"
"""Beside a pair (see `probe_store`): derived from its target, so no part of the pair's weights."""

MIN_TRAIN_ROWS = 50
VALIDATION_SHARE = 0.1


class ProbeScore(FrozenModel):
    """Accuracies on `num_test` held-out rows after training on `num_train`."""

    linear: float
    mlp: float
    chance: float
    """Share of the commonest value among the test rows."""
    num_train: int
    num_test: int


@dataclass(frozen=True)
class ProbeResult:
    """A kind's score, and what its probes believed at each test row that has the fact.

    Attributes:
        classes: values seen in training; columns of the probabilities.
        rows: which of the test rows these are.
        linear_RC, mlp_RC: probability of each value at each of those rows.
    """

    score: ProbeScore
    classes: tuple[str, ...]
    rows: list[int]
    linear_RC: Float[Tensor, "R C"]
    mlp_RC: Float[Tensor, "R C"]


@dataclass(frozen=True)
class ProbeTraining:
    """How a probe is trained: AdamW, stopping when the validation slice gets no better.

    A round is one pass over the rows, or as many as `round_steps` updates take where rows are few.
    """

    hidden: int = 96
    rounds: int = 12
    round_steps: int = 25
    patience: int = 2
    batch_size: int = 256
    linear_lr: float = 5e-3
    mlp_lr: float = 2e-3
    weight_decay: float = 1e-2
    seed: int = 0


def measure_probes(
    target: Target, eval_set: EvalSet, rows: EvalRows, num_rows: int = PROBE_ROWS
) -> dict[str, ProbeResult]:
    """Probes trained on `num_rows` rows of the training split, tested on `rows`.

    None where nobody knows what is true of the rows.
    """
    checker, states = eval_set.claims.checker, rows.states
    if checker is None or states is None:
        return {}
    num_documents = max(1, num_rows // PROBE_POSITIONS)
    train = eval_set.sample(target, "train", PROBE_SEED, num_documents, PROBE_POSITIONS)
    train_facts = [checker.facts(state) for state in train.states or ()]
    test_facts = [checker.facts(state) for state in states]
    return fit_probes(train.vectors_ND, train_facts, rows.vectors_ND, test_facts, checker.probed)


def fit_probes(
    train_ND: Float[Tensor, "N D"],
    train_facts: Sequence[Mapping[str, Fact]],
    test_MD: Float[Tensor, "M D"],
    test_facts: Sequence[Mapping[str, Fact]],
    kinds: Sequence[str],
    training: ProbeTraining | None = None,
) -> dict[str, ProbeResult]:
    """Probes of every kind that at least 50 training rows and one test row have a fact of.

    A kind with a single value in training is left out: there is nothing to tell apart. Test rows
    with a value never seen in training are counted, and missed.
    """
    training = training or ProbeTraining()
    center_D, spread_D = train_ND.mean(0), train_ND.std(0).clamp_min(1e-6)
    train_ND, test_MD = (train_ND - center_D) / spread_D, (test_MD - center_D) / spread_D
    results = {}
    for kind in kinds:
        train_rows, train_values = with_fact(train_facts, kind)
        test_rows, test_values = with_fact(test_facts, kind)
        if len(train_rows) < MIN_TRAIN_ROWS or not test_rows or len(set(train_values)) < 2:
            continue
        results[kind] = _fit_kind(
            train_ND[train_rows], train_values, test_MD[test_rows], test_values, test_rows, training
        )
    return results


def with_fact(known: Sequence[Mapping[str, Fact]], kind: str) -> tuple[list[int], list[str]]:
    """Rows that have a fact of this kind, and its value in each."""
    rows = [row for row, facts in enumerate(known) if kind in facts]
    return rows, [known[row][kind].values[0] for row in rows]


def _fit_kind(
    train_ND: Tensor,
    train_values: list[str],
    test_MD: Tensor,
    test_values: list[str],
    test_rows: list[int],
    training: ProbeTraining,
) -> ProbeResult:
    classes = tuple(sorted(set(train_values)))
    number = {value: index for index, value in enumerate(classes)}
    y_N = torch.tensor([number[value] for value in train_values])
    y_M = torch.tensor([number.get(value, -1) for value in test_values])
    linear, mlp = _probes(train_ND.shape[1], len(classes), training)
    train_probe(linear, train_ND, y_N, training.linear_lr, training)
    train_probe(mlp, train_ND, y_N, training.mlp_lr, training)
    linear_RC, mlp_RC = linear(test_MD).softmax(-1), mlp(test_MD).softmax(-1)
    score = ProbeScore(
        linear=_accuracy(linear_RC, y_M),
        mlp=_accuracy(mlp_RC, y_M),
        chance=Counter(test_values).most_common(1)[0][1] / len(test_values),
        num_train=len(y_N),
        num_test=len(y_M),
    )
    return ProbeResult(score, classes, test_rows, linear_RC.detach(), mlp_RC.detach())


def _probes(
    d_model: int, num_classes: int, training: ProbeTraining
) -> tuple[nn.Linear, nn.Sequential]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        linear = linear_probe(d_model, num_classes)
        hidden = nn.Linear(d_model, training.hidden)
        return linear, nn.Sequential(hidden, nn.GELU(), nn.Linear(training.hidden, num_classes))


def linear_probe(d_model: int, num_classes: int) -> nn.Linear:
    """One that does not know anything yet."""
    linear = nn.Linear(d_model, num_classes)
    nn.init.zeros_(linear.weight)
    return linear


def train_probe(
    probe: nn.Module,
    x_ND: Float[Tensor, "N D"],
    y_N: Int[Tensor, " N"],
    lr: float,
    training: ProbeTraining,
) -> None:
    """Train in place; the weights of the best round on the validation slice are kept."""
    seeds = torch.Generator().manual_seed(training.seed)
    validation, train = _split(len(y_N), seeds)
    optimizer = torch.optim.AdamW(
        probe.parameters(), lr=lr, weight_decay=training.weight_decay, fused=True
    )
    best_loss, best, waited = float("inf"), _copy(probe), 0
    passes = math.ceil(training.round_steps / math.ceil(len(train) / training.batch_size))
    for _ in range(training.rounds):
        for rows in _batches(train, passes, training.batch_size, seeds):
            nn.functional.cross_entropy(probe(x_ND[rows]), y_N[rows]).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            loss = nn.functional.cross_entropy(probe(x_ND[validation]), y_N[validation]).item()
        waited = 0 if loss < best_loss else waited + 1
        if loss < best_loss:
            best_loss, best = loss, _copy(probe)
        if waited > training.patience:
            break
    probe.load_state_dict(best)
    probe.requires_grad_(False)


def _batches(
    rows: Tensor, passes: int, batch_size: int, seeds: torch.Generator
) -> Iterator[Tensor]:
    for _ in range(passes):
        yield from rows[torch.randperm(len(rows), generator=seeds)].split(batch_size)


def _split(num_rows: int, seeds: torch.Generator) -> tuple[Tensor, Tensor]:
    order = torch.randperm(num_rows, generator=seeds)
    num_validation = max(1, int(num_rows * VALIDATION_SHARE))
    return order[:num_validation], order[num_validation:]


def _copy(probe: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in probe.state_dict().items()}


def _accuracy(probabilities_RC: Tensor, y_R: Tensor) -> float:
    return (probabilities_RC.argmax(-1) == y_R).float().mean().item()
