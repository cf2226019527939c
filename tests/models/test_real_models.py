"""SmolLM2-135M-Instruct and Gemma 3 270M, real weights, against Hugging Face in float32.

Ids, activations, decoding with an injected vector, the cut reconstructor, and the verbs that read a
pair. Gemma's √d embedding scale, BOS, sliding windows and 262,144 tokens are those of the real one.
"""

from __future__ import annotations

import json
import logging
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from support.real_models import RealModel, cache
from transformers import AutoModelForCausalLM, AutoTokenizer

import nlakit
from nlakit.cli import run
from nlakit.contract import Extraction, NlaMeta, PromptTemplates, Tokens, find_marker
from nlakit.core.site import Site
from nlakit.engines.base import Sampling
from nlakit.engines.local import LocalEngine
from nlakit.errors import InputError
from nlakit.models.adapters import adapted
from nlakit.models.convert import CACHE_VARIABLE
from nlakit.models.lora import adapter_state
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer
from nlakit.serve.app import create_app
from nlakit.serve.settings import Settings
from nlakit.train.prompts import AR_TEMPLATE, AV_TEMPLATE

pytestmark = pytest.mark.models

ROOT = Path(__file__).parents[2]
TOKENS, STEPS, ANSWER = 48, 20, 24
LONG = 600
"""Tokens of one text more: past Gemma's sliding window of 512."""
TOLERANCE = 1e-4
"""Of the largest number compared: Gemma's residuals reach tens of thousands."""
PLAIN_CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
LABELS = [
    "A quiet harbour at dusk. The next word names a boat.",
    "Code that imports a module. An identifier must follow.",
]


def texts() -> list[str]:
    """Fifty paragraphs of this project's documentation: prose, numbers, code, other alphabets."""
    pages = sorted((ROOT / "docs").glob("*.md"))
    found = [part for page in pages for part in page.read_text("utf-8").split("\n\n")]
    long = [part for part in found if 200 < len(part) < 900]
    odd = ["  two   spaces\n\n\nand 12345.6, 2024-01-05", "naïve 日本語 🙂 \t\ttabs", "I'LL don't"]
    assert len(long) > 47
    return [*odd, *long[:47]]


def chats() -> list[list[dict[str, str]]]:
    """Ten conversations, of one to three turns."""
    lines = texts()[:12]
    first = [[{"role": "user", "content": line}] for line in lines[:5]]
    more = [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": one},
         {"role": "assistant", "content": two}, {"role": "user", "content": "Go on, 3 lines."}]
        for one, two in zip(lines[2:7], lines[7:12], strict=True)
    ]  # fmt: skip
    return [*first, *more]


@lru_cache(maxsize=2)
def theirs(directory: Path) -> Any:
    logging.getLogger("transformers").setLevel(logging.CRITICAL)
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


@lru_cache(maxsize=2)
def their_tokenizer(directory: Path) -> Any:
    return AutoTokenizer.from_pretrained(directory)


@lru_cache(maxsize=2)
def loaded_once(directory: Path) -> Target:
    return Target.load(directory, 0)


def target(directory: Path, layer: int) -> Target:
    """Of one model in memory for all layers."""
    base = loaded_once(directory)
    return Target(base.model, base.tokenizer, Site(layer))


def assert_near(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


# -- tokens ----------------------------------------------------------------------------------------
def test_ids_equal_the_tokenizers(real: RealModel):
    reader = target(real.directory, real.source.layers[0])
    for text in texts():
        assert reader.encode(text).ids == their_tokenizer(real.directory)(text)["input_ids"]


def test_ids_equal_those_of_transformers_own_gguf_tokenizer(real: RealModel):
    other = AutoTokenizer.from_pretrained(real.gguf.parent, gguf_file=real.gguf.name)
    reader = target(real.directory, real.source.layers[0])
    compared = 0
    for text in texts():
        # It does not cut digits off before it cuts words, as SmolLM2's own tokenizer does.
        if real.name == "smollm2" and re.search(r"\s\s\d", text):
            continue
        assert reader.encode(text).ids == other(text)["input_ids"]
        compared += 1
    assert compared >= 40


def test_bos_is_the_tokenizers_matter(real: RealModel):
    reader = target(real.directory, real.source.layers[0])
    first = reader.encode("The harbour").ids[0]
    assert (first == reader.tokenizer.bos_token_id) == (real.name == "gemma3")
    assert reader.tokenizer.bos_token is not None


def test_digits_stand_alone_in_smollm2(smollm2: RealModel):
    reader = target(smollm2.directory, 20)
    assert reader.encode("a\n\n1234").tokens == ["a", "\n\n", "1", "2", "3", "4"]


def test_chats_are_the_templates(smollm2: RealModel):
    reader, tokenizer = target(smollm2.directory, 20), their_tokenizer(smollm2.directory)
    for chat in chats():
        rendered = tokenizer.apply_chat_template(chat, tokenize=False)
        assert reader.encode_messages(chat).ids == tokenizer(rendered)["input_ids"]


def test_a_base_model_has_no_chats(real: RealModel):
    if real.name == "gemma3":
        with pytest.raises(InputError, match="no chat template"):
            target(real.directory, real.source.layers[0]).encode_messages(chats()[0])


# -- weights and activations -----------------------------------------------------------------------
def test_logits_equal_those_of_transformers_own_gguf_loader(real: RealModel):
    other = AutoModelForCausalLM.from_pretrained(
        real.gguf.parent, gguf_file=real.gguf.name, dtype=torch.float32
    ).eval()
    reader = target(real.directory, real.source.layers[0])
    for text in texts()[:4]:
        ids = torch.tensor([reader.encode(text).ids[:TOKENS]])
        with torch.no_grad():
            found, expected = reader.model(ids).logits, other(ids).logits
        assert (found - expected).abs().max() < 1e-3


def test_activations_equal_hidden_states_at_three_layers(real: RealModel):
    readers = [target(real.directory, layer) for layer in real.source.layers]
    encoded = [readers[0].encode(text).ids[:TOKENS] for text in texts()]
    if real.name == "smollm2":
        encoded += [readers[0].encode_messages(chat).ids[:TOKENS] for chat in chats()]
        assert len(encoded) == 60
    long = readers[0].encode(" ".join(texts())).ids[:LONG]
    # By itself: beside it the others would be padded to its length.
    found = [reader.activations(encoded) + reader.activations([long]) for reader in readers]
    encoded.append(long)
    # The backbone: Gemma's head is two thirds of its numbers, and says nothing of the residuals.
    backbone = theirs(real.directory).model
    for row, ids in enumerate(encoded):
        with torch.no_grad():
            states = backbone(torch.tensor([ids]), output_hidden_states=True)
        for each, layer in zip(found, real.source.layers, strict=True):
            assert_near(each[row], states.hidden_states[layer + 1][0])


def test_the_reconstructor_is_the_model_cut_at_the_site(real: RealModel):
    layer = real.source.layers[2]
    reader, meta = target(real.directory, layer), meta_of(real, "ar")
    ar = Reconstructor.from_target(reader.model, reader.tokenizer, meta)
    found = ar.reconstruct(LABELS)
    for label, vector in zip(LABELS, found, strict=True):
        ids = torch.tensor([ar.encode(label)])
        with torch.no_grad():
            states = theirs(real.directory).model(ids, output_hidden_states=True).hidden_states
        assert_near(vector, states[layer + 1][0, -1])


# -- a pair ----------------------------------------------------------------------------------------
def tokenizer_for_prompts(real: RealModel) -> Any:
    """The tokenizer; of a base model with a plain template, as an AV's prompt needs one."""
    tokenizer = AutoTokenizer.from_pretrained(real.directory)
    if not tokenizer.chat_template:
        tokenizer.chat_template = PLAIN_CHAT
    return tokenizer


@lru_cache(maxsize=2)
def marker_of(real: RealModel) -> Tokens:
    return find_marker(tokenizer_for_prompts(real), AV_TEMPLATE, AR_TEMPLATE)[1]


@lru_cache(maxsize=4)
def meta_of(real: RealModel, role: str) -> NlaMeta:
    tokens = marker_of(real)
    reader = target(real.directory, real.source.layers[2])
    norms = torch.cat(reader.activations([reader.encode(text).ids[:32] for text in texts()[:8]]))
    scale = float(f"{float(norms.norm(dim=1).quantile(0.75)):.2g}")
    return NlaMeta.model_validate(
        {
            "role": role,
            "d_model": reader.d_model,
            "extraction": Extraction(
                base_model=real.name, layer_index=reader.site.layer, injection_scale=scale
            ),
            "tokens": tokens,
            "prompt_templates": PromptTemplates(av=AV_TEMPLATE, ar=AR_TEMPLATE),
        }
    )


@pytest.fixture(scope="session")
def pair(real: RealModel, tmp_path_factory) -> tuple[RealModel, Path]:
    """An AV after twenty steps on two labels, and an untrained AR, in `av` and `ar`."""
    directory = tmp_path_factory.mktemp(real.name)
    reader, tokenizer = target(real.directory, real.source.layers[2]), tokenizer_for_prompts(real)
    vectors = some_vectors(real)
    view = adapted(reader.model, 8, 16, 0, str(real.directory))
    av = Verbalizer(view, tokenizer, meta_of(real, "av"))
    parameters = list(adapter_state(view).values())
    optimizer = torch.optim.Adam(parameters, 2e-3)
    answers = [av.encode_response(label) for label in LABELS]
    losses = []
    for _ in range(STEPS):
        logprobs, mask = av.logprobs(vectors, answers)
        loss = -(logprobs * mask).sum() / mask.sum()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2
    av.save(directory / "av")
    ar = Reconstructor.from_target(reader.model, tokenizer, meta_of(real, "ar"))
    ar.save(directory / "ar")
    return real, directory


def some_vectors(real: RealModel) -> torch.Tensor:
    """The last activation of two texts."""
    reader = target(real.directory, real.source.layers[2])
    encoded = [reader.encode(text).ids[:40] for text in texts()[3:5]]
    return torch.stack([each[-1] for each in reader.activations(encoded)])


@pytest.fixture(scope="session")
def nla(pair) -> Any:
    return loaded(*pair)


def loaded(real: RealModel, directory: Path) -> Any:
    return nlakit.load(
        av=directory / "av", ar=directory / "ar", target=real.directory,
        device="cpu", dtype="float32",
    )  # fmt: skip


def test_greedy_answers_equal_hugging_faces(pair, nla, tmp_path):
    real, _ = pair
    av, vectors = nla.engine.verbalizer, some_vectors(real)
    answers = nla.engine.verbalize(vectors, Sampling(max_new_tokens=ANSWER))
    av.save(tmp_path / "whole")
    model: Any = AutoModelForCausalLM.from_pretrained(
        tmp_path / "whole", dtype=torch.float32
    ).eval()
    embed = model.get_input_embeddings()
    scaled = av.scaled(vectors)
    for row, (answer,) in enumerate(answers):
        with torch.no_grad():
            before, after = (embed(torch.tensor([ids])) for ids in (av.prefix_ids, av.suffix_ids))
            # What is injected takes the place of the scaled embedding: Gemma's √d is in `embed`.
            prompt = torch.cat([before, scaled[row][None, None], after], dim=1)
            (expected,) = model.generate(
                inputs_embeds=prompt, attention_mask=torch.ones(prompt.shape[:2]),
                do_sample=False, max_new_tokens=ANSWER, eos_token_id=av.eos_ids,
                pad_token_id=av.eos_ids[0],
            ).tolist()  # fmt: skip
        # A row leaves with its closing tag; what would follow is the end of the turn.
        assert list(answer.ids) == expected[: len(answer.ids)]
        assert all(token_id in av.eos_ids for token_id in expected[len(answer.ids) :])
    # The vector reaches the answer: another one makes it less or more likely.
    ids = [list(answers[0][0].ids)] * 2
    with torch.no_grad():
        own, other = av.logprobs(vectors[:2], ids)[0].sum(1)
    assert (own - other).abs() > 1e-3


def test_a_pair_is_exported_and_says_the_same(pair, nla, tmp_path, capsys):
    real, directory = pair
    parts = ["--av", str(directory / "av"), "--ar", str(directory / "ar")]
    asked = [*parts, "--target", str(real.directory), "--output", str(tmp_path / "out")]
    assert run(["export", *asked, "--license", "other"]) == 0, capsys.readouterr().err
    again = loaded(real, tmp_path / "out")
    asked_for = Sampling(max_new_tokens=ANSWER)
    said = [
        [answer.text for (answer,) in each.engine.verbalize(some_vectors(real), asked_for)]
        for each in (nla, again)
    ]
    assert said[0] == said[1]


def test_the_doctor_finds_the_parts_sound(pair, tmp_path, capsys):
    real, directory = pair
    (tmp_path / "passages.txt").write_text("\n\n".join(texts()[3:6]), encoding="utf-8")
    asked = ["--av", directory / "av", "--ar", directory / "ar", "--target", real.directory]
    asked += ["--file", tmp_path / "passages.txt", "--device", "cpu", "--json",
              "--max-new-tokens", ANSWER]  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        run(["doctor", *map(str, asked)])
    found = json.loads(capsys.readouterr().out)
    checks = {each["name"]: each["status"] for each in found["checks"]}
    assert {"scale", "dependence", "fidelity"} <= checks.keys() and len(checks) > 15
    # Twenty steps make no good pair, which is said; all that is read off the files is right.
    assert {n for n, status in checks.items() if status == "fail"} <= {"dependence", "fidelity"}
    assert ended.value.code == 1


def test_it_is_served(nla, tmp_path):
    text = texts()[5]
    with TestClient(create_app(nla, Settings(data_dir=tmp_path)),
                    base_url="http://127.0.0.1:8000") as client:  # fmt: skip
        tokens = client.post("/tokenize", json={"text": text}).json()["tokens"]
        assert [each["token_id"] for each in tokens] == nla.target.encode(text).ids
        asked = {"text": text, "positions": [9], "max_new_tokens": 12, "temperature": 0}
        (row,) = [
            each for each in client.post("/v1/explain", json={**asked, "stream": False}).json()[
                "results"]
        ]  # fmt: skip
    expected = nla.explain(text, positions=[9], max_new_tokens=12)
    assert row["description"].strip() == expected.tokens[0].explanation.strip()


def test_a_gguf_file_is_a_target_on_the_command_line(pair, nla, monkeypatch, capsys):
    real, directory = pair
    monkeypatch.setenv(CACHE_VARIABLE, str(cache()))
    asked = ["--av", directory / "av", "--ar", directory / "ar", "--target", real.gguf]
    assert run(["explain", *map(str, asked), "--last", "1", "--max-new-tokens", "8", "--json",
                "--device", "cpu", "The harbour was quiet."]) == 0  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    expected = nla.explain("The harbour was quiet.", last=1, max_new_tokens=8)
    assert found["tokens"][0]["explanation"] == expected.tokens[0].explanation


def test_the_engine_is_the_local_one(pair, nla):
    assert isinstance(nla.engine, LocalEngine)
    assert nla.target.site == Site(pair[0].source.layers[2])
