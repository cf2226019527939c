"""Whether a reconstruction does in the target what the activation did.

`ĥ`, brought to the norm of `h`, takes its place at the site; the next-token distribution is
compared with the untouched one. Between doing nothing (1) and the training mean in its place (0).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nlakit.claims.confidence import null_logprobs
from nlakit.core.scale import to_norm
from nlakit.models.patch import next_logprobs

from .lens_words import lens_texts
from .rows import ReadSample
from .section import Figure, Line, Section, explained

BANK_SEED, BANK_DOCUMENTS = 70_004, 1_000
NEAREST_LABEL = "nearest label"
BITS_PER_NUMBER = 16
"""What a number of the PCA baseline is taken to cost."""


def cause(sample: ReadSample, bank_documents: int = BANK_DOCUMENTS) -> Section:
    """KL and loss recovered by the reconstructions, beside ablations and equal-size codes.

    Args:
        bank_documents: training documents behind the PCA and the nearest neighbour.
    """
    pair, h_ND = sample.pair, sample.vectors_ND
    bank = sample.eval_set.sample(pair.target, "train", BANK_SEED, bank_documents)
    nearest = nearest_rows(bank.vectors_ND, h_ND)
    bits = text_bits(sample)
    num = max(1, min(round(bits / BITS_PER_NUMBER), min(bank.vectors_ND.shape)))
    others = sample.other_documents()
    stand_ins = {
        "explanation": sample.reading.h_hat_ND,
        f"PCA of {num} numbers": pca_code(bank.vectors_ND, h_ND, num),
        "nearest activation": bank.vectors_ND[nearest],
    }
    reader = sample.eval_set.reader
    if reader is not None:
        stand_ins[NEAREST_LABEL] = pair.rebuild(reader.labels(bank.take(nearest)))
    stand_ins |= {
        "logit lens, as text": pair.rebuild(lens_texts(sample)),
        "another document's explanation": sample.reading.h_hat_ND[others],
        "mean": pair.mean_D.expand_as(h_ND),
        "zero": torch.zeros_like(h_ND),
    }
    measured = _Effects(sample)
    lines = [_line(sample, measured, name, stand_in) for name, stand_in in stand_ins.items()]
    return sample.section(
        "cause",
        "does the reconstruction do what the activation did?",
        "KL recovered: 1 - KL(target ‖ patched) / KL(target ‖ mean in its place). Loss recovered: "
        "the same of the loss at the token that follows. Vectors are brought to the activation's "
        f"norm. An explanation holds {bits:.0f} bits (under the AV that reads the mean vector); "
        f"PCA gets as many numbers of {BITS_PER_NUMBER} bits; the bank has {len(bank.vectors_ND)} "
        "training activations.",
        lines,
        suspicions=_suspicions(lines),
    )


class _Effects:
    """Next-token distributions of the rows: untouched, and with a vector in the activation's
    place."""

    def __init__(self, sample: ReadSample) -> None:
        self.sample = sample
        self.target = sample.pair.target
        self.ids, self.next_N = sample.sample.prompts, sample.sample.following_N
        self.clean_NV = next_logprobs(self.target, self.ids)
        self.mean_kl_N, self.mean_loss_N = self.of(sample.pair.mean_D.expand_as(sample.vectors_ND))
        self.clean_loss_N = self._loss(self.clean_NV)

    def of(self, stand_in_ND: Float[Tensor, "N D"]) -> tuple[Tensor, Tensor]:
        """KL and loss of each row, nats; the loss is NaN at a document's last token."""
        norms_N1 = self.sample.vectors_ND.norm(dim=-1, keepdim=True)
        patched_NV = next_logprobs(self.target, self.ids, to_norm(stand_in_ND, 1.0) * norms_N1)
        kl_N = (self.clean_NV.exp() * (self.clean_NV - patched_NV)).sum(-1)
        return kl_N, self._loss(patched_NV)

    def _loss(self, logprobs_NV: Tensor) -> Tensor:
        there_N = self.next_N >= 0
        found_N = -logprobs_NV.gather(1, self.next_N.clamp_min(0)[:, None])[:, 0]
        return torch.where(there_N, found_N, torch.full_like(found_N, float("nan")))


def _line(sample: ReadSample, effects: _Effects, name: str, stand_in_ND: Tensor) -> Line:
    kl_N, loss_N = effects.of(stand_in_ND)
    there = (effects.next_N >= 0).nonzero().flatten().tolist()
    documents = [sample.doc_ids[row] for row in there]
    return Line(
        name=name,
        figures={
            "KL recovered": explained(kl_N, effects.mean_kl_N, sample.doc_ids),
            "loss recovered": explained(
                (loss_N - effects.clean_loss_N)[there],
                (effects.mean_loss_N - effects.clean_loss_N)[there],
                documents,
            ),
            "KL, nats": Figure(value=kl_N.mean().item()),
        },
        floor=name in ("mean", "zero", "another document's explanation"),
    )


def _suspicions(lines: Sequence[Line]) -> list[str]:
    own = {line.name: line.figures["KL recovered"].value for line in lines}
    ours, other = own["explanation"], own["another document's explanation"]
    if ours is None or other is None:
        return []
    found = []
    if ours <= max(other, 0.0):
        found.append(
            f"No cause: the reconstructions recover {ours:.0%} of the KL, those of another "
            f"document's explanations {other:.0%}."
        )
    nearest = own.get(NEAREST_LABEL)
    if nearest is not None and nearest >= ours:
        found.append(
            f"Nothing added: the label of the nearest training activation recovers {nearest:.0%} "
            f"of the KL, the explanations {ours:.0%}."
        )
    return found


def text_bits(sample: ReadSample) -> float:
    """Mean information of the explanations: `-Σ log2 p` under the verbalizer of the mean vector.

    Without a verbalizer's probabilities each token counts as one of the vocabulary's.
    """
    completions = sample.reading.completions
    verbalizer = sample.pair.verbalizer
    if verbalizer is None:
        size = len(sample.pair.target.tokenizer)
        return sum(len(each.ids) for each in completions) / len(completions) * math.log2(size)
    nulls = null_logprobs(verbalizer, sample.pair.mean_D, completions)
    return -sum(sum(row) for row in nulls) / len(nulls) / math.log(2)


def pca_code(
    bank_MD: Float[Tensor, "M D"], h_ND: Float[Tensor, "N D"], num: int
) -> Float[Tensor, "N D"]:
    """`h` from its `num` largest principal components, those of the bank."""
    center_D = bank_MD.mean(0)
    _, _, components_DD = torch.linalg.svd(bank_MD - center_D, full_matrices=False)
    basis_KD = components_DD[:num]
    return center_D + (h_ND - center_D) @ basis_KD.T @ basis_KD


def nearest_rows(bank_MD: Float[Tensor, "M D"], h_ND: Float[Tensor, "N D"]) -> list[int]:
    """Per vector the row of the bank with the greatest cosine."""
    return (to_norm(h_ND, 1.0) @ to_norm(bank_MD, 1.0).T).argmax(-1).tolist()
