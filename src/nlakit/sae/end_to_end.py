"""End-to-end training (Braun et al. 2024, 2405.12241): what counts is not the activation but what
the target goes on to say when the autoencoder's output takes its place.

KL(original ‖ spliced) stands where the reconstruction's error stood; with `end_to_end_downstream`
the later blocks' activations must be as they were, too. Any architecture with one error can be
trained so; the paper's has an L1 penalty, top-k ones hit an L0 without one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nlakit.core.saes.affine import decode
from nlakit.core.saes.losses import output_kl
from nlakit.errors import InputError
from nlakit.models.target import Target
from nlakit.train.run import generator

from .architectures.base import ERROR, Batch, Code
from .splice import PaddedTexts, padded, run_target
from .texts import Passage
from .trainer import FVU_EVERY, SaeTrainer, affine_with_bias

DOWNSTREAM = 1.0
"""Weight of the mean over later blocks of ‖â - a‖² / E‖a‖²."""
KL_SCALE = 10.0
"""Nats are small beside squared errors at norm √D, which the penalty's start is meant for."""


class SpliceSteps:
    """Steps of one autoencoder on whole texts."""

    def __init__(
        self, trainer: SaeTrainer, target: Target, passages: Sequence[Passage], seed: int
    ) -> None:
        """
        Args:
            passages: read again and again, in another order each time.

        Raises:
            InputError: fewer texts than a batch needs.
        """
        self.trainer, self.target, self.seed = trainer, target, seed
        self.passages = passages
        mean_rows = sum(len(each.positions) for each in passages) / max(1, len(passages))
        self.texts_per_step = max(1, round(trainer.settings.batch_size / max(1.0, mean_rows)))
        if len(passages) < self.texts_per_step:
            raise InputError(
                f"A batch of {trainer.settings.batch_size} rows takes {self.texts_per_step} texts; "
                f"there are {len(passages)}. Give more, or a smaller batch_size."
            )
        # The target is shared: others may have left gradients on.
        target.model.requires_grad_(False)

    def step(self, number: int) -> dict[str, float]:
        """One step; returns its figures."""
        texts = padded(self._texts(number), self.target.model.device)
        with torch.no_grad():
            clean = run_target(self.target, texts)
        codes: list[tuple[Tensor, Code]] = []
        spliced = run_target(self.target, texts, lambda x_ND: self._reconstruct(x_ND, codes))
        ((x_ND, code),) = codes
        trainer = self.trainer
        losses = trainer.architecture.losses(trainer.weights, Batch(x_ND), code)
        del losses[ERROR]
        losses["kl"] = output_kl(clean.logits_SV, spliced.logits_SV).mean() * KL_SCALE
        if trainer.settings.objective == "end_to_end_downstream":
            losses["downstream"] = self._downstream(texts, clean.blocks, spliced.blocks)
        losses |= trainer.aux_loss(x_ND, code)
        figures = {"fvu": trainer.fvu(x_ND, code)} if number % FVU_EVERY == 0 else {}
        return trainer.update(losses, code, number) | figures

    def _reconstruct(self, raw_ND: Tensor, codes: list[tuple[Tensor, Code]]) -> Tensor:
        trainer = self.trainer
        x_ND = raw_ND.float() * trainer.scale
        code = trainer.architecture.code(trainer.weights, x_ND)
        codes.append((x_ND, code))
        return decode(code.latents_NM, affine_with_bias(trainer.weights)) / trainer.scale

    def _downstream(
        self, texts: PaddedTexts, clean: Sequence[Tensor], spliced: Sequence[Tensor]
    ) -> Tensor:
        terms = []
        for before_BTD, after_BTD in zip(clean[1:], spliced[1:], strict=True):
            x_SD, changed_SD = before_BTD[texts.scored_BT], after_BTD[texts.scored_BT]
            size = x_SD.square().sum(-1).mean()
            terms.append((changed_SD - x_SD).square().sum(-1).mean() / size)
        return torch.stack(terms).mean() * DOWNSTREAM * KL_SCALE

    def _texts(self, number: int) -> list[Passage]:
        per_epoch = len(self.passages) // self.texts_per_step
        epoch, place = divmod(number, per_epoch)
        order = torch.randperm(len(self.passages), generator=generator(self.seed, epoch))
        chosen = order[place * self.texts_per_step :][: self.texts_per_step]
        return [self.passages[index] for index in chosen.tolist()]
