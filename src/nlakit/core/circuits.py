"""Effects of nodes on a metric, and through which others they have them, by integrated gradients
(Marks et al. 2025, 2403.19647).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

Metric = Callable[[Sequence[Tensor]], Tensor]
"""Values of some nodes to a number."""
Rule = Literal["midpoint", "left"]


def path_gradients(
    metric: Metric,
    clean: Sequence[Tensor],
    patch: Sequence[Tensor],
    steps: int = 10,
    rule: Rule = "midpoint",
) -> list[Tensor]:
    """The metric's mean gradient at each node on the straight way from its clean to its patched
    value. With the midpoint rule effects add up to m(patch) - m(clean) far better than with left
    sums, which the reference implementation takes; one step of left sums is attribution patching.
    """
    totals = [torch.zeros_like(each) for each in clean]
    for points in _points(clean, patch, steps, rule):
        gradients = torch.autograd.grad(metric(points), points)
        for total, gradient in zip(totals, gradients, strict=True):
            total += gradient / steps
    return totals


def node_effects(
    metric: Metric,
    clean: Sequence[Tensor],
    patch: Sequence[Tensor],
    steps: int = 10,
    rule: Rule = "midpoint",
) -> list[Tensor]:
    """What putting each node's patched value in the place of its clean one does to the metric.

    (1/N) Σ ∇m(clean + α (patch - clean)) · (patch - clean), element by element.
    """
    gradients = path_gradients(metric, clean, patch, steps, rule)
    return [g * (b - a) for g, a, b in zip(gradients, clean, patch, strict=True)]


def edge_effects(
    weighted: Metric,
    clean: Sequence[Tensor],
    patch: Sequence[Tensor],
    contract: Callable[[Sequence[Tensor]], Tensor],
    steps: int = 10,
    rule: Rule = "midpoint",
) -> list[Tensor]:
    """What putting upstream nodes at their patched values does to the metric through each of K
    downstream nodes: (1/N) Σ ∇_d m · ∇_u d · (u_patch - u_clean).

    Args:
        weighted: values of the upstream nodes to K numbers, each a downstream node times the
            metric's gradient at it (a constant), summed over its elements. Two autoencoder rules
            of the paper are the caller's to keep: an autoencoder's error is a node of its own, so
            that no gradient reaches latents through it (stop-gradient), and a site that is
            neither end of the edge stays the model's own, so that gradients go through it as if
            no autoencoder stood there (pass-through).
        contract: effects of the upstream nodes, element by element, to what is kept of them.

    Returns:
        What `contract` keeps, for each of the K.
    """
    totals: list[Tensor] = []
    for points in _points(clean, patch, steps, rule):
        values_K = weighted(points)
        for number, value in enumerate(values_K):
            gradients = torch.autograd.grad(
                value, points, retain_graph=number + 1 < len(values_K), materialize_grads=True
            )
            parts = [g * (b - a) for g, a, b in zip(gradients, clean, patch, strict=True)]
            kept = contract(parts) / steps
            if number == len(totals):
                totals.append(kept)
            else:
                totals[number] += kept
    return totals


def _points(
    clean: Sequence[Tensor], patch: Sequence[Tensor], steps: int, rule: Rule
) -> Iterator[list[Tensor]]:
    """Leaves along the way from clean to patch."""
    offset = 0.5 if rule == "midpoint" else 0.0
    for number in range(steps):
        alpha = (number + offset) / steps
        yield [
            (a + alpha * (b - a)).detach().requires_grad_()
            for a, b in zip(clean, patch, strict=True)
        ]


def faithfulness(of_circuit: float, of_nothing: float, of_model: float) -> float | None:
    """(m(C) - m(∅)) / (m(M) - m(∅)): 1 where the circuit does what the model does, 0 where it does
    what a model without any node does; None where those two are the same."""
    whole = of_model - of_nothing
    return None if whole == 0 else (of_circuit - of_nothing) / whole
