"""Logit and Jacobian lens of a target, at every block."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nlakit.core.lens import jacobian_rows, relative_change, transported
from nlakit.errors import CheckpointError, InputError
from nlakit.models.families import backbone_of, blocks_of, family_of, head_of
from nlakit.models.io import save_tensors
from nlakit.models.target import Target

LensName = Literal["logit", "jacobian"]

FIRST_SOURCE = 16
"""Positions at a text's start that J is not taken at: attention sinks are unlike the rest."""
FIT_TOKENS, COMPONENTS_PER_PASS = 128, 32
CONVERGED = 2e-3
"""Relative change of the running mean over a round of texts, below which fitting stops."""
ROUND = 10
PICKLE_ADVICE = (
    "It is a pickle, which nlakit never opens. Convert it once, in an environment with torch: "
    'python -c "import torch; from safetensors.torch import save_file; '
    "lens = torch.load('lens.pt', weights_only=True); "
    "save_file({f'J.{k}': v.contiguous() for k, v in lens['J'].items()}, 'lens.safetensors')\""
)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Lens:
    """Reads residual streams as next-token logits.

    Attributes:
        jacobians: of the Jacobian lens, J of each block [D, D]; empty for the logit lens.
        about: how they were fitted.
    """

    jacobians: Mapping[int, Float[Tensor, "D D"]] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> LensName:
        """Which of the two."""
        return "jacobian" if self.jacobians else "logit"

    @torch.no_grad()
    def logits(
        self, target: Target, residual_ND: Float[Tensor, "N D"], layer: int
    ) -> Float[Tensor, "N V"]:
        """Next-token logits of residuals after block `layer`.

        Raises:
            InputError: a Jacobian lens without that block.
        """
        model = target.model
        residual_ND = residual_ND.to(device=model.device, dtype=model.dtype)
        if self.jacobians:
            if layer not in self.jacobians:
                known = ", ".join(map(str, sorted(self.jacobians)))
                raise InputError(f"The lens has no block {layer}; it has {known}.")
            jacobian_DD = self.jacobians[layer].to(residual_ND)
            residual_ND = transported(residual_ND, jacobian_DD)
        norm = getattr(backbone_of(model), family_of(model.config.model_type).final_norm)
        return head_of(model)(norm(residual_ND)).float()

    def save(self, path: Path) -> None:
        """Write `J.LAYER` in half precision, and how they were fitted, as safetensors and JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {f"J.{layer}": j.cpu() for layer, j in self.jacobians.items()}
        save_tensors(path, tensors, torch.float16)
        about = json.dumps(dict(self.about), indent=2) + "\n"
        path.with_suffix(".json").write_text(about, encoding="utf-8")


def load_lens(path: Path, d_model: int) -> Lens:
    """A Jacobian lens from its file.

    Raises:
        CheckpointError: not there, a pickle, corrupt, or of another width.
    """
    if path.suffix in (".pt", ".pth", ".bin"):
        raise CheckpointError(f"{path}: {PICKLE_ADVICE}")
    try:
        with safe_open(path, framework="pt") as file:
            found = {int(key[2:]): file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is not a Jacobian lens: {error}.") from error
    wrong = [layer for layer, j in found.items() if tuple(j.shape) != (d_model, d_model)]
    if wrong or not found:
        shape = tuple(found[wrong[0]].shape) if wrong else "nothing"
        raise CheckpointError(f"{path}: expected {d_model} x {d_model} matrices, found {shape}.")
    beside = path.with_suffix(".json")
    about = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    return Lens(found, about)


@torch.no_grad()
def residuals(target: Target, ids: Sequence[int]) -> list[Float[Tensor, "T D"]]:
    """The residual stream after every block of one sequence."""
    with captured_blocks(target) as found:
        rows = torch.tensor([list(ids)], device=target.model.device)
        backbone_of(target.model)(input_ids=rows, use_cache=False)
    return [each[0] for each in found]


def fit_jacobian(
    target: Target,
    texts: Sequence[Sequence[int]],
    layers: Sequence[int] | None = None,
    *,
    first_source: int = FIRST_SOURCE,
    progress: Progress | None = None,
) -> Lens:
    """Fit J of blocks by the mean over texts, until another round of texts moves it no more.

    Row i of one text: the gradient of component i of the last residual, summed over its target
    positions, by this block's residual; the mean over source positions. Sources and targets are all
    positions from `first_source` on, but the last.

    Args:
        texts: token ids; the first 128 of each are used, and shorter ones than `first_source` + 2
            are passed over.
        layers: by default all blocks but the last, whose J is the identity.

    Raises:
        InputError: no text is long enough.
    """
    chosen = list(range(target.model.config.num_hidden_layers - 1)) if layers is None else layers
    usable = [list(ids)[:FIT_TOKENS] for ids in texts if len(ids) >= first_source + 2]
    if not usable:
        raise InputError(f"No text has the {first_source + 2} tokens that a lens is fitted on.")
    target.model.requires_grad_(False)
    sums = {layer: torch.zeros(target.d_model, target.d_model) for layer in chosen}
    before: dict[int, Tensor] = {}
    for number, ids in enumerate(usable, start=1):
        for layer, jacobian_DD in _text_jacobians(target, ids, chosen, first_source).items():
            sums[layer] += jacobian_DD
        if progress is not None:
            progress(number, len(usable))
        if number % ROUND == 0:
            now = {layer: total / number for layer, total in sums.items()}
            if before and max(relative_change(before[n], now[n]) for n in chosen) < CONVERGED:
                break
            before = now
    about = {"texts": str(number), "first_source": str(first_source), "tokens": str(FIT_TOKENS)}
    return Lens({layer: total / number for layer, total in sums.items()}, about)


def _text_jacobians(
    target: Target, ids: Sequence[int], layers: Sequence[int], first_source: int
) -> dict[int, Tensor]:
    width, device = target.d_model, target.model.device
    valid_T = torch.zeros(len(ids), dtype=torch.bool, device=device)
    valid_T[first_source : len(ids) - 1] = True
    rows: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for start in range(0, width, COMPONENTS_PER_PASS):
        components = torch.arange(start, min(start + COMPONENTS_PER_PASS, width), device=device)
        batch_BT = torch.tensor([list(ids)] * len(components), device=device)
        with captured_blocks(target, differentiable=True) as found:
            backbone_of(target.model)(input_ids=batch_BT, use_cache=False)
        last_BTD = found[-1]
        wanted = last_BTD[torch.arange(len(components), device=device), :, components]
        gradients = torch.autograd.grad(wanted[:, valid_T].sum(), [found[n] for n in layers])
        for layer, gradient_BTD in zip(layers, gradients, strict=True):
            rows[layer].append(jacobian_rows(gradient_BTD.float(), valid_T).cpu())
    return {layer: torch.cat(parts) for layer, parts in rows.items()}


@contextmanager
def captured_blocks(target: Target, *, differentiable: bool = False) -> Iterator[list[Tensor]]:
    """While it lasts, a forward pass leaves every block's output in the list.

    Args:
        differentiable: let gradients start at the first block's output, with frozen weights.
    """
    found: list[Tensor] = []

    def keep(module: Any, inputs: Any, output: Any) -> Any:
        is_tuple = isinstance(output, tuple)
        residual = output[0] if is_tuple else output
        if differentiable and not residual.requires_grad:
            residual = residual.requires_grad_()
        found.append(residual)
        return (residual, *output[1:]) if is_tuple else residual

    handles = [each.register_forward_hook(keep) for each in blocks_of(backbone_of(target.model))]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
