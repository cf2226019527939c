"""The engine on an accelerator, against Hugging Face there and against itself on the CPU."""

import pytest
import torch
from benchmarks import checkpoints, gpu_sections, steps
from benchmarks.gate import compare_greedy
from benchmarks.specs import SPECS

import nlakit
from nlakit.engines.base import Sampling
from nlakit.engines.capture import Recorder
from nlakit.engines.local import LocalEngine
from nlakit.models.lora import adapter_state

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def engine_on(device, dtype=torch.float32):
    return gpu_sections.open_ended(checkpoints.build(SPECS["S"], device, dtype))


@pytest.fixture(scope="module")
def given():
    return checkpoints.vectors(SPECS["S"], 16)


def test_greedy_in_float32_equals_hugging_face(given):
    found = compare_greedy(engine_on("cuda"), given, 48)
    assert found["holds"] and found["distinct"] > 1


def test_greedy_in_float32_equals_the_cpu(given):
    sampling = Sampling(max_new_tokens=24)
    answers = {}
    # The same weights on both: those of a seed differ from device to device.
    engine = engine_on("cpu")
    for device in ("cpu", "cuda"):
        engine.verbalizer.model.to(device)
        engine.refresh()
        answers[device] = [group[0].ids for group in engine.verbalize(given, sampling)]
    assert answers["cpu"] == answers["cuda"]


def test_bfloat16_logprobs_are_those_of_training(given):
    engine = engine_on("cuda", torch.bfloat16)
    sampling = Sampling(temperature=1.0, max_new_tokens=32)
    answers = [group[0] for group in engine.verbalize(given, sampling)]
    expected, mask = engine.verbalizer.logprobs(given, [list(each.ids) for each in answers])
    found = torch.tensor([each.logprobs for each in answers])
    assert (found - expected.float().cpu())[mask.cpu()].abs().mean() < 0.02


def test_the_bundled_nla_reads_there_as_on_the_cpu():
    text, (here, there) = (
        "Basil rowed by the pier.",
        (nlakit.load(device=device, dtype="float32") for device in ("cpu", "cuda")),
    )
    expected, found = (nla.explain(text, last=2).tokens for nla in (here, there))
    assert [row.explanation for row in found] == [row.explanation for row in expected]
    for row, same in zip(found, expected, strict=True):
        assert row.fidelity == pytest.approx(same.fidelity, abs=1e-3)
    steered = there.steer(text, -1, "a storm at sea", max_new_tokens=3)
    assert steered.plain == here.steer(text, -1, "a storm at sea", max_new_tokens=3).plain


def test_by_default_a_pair_is_there_as_it_is_stored():
    nla = nlakit.load()
    models = nla.target.model, nla.engine.verbalizer.model, nla.engine.reconstructor.backbone
    assert {(each.device.type, each.dtype) for each in models} == {("cuda", torch.bfloat16)}
    row = nla.explain("Basil rowed by the pier.", last=1).tokens[0]
    assert row.samples[0].closed and row.cosine > 0.5


def test_reconstruction_equals_the_cpu():
    texts = ["The boat came home.", "The boat came home late, and nobody said a word."]
    engine = engine_on("cpu")
    expected = engine.reconstruct(texts)
    engine.reconstructor.backbone.to("cuda")
    engine.reconstructor.head.to("cuda")
    found = engine.reconstruct(texts).cpu()
    assert torch.cosine_similarity(found, expected).min() > 1 - 1e-5


def sampled(engine, given, seed=3):
    sampling = Sampling(samples=2, temperature=1.0, max_new_tokens=70, seed=seed)
    return [each for group in engine.verbalize(given, sampling) for each in group]


def test_recorded_steps_write_what_the_same_steps_do_unrecorded(given, monkeypatch):
    engine = engine_on("cuda")
    recorded = sampled(engine, given)
    assert engine._kept is not None and len(engine._kept._steps) > 1
    monkeypatch.setattr(Recorder, "captured", lambda self, run, state: run)
    unrecorded = gpu_sections.open_ended(LocalEngine(None, engine.verbalizer, engine.reconstructor))
    expected = sampled(unrecorded, given)
    assert [each.ids for each in recorded] == [each.ids for each in expected]
    for one, other in zip(recorded, expected, strict=True):
        assert torch.allclose(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-4)


def test_a_graph_goes_on_with_new_weights():
    pair = steps.make_pair("T", "cuda")
    engine = LocalEngine(None, pair.verbalizer, pair.reconstructor, 32)
    vectors = checkpoints.vectors(SPECS["T"], 16)
    before, graphs = sampled(engine, vectors), dict(engine._kept._steps)
    with torch.no_grad():
        for each in adapter_state(pair.verbalizer.model).values():
            each.add_(torch.randn_like(each) * 0.1)
    engine.refresh()
    found = sampled(engine, vectors)
    assert engine._kept._steps == graphs
    fresh = sampled(LocalEngine(None, pair.verbalizer, pair.reconstructor, 32), vectors)
    assert [each.ids for each in found] == [each.ids for each in fresh]
    assert [each.ids for each in found] != [each.ids for each in before]
