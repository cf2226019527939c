"""Training autoencoders on a dictionary that is known, and on a tiny target's own activations."""

from __future__ import annotations

from itertools import islice

import pyarrow as pa
import pytest
import torch
from pydantic import TypeAdapter

from nlakit import sae
from nlakit.config import parse_config
from nlakit.core.saes.metrics import fraction_of_variance, max_cosines
from nlakit.data.shards import ShardReader, write_shard
from nlakit.errors import ConfigError, InputError, ResumeError
from nlakit.sae.architectures import SaeSettings
from nlakit.sae.architectures.base import Batch, RunningThreshold, SparsityControl
from nlakit.sae.architectures.matryoshka import prefix_sizes
from nlakit.sae.batches import ActivationBatches
from nlakit.sae.end_to_end import SpliceSteps
from nlakit.sae.extraction import extract_passages
from nlakit.sae.recipe import SaeRecipe
from nlakit.sae.run import run_recipe
from nlakit.sae.splice import next_tokens, padded, run_target
from nlakit.sae.trainer import SaeTrainer, schedule
from nlakit.worlds.storyworld.sae import StoryworldTexts

WIDTH, TRUE, ACTIVE = 16, 24, 2


def settings(architecture, **more):
    table = {
        "architecture": architecture,
        "d_sae": 32,
        "k": ACTIVE,
        "steps": 500,
        "batch_size": 256,
        "lr": 3e-3,
        "warmup_steps": 10,
        "dead_after": 10_000,
    }
    return TypeAdapter(SaeSettings).validate_python(table | more)


def directions():
    drawn = torch.randn(TRUE, WIDTH, generator=torch.Generator().manual_seed(0))
    return drawn / drawn.norm(dim=-1, keepdim=True)


def rows(seed, count=256):
    """Sums of two of the directions with strengths around 3, off the origin."""
    seeds = torch.Generator().manual_seed(seed)
    chosen = torch.rand(count, TRUE, generator=seeds).topk(ACTIVE).indices
    strength = 2 + 2 * torch.rand(count, ACTIVE, generator=seeds)
    latents = torch.zeros(count, TRUE).scatter(1, chosen, strength)
    return latents @ directions() + 0.5


def trained(architecture, **more):
    trainer = SaeTrainer(
        settings(architecture, **more), rows(999), torch.Generator().manual_seed(1)
    )
    for number in range(trainer.settings.steps):
        before = rows(10_000 + number) if trainer.architecture.needs_pairs else None
        figures = trainer.step(Batch(rows(number), before), number)
    return trainer, figures


@pytest.mark.parametrize(
    ("architecture", "saved_as", "fve", "found"),
    [
        # An L1 penalty strong enough for two latents takes most of their strength with it.
        ("standard", "standard", 0.1, 0.25),
        ("topk", "topk", 0.8, 0.75),
        ("batchtopk", "jumprelu", 0.75, 0.6),
        ("jumprelu", "jumprelu", 0.65, 0.5),
        ("gated", "gated", 0.65, 0.5),
        ("matryoshka", "jumprelu", 0.65, 0.5),
        ("temporal", "jumprelu", 0.65, 0.4),
    ],
)
def test_every_architecture_finds_the_dictionary(architecture, saved_as, fve, found):
    more = {"contrast": 0.0} if architecture == "temporal" else {}
    trainer, _ = trained(architecture, **more)
    made = trainer.finished({})
    x = rows(5000, 2000)
    l0 = (made.encode(x) > 0).sum(-1).float().mean().item()
    assert made.architecture == saved_as
    assert 0.6 * ACTIVE < l0 < 1.6 * ACTIVE
    assert fraction_of_variance(x, made.reconstruct(x)) > fve
    cosine, _ = max_cosines(directions(), made.directions)
    assert (cosine > 0.9).float().mean() > found


def test_what_is_saved_encodes_raw_activations_as_training_did(tmp_path):
    trainer, _ = trained("topk", steps=20)
    x = rows(7)
    code = trainer.architecture.code(trainer.weights, x * trainer.scale)
    made = trainer.finished({"model": "m", "hook_name": "blocks.1.hook_resid_post"})
    made.save(tmp_path / "one")
    found = sae.load(tmp_path / "one")
    assert torch.allclose(found.encode(x) * trainer.scale, code.latents_NM, atol=1e-4)
    norms = found.weights["W_dec"].norm(dim=-1)
    assert torch.allclose(norms, torch.ones_like(norms), atol=1e-5)
    assert found.config.layer == 1


@pytest.mark.parametrize(("aux_weight", "dead_at_last"), [(0.0, range(10, 11)), (1 / 32, range(5))])
def test_dead_latents_are_counted_and_brought_back(aux_weight, dead_at_last):
    chosen = settings("topk", dead_after=2_000, aux_weight=aux_weight)
    trainer = SaeTrainer(chosen, rows(999), torch.Generator().manual_seed(1))
    with torch.no_grad():
        trainer.weights["b_enc"][:10] -= 2  # never among the two largest
    dead = [trainer.step(Batch(rows(number)), number)["dead"] for number in range(100)]
    assert dead[6] == 0  # 1,792 rows
    assert dead[7] == 10  # 2,048 rows
    assert dead[-1] in dead_at_last


def test_a_step_without_finite_gradients_is_left_out():
    trainer, _ = trained("topk", steps=3)
    before = trainer.weights["W_enc"].detach().clone()
    bad = rows(1)
    bad[0, 0] = float("nan")
    trainer.step(Batch(bad), 4)
    assert trainer.skipped == 1
    assert torch.equal(before, trainer.weights["W_enc"])


def test_the_rate_rises_stays_and_falls():
    chosen = settings("topk", steps=100, warmup_steps=10, decay_share=0.2)
    assert [schedule(chosen, step) for step in (0, 9, 50, 80, 90, 99)] == pytest.approx(
        [0.1, 1.0, 1.0, 1.0, 0.5, 0.05]
    )


def test_the_penalty_grows_while_too_many_are_active():
    control = SparsityControl(k=10, start=1.0, speed=0.1)
    control.observe(15.0)
    assert control.coefficient.item() == pytest.approx(2.718281828**0.05)
    control.observe(1000.0)
    assert control.coefficient.item() == pytest.approx(2.718281828**0.15)


def test_a_threshold_follows_the_smallest_active_latent():
    threshold = RunningThreshold(rate=0.5, first_step=1)
    for step, smallest in enumerate((8.0, 4.0, 2.0, 0.0)):
        threshold.observe(torch.tensor([[0.0, smallest]]), step)
    assert threshold.value.item() == 3.0


def test_prefixes_are_running_sums():
    assert prefix_sizes(768, (1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2)) == [48, 96, 192, 384, 768]


def shards(directory, num_documents=6, length=5):
    """Rows whose first component is the document and whose second the position."""
    for number in range(2):
        documents = range(number * num_documents // 2, (number + 1) * num_documents // 2)
        table = [
            {"doc_id": f"d{document}", "position": position, "index": document}
            for document in documents
            for position in range(length)
        ]
        vectors = torch.tensor([[float(r["index"]), float(r["position"])] for r in table])
        write_shard(
            directory,
            number,
            vectors,
            pa.Table.from_pylist(table),
            next_index=documents[-1] + 1,
            config_hash="x",
        )
    records = [
        (directory / f"shard-0000{number}.json").read_text(encoding="utf-8") for number in range(2)
    ]
    manifest = (
        '{"layer": 0, "d_model": 2, "num_rows": %d, "num_documents": %d, "config": {}, '
        '"config_hash": "x", "shards": [%s]}'
    )
    text = manifest % (num_documents * length, num_documents, ", ".join(records))
    (directory / "manifest.json").write_text(text)
    return directory


@pytest.mark.parametrize("buffer_rows", [1, 1000])
def test_a_batch_is_a_function_of_seed_and_step(tmp_path, buffer_rows):
    shards(tmp_path)
    one = ActivationBatches(tmp_path, 5, seed=3, buffer_rows=buffer_rows)
    other = ActivationBatches(tmp_path, 5, seed=3, buffer_rows=buffer_rows)
    forward = [one.batch(step).now_ND for step in range(9)]
    backward = [other.batch(step).now_ND for step in reversed(range(9))]
    assert all(torch.equal(a, b) for a, b in zip(forward, reversed(backward), strict=True))
    epoch = torch.cat(forward[:6]).tolist()
    assert len({tuple(row) for row in epoch}) == 30
    assert not torch.equal(forward[0], forward[6])


def test_pairs_are_neighbours_of_one_document(tmp_path):
    batches = ActivationBatches(shards(tmp_path), 12, seed=3, pairs=True)
    batch = batches.batch(0)
    assert batch.before_ND is not None
    assert (batch.now_ND - batch.before_ND).tolist() == [[0.0, 1.0]] * 12
    with pytest.raises(InputError, match="24 rows with the token before them"):
        ActivationBatches(tmp_path, 25, seed=3, pairs=True)


RECIPE = """
kind = "sae"
name = "tiny"
[target]
model = "tiny"
layer = 0
[activations]
corpus = "storyworld"
documents = 12
[training]
d_sae = 32
k = 4
steps = 8
batch_size = 64
checkpoint_every = 3
[sae.topk]
architecture = "topk"
[sae.temporal]
architecture = "temporal"
steps = 6
[sae.whole]
architecture = "topk"
objective = "end_to_end_downstream"
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return parse_config(SaeRecipe, tmp_path / "recipe.toml")


def test_what_is_shared_holds_unless_a_table_says_otherwise(recipe):
    assert recipe.sae["topk"].steps == 8
    assert recipe.sae["temporal"].steps == 6
    assert recipe.sae["temporal"].num_high == 6


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, recipe, tiny_target, monkeypatch):
    source = StoryworldTexts(1)
    whole = run_recipe(recipe, tiny_target, source, tmp_path / "whole", None)
    steps = SaeTrainer.step

    def killed(self, batch, number):
        if number == 5:
            raise KeyboardInterrupt
        return steps(self, batch, number)

    monkeypatch.setattr(SaeTrainer, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, tiny_target, source, tmp_path / "cut", "temporal")
    assert (tmp_path / "cut" / "temporal" / "checkpoints" / "step-3").is_dir()
    monkeypatch.setattr(SaeTrainer, "step", steps)
    run_recipe(recipe, tiny_target, source, tmp_path / "cut", "temporal")
    one = sae.load(whole / "temporal" / "sae")
    two = sae.load(tmp_path / "cut" / "temporal" / "sae")
    assert one.config == two.config
    assert all(torch.equal(one.weights[name], two.weights[name]) for name in one.weights)
    assert one.config.trained_as == "temporal"
    assert one.config.metadata["num_high"] == 6


def test_another_recipe_and_an_unknown_name_are_refused(tmp_path, recipe, tiny_target):
    source = StoryworldTexts(1)
    run_recipe(recipe, tiny_target, source, tmp_path, "topk")
    longer = recipe.sae["topk"].model_copy(update={"steps": 9})
    changed = recipe.model_copy(update={"sae": {"topk": longer}})
    with pytest.raises(ResumeError):
        run_recipe(changed, tiny_target, source, tmp_path, None)
    with pytest.raises(ConfigError, match="Did you mean 'topk'"):
        run_recipe(recipe, tiny_target, source, tmp_path, "topkk")


def test_every_read_position_is_extracted_with_no_text(tmp_path, tiny_target):
    source = StoryworldTexts(1)
    extract_passages(tiny_target, source, tmp_path, num_documents=4)
    vectors, table = ShardReader(tmp_path).load()
    passages = list(islice(source.passages(tiny_target, "train"), 4))
    assert table.column("position").to_pylist() == [p for each in passages for p in each.positions]
    assert "text" not in table.column_names
    last = passages[-1]
    alone = tiny_target.activations([last.encoded.ids], [last.positions])[0]
    assert torch.allclose(vectors[-len(alone) :], alone, atol=1e-5)


def test_splicing_what_was_there_changes_nothing(tiny_target):
    passages = list(islice(StoryworldTexts(1).passages(tiny_target, "train"), 3))
    texts = padded(passages, torch.device("cpu"))
    with torch.no_grad():
        clean = run_target(tiny_target, texts)
        same = run_target(tiny_target, texts, lambda x: x)
        zeroed = run_target(tiny_target, texts, torch.zeros_like)
        alone = tiny_target.model(torch.tensor([passages[1].encoded.ids])).logits[0]
    assert torch.equal(clean.logits_SV, same.logits_SV)
    assert not torch.allclose(clean.logits_SV, zeroed.logits_SV, atol=1e-3)
    start = min(passages[1].positions)
    row = [row for row, count in enumerate(texts.scored_BT.sum(1).tolist()) for _ in range(count)]
    mine = clean.logits_SV[torch.tensor(row) == 1]
    assert torch.allclose(mine, alone[start:-1].float(), atol=1e-4)
    expected = passages[1].encoded.ids[start + 1 :]
    assert next_tokens(texts)[torch.tensor(row) == 1].tolist() == expected


def test_end_to_end_lowers_the_divergence_of_what_is_said_next(tiny_target):
    passages = list(islice(StoryworldTexts(1).passages(tiny_target, "train"), 8))
    sample = torch.cat([tiny_target.activations([p.encoded.ids])[0] for p in passages])
    chosen = settings("topk", objective="end_to_end", batch_size=200, steps=60, k=3)
    trainer = SaeTrainer(chosen, sample, torch.Generator().manual_seed(0))
    steps = SpliceSteps(trainer, tiny_target, passages, seed=0)
    figures = [steps.step(number) for number in range(60)]
    assert figures[-1]["kl"] < 0.7 * figures[0]["kl"]
    assert "error" not in figures[0]
