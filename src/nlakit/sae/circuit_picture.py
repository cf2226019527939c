"""A circuit over several sites as one picture: a column a site, the metric at the right."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import NamedTuple

from .circuit_graph import CircuitGraph, GraphNode

MOST_NODES, MOST_EDGES = 14, 60
COLUMN, ROW, BOX, TALL, TOP = 300, 30, 220, 20, 56
RAISES, LOWERS = "#2563a8", "#c2410c"
"""Keeping a node raises the metric or lowers it: the signs of effects turned, which are of putting
it at its mean."""


class _Place(NamedTuple):
    """The left upper corner of a node's box."""

    x: int
    y: int


def plot(graph: CircuitGraph) -> str:
    """The largest nodes of each site and the largest edges between them, as SVG.

    A line is as thick as its edge's effect on the metric; so is each last one, from a node of the
    last site to the metric.
    """
    places = _places(graph)
    columns = len(graph.saes)
    rows = max([sum(1 for i in places if graph.nodes[i].site == s) for s in range(columns)] + [1])
    width, height = COLUMN * columns + 110, TOP + ROW * rows + 34
    metric = _Place(COLUMN * columns, TOP + ROW * (rows - 1) // 2)
    shapes = [
        *_lines(graph, places, metric),
        *(_box(graph.nodes[index], place) for index, place in places.items()),
        _rectangle(metric, 90, "#333", graph_metric(graph)),
        *_heads(graph),
        _legend(height),
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'font-family="sans-serif" font-size="11" fill="#333" '
        'aria-label="latents of each site, and the edges between them">'
    )
    return (
        "\n".join([head, f'<rect width="{width}" height="{height}" fill="#fff"/>', *shapes])
        + "\n</svg>\n"
    )


def graph_metric(graph: CircuitGraph) -> str:
    """What stands at the right."""
    return f"metric {graph.metric:.1f}"


def node_name(node: GraphNode) -> str:
    """A node for people."""
    if node.latent is None:
        return "error"
    return f"{node.latent}" if node.label is None else f"{node.latent}: {node.label}"


def _places(graph: CircuitGraph) -> dict[int, _Place]:
    """Of the nodes that are shown, by their numbers."""
    places: dict[int, _Place] = {}
    taken = [0] * len(graph.saes)
    for index, node in enumerate(graph.nodes):
        if taken[node.site] < MOST_NODES:
            places[index] = _Place(COLUMN * node.site + 10, TOP + ROW * taken[node.site])
            taken[node.site] += 1
    return places


def _lines(graph: CircuitGraph, places: dict[int, _Place], metric: _Place) -> list[str]:
    edges = [e for e in graph.edges if e.source in places and e.target in places][:MOST_EDGES]
    last = len(graph.saes) - 1
    ends = [(i, graph.nodes[i].effect) for i in places if graph.nodes[i].site == last]
    most = max([abs(e.effect) for e in edges] + [abs(effect) for _, effect in ends] + [1e-9])
    lines = [_line(places[e.source], places[e.target], e.effect, most) for e in edges]
    return lines + [_line(places[index], metric, effect, most) for index, effect in ends]


def _line(start: _Place, end: _Place, effect: float, most: float) -> str:
    x, y = start.x + BOX, start.y + TALL // 2
    half, there = (end.x - x) // 2, end.y + TALL // 2
    path = f"M{x} {y}C{x + half} {y} {x + half} {there} {end.x} {there}"
    thick = 0.4 + 5 * abs(effect) / most
    return (
        f'<path d="{path}" fill="none" stroke="{_color(effect)}" stroke-opacity="0.55" '
        f'stroke-width="{thick:.1f}"><title>{-effect:+.3f}</title></path>'
    )


def _box(node: GraphNode, place: _Place) -> str:
    told = f"{-node.effect:+.2f}".replace("-", "−") + f"  {node_name(node)}"
    return _rectangle(place, BOX, _color(node.effect), told)


def _rectangle(place: _Place, wide: int, color: str, words: str) -> str:
    shown = words if len(words) <= wide // 6 else words[: wide // 6 - 1] + "…"
    return (
        f'<rect x="{place.x}" y="{place.y}" width="{wide}" height="{TALL}" rx="3" fill="#fff" '
        f'stroke="{color}"/><text x="{place.x + 6}" y="{place.y + 14}">{html.escape(shown)}</text>'
    )


def _heads(graph: CircuitGraph) -> list[str]:
    names = zip(graph.saes, graph.layers, strict=True)
    counts: Sequence[int] = [
        sum(node.site == number for node in graph.nodes) for number in range(len(graph.saes))
    ]
    return [
        f'<text x="{COLUMN * number + 10}" y="38" font-weight="bold">block {layer}, '
        f"{html.escape(name)}: {counts[number]} nodes</text>"
        for number, (name, layer) in enumerate(names)
    ]


def _legend(height: int) -> str:
    told = "what keeping a node adds to the metric, and through which nodes of the next site"
    return (
        f'<text x="10" y="18">{told}</text><g transform="translate(10 {height - 12})">'
        f'<text fill="{RAISES}">raises it</text><text x="70" fill="{LOWERS}">lowers it</text></g>'
    )


def _color(effect: float) -> str:
    return RAISES if effect < 0 else LOWERS
