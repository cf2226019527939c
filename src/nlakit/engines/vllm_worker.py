"""What vLLM's workers do besides: add vectors to the residual of a block (`core.inject`).

A worker knows rows, not requests. So a vector comes in its slot's own embedding, and slots are
known by their position, which is the same in every prompt. Before the first block the marker's
embedding takes the vector's place; after block `layer` the vector is added.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nlakit.core.inject import add_norm_matched
from nlakit.models.families import backbone_of, blocks_of


class AddsVectors:
    """Mixed into vLLM's worker class; `LLM.collective_rpc` calls its method."""

    def add_vectors(self, slot: int, marker_id: int, layer: int, coefficient: float) -> None:
        """From now on, add what the embeddings at position `slot` hold, after block `layer`."""
        model: Any = self.get_model()  # pyright: ignore[reportAttributeAccessIssue]
        adding = Adding(slot, marker_id, coefficient)
        model.register_forward_pre_hook(adding.take, with_kwargs=True)
        blocks_of(backbone_of(model))[layer].register_forward_hook(adding.add)


class Adding:
    """The two hooks of one model, and the vectors on their way from the first to the second.

    Letters: R rows, one for each token of each request in the step; N slots among them.
    """

    def __init__(self, slot: int, marker_id: int, coefficient: float) -> None:
        self.slot, self.marker_id, self.coefficient = slot, marker_id, coefficient
        self._rows_N = torch.empty(0, dtype=torch.long)
        self._vectors_ND = torch.empty(0, 0)

    def take(self, model: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Before the model: keep the vectors, and put the marker's embedding in their rows."""
        embeddings_RD: Tensor = kwargs["inputs_embeds"]
        self._rows_N = (kwargs["positions"] == self.slot).nonzero().flatten()
        self._vectors_ND = embeddings_RD[self._rows_N]
        if not len(self._rows_N):
            return args, kwargs
        # Read each time: the embedding may be one of the weights that are trained.
        marker_1D = model.embed_input_ids(self._rows_N.new_tensor([self.marker_id]))
        marker_ND = marker_1D.expand(len(self._rows_N), -1).to(embeddings_RD)
        marked_RD = embeddings_RD.index_put((self._rows_N,), marker_ND)
        return args, {**kwargs, "inputs_embeds": marked_RD}

    def add(self, _block: Any, _inputs: Any, output: Any) -> Any:
        """After the block: its output, a tensor or two whose sum is the residual, plus vectors."""
        if not len(self._rows_N):
            return output
        if isinstance(output, Tensor):
            return self._added(output, torch.zeros_like(output))
        hidden_RD, rest_RD = output
        return self._added(hidden_RD, rest_RD), rest_RD

    def _added(self, hidden_RD: Tensor, rest_RD: Tensor) -> Tensor:
        """`hidden_RD`, changed so that with `rest_RD` it is the residual with vectors added."""
        rest_ND = rest_RD[self._rows_N]
        residual_N1D = (hidden_RD[self._rows_N] + rest_ND)[:, None]
        places_N = torch.zeros_like(self._rows_N)
        added_N1D = add_norm_matched(residual_N1D, places_N, self._vectors_ND, self.coefficient)
        return hidden_RD.index_put((self._rows_N,), added_N1D[:, 0] - rest_ND)
