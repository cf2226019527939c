"""Decode steps on fixed buffers, as an accelerator takes them, against the CPU's own pace."""

import pytest
import torch
from support.families import make

from nlakit.engines.base import Sampling
from nlakit.engines.batch import Pace, Row, choose, padded_rows
from nlakit.engines.capture import Recorder, rehearse
from nlakit.engines.local import LocalEngine
from nlakit.models.adapters import adapted
from nlakit.models.lora import adapter_state
from nlakit.models.precision import bring_to
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.verbalizer import Verbalizer
from nlakit.train.rl import policy_gap

GREEDY = Sampling(max_new_tokens=18)
SAMPLED = Sampling(samples=2, temperature=1.0, max_new_tokens=18, seed=7)
# Bursts of five read answers of eighteen tokens past their end.
ACCELERATOR = Pace(burst=5, columns=8, fixed=True)


def make_engine(model, tokenizer, av_meta, ar_meta, max_rows=17, pace=ACCELERATOR):
    engine = LocalEngine(
        None,
        Verbalizer(model, tokenizer, av_meta),
        Reconstructor.from_target(model, tokenizer, ar_meta),
        max_rows,
        pace,
    )
    # Rows end at different times.
    engine.verbalizer.eos_ids = list(range(0, 340, 12))
    return engine


def answers(groups):
    return [each for group in groups for each in group]


def same(found, expected):
    assert [each.ids for each in found] == [each.ids for each in expected]
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-4)
    return True


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("max_rows", [17])
def test_bursts_on_fixed_buffers_write_what_the_cpu_does(
    model, tokenizer, av_meta, ar_meta, vectors, sampling, max_rows
):
    parts = (model, tokenizer, av_meta, ar_meta)
    expected = answers(make_engine(*parts, pace=None).verbalize(vectors, sampling))
    found = answers(make_engine(*parts, max_rows).verbalize(vectors, sampling))
    assert same(found, expected) and len({len(each.ids) for each in found}) > 3


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text"])
def test_modules_write_the_same_in_bursts(family, tokenizer, av_meta, ar_meta, vectors):
    parts = (make(family, len(tokenizer)), tokenizer, av_meta, ar_meta)
    expected = answers(make_engine(*parts, pace=None).verbalize(vectors[:6], SAMPLED))
    assert same(answers(make_engine(*parts).verbalize(vectors[:6], SAMPLED)), expected)


def test_a_rehearsal_leaves_nothing_behind(
    llama, tokenizer, av_meta, ar_meta, vectors, monkeypatch
):
    """What a recording does to a batch in mid-answer, without the graph."""
    parts = (llama, tokenizer, av_meta, ar_meta)
    expected = answers(make_engine(*parts).verbalize(vectors, SAMPLED))
    recorded = []

    def captured(self, run, state):
        rehearse(run, state)
        recorded.append(run)
        return run

    monkeypatch.setattr(Recorder, "captured", captured)
    assert same(answers(make_engine(*parts).verbalize(vectors, SAMPLED)), expected)
    # One for each number of columns that the answers came to.
    assert len(recorded) > 1


def test_rows_that_choose_differently_share_fixed_buffers(
    llama, tokenizer, av_meta, ar_meta, vectors
):
    engine = make_engine(llama, tokenizer, av_meta, ar_meta)
    kinds = [Sampling(temperature=t, max_new_tokens=n) for t, n in ((0.0, 9), (1.0, 14), (0.5, 4))]
    rows = [Row(v, 0, kinds[v % 3], tag=v) for v in range(9)]
    session = engine.session(9)
    session.admit(rows, vectors[:9])
    while session.rows:
        session.step()
        session.release()
    for row in rows:
        (alone,) = engine.verbalize(vectors[row.vector][None], row.sampling, first=row.vector)[0]
        assert tuple(row.ids) == alone.ids


def test_new_weights_go_into_the_tensors_of_the_old(tokenizer, av_meta, ar_meta, vectors):
    view = adapted(make("llama", len(tokenizer)), 4, 8, 0, "base")
    parts = (view, tokenizer, av_meta, ar_meta)
    engine = make_engine(*parts)
    before = answers(engine.verbalize(vectors, SAMPLED))
    kept, ready = engine._kept, engine._ready
    with torch.no_grad():
        for each in adapter_state(view).values():
            each.copy_(torch.randn(each.shape, generator=torch.Generator().manual_seed(3)) * 0.2)
    engine.refresh()
    found = answers(engine.verbalize(vectors, SAMPLED))
    assert same(found, answers(make_engine(*parts, pace=None).verbalize(vectors, SAMPLED)))
    assert [each.ids for each in found] != [each.ids for each in before]
    # A recorded step goes on: its batch, decoder and prefix are those of the first call.
    assert (engine._kept, engine._ready) == (kept, ready)


def test_weights_that_have_moved_are_read_anew(llama, tokenizer, av_meta, ar_meta, vectors):
    engine = make_engine(llama, tokenizer, av_meta, ar_meta)
    engine.verbalize(vectors, GREEDY)
    ready = engine._ready
    for each in llama.parameters():
        each.data = each.data + 0.05
    engine.refresh()
    found = answers(engine.verbalize(vectors, GREEDY))
    fresh = make_engine(llama, tokenizer, av_meta, ar_meta, pace=None)
    assert same(found, answers(fresh.verbalize(vectors, GREEDY))) and engine._ready is not ready


def test_an_error_in_mid_answer_leaves_no_row_in_a_kept_batch(
    llama, tokenizer, av_meta, ar_meta, vectors
):
    engine = make_engine(llama, tokenizer, av_meta, ar_meta)
    expected = answers(engine.verbalize(vectors, GREEDY))

    def stop(row, sample, text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.verbalize(vectors, GREEDY, stop)
    assert same(answers(engine.verbalize(vectors, GREEDY)), expected)


def test_padding_is_at_most_an_eighth():
    assert [padded_rows(n) for n in (0, 1, 7, 17, 64, 65, 256, 1000)] == [
        1, 1, 7, 18, 64, 72, 256, 1024,
    ]  # fmt: skip


def test_rows_that_choose_alike_are_drawn_together():
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(1))
    rows = [Row(0, 0, Sampling(temperature=t)) for t in (0.0, 1.0, 0.0, 1.0)]
    uniform = torch.tensor([0.1, 0.2, 0.3, 0.4])
    found = choose([row.choice for row in rows], logits, uniform)
    for kind in (0, 1):
        alike = choose([rows[kind].choice] * 2, logits[kind::2], uniform[kind::2])
        assert torch.equal(found.ids_B[kind::2], alike.ids_B)


def test_in_bfloat16_merged_adapters_keep_the_trainers_policy(tokenizer, av_meta, ar_meta, vectors):
    """The engine merges and rounds, the trainer runs the adapter beside the base."""
    view = adapted(make("llama", len(tokenizer)), 4, 8, 0, "base")
    for each in adapter_state(view).values():
        each.data = torch.randn(each.shape, generator=torch.Generator().manual_seed(3)) * 0.1
    bring_to(view, "bfloat16")
    engine = make_engine(view, tokenizer, av_meta, ar_meta)
    found = answers(engine.verbalize(vectors, SAMPLED))
    rows = vectors.repeat_interleave(2, 0)
    expected, mask = engine.verbalizer.logprobs(rows, [list(each.ids) for each in found])
    gap = policy_gap([each.logprobs for each in found], expected.detach(), mask) / mask.sum()
    assert 0 < gap < 0.01
