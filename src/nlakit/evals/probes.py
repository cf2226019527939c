"""Probe ceilings: what a linear and a small non-linear classifier read from the activation.

An explanation cannot be expected to say more than the activation holds; these say how much that
is. Trained on rows of the training split and tested on held-out rows, one probe a kind of fact.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
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
MANY_VALUES, MOST_VALUES, MIN_VALUE_ROWS = 300, 2_000, 20
"""A kind of more values, or of several at once, is read as a yes or no to each common one."""
VALIDATION_SHARE = 0.1


class ProbeScore(FrozenModel):
    """Accuracies on `num_test` held-out rows after training on `num_train`."""

    linear: float
    mlp: float
    chance: float
    """Share of the test rows of which the commonest value is true."""
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
    with a value never seen in training are counted, and missed. Of several values that are true at
    once, naming any is right.
    """
    training = training or ProbeTraining()
    center_D, spread_D = train_ND.mean(0), train_ND.std(0).clamp_min(1e-6)
    train_ND, test_MD = (train_ND - center_D) / spread_D, (test_MD - center_D) / spread_D
    results = {}
    for kind in kinds:
        train_rows, train_values = with_fact(train_facts, kind)
        test_rows, test_values = with_fact(test_facts, kind)
        labels = _labels(train_values)
        if len(train_rows) < MIN_TRAIN_ROWS or not test_rows or len(labels.classes) < 2:
            continue
        linear_RC, mlp_RC = _read(train_ND[train_rows], labels, test_MD[test_rows], training)
        results[kind] = ProbeResult(
            _score(labels, linear_RC, mlp_RC, test_values),
            labels.classes,
            test_rows,
            linear_RC,
            mlp_RC,
        )
    return results


def with_fact(
    known: Sequence[Mapping[str, Fact]], kind: str
) -> tuple[list[int], list[tuple[str, ...]]]:
    """Rows that have a fact of this kind, and its values in each."""
    rows = [row for row, facts in enumerate(known) if kind in facts]
    return rows, [known[row][kind].values for row in rows]


class _Labels(NamedTuple):
    """What a probe is trained to tell apart.

    Attributes:
        y_N: the class of each row; or N x C, 1 for each value that is true of a row.
    """

    classes: tuple[str, ...]
    y_N: Tensor

    @property
    def several(self) -> bool:
        """Whether several values can be true at once, each with a probability of its own."""
        return self.y_N.ndim == 2


def _labels(values: Sequence[tuple[str, ...]]) -> _Labels:
    """Classes of their own where a row has one value and there are few; else the common values."""
    counts = Counter(value for row in values for value in row)
    if all(len(row) == 1 for row in values) and len(counts) <= MANY_VALUES:
        classes = tuple(sorted(counts))
        number = {value: index for index, value in enumerate(classes)}
        return _Labels(classes, torch.tensor([number[row[0]] for row in values]))
    common = [value for value, count in counts.most_common(MOST_VALUES) if count >= MIN_VALUE_ROWS]
    classes = tuple(sorted(common))
    number = {value: index for index, value in enumerate(classes)}
    y_NC = torch.zeros(len(values), len(classes))
    for row, found in enumerate(values):
        for value in found:
            if value in number:
                y_NC[row, number[value]] = 1.0
    return _Labels(classes, y_NC)


def _read(
    train_ND: Tensor, labels: _Labels, test_MD: Tensor, training: ProbeTraining
) -> tuple[Tensor, Tensor]:
    """The probabilities that a linear and an MLP probe give to each class at the test rows."""
    linear, mlp = _probes(train_ND.shape[1], len(labels.classes), training)
    if labels.several:
        prior_C = labels.y_N.mean(0).clamp(1e-4, 1 - 1e-4)
        with torch.no_grad():
            linear.bias.copy_(prior_C.logit())
            mlp[-1].bias.copy_(prior_C.logit())  # pyright: ignore[reportCallIssue, reportArgumentType]
    train_probe(linear, train_ND, labels.y_N, training.linear_lr, training)
    train_probe(mlp, train_ND, labels.y_N, training.mlp_lr, training)
    logits = (linear(test_MD), mlp(test_MD))
    linear_RC, mlp_RC = (each.sigmoid() if labels.several else each.softmax(-1) for each in logits)
    return linear_RC.detach(), mlp_RC.detach()


def _score(
    labels: _Labels, linear_RC: Tensor, mlp_RC: Tensor, values: Sequence[tuple[str, ...]]
) -> ProbeScore:
    """Shares of the test rows whose likeliest value is true, beside the commonest value's."""
    linear, mlp = (_accuracy(labels, each, values) for each in (linear_RC, mlp_RC))
    commonest = Counter(value for row in values for value in row).most_common(1)[0][1]
    return ProbeScore(
        linear=linear,
        mlp=mlp,
        chance=commonest / len(values),
        num_train=len(labels.y_N),
        num_test=len(values),
    )


def _accuracy(labels: _Labels, read_RC: Tensor, values: Sequence[tuple[str, ...]]) -> float:
    best_R = read_RC.argmax(-1).tolist()
    right = [labels.classes[best] in true for best, true in zip(best_R, values, strict=True)]
    return torch.tensor(right).float().mean().item()


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
    y_N: Tensor,
    lr: float,
    training: ProbeTraining,
) -> None:
    """Train in place; the weights of the best round on the validation slice are kept.

    Args:
        y_N: the class of each row; or N x C, 1 for each class that is true of a row.
    """
    loss_of = nn.functional.cross_entropy if y_N.ndim == 1 else _separate_loss
    seeds = torch.Generator().manual_seed(training.seed)
    validation, train = _split(len(y_N), seeds)
    optimizer = torch.optim.AdamW(
        probe.parameters(), lr=lr, weight_decay=training.weight_decay, fused=True
    )
    best_loss, best, waited = float("inf"), _copy(probe), 0
    passes = math.ceil(training.round_steps / math.ceil(len(train) / training.batch_size))
    for _ in range(training.rounds):
        for rows in _batches(train, passes, training.batch_size, seeds):
            loss_of(probe(x_ND[rows]), y_N[rows]).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            loss = loss_of(probe(x_ND[validation]), y_N[validation]).item()
        waited = 0 if loss < best_loss else waited + 1
        if loss < best_loss:
            best_loss, best = loss, _copy(probe)
        if waited > training.patience:
            break
    probe.load_state_dict(best)
    probe.requires_grad_(False)


def _separate_loss(logits_BC: Tensor, y_BC: Tensor) -> Tensor:
    """Of a yes or no to each class, summed over classes, so that a row weighs as with one class."""
    found_BC = nn.functional.binary_cross_entropy_with_logits(logits_BC, y_BC, reduction="none")
    return found_BC.sum(-1).mean()


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
