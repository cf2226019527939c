"""Operations that torch dispatches, with bounds: a GPU's host must launch each of them."""

from __future__ import annotations

import torch
from benchmarks.operations import OperationCount, training_operations

MOST_OF_A_MICRO_BATCH = 7_000


def test_a_count_sees_views_and_gradients():
    x = torch.ones(2, 3, requires_grad=True)
    with OperationCount() as count:
        (x.t() * 2).sum().backward()
    assert count.by_name["aten.t.default"] >= 1 and count.total > 4


def test_a_training_micro_batch_stays_within_its_operations():
    """SmolLM2's shapes, 128 rows, with adapters, forward and backward; it was 27,700."""
    count = training_operations()
    assert 4_000 < count.total <= MOST_OF_A_MICRO_BATCH
    # Nothing on the way asks the device for a number: what is read is of the vectors, on the CPU.
    assert count.by_name["aten._local_scalar_dense.default"] < 20
