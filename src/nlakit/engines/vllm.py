"""Rollouts by vLLM: many answers at once from a copy of the verbalizer that follows its training.

A vector travels as one embedding: the prompt is sent as token ids of which only the slot's is
replaced, so that the tokens before it are computed once and cached. After an update of the weights
the next call sends them (an adapter, or all of them, as safetensors files) under a new version,
and keys and values of older versions are never found again: the version salts the cache.

Targets and reconstructors are run here, as `LocalEngine` runs them.
"""

from __future__ import annotations

import gc
import hashlib
import importlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nlakit.core.inject import replace_rows
from nlakit.engines.base import Capability, Completion, OnText, Sampling, refuse
from nlakit.engines.local import Ending, completed, extracted
from nlakit.errors import InputError, MissingExtraError
from nlakit.models.lora import IN_MEMORY, is_adapted
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Encoded, Target
from nlakit.models.verbalizer import CLOSE_TAG, Verbalizer

BLOCK_SIZE = 32
"""Tokens of a block of the cache: only whole blocks before the slot are shared."""
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Of adapters, that vLLM has room for."""
WORKER_EXTENSION = "nlakit.engines.vllm_worker.AddsVectors"


@dataclass(frozen=True)
class VllmSettings:
    """How vLLM is started.

    Attributes:
        base: directory of the model that the verbalizer's adapter belongs to; None: it has no
            adapter, and all its weights are sent.
        dtype: of vLLM's weights and cache, as `torch.dtype`s are called.
        max_new_tokens: of the longest answer that will be asked for.
        max_rows: answers written side by side.
        memory: share of the device's memory that vLLM takes.
        eager: run without compiling, which takes minutes to start; always so where vectors are
            added to a residual.
    """

    base: Path | None = None
    dtype: str = "bfloat16"
    max_new_tokens: int = 150
    max_rows: int = 256
    memory: float = 0.4
    eager: bool = False


class VllmEngine:
    """Explains with vLLM; starts it when it is first needed.

    Sampled texts are a function of vector, seed and numbers, as with every engine, but are other
    ones than `LocalEngine`'s, which draws differently. Call `refresh` after changing the weights.

    Raises:
        InputError: the verbalizer has an adapter and the settings name no base, or the other way
            around; an adapter of a rank that vLLM has no room for, or of a multimodal base.
    """

    def __init__(
        self,
        target: Target | None,
        verbalizer: Verbalizer,
        reconstructor: Reconstructor,
        settings: VllmSettings,
    ) -> None:
        self.target = target
        self.verbalizer = verbalizer
        self.reconstructor = reconstructor
        self.settings = settings
        self.version = 0
        self._options = start_options(verbalizer, settings)
        self._ending = Ending(verbalizer)
        self._is_stale = True
        self._llm: Any = None
        self._files = tempfile.TemporaryDirectory(prefix="nlakit-vllm-")

    @property
    def kind(self) -> str:
        """Its row in `REFUSALS`."""
        return "vllm"

    def refresh(self) -> None:
        """The verbalizer's weights have changed: the next call sends them."""
        self._is_stale = True

    def close(self) -> None:
        """Give vLLM's memory back; the engine is not used again."""
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
            gc.collect()
        self._files.cleanup()

    def verbalize(
        self,
        vectors_ND: Tensor,
        sampling: Sampling,
        on_text: OnText | None = None,
        first: int = 0,
    ) -> list[list[Completion]]:
        """Per vector, `sampling.samples` answers; see `Engine.verbalize`.

        Raises:
            UnsupportedError: `on_text` was given.
            InputError: bad vectors, or an answer longer than the settings or the context allow.
            MissingExtraError: vLLM is not installed.
        """
        if on_text is not None:
            refuse("vllm", Capability.STREAM)
        scaled_ND = self.verbalizer.scaled(vectors_ND).cpu()
        self._check_length(sampling)
        if not len(scaled_ND):
            return []
        vllm = _package("vllm")
        self._sync()
        answers = self._llm.generate(
            [mixed_prompt(self.verbalizer, row_D, self._dtype, self.salt) for row_D in scaled_ND],
            [
                vllm.SamplingParams(**sampling_options(sampling, first + place, self.verbalizer))
                for place in range(len(scaled_ND))
            ],
            lora_request=self._adapter(),
            use_tqdm=False,
        )
        repeats = sampling.samples if sampling.temperature == 0 else 1
        return [
            [self._completion(each) for each in sorted(answer.outputs, key=lambda it: it.index)]
            * repeats
            for answer in answers
        ]

    def reconstruct(self, explanations: Sequence[str]) -> Tensor:
        """Per explanation a float32 vector, N x D. Raises `InputError` for one that is too long."""
        return self.reconstructor.reconstruct(explanations)

    def extract(self, encoded: Encoded, positions: Sequence[int] | None = None) -> Tensor:
        """Raw float32 activations at token positions (None: at all of them), P x D.

        Raises:
            InputError: no target was loaded, or a position is outside the text.
        """
        return extracted(self.target, encoded, positions)

    @property
    def salt(self) -> str:
        """What keys and values of this version of the weights are filed under."""
        return f"weights-{self.version}"

    # -- weights -----------------------------------------------------------------------------------
    def _sync(self) -> None:
        """See to it that vLLM runs the weights as they are now, under a version of their own."""
        if not self._is_stale:
            return
        self.version += 1
        self.verbalizer.save(self._weights, self._dtype)
        shutil.rmtree(self._directory(self.version - 1), ignore_errors=True)
        if self._llm is None:
            self._llm = self._start()
        elif self.settings.base is None:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(self._weights)})
        self._is_stale = False

    def _start(self) -> Any:
        model = self.settings.base or self._weights
        llm = _package("vllm").LLM(model=str(model), **self._options)
        if self.verbalizer.adds:
            meta = self.verbalizer.meta
            slot, marker = len(self.verbalizer.prefix_ids), meta.tokens.injection_token_id
            how = (slot, marker, meta.injection.layer, meta.injection.coefficient)
            llm.collective_rpc("add_vectors", args=how)
        return llm

    def _adapter(self) -> Any:
        if self.settings.base is None:
            return None
        request = _package("vllm.lora.request").LoRARequest
        return request(self.salt, self.version, str(self._weights))

    @property
    def _dtype(self) -> torch.dtype:
        return getattr(torch, self.settings.dtype)

    @property
    def _weights(self) -> Path:
        return self._directory(self.version)

    def _directory(self, version: int) -> Path:
        return Path(self._files.name) / f"version-{version}"

    # -- answers -----------------------------------------------------------------------------------
    def _check_length(self, sampling: Sampling) -> None:
        longest = self._options["max_model_len"] - _prompt_length(self.verbalizer)
        if sampling.max_new_tokens > longest:
            raise InputError(
                f"Answers of up to {sampling.max_new_tokens} tokens were asked of a vLLM that was "
                f"started for {longest}. Give VllmSettings.max_new_tokens, or ask for fewer."
            )

    def _completion(self, output: Any) -> Completion:
        """An answer, cut where `LocalEngine` would have stopped writing."""
        ids = [int(each) for each in output.token_ids]
        ends = (end for end in range(1, len(ids) + 1) if self._ending.reached(ids[:end]))
        kept = ids[: next(ends, len(ids))]
        found = zip(kept, output.logprobs, strict=False)
        logprobs = [float(table[token].logprob) for token, table in found]
        return completed(self.verbalizer, self.reconstructor, kept, logprobs)


# -- requests --------------------------------------------------------------------------------------
def start_options(verbalizer: Verbalizer, settings: VllmSettings) -> dict[str, Any]:
    """Arguments of `vllm.LLM`, its model left out. Raises as `VllmEngine` does."""
    if is_adapted(verbalizer.model) != (settings.base is not None):
        raise InputError(
            "A verbalizer with an adapter needs VllmSettings.base, the directory of the model that "
            f"the adapter belongs to, and any other must not have one: found {settings.base}."
        )
    _check_base(verbalizer, settings.base)
    context = _prompt_length(verbalizer) + settings.max_new_tokens
    longest = verbalizer.model.config.max_position_embeddings
    options: dict[str, Any] = {
        "dtype": settings.dtype,
        "max_model_len": min(context, longest),
        "max_num_seqs": settings.max_rows,
        "gpu_memory_utilization": settings.memory,
        "block_size": BLOCK_SIZE,
        "enable_prompt_embeds": True,
        "enable_prefix_caching": True,
        "enforce_eager": settings.eager or verbalizer.adds,
        "load_format": "safetensors",
        # Otherwise the model's own defaults would change what is sampled.
        "generation_config": "vllm",
    }
    if settings.base is not None:
        options |= {"enable_lora": True, "max_lora_rank": _room_for(verbalizer), "max_loras": 1}
    if verbalizer.adds:
        options["worker_extension_cls"] = WORKER_EXTENSION
    return options


def mixed_prompt(
    verbalizer: Verbalizer, scaled_D: Tensor, dtype: torch.dtype, salt: str
) -> dict[str, Any]:
    """A prompt of ids in which the slot alone is an embedding.

    vLLM wants embeddings as long as the prompt and reads those that the mask names; zeros stand in
    for the rest. Blocks are found in the cache by ids and embeddings, so those before the slot are
    the same for every vector. A prompt without embeddings is filed elsewhere: none is ever sent.

    Args:
        scaled_D: what `Verbalizer.scaled` returned, on the CPU. Where it is added to a residual,
            the slot carries it to the block (`vllm_worker`).
        salt: of the version of the weights.
    """
    marker = verbalizer.meta.tokens.injection_token_id
    ids = [*verbalizer.prefix_ids, marker, *verbalizer.suffix_ids]
    slot = len(verbalizer.prefix_ids)
    empty_1TD = torch.zeros(1, len(ids), len(scaled_D), dtype=dtype)
    embeddings_1TD = replace_rows(empty_1TD, torch.tensor([slot]), scaled_D[None])
    return {
        "prompt_token_ids": ids,
        "prompt_is_token_ids": [place != slot for place in range(len(ids))],
        "prompt_embeds": embeddings_1TD[0],
        "cache_salt": salt,
    }


def sampling_options(sampling: Sampling, number: int, verbalizer: Verbalizer) -> Mapping[str, Any]:
    """Arguments of `vllm.SamplingParams` for the vector of this number.

    vLLM gives sample i of a request the seed plus i. Log-probabilities are those of the drawn token
    at temperature 1. At temperature 0 it writes one answer, as `LocalEngine` does.
    """
    name = f"{sampling.seed}/{number}".encode()
    digest = hashlib.blake2b(name, digest_size=8).digest()
    return {
        "n": 1 if sampling.temperature == 0 else sampling.samples,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_new_tokens,
        # Signed 64-bit numbers, with room above for the samples.
        "seed": int.from_bytes(digest, "big") >> 2,
        "stop": [CLOSE_TAG],
        "stop_token_ids": list(verbalizer.eos_ids),
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "logprobs": 0,
    }


def _check_base(verbalizer: Verbalizer, base: Path | None) -> None:
    """Refuse a multimodal base, in which the language model's blocks have other names."""
    expected = verbalizer.model.config.model_type
    if base is None:
        return
    found = json.loads((base / "config.json").read_text(encoding="utf-8"))["model_type"]
    if found != expected:
        raise InputError(
            f"{base} holds a {found!r}, the adapter was trained on its {expected!r} alone, and "
            "vLLM would run the whole. Use LocalEngine (rl.rollouts=local)."
        )


def _prompt_length(verbalizer: Verbalizer) -> int:
    return len(verbalizer.prefix_ids) + 1 + len(verbalizer.suffix_ids)


def _room_for(verbalizer: Verbalizer) -> int:
    """The smallest of vLLM's ranks that the adapter fits in."""
    rank = verbalizer.model.peft_config[IN_MEMORY].r
    room = next((each for each in RANKS if each >= rank), None)
    if room is None:
        raise InputError(f"The adapter has rank {rank}; vLLM takes up to {RANKS[-1]}.")
    return room


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError("vllm", "vllm") from error
