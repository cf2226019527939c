"""Effects of nodes against values worked out by hand, and circuits whose answer is known."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from nlakit.core.circuits import faithfulness, node_effects
from nlakit.errors import InputError
from nlakit.sae.autoencoder import SparseAutoencoder
from nlakit.sae.behaviour import Prompt
from nlakit.sae.circuit import _effects, _Measured, circuit
from nlakit.sae.config import SaeConfig
from nlakit.sae.extraction import read_activations
from nlakit.worlds.storyworld.sae import StoryworldTexts

CLEAN, PATCH = [torch.tensor([2.0, 1.0])], [torch.tensor([0.0, 2.0])]


def metric(nodes):
    f = nodes[0]
    return f[0] ** 2 + 3 * f[0] * f[1]


@pytest.mark.parametrize(
    ("rule", "steps", "expected"),
    [("left", 1, [-14.0, 6.0]), ("left", 10, [-13.1, 3.3]), ("midpoint", 10, [-13.0, 3.0])],
)
def test_effects_by_hand(rule, steps, expected):
    (found,) = node_effects(metric, CLEAN, PATCH, steps, rule)
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_midpoint_effects_add_up():
    (found,) = node_effects(metric, CLEAN, PATCH)
    assert found.sum().item() == pytest.approx((metric(PATCH) - metric(CLEAN)).item(), abs=1e-5)


def test_faithfulness_is_a_share_of_what_the_nodes_do():
    assert faithfulness(of_circuit=3.0, of_nothing=1.0, of_model=5.0) == 0.5
    assert faithfulness(1.0, 2.0, 2.0) is None


def parts(width):
    both = torch.cat([torch.eye(width), -torch.eye(width)])
    config = SaeConfig(architecture="standard", d_in=width, d_sae=2 * width)
    weights = {
        "W_enc": both.T.contiguous(),
        "b_enc": torch.zeros(2 * width),
        "W_dec": both.clone(),
        "b_dec": torch.zeros(width),
    }
    return SparseAutoencoder(config, weights)


def test_all_latents_are_faithful_and_none_is_not(tiny_target):
    passages = list(islice(StoryworldTexts(5).passages(tiny_target, "heldout"), 6))
    prompts = [Prompt(each, wrong=7) for each in passages]
    reference = read_activations(tiny_target, passages)
    about = {"name": "x", "behaviour": "next token"}
    found = circuit(parts(16), tiny_target, prompts, prompts, reference, **about)
    first, last = found.curve[0], found.curve[-1]
    assert (first.nodes, last.nodes) == (0, 32)
    assert first.faithfulness == pytest.approx(0, abs=1e-5)
    assert last.faithfulness == pytest.approx(1, abs=1e-5)
    assert (first.completeness, last.completeness) == pytest.approx((1, 0), abs=1e-5)
    # This autoencoder has no error, so nothing can be put in its place.
    assert found.error_effect == pytest.approx(0, abs=1e-4)
    total = sum(each.effect for each in found.effects)
    assert total == pytest.approx(found.metric_without - found.metric, rel=0.05)
    for each in found.effects:
        assert each.interval.low <= each.effect <= each.interval.high
    with pytest.raises(InputError, match="6 prompts to choose latents on and 1 to measure"):
        circuit(parts(16), tiny_target, prompts, prompts[:1], reference, **about)


def test_a_prompts_effect_is_its_own(tiny_target):
    """By prompt, effects add up to what ablation does to that prompt, not to the mean of all."""
    passages = list(islice(StoryworldTexts(5).passages(tiny_target, "heldout"), 4))
    prompts = [Prompt(each, wrong=7) for each in passages]
    reference = read_activations(tiny_target, passages)
    effects_BM, _ = _effects(parts(16), tiny_target, prompts, reference, steps=10)
    measured = _Measured(parts(16), tiny_target, prompts, reference)
    expected_B = measured.empty_B - measured.whole_B
    assert effects_BM.sum(1).tolist() == pytest.approx(expected_B.tolist(), rel=0.1, abs=0.02)
