"""Edges between sites: by hand, against the paper's rules written out, and on a small target."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from nlakit.core.circuits import edge_effects, node_effects
from nlakit.errors import InputError
from nlakit.sae.autoencoder import SparseAutoencoder
from nlakit.sae.behaviour import Behaviour, Prompt
from nlakit.sae.circuit_graph import GraphSite, _edges, _read, at_layer, circuit_graph
from nlakit.sae.circuit_picture import MOST_EDGES, plot
from nlakit.sae.config import SaeConfig, residual_hook
from nlakit.sae.extraction import read_activations
from nlakit.worlds.storyworld.sae import StoryworldTexts

CLEAN, PATCH = [torch.tensor([2.0, 1.0])], [torch.tensor([0.0, 2.0])]


def downstream(nodes):
    """The two terms of m = f1² + 3 f1 f2, of which the metric is the sum."""
    f = nodes[0]
    return torch.stack([f[0] ** 2, 3 * f[0] * f[1]])


@pytest.mark.parametrize(
    ("rule", "steps", "first", "second"),
    [("left", 1, [-8, 0], [-6, 6]), ("midpoint", 10, [-4, 0], [-9, 3])],
)
def test_edges_by_hand_share_out_the_nodes_effects(rule, steps, first, second):
    found = edge_effects(downstream, CLEAN, PATCH, lambda parts: parts[0].clone(), steps, rule)
    assert found[0].tolist() == pytest.approx(first, abs=1e-5)
    assert found[1].tolist() == pytest.approx(second, abs=1e-5)
    (whole,) = node_effects(lambda nodes: downstream(nodes).sum(), CLEAN, PATCH, steps, rule)
    assert (found[0] + found[1]).tolist() == pytest.approx(whole.tolist(), abs=1e-5)


def lossy(layer, k=4, d_in=16, d_sae=24):
    """A random dictionary, whose error matters; k=None: ReLU, with which nothing jumps."""
    seeds = torch.Generator().manual_seed(layer)
    rows = torch.nn.functional.normalize(torch.randn(d_sae, d_in, generator=seeds), dim=-1)
    weights = {
        "W_enc": rows.T.contiguous(),
        "b_enc": torch.zeros(d_sae),
        "W_dec": rows,
        "b_dec": torch.zeros(d_in),
    }
    hook = residual_hook(layer)
    name = "standard" if k is None else "topk"
    config = SaeConfig(architecture=name, d_in=d_in, d_sae=d_sae, k=k, hook_name=hook)
    return SparseAutoencoder(config, weights)


@pytest.fixture(scope="module")
def two_sites(tiny_target):
    passages = list(islice(StoryworldTexts(5).passages(tiny_target, "heldout"), 6))
    prompts = [Prompt(each, wrong=7) for each in passages]
    sites = [
        GraphSite(f"s{n}", lossy(n), read_activations(at_layer(tiny_target, n), passages))
        for n in (0, 1)
    ]
    return sites, prompts


def spliced_gradients(target, sites, prompts):
    """The paper's one backward pass, written out: x becomes x̂(f) + sg(ε) at every site, and x gets
    the gradient of what took its place."""
    behaviour = Behaviour(sites[0].sae, at_layer(target, 0), prompts)
    texts, leaves, handles = behaviour.texts, [], []
    for number, block in enumerate(target.model.model.layers):
        sae = sites[number].sae

        def hook(module, inputs, output, sae=sae):
            x_ND = output[texts.read_BT]
            latents_NM = sae.encode(x_ND).detach().requires_grad_()
            leaves.append(latents_NM)
            x_hat_ND = sae.decode(latents_NM)
            error_ND = (x_ND - x_hat_ND).detach()
            passed_ND = x_ND - x_ND.detach()  # no value, but the gradient
            return output.masked_scatter(texts.read_BT[..., None], x_hat_ND + error_ND + passed_ND)

        handles.append(block.register_forward_hook(hook))
    hidden = target.model.model(input_ids=texts.ids_BT, use_cache=False).last_hidden_state
    logits = target.model.lm_head(hidden[texts.scored_BT])
    gradients = torch.autograd.grad(behaviour.differences(logits).mean(), leaves)
    for handle in handles:
        handle.remove()
    return leaves, gradients


def test_effects_follow_the_papers_stop_gradient_and_pass_through(tiny_target, two_sites):
    sites, prompts = two_sites
    leaves, gradients = spliced_gradients(tiny_target, sites, prompts)
    for number, site in enumerate(sites):
        here = Behaviour(site.sae, at_layer(tiny_target, number), prompts)
        nodes = here.nodes(site.reference_ND)
        found_NM, _ = node_effects(here, nodes.clean, nodes.patch, steps=1, rule="left")
        expected_NM = gradients[number] * (nodes.patch[0] - leaves[number])
        torch.testing.assert_close(found_NM, expected_NM, rtol=1e-3, atol=1e-5)


def test_edges_to_all_nodes_add_up_to_a_nodes_effect(tiny_target, two_sites):
    """The next site's latents and error are all of the activation, so nothing goes past them."""
    sites, prompts = two_sites
    up, down = (_read(site, tiny_target, prompts, 1, "left") for site in sites)
    between = _edges(up, down, [], range(25), 1, "left")
    summed_J = torch.stack(between.effects).sum(0).mean(0)
    torch.testing.assert_close(summed_J, between.through_BJ.mean(0), rtol=1e-3, atol=1e-6)
    # At the clean point gradients obey the chain rule exactly.
    torch.testing.assert_close(summed_J, up.effect_BJ.mean(0), rtol=1e-3, atol=1e-6)
    assert between.effects[24].abs().max() > 1e-4  # without the next site's error it would not


def test_a_graph_of_two_sites(tiny_target, two_sites):
    sites, prompts = two_sites
    smooth = [site._replace(sae=lossy(n, None)) for n, site in enumerate(sites)]
    labels = dict.fromkeys(range(24), "a <label>")
    found = circuit_graph(
        [smooth[0], smooth[1]._replace(labels=labels)],
        tiny_target,
        prompts,
        prompts,
        behaviour="next token",
        node_threshold=0.005,
        edge_threshold=0.005,
        steps=3,
    )
    assert (found.saes, found.layers) == (("s0", "s1"), (0, 1))
    for edge in found.edges:
        source, target = found.nodes[edge.source], found.nodes[edge.target]
        assert (source.site, target.site) == (0, 1)
        assert abs(edge.effect) > 0.005
        assert edge.interval.low <= edge.effect <= edge.interval.high
    assert found.edge_correlation is not None and found.edge_correlation > 0.8
    whole, empty = found.curve[-1], found.curve[0]
    assert whole.faithfulness == pytest.approx(1, abs=1e-4)
    assert (empty.nodes, empty.faithfulness, empty.completeness) == ((0, 0), 0.0, 1.0)
    picture = plot(found)
    assert "a &lt;label&gt;" in picture
    assert picture.count("<path") > min(len(found.edges), MOST_EDGES)


def test_a_graph_needs_ascending_blocks(tiny_target, two_sites):
    sites, prompts = two_sites
    about = {"behaviour": "x", "node_threshold": 0.1, "edge_threshold": 0.01}
    with pytest.raises(InputError, match=r"ascending blocks; found \[1, 0\]"):
        circuit_graph(sites[::-1], tiny_target, prompts, prompts, **about)
    with pytest.raises(InputError, match="1 prompts to choose nodes on"):
        circuit_graph(sites, tiny_target, prompts[:1], prompts, **about)
