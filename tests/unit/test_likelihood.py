"""Log-probabilities of texts under a target."""

from __future__ import annotations

import pytest
import torch

from nlakit.models import likelihood
from nlakit.models.likelihood import text_logprobs

TEXTS = ["A calm story about the sea.", "", "Ana wants to mend the net, then sells it.", "A"]


def by_hand(target, text: str) -> float:
    ids = torch.tensor([target.encode(text).ids])
    with torch.no_grad():
        logprobs_TV = target.model(input_ids=ids).logits[0].log_softmax(-1)
    return sum(logprobs_TV[at - 1, ids[0, at]].item() for at in range(1, ids.shape[1]))


@pytest.mark.parametrize("at_once", [likelihood.LOGITS_AT_ONCE, 1])
def test_batches_and_chunks_change_nothing(tiny_target, monkeypatch, at_once):
    monkeypatch.setattr(likelihood, "LOGITS_AT_ONCE", at_once)
    found = text_logprobs(tiny_target, TEXTS)
    for text, total, count in zip(TEXTS, *map(torch.Tensor.tolist, found), strict=True):
        assert total == pytest.approx(by_hand(tiny_target, text) if text else 0.0, abs=1e-4)
        assert count == (len(tiny_target.encode(text).ids) - 1 if text else 0)
