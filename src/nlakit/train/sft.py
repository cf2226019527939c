"""Warm start: the AV learns to write the teacher's labels, the AR to rebuild vectors from them.

The two never meet here, so they can be trained in either order, or at once in two processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from nlakit.claim import Claim
from nlakit.core.attention import to_device
from nlakit.core.fidelity import fve, reconstruction_mse
from nlakit.core.scale import resolve_scale
from nlakit.data.datasets import PairSet
from nlakit.data.streams import NumberRows
from nlakit.models.families import backbone_of
from nlakit.models.precision import bring_to
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.sharding import in_step
from nlakit.models.verbalizer import Verbalizer

from . import distributed
from .config import SftConfig, TrainingSettings
from .learner import Learner
from .micro_batches import micro_batches, token_budget
from .progress import Example
from .run import RunDirectory, generator, train_steps

BATCHES_SORTED_TOGETHER = 8
EVALUATION_ROWS = 64
VERBALIZER_PLACE, RECONSTRUCTOR_PLACE = 11, 12

FindClaims = Callable[[str], Sequence[Claim]]
"""The claims of an explanation, such as `claims.spans.find_spans`."""


class Batches:
    """Row numbers of each step: every row once an epoch, rows of like length together."""

    def __init__(self, lengths: Sequence[int] | np.ndarray, batch_size: int, seed: int, place: int):
        self.lengths = torch.as_tensor(lengths)
        self.batch_size, self.seed, self.place = batch_size, seed, place
        self.per_epoch = max(1, len(lengths) // batch_size)
        self._order: tuple[int, Tensor] | None = None

    def rows(self, step: int) -> list[int]:
        """The rows of step `step`: a function of the seed and the step alone."""
        epoch, number = divmod(step, self.per_epoch)
        if self._order is None or self._order[0] != epoch:
            # Once an epoch: a step's cost must not grow with the rows that there are.
            seeds = generator(self.seed, self.place, epoch)
            self._order = epoch, torch.randperm(len(self.lengths), generator=seeds)
        order = self._order[1]
        chunk_rows = self.batch_size * BATCHES_SORTED_TOGETHER
        chunk = order[number // BATCHES_SORTED_TOGETHER * chunk_rows :][:chunk_rows]
        chunk = chunk[self.lengths[chunk].argsort(stable=True)]
        batches = list(chunk.split(self.batch_size))
        mixed = torch.randperm(
            len(batches),
            generator=generator(self.seed, self.place, epoch, number // BATCHES_SORTED_TOGETHER),
        )
        return batches[int(mixed[number % BATCHES_SORTED_TOGETHER % len(batches)])].tolist()


def train_verbalizer(
    verbalizer: Verbalizer,
    pairs: PairSet,
    config: SftConfig,
    settings: TrainingSettings,
    run: RunDirectory,
    find_claims: FindClaims | None = None,
    example: Example | None = None,
) -> None:
    """Train `verbalizer` in place to write `pairs.explanations` of `pairs.vectors`; saves `model/`.

    Args:
        find_claims: whose tokens weigh `config.claim_weight` in the loss; None: all weigh the same.
        example: writes an explanation with `verbalizer`, to be shown now and then.
    """
    if run.done is not None:
        return
    responses = NumberRows(
        run.path, (verbalizer.encode_response(text) for text in pairs.explanations), np.int32
    )
    weights = NumberRows(
        run.path,
        (
            claim_weights(verbalizer, text, config.claim_weight, find_claims)
            for text in pairs.explanations
        ),
        np.float64,
    )
    num_train = len(responses) - config.held_out
    bring_to(verbalizer.model, settings.precision)
    learner = Learner(dict(verbalizer.model.named_parameters()), config.optimizer, config.steps)
    batches = Batches(
        responses.lengths[:num_train], config.batch_size, settings.seed, VERBALIZER_PLACE
    )
    held_out = pairs.vectors[num_train:], responses.some(range(num_train, len(responses)))
    tokens = len(verbalizer.suffix_ids) + responses.lengths

    def step(number: int) -> dict[str, float]:
        rows = batches.rows(number)
        total, losses = sum(map(sum, weights.some(rows))), []
        budget = token_budget(backbone_of(verbalizer.model), verbalizer.recompute)
        own = micro_batches(_own(rows), tokens, config.micro_batch, budget)
        for chunk, is_own in in_step(verbalizer.model, own, rows[:1]):
            logprobs, mask = verbalizer.logprobs(pairs.vectors[chunk], responses.some(chunk))
            weight = to_device(_padded(weights.some(chunk)), mask.device)
            loss = -(logprobs * weight).sum() / total
            losses.append(_backward(loss, is_own))
        # Read once a step: a figure read in between waits for the device.
        summed = float(sum(losses))
        metrics = {"loss": distributed.total(summed), "grad_norm": learner.update(number)}
        if (number + 1) % config.evaluate_every == 0 or number + 1 == config.steps:
            metrics |= verbalizer_losses(verbalizer, *held_out)
        return metrics

    learners, every = {"av": learner}, settings.checkpoint_every
    train_steps(run, learners, config.steps, step, every, "AV warm start", example)
    distributed.save(verbalizer, verbalizer.model, run.path / "model")
    run.finish({"steps": config.steps, "skipped": learner.skipped})


def claim_weights(
    verbalizer: Verbalizer,
    explanation: str,
    claim_weight: float,
    find_claims: FindClaims | None,
) -> list[float]:
    """A loss weight per response token: `claim_weight` where the token is part of a claim, else 1.

    Most of an explanation is wording, which is learned in no time; what it says is a few tokens.
    """
    found = [] if find_claims is None else find_claims(explanation)
    spans = [(claim.start, claim.end) for claim in found]
    offsets = verbalizer.response_offsets(explanation)
    return [
        claim_weight if any(start < b and a < end for a, b in spans) else 1.0
        for start, end in offsets
    ]


def _own(rows: list[int]) -> list[int]:
    """This process's part of a batch."""
    return [rows[place] for place in distributed.share(len(rows))]


def _backward(loss: Tensor, is_own: bool) -> Tensor:
    """Make the gradients of a micro-batch; returns its loss. A spare one's are zeros."""
    if not is_own:
        loss = loss * 0.0
    loss.backward()
    return loss.detach()


def _chunks(rows: list[int], size: int) -> Iterator[list[int]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _padded(rows: list[list[float]]) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [0.0] * (width - len(row)) for row in rows])


@torch.no_grad()
def verbalizer_losses(
    verbalizer: Verbalizer, vectors: Tensor, responses: list[list[int]]
) -> dict[str, float]:
    """Loss on real and on shuffled vectors, nats a token: their gap is what the vector tells."""
    losses = []
    for given in (vectors, vectors.roll(1, 0)):
        summed, num_tokens = 0.0, sum(map(len, responses))
        for chunk in _chunks(list(range(len(responses))), EVALUATION_ROWS):
            logprobs, mask = verbalizer.logprobs(given[chunk], [responses[row] for row in chunk])
            summed -= float((logprobs * mask).sum())
        losses.append(summed / num_tokens)
    return {"held_out_loss": losses[0], "shuffled_loss": losses[1], "gap": losses[1] - losses[0]}


def train_reconstructor(
    reconstructor: Reconstructor,
    pairs: PairSet,
    mean_D: Tensor,
    config: SftConfig,
    settings: TrainingSettings,
    run: RunDirectory,
) -> None:
    """Train `reconstructor` in place to rebuild `pairs.vectors` from the labels; saves `model/`."""
    if run.done is not None:
        return
    ids = NumberRows(
        run.path, (reconstructor.encode(text) for text in pairs.explanations), np.int32
    )
    num_train = len(ids) - config.held_out
    scale = resolve_scale("sqrt_d_model", pairs.vectors.shape[1])
    bring_to(reconstructor.backbone, settings.precision)
    learner = Learner(dict(reconstructor.named_parameters()), config.optimizer, config.steps)
    batches = Batches(
        ids.lengths[:num_train], config.batch_size, settings.seed, RECONSTRUCTOR_PLACE
    )
    held_out_ND, held_out_texts = pairs.vectors[num_train:], pairs.explanations[num_train:]

    def step(number: int) -> dict[str, float]:
        rows, losses = batches.rows(number), []
        budget = token_budget(reconstructor.backbone, reconstructor.recompute)
        own = micro_batches(_own(rows), ids.lengths, config.micro_batch, budget)
        for chunk, is_own in in_step(reconstructor.backbone, own, rows[:1]):
            rebuilt = reconstructor.forward(ids.some(chunk))
            wanted = to_device(pairs.vectors[chunk], rebuilt.device)
            loss = reconstruction_mse(wanted, rebuilt, scale).sum() / len(rows)
            losses.append(_backward(loss, is_own))
        summed = float(sum(losses))
        metrics = {"loss": distributed.total(summed), "grad_norm": learner.update(number)}
        if (number + 1) % config.evaluate_every == 0 or number + 1 == config.steps:
            rebuilt = reconstructor.reconstruct(held_out_texts).cpu()
            metrics["held_out_fve"] = float(fve(held_out_ND, rebuilt, mean_D, scale).fve)
        return metrics

    train_steps(
        run, {"ar": learner}, config.steps, step, settings.checkpoint_every, "AR warm start"
    )
    distributed.save(reconstructor, reconstructor.backbone, run.path / "model")
    run.finish({"steps": config.steps, "skipped": learner.skipped})
