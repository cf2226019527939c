"""Operations that torch dispatches, with bounds: a GPU's host must launch each of them."""

from __future__ import annotations

import torch
from benchmarks.operations import OperationCount, decode_operations, training_operations

MOST_OF_A_MICRO_BATCH = 7_000
MOST_OF_A_DECODE_STEP = 600


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


def test_a_decode_step_with_adapters_stays_within_its_operations():
    """SmolLM2's shapes, 30 blocks, a token sampled in each of 64 rows; it was 2,814."""
    count = decode_operations()
    assert 300 < count.total <= MOST_OF_A_DECODE_STEP
    # A graph can be recorded of it: nothing is read back, and nothing is copied to the device.
    assert not {"aten._local_scalar_dense.default", "aten._to_copy.default"} & set(count.by_name)
