"""A tiny pair of every family, by `nlakit train` and on to a server: the same words all the way."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support.families import CASES, make, make_multimodal
from support.serving import client_for, closed, tiny_tokenizer

import nlakit
from nlakit.cli import run
from nlakit.engines.base import Completion, Sampling
from nlakit.engines.local import LocalEngine
from nlakit.models.families import FAMILIES, WRAPPERS
from nlakit.pair.source import find_pair
from nlakit.publish.export import export
from nlakit.storyworld.grammar import generate

RECIPE = Path(__file__).parents[2] / "recipes" / "qwen2.5-0.5b-1gpu.toml"
TINY = (
    "precision=float32", "target.layer=1", "teacher.model=fake", "corpus.documents=8",
    "corpus.rl_documents=4", "corpus.positions_per_document=3", "corpus.minimum_position=4",
    "corpus.max_tokens=48", "corpus.held_out_documents=4", "warm_start.batch_size=8",
    "warm_start.optimizer={lr=5e-3, warmup_steps=1}", "rl.steps=1", "rl.vectors=2", "rl.group=2",
    "rl.max_new_tokens=8", "rl.optimizer={lr=1e-3, warmup_steps=1}",
)  # fmt: skip
STAGES = {"verbalizer": 2, "reconstructor": 2, "rl": 1}
TEXT, CONTEXT = "Basil rowed by the pier.", 1024


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    made = [*islice(generate(3, "train"), 16), *islice(generate(3, "heldout"), 4)]
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text("\n".join(json.dumps({"text": each.text}) for each in made), encoding="utf-8")
    return path


def save_checkpoint(family: str, directory: Path) -> None:
    """A random checkpoint as its family is released, by transformers."""
    tokenizer = tiny_tokenizer()
    build = make_multimodal if family in WRAPPERS else lambda *sizes: make(family, *sizes)
    build(len(tokenizer), CONTEXT).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def train(base: Path, corpus: Path, output: Path) -> Path:
    """The command: activations, labels, both warm starts, a step of RL; returns the pair."""
    paths = (f"target.checkpoint={base}", f"corpus.source={corpus}")
    assert run(["train", str(RECIPE), *paths, *TINY, "--output", str(output)]) == 0
    return output / "nla"


def answers(nla: nlakit.NLA) -> list[Completion]:
    """What is said of the text's last two tokens, with probabilities."""
    encoded = nla.encode(TEXT)
    vectors = nla.engine.extract(encoded, range(len(encoded.ids) - 2, len(encoded.ids)))
    return [group[0] for group in nla.engine.verbalize(vectors, Sampling(max_new_tokens=10))]


def check_trained(pair: Path) -> None:
    """Every stage made its steps, RL's with something to learn, and the AV is not the target."""
    logs = {name: (pair / "run" / f"{name}.jsonl").read_text().splitlines() for name in STAGES}
    last = {name: json.loads(lines[-1]) for name, lines in logs.items()}
    assert {name: record["step"] for name, record in last.items()} == STAGES
    assert last["rl"]["reward_spread"] > 0 and last["rl"]["av_grad_norm"] > 0
    target, av = (load_file(pair / role / "model.safetensors") for role in ("target", "av"))
    assert target.keys() == av.keys()
    assert not [n for n, t in target.items() if t.ndim == 2 and ".1." in n and t.equal(av[n])]


@pytest.mark.parametrize("family", [*FAMILIES, *WRAPPERS])
def test_words_are_equal_from_training_to_a_server(family, corpus, tmp_path):
    assert family in WRAPPERS or CASES[family][0] == family
    save_checkpoint(family, tmp_path / "base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalEngine, "completion", closed)
        pair = train(tmp_path / "base", corpus, tmp_path / "run")
    check_trained(pair)
    trained = nlakit.load(pair)
    before = trained.explain(TEXT, last=2, max_new_tokens=10)
    # Random models may repeat one token whatever the vector; their probabilities still tell.
    first, second = answers(trained)
    assert first.logprobs != second.logprobs
    export(find_pair(pair), tmp_path / "out")
    again = nlakit.load(tmp_path / "out")
    assert again.explain(TEXT, last=2, max_new_tokens=10) == before
    assert answers(again) == [first, second]
    with client_for(again, tmp_path / "data") as client:
        positions = [row.position for row in before.tokens]
        body = {"text": TEXT, "positions": positions, "reverse": False, "temperature": 0}
        body["max_new_tokens"] = 10
        served = client.post("/v1/explain", json=body).json()["results"]
    assert [each["description"] for each in served] == [row.explanation for row in before.tokens]
