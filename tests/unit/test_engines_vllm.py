"""What is asked of vLLM, with a stand-in for it; `tests/rollouts` asks the real one."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from support.rollouts import D_MODEL, SCALE, adapted_verbalizer, tiny_pair, tiny_target, vectors

from nlakit.core.inject import add_norm_matched
from nlakit.engines.base import Sampling, with_sessions
from nlakit.engines.vllm import (
    WORKER_EXTENSION,
    VllmEngine,
    VllmSettings,
    mixed_prompt,
    sampling_options,
    start_options,
)
from nlakit.engines.vllm_worker import Adding
from nlakit.errors import InputError, MissingExtraError, UnsupportedError
from nlakit.models.verbalizer import CLOSE_TAG, OPEN_TAG

SETTINGS = VllmSettings(dtype="float32", max_new_tokens=32)


class FakeLLM:
    """Notes what it is asked and answers each sample with `answer` and two tokens too many."""

    made: list[FakeLLM] = []
    answer: list[int] = []

    def __init__(self, model: str, **options: Any) -> None:
        self.model, self.options = model, options
        self.calls: list[dict[str, Any]] = []
        self.reloaded: list[str] = []
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=lambda: None))
        self.files_at_start = sorted(each.name for each in Path(model).iterdir())
        FakeLLM.made.append(self)

    def generate(self, prompts: list[Any], params: list[Any], **options: Any) -> list[Any]:
        self.calls.append({"prompts": prompts, "params": params, **options})
        adapter = options["lora_request"]
        assert adapter is None or (Path(adapter.path) / "adapter_model.safetensors").is_file()
        return [SimpleNamespace(outputs=self._samples(each.n)) for each in params]

    def collective_rpc(self, method: str, args: Any = (), kwargs: Any = None) -> None:
        assert method == "reload_weights"
        assert (Path(kwargs["weights_path"]) / "model.safetensors").is_file()
        self.reloaded.append(kwargs["weights_path"])

    def _samples(self, count: int) -> list[Any]:
        """Numbered from 0, given back last first."""
        ids = [*self.answer, 5, 6]
        logprobs = [{token: SimpleNamespace(logprob=-float(place))} for place, token in
                    enumerate(ids)]  # fmt: skip
        return [
            SimpleNamespace(
                index=i, token_ids=[40 + i, *ids], logprobs=[{40 + i: first}, *logprobs]
            )
            for i, first in [(i, SimpleNamespace(logprob=-9.0)) for i in reversed(range(count))]
        ]


@pytest.fixture
def fake(monkeypatch) -> type[FakeLLM]:
    package, requests = ModuleType("vllm"), ModuleType("vllm.lora.request")
    package.__dict__.update(LLM=FakeLLM, SamplingParams=SimpleNamespace)
    requests.__dict__["LoRARequest"] = lambda name, number, path: SimpleNamespace(
        name=name, number=number, path=path
    )
    monkeypatch.setitem(sys.modules, "vllm", package)
    monkeypatch.setitem(sys.modules, "vllm.lora.request", requests)
    monkeypatch.setattr(FakeLLM, "made", [])
    return FakeLLM


@pytest.fixture(scope="module")
def target():
    return tiny_target()


@pytest.fixture
def pair(target):
    return tiny_pair(target, "replace")


@pytest.fixture
def engine(fake, target, pair):
    made = VllmEngine(target, *pair, SETTINGS)
    fake.answer = pair[0].encode_response("a lantern")
    yield made
    made.close()


def test_only_the_slot_of_a_prompt_is_an_embedding(pair):
    av = pair[0]
    scaled_ND = av.scaled(vectors(2))
    prompt = mixed_prompt(av, scaled_ND[1], torch.bfloat16, "weights-3")
    slot = len(av.prefix_ids)
    assert prompt["prompt_token_ids"][:slot] == av.prefix_ids
    assert prompt["prompt_token_ids"][slot] == av.meta.tokens.injection_token_id
    assert prompt["prompt_token_ids"][slot + 1 :] == av.suffix_ids
    read = prompt["prompt_is_token_ids"]
    assert [place for place, is_id in enumerate(read) if not is_id] == [slot]
    embeddings = prompt["prompt_embeds"]
    assert embeddings.shape == (len(read), D_MODEL) and embeddings.dtype == torch.bfloat16
    assert embeddings[slot].float().norm().item() == pytest.approx(SCALE, rel=1e-2)
    embeddings[slot] = 0
    assert not embeddings.any()
    assert prompt["cache_salt"] == "weights-3"


def test_blocks_before_the_slot_are_the_same_for_all_vectors(pair):
    av = pair[0]
    one, two = (mixed_prompt(av, row, torch.float32, "s") for row in av.scaled(vectors(2)))
    slot = len(av.prefix_ids)
    assert one["prompt_token_ids"] == two["prompt_token_ids"]
    assert torch.equal(one["prompt_embeds"][:slot], two["prompt_embeds"][:slot])
    assert not torch.equal(one["prompt_embeds"][slot], two["prompt_embeds"][slot])


def test_sampling_is_asked_for_as_the_engine_means_it(pair):
    sampling = Sampling(samples=3, temperature=0.7, top_p=0.9, max_new_tokens=20, seed=4)
    found = sampling_options(sampling, 11, pair[0])
    seed = found.pop("seed") if isinstance(found, dict) else None
    assert found == {
        "n": 3, "temperature": 0.7, "top_p": 0.9, "max_tokens": 20, "logprobs": 0,
        "stop": [CLOSE_TAG], "stop_token_ids": pair[0].eos_ids,
        "include_stop_str_in_output": True, "skip_special_tokens": False,
    }  # fmt: skip
    assert seed is not None and 0 <= seed < 2**63 - 3


def test_seeds_belong_to_the_vectors_number(engine, fake):
    many = Sampling(samples=2, temperature=1.0, max_new_tokens=8, seed=5)
    engine.verbalize(vectors(3), many)
    engine.verbalize(vectors(3)[1:], many, first=1)
    whole, part = ([each.seed for each in call["params"]] for call in fake.made[0].calls)
    assert whole[1:] == part and len(set(whole)) == 3
    other = Sampling(samples=2, temperature=1.0, max_new_tokens=8, seed=6)
    assert sampling_options(other, 0, engine.verbalizer)["seed"] != whole[0]


def test_answers_come_in_order_and_end_with_the_tag(engine, pair):
    groups = engine.verbalize(vectors(2), Sampling(samples=3, temperature=1.0, max_new_tokens=32))
    assert [len(group) for group in groups] == [3, 3]
    for group in groups:
        assert [each.ids[0] for each in group] == [40, 41, 42]
        end = 1 + len(pair[0].encode_response("a lantern")) - 1
        assert all(len(each.ids) == len(each.logprobs) == end for each in group)
        assert [each.logprobs[0] for each in group] == [-9.0] * 3
        assert group[0].logprobs[1:] == tuple(-float(place) for place in range(end - 1))
        assert group[0].text == "a lantern" and group[0].closed
        assert group[0].raw_text.endswith(f"{OPEN_TAG}a lantern{CLOSE_TAG}")


def test_greedy_answers_are_written_once_and_repeated(engine, fake):
    (group,) = engine.verbalize(vectors(1), Sampling(samples=4, max_new_tokens=16))
    assert len(group) == 4 and len({each.ids for each in group}) == 1
    assert [each.n for each in fake.made[0].calls[0]["params"]] == [1]


def test_no_vectors_start_nothing(engine, fake):
    assert engine.verbalize(vectors(0), Sampling(max_new_tokens=4)) == [] and fake.made == []


def test_weights_are_sent_after_a_change_and_not_otherwise(engine, fake):
    for _ in range(2):
        engine.verbalize(vectors(1), Sampling(max_new_tokens=4))
    engine.refresh()
    engine.refresh()
    engine.verbalize(vectors(1), Sampling(max_new_tokens=4))
    (llm,) = fake.made
    assert "model.safetensors" in llm.files_at_start and "config.json" in llm.files_at_start
    salts = [call["prompts"][0]["cache_salt"] for call in llm.calls]
    assert salts == ["weights-1", "weights-1", "weights-2"]
    assert [Path(each).name for each in llm.reloaded] == ["version-2"]
    assert not Path(llm.model).exists(), "the files of older weights are kept"
    assert [call["lora_request"] for call in llm.calls] == [None] * 3


def test_an_adapter_travels_alone_under_a_name_of_its_own(fake, target, pair, tmp_path):
    target.save(tmp_path / "base")
    av = adapted_verbalizer(target, "replace", tmp_path / "base")
    settings = VllmSettings(base=tmp_path / "base", dtype="float32", max_new_tokens=32)
    engine = VllmEngine(target, av, pair[1], settings)
    fake.answer = av.encode_response("x")
    engine.verbalize(vectors(1), Sampling(max_new_tokens=4))
    engine.refresh()
    engine.verbalize(vectors(1), Sampling(max_new_tokens=4))
    (llm,) = fake.made
    assert llm.model == str(tmp_path / "base") and llm.reloaded == []
    assert llm.options["enable_lora"] and llm.options["max_lora_rank"] == 8
    sent = [call["lora_request"] for call in llm.calls]
    assert [(each.name, each.number) for each in sent] == [("weights-1", 1), ("weights-2", 2)]
    assert sent[0].path != sent[1].path
    engine.close()


def test_adapter_and_base_come_together(target, pair, tmp_path):
    with pytest.raises(InputError, match="must not have one"):
        start_options(pair[0], VllmSettings(base=tmp_path))
    av = adapted_verbalizer(target, "replace", tmp_path)
    with pytest.raises(InputError, match=r"needs VllmSettings\.base"):
        start_options(av, VllmSettings())
    (tmp_path / "config.json").write_text('{"model_type": "gemma3"}')
    with pytest.raises(InputError, match="'gemma3'.*'qwen2' alone"):
        start_options(av, VllmSettings(base=tmp_path))


def test_vllm_is_started_for_what_will_be_asked(pair, target):
    length = len(pair[0].prefix_ids) + 1 + len(pair[0].suffix_ids)
    options = start_options(pair[0], SETTINGS)
    assert options["max_model_len"] == length + 32
    assert options["enable_prompt_embeds"] and options["enable_prefix_caching"]
    assert options["load_format"] == "safetensors" and not options["enforce_eager"]
    adding = start_options(tiny_pair(target, "add")[0], SETTINGS)
    assert adding["enforce_eager"] and adding["worker_extension_cls"] == WORKER_EXTENSION
    module, _, name = WORKER_EXTENSION.rpartition(".")
    assert callable(getattr(importlib.import_module(module), name).add_vectors)


def test_what_it_cannot_do_is_refused_before_it_starts(engine, fake, monkeypatch):
    with pytest.raises(UnsupportedError, match="words while they are written"):
        engine.verbalize(vectors(1), Sampling(), on_text=lambda *_: None)
    with pytest.raises(UnsupportedError, match="one batch"):
        with_sessions(engine)
    with pytest.raises(InputError, match="33 tokens .* started for 32"):
        engine.verbalize(vectors(1), Sampling(max_new_tokens=33))
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtraError, match=r"nlakit\[vllm\]"):
        engine.verbalize(vectors(1), Sampling(max_new_tokens=4))
    assert fake.made == []


# -- what its workers do ---------------------------------------------------------------------------
SLOT, MARKER_ID, COEFFICIENT = 3, 1, 2.0


class Embedding(torch.nn.Module):
    def embed_input_ids(self, ids: torch.Tensor) -> torch.Tensor:
        return ids[:, None] + torch.arange(4.0)


def taken(positions: list[int]) -> tuple[Adding, torch.Tensor, torch.Tensor]:
    """The hooks after the first, what they were given, and what the model is given instead."""
    adding = Adding(SLOT, MARKER_ID, COEFFICIENT)
    given = torch.randn(len(positions), 4, generator=torch.Generator().manual_seed(1))
    step = {"inputs_embeds": given, "positions": torch.tensor(positions)}
    return adding, given, adding.take(Embedding(), (), step)[1]["inputs_embeds"]


def test_the_markers_embedding_takes_the_vectors_place():
    _, given, marked = taken([2, 3, 7, 3])
    assert torch.equal(marked[[0, 2]], given[[0, 2]])
    assert torch.equal(marked[[1, 3]], torch.tensor([[1.0, 2.0, 3.0, 4.0]] * 2))


@pytest.mark.parametrize("halves", [True, False])
def test_vectors_are_added_to_their_own_rows(halves):
    adding, given, _ = taken([2, 3, 7, 3])
    hidden, rest = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(2))
    residual = hidden + rest if halves else hidden
    output = adding.add(None, None, (hidden, rest) if halves else hidden)
    found = output[0] + output[1] if halves else output
    wanted = add_norm_matched(residual[None, [1]], torch.tensor([0]), given[[1]], COEFFICIENT)
    torch.testing.assert_close(found[1], wanted[0, 0])
    torch.testing.assert_close(found[[0, 2]], residual[[0, 2]])
    moved = (found - residual).norm(dim=1) / residual.norm(dim=1)
    assert moved[[1, 3]].tolist() == pytest.approx([COEFFICIENT] * 2, rel=1e-4)


def test_a_step_without_slots_is_left_alone():
    adding, given, marked = taken([8, 9])
    assert marked is given
    output = (given, given)
    assert adding.add(None, None, output) is output
