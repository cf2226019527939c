"""One autoencoder in training: weights, Adam, dead latents. What a step is, not what it is fed.

Activations are scaled to mean norm √D before anything else, and the scale is folded into the
weights in the end (`finished`). Decoder rows have norm 1 after every step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn

from nlakit.core.saes.affine import decode, decoder_norms
from nlakit.core.saes.losses import dead_latents_error
from nlakit.core.saes.metrics import fraction_of_variance

from .architectures import SaeSettings, made
from .architectures.base import Batch, Code, affine_of
from .autoencoder import SparseAutoencoder
from .config import SaeConfig
from .formats.scaling import unit_weights, without_scale

BETAS = (0.9, 0.999)
FIRST_ROWS = 2000
"""Rows whose pre-activations say where thresholds start."""
FVU_EVERY = 50
"""Steps between those that are measured by what they leave unexplained: their losses differ."""


class SaeTrainer:
    """Trains one autoencoder.

    Attributes:
        scale: by which raw activations are multiplied.
        silent_M: rows since each latent was active.
        skipped: steps whose gradients were not finite, and were left out.
    """

    sharded = False
    """Every process would hold all of it; `train.run` asks."""

    def __init__(
        self,
        settings: SaeSettings,
        sample_ND: Tensor,
        seeds: Generator,
        device: str | torch.device = "cpu",
    ) -> None:
        """
        Args:
            sample_ND: raw activations, from which scale and first bias are taken.
        """
        self.settings = settings
        self.architecture = made(settings)
        width = sample_ND.shape[1]
        self.scale = width**0.5 / sample_ND.norm(dim=-1).mean().item()
        scaled_ND = sample_ND * self.scale
        start = _first_weights(settings.d_sae, scaled_ND, seeds)
        few_ND = scaled_ND[:FIRST_ROWS] - start["b_dec"] * settings.subtract_b_dec
        start |= self.architecture.extra_weights(few_ND @ start["W_enc"])
        self.weights = {name: nn.Parameter(t.float().to(device)) for name, t in start.items()}
        rates = self.architecture.rates
        groups = [{"params": [p], "rate": rates.get(n, 1.0)} for n, p in self.weights.items()]
        self.optimizer = torch.optim.Adam(groups, lr=settings.lr, betas=BETAS)
        self.silent_M = torch.zeros(settings.d_sae, dtype=torch.int64, device=device)
        self.skipped = 0

    @property
    def dead_M(self) -> Tensor:
        """Which latents have been silent for too long."""
        return self.silent_M >= self.settings.dead_after

    def step(self, batch: Batch, number: int) -> dict[str, float]:
        """One step on raw activations; returns its figures."""
        batch = self.scaled(batch)
        code = self.architecture.code(self.weights, batch.now_ND)
        losses = self.architecture.losses(self.weights, batch, code)
        losses |= self.aux_loss(batch.now_ND, code)
        figures = {"fvu": self.fvu(batch.now_ND, code)} if number % FVU_EVERY == 0 else {}
        return self.update(losses, code, number) | figures

    @torch.no_grad()
    def fvu(self, x_ND: Tensor, code: Code) -> float:
        """Share of a scaled batch's variance that its latents do not explain."""
        x_hat_ND = decode(code.latents_NM, affine_with_bias(self.weights))
        return 1 - fraction_of_variance(x_ND, x_hat_ND)

    def scaled(self, batch: Batch) -> Batch:
        """The batch at mean norm √D."""
        before = None if batch.before_ND is None else batch.before_ND * self.scale
        return Batch(batch.now_ND * self.scale, before)

    def aux_loss(self, x_ND: Tensor, code: Code) -> dict[str, Tensor]:
        """The weighted term for dead latents; empty where none is dead."""
        if not self.settings.aux_weight or not self.dead_M.any():
            return {}
        residual_ND = x_ND - decode(code.latents_NM, affine_with_bias(self.weights)).detach()
        error = dead_latents_error(
            residual_ND, code.pre_NM, self.dead_M, self.weights["W_dec"], x_ND.shape[1] // 2
        )
        return {"aux": error * self.settings.aux_weight}

    def update(self, losses: Mapping[str, Tensor], code: Code, number: int) -> dict[str, float]:
        """Go one step down the sum of the losses; returns the figures that training logs."""
        total = torch.stack([*losses.values()]).sum()
        total.backward()
        self._project_gradient()
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * group["rate"] * schedule(self.settings, number)
        if self._gradients_are_finite():
            self.optimizer.step()
        else:
            self.skipped += 1
        self.optimizer.zero_grad(set_to_none=True)
        self._to_unit_norm()
        self._count(code)
        self.architecture.observe(code, number)
        figures = {"l0": (code.latents_NM > 0).sum().item() / len(code.latents_NM)}
        figures |= {"dead": float(self.dead_M.sum().item())}
        return figures | {name: loss.item() for name, loss in losses.items()}

    def finished(self, site: Mapping[str, Any]) -> SparseAutoencoder:
        """The autoencoder of raw activations that training has reached.

        Args:
            site: what its config says of the target: `model`, `hook_name`, `metadata`.
        """
        weights = self.architecture.saved_weights(self.weights)
        name = self.settings.architecture
        config = SaeConfig(
            architecture=self.architecture.saved_as,
            d_in=weights["W_enc"].shape[0],
            d_sae=weights["W_enc"].shape[1],
            k=self.settings.k if self.architecture.saved_as == "topk" else None,
            subtract_b_dec=self.settings.subtract_b_dec,
            trained_as=None if name == self.architecture.saved_as else name,
            **site,
        )
        cpu = {name: tensor.cpu() for name, tensor in weights.items()}
        # Equal norms everywhere, so that even top-k goes on choosing the same latents.
        return unit_weights(without_scale(SparseAutoencoder(config, cpu), self.scale))

    # -- as `train.run` keeps it -------------------------------------------------------------------
    def state(self) -> dict[str, Tensor]:
        """Weights, moments and all that steps have learnt, as one flat table."""
        table = {f"weight.{n}": p.detach().contiguous() for n, p in self.weights.items()}
        for name, parameter in self.weights.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                table[f"{key}.{name}"] = torch.as_tensor(value).clone()
        memory = {f"memory.{n}": t.clone() for n, t in self.architecture.memory().items()}
        counts = {"silent": self.silent_M, "skipped": torch.tensor(self.skipped)}
        scale = {"scale": torch.tensor(self.scale, dtype=torch.float64)}
        return table | memory | counts | scale

    def load_state(self, table: Mapping[str, Tensor]) -> None:
        """The inverse of `state`. Raises `KeyError` when something is missing."""
        with torch.no_grad():
            for name, parameter in self.weights.items():
                parameter.copy_(table[f"weight.{name}"])
                if f"step.{name}" in table:
                    self.optimizer.state[parameter] = {
                        key: table[f"{key}.{name}"].to(parameter.device, copy=True)
                        if key != "step"
                        else table[f"step.{name}"].clone()
                        for key in ("step", "exp_avg", "exp_avg_sq")
                    }
            for name, tensor in self.architecture.memory().items():
                tensor.copy_(table[f"memory.{name}"])
        self.silent_M.copy_(table["silent"])
        self.skipped, self.scale = int(table["skipped"]), float(table["scale"])

    # -- a step's parts ----------------------------------------------------------------------------
    def _project_gradient(self) -> None:
        """Take off what would only change the norm of a decoder row."""
        rows_MD = self.weights["W_dec"]
        if rows_MD.grad is not None:
            along_M1 = (rows_MD.grad * rows_MD.detach()).sum(-1, keepdim=True)
            rows_MD.grad -= along_M1 * rows_MD.detach()

    def _gradients_are_finite(self) -> bool:
        gradients = [p.grad for p in self.weights.values() if p.grad is not None]
        return bool(nn.utils.get_total_norm(gradients).isfinite())

    @torch.no_grad()
    def _to_unit_norm(self) -> None:
        rows_MD = self.weights["W_dec"]
        rows_MD /= decoder_norms(rows_MD)[:, None]

    @torch.no_grad()
    def _count(self, code: Code) -> None:
        self.silent_M += len(code.latents_NM)
        self.silent_M[(code.latents_NM > 0).any(0)] = 0


def affine_with_bias(weights: Mapping[str, Tensor]) -> Any:
    """Encoder and decoder, the gate's bias in place of a missing encoder bias."""
    bias_M = weights["b_enc"] if "b_enc" in weights else weights["b_gate"]
    return affine_of({**weights, "b_enc": bias_M})


def schedule(settings: SaeSettings, step: int) -> float:
    """The rate of a step (from 0) as a share of `lr`: up, level, and down to 0 in a line."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    num_last = round(settings.steps * settings.decay_share)
    left = settings.steps - step
    return min(1.0, left / num_last) if num_last else 1.0


def _first_weights(d_sae: int, scaled_ND: Tensor, seeds: Generator) -> dict[str, Tensor]:
    """Random unit directions, an encoder that is their transpose, the mean as bias."""
    W_dec_MD = torch.randn(d_sae, scaled_ND.shape[1], generator=seeds)
    W_dec_MD /= decoder_norms(W_dec_MD)[:, None]
    mean_D = scaled_ND.double().mean(0).float()
    return {"W_enc": W_dec_MD.T.contiguous(), "W_dec": W_dec_MD, "b_dec": mean_D.cpu()}
