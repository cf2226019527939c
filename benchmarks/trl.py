"""TRL's GRPO step on the same shapes: batch, group, prompt and answer lengths as `ours.rl`.

It does less work: its prompt is text, so no vector is put in, and its reward is the answer's
length, so nothing is scored by an AR and no AR is trained. It keeps a reference policy, as we do.
Runs in an environment of its own (`opponents`).
"""

from __future__ import annotations

import tempfile
from itertools import repeat
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from .measure import Done, Task
from .specs import NEW_TOKENS, PREFIX_TOKENS, SPECS, SUFFIX_TOKENS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def rl(
    model: str,
    vectors: int,
    group: int,
    new_tokens: int = NEW_TOKENS,
    device: str = "cpu",
    lora_rank: int | None = None,
    dtype: str | None = None,
) -> Task:
    """One GRPO step: `vectors` prompts with `group` answers each.

    Args:
        dtype: of the weights, and of TRL's mixed precision; None: float32 on a CPU, else bfloat16.
        lora_rank: an adapter of this rank on every matrix is trained, of a model with random
            weights that is on no disk; None: all weights of the model on disk.
    """
    dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
    tokenizer, policy = _policy(model, lora_rank is not None, device, DTYPES[dtype])
    trainer = GRPOTrainer(
        model=policy,
        args=_config(vectors, group, new_tokens, device, bf16=dtype == "bfloat16"),
        peft_config=lora_rank
        and LoraConfig(
            r=lora_rank,
            lora_alpha=2 * lora_rank,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
        reward_funcs=_length_reward,
        train_dataset=Dataset.from_list([{"prompt": prompt_text(tokenizer)}] * (8 * vectors)),
        processing_class=tokenizer,
    )
    # A first step through the trainer's own loop, which sets up what later ones use.
    trainer.train()
    batches = _forever(trainer)

    def run() -> Done:
        inputs = next(batches)
        trainer.training_step(trainer.model_wrapped, inputs, None)
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
        trainer.optimizer.step()
        trainer.model.zero_grad()
        return Done(1)

    return Task(run, run)


def _policy(model: str, is_random: bool, device: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Tokenizer and model."""
    if is_random:
        from .checkpoints import make_tokenizer, random_model
        from .operations import TOKENIZER

        spec = SPECS[model]
        tokenizer = make_tokenizer(min(spec.vocab_size, TOKENIZER))
        return tokenizer, random_model(spec, tokenizer, 2, device, dtype)
    directory = SPECS[model].directory / "av"
    return (
        AutoTokenizer.from_pretrained(directory),
        AutoModelForCausalLM.from_pretrained(directory, dtype=dtype),
    )


def prompt_text(tokenizer: Any) -> str:
    """A prompt of as many tokens as ours with its slot."""
    count = PREFIX_TOKENS + 1 + SUFFIX_TOKENS
    text = " the" * count
    while len(tokenizer(text)["input_ids"]) > count:
        text = text[len(" the") :]
    return text


def _config(vectors: int, group: int, new_tokens: int, device: str, bf16: bool) -> GRPOConfig:
    return GRPOConfig(
        output_dir=tempfile.mkdtemp(prefix="nlakit-bench-trl-"),
        per_device_train_batch_size=vectors * group,
        num_generations=group,
        max_completion_length=new_tokens,
        temperature=1.0,
        top_k=0,
        beta=0.01,
        learning_rate=1e-4,
        max_steps=1,
        gradient_checkpointing=False,
        bf16=bf16,
        use_cpu=device == "cpu",
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )


def _length_reward(completions: list[str], **_: Any) -> list[float]:
    return [len(text) / 100 for text in completions]


def _forever(trainer: GRPOTrainer) -> Any:
    for _ in repeat(None):
        yield from trainer.get_train_dataloader()


SIDES = {"rl": rl}
