"""The local engine against Hugging Face's generate, against itself and against training."""

import pytest
import torch
from support.families import make

from nlakit.core.site import Site
from nlakit.engines.base import Sampling
from nlakit.engines.decode import Decoder
from nlakit.engines.fake import FakeEngine
from nlakit.engines.local import Ending, LocalEngine
from nlakit.engines.modules import ModuleDecoder, decoder_for
from nlakit.errors import InputError
from nlakit.models.adapters import adapted
from nlakit.models.lora import adapter_state
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer

GREEDY = Sampling(max_new_tokens=24)
SAMPLED = Sampling(samples=2, temperature=1.0, max_new_tokens=24, seed=7)


@pytest.fixture
def engine(model, tokenizer, av_meta, ar_meta):
    return make_engine(model, tokenizer, av_meta, ar_meta)


def make_engine(model, tokenizer, av_meta, ar_meta, max_rows=64):
    return LocalEngine(
        Target(model, tokenizer, Site(1)),
        Verbalizer(model, tokenizer, av_meta),
        Reconstructor.from_target(model, tokenizer, ar_meta),
        max_rows=max_rows,
    )


def ids_of(groups):
    return [each.ids for group in groups for each in group]


def hugging_face_greedy(verbalizer, vector, max_new_tokens):
    prompt = [*verbalizer.prefix_ids, 0, *verbalizer.suffix_ids]
    embeds = verbalizer.model.get_input_embeddings()(torch.tensor([prompt])).detach()
    embeds[0, len(verbalizer.prefix_ids)] = vector / vector.norm() * 5.0
    output = verbalizer.model.generate(
        inputs_embeds=embeds,
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=1,
    )
    return tuple(output[0].tolist())


def test_greedy_equals_hugging_face(engine, vectors):
    found = ids_of(engine.verbalize(vectors[:6], GREEDY))
    expected = [hugging_face_greedy(engine.verbalizer, vector, 24) for vector in vectors[:6]]
    assert found == expected
    assert len(set(found)) > 1


@torch.inference_mode()
def test_packed_weights_compute_the_same(model, monkeypatch):
    monkeypatch.setattr("nlakit.engines.decode.PIECE", 100)  # the vocabulary takes four pieces
    monkeypatch.setattr("nlakit.engines.decode.WIDE", 300)
    embeds = torch.randn(3, 5, 32)
    logits = []
    for copy_below in (0, 10**9):
        decoder = Decoder(model, copy_below)
        prefix, cache = decoder.run_prefix([4, 8]), decoder.new_cache(3, 5)
        starts = torch.zeros(3, dtype=torch.long)
        normed = decoder.forward(embeds, starts, slice(0, 3), cache, prefix, 5)
        logits.append(decoder.head(normed))
    assert [len(Decoder(model, below).head.pieces) for below in (0, 10**9)] == [1, 4]
    assert torch.allclose(logits[1], model.lm_head(normed), atol=1e-5)
    assert torch.allclose(*logits, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_adapters_are_decoded_merged_or_beside_the_base_as_their_modules_do(family, tokenizer):
    view = adapted(make(family, len(tokenizer)), 4, 8, 0, "base")
    for each in adapter_state(view).values():
        each.copy_(torch.randn(each.shape, generator=torch.Generator().manual_seed(3)) * 0.2)
    base = [each.clone() for each in view.parameters()]
    embeds, starts = torch.randn(3, 5, 32), torch.zeros(3, dtype=torch.long)
    found = []
    for decoder in (ModuleDecoder(view), Decoder(view, 10**9), Decoder(view, 0)):
        prefix, cache = decoder.run_prefix([4, 8]), decoder.new_cache(3, 5)
        normed = decoder.forward(embeds, starts, slice(0, 3), cache, prefix, 5)
        found.append(decoder.head(normed))
    assert type(decoder_for(view)) is Decoder
    assert torch.allclose(found[1], found[0], atol=1e-4)
    assert torch.allclose(found[2], found[0], atol=1e-4)
    # What is merged is a copy.
    assert all(torch.equal(a, b) for a, b in zip(base, view.parameters(), strict=True))


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_row_does_not_depend_on_its_batch(model, tokenizer, av_meta, ar_meta, vectors, sampling):
    parts = (model, tokenizer, av_meta, ar_meta)
    together = ids_of(make_engine(*parts, max_rows=64).verbalize(vectors, sampling))
    alone = ids_of(make_engine(*parts, max_rows=1).verbalize(vectors, sampling))
    # Three places for sixteen vectors: most rows enter late, into a place another row has left.
    late = ids_of(make_engine(*parts, max_rows=3).verbalize(vectors, sampling))
    assert together == alone == late


def test_sixty_four_rows_read_as_one_does(llama, tokenizer, av_meta, ar_meta):
    many = torch.randn(64, 32, generator=torch.Generator().manual_seed(6)) * 7
    short = Sampling(max_new_tokens=8)
    parts = (llama, tokenizer, av_meta, ar_meta)
    together = ids_of(make_engine(*parts, max_rows=64).verbalize(many, short))
    assert together == ids_of(make_engine(*parts, max_rows=1).verbalize(many, short))
    assert len(set(together)) > 8


class UnsharedPrefix(Verbalizer):
    """The prefix is run for every row, as if it were part of the slot's prompt."""

    def __init__(self, verbalizer):
        super().__init__(verbalizer.model, verbalizer.tokenizer, verbalizer.meta)
        self.whole_ids, self.prefix_ids = self.prefix_ids, self.prefix_ids[:1]
        self.short_ids, self.suffix_ids = (
            self.suffix_ids,
            [*self.whole_ids[1:], *self.suffix_ids],
        )

    def body(self, scaled_BD, ids_BT):
        long_ids, self.suffix_ids = self.suffix_ids, self.short_ids
        body_BSD = super().body(scaled_BD, ids_BT)
        self.suffix_ids = long_ids
        own_PD = self.model.get_input_embeddings()(torch.tensor(self.whole_ids[1:]))
        return torch.cat([own_PD.expand(len(body_BSD), -1, -1), body_BSD], dim=1)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_shared_prefix_changes_no_word(engine, vectors, sampling):
    shared = ids_of(engine.verbalize(vectors, sampling))
    unshared = LocalEngine(None, UnsharedPrefix(engine.verbalizer), engine.reconstructor)
    assert ids_of(unshared.verbalize(vectors, sampling)) == shared


def test_rows_are_numbered_from_first(engine, vectors):
    whole = ids_of(engine.verbalize(vectors, SAMPLED))
    assert ids_of(engine.verbalize(vectors[5:], SAMPLED, first=5)) == whole[10:]
    assert ids_of(engine.verbalize(vectors[5:], SAMPLED)) != whole[10:]


def test_what_on_text_raises_ends_the_call_and_harms_no_later_one(engine, vectors):
    expected = ids_of(engine.verbalize(vectors[:3], GREEDY))

    def stop(row, sample, text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.verbalize(vectors[:3], GREEDY, stop)
    assert ids_of(engine.verbalize(vectors[:3], GREEDY)) == expected


def test_logits_in_chunks_give_the_same_gradient(model, tokenizer, av_meta, vectors, monkeypatch):
    verbalizer = Verbalizer(model, tokenizer, av_meta)
    responses = [[5, 6, 7], [8], [9, 10, 11, 12, 13]]
    found = []
    for logits_kept in (1 << 26, 2 * len(tokenizer)):
        monkeypatch.setattr("nlakit.models.verbalizer.LOGITS_KEPT", logits_kept)
        model.zero_grad()
        logprobs, mask = verbalizer.logprobs(vectors[:3], responses)
        (logprobs * mask * torch.arange(5)).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found.append((logprobs.detach(), gradient))
    (whole, first), (chunked, second) = found
    assert torch.allclose(whole, chunked, atol=1e-6)
    assert (first - second).norm() / first.norm() < 1e-5


def test_padding_of_either_side_leaves_the_vector(engine):
    reconstructor = engine.reconstructor
    ids = [reconstructor.encode(text) for text in ("a cat", "the cat sat on the mat")]
    longest = max(len(row) for row in ids)
    right = reconstructor.forward(ids)
    lefts = [[1] * (longest - len(row)) + row for row in ids]
    mask = torch.tensor(
        [[int(place >= longest - len(row)) for place in range(longest)] for row in ids]
    )
    hidden = reconstructor.backbone(
        input_ids=torch.tensor(lefts),
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp_min(0),
        use_cache=False,
    ).last_hidden_state
    assert torch.allclose(right, reconstructor.head(hidden[:, -1]), atol=1e-4)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_rows_that_enter_late_beside_others_write_the_same(
    model, tokenizer, av_meta, ar_meta, vectors, sampling
):
    found = {}
    for max_rows in (1, 5, 64):
        engine = make_engine(model, tokenizer, av_meta, ar_meta, max_rows=max_rows)
        engine.verbalizer.eos_ids = list(range(0, 340, 12))
        found[max_rows] = ids_of(engine.verbalize(vectors, sampling))
    ends = set(engine.verbalizer.eos_ids)
    # They leave at different times, so that newcomers sit beside rows in mid-answer.
    assert len({len(ids) for ids in found[5]}) > 3
    for ids in found[5]:
        assert not set(ids[:-1]) & ends
        assert len(ids) == 24 or ids[-1] in ends
    assert found[1] == found[5] == found[64]


def test_samples_of_a_vector_share_its_prefill(engine, vectors, monkeypatch):
    run = []
    forward = Decoder.forward

    def counted(self, hidden_NTD, *args):
        run.append(tuple(hidden_NTD.shape[:2]))
        return forward(self, hidden_NTD, *args)

    monkeypatch.setattr(Decoder, "forward", counted)
    monkeypatch.setattr(engine.verbalizer, "eos_ids", [])
    sampling = Sampling(samples=4, temperature=1.0, max_new_tokens=3, seed=7)
    found = ids_of(engine.verbalize(vectors[:3], sampling))
    prompt = 1 + len(engine.verbalizer.suffix_ids)
    # Steps of one token are run by `engines.step`, all twelve rows in each.
    assert run == [(1, len(engine.verbalizer.prefix_ids)), (3, prompt)]
    alone = [ids_of(engine.verbalize(vectors[v : v + 1], sampling, first=v)) for v in range(3)]
    assert found == [ids for group in alone for ids in group]


@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.5])
def test_logprobs_are_those_of_training(engine, vectors, temperature):
    sampling = Sampling(samples=2, temperature=temperature, max_new_tokens=20, top_p=0.9)
    groups = engine.verbalize(vectors[:4], sampling)
    answers = [each for group in groups for each in group]
    ids = [list(each.ids) for each in answers]
    expected, mask = engine.verbalizer.logprobs(vectors[:4].repeat_interleave(2, 0), ids)
    found = torch.cat([torch.tensor(each.logprobs) for each in answers])
    assert torch.allclose(found, expected[mask], atol=1e-4)


def test_samples_differ_by_sample_and_seed_and_repeat(engine, vectors):
    first = ids_of(engine.verbalize(vectors[:2], SAMPLED))
    assert len(set(first)) == 4
    assert ids_of(engine.verbalize(vectors[:2], SAMPLED)) == first
    other = Sampling(samples=2, temperature=1.0, max_new_tokens=24, seed=8)
    assert ids_of(engine.verbalize(vectors[:2], other)) != first


def test_greedy_samples_are_one_answer_repeated(engine, vectors):
    groups = engine.verbalize(vectors[:2], Sampling(samples=3, max_new_tokens=8))
    assert [len(group) for group in groups] == [3, 3]
    assert all(group[0] == group[1] == group[2] for group in groups)


def test_refresh_reads_new_weights(llama, tokenizer, av_meta, ar_meta, vectors):
    engine = make_engine(llama, tokenizer, av_meta, ar_meta)
    engine.verbalize(vectors[:4], GREEDY)
    with torch.no_grad():
        for parameter in llama.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    engine.refresh()
    expected = [hugging_face_greedy(engine.verbalizer, vector, 24) for vector in vectors[:4]]
    assert ids_of(engine.verbalize(vectors[:4], GREEDY)) == expected


def test_answers_end_at_the_tag_however_it_is_tokenised(llama, tokenizer, av_meta):
    verbalizer = Verbalizer(llama, tokenizer, av_meta)
    ending = Ending(verbalizer)
    joined = tokenizer.encode("<explanation>a cat.</explanation>", add_special_tokens=False)
    spelled = [tokenizer.convert_tokens_to_ids(letter) for letter in "</explanation>"]
    for ids in (joined, spelled, verbalizer.close_ids, [5, 1]):
        assert ending.reached(ids)
        assert not ending.reached(ids[:-1])
    assert not ending.reached(verbalizer.open_ids)


def test_an_answer_that_closes_is_parsed(llama, tokenizer, av_meta, ar_meta, vectors):
    engine = make_engine(llama, tokenizer, av_meta, ar_meta)
    script = engine.verbalizer.encode_response("the cat sat")
    force_tokens(engine, script)
    answer = engine.verbalize(vectors[:1], GREEDY)[0][0]
    assert (answer.text, answer.closed) == ("the cat sat", True)
    # The closing tag ends it: EOS is not waited for.
    assert list(answer.ids) == script[:-1]
    assert answer.raw_text == "<explanation>the cat sat</explanation>"


def force_tokens(engine, script):
    """Make the head say `script`, one token a call."""
    said = iter(script)
    decoder, prefix = engine._read()

    def head(normed):
        return torch.nn.functional.one_hot(torch.tensor([next(said)]), len(script) + 400) * 9.0

    decoder.head = head
    assert prefix.length == len(engine.verbalizer.prefix_ids)


def test_on_text_follows_each_answer(llama, tokenizer, av_meta, ar_meta, vectors):
    engine = make_engine(llama, tokenizer, av_meta, ar_meta)
    heard = []
    groups = engine.verbalize(vectors[:2], GREEDY, lambda *event: heard.append(event))
    for row, group in enumerate(groups):
        texts = [text for vector, sample, text in heard if (vector, sample) == (row, 0)]
        assert len(texts) == len(group[0].ids) and texts[-1] == group[0].text


def test_autocast_outside_changes_nothing(llama, tokenizer, av_meta, ar_meta, vectors):
    engine = make_engine(llama, tokenizer, av_meta, ar_meta)
    expected = ids_of(engine.verbalize(vectors[:4], GREEDY))
    engine.refresh()
    with torch.autocast("cpu", torch.bfloat16):
        assert ids_of(engine.verbalize(vectors[:4], GREEDY)) == expected


def test_reconstruct_keeps_the_order(engine):
    texts = ["the cat sat on the mat", "a", "the cat", ""]
    found = engine.reconstruct(texts)
    alone = torch.cat([engine.reconstruct([text]) for text in texts])
    assert torch.allclose(found, alone, atol=1e-5) and not found.requires_grad


def test_extract_reads_the_target(engine):
    encoded = engine.target.encode("the cat sat")
    found = engine.extract(encoded, [2, 0])
    assert torch.equal(found, engine.extract(encoded)[[2, 0]])


def test_engine_refuses_what_does_not_fit(llama, tokenizer, av_meta, ar_meta, vectors):
    engine = make_engine(llama, tokenizer, av_meta, ar_meta)
    longest = 256 - len(engine.verbalizer.prefix_ids) - len(engine.verbalizer.suffix_ids)
    engine.verbalizer.eos_ids = []
    answer = engine.verbalize(vectors[:1], Sampling(max_new_tokens=longest))[0][0]
    assert len(answer.ids) == longest
    with pytest.raises(InputError, match=f"max_new_tokens of at most {longest}"):
        engine.verbalize(vectors[:1], Sampling(max_new_tokens=longest + 1))
    with pytest.raises(InputError, match="row 1 contains nan"):
        engine.verbalize(torch.stack([vectors[0], vectors[1] * torch.nan]), GREEDY)
    engine.target = None
    with pytest.raises(InputError, match="without a target"):
        engine.extract(None)


def test_no_vectors_give_no_answers(llama, tokenizer, av_meta, ar_meta):
    engine = make_engine(llama, tokenizer, av_meta, ar_meta)
    assert engine.verbalize(torch.zeros(0, 32), GREEDY) == []


@pytest.mark.parametrize(
    "bad", [{"samples": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"max_new_tokens": 0}]
)
def test_sampling_refuses_bad_numbers(bad):
    with pytest.raises(InputError, match=f"Sampling.{next(iter(bad))} must be"):
        Sampling(**bad)


def test_fake_engine_deals_out_its_script():
    fake = FakeEngine(["a", None], d_model=4, vector_of=lambda text: torch.full((4,), len(text)))
    groups = fake.verbalize(torch.zeros(2, 4), Sampling(samples=2))
    assert [[each.text for each in group] for group in groups] == [["a", ""], ["a", ""]]
    assert [each.closed for each in groups[0]] == [True, False]
    assert fake.reconstruct(["abc"]).tolist() == [[3.0] * 4]
    assert fake.calls == ["verbalize", "reconstruct"]
    with pytest.raises(InputError, match=r"\(N, 4\)"):
        fake.verbalize(torch.zeros(2, 5), GREEDY)
