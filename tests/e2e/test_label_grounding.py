"""Grounding on a released model's stand-in: labels half of which no activation can carry."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from nlakit.cli.recipes import read_recipe
from nlakit.core.site import Site
from nlakit.data.labels import Place, TeacherLabel, read_labels
from nlakit.data.shards import ShardReader
from nlakit.errors import ConfigError, InputError, ResumeError
from nlakit.models.target import Target
from nlakit.train import corpus_world
from nlakit.train.corpus_world import train_model_recipe
from nlakit.train.label_grounding import ClaimVerdict, halves_of
from nlakit.train.model_recipe import GroundingConfig, ModelRecipe
from nlakit.train.prompts import AR_TEMPLATE, INSTRUCTED_AV_TEMPLATE
from nlakit.train.run import read_json
from nlakit.worlds.storyworld.tokenizer import train_tokenizer

WHOLE = Path(__file__).parents[2] / "recipes" / "qwen2.5-0.5b-1gpu.toml"
HALF = "grounding.threshold=0.5"
WORDS = ("sea", "robot", "garden", "market")
NAMES = ("Ana", "Basil", "Cora", "Dov")
SIZES = (
    "precision=float32", "target.layer=0", "teacher.model=fake",
    "corpus.documents=80", "corpus.rl_documents=4", "corpus.positions_per_document=8",
    "corpus.minimum_position=1", "corpus.max_tokens=32", "corpus.held_out_documents=4",
    "corpus.shard_rows=250", "warm_start.batch_size=16", "warm_start.micro_batch=16",
    "warm_start.optimizer.lr=1e-2", "warm_start.optimizer.muon_lr=0.02",
    "warm_start.optimizer.warmup_steps=10", "grounding.epochs=6",
    "rl.steps=1", "rl.vectors=2", "rl.group=2", "rl.max_new_tokens=8", "rl.micro_batch=2",
    "rl.evaluate_every=1", "rl.optimizer.lr=1e-3", "rl.optimizer.warmup_steps=1",
)  # fmt: skip


class HalfInvented:
    """Names the last word, which the activation holds, and somebody, whom nothing tells of."""

    name = "half invented"

    def key(self, place: Place) -> str:
        return f"{place.text}/{place.char_end}"

    def label(self, place: Place) -> TeacherLabel:
        somebody = random.Random(self.key(place)).choice(NAMES)
        last = place.text[: place.char_end].split()[-1]
        return TeacherLabel(label_of(last, somebody))


def small_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Two random blocks: enough to copy a word from a vector, and quickly taught to."""
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=512, initializer_range=0.1,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def label_of(last: str, somebody: str) -> str:
    return f"A text about the {last}, told by {somebody}."


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A directory with a tiny random checkpoint, and a corpus of words in no order."""
    root = tmp_path_factory.mktemp("grounding")
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=24)) for _ in range(200)]
    taught = [*texts, *(label_of(word, name) for word in WORDS for name in NAMES)]
    prompts = [INSTRUCTED_AV_TEMPLATE, AR_TEMPLATE] * 20
    tokenizer = train_tokenizer([*taught, *prompts], vocab_size=512, context=512)
    Target(small_model(tokenizer), tokenizer, Site(0)).save(root / "base")
    lines = [json.dumps({"text": text}) for text in texts]
    (root / "corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return root


def recipe_for(here: Path, *more: str) -> ModelRecipe:
    paths = (f"target.checkpoint={here / 'base'}", f"corpus.source={here / 'corpus.jsonl'}")
    found = read_recipe(WHOLE, [*paths, *SIZES, *more])
    assert isinstance(found, ModelRecipe)
    return found


@pytest.fixture(scope="module", autouse=True)
def _teacher() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus_world, "teacher_named", lambda *_, **__: HalfInvented())
        yield


@pytest.fixture(scope="module")
def grounded(here) -> Path:
    """A run directory whose labels are grounded, and nothing after that."""
    made = train_model_recipe(recipe_for(here, HALF), here / "run", only="grounding")
    assert made == here / "run" / "6-grounding"
    return here / "run"


def labels_in(run: Path, stage: str) -> list[str | None]:
    manifest = ShardReader(run / "1-activations" / "warm-start").manifest
    return read_labels(run / stage, manifest).column("explanation").to_pylist()


def verdicts_in(run: Path, judge: str) -> list[ClaimVerdict]:
    (found,) = (run / "6-grounding" / judge).glob("claims-*.parquet")
    return [ClaimVerdict(**row) for row in pq.read_table(found).to_pylist()]


def test_what_the_vector_carries_stays_and_what_it_does_not_goes(grounded):
    told, kept = labels_in(grounded, "2-labels"), labels_in(grounded, "6-grounding/labels")
    assert len(told) == len(kept) == 640
    carried = sum(any(word in (text or "") for word in WORDS) for text in kept) / 640
    invented = sum(any(name in (text or "") for name in NAMES) for text in kept) / 640
    assert all(any(name in (text or "") for name in NAMES) for text in told)
    assert carried > 0.8 and invented < 0.05
    assert any(text == "A text about the sea, told by someone or something." for text in kept)


def test_the_judge_gives_what_cannot_be_known_its_share_and_no_more(grounded):
    found = [each for judge in ("judge-0", "judge-1") for each in verdicts_in(grounded, judge)]
    names = [each for each in found if each.value in NAMES]
    assert sum(each.probability for each in names) / len(names) == pytest.approx(1 / 4, abs=0.05)
    assert sum(each.shuffled for each in names) / len(names) == pytest.approx(1 / 4, abs=0.05)


def test_no_judge_has_read_a_label_of_the_document(grounded):
    rows = ShardReader(grounded / "1-activations" / "warm-start").load()[1]
    halves = halves_of(rows)
    documents = [{rows.column("doc_id")[row].as_py() for row in half} for half in halves]
    assert not documents[0] & documents[1] and sum(map(len, documents)) == 80
    for judge, half in (("judge-0", halves[1]), ("judge-1", halves[0])):
        assert {each.row for each in verdicts_in(grounded, judge)} == set(half)


def test_another_threshold_keeps_the_judges(grounded, here, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(grounded, run)
    higher = recipe_for(here, "grounding.threshold=0.99")
    with pytest.raises(ResumeError, match="6-grounding/labels"):
        train_model_recipe(higher, run, only="grounding")
    shutil.rmtree(run / "6-grounding" / "labels")
    judge = run / "6-grounding" / "judge-0" / "model" / "model.safetensors"
    before = judge.stat().st_mtime_ns
    all_of_it = recipe_for(here, HALF, "grounding.least_gain=0.9999")
    with pytest.raises(InputError, match="Of 640 labels 0 claim anything"):
        train_model_recipe(all_of_it, run, only="grounding")
    shutil.rmtree(run / "6-grounding" / "labels")
    train_model_recipe(recipe_for(here, "grounding.threshold=0"), run, only="grounding")
    assert labels_in(run, "6-grounding/labels") == labels_in(run, "2-labels")
    assert judge.stat().st_mtime_ns == before


def test_the_pair_learns_from_grounded_labels_and_the_judge_stays_on(grounded, here):
    judged = ("rl.judge_weight=0.5", "rl.judge_neutral=0.5")
    made = train_model_recipe(recipe_for(here, HALF, *judged), grounded)
    counts = read_json(made / "run" / "counts.json")
    assert counts["labels"] == 640 and counts["dropped"]["name"] > 600
    steps = (grounded / "9-grounded-rl" / "metrics.jsonl").read_text().splitlines()
    assert "claims" in json.loads(steps[-1])
    card = read_json(made / "nla.json")
    assert card["num_training_rows"] == 640
    settings = (grounded / "7-grounded-verbalizer" / "config.toml").read_text()
    assert "[source.grounding]" in settings and "judge_weight" not in settings


@pytest.mark.parametrize(
    ("probability", "shuffled", "least_gain", "stays"),
    [(0.4, 0.4, 0.0, True), (0.4, 0.4, 0.6, False), (0.4, 0.1, 0.6, True), (0.2, 0.0, 0.6, False)],
)
def test_a_claim_must_be_likely_and_where_asked_likelier_than_elsewhere(
    probability, shuffled, least_gain, stays
):
    verdict = ClaimVerdict(0, "name", "Ana", 0, 3, probability, shuffled)
    config = GroundingConfig(threshold=0.3, least_gain=least_gain)
    assert verdict.is_carried(config) is stays


def test_a_kind_may_have_a_threshold_of_its_own():
    config = GroundingConfig(threshold=0.3, thresholds={"next": 0.1})
    carried = {
        kind: ClaimVerdict(0, kind, "and", 0, 3, 0.2, 0.0).is_carried(config)
        for kind in ("next", "last")
    }
    assert carried == {"next": True, "last": False}
    with pytest.raises(ValueError, match="less than or equal to 1"):
        GroundingConfig(threshold=0.3, thresholds={"next": 2})


def test_what_cannot_be_grounded_is_refused(here, tmp_path):
    plain = recipe_for(here, HALF).model_copy(update={"grounding": None})
    with pytest.raises(ConfigError, match="no stage 'grounding'"):
        train_model_recipe(plain, tmp_path, only="grounding")
    with pytest.raises(ConfigError, match="judge_weight = 0.5 with judge_neutral = None"):
        recipe_for(here, HALF, "rl.judge_weight=0.5")
    judged = ("rl.judge_weight=0.5", "rl.judge_neutral=0.5")
    with pytest.raises(ConfigError, match="the judge has learned from these vectors"):
        recipe_for(here, HALF, *judged, "corpus.rl_documents=0")
    with pytest.raises(ConfigError, match=r"without \[grounding\]"):
        read_recipe(WHOLE, judged)
    with pytest.raises(InputError, match="splits 24 labels by document into 16 and 8"):
        few = recipe_for(here, HALF, "corpus.documents=3")
        train_model_recipe(few, tmp_path, only="grounding")
