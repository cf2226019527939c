"""Training on an accelerator: a recipe's pipeline, rounded bases, a base in pieces over NCCL."""

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from benchmarks import recipe_speed
from support.families import make
from support.serving import tiny_tokenizer

from nlakit.core.site import Site
from nlakit.models.adapters import adapted
from nlakit.models.families import backbone_of
from nlakit.models.io import load_backbone, load_sharded
from nlakit.models.quantized import quantize
from nlakit.models.recompute import recomputing
from nlakit.models.target import Target
from nlakit.train.learner import Learner, OptimizerConfig
from nlakit.train.run import RunDirectory

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
RECIPE = Path(__file__).parents[2] / "recipes" / "qwen2.5-0.5b-1gpu.toml"
TINY = [
    "target.shape.d_model=64", "target.shape.num_layers=2", "target.shape.num_heads=4",
    "target.shape.num_kv_heads=2", "target.shape.head_dim=16", "target.layer=1",
    "target.shape.intermediate_size=96", "target.shape.vocab_size=8192",
    "warm_start.batch_size=16", "rl.vectors=4", "rl.group=2", "rl.max_new_tokens=16",
]  # fmt: skip
# Adam's rate, Muon's where there is one: Muon is refused for a model in pieces.
RATES = {None: OptimizerConfig(lr=1e-3), 1e-2: OptimizerConfig(lr=1e-3, muon_lr=1e-2)}


def test_a_recipe_trains_and_its_memory_is_measured():
    found = recipe_speed.measure(RECIPE, TINY, steps=2)
    for stage in recipe_speed.STAGES:
        assert found["stages"][stage]["seconds_per_step"] > 0
        assert found["stages"][stage]["peak_gib"] > 0


@pytest.mark.parametrize(("bits", "most"), [(4, 0.25), (8, 0.02)])
def test_rounded_matrices_multiply_as_they_should(bits, most):
    whole = make("qwen2", 64).to("cuda")
    matrix = quantize(make("qwen2", 64), bits, "cuda").model.layers[1].mlp.down_proj
    x = torch.randn(64, 48, device="cuda")
    with torch.no_grad():
        expected = whole.model.layers[1].mlp.down_proj(x)
        found = (matrix(x) - expected).norm() / expected.norm()
    assert 0 < found < most


@pytest.fixture
def alone():
    """A process group of one, over NCCL."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"tcp://localhost:{probe.getsockname()[1]}"
    dist.init_process_group("cpu:gloo,cuda:nccl", init_method=address, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_base_in_pieces_gives_the_gradients_of_a_whole_one(tmp_path, alone):
    tokenizer = tiny_tokenizer()
    Target(make("qwen2", len(tokenizer)), tokenizer, Site(1)).save(tmp_path / "base")
    ids = torch.arange(5, 17, device="cuda").view(2, 6)
    found = []
    for base in (
        load_backbone(tmp_path / "base").to("cuda"),
        load_sharded(tmp_path / "base", device="cuda"),
    ):
        view = adapted(base, 4, 8, 0, "base")
        with recomputing(backbone_of(view)):
            view(ids, use_cache=False).logits.square().mean().backward()
        found.append({n: p.grad for n, p in view.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() and len(found[0]) > 0
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def step_of(model, learner, number):
    ids = torch.arange(5 + number, 17 + number, device="cuda").view(2, 6)
    with recomputing(model.model):
        model(ids, use_cache=False).logits.square().mean().backward()
    assert learner.update(number) > 0


def goes_on_as_it_was(directory, make_model, config):
    """A checkpoint is read to the CPU; what is resumed from it takes the step of the original."""
    models = [make_model() for _ in range(2)]
    kept, resumed = (Learner(dict(m.named_parameters()), config, 4) for m in models)
    run = RunDirectory(directory, config)
    step_of(models[0], kept, 0)
    run.save(1, {"av": kept}, {})
    assert run.resume({"av": resumed}) == (1, {})
    for model, learner in zip(models, (kept, resumed), strict=True):
        step_of(model, learner, 1)
    states = [learner.state() for learner in (kept, resumed)]
    assert states[0].keys() == states[1].keys() and states[0]["step.lm_head.weight"] == 2
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor)


@pytest.mark.parametrize("muon", RATES)
def test_a_resumed_learner_goes_on(tmp_path, muon):
    goes_on_as_it_was(tmp_path, lambda: make("qwen2", 64).to("cuda"), RATES[muon])


def test_a_resumed_learner_of_parts_goes_on(tmp_path, alone):
    tokenizer = tiny_tokenizer()
    Target(make("qwen2", len(tokenizer)), tokenizer, Site(1)).save(tmp_path / "base")

    def model():
        return load_sharded(tmp_path / "base", device="cuda", trained=True)

    goes_on_as_it_was(tmp_path / "run", model, RATES[None])
