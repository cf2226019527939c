"""A circuit over several sites: which latents of one make a behaviour through which of the next.

As Marks et al. (2403.19647): nodes are the latents of an autoencoder at each site, summed over
positions, and its error as one node; what is left out is at its mean over reference texts. Node and
edge effects are integrated gradients. Two rules of the paper hold by construction. Errors are nodes
of their own, constants for the latents (stop-gradient). Only the site whose nodes move is replaced;
between it and the metric the model runs as it is, so gradients go through other sites as if no
autoencoder stood there (pass-through). An edge keeps other sites' nodes as they are, and every path
from a site to one after the next leads through nodes in between; so edges join neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nlakit.config import FrozenModel
from nlakit.core.circuits import Rule, edge_effects, faithfulness, path_gradients
from nlakit.core.site import Site
from nlakit.errors import InputError
from nlakit.evals.bootstrap import Interval, ratio_interval
from nlakit.models.families import backbone_of, truncated
from nlakit.models.patch import edited_at_site
from nlakit.models.target import Target

from .autoencoder import SparseAutoencoder
from .behaviour import Behaviour, Nodes, Prompt, prompt_interval, prompt_names, split
from .measure import check_fits
from .splice import PaddedTexts, changing, run_target

THRESHOLDS = (2.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.0)


class GraphNode(FrozenModel):
    """A latent, or a site's error, whose effect passes the threshold."""

    site: int
    """Number of the site, from the first block on."""
    latent: int | None
    """None: the error."""
    effect: float
    """On the metric, of putting it at its mean."""
    interval: Interval
    last_share: float
    """Of the sum of absolute effects at all positions, the part at each prompt's last one."""
    through_next: float | None
    """Sum of its edges to all nodes of the next site, kept or not; None at the last site."""
    label: str | None = None


class GraphEdge(FrozenModel):
    """From one node to a node of the next site; both by their numbers in `nodes`."""

    source: int
    target: int
    effect: float
    """On the metric through the target, of putting the source at its mean."""
    interval: Interval
    measured: float
    """The same with the source put there and the target read again, in place of gradients."""


class GraphPoint(FrozenModel):
    """The circuit of all nodes whose absolute effect passes a threshold, errors among them."""

    threshold: float
    nodes: tuple[int, ...]
    """How many, at each site."""
    faithfulness: float | None
    faithfulness_interval: Interval | None
    completeness: float | None
    completeness_interval: Interval | None


class CircuitGraph(FrozenModel):
    """A behaviour at several sites. Intervals are 95 %, by prompt."""

    schema_version: Literal[1] = 1
    kind: Literal["sae_circuit_graph"] = "sae_circuit_graph"
    saes: tuple[str, ...]
    layers: tuple[int, ...]
    behaviour: str
    chosen_on: int
    """Prompts whose effects say which nodes and edges are in the graph."""
    prompts: int
    """Other prompts, on which circuits are measured."""
    metric: float
    """Mean logit difference of the model."""
    metric_interval: Interval
    metric_without: float
    """With every latent and error at its mean."""
    metric_without_interval: Interval
    node_threshold: float
    edge_threshold: float
    nodes: tuple[GraphNode, ...]
    """By site, the largest effect first."""
    edges: tuple[GraphEdge, ...]
    """The largest first."""
    edge_correlation: float | None
    """Of the edges' effects with those that were measured."""
    curve: tuple[GraphPoint, ...]


class GraphSite(NamedTuple):
    """One dictionary of a graph.

    Attributes:
        reference_ND: raw activations of its site, from which the means are taken.
        labels: what its latents are called.
    """

    name: str
    sae: SparseAutoencoder
    reference_ND: Float[Tensor, "N D"]
    labels: Mapping[int, str] = {}


def circuit_graph(
    sites: Sequence[GraphSite],
    target: Target,
    chosen_on: Sequence[Prompt],
    prompts: Sequence[Prompt],
    *,
    behaviour: str,
    node_threshold: float,
    edge_threshold: float,
    steps: int = 10,
) -> CircuitGraph:
    """Find the nodes and edges that a behaviour depends on, and measure circuits of them.

    Args:
        sites: dictionaries of ascending blocks of one target, two or more.
        target: at any site.

    Raises:
        InputError: fewer than two prompts of a kind; sites that do not ascend, or are another
            model's.
    """
    check_graph(sites, target, chosen_on, prompts)
    target.model.requires_grad_(False)
    read = [_read(site, target, chosen_on, steps) for site in sites]
    kept = [_passing(each, node_threshold) for each in read]
    between = [
        _edges(read[at], read[at + 1], kept[at], kept[at + 1], steps) for at in range(len(read) - 1)
    ]
    edges = _graph_edges(between, kept, edge_threshold)
    circuits = _Circuits(sites, target, prompts)
    return CircuitGraph(
        saes=tuple(each.name for each in sites),
        layers=tuple(each.target.site.layer for each in read),
        behaviour=behaviour,
        chosen_on=len(chosen_on),
        prompts=len(prompts),
        metric=circuits.whole_B.mean().item(),
        metric_interval=prompt_interval(circuits.whole_B),
        metric_without=circuits.empty_B.mean().item(),
        metric_without_interval=prompt_interval(circuits.empty_B),
        node_threshold=node_threshold,
        edge_threshold=edge_threshold,
        nodes=tuple(_graph_nodes(read, kept, between)),
        edges=edges,
        edge_correlation=_correlation(edges),
        curve=tuple(_point(circuits, read, threshold) for threshold in THRESHOLDS),
    )


def check_graph(
    sites: Sequence[GraphSite],
    target: Target,
    chosen_on: Sequence[Prompt],
    prompts: Sequence[Prompt],
) -> None:
    """Raises `InputError` as `circuit_graph`."""
    if min(len(chosen_on), len(prompts)) < 2:
        raise InputError(
            f"There are {len(chosen_on)} prompts to choose nodes on and {len(prompts)} to measure "
            "circuits on; two of each are needed."
        )
    layers = [site.sae.config.layer for site in sites]
    known = [layer for layer in layers if layer is not None]
    if len(known) < 2 or known != layers or sorted(set(known)) != known:
        raise InputError(
            f"A graph joins the outputs of two or more ascending blocks; found {layers}."
        )
    for site, layer in zip(sites, known, strict=True):
        check_fits(site.sae, at_layer(target, layer))


def at_layer(target: Target, layer: int) -> Target:
    """The same model, read after another block. Raises `InputError` where there is none."""
    return Target(target.model, target.tokenizer, Site(layer))


# -- nodes and edges on the prompts that choose them -----------------------------------------------
@dataclass(frozen=True)
class _Read:
    """One site on all prompts.

    Attributes:
        gradients: the metric's mean gradient at latents and error, elements as in `nodes`.
        effect_BJ: of each latent, and of the error in the last column, by prompt.
        last_share_J: see `GraphNode`.
    """

    site: GraphSite
    target: Target
    behaviour: Behaviour
    nodes: Nodes
    gradients: tuple[Tensor, Tensor]
    effect_BJ: Float[Tensor, "B J"]
    last_share_J: Float[Tensor, " J"]

    def parts(self, nodes: Sequence[Tensor], index: int) -> Tensor:
        """A node of this site times the metric's gradient at it, summed over all positions."""
        latents_NM, error_ND = nodes
        gradient_NM, gradient_ND = self.gradients
        if index == latents_NM.shape[1]:
            return (gradient_ND * error_ND).sum()
        return (gradient_NM[:, index] * latents_NM[:, index]).sum()

    def all_parts(self, nodes: Sequence[Tensor]) -> Tensor:
        """The same of all nodes together."""
        pairs = zip(self.gradients, nodes, strict=True)
        return torch.stack([(gradient * node).sum() for gradient, node in pairs]).sum()


def _read(
    site: GraphSite,
    target: Target,
    prompts: Sequence[Prompt],
    steps: int,
    rule: Rule = "midpoint",
) -> _Read:
    here = at_layer(target, site.sae.config.layer or 0)
    behaviour = Behaviour(site.sae, here, prompts)
    nodes = behaviour.nodes(site.reference_ND)
    gradients = path_gradients(behaviour, nodes.clean, nodes.patch, steps, rule)
    changes = zip(gradients, nodes.clean, nodes.patch, strict=True)
    effects = [gradient * (b - a) for gradient, a, b in changes]
    by_node_NJ = torch.cat([effects[0], effects[1].sum(-1, keepdim=True)], -1).abs().cpu()
    is_last_N = behaviour.prompt_N.diff(append=torch.tensor([-1])) != 0
    share_J = by_node_NJ[is_last_N].sum(0) / by_node_NJ.sum(0).clamp_min(1e-12)
    effect_BJ = behaviour.by_prompt_sum(effects)
    return _Read(site, here, behaviour, nodes, (gradients[0], gradients[1]), effect_BJ, share_J)


def _passing(read: _Read, threshold: float) -> list[int]:
    """Columns whose mean effect passes a threshold, the largest first."""
    effect_J = read.effect_BJ.mean(0).abs()
    order = effect_J.argsort(descending=True).tolist()
    return [index for index in order if effect_J[index] > threshold]


@dataclass(frozen=True)
class _Between:
    """Edges from all nodes of a site to the kept ones of the next.

    Attributes:
        effects: by target, B x J of the sources.
        through_BJ: of each source through all nodes of the next site.
        measured_ST: kept sources by targets, without gradients.
    """

    effects: list[Float[Tensor, "B J"]]
    through_BJ: Float[Tensor, "B J"]
    measured_ST: Float[Tensor, "S T"]


def _edges(
    up: _Read,
    down: _Read,
    sources: Sequence[int],
    targets: Sequence[int],
    steps: int,
    rule: Rule = "midpoint",
) -> _Between:
    run = _downstream(up, down)

    def weighted(nodes: Sequence[Tensor]) -> Tensor:
        found = run(nodes)
        parts = [down.parts(found, index) for index in targets]
        return torch.stack([*parts, down.all_parts(found)])

    *effects, through_BJ = edge_effects(
        weighted, up.nodes.clean, up.nodes.patch, up.behaviour.by_prompt_sum, steps, rule
    )
    return _Between(effects, through_BJ, _measured(up.nodes, weighted, sources))


def _downstream(up: _Read, down: _Read) -> Callable[[Sequence[Tensor]], tuple[Tensor, Tensor]]:
    """Nodes of a site to those of the next, the model's own blocks between them."""
    texts = up.behaviour.texts
    view = truncated(backbone_of(up.target.model), down.target.site.num_blocks)

    def run(nodes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        changed_ND = up.site.sae.decode(nodes[0]) + nodes[1]
        with edited_at_site(up.target, changing(texts, lambda _: changed_ND)):
            hidden_BTD = view(input_ids=texts.ids_BT, use_cache=False).last_hidden_state
        return split(down.site.sae, hidden_BTD[texts.read_BT].float())

    return run


@torch.no_grad()
def _measured(
    nodes: Nodes, weighted: Callable[[Sequence[Tensor]], Tensor], sources: Sequence[int]
) -> Tensor:
    """Each source alone at its mean, and what that does to each target's part; the last number,
    which is of all targets together, is left out."""
    clean_T = weighted(nodes.clean)[:-1]
    rows = []
    for index in sources:
        latents_NM, error_ND = (each.clone() for each in nodes.clean)
        if index == latents_NM.shape[1]:
            error_ND = nodes.patch[1]
        else:
            latents_NM[:, index] = nodes.patch[0][:, index]
        rows.append(weighted((latents_NM, error_ND))[:-1] - clean_T)
    return torch.stack(rows).cpu() if rows else torch.zeros(0, len(clean_T))


# -- the report's parts ----------------------------------------------------------------------------
def _graph_nodes(
    read: Sequence[_Read], kept: Sequence[Sequence[int]], between: Sequence[_Between]
) -> list[GraphNode]:
    found = []
    for number, (each, columns) in enumerate(zip(read, kept, strict=True)):
        through_BJ = between[number].through_BJ if number < len(between) else None
        for column in columns:
            effect_B = each.effect_BJ[:, column]
            latent = column if column < each.site.sae.config.d_sae else None
            found.append(
                GraphNode(
                    site=number,
                    latent=latent,
                    effect=effect_B.mean().item(),
                    interval=prompt_interval(effect_B),
                    last_share=each.last_share_J[column].item(),
                    through_next=None
                    if through_BJ is None
                    else through_BJ[:, column].mean().item(),
                    label=None if latent is None else each.site.labels.get(latent),
                )
            )
    return found


def _graph_edges(
    between: Sequence[_Between], kept: Sequence[Sequence[int]], threshold: float
) -> tuple[GraphEdge, ...]:
    starts = np.cumsum([0, *(len(columns) for columns in kept)])
    found = [
        GraphEdge(
            source=int(starts[at]) + s,
            target=int(starts[at + 1]) + t,
            effect=effect_BJ[:, column].mean().item(),
            interval=prompt_interval(effect_BJ[:, column]),
            measured=each.measured_ST[s, t].item(),
        )
        for at, each in enumerate(between)
        for t, effect_BJ in enumerate(each.effects)
        for s, column in enumerate(kept[at])
        if abs(effect_BJ[:, column].mean().item()) > threshold
    ]
    return tuple(sorted(found, key=lambda edge: -abs(edge.effect)))


def _correlation(edges: Sequence[GraphEdge]) -> float | None:
    effects, measured = ([getattr(e, n) for e in edges] for n in ("effect", "measured"))
    if len(set(effects)) < 2 or len(set(measured)) < 2:
        return None
    return float(np.corrcoef(effects, measured)[0, 1])


# -- circuits on other prompts ---------------------------------------------------------------------
class _Circuits:
    """The metric of each prompt with some nodes of every site kept, all others at their means.

    Site after site, as the model runs: a later site's latents and error are of what the earlier
    ones have left.
    """

    def __init__(
        self, sites: Sequence[GraphSite], target: Target, prompts: Sequence[Prompt]
    ) -> None:
        self.behaviour = Behaviour(sites[0].sae, target, prompts)
        self.texts: PaddedTexts = self.behaviour.texts
        self.sites = [(site.sae, at_layer(target, site.sae.config.layer or 0)) for site in sites]
        device = target.model.device
        self.means = [
            tuple(each.mean(0) for each in split(site.sae, site.reference_ND.to(device)))
            for site in sites
        ]
        widths = [site.sae.config.d_sae + 1 for site in sites]
        self.whole_B = self.kept([torch.ones(width, dtype=torch.bool) for width in widths])
        self.empty_B = self.kept([torch.zeros(width, dtype=torch.bool) for width in widths])

    @torch.no_grad()
    def kept(self, masks: Sequence[Bool[Tensor, " J"]]) -> Float[Tensor, " B"]:
        """With the nodes of a mask a site, the error last."""
        with ExitStack() as stack:
            for number, mask_J in enumerate(masks):
                change = self._change(number, mask_J)
                here = self.sites[number][1]
                stack.enter_context(edited_at_site(here, changing(self.texts, change)))
            logits_SV = run_target(self.behaviour.target, self.texts).logits_SV
        return self.behaviour.differences(logits_SV).cpu()

    def _change(self, number: int, mask_J: Tensor) -> Callable[[Tensor], Tensor]:
        autoencoder = self.sites[number][0]
        mean_M, mean_D = self.means[number]
        mask_J = mask_J.to(mean_M.device)

        def change(x_ND: Tensor) -> Tensor:
            latents_NM, error_ND = split(autoencoder, x_ND.float())
            kept_NM = torch.where(mask_J[:-1], latents_NM, mean_M)
            return autoencoder.decode(kept_NM) + torch.where(mask_J[-1], error_ND, mean_D)

        return change

    def faithfulness(
        self, masks: Sequence[Bool[Tensor, " J"]]
    ) -> tuple[float | None, Interval | None]:
        """Of the circuit of some nodes, with its interval."""
        done_B = self.kept(masks)
        means = (each.mean().item() for each in (done_B, self.empty_B, self.whole_B))
        found = faithfulness(*means)
        if found is None:
            return None, None
        whole_B = self.whole_B - self.empty_B
        return found, ratio_interval(done_B - self.empty_B, whole_B, prompt_names(whole_B))


def _point(circuits: _Circuits, read: Sequence[_Read], threshold: float) -> GraphPoint:
    masks = [each.effect_BJ.mean(0).abs() > threshold for each in read]
    faithful = circuits.faithfulness(masks)
    complete = circuits.faithfulness([~mask_J for mask_J in masks])
    return GraphPoint(
        threshold=threshold,
        nodes=tuple(int(mask_J.sum()) for mask_J in masks),
        faithfulness=faithful[0],
        faithfulness_interval=faithful[1],
        completeness=complete[0],
        completeness_interval=complete[1],
    )
