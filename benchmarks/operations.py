"""How many operations torch dispatches: what a step costs on a GPU, whose host must launch each.

Counted on the meta device, where shapes are real and nothing is computed, so that any machine
counts the same: SmolLM2-135M's shapes, LoRA of rank 32 on a frozen base, bfloat16.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from nlakit.engines.decode import Decoder
from nlakit.engines.step import Choice, Rows, Step
from nlakit.models.adapters import adapted
from nlakit.models.lora import adapter_state
from nlakit.models.verbalizer import Verbalizer

from . import checkpoints
from .specs import SPECS, Spec

ROWS, ANSWER_TOKENS = 128, 85
"""Of a micro-batch: half of the warm start's 256 rows."""
LORA_RANK, LORA_ALPHA = 32, 64
DECODE_ROWS, DECODE_COLUMNS = 64, 64
"""Of a decode step, whose count depends on neither."""
TOKENIZER = 8192
"""Entries of the tokenizer, which the count does not depend on."""


class OperationCount(TorchDispatchMode):
    """Counts what is dispatched while it is open, views among them."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.by_name[str(func)] += 1
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        """Of all kinds."""
        return self.by_name.total()


def counted(run: Callable[[], object]) -> OperationCount:
    """What a second run dispatches; the first one prepares what later ones keep."""
    run()
    with OperationCount() as count:
        run()
    return count


def adapted_verbalizer(name: str, device: str, dtype: torch.dtype = torch.bfloat16) -> Verbalizer:
    """A random verbalizer of a spec's shape with an adapter, in one precision."""
    spec = SPECS[name]
    tokenizer = checkpoints.make_tokenizer(min(spec.vocab_size, TOKENIZER))
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config_of(spec), dtype=dtype).eval()
    view = adapted(model, LORA_RANK, LORA_ALPHA, 0, name)
    for parameter in adapter_state(view).values():
        parameter.data = parameter.data.to(device, dtype)
    return Verbalizer(view, tokenizer, checkpoints.make_meta(spec, tokenizer, "av"))


def config_of(spec: Spec) -> Any:
    """Hugging Face's config of a spec, with head and embedding tied as SmolLM2's are."""
    return AutoConfig.for_model(
        spec.model_type,
        vocab_size=spec.vocab_size,
        hidden_size=spec.d_model,
        intermediate_size=spec.intermediate,
        num_hidden_layers=spec.num_layers,
        num_attention_heads=spec.num_heads,
        num_key_value_heads=spec.num_kv_heads,
        max_position_embeddings=checkpoints.CONTEXT,
        initializer_range=spec.d_model**-0.5,
        tie_word_embeddings=True,
    )


def training_operations(name: str = "SMOL", device: str = "meta") -> OperationCount:
    """Of one AV micro-batch, forward and backward."""
    verbalizer = adapted_verbalizer(name, device)
    responses = [[300 + row] * ANSWER_TOKENS for row in range(ROWS)]
    vectors = checkpoints.vectors(SPECS[name], ROWS)

    def run() -> None:
        for parameter in verbalizer.model.parameters():
            parameter.grad = None
        logprobs_BT, mask_BT = verbalizer.logprobs(vectors, responses)
        (-(logprobs_BT * mask_BT).sum() / mask_BT.sum()).backward()

    return counted(run)


def decode_operations(
    name: str = "SMOL", device: str = "meta", rows: int = DECODE_ROWS
) -> OperationCount:
    """Of one decode step with adapters on: a token sampled in each row."""
    verbalizer = adapted_verbalizer(name, device)
    # As the engine runs it: in inference mode torch dispatches `rms_norm` as the one operation
    # that it is on CUDA.
    with torch.inference_mode():
        decoder = Decoder(verbalizer.model)
        prefix = decoder.run_prefix(verbalizer.prefix_ids)
        state = Rows.empty(decoder, [], rows, DECODE_COLUMNS)
        logits = decoder.one_token(prefix, state, DECODE_COLUMNS)
        return counted(Step(state, logits, Choice(temperature=1.0, top_p=1.0)))


def figures() -> dict[str, int]:
    """The counts that a run reports."""
    return {"av_micro_batch": training_operations().total, "decode_step": decode_operations().total}


if __name__ == "__main__":
    print(json.dumps(figures()))
