"""What a target says next: of any family, and never the scaffolding of an NLA's prompts."""

from __future__ import annotations

import asyncio

import pytest
import torch
from support.families import make

import nlakit
from nlakit.engines.modules import decoder_for
from nlakit.serve.completion import Continuation, is_available, scaffolding


def written(decoder, ids: list[int], num: int, banned=()) -> list[int]:
    """Greedy tokens of a continuation."""

    async def run() -> list[int]:
        work = Continuation(decoder, ids, 0.0, [0.5] * num, set(), banned)
        with torch.inference_mode():
            while work.advance():
                pass
        return [token async for token in work.written()]

    return asyncio.run(run())


def greedy(model, ids: list[int], num: int) -> list[int]:
    """The same by Hugging Face, the whole text each time."""
    for _ in range(num):
        with torch.inference_mode():
            ids = [*ids, int(model(torch.tensor([ids])).logits[0, -1].argmax())]
    return ids[-num:]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma3_text", "mistral-window"])
def test_a_target_of_any_family_continues_as_its_own_library_does(family):
    model = make(family, 64).eval()
    ids = [5, 9, 13, 7]
    assert written(decoder_for(model), ids, 6) == greedy(model, ids, 6)


def test_prompt_scaffolding_is_never_written():
    pair = nlakit.load()
    target, verbalizer = pair.target, pair.verbalizer
    assert is_available(target) and verbalizer is not None
    banned = scaffolding(target, verbalizer.meta)
    tags = target.tokenizer.convert_ids_to_tokens(banned)
    assert {"<concept>", "</concept>", "<explanation>", "</explanation>"} <= set(tags)
    # This text led the target into "</concept> Please provide …" before.
    ids = target.encode("<|user|> hello").ids
    free = written(decoder_for(target.model), ids, 16)
    assert set(free) & set(banned)
    assert not set(written(decoder_for(target.model), ids, 16, banned)) & set(banned)
